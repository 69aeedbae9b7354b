import numpy as np
import pytest
from made_exports import SIZE, SQUARE, labels, read, square, write_picture

from hf_urbanseg.errors import DataError

ROW = "1 " + " ".join(f"{x / SIZE[1]:.8f} {y / SIZE[0]:.8f}" for x, y in SQUARE)


def write(folder, split="train", name="a", rows=ROW, images="images/{}", content=None):
    """A picture with its rows (None: no file) and a data.yaml of that split."""
    at = folder / images.format(split)
    write_picture(at / f"{name}.png")
    texts = folder / images.format(split).replace("images", "labels")
    texts.mkdir(parents=True, exist_ok=True)
    (texts / "other.txt").touch()
    if rows is not None:
        (texts / f"{name}.txt").write_text(rows)
    (folder / "data.yaml").write_text(content or f"names: [car, road]\n{split}: {images.format(split)}\n")
    return folder


@pytest.mark.parametrize(
    "content",
    [
        "names: [car, road]\ntrain: images/train\nval: images/val\n",
        "path: /content/set\nnames: {0: car, 1: road}\ntrain: /content/set/images/train\nval: ['images/val']\ntest:\n",
        "train: ../images/train\nval: ..\\images\\val\ntest: ../test/images\nnc: 2\nnames:\n- car\n- road\n",
        "train: train.txt\nval: val.txt\nnames: [car, road]\n",
    ],
)
def test_read__splits_of_all_spellings(tmp_path, content):
    write(tmp_path, "val", "b", rows=None)
    write(tmp_path, content=content)
    if ".txt" in content:
        (tmp_path / "train.txt").write_text("./images/train/a.png\n\n")
        (tmp_path / "val.txt").write_text("/home/eve/set/images/val/b.png\n")
    found = read(tmp_path)
    assert found.label_space.names == ("background", "car", "road")
    np.testing.assert_array_equal(labels(found, "train")["a"], square(2))
    assert not labels(found, "validation")["b"].any()
    assert "frames without a shape, the rest alone: 1" in found.notes


def test_read__folders_of_splits_with_images_inside(tmp_path):
    """As Roboflow writes them."""
    write(tmp_path, "valid", "b", images="{}/images")
    content = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [car, road]\n"
    write(tmp_path, images="{}/images", content=content)
    found = read(tmp_path)
    np.testing.assert_array_equal(labels(found, "train")["a"], square(2))
    np.testing.assert_array_equal(labels(found, "validation")["b"], square(2))


def test_read__without_splits_and_with_boxes(tmp_path):
    found = read(write(tmp_path, rows=f"0 .5 .5 .1 .1\n\n{ROW}\n", content="names: [car, road]\n"))
    np.testing.assert_array_equal(labels(found)["a"], square(2))
    assert "annotations without an area, left out: 1 box" in found.notes


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (f"{ROW}\n2 0 0 1 1 0 1", "the number of a class, 0..1; found `2` in line 2"),
        ("car 0 0 1 1 0 1", "the number of a class, 0..1; found `car` in line 1"),
        ("0 0 0 1 1 0", "points of x and y; found an array of 5 numbers at `line 1`"),
        ("0 .1 .2", "at least 3 points in an outline; found 1 at `line 1`"),
        ("0 .1 .2 x .3 .4 .5", "coordinates as numbers"),
        ("0 .1 .2 nan .3 .4 .5", "coordinates as numbers"),
        ("0 10 20 100 20 100 300", "coordinates as shares of the picture, 0..1; found 10..300 at `line 1`"),
        ("0 .5 .5 .1 .1", "found 1 of kind box, which is detection data"),
    ],
)  # fmt: skip
def test_read__faults_name_the_file_and_the_line(tmp_path, rows, message):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, rows=rows))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: car\ntrain: images/train\n", "`names` as a list of words"),
        ("names: {1: car, 2: road}\ntrain: images/train\n", "`names` as a list of words, or by number from 0"),
        ("names: [car, car]\ntrain: images/train\n", "every name once; found `car` again"),
        ("names: [car, road]\ntrain: /content/train/images\n", "the folder or list `/content/train/images` of `train`"),
        ("names: [car, road]\ntrain: nowhere\n", "the folder or list `nowhere` of `train`; found none"),
        ("names: [car, road]\ntrain: {}\nval: 3\n", "folders or lists under `val`; found 3"),
        ("names: [car, road]\ntrain: images/train\nval: images/train\n", "every picture once in the export"),
    ],
)
def test_read__faults_of_the_yaml(tmp_path, content, message):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, content=content))
    assert message in str(caught.value)


def test_read__no_file_outside_is_read(tmp_path):
    """A folder called images around the data: its labels are not those of the pictures."""
    (tmp_path / "labels" / "set").mkdir(parents=True)
    (tmp_path / "labels" / "set" / "a.txt").write_text("9 secret")
    write_picture(tmp_path / "images" / "set" / "a.png")
    write(tmp_path / "images" / "set", name="b", content="names: [car, road]\n")
    assert not labels(read(tmp_path / "images" / "set"))["a"].any()
