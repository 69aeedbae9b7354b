"""Data sets of a loopback Hub, read by the real client: what arrives, and one line for whatever goes wrong."""

import math
import pickle
import re
import socket
import time
from types import SimpleNamespace

import loopback_api
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Image, Value
from datasets import config as datasets_config
from datasets.utils import file_utils
from hostile_files import make_fifo
from huggingface_hub import constants
from loopback_requests import answer_refusal
from loopback_store import Refusal
from made_pictures import contents, encode, mask, noise, parquet, with_palette

from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.sources import hub_set
from hf_urbanseg.errors import DataError, UrbanSegError

SPACE = (
    '{"name": "two", "classes": [{"name": "a", "color": [1, 2, 3]}, {"name": "b", "color": [4, 5, 6]}], "void": [2]}'
)
MODES = [False, True]
SHARD = "data/train-00000-of-00001.parquet"


def picture(seed):
    return encode(noise(seed))


def palette(seed):
    return encode(with_palette(mask(seed)))


def shard(count=6, start=0, **columns):
    """Rows as a set of others may have them: palette labels declared as grey, names, and a column nobody needs."""
    names = [f"{start + i:03d}" for i in range(count)]
    features = {"label": Image(mode="L"), "name": Value("string")}
    return parquet(count, start, features, **{"label": palette, "name": names, "extra": int, **columns})


@pytest.fixture
def stored(upload):
    return upload({
        SHARD: shard(), "data/test-00000-of-00001.parquet": shard(2, 6),
        "data/extra-00000-of-00001.parquet": shard(1, 8), "label_space.json": SPACE.encode(),
    })  # fmt: skip


def load(streaming=False, **options):
    return load_data(dataset="user/set", streaming=streaming, **{"validation_fraction": 0, **options})


@pytest.mark.parametrize("streaming", MODES)
def test_load__from_the_hub(stored, streaming, tmp_path):
    loaded = load(streaming)
    assert loaded.name == "user/set"
    assert loaded.label_space.names == ("a", "b")
    assert {split: list(rows["name"]) for split, rows in loaded.splits.items()} == {
        "train": [f"{i:03d}" for i in range(6)], "test": ["006", "007"]
    }  # fmt: skip
    for split, start in (("train", 0), ("test", 6)):
        rows = loaded.splits[split]
        assert contents(rows) == [picture(start + i) for i in range(len(rows))]
        assert contents(rows, "label") == [palette(start + i) for i in range(len(rows))]
        assert rows[1]["label"].mode == "P"  # and not the brightness that the set's own mode="L" asks for
    pictures_on_disk = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and (
        path.suffix in (".arrow", ".parquet") or path.stat().st_size > 5000)]  # fmt: skip
    assert bool(pictures_on_disk) != streaming
    assert not stored.unknown


def test_load__streams_parquet_files_alone(upload):
    files = {f"train/{kind}{i}.png": make(i) for kind, make in (("i", picture), ("l", palette)) for i in range(2)}
    table = "image_file_name,label_file_name\ni0.png,l0.png\ni1.png,l1.png\n"
    upload({**files, "train/metadata.csv": table.encode(), "label_space.json": SPACE.encode()})
    assert len(load().splits["train"]) == 2
    with pytest.raises(DataError, match=r"expected parquet files .*; found files for `imagefold"):
        load(streaming=True)


@pytest.mark.parametrize("streaming", MODES)
def test_load__of_a_revision(upload, stored, streaming):
    old = stored.repository("user/set", "dataset").branches["main"]
    upload({SHARD: shard(3, 50), "label_space.json": SPACE.replace('"b"', '"new"').encode()})
    new, first = load(streaming), load(streaming, dataset_revision=old)
    assert (new.splits["train"]["name"][0], new.label_space.names) == ("050", ("a", "new"))
    assert (first.splits["train"]["name"][0], first.label_space.names) == ("000", ("a", "b"))
    with pytest.raises(DataError, match=r"; found no branch, tag or commit `nowhere`; correct `--dataset_rev"):
        load(streaming, dataset_revision="nowhere")


