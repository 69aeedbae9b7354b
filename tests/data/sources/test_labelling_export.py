import os
from dataclasses import fields

import datasets
import numpy as np
import pytest
from made_exports import SIZE, SQUARE, coco, flat, labels, read, square, write_json, write_picture
from PIL import Image, ImageOps

from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.sources import labelling_export
from hf_urbanseg.data.sources.exports import drawing
from hf_urbanseg.data.sources.exports.folder import ExportFolder
from hf_urbanseg.data.sources.request import DataRequest
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.options.config import DataArguments

RING = flat(SQUARE)


def export(folder, *segmentations, **options):
    content = coco(segmentations or [[RING]], **options)
    for entry in content["images"]:
        write_picture(folder / entry["file_name"].split("/")[-1])
    write_json(folder / "labels.json", content)
    return folder


def test_matches__by_content(tmp_path):
    assert not labelling_export.matches(DataRequest(tmp_path))
    (tmp_path / "metrics.json").write_text('{"mean_iou": 1}')
    os.mkfifo(tmp_path / "pipe.json")
    assert not labelling_export.matches(DataRequest(tmp_path))
    assert labelling_export.matches(DataRequest(export(tmp_path)))
    assert not labelling_export.matches(DataRequest(dataset="user/name"))


def test_formats__are_those_of_the_option():
    (option,) = (one for one in fields(DataArguments) if one.name == "format")
    assert option.metadata["choices"] == ["auto", "masks", *labelling_export.FORMATS]


def test_load_data__the_folder_and_its_file(tmp_path):
    export(tmp_path, images=("a.png", "b.png"))
    for path in (tmp_path, tmp_path / "labels.json"):
        loaded = load_data(data_dir=str(path), test_fraction=0, validation_fraction=0)
        np.testing.assert_array_equal(labels(loaded, "train")["a"], square())
        assert loaded.label_space.names == ("background", "car", "road")
        assert loaded.notes[:3] == (
            "read as coco (labels.json): 1 shapes in 2 frames",
            "pixels in no shape: class `background`; `--background void` leaves them out",
            "frames without a shape, the rest alone: 1",
        )


def test_load__later_shapes_lie_on_top_and_background(tmp_path):
    right = [9, 3, 14, 3, 14, 13, 9, 13]
    on_top = square(1)
    on_top[3:13, 9:14] = 2
    export(tmp_path, [RING], {"segmentation": [right], "category_id": 2})
    np.testing.assert_array_equal(labels(read(tmp_path))["a"], on_top)
    void = read(tmp_path, background="void")
    assert void.label_space.names == ("car", "road")
    np.testing.assert_array_equal(labels(void)["a"], np.where(on_top, on_top - 1, 255))
    export(tmp_path, {"segmentation": [right], "category_id": 2}, [RING])
    np.testing.assert_array_equal(labels(read(tmp_path))["a"], square(1))


@pytest.mark.parametrize("name", ["background", "_background_"])
def test_load__an_own_background_takes_the_rest(tmp_path, name):
    found = read(export(tmp_path, categories=("car", name)))
    assert found.label_space.names == ("car", name)
    np.testing.assert_array_equal(labels(found)["a"], square(0, rest=1))


def test_load__a_class_that_is_void_by_name(tmp_path):
    found = read(export(tmp_path, categories=("ignore", "car")))
    assert found.label_space.names == ("background", "car")
    np.testing.assert_array_equal(labels(found)["a"], square(255))


def test_load__classes_of_a_label_space(tmp_path):
    found = read(export(tmp_path, categories=("Traffic_Sign", "x")), label_space=CITYSCAPES)
    assert found.label_space == CITYSCAPES.with_train_ids()
    np.testing.assert_array_equal(labels(found)["a"], square(7, rest=255))
    assert "pixels in no shape: void, in no loss and no score" in found.notes
    with pytest.raises(DataError, match=r"only classes of `cityscapes` .*found `x` \(1 shapes\); rename"):
        read(export(tmp_path, categories=("x", "car")), label_space=CITYSCAPES)
    with pytest.raises(DataError, match="a class `background` in the label space; found none"):
        read(export(tmp_path), label_space=CITYSCAPES, background="class")
    own = LabelSpace("mine", ("car", "background"), ((1, 1, 1), (2, 2, 2)), {7: 0, 9: 1, 0: 255})
    np.testing.assert_array_equal(labels(read(tmp_path, label_space=own))["a"], square(0, rest=1))


