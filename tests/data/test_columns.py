import numpy as np
import pyarrow as pa
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from made_pictures import encode, with_palette

from hf_urbanseg.data.columns import choose_columns, normalise_columns
from hf_urbanseg.data.image_files import FEATURES
from hf_urbanseg.errors import DataError

INDICES = np.arange(24, dtype=np.uint8).reshape(4, 6)
GREY, PALETTE = encode(INDICES), encode(with_palette(INDICES))


def make_rows(count=2, image="image", label="label", label_feature=None, **columns):
    data = {
        image: [{"bytes": GREY, "path": None}] * count,
        label: [{"bytes": PALETTE, "path": None}] * count,
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
    assert rows.cast_column("label", Image(decode=False))[0]["label"]["bytes"] == PALETTE


@pytest.mark.parametrize(("image", "label"), [("pixel_values", "semantic_segmentation"), ("img", "annotation")])
def test_normalise_columns__guesses_usual_names(image, label):
    assert normalise(make_rows(image=image, label=label)).column_names == ["image", "label", "name"]


def test_normalise_columns__given_columns_win_over_the_guess():
    rows = make_rows(image="left", label="fine").add_column("image", ["x", "y"])
    rows = normalise(rows, "left", "fine")
    assert rows[0]["label"].mode == "P"


def test_normalise_columns__a_class_label_is_not_a_label_image():
    features = Features({"image": Image(), "label": ClassLabel(names=["image_2", "semantic"])})
    rows = Dataset.from_dict({"image": [{"bytes": GREY, "path": None}], "label": [0]}, features=features)
    with pytest.raises(
        DataError, match=r"user/name: .*found image columns image among image, label \(ClassLabel\); .*`--label_column`"
    ):
        normalise(rows)


def as_written(kind) -> Dataset:
    """Rows whose pictures are of another type of Arrow's, without what `datasets` would say of them."""
    struct = pa.types.is_struct(kind)
    cells = [[{"bytes": one, "path": "gone.png"} if struct else one] * 2 for one in (GREY, PALETTE)]
    return Dataset(pa.table(dict(zip(("image", "label"), (pa.array(one, kind) for one in cells), strict=True))))


def struct(**kinds) -> pa.DataType:
    return pa.struct(kinds)


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.large_binary(),
        struct(bytes=pa.binary(), path=pa.string()),
        struct(path=pa.large_string(), bytes=pa.large_binary()),
        struct(bytes=pa.binary()),
    ],
    ids=str,
)
def test_normalise_columns__files_as_others_write_them(kind):
    """pandas and Spark write `binary`, polars `large_binary`; the bytes stay as they are."""
    rows = normalise(as_written(kind))
    assert rows.features == FEATURES
    np.testing.assert_array_equal(np.asarray(rows[1]["label"]), INDICES)
    assert rows.cast_column("label", Image(decode=False))[0]["label"]["bytes"] == PALETTE


def test_normalise_columns__a_declared_picture_goes_before_bytes():
    rows = make_rows(label="mask").add_column("label", [b"no", b"picture"], feature=Value("binary"))
    np.testing.assert_array_equal(np.asarray(normalise(rows)[0]["label"]), INDICES)


@pytest.mark.parametrize(
    ("cells", "feature", "said"),
    [
        (
            ["a.png", "/etc/b.png"],
            Value("string"),
            r"found image columns image among image, label \(string\); name one",
        ),
        (
            [[[0, 1]], [[1, 0]]],
            List(List(Value("uint8"))),
            r"label \(List\); name one of pictures with `--label_column`",
        ),
        (
            [np.eye(2), np.eye(2)],
            Array2D((2, 2), "uint8"),
            r"label \(Array2D\); .*, write the bytes of PNG files in place",
        ),
        (
            [{"bytes": None, "path": "/etc/b.png"}, {"bytes": GREY, "path": None}],
            {"bytes": Value("binary"), "path": Value("string")},
            "expected the bytes of each picture in `label`; found rows of train with a path alone; write the bytes of ",
        ),
    ],
)
def test_normalise_columns__paths_and_arrays_in_one_line(cells, feature, said):
    features = Features({"image": Image(), "label": feature})
    rows = Dataset.from_dict({"image": [{"bytes": GREY, "path": None}] * 2, "label": cells}, features=features)
    with pytest.raises(DataError, match=said):
        normalise(rows)


def test_normalise_columns__passes_over_a_class_label_of_a_usual_name():
    rows = make_rows(label="mask").add_column("label", [0, 1]).cast_column("label", ClassLabel(names=["a", "b"]))
    np.testing.assert_array_equal(np.asarray(normalise(rows)[0]["label"]), INDICES)


def test_normalise_columns__unknown_given_column():
    with pytest.raises(DataError, match="an image column `left`; found image columns image, label among"):
        normalise(make_rows(), "left")


NUMBERED = ["validation_000000", "validation_000001"]


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        (["y.png", "x.png"], Value("string"), ["y.png", "x.png"]),
        (["y.png", "x.png"], Value("large_string"), ["y.png", "x.png"]),
        ([7, 3], Value("int64"), ["7", "3"]),
        ([7, 7], Value("int64"), NUMBERED),
        (["a", ""], Value("string"), NUMBERED),
        (["a", None], Value("string"), NUMBERED),
        (["a", "b\x1b]0;c\x07"], Value("string"), NUMBERED),
        (["a", "b\nc"], Value("string"), NUMBERED),
        ([0.5, 1.5], Value("float64"), NUMBERED),
        ([["a"], ["b"]], List(Value("string")), NUMBERED),
    ],
)
def test_normalise_columns__names(cells, kind, expected):
    rows = make_rows().add_column("id", cells, feature=kind)
    assert list(normalise(rows, split="dev")["name"]) == expected


def test_normalise_columns__rows_without_names_are_numbered():
    assert list(normalise(make_rows(), split="dev")["name"]) == NUMBERED


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
    picture = {"bytes": GREY, "path": None}
    unlabelled = Dataset.from_dict({"image": [picture] * 2, "label": [None] * 2}, features=features)
    splits, notes = normalise_columns(DatasetDict({"train": make_rows(), "test": unlabelled}), None, None, "user/name")
    assert list(splits) == ["train"]
    assert notes == ["test: left out, it has no labels"]
    gap = Dataset.from_dict({"image": [picture] * 2, "label": [None, picture]}, features=features)
    with pytest.raises(DataError, match="an image and a label in every row; found empty ones in train"):
        normalise_columns(DatasetDict({"train": gap}), None, None, "user/name")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["jpg", "png"], ("jpg", "png")),
        (["label.png", "image.png", "depth.png"], ("image.png", "label.png")),
        (["semantic.png", "rgb.jpg"], ("rgb.jpg", "semantic.png")),
        (["JPEG", "mask.png", "instances.png"], ("JPEG", "mask.png")),
        (["png", "seg.png"], "image"),
        (["jpg", "left.jpg", "png"], "image"),
        (["image.jpg", "image.png", "mask.png"], "image"),
        (["jpg", "depth.png", "seg.png"], "label"),
        (["jpg"], "label"),
    ],
)
def test_choose_columns__of_a_tar_by_names_or_one_line(names, chosen):
    features = Features({name: Image() for name in names})
    if isinstance(chosen, tuple):
        assert choose_columns(features, None, None, "set") == chosen
    else:
        with pytest.raises(DataError, match=rf"set: expected an image column .*`--{chosen}_column`"):
            choose_columns(features, None, None, "set")
