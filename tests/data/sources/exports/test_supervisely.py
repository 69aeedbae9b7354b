import base64
import zlib

import numpy as np
import pytest
from made_exports import SIZE, SQUARE, labels, read, square, write_json, write_picture
from made_pictures import encode

from hf_urbanseg.errors import DataError

META = {"classes": [{"title": "road", "shape": "polygon", "color": "#0A14FF"}, {"title": "car", "color": "x"}]}


def bitmap(pixels, origin=(4, 3), packed=None):
    data = packed or base64.b64encode(zlib.compress(encode(pixels))).decode()
    return {"geometryType": "bitmap", "bitmap": {"data": data, "origin": list(origin)}}


def polygon(exterior=SQUARE, interior=()):
    return {"geometryType": "polygon", "points": {"exterior": exterior, "interior": list(interior)}}


def write(folder, *objects, dataset="ds0", name="a.png", ending=".json", meta=META):
    write_picture(folder / dataset / "img" / name)
    write_json(folder / "meta.json", meta)
    content = {
        "description": "", "tags": [], "size": {"height": SIZE[0], "width": SIZE[1]},
        "objects": [{"classTitle": "car"} | one for one in objects],
    }  # fmt: skip
    write_json(folder / dataset / "ann" / f"{name}{ending}", content)
    return folder


def test_read__polygons_with_holes(tmp_path):
    hole = [[6, 5], [10, 5], [10, 9], [6, 9]]
    found = read(write(tmp_path, polygon(interior=[hole])))
    assert found.label_space.names == ("background", "road", "car")
    assert found.label_space.colors[1] == (10, 20, 255)
    expected = square(2)
    expected[5:9, 6:10] = 0
    np.testing.assert_array_equal(labels(found)["a"], expected)


@pytest.mark.parametrize("channels", [None, 4])
def test_read__bitmaps(tmp_path, channels):
    mask = np.random.default_rng(0).random((9, 7)) < 0.5
    pixels = mask if channels is None else np.dstack([np.full((9, 7, 3), 80, np.uint8), 255 * mask.astype(np.uint8)])
    found = labels(read(write(tmp_path, bitmap(pixels))))["a"]
    expected = np.zeros(SIZE, np.uint8)
    expected[3:12, 4:11] = 2 * mask
    np.testing.assert_array_equal(found, expected)


def test_read__rectangles_and_what_has_no_area(tmp_path):
    corners = {"geometryType": "rectangle", "points": {"exterior": [SQUARE[0], SQUARE[2]], "interior": []}}
    found = read(write(tmp_path, corners, {"geometryType": "line", "points": {}}))
    np.testing.assert_array_equal(labels(found)["a"], square(2))
    assert "annotations without an area, left out: 1 line" in found.notes


def test_read__data_sets_are_splits_and_share_names(tmp_path):
    write(tmp_path, polygon(), dataset="train")
    write(tmp_path, polygon() | {"classTitle": "road"}, dataset="val")
    found = read(tmp_path)
    np.testing.assert_array_equal(labels(found, "train")["train/img/a.png"], square(2))
    np.testing.assert_array_equal(labels(found, "validation")["val/img/a.png"], square(1))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (polygon(SQUARE[:2]), "at least 3 points in an outline; found 2 at `/objects/0`"),
        (polygon(interior=[[1]]), "points of x and y"),
        (polygon(None), "points of x and y"),
        ({"geometryType": "polygon"}, "the points or the bitmap of a polygon; found None"),
        ({"geometryType": "rectangle", "points": {"exterior": 3}}, "two corners of a rectangle"),
        ({"geometryType": 3}, "text at `/objects/0/geometryType`"),
        (polygon() | {"classTitle": "bus"}, "a class of meta.json; found `bus` at `/objects/0`"),
        (bitmap(None, packed="aGVsbG8="), "a picture in base64"),
        (bitmap(None, packed=base64.b64encode(zlib.compress(bytes(1 << 24))).decode()), "a readable mask, as"),
        (bitmap(np.ones((3, 3), bool), ("a", 1)), "coordinates as numbers"),
        (bitmap(np.ones((3, 3), bool), (1,)), "coordinates as numbers"),
        (bitmap(np.ones((30, 3), bool)), "a mask no larger than the picture, 20x30; found 30x3"),
    ],
)  # fmt: skip
def test_read__faults_name_the_file_and_the_place(tmp_path, entry, message):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, entry))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
