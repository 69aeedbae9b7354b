import numpy as np
import pytest
from made_exports import SIZE, SQUARE, labels, read, square, write_picture

from hf_urbanseg.errors import DataError

LABELS = "<label><name>car</name><color>#0a14ff</color><attributes><attribute><name>x</name></attribute></attributes>"
LABELS += "</label><label><name>road</name><color/></label>"
POINTS = ";".join(f"{x}.00,{y}.00" for x, y in SQUARE)
CAR = f'<polygon label="car" source="manual" occluded="0" points="{POINTS}" z_order="0"></polygon>'


def write(folder, *shapes, names=LABELS, head='<?xml version="1.0" encoding="utf-8"?>\n', **changes):
    write_picture(folder / "images" / "a.png")
    said = {"id": "0", "name": "a.png", "width": SIZE[1], "height": SIZE[0]} | changes
    attributes = " ".join(f'{key}="{value}"' for key, value in said.items())
    inside = "\n".join(shapes)
    (folder / "annotations.xml").write_text(
        f"{head}<annotations>\n<version>1.1</version>\n<meta><task><labels>{names}</labels></task></meta>\n"
        f"<image {attributes}>\n{inside}\n</image>\n</annotations>\n"
    )
    return folder


def test_read__every_kind_of_area(tmp_path):
    found = read(write(tmp_path, CAR))
    assert found.label_space.names == ("background", "car", "road")
    assert found.label_space.colors[1] == (10, 20, 255)
    np.testing.assert_array_equal(labels(found)["a"], square())
    box = '<box label="car" xtl="4.00" ytl="3.00" xbr="14.00" ybr="13.00" z_order="0"/>'
    np.testing.assert_array_equal(labels(read(write(tmp_path, box)))["a"], square())
    assert any(note.startswith("rectangles, drawn as areas: 1 (boxes") for note in read(tmp_path).notes)
    turned = box.replace("/>", ' rotation="90.0"/>')
    np.testing.assert_array_equal(labels(read(write(tmp_path, turned)))["a"], square())
    ellipse = labels(read(write(tmp_path, '<ellipse label="car" cx="9" cy="8" rx="5" ry="5"/>')))["a"]
    assert not (ellipse & ~square()).any()
    assert abs(int(ellipse.sum()) - np.pi * 25) < 6


def test_read__a_mask_along_the_rows_of_its_box(tmp_path):
    """4 outside, 3 inside, 1 outside, 4 inside in a box of 3 rows and 4 columns at row 5, column 6."""
    mask = '<mask label="road" rle="4, 3, 1, 4" left="6" top="5" width="4" height="3" z_order="0"></mask>'
    expected = np.zeros(SIZE, np.uint8)
    expected[5:8, 6:10] = 2 * np.array([[0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(labels(read(write(tmp_path, mask)))["a"], expected)


def test_read__z_order_goes_before_the_order_of_the_file(tmp_path):
    road = CAR.replace('"car"', '"road"')
    for shapes, value in (
        ((CAR, road), 2),
        ((CAR.replace('z_order="0"', 'z_order="1"'), road), 1),
        ((CAR, road.replace('z_order="0"', 'z_order="-1"')), 1),
        ((CAR.replace(' z_order="0"', ""), road), 2),
    ):
        np.testing.assert_array_equal(labels(read(write(tmp_path, *shapes)))["a"], square(value))


def test_read__shapes_stay_with_their_image(tmp_path):
    write(tmp_path, CAR)
    write_picture(tmp_path / "images" / "b.png")
    text = (tmp_path / "annotations.xml").read_text()
    second = f'<image name="b.png" width="{SIZE[1]}" height="{SIZE[0]}"></image>\n</annotations>'
    (tmp_path / "annotations.xml").write_text(text.replace("</annotations>", second))
    found = labels(read(tmp_path))
    assert (found["a"].max(), found["b"].max()) == (1, 0)


def test_read__subsets_and_what_has_no_area(tmp_path):
    found = read(write(tmp_path, CAR, '<points label="car" points="1,2"/>', '<tag label="road"/>', subset="Validation"))
    assert list(found.splits) == ["validation"]
    assert "annotations without an area, left out: 1 points" in found.notes


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (CAR.replace(POINTS, "1,2;3,4"), "at least 3 points in an outline; found 2 at `line 6`"),
        (CAR.replace(POINTS, "1,2;3,4;x,1"), "points as numbers"),
        (CAR.replace(POINTS, "1,2;3,4;inf,1"), "points in or near the picture"),
        (CAR.replace("points=", "p="), "`points` of the polygon; found none at `line 6`"),
        (CAR.replace('"car"', '"bus"'), "a label of the task's (car, road); found `bus` in line 6"),
        (CAR.replace('z_order="0"', 'z_order="a"'), "a whole number as `z_order`; found 'a' in line 6"),
        ('<mask label="car" rle="3, 4" left="0" top="0" width="3" height="3"/>', "run lengths of 3x3 = 9 pixels"),
        ('<mask label="car" rle="9" left="28" top="0" width="3" height="3"/>', "a mask inside the picture of 20x30"),
        ('<mask label="car" rle="9" left="-1" top="0" width="3" height="3"/>', "a mask inside the picture of 20x30"),
        ('<mask label="car" rle="9,x" left="0" top="0" width="3" height="3"/>', "whole numbers in a mask"),
        ('<box label="car" xtl="a" ytl="1" xbr="2" ybr="3"/>', "coordinates as numbers"),
        ('<ellipse label="car" cx="9" cy="8" rx="-5" ry="5"/>', "radii of 0 or more"),
        ('<track id="0" label="car"/>', 'found a track of "CVAT for video" in line 6'),
        ('<polyline label="car" points="1,2;3,4"/>', "found 1 of kind polyline; label areas"),
        ("<polygon", "XML; found not well-formed"),
        ("&undefined;", "XML; found undefined entity"),
    ],
)  # fmt: skip
def test_read__faults_name_the_file_and_the_line(tmp_path, shapes, message):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, shapes))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_read__a_doctype_is_refused_before_it_means_anything(tmp_path):
    laughs = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    head = f'<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY l0 "ha"><!ENTITY f SYSTEM "file:///etc/passwd">{laughs}]>\n'
    write(tmp_path, CAR.replace('"car"', '"&l9;"'), head=head)
    with pytest.raises(DataError, match=r"annotations.xml: expected XML without a DTD.*found <!DOCTYPE in line 2"):
        read(tmp_path / "annotations.xml")


@pytest.mark.parametrize(("key", "value"), [("width", "30.5"), ("height", ""), ("name", "")])
def test_read__faults_of_an_image(tmp_path, key, value):
    with pytest.raises(DataError, match=r"annotations\.xml: .*line 5"):
        read(write(tmp_path, CAR, **{key: value}))
