import io
import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PillowImage

from hf_urbanseg.data.layouts.folders import FEATURES
from hf_urbanseg.data.layouts.saved_sets import load_saved_set, normalise_columns, read_own_label_space, read_source
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES

INDICES = np.arange(24, dtype=np.uint8).reshape(4, 6)


def png_bytes(mode="L"):
    picture = PillowImage.fromarray(INDICES)
    if mode == "P":
        picture = PillowImage.fromarray(INDICES, "P")
        picture.putpalette([255 - value for value in range(256) for _ in range(3)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def make_rows(count=2, image="image", label="label", label_feature=None, **columns):
    data = {
        image: [{"bytes": png_bytes(), "path": None}] * count,
        label: [{"bytes": png_bytes("P"), "path": None}] * count,
    }
    features = {image: Image(), label: label_feature or Image()}
    for name, values in columns.items():
        data[name], features[name] = values, Value("int64" if isinstance(values[0], int) else "string")
    return Dataset.from_dict(data, features=Features(features))


def normalise(rows, image_column=None, label_column=None, split="train"):
    splits, _ = normalise_columns(DatasetDict({split: rows}), image_column, label_column, "user/name")
    return splits[next(iter(splits))]


def test_normalise_columns__only_ours_in_our_order():
    rows = normalise(make_rows(name=["b", "a"], extra=[1, 2]))
    assert rows.features == FEATURES
    assert rows.column_names == ["image", "label", "name"]
    assert list(rows["name"]) == ["b", "a"]


@pytest.mark.parametrize("feature", [Image(), Image(mode="L"), Image(decode=False)])
def test_normalise_columns__palette_labels_keep_their_bytes(feature):
    rows = normalise(make_rows(label_feature=feature))
    assert rows[0]["label"].mode == "P"
    np.testing.assert_array_equal(np.asarray(rows[0]["label"]), INDICES)
    assert rows.cast_column("label", Image(decode=False))[0]["label"]["bytes"] == png_bytes("P")


@pytest.mark.parametrize(("image", "label"), [("pixel_values", "semantic_segmentation"), ("img", "annotation")])
def test_normalise_columns__guesses_usual_names(image, label):
    assert normalise(make_rows(image=image, label=label)).column_names == ["image", "label", "name"]


def test_normalise_columns__given_columns_win_over_the_guess():
    rows = make_rows(image="left", label="fine").add_column("image", ["x", "y"])
    rows = normalise(rows, "left", "fine")
    assert rows[0]["label"].mode == "P"


def test_normalise_columns__a_class_label_is_not_a_label_image():
    features = Features({"image": Image(), "label": ClassLabel(names=["image_2", "semantic"])})
    rows = Dataset.from_dict({"image": [{"bytes": png_bytes(), "path": None}], "label": [0]}, features=features)
    with pytest.raises(
        DataError, match=r"user/name: .*found image columns image among image, label \(ClassLabel\); .*`--label_column`"
    ):
        normalise(rows)


def test_normalise_columns__passes_over_a_class_label_of_a_usual_name():
    rows = make_rows(label="mask").add_column("label", [0, 1]).cast_column("label", ClassLabel(names=["a", "b"]))
    np.testing.assert_array_equal(np.asarray(normalise(rows)[0]["label"]), INDICES)


def test_normalise_columns__unknown_given_column():
    with pytest.raises(DataError, match="an image column `left`; found image columns image, label among"):
        normalise(make_rows(), "left")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"filename": ["x.png", "y.png"]}, ["x.png", "y.png"]),
        ({"id": [7, 3]}, ["7", "3"]),
        ({"id": [7, 7]}, ["validation_000000", "validation_000001"]),
        ({}, ["validation_000000", "validation_000001"]),
    ],
)
def test_normalise_columns__names(columns, expected):
    assert list(normalise(make_rows(**columns), split="dev")["name"]) == expected


@pytest.mark.parametrize("theirs", ["val", "valid", "dev", "Validation"])
def test_normalise_columns__split_names(theirs):
    splits, notes = normalise_columns(
        DatasetDict({"training": make_rows(), theirs: make_rows(), "extra": make_rows()}), None, None, "user/name"
    )
    assert list(splits) == ["train", "validation"]
    assert notes == ["extra: left out, not a split that is trained or measured on"]


def test_normalise_columns__two_splits_of_one_kind_or_none():
    with pytest.raises(DataError, match="one validation split; found a second one, `dev`"):
        normalise_columns(DatasetDict({"val": make_rows(), "dev": make_rows()}), None, None, "user/name")
    with pytest.raises(DataError, match="a labelled split named train, validation or test; found extra"):
        normalise_columns(DatasetDict({"extra": make_rows()}), None, None, "user/name")


def test_normalise_columns__unlabelled_split_is_left_out_and_a_gap_refused():
    features = Features({"image": Image(), "label": Image()})
    picture = {"bytes": png_bytes(), "path": None}
    unlabelled = Dataset.from_dict({"image": [picture] * 2, "label": [None] * 2}, features=features)
    splits, notes = normalise_columns(DatasetDict({"train": make_rows(), "test": unlabelled}), None, None, "user/name")
    assert list(splits) == ["train"]
    assert notes == ["test: left out, it has no labels"]
    gap = Dataset.from_dict({"image": [picture] * 2, "label": [None, picture]}, features=features)
    with pytest.raises(DataError, match="an image and a label in every row; found empty ones in train"):
        normalise_columns(DatasetDict({"train": gap}), None, None, "user/name")


def test_load_saved_set__dict_and_single(tmp_path):
    DatasetDict({"train": make_rows()}).save_to_disk(tmp_path / "dict")
    make_rows(3).save_to_disk(tmp_path / "single")
    assert list(load_saved_set(tmp_path / "dict")) == ["train"]
    assert {split: len(rows) for split, rows in load_saved_set(tmp_path / "single").items()} == {"all": 3}


@pytest.mark.parametrize("lost", ["train/state.json", "train/dataset_info.json", "train/data-00000-of-00001.arrow"])
@pytest.mark.parametrize("left", [None, b"", b"{}"])
def test_load_saved_set__damaged(tmp_path, lost, left):
    DatasetDict({"train": make_rows()}).save_to_disk(tmp_path)
    (tmp_path / lost).unlink()
    if left is not None:
        (tmp_path / lost).write_bytes(left)
    if (lost, left) == ("train/dataset_info.json", b"{}"):
        return  # complete again: the features are in the Arrow file too
    with pytest.raises(DataError, match="expected a complete saved set"):
        load_saved_set(tmp_path)


def test_read_own_label_space__from_a_folder(tmp_path):
    assert read_own_label_space(str(tmp_path)) is None
    (tmp_path / "id2label.json").write_text('{"0": "road", "1": "kerb"}')
    assert read_own_label_space(str(tmp_path)).names == ("road", "kerb")
    (tmp_path / "label_space.json").write_text(json.dumps(CITYSCAPES.to_dict()))
    assert read_own_label_space(str(tmp_path)) == CITYSCAPES


def test_read_source__words_or_an_error(tmp_path):
    assert read_source(str(tmp_path)) == {}
    (tmp_path / "source.json").write_text('{"origin": "kitti", "notes": ["test: none"], "more": 1}')
    assert read_source(str(tmp_path)) == {"origin": "kitti", "license": None, "notes": ["test: none"]}
    for wrong in ('{"notes": "test"}', '{"origin": 3}', '{"notes": [3]}'):
        (tmp_path / "source.json").write_text(wrong)
        with pytest.raises(DataError, match=r"source\.json: expected `origin` and `license` as words"):
            read_source(str(tmp_path))
