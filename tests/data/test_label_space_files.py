import json

import pytest

from hf_urbanseg.data.label_space_files import (
    label_space_from_names,
    read_label_space,
    shipped_label_spaces,
    write_label_space,
)
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.labels import CITYSCAPES


def test_read_label_space__built_in():
    assert read_label_space("cityscapes") == (CITYSCAPES, {})
    space, _ = read_label_space("cityscapes_train_ids")
    assert space.label_ids[18] == 18
    assert space.names == CITYSCAPES.names


def test_read_label_space__camvid():
    space, folders = read_label_space("camvid")
    assert " ".join(space.names) == "sky building pole road pavement tree sign fence car pedestrian bicyclist"
    assert dict(space.label_ids) == {train_id: train_id for train_id in range(11)} | {11: 255}
    assert folders["splits"]["validation"] == {"images": "val/images", "labels": "val/labels"}


def test_read_label_space__camvid_as_cityscapes():
    camvid, _ = read_label_space("camvid")
    space, _ = read_label_space("camvid_as_cityscapes")
    assert (space.names, space.colors) == (CITYSCAPES.names, CITYSCAPES.colors)
    renamed = {"pavement": "sidewalk", "tree": "vegetation", "sign": "traffic sign", "pedestrian": "person"}
    renamed["bicyclist"] = "rider"
    expected = {camvid.label2id[name]: space.label2id[renamed.get(name, name)] for name in camvid.names}
    assert dict(space.label_ids) == expected | {11: 255}


def test_shipped_label_spaces__all_readable():
    assert set(shipped_label_spaces()) >= {"camvid", "camvid_as_cityscapes"}
    for name in shipped_label_spaces():
        assert read_label_space(name)[0].name == name


def test_write_label_space__reads_back(tmp_path):
    for space in (CITYSCAPES, read_label_space("camvid_as_cityscapes")[0]):
        write_label_space(tmp_path / "space.json", space)
        assert read_label_space(str(tmp_path / "space.json")) == (space, {})


def test_read_label_space__unknown_name_lists_the_known():
    with pytest.raises(DataError, match=r"cityscapes, cityscapes_train_ids, camvid.*or a \.yaml file; found `kamvid`"):
        read_label_space("kamvid")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [{name: a, color: [1, 2, 3]}]\nsplit: {}", "found `split`; did you mean `splits`"),
        ("classes: [{name: a, color: [1, 2, 3]}]\nreduce_labels: true", "list the unlabelled id under `void`"),
        ("classes: [", "a label space file in YAML"),
        ("- a", "found list"),
    ],
)
def test_read_label_space__bad_file(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_label_space(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_read_label_space__bad_classes(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("classes: [{name: a, color: [1, 2, 3], label_ids: [4]}]\nvoid: [4]")
    with pytest.raises(ConfigError, match=r"mine\.yaml: expected each label id in one class; found 4 again in void"):
        read_label_space(str(path))


def test_label_space_from_names__train_ids_and_official_colours(tmp_path):
    space = label_space_from_names(json.loads('{"1": "kerb", "0": "road", "255": "void"}'), "mine", tmp_path)
    assert space.names == ("road", "kerb")
    assert space.colors[0] == (128, 64, 128)
    assert dict(space.label_ids) == {0: 0, 1: 1, 255: 255}


def test_label_space_from_names__gaps_close_and_colours_differ(tmp_path):
    space = label_space_from_names({str(2 * index): f"class {index}" for index in range(40)}, "mine", tmp_path)
    assert dict(space.label_ids) == {2 * index: index for index in range(40)} | {255: 255}
    assert len(set(space.colors)) == 40


def test_label_space_from_names__names_as_keys(tmp_path):
    with pytest.raises(DataError, match='"id": "name" pairs'):
        label_space_from_names({"road": 0}, "mine", tmp_path / "id2label.json")
