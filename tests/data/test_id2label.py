import json
import logging

import pytest

from hf_urbanseg.data.id2label import label_space_from_names
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES


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


@pytest.mark.parametrize("key", [1.5, True, None, "1.0", "road"])
def test_label_space_from_names__ids_that_are_no_whole_numbers(tmp_path, key):
    with pytest.raises(DataError, match=f'"id": "name" pairs; found `{key}` as an id'):
        label_space_from_names({0: "kerb", key: "car"}, "mine", tmp_path)