@pytest.mark.parametrize("streaming", MODES)
def test_load__a_set_that_changes_meanwhile_is_read_as_one_commit(upload, stored, monkeypatch, streaming):
    ask = hub_set._ask

    def ask_and_change(request):
        commit = ask(request)
        upload({SHARD: shard(3, 50), "label_space.json": SPACE.replace('"b"', '"new"').encode()})
        return commit

    monkeypatch.setattr(hub_set, "_ask", ask_and_change)
    loaded = load(streaming)
    assert (loaded.splits["train"]["name"][0], loaded.label_space.names) == ("000", ("a", "b"))


@pytest.mark.parametrize("streaming", MODES)
def test_load__private(upload, monkeypatch, streaming):
    hub = upload({SHARD: shard(), "label_space.json": SPACE.encode()}, private=True)
    load(streaming)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    with pytest.raises(DataError, match=r"^user/set: .*private one that the token can't see; .*`hf auth login`") as bad:
        load(streaming)
    assert hub.token not in str(bad.value)
    assert "xxxx" not in str(bad.value)


@pytest.mark.parametrize("streaming", MODES)
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({SHARD: parquet(image=None, photo=picture, features={"photo": Image()})},
         "expected an image column named image, pixel_values, img; found image"),
        ({SHARD: shard()}, "expected label_space.json or id2label.json in the data set; found neither"),
        ({SHARD: shard(), "label_space.json": b'{"classes": 3}'}, "label_space.json: expected a list `classes`"),
        ({SHARD: shard(), "label_space.json": b"{"}, "label_space.json: expected a label space file in YAML"),
        ({"notes.txt.bak": b"x", "README.md": b"---\nlicense: mit\n---\n"},
         ("user/set: expected an image column", "user/set: expected parquet files to stream from")),
        ({SHARD: shard()[:-1000] + b"PAR1"}, "expected a Hub data set that can be read; found a damaged"),
        ({SHARD: b"<html>please log in</html>"}, "expected a Hub data set that can be read; found a damaged"),
    ],
)  # fmt: skip
def test_load__unsuitable_sets(upload, files, message, streaming):
    upload(files)
    with pytest.raises(UrbanSegError) as bad:
        load(streaming)
    assert (message if isinstance(message, str) else message[streaming]) in str(bad.value)
    assert "\n" not in str(bad.value)


def test_load__streamed_damage_inside_a_page(upload):
    """A flipped byte of a picture: the stream passes it on, the check of every pair refuses it."""
    whole = bytearray(shard())
    at = whole.index(picture(3)) + 400
    whole[at] ^= 0xFF
    upload({SHARD: bytes(whole), "label_space.json": SPACE.encode()})
    loaded = load(streaming=True)
    with pytest.raises(DataError, match=r"train/003: expected a readable image file; found a truncated or damaged"):
        inspect_pairs(loaded.splits, loaded.label_space, sampled=True)


def test_load__no_such_set_and_no_hub(hub_here, waits):
    with pytest.raises(DataError, match=r"user/none: expected a Hub data set that can be read; found status 401|404"):
        load_data(dataset="user/none")
    with hub_here.outage(), pytest.raises(DataError, match=r"found no connection to http://127\S+ .*HF_HUB_OFFLINE=1"):
        load_data(dataset="user/none")
    assert waits == []  # told at once


