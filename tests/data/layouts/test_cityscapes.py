import shutil

import numpy as np
import pytest
from PIL import Image

from hf_urbanseg.data.layouts.cityscapes import find_cityscapes, group_by_city, load_cityscapes
from hf_urbanseg.errors import DataError


@pytest.fixture
def root(tmp_path):
    """The official layout: two train cities, one val city, one unlabelled test city."""
    for split, city, count in (("train", "aachen", 2), ("train", "ulm", 1), ("val", "lindau", 2), ("test", "bonn", 1)):
        for sequence in range(count):
            frame = f"{city}_{sequence:06d}_000019"
            write(tmp_path / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", (4, 8, 3), 0)
            write(tmp_path / "gtFine" / split / city / f"{frame}_gtFine_color.png", (4, 8, 3), 0)
            write(tmp_path / "gtFine" / split / city / f"{frame}_gtFine_labelIds.png", (4, 8), 7)
            write(tmp_path / "gtFine" / split / city / f"{frame}_gtFine_labelTrainIds.png", (4, 8), 0)
    return tmp_path


def write(path, shape, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def test_find_cityscapes__either_folder(root):
    assert find_cityscapes(root) == root
    shutil.rmtree(root / "leftImg8bit")
    assert find_cityscapes(root) == root
    shutil.rmtree(root / "gtFine")
    assert find_cityscapes(root) is None


def test_load_cityscapes__val_is_our_test_and_the_official_test_is_left_out(root):
    found = load_cityscapes(root)
    assert {split: list(rows["name"]) for split, rows in found.items()} == {
        "train": ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"],
        "test": ["lindau_000000_000019", "lindau_000001_000019"],
    }
    assert np.unique(np.asarray(found["train"][0]["label"])).tolist() == [7]


def test_load_cityscapes__train_id_files(root):
    found = load_cityscapes(root, "_gtFine_labelTrainIds")
    assert np.unique(np.asarray(found["train"][0]["label"])).tolist() == [0]


def test_load_cityscapes__train_alone(root):
    shutil.rmtree(root / "leftImg8bit" / "val")
    assert list(load_cityscapes(root)) == ["train"]


def test_load_cityscapes__frame_without_label(root):
    (root / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"aachen_000001_000019_leftImg8bit\.png: expected a label .* none for 1 of 2"):
        load_cityscapes(root)


@pytest.mark.parametrize("lost", ["leftImg8bit/train/ulm", "gtFine/train/ulm", "gtFine/val"])
def test_load_cityscapes__city_without_counterpart(root, lost):
    shutil.rmtree(root / lost)
    with pytest.raises(DataError, match=f"{lost}.*: expected a folder of images; found no such folder"):
        load_cityscapes(root)


def test_load_cityscapes__only_the_unlabelled_test(root):
    shutil.rmtree(root / "leftImg8bit" / "train")
    shutil.rmtree(root / "leftImg8bit" / "val")
    with pytest.raises(DataError, match="leftImg8bit/train or leftImg8bit/val; found neither"):
        load_cityscapes(root)


def test_group_by_city():
    assert group_by_city(["ulm_000000_000019", "bonn_1_2", "ulm_000001_000019"]) == [
        ["ulm_000000_000019", "ulm_000001_000019"],
        ["bonn_1_2"],
    ]