def test_load__what_covers_nothing_or_is_left_out_is_counted(tmp_path):
    outside, box = [40, 0, 50, 0, 50, 9], {"segmentation": [], "bbox": [1, 2, 3, 4]}
    write_picture(tmp_path / "other" / "z.png")
    found = read(export(tmp_path, [RING], [outside], box, box))
    for _ in "again":  # from the cache, too
        assert "shapes that cover no pixel (outside the picture, or too thin): 1" in found.notes
        assert "annotations without an area, left out: 2 box" in found.notes
        assert "pictures without annotations, left out: 1" in found.notes
        found = read(tmp_path)


def test_load__draws_once_and_anew_when_something_changes(tmp_path, monkeypatch):
    export(tmp_path)
    first = read(tmp_path).splits["all"].with_format(None)
    counted = []
    monkeypatch.setattr(drawing, "_draw", lambda *words, draw=drawing._draw: counted.append(1) or draw(*words))
    assert read(tmp_path).splits["all"].data.column("label").to_pylist() == first.data.column("label").to_pylist()
    assert not counted
    np.testing.assert_array_equal(labels(read(tmp_path, background="void"))["a"], square(0, rest=255))
    write_json(tmp_path / "labels.json", coco([[RING]], categories=("road", "car")) | {"info": 1})
    assert read(tmp_path).label_space.names == ("background", "road", "car")
    write_picture(tmp_path / "a.png", value=7)
    read(tmp_path)
    assert len(counted) == 3


def test_load__a_fault_leaves_nothing_in_the_cache(tmp_path, cache):
    with pytest.raises(DataError, match="at least 3 points"):
        read(export(tmp_path, [RING], [[1, 2, 3, 4]]))
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    "named",
    ["/home/eve/a.png", r"C:\Users\eve\a.png", "../../a.png", "./a.png", "https://host/x/a.png?token=1", "in/put/a.png",
     "/data/local-files/?d=x/a.png", "/data/upload/3/0123abcd-a.png", "file:///x/a.png", "s3://bucket/x/a.png"],
)  # fmt: skip
def test_find_image__by_name_inside_the_folder(tmp_path, named):
    write_picture(tmp_path.parent / f"{tmp_path.name}-beside" / "a.png", value=9)
    write_picture(tmp_path / "input" / "a.png")
    write_json(tmp_path / "labels.json", coco([[RING]], images=(named,)))
    row = read(tmp_path).splits["all"][0]
    assert (row["name"], np.asarray(row["image"]).max()) == ("a", 100)


def test_find_image__several_of_a_name(tmp_path):
    for at in ("x/one", "y/one", "y/two"):
        write_picture(tmp_path / at / "a.png")
    write_json(tmp_path / "labels.json", coco([[RING]], images=("/mnt/y/one/a.png", "x/one/a.png")))
    rows = read(tmp_path).splits["all"]
    assert list(rows["name"]) == ["x/one/a.png", "y/one/a.png"]
    write_json(tmp_path / "labels.json", coco([[RING]], images=("one/a.png",)))
    with pytest.raises(
        DataError, match=r"one picture `a.png` \(`/images/0`\) below .*; found 2, such as x/one/a.png and"
    ):
        read(tmp_path)


def test_load__some_frames_in_splits(tmp_path):
    export(tmp_path / "train")
    export(tmp_path / "more", images=("b.png",))
    with pytest.raises(
        DataError, match=r"all frames in splits, or none; found more/labels.json in none of them, .* train"
    ):
        read(tmp_path)


def test_load__other_formats_and_files(tmp_path):
    export(tmp_path)
    with pytest.raises(DataError, match=r"`format` of auto, coco.*; found `x`"):
        read(tmp_path, format="x")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(DataError, match=r"b.json: expected annotations in the format coco"):
        load_data(data_dir=str(tmp_path / "b.json"))
    with pytest.raises(DataError, match="an export as `data_dir` with `format`"):
        load_data(dataset="synthetic", format="coco")


