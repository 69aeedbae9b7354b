"""Label files of another kind than the label space says, which would train without a word."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from made_pictures import encode, noise
from PIL import Image

from hf_urbanseg.data.id2label import label_space_from_names
from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.data.label_space_files import parse_label_space
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.errors import DataError


def splits_of(*labels) -> DatasetDict:
    """A training set of these labels, arrays or pictures."""
    shapes = [np.asarray(label).shape[:2] for label in labels]
    rows = {
        "image": [{"bytes": encode(noise(i, shape)), "path": None} for i, shape in enumerate(shapes)],
        "label": [{"bytes": encode(label), "path": None} for label in labels],
        "name": [f"f{i}" for i in range(len(labels))],
    }
    return DatasetDict(train=Dataset.from_dict(rows, features=FEATURES))


def drawn(*values) -> np.ndarray:
    return np.array(values, np.uint8).repeat(40).reshape(len(values), 40)


def by_names(id2label, tmp_path, void=None):
    return label_space_from_names(id2label, "mine", tmp_path / "id2label.json", void)


def test_inspect_pairs__ids_from_1_without_the_last_class(tmp_path):
    """`{1: .., 4: ..}` with 0 as void: that no pixel has the last id doesn't make them train ids."""
    space = by_names({1: "road", 2: "kerb", 3: "car", 4: "tram"}, tmp_path, [0])
    found = inspect_pairs(splits_of(drawn(0, 1, 2, 3)), space)
    assert found.train_id_counts("train", space).tolist() == [[40, 40, 40, 0]]


def test_inspect_pairs__shifted_by_one_is_said(tmp_path):
    """ADE20K's files: 0 is `other`, so that names from 0 are each their neighbour's."""
    space = by_names({0: "wall", 1: "building", 2: "sky", 3: "floor"}, tmp_path)
    (warning,) = [w for w in inspect_pairs(splits_of(drawn(0, 1, 2)), space).warnings if "neighbour" in w]
    assert "the last class, floor (id 3), has no pixel, and wall (id 0) has some" in warning
    with pytest.raises(DataError) as caught:  # where the last class has pixels
        inspect_pairs(splits_of(drawn(0, 1, 2, 4)), space)
    assert "found 4 in 40 pixels; 1 file(s) have this value; if these files count the classes from 1" in str(
        caught.value
    )
    assert "write `id2label: {1: wall, ..., 4: floor}` and `void: [0]`" in str(caught.value)
    for label in (drawn(0, 1, 2, 3), drawn(1, 2), drawn(0, 1, 255)):  # as it should be; no 0; void is there, too
        assert "neighbour" not in str(inspect_pairs(splits_of(label), space).warnings)


def test_inspect_pairs__masks_of_0_and_255_for_ids_0_and_1(tmp_path):
    space = by_names({0: "rest", 1: "road"}, tmp_path)
    with pytest.raises(DataError) as caught:
        inspect_pairs(splits_of(drawn(0, 255)), space)
    assert str(caught.value) == (
        "expected label ids of `mine` (0, 1); found 0 and 255 alone, as binary masks have; write `id2label: {0: rest, "
        "255: road}`."
    )
    space = by_names({0: "rest", 255: "road"}, tmp_path)
    assert inspect_pairs(splits_of(drawn(0, 255)), space).train_id_counts("train", space).tolist() == [[40, 40]]


COLORS = {
    "encoding": "color",
    "classes": [{"name": "road", "color": [128, 64, 128]}, {"name": "car", "color": [0, 0, 142]}],
    "void": [[0, 0, 0]],
}


def test_inspect_pairs__unknown_colours_and_edges():
    label = np.array([[128, 64, 128], [0, 0, 142], [0, 0, 0], [64, 32, 135]], np.uint8)[[0] * 300 + [1] * 295 + [3] * 5]
    splits = splits_of(label.reshape(20, 30, 3))
    with pytest.raises(DataError) as caught:
        inspect_pairs(splits, parse_label_space(COLORS))
    assert str(caught.value) == (
        "train/f0: expected only label values of `label space` ((0, 0, 0), (128, 64, 128), (0, 0, 142)); found "
        "(64, 32, 135) in 5 pixels; 1 file(s) have this value; list the colours under their class as `label_colors`, "
        "or under `void`; where edges were drawn with anti-aliasing, `edge_tolerance: 0.013` makes pixels of other "
        "colours void."
    )
    space = parse_label_space(COLORS | {"edge_tolerance": 0.01})
    found = inspect_pairs(splits, space)
    assert found.train_id_counts("train", space).tolist() == [[300, 295]]
    said = "0.83 % of all pixels are void because their values are no class's (edges): (64, 32, 135)."
    assert said in found.warnings
    with pytest.raises(DataError, match=r"found .64, 32, 135. in 5 pixels"):
        inspect_pairs(splits, parse_label_space(COLORS | {"edge_tolerance": 0.008}))


def test_inspect_pairs__a_palette_with_the_colours_of_other_classes():
    """Colours quantised in any order: the indices are the label space's ids, and mean something else."""
    ids = COLORS | {"encoding": "ids", "void": [255]}
    colors = np.array([[128, 64, 128], [0, 0, 142]], np.uint8)
    for order, right in (([0, 1], True), ([1, 0], False)):
        mask = Image.fromarray(drawn(0, 1), "P")
        mask.putpalette(colors[order].ravel().tolist())
        if right:
            inspect_pairs(splits_of(mask), parse_label_space(ids))
            continue
        with pytest.raises(DataError) as caught:
            inspect_pairs(splits_of(mask), parse_label_space(ids))
        assert "found 0, which is road, in the colour of car (2 of 2 indices like this); say `encoding: color`" in str(
            caught.value
        )
        space = parse_label_space(COLORS)
        assert inspect_pairs(splits_of(mask), space).train_id_counts("train", space).tolist() == [[40, 40]]
