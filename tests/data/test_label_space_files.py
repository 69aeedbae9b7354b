import json
import logging

import pytest

from hf_urbanseg.data.label_space_files import (
    label_space_from_names,
    read_label_space,
    shipped_label_spaces,
    write_label_space,
)
from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError
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


SIDEWALK = {0: "unlabeled", 1: "flat-road", 2: "flat-sidewalk", 3: "human-person", 4: "sky", 5: "void-ground"}


def test_label_space_from_names__unlabeled_is_void_and_a_warning_says_so(tmp_path, caplog):
    space = label_space_from_names(SIDEWALK, "mine", tmp_path / "id2label.json")
    assert space.names == ("flat-road", "flat-sidewalk", "human-person", "sky", "void-ground")
    assert dict(space.label_ids) == {0: 255, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 255: 255}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        f"{tmp_path / 'id2label.json'}: void by name (or id -1), so in no loss and no score: `unlabeled` (id 0); "
        "trained as classes, though the names mean void in some sets: `void-ground` (id 5); to change that, give "
        "`--label_space` a file with this `id2label` and, as a list `void`, the ids that are"
    )


@pytest.mark.parametrize(
    "name",
    ["unlabeled", "Unlabelled", "VOID", "ignore", "N/A", "unknown", "don't care", "Don\u2019t Care", "dont-care",
     "out of roi", "out_of_roi", "Rectification-Border", " void ", "_void_"],
)  # fmt: skip
@pytest.mark.parametrize("label_id", [0, 1, 7])
def test_label_space_from_names__names_of_void(tmp_path, caplog, name, label_id):
    names = {2: "road", 3: "car", label_id: name}
    space = label_space_from_names(names, "mine", tmp_path)
    assert space.names == ("road", "car")
    assert dict(space.label_ids) == {2: 0, 3: 1, label_id: 255, 255: 255}
    assert f"`{name}` (id {label_id})" in caplog.text


@pytest.mark.parametrize(
    ("name", "doubtful"),
    [
        ("background", True), ("_background_", True), ("Other", True), ("none", True), ("undefined", True),
        ("ego vehicle", True), ("void-static", True), ("unlabeled object", True), ("unknown_vehicle", True),
        ("avoidance lane", False), ("other vehicle", False), ("static", False), ("dynamic", False), ("na", False),
        ("license plate", False), ("obstacle", False),
    ],
)  # fmt: skip
def test_label_space_from_names__anything_else_is_trained(tmp_path, caplog, name, doubtful):
    space = label_space_from_names({0: name, 1: "road"}, "mine", tmp_path)
    assert space.names == (name, "road")
    assert dict(space.label_ids) == {0: 0, 1: 1, 255: 255}
    assert len(caplog.records) == doubtful
    assert (
        not doubtful or f"trained as classes, though the names mean void in some sets: `{name}` (id 0)" in caplog.text
    )


def test_label_space_from_names__ego_vehicle_is_void_in_cityscapes_and_a_class_in_mapillary(tmp_path):
    names = {0: "road", 1: "ego vehicle", 2: "Ego Vehicle"}
    assert label_space_from_names(names, "mine", tmp_path).names == ("road", "ego vehicle", "Ego Vehicle")
    for beside in ("rectification border", "out of roi"):
        assert label_space_from_names({**names, 3: beside}, "mine", tmp_path).names == ("road",)


def test_label_space_from_names__the_ids_of_cityscapes(tmp_path, caplog):
    """All 34, as sets of others list them: trained as they stand they are 30 classes, and no benchmark's."""
    void = {0: "unlabeled", 1: "ego vehicle", 2: "rectification border", 3: "out of roi"}
    extra = {4: "static", 5: "dynamic", 6: "ground", 9: "parking", 10: "rail track", 14: "guard rail", 15: "bridge"}
    extra |= {16: "tunnel", 18: "polegroup", 29: "caravan", 30: "trailer"}
    official = {i: CITYSCAPES.names[train_id] for i, train_id in CITYSCAPES.label_ids.items() if train_id != 255}
    space = label_space_from_names({**void, **extra, **official, -1: "license plate"}, "mine", tmp_path)
    assert space.num_labels == 30
    assert [i for i, train_id in space.label_ids.items() if train_id == 255] == [0, 1, 2, 3, 255]
    assert (
        "the labelIds of Cityscapes, and 30 of them would be trained; `--label_space cityscapes` trains" in caplog.text
    )
    assert "`license plate` (id -1)" in caplog.text
    caplog.clear()
    for nineteen in (dict(enumerate(CITYSCAPES.names)), official):
        assert label_space_from_names(nineteen, "mine", tmp_path).names == CITYSCAPES.names
    assert not caplog.records


