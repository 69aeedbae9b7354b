import numpy as np
import pytest
from made_exports import SIZE, SQUARE, coco, flat, labels, read, square, write_json, write_picture
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hf_urbanseg.data.sources.exports.shapes import read_counts
from hf_urbanseg.errors import DataError


def counts_of(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns."""
    pixels = mask.ravel(order="F").astype(int)
    ends = [*np.flatnonzero(np.diff(pixels)) + 1, pixels.size]
    return ([0] if pixels[0] else []) + np.diff([0, *ends]).tolist()


def make(folder, annotations, **options):
    content = coco(annotations, **options)
    for entry in content["images"]:
        write_picture(folder / entry["file_name"])
    write_json(folder / "labels.json", content)
    return folder


def test_read__the_pixels_of_pycocotools(tmp_path):
    """Random outlines (crossing themselves, partly and wholly outside), both kinds of run lengths, in their order."""
    rng = np.random.default_rng(0)
    segmentations = []
    for number in range(60):
        rings = [rng.uniform(-15, 45, 2 * rng.integers(3, 9)).round(rng.integers(0, 3)).tolist() for _ in "ab"]
        mask = np.asfortranarray(rng.random(SIZE) < 0.1, np.uint8)
        packed = coco_mask.encode(mask)
        packed = {"size": list(SIZE), "counts": packed["counts"].decode()}
        plain = {"size": list(SIZE), "counts": counts_of(mask)}
        segmentations.append((rings[: number % 2 + 1], rings, packed, plain)[number % 4])
    annotations = [
        {"segmentation": one, "image_id": i % 3, "category_id": i % 5 + 1, "iscrowd": int("counts" in one)}
        for i, one in enumerate(segmentations)
    ]
    make(tmp_path, annotations, images=("a.png", "b.png", "c.png"), categories="vwxyz")
    found = labels(read(tmp_path))
    theirs = COCO(str(tmp_path / "labels.json"))
    for image in theirs.dataset["images"]:
        expected = np.zeros(SIZE, np.uint8)
        for annotation in theirs.dataset["annotations"]:
            if annotation["image_id"] == image["id"]:
                expected[theirs.annToMask(annotation) > 0] = annotation["category_id"]
        np.testing.assert_array_equal(found[image["file_name"][0]], expected)


def test_read_counts__those_of_pycocotools():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 5), (300, 400)):
        for share in (0, 0.02, 0.5, 1):
            mask = np.asfortranarray(rng.random(size) < share, np.uint8)
            counts = read_counts(coco_mask.encode(mask)["counts"].decode())
            assert [one for one in counts if one] == [one for one in counts_of(mask) if one]
            assert sum(counts) == mask.size


def test_read__classes_in_the_order_of_ids_and_without_headings(tmp_path):
    make(tmp_path, [[flat(SQUARE)]])
    content = coco([[flat(SQUARE)]])
    content["categories"] = [
        {"id": 7, "name": "road", "supercategory": "road"},
        {"id": 0, "name": "streets", "supercategory": "none"},
        {"id": 1, "name": "car", "supercategory": "streets"},
    ]
    write_json(tmp_path / "labels.json", content)
    found = read(tmp_path)
    assert found.label_space.names == ("background", "car", "road")
    assert "class `streets`: left out, it heads others and has no annotation" in found.notes
    np.testing.assert_array_equal(labels(found)["a"], square())
    content["annotations"].append(content["annotations"][0] | {"category_id": 0})
    write_json(tmp_path / "labels.json", content)
    assert read(tmp_path).label_space.names == ("background", "streets", "car", "road")


def test_read__several_files(tmp_path):
    """Splits by the name of a file or its folder; the same name in two; ids of each file's own; one without lists."""
    for split, names, value in (("train", ("car", "road"), 1), ("val", ("road", "car"), 2)):
        write_picture(tmp_path / f"{split}2017" / "a.png", value=value)
        content = coco([[flat(SQUARE)]], categories=names)
        write_json(tmp_path / "annotations" / f"instances_{split}2017.json", content)
    captions = {"images": [], "annotations": []}
    write_json(tmp_path / "annotations" / "captions_val2017.json", captions)
    found = read(tmp_path)
    assert found.label_space.names == ("background", "car", "road")
    assert {split: list(rows["name"]) for split, rows in found.splits.items()} == {
        "train": ["train2017/a.png"], "validation": ["val2017/a.png"],
    }  # fmt: skip
    np.testing.assert_array_equal(labels(found, "train")["train2017/a.png"], square(1))
    np.testing.assert_array_equal(labels(found, "validation")["val2017/a.png"], square(2))
    assert np.unique(np.asarray(found.splits["train"][0]["image"])) == [1]
    assert "annotations/captions_val2017.json: left out, it has no list `categories`" in found.notes
    one = read(tmp_path / "annotations" / "instances_val2017.json")
    assert one.label_space.names == ("background", "road", "car")
    np.testing.assert_array_equal(labels(one, "validation")["a"], square(1))


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([[[1, 2, 3, 4]]], "at least 3 points in an outline; found 2 at `/annotations/0/segmentation`"),
        ([[flat(SQUARE)], [[1, 2, 3, 4, 5]]], "points of x and y; found an array of 5 numbers at `/annotations/1/seg"),
        ([[[1, 2, 3, 4, 5, float("nan")]]], "points in or near the picture; found a coordinate of nan at"),
        ([[[1, 2, 3, 4, 5, 1e300]]], "points in or near the picture; found a coordinate of 1e+300"),
        ([[[0, 0, 9e6, 0, 0, 9e6] * 3]], "an outline of 1,048,576 pixels at most"),
        ([[[1, 2, 3, 4, 5, "x"]]], "points as numbers"),
        ([[[[1, 2], [3]]]], "points as numbers"),
        (["zzz"], "`segmentation` as lists of points or as run lengths; found 'zzz' at `/annotations/0/segmentation`"),
        ([{"size": [20, 30], "counts": [1, 2]}], "run lengths of 20x30 = 600 pixels; found 3 at"),
        ([{"size": [20, 30], "counts": [700, -100]}], "run lengths as whole numbers of 0 or more"),
        ([{"size": [20, 30], "counts": "05"}], "run lengths of 20x30 = 600 pixels; found 5"),
        ([{"size": [20, 30], "counts": "\u00e4" * 9}], "compressed run lengths of COCO"),
        ([{"size": [20, 30], "counts": "o" * 9000}], "compressed run lengths of COCO"),
        ([{"size": [30, 20], "counts": [600]}], "a mask of the picture's size [20, 30]; found [30, 20]"),
        ([{"size": [20, 30], "counts": {}}], "`counts` as text or a list"),
        ([{"image_id": 5, "segmentation": [flat(SQUARE)]}], "the id of one of `images`; found 5 at `/annotations/0`"),
        ([{"category_id": 5, "segmentation": []}], "the id of one of `categories`; found 5 at `/annotations/0`"),
        ([{"category_id": None}], "a whole number at `/annotations/0/category_id`; found None"),
        ([{"segmentation": [], "bbox": [1, 2, 3, 4]}], "found 1 of kind box, which is detection data; label areas"),
        ([], "shapes with an area in the coco export; found no shape at all"),
        ([{"segments_info": []}], "COCO's instances; found panoptic segments"),
    ],
)  # fmt: skip
def test_read__faults_name_the_file_and_the_place(tmp_path, annotations, message):
    with pytest.raises(DataError) as caught:
        read(make(tmp_path, annotations))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"].append(c["images"][0]), "every image id once; found 0 again at `/images/1`"),
        (lambda c: c["images"].append(c["images"][0] | {"id": 1}), "every picture once in the export; found a.png"),
        (lambda c: c["images"][0].update(file_name="b.png"), "one picture `b.png` (`/images/0`) below"),
        (lambda c: c["images"][0].update(file_name=None), "text at `/images/0/file_name`; found None"),
        (lambda c: c["images"][0].update(width=31), "a picture of 20x31 (height x width), as `/images/0` says"),
        (lambda c: c["images"][0].update(width="30"), "a whole number at `/images/0/width`"),
        (lambda c: c["images"].__setitem__(0, 3), "a whole number at `/images/0/id`; found 3 around it"),
        (lambda c: c["categories"].append({"id": 1, "name": "x"}), "every category once; found `1` `x` again"),
        (lambda c: c["categories"].append({"id": 9, "name": "car"}), "every category once; found `9` `car` again"),
        (lambda c: c.update(categories=[]), "the id of one of `categories`"),
        (lambda c: c.update(annotations={}), "lists images, annotations, categories; found no list `annotations`"),
    ],
)  # fmt: skip
def test_read__faults_of_the_lists(tmp_path, change, message):
    make(tmp_path, [[flat(SQUARE)]])
    content = coco([[flat(SQUARE)]])
    change(content)
    write_json(tmp_path / "labels.json", content)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
