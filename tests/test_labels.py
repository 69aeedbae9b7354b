import numpy as np
import pytest

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


def test_label_id_table__the_lowest_id_of_each_class():
    assert CITYSCAPES.label_id_table[:19].tolist() == LABEL_IDS
    space = build_space(label_ids={0: 255, 9: 0, 7: 0, 200: 1, 255: 1})
    assert space.label_id_table[:2].tolist() == [7, 200]
    assert (space.train_id_table[space.label_id_table[:2]] == [0, 1]).all()


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


def test_categories__cityscapes_seven_groups():
    groups = {}
    for name, category in zip(CITYSCAPES.names, CITYSCAPES.categories, strict=True):
        groups.setdefault(category, []).append(name)
    assert list(groups) == ["flat", "construction", "object", "nature", "sky", "human", "vehicle"]
    assert groups["object"] == ["pole", "traffic light", "traffic sign"]
    assert groups["human"] == ["person", "rider"]
    assert len(groups["vehicle"]) == 6