# What the client survives by its own retries ends well; the rest ends in one line, and the next attempt is whole.
@pytest.mark.parametrize("streaming", MODES)
@pytest.mark.parametrize("how", ["refuse", "reset", "cut", 500, 401])
def test_load__outage_at_any_request(stored, waits, how, streaming, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(file_utils, "time", SimpleNamespace(sleep=slept.append, time=time.time))
    load(streaming)
    asked = len(stored.requests) - 8  # of the uploads
    lines = []
    for at in range(1, asked + 1, 2):
        fresh_caches(tmp_path / f"home{at}")
        stored.fail(how, at=at, times=math.inf)
        try:
            load(streaming)
        except DataError as error:
            lines.append(str(error))
        stored.heal()
        loaded = load(streaming)  # whatever the first left in the caches
        assert contents(loaded.splits["train"]) == [picture(i) for i in range(6)]
        assert list(loaded.splits) == ["train", "test"]
    assert lines
    assert not any(slept)  # beside the 23 s of `huggingface_hub`'s own
    for line in lines:
        assert re.match(r"user/set(/data/\S+parquet)?: expected a Hub data set that can be read; found ", line)
        assert not re.search(r"\n|Signature|storage/", line)


@pytest.mark.parametrize("how", ["refuse", "reset", "cut", 500, 404])
def test_read__a_file_that_goes_away_is_tried_again_then_one_line_and_nothing_is_lost(stored, waits, how):
    rows = load(streaming=True).splits["train"]
    stored.fail(how, times=1)
    assert rows[4]["name"] == "004"
    stored.fail(how, times=math.inf)
    rows = load_again(rows)
    with pytest.raises(DataError) as bad:
        rows[2]
    stored.heal()
    assert str(bad.value).startswith(f"user/set/{SHARD}: expected a Hub data set that can be read; found ")
    assert not re.search(r"\n|Signature|storage/", str(bad.value))
    assert contents(rows) == [picture(i) for i in range(6)]


def load_again(rows):
    return pickle.loads(pickle.dumps(rows))  # as in a worker: without what the other has open


def fresh_caches(home):
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    constants.HF_HUB_CACHE = constants.HUGGINGFACE_HUB_CACHE = str(home / "hub")
    datasets_config.HF_DATASETS_CACHE = home / "datasets"


def test_load__offline_from_an_earlier_download(stored, monkeypatch):
    online = load()
    asked = len(stored.requests)
    for module in (constants, datasets_config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    offline = load()
    assert offline.label_space == online.label_space
    assert contents(offline.splits["train"]) == contents(online.splits["train"])
    with pytest.raises(DataError, match=r"user/set: .*offline mode.*; unset HF_HUB_OFFLINE"):
        load(streaming=True)
    load(dataset_revision=stored.repository("user/set", "dataset").branches["main"])
    with pytest.raises(DataError, match=r"user/set: expected revision v1 in the cache; found commit \w{40}; unset"):
        load(dataset_revision="v1")
    with pytest.raises(DataError, match=r"user/other: .*found offline mode, and no earlier download"):
        load_data(dataset="user/other")
    assert len(stored.requests) == asked


@pytest.mark.parametrize("streaming", MODES)
def test_load__gated(stored, monkeypatch, streaming):
    """Everybody may look at a gated set's page; the files ask for its terms to be accepted."""
    handle = loopback_api.handle

    def gated(hub, request):
        if "/resolve/" in request.path:
            return answer_refusal(Refusal(403, "Access to dataset user/set is restricted", "GatedRepo"))
        return handle(hub, request)

    monkeypatch.setattr(loopback_api, "handle", gated)
    with pytest.raises(DataError, match=r"a gated (data)?set.*; accept the terms on .*`hf auth login`"):
        load(streaming)


def test_load__a_loading_script(upload):
    upload({"set.py": b"import datasets\n", "README.md": b"---\nlicense: mit\n---\n"})
    with pytest.raises(DataError, match=r"user/set: .*found RuntimeError: Dataset scripts are no longer supported"):
        load()


def test_load__puts_the_librarys_retries_back(stored):
    before = datasets_config.STREAMING_READ_MAX_RETRIES
    load(streaming=True)
    assert datasets_config.STREAMING_READ_MAX_RETRIES == before > 1
    with hub_set._fewer_retries():
        assert datasets_config.STREAMING_READ_MAX_RETRIES == 1


def test_load__local_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "label_space.json").write_text(SPACE)
    for split in ("train", "validation"):
        (tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet").write_bytes(shard())
    found = load_data(dataset=str(tmp_path / "set"))
    assert found.name == "set"
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 6, "validation": 6}


@pytest.mark.parametrize(
    "where",
    [
     'data_files: "http://127.0.0.1:9/a.parquet"', "data_files: /etc/*", "data_files: ../*.parquet", "data_dir: /etc",
     'data_files: [{split: train, path: "ht\\x74p\\x3a//127.0.0.1:9/a.parquet"}]',
    ],
)  # fmt: skip
def test_load__a_folder_whose_readme_points_elsewhere(tmp_path, monkeypatch, where):
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda *words: asked.append(words))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.parquet").write_bytes(shard())
    (tmp_path / "mine" / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  {where}\n---\n")
    with pytest.raises(DataError, match="expected the folder's own files as `data_files`"):
        load_data(dataset=str(tmp_path / "mine"))
    assert asked == []


def test_load__a_folder_whose_readme_names_its_own_files(tmp_path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "train-0.parquet").write_bytes(shard())
    (tmp_path / "mine" / "label_space.json").write_text(SPACE)
    (tmp_path / "mine" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    )
    assert len(load_data(dataset=str(tmp_path / "mine"), validation_fraction=0).splits["train"]) == 6


def test_load__a_folder_of_links(tmp_path):
    """As a cache of the Hub has them, or a disk with room."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "train-00000-of-00001.parquet").write_bytes(shard())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data").symlink_to(tmp_path / "disk")
    (tmp_path / "mine" / "label_space.json").write_text(SPACE)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name in ("mine", "link"):
        assert len(load_data(dataset=str(tmp_path / name), validation_fraction=0).splits["train"]) == 6


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Writes .parquet files as pandas does, plain bytes, beside their classes."""
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tables [1]"
    folder.mkdir()
    (folder / "label_space.json").write_text(SPACE)

    def write(**files):
        for name, numbers in files.items():
            rows = {"image": [picture(i) for i in numbers], "mask": [palette(i) for i in numbers]}
            pq.write_table(pa.table(rows), folder / f"{name}.parquet")
        return folder

    return write


def test_load__one_table(tables):
    """Whatever it is called is cut like any data without splits; `train` is all train."""
    file = tables(streets=range(8), train=range(3)) / "streets.parquet"
    found = load_data(dataset=str(file))
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 5, "validation": 1, "test": 2}
    assert (found.name, found.label_space.names) == ("streets", ("a", "b"))
    assert {*contents(found.splits["test"])} < {picture(i) for i in range(8)}
    inspect_pairs(found.splits, found.label_space)
    assert {*load_data(dataset=str(file.with_name("train.parquet"))).splits} == {"train", "validation"}
    with pytest.raises(
        DataError, match="with `dataset_config`; found a local folder or file; leave `--dataset_config`"
    ):
        load_data(dataset=str(file), dataset_config="a")
    with pytest.raises(DataError, match=r"streets\.parquet: .* a file of another kind; name it by `--dataset`"):
        load_data(data_dir=str(file))
    with pytest.raises(DataError, match="name a folder of tables by `--dataset`"):
        load_data(data_dir=str(file.parent))
    file.write_bytes(b"<html>please log in</html>")
    with pytest.raises(DataError, match="found a damaged or unsuitable file"):
        load_data(dataset=str(file))


def test_load__one_table_is_streamed_as_the_split_that_it_is_called(tables):
    folder = tables(streets=range(4), val=range(3))
    for name, split in (("streets", "train"), ("val", "validation")):
        assert {*load_data(dataset=str(folder / f"{name}.parquet"), streaming=True).splits} == {split}


def test_load__tables_named_after_their_splits(tables):
    found = load_data(dataset=str(tables(train=range(4), test=range(4, 6))), validation_fraction=0)
    assert {split: contents(rows) for split, rows in found.splits.items()} == {
        "train": [picture(i) for i in range(4)],
        "test": [picture(i) for i in range(4, 6)],
    }


def test_load__a_folder_with_a_fifo(tmp_path):
    (tmp_path / "mine" / "train").mkdir(parents=True)
    make_fifo(tmp_path / "mine" / "train" / "a.png")
    with pytest.raises(DataError, match=r"a\.png: expected a regular file; found a FIFO"):
        load_data(dataset=str(tmp_path / "mine"))