def test_load_data__background_of_label_files(tmp_path):
    for folder, value in (("image_2", 1), ("semantic", 7)):
        write_picture(tmp_path / "training" / folder / "a.png", value=value)
    with pytest.raises(DataError, match="an export of shapes with `background`; found data whose labels are files"):
        load_data(data_dir=str(tmp_path), background="void")


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("labels.json", None),
        ("instances_train2017.json", "train"),
        ("Valid/_annotations.coco.json", "validation"),
        ("annotations/instances_default.json", None),
        ("train_images/labels.json", "train"),
        ("train station/labels.json", None),
        ("train_val.json", None),
        ("test/train/labels.json", "train"),
    ],
)
def test_find_split__by_the_names_of_the_file_and_its_folders(tmp_path, file, split):
    """But not by those around the export, which here say test."""
    assert ExportFolder(tmp_path).find_split(tmp_path / file) == split


def test_find_split__not_by_the_name_of_a_picture(tmp_path):
    """A file that is called as its picture is: `test 1.json` is no test split."""
    write_picture(tmp_path / "test 1.png")
    shapes = [{"label": "car", "points": SQUARE}]
    write_json(tmp_path / "test 1.json", {"shapes": shapes, "imagePath": "test 1.png"})
    assert list(read(tmp_path).splits) == ["all"]


def test_load__two_formats_in_one_folder(tmp_path):
    export(tmp_path)
    shapes = [{"label": "bus", "points": SQUARE}]
    write_json(tmp_path / "a.json", {"shapes": shapes, "imagePath": "a.png"})
    with pytest.raises(
        DataError, match=r"found coco \(labels.json\) and labelme \(a.json\); choose one with `--format"
    ):
        read(tmp_path)
    assert read(tmp_path, format="coco").label_space.names == ("background", "car", "road")
    assert read(tmp_path, format="labelme").label_space.names == ("background", "bus")
    with pytest.raises(DataError, match="annotations in the format cvat; found none"):
        read(tmp_path, format="cvat")


@pytest.mark.parametrize("orientation", range(2, 9))
def test_load_data__pictures_turned_by_exif(tmp_path, orientation):
    """Tools label them as they are seen. Where the size says that one didn't, the label lies as the file does."""
    mark, pixels = Image.Exif(), np.zeros((*SIZE, 3), np.uint8)
    mark[0x0112] = orientation
    pixels[3:13, 4:14] = 200  # the square that is labelled
    seen = Image.fromarray(pixels)
    for index in range(1, 9):  # the way to lie in a file that, turned by Pillow, looks like this
        lying = seen if index == 8 else seen.transpose(index - 1)
        lying.save(tmp_path / "a.png", exif=mark)
        if np.array_equal(np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))), pixels):
            break
    content = coco([[RING]])
    write_json(tmp_path / "labels.json", content)
    loaded = load_data(data_dir=str(tmp_path), test_fraction=0, validation_fraction=0)
    inspect_pairs(loaded.splits, loaded.label_space, progress=False)
    (row,) = loaded.splits["train"]
    np.testing.assert_array_equal(np.asarray(row["image"]), pixels)
    np.testing.assert_array_equal(np.asarray(row["label"]), square())
    if orientation >= 5:
        content["images"][0] |= {"height": SIZE[1], "width": SIZE[0]}
        write_json(tmp_path / "labels.json", content)
        (row,) = read(tmp_path).splits["all"].cast_column("label", datasets.Image(decode=False))
        np.testing.assert_array_equal(np.asarray(Image.open(row["label"]["path"])), square(size=SIZE[::-1]))


def test_load__more_classes_than_a_label_file_holds(tmp_path):
    export(tmp_path, categories=[f"c{number}" for number in range(255)])
    with pytest.raises(DataError, match="1 to 254 classes in the export; found 255"):
        read(tmp_path)
    export(tmp_path, {"segmentation": [RING], "category_id": 254}, categories=[f"c{number}" for number in range(254)])
    np.testing.assert_array_equal(labels(read(tmp_path))["a"], square(254))


def test_load__links_that_go_round(tmp_path):
    export(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(read(tmp_path).splits["all"]) == 1
