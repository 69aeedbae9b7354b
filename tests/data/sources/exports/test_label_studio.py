import numpy as np
import pytest
from made_exports import SIZE, SQUARE, labels, read, square, write_json, write_picture

from hf_urbanseg.data.sources.exports.label_studio import unpack_brush
from hf_urbanseg.errors import DataError

PERCENT = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in SQUARE]
POLYGON = {"points": PERCENT, "closed": True, "polygonlabels": ["car"]}
CORNER, SIDES = {"x": PERCENT[0][0], "y": PERCENT[0][1]}, {"width": 1000 / SIZE[1], "height": 1000 / SIZE[0]}


def pack(mask, lengths=(3, 4, 8, 16)) -> list[int]:
    """A mask as a brush, in pieces of both kinds and of every length."""
    values = np.repeat(255 * mask.astype(np.uint8)[..., None], 4, 2)
    values[..., :3] = 77  # what the colour is doesn't matter
    values = values.ravel().tolist()
    bits = [f"{len(values):032b}", f"{7:05b}", *(f"{one - 1:04b}" for one in lengths)]
    place, turn = 0, 0
    while place < len(values):
        count = 1
        while place + count < len(values) and count < 200 and values[place + count] == values[place]:
            count += 1
        kind = turn % 4 if count <= 2 ** lengths[turn % 4] else 3
        if count > 1:
            bits += ["1", f"{kind:02b}", f"{count - 1:0{lengths[kind]}b}", f"{values[place]:08b}"]
        else:
            count = min(2 ** lengths[kind], 300, len(values) - place)
            bits += ["0", f"{kind:02b}", f"{count - 1:0{lengths[kind]}b}"]
            bits += [f"{one:08b}" for one in values[place : place + count]]
        place, turn = place + count, turn + 1
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def result(value, **changes):
    return {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0, "value": value} | changes


def task(*results, image="/data/upload/1/0123abcd-a.png", **changes):
    return {"id": 1, "annotations": [{"id": 2, "result": list(results)}], "data": {"image": image}} | changes


def write(folder, *tasks):
    for name in "ab":
        write_picture(folder / f"{name}.png")
    write_json(folder / "project.json", list(tasks))
    return folder


def test_unpack_brush__as_painted():
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 5), (40, 60)):
        for share in (0, 0.3, 1):
            mask = rng.random(size) < share
            mask[: size[0] // 2] = True
            np.testing.assert_array_equal(unpack_brush(size, pack(mask)), mask)


@pytest.mark.parametrize(
    "value",
    [
        POLYGON,
        CORNER | SIDES | {"rotation": 0, "rectanglelabels": ["car"]},
        {"x": PERCENT[1][0], "y": PERCENT[1][1], "width": 1000 / SIZE[1], "height": 1000 / SIZE[0], "rotation": 90,
         "rectanglelabels": ["car"]},
        {"format": "rle", "rle": pack(square() > 0), "brushlabels": ["car"]},
        {"points": PERCENT, "labels": ["car"]},
    ],
)  # fmt: skip
def test_read__every_kind_of_area(tmp_path, value):
    found = read(write(tmp_path, task(result(value))))
    assert found.label_space.names == ("background", "car")
    np.testing.assert_array_equal(labels(found)["a"], square())


def test_read__an_ellipse(tmp_path):
    center = {"x": 100 * 9 / SIZE[1], "y": 100 * 8 / SIZE[0]}
    value = center | {"radiusX": 500 / SIZE[1], "radiusY": 500 / SIZE[0], "rotation": 45, "ellipselabels": ["car"]}
    mask = labels(read(write(tmp_path, task(result(value)))))["a"]
    assert not (mask & ~square()).any()
    assert abs(int(mask.sum()) - np.pi * 25) < 6


def test_read__which_annotation_of_a_task_counts(tmp_path):
    """Not a cancelled one; of several the ground truth; a task without one is not background but left out."""
    other = {"result": [result(POLYGON | {"polygonlabels": ["bus"]})]}
    right = {"result": [result(POLYGON)]}
    cancelled = task(annotations=[other | {"was_cancelled": True}, right])
    found = read(write(tmp_path, cancelled, task(annotations=[], image="b.png")))
    assert {name: label.max() for name, label in labels(found).items()} == {"a": 1}
    assert "tasks without an annotation, left out: 1" in found.notes
    truth = task(annotations=[right, other | {"ground_truth": True}])
    assert read(write(tmp_path, truth, task(image="b.png"))).label_space.names == ("background", "bus")
    with pytest.raises(DataError, match=r"one annotation of the task at `/0`; found 2; mark one as ground truth"):
        read(write(tmp_path, task(annotations=[right, other])))


def test_read__what_is_no_shape(tmp_path):
    point = result({"x": 1, "y": 2, "width": 0.3, "keypointlabels": ["car"]})
    choice = result({"choices": ["sunny"]})
    found = read(write(tmp_path, task(choice, result(POLYGON), point, {"type": "relation"})))
    assert "annotations without an area, left out: 1 keypoint" in found.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": POLYGON | {"points": PERCENT[:2]}}, "found 2 at `/0/annotations/0/result/0/value`"),
        ({"value": POLYGON | {"points": None}}, "points"),
        ({"value": POLYGON | {"polygonlabels": ["car", "bus"]}}, "one label of a shape; found ['car', 'bus'] at `/0/"),
        ({"value": POLYGON | {"polygonlabels": "car"}}, "a list at `/0/annotations/0/result/0/value/polygonlabels`"),
        ({"value": POLYGON, "image_rotation": 90}, "labelled upright; found one turned by 90 degrees"),
        ({"value": POLYGON, "original_width": 31}, "a picture of 20x31"),
        ({"value": POLYGON, "original_width": None}, "a whole number at `/0/annotations/0/result/0/original_width`"),
        ({"value": {"rle": 10**9, "brushlabels": ["car"]}}, "`rle` as a list of bytes"),
        ({"value": {"rle": [300], "brushlabels": ["car"]}}, "`rle` as a list of bytes"),
        ({"value": {"rle": [], "brushlabels": ["car"]}}, "`rle` of a whole brush; found one that is cut short"),
        ({"value": {"rle": pack(square() > 0)[:-9], "brushlabels": ["car"]}}, "`rle` of a whole brush"),
        ({"value": {"rle": pack(np.ones((3, 3))), "brushlabels": ["car"]}}, "`rle` of 20x30 pixels of 4 values"),
        ({"value": CORNER | SIDES | {"width": None, "rectanglelabels": ["car"]}}, "coordinates as numbers"),
        ({"value": CORNER | SIDES | {"rotation": "x", "rectanglelabels": ["car"]}}, "coordinates as numbers"),
        ({"value": {"width": 1, "x": 1, "y": 1, "keypointlabels": ["car"]}}, "found 1 of kind keypoint"),
    ],
)  # fmt: skip
def test_read__faults_name_the_file_and_the_place(tmp_path, change, message):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, task(result(**change) if "value" in change else change)))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (task(data={}), "one picture at `/0/data`; found none"),
        (task(data={"a": "a.png", "b": "b.png"}), "one picture at `/0/data`; found a.png, b.png"),
        (task(data=3), "an object at `/0/data`"),
        (task(annotations=[3]), "objects at `/0/annotations`"),
        (task(annotations=[{}]), "a list at `/0/annotations/0/result`"),
        (task(image="c.png"), "one picture `c.png` (`/0/data`) below"),
    ],
)
def test_read__faults_of_a_task(tmp_path, content, message):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, content))
    assert message in str(caught.value)
