import json
import math

import pytest

from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.data.own_files import read_own_label_space, read_source
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES


def test_read_own_label_space__from_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"expected label_space\.json or id2label\.json in the data set; found neither"):
        read_own_label_space(str(tmp_path))
    (tmp_path / "id2label.json").write_text('{"0": "road", "1": "kerb"}')
    assert read_own_label_space(str(tmp_path)).names == ("road", "kerb")
    (tmp_path / "label_space.json").write_text(json.dumps(describe_label_space(CITYSCAPES)))
    assert read_own_label_space(str(tmp_path)) == CITYSCAPES


def test_read_source__words_or_an_error(tmp_path):
    assert read_source(str(tmp_path)) == {}
    (tmp_path / "source.json").write_text('{"origin": "kitti", "notes": ["test: none"], "more": 1}')
    assert read_source(str(tmp_path)) == {"origin": "kitti", "license": None, "notes": ["test: none"]}
    for wrong in ('{"notes": "test"}', '{"origin": 3}', '{"notes": [3]}'):
        (tmp_path / "source.json").write_text(wrong)
        with pytest.raises(DataError, match=r"source\.json: expected `origin` and `license` as words"):
            read_source(str(tmp_path))


def test_read_source__missing_on_the_hub_is_nothing_and_an_outage_is_not(upload, waits):
    hub = upload({"label_space.json": json.dumps(describe_label_space(CITYSCAPES)).encode()})
    commit = hub.repository("user/set", "dataset").branches["main"]
    assert read_source("user/set", commit) == {}
    hub.fail(500, times=math.inf)
    with pytest.raises(DataError, match=r"user/set: .*found status 500"):
        read_own_label_space("user/set", commit)
    hub.heal()
    assert read_own_label_space("user/set", commit) == CITYSCAPES
    upload({"source.json": b'{"origin": "kitti"}'})
    newer = hub.repository("user/set", "dataset").branches["main"]
    with hub.outage(), pytest.raises(DataError, match=r"user/set: .*no connection"):
        read_source("user/set", newer)
    assert read_source("user/set", newer)["origin"] == "kitti"
