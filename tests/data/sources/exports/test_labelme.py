import base64

import numpy as np
import pytest
from made_exports import SIZE, SQUARE, labels, read, square, write_json, write_picture
from made_pictures import encode

from hf_urbanseg.errors import DataError


def write(folder, *shapes, name="a", **changes):
    """labelme's file of a picture; a shape is points and kind, or a mapping."""
    write_picture(folder / f"{name}.png")
    entries = [one if isinstance(one, dict) else {"points": one[0], "shape_type": one[1]} for one in shapes]
    content = {
        "version": "5.4.1", "flags": {}, "shapes": [{"label": "car"} | one for one in entries],
        "imagePath": f"{name}.png", "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1],
    }  # fmt: skip
    write_json(folder / f"{name}.json", content | changes)
    return folder


def mask_of(pixels, **changes):
    data = base64.b64encode(encode(pixels)).decode()
    height, width = pixels.shape
    return {"points": [[4, 3], [3 + width, 2 + height]], "shape_type": "mask", "mask": data} | changes


def test_read__every_kind_of_area(tmp_path):
    holed = np.ones((10, 10), bool)
    holed[2:5, 3:8] = False
    write(tmp_path, (SQUARE, "polygon"), name="polygon")
    write(tmp_path, {"points": SQUARE}, name="old")
    write(tmp_path, ([[14, 13], [4, 3]], "rectangle"), name="rectangle")
    write(tmp_path, (SQUARE, "rotation"), name="rotation")
    write(tmp_path, mask_of(holed), name="mask")
    found = labels(read(tmp_path))
    for name in ("polygon", "old", "rectangle", "rotation"):
        np.testing.assert_array_equal(found[name], square(), name)
    np.testing.assert_array_equal(found["mask"][3:13, 4:14], holed)
    assert found["mask"].sum() == holed.sum()


def test_read__a_circle_of_its_centre_and_rim(tmp_path):
    mask = labels(read(write(tmp_path, ([[14, 9], [18, 12]], "circle"))))["a"]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    distance = np.hypot(columns - 14, rows - 9)
    assert mask[distance < 4.25].all()
    assert not mask[distance > 5.75].any()
    assert abs(mask.sum() - np.pi * 25) < 6


def test_read__names_are_sorted_and_folders_are_splits(tmp_path):
    write(tmp_path / "train", {"points": SQUARE, "label": "tree"}, name="a")
    write(tmp_path / "val", {"points": SQUARE, "label": "car"}, name="a")
    write(tmp_path / "val", {"points": [[1, 1]], "shape_type": "point", "label": "hydrant"}, name="b")
    found = read(tmp_path)
    assert found.label_space.names == ("background", "car", "tree")
    assert {split: list(rows["name"]) for split, rows in found.splits.items()} == {
        "train": ["train/a.png"], "validation": ["b", "val/a.png"],
    }  # fmt: skip
    np.testing.assert_array_equal(labels(found, "train")["train/a.png"], square(2))
    assert "annotations without an area, left out: 1 point" in found.notes
    assert "frames without a shape, the rest alone: 1" in found.notes


def test_read__a_mask_at_the_edge_is_cut_off(tmp_path):
    pixels = np.ones((10, 10), bool)
    write(tmp_path, mask_of(pixels, points=[[25, 15], [34, 24]]), name="a")
    write(tmp_path, mask_of(pixels, points=[[-4, -7], [5, 2]]), name="b")
    found = labels(read(tmp_path))
    assert (found["a"].sum(), found["a"][15:, 25:].all()) == (25, True)
    assert (found["b"].sum(), found["b"][:3, :6].all()) == (18, True)


def test_read__the_picture_beside_the_file(tmp_path):
    write_picture(tmp_path / "masks" / "a.png", value=7)
    row = read(write(tmp_path, (SQUARE, "polygon"))).splits["all"][0]
    assert (row["name"], np.asarray(row["image"]).max()) == ("a", 100)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((SQUARE[:2], "polygon"), "at least 3 points in an outline; found 2 at `/shapes/0/points`"),
        ((SQUARE[:3], "rectangle"), "two points of a rectangle"),
        ((None, "circle"), "two points of a circle; found None"),
        (([[1, 2], [1e99, 3]], "circle"), "coordinates as numbers in or near the picture"),
        (([["a", 2], [4, 3]], "rectangle"), "coordinates as numbers in or near the picture"),
        (([[1, 2, 3], [4, 3, 1]], "rectangle"), "coordinates as numbers in or near the picture"),
        ({"label": 3, "points": SQUARE}, "text at `/shapes/0/label`; found 3"),
        (mask_of(np.ones((9, 9), bool), mask="%%%"), "a picture in base64"),
        (mask_of(np.ones((9, 9), bool), mask=None), "a picture in base64"),
        (mask_of(np.ones((9, 9), bool), mask="aGVsbG8="), "a readable mask, as a PNG picture"),
        (mask_of(np.ones((99, 99), bool)), "a mask no larger than the picture, 20x30; found 99x99"),
        (([[1, 1]], "point"), "shapes with an area in the labelme export; found 1 of kind point"),
    ],
)  # fmt: skip
def test_read__faults_name_the_file_and_the_place(tmp_path, shape, message):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, shape))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_read__the_picture_is_another(tmp_path):
    with pytest.raises(DataError, match=r"a\.json: expected a picture of 21x30 .*as `/imageHeight` says; found 20x30"):
        read(write(tmp_path, (SQUARE, "polygon"), imageHeight=21))
    with pytest.raises(DataError, match=r"one picture `b.png` \(`/imagePath`\) below .*; found none"):
        read(write(tmp_path, (SQUARE, "polygon"), imagePath=r"..\b.png"))
