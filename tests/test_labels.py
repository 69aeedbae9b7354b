import numpy as np
import pytest
import yaml

from hf_urbanseg.data.label_space_files import describe_label_space, parse_label_space
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace

# Written down a second time on purpose: label ids of the benchmark, in train-id order.
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def build_space(**changes) -> LabelSpace:
    fields = {"name": "two", "names": ("road", "car"), "colors": ((1, 2, 3), (4, 5, 6)), "label_ids": {0: 255, 7: 0}}
    return LabelSpace(**fields | changes)


def test_cityscapes__nineteen_classes_in_train_id_order():
    assert IGNORE_INDEX == 255
    assert CITYSCAPES.num_labels == 19
    assert CITYSCAPES.names == (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    )  # fmt: skip
    assert CITYSCAPES.train_id_table[LABEL_IDS].tolist() == list(range(19))


def test_cityscapes__all_other_ids_of_the_benchmark_are_void():
    void = sorted(set(range(34)) - set(LABEL_IDS))
    assert CITYSCAPES.train_id_table[[*void, 255]].tolist() == [255] * 16
    assert CITYSCAPES.value_table[[*range(34), 255]].all()


def test_cityscapes__ids_beyond_the_benchmark_are_unknown_not_void():
    assert not CITYSCAPES.value_table[34:255].any()
    # Not a class in any case, should somebody look them up without asking.
    assert (CITYSCAPES.train_id_table[34:255] == 255).all()


def test_cityscapes__colours_of_the_benchmark():
    assert CITYSCAPES.palette.shape == (256, 3)
    assert CITYSCAPES.palette[0].tolist() == [128, 64, 128]
    assert CITYSCAPES.palette[13].tolist() == [0, 0, 142]
    assert CITYSCAPES.palette[18].tolist() == [119, 11, 32]
    assert not CITYSCAPES.palette[19:].any()
    assert len({tuple(color) for color in CITYSCAPES.palette[:19].tolist()}) == 19


def test_label_space__maps_a_label_file():
    space = build_space(label_ids={7: 0, 3: 1, 0: 255})
    raw = np.array([[7, 3], [0, 7]], np.uint8)
    assert space.train_id_table.dtype == np.uint8
    assert space.train_id_table[raw].tolist() == [[0, 1], [255, 0]]
    assert np.flatnonzero(space.value_table).tolist() == [0, 3, 7]


def test_label_space__id2label_and_back():
    space = build_space()
    assert space.id2label == {0: "road", 1: "car"}
    assert space.label2id == {"road": 0, "car": 1}


def test_with_train_ids__is_the_identity_and_knows_nothing_else():
    space = CITYSCAPES.with_train_ids()
    assert space.names == CITYSCAPES.names
    assert space.train_id_table[[*range(19), 255]].tolist() == [*range(19), 255]
    assert np.flatnonzero(space.value_table).tolist() == [*range(19), 255]


@pytest.mark.parametrize(
    "space", [CITYSCAPES, CITYSCAPES.with_train_ids(), build_space(label_ids={0: 255, 1: 0, 2: 0})]
)
def test_to_dict__from_dict_reads_it_back_through_yaml(space):
    again = parse_label_space(yaml.safe_load(yaml.safe_dump(describe_label_space(space))))
    assert (again.name, again.names, again.colors) == (space.name, space.names, space.colors)
    assert dict(again.label_ids) == dict(space.label_ids)


def test_from_dict__defaults():
    space = parse_label_space({"classes": [{"name": n, "color": [0, 0, 9]} for n in ("a", "b")]}, "mine.yaml")
    assert space.name == "mine.yaml"
    assert dict(space.label_ids) == {0: 0, 1: 1}  # the position is the id


LARGE, NO_OTHERS = "label ids of 0..16777215", "label files of ids have no other values."


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"names": (), "colors": ()}, "two: expected 1 to 255 classes; found 0; list the classes under `classes`."),
        ({"names": ("car", "car")}, "two: expected unique class names; found car twice; rename one of them."),
        ({"encoding": "colour"}, "two: expected `encoding` of ids, color, instance, red; found `colour`; choose one of "
         "them."),
        ({"edge_tolerance": 1}, "two: expected `edge_tolerance` as a share of 0 to below 1; found 1; write for example "
         "0.02."),
        ({"lossy": "yes"}, "two: expected `lossy` as true or false; found 'yes'; correct it."),
        ({"lossy": True}, "two: expected values at least 17 apart in lossy files; found some 7 apart; values this near "
         "can't be restored; get the files that were not compressed."),
        ({"lossy": True, "encoding": "red"}, "two: expected `encoding` ids or color of lossy files; found red; get the "
         "files that were not compressed."),
        ({"label_ids": {1 << 24: 0}}, f"two: expected {LARGE}; found 16777216; {NO_OTHERS}"),
        ({"label_ids": {-1: 0}}, f"two: expected {LARGE}; found -1; {NO_OTHERS}"),
    ],
)  # fmt: skip
def test_label_space__refuses(changes, line):
    with pytest.raises(ConfigError) as caught:
        build_space(**changes)
    assert str(caught.value) == line