def test_label_space_from_names__255_is_a_class_where_somebody_calls_it_one(tmp_path, caplog):
    for void in (None, []):
        space = label_space_from_names({0: "road", 255: "car"}, "mine", tmp_path, void)
        assert (space.names, dict(space.label_ids)) == (("road", "car"), {0: 0, 255: 1})
    assert not caplog.records
    label_space_from_names({0: "road", 255: "Void"}, "mine", tmp_path)
    assert not caplog.records  # as everybody has it


def test_label_space_from_names__void_overrules_the_names(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    space = label_space_from_names(SIDEWALK, "mine", tmp_path, void=[5])
    assert space.names == ("unlabeled", "flat-road", "flat-sidewalk", "human-person", "sky")
    assert dict(space.label_ids) == {**{i: i for i in range(5)}, 5: 255, 255: 255}
    assert label_space_from_names(SIDEWALK, "mine", tmp_path, void=[]).num_labels == 6
    assert not caplog.records


@pytest.mark.parametrize("void", [None, [], [2]])
def test_read_label_space__of_id2label(tmp_path, void):
    description = {"name": "mine", "id2label": {"0": "void", "1": "road", "2": "background"}}
    (tmp_path / "a.json").write_text(json.dumps(description | ({} if void is None else {"void": void})))
    space, folders = read_label_space(str(tmp_path / "a.json"))
    assert (space.name, folders) == ("mine", {})
    classes = {None: ("road", "background"), (): ("void", "road", "background"), (2,): ("void", "road")}
    assert space.names == classes[None if void is None else tuple(void)]


def test_read_label_space__of_a_bare_id2label_with_folders(tmp_path):
    (tmp_path / "ids.json").write_text('{"0": "unlabeled", "1": "road", "255": "void"}')
    assert read_label_space(str(tmp_path / "ids.json"))[0].names == ("road",)
    (tmp_path / "ids.yaml").write_text("id2label: {0: road}\nimages: x\nlabels: y\n")
    space, folders = read_label_space(str(tmp_path / "ids.yaml"))
    assert (space.name, space.names, folders) == ("ids", ("road",), {"images": "x", "labels": "y"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0": "a", "1": "b", "0": "c"}', "found the key `0` again in line 1, column 22; correct it."),
        ('{"0": "a", "00": "b"}', "expected every id once; found 0 again as `00`"),
        ('{"0": "a", "1": "b", "2": "a"}', "a name of its own for every id; found `a` for ids 0 and 2; correct"),
        ('{"0": null}', "a name in words for every id; found None for id 0"),
        ('{"0": "a", "1": 1}', "a name in words for every id; found 1 for id 1"),
        ('{"0": "a", "1": " "}', "a name in words for every id; found ' ' for id 1"),
        ('{"0": "a", "1": ["b"]}', "a name in words for every id; found ['b'] for id 1"),
        ('{"0": "a", "16777216": "b"}', "ids of 0..16777215, or -1 for void; found `16777216`"),
        ('{"0": "a", "-2": "b"}', "ids of 0..16777215, or -1 for void; found `-2`"),
        ('{"0": "unlabeled", "255": "void"}', "at least one class that isn't void; found"),
        ('{"id2label": ["a"]}', "\"id\": \"name\" pairs; found ['a']; correct the file or give `--label_space`"),
        ('{"id2label": {"a": 0}}', '"id": "name" pairs; found `a` as an id'),
        ('{"id2label": {"0": "a"}, "void": 0}', "`void` as a list of label ids; found 0; write [0] or []"),
        ('{"id2label": {"0": "a"}, "void": ["0"]}', "`void` as a list of label ids; found ['0']"),
        ('{"id2label": {"0": "a"}, "classes": []}', "either `classes` or `id2label`; found both"),
        ('{"classes": [{"name": "a", "name": "b"}]}', "found the key `name` again in line 1"),
        ("{}", "expected a list `classes`"),
        ("", "a label space file of `key: value` lines; found NoneType"),
    ],
)  # fmt: skip
def test_read_label_space__bad_id2label(tmp_path, text, message):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UrbanSegError) as caught:
        read_label_space(str(tmp_path / "mine.json"))
    assert str(caught.value).startswith(f"{tmp_path / 'mine.json'}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [1.5, True, None, "1.0", "road"])
def test_label_space_from_names__ids_that_are_no_whole_numbers(tmp_path, key):
    with pytest.raises(DataError, match=f'"id": "name" pairs; found `{key}` as an id'):
        label_space_from_names({0: "kerb", key: "car"}, "mine", tmp_path)