CAR = {"name": "car", "color": [1, 2, 3]}


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({}, "expected a list `classes`; found None"),
        ({"classes": "car"}, "expected a list `classes`; found 'car'"),
        ({"classes": []}, "expected a list `classes`; found []"),
        ({"classes": ["car"]}, "expected a `name` for every class; found 'car'"),
        ({"classes": [CAR | {"colour": 1}]}, "expected keys name, color, label_ids, category; found colour"),
        ({"classes": [CAR | {"color": [1, 2]}]}, "found [1, 2] for car"),
        ({"classes": [CAR | {"color": [1, 2, 256]}]}, "found [1, 2, 256] for car"),
        ({"classes": [CAR | {"color": [1, 2, 0.5]}]}, "found [1, 2, 0.5] for car"),
        ({"classes": [CAR | {"label_ids": ["7"]}]}, "expected whole-number label ids; found '7' in car"),
        ({"classes": [CAR | {"label_ids": [True]}]}, "expected whole-number label ids; found True in car"),
        ({"classes": [CAR | {"label_ids": [3, 3]}]}, "expected each label id in one class; found 3 again in car"),
        ({"classes": [CAR | {"label_ids": [3]}], "void": [3]}, "found 3 again in void"),
        ({"classes": [CAR | {"color": 7}]}, "for car"),
        ({"classes": [CAR | {"color": "red"}]}, "for car"),
        ({"classes": [CAR | {"label_ids": 7}]}, "7 in car"),
        ({"classes": [CAR], "void": 0}, "0 in void"),
        ({"classes": [CAR], "void": "0"}, "'0' in void"),
        (["car"], "['car']"),
        ({"classes": [CAR | {"name": None}]}, "found None; correct it, and put numbers and words such as `null` in q"),
        ({"classes": [CAR | {"name": ["x"]}]}, "found ['x']"),
        ({"classes": [CAR | {"name": 7}]}, "expected names as text of 1 to 100 characters on one line; found 7"),
        ({"classes": [CAR | {"name": ""}]}, "found ''"),
        ({"classes": [CAR | {"name": " "}]}, "found ' '"),
        ({"classes": [CAR | {"name": "a\nb"}]}, r"found 'a\nb'"),
        ({"classes": [CAR | {"name": "a\u2028b"}]}, r"found 'a\u2028b'"),
        ({"classes": [CAR | {"name": "\x1b]0;a\x07"}]}, r"found '\x1b]0;a\x07'"),
        ({"classes": [CAR | {"name": "\ud800"}]}, r"found '\ud800'"),
        ({"classes": [CAR | {"name": "x" * 101}]}, "found 'xxx"),
        ({"classes": [CAR | {"category": True}]}, "found True"),
        ({"classes": [CAR | {"category": ""}]}, "found ''"),
        ({"classes": [CAR], "name": ["x"]}, "expected a `name` on one line; found ['x']"),
        ({"classes": [CAR], "name": "a\nb"}, r"expected a `name` on one line; found 'a\nb'"),
    ],
)
def test_from_dict__refuses_in_one_line_that_names_the_file(description, words):
    with pytest.raises(ConfigError) as caught:
        parse_label_space(description, "classes.yaml")
    assert str(caught.value).startswith("classes.yaml: expected ")
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 100, "<b>", "=a", "道路", "traffic light", "$x$", "a|b", "7", "\u202eb"])
def test_label_space__any_text_is_a_name(name):
    assert build_space(names=(name, "car")).id2label[0] == name
    # Numbers and an absent name of the whole aren't mistaken for text.
    assert parse_label_space({"classes": [CAR | {"name": name}], "name": None}, "mine.yaml").name == "mine.yaml"


def test_from_dict__empty_void_is_no_void():
    assert dict(parse_label_space({"classes": [CAR], "void": None}).label_ids) == {0: 0}


def test_categories__cityscapes_seven_groups():
    groups = {}
    for name, category in zip(CITYSCAPES.names, CITYSCAPES.categories, strict=True):
        groups.setdefault(category, []).append(name)
    assert list(groups) == ["flat", "construction", "object", "nature", "sky", "human", "vehicle"]
    assert groups["object"] == ["pole", "traffic light", "traffic sign"]
    assert groups["human"] == ["person", "rider"]
    assert len(groups["vehicle"]) == 6


def test_categories__survive_the_round_trip_and_train_ids():
    assert parse_label_space(describe_label_space(CITYSCAPES)).categories == CITYSCAPES.categories
    assert CITYSCAPES.with_train_ids().categories == CITYSCAPES.categories


def test_categories__for_every_class_or_for_none():
    description = describe_label_space(CITYSCAPES)
    del description["classes"][3]["category"]
    with pytest.raises(ConfigError, match="expected a `category` for every class or for none; found 18 of 19"):
        parse_label_space(description)
    for entry in description["classes"]:
        entry.pop("category", None)
    assert parse_label_space(description).categories == ()
