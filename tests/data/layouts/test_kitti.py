import shutil

import numpy as np
import pytest
from PIL import Image

from hf_urbanseg.data.layouts.kitti import find_kitti, load_kitti
from hf_urbanseg.errors import DataError


@pytest.fixture
def training(tmp_path):
    """The official folder `training` with two frames."""
    for folder, shape in (("image_2", (4, 6, 3)), ("semantic", (4, 6)), ("semantic_rgb", (4, 6, 3))):
        (tmp_path / "training" / folder).mkdir(parents=True)
        for frame, value in (("000000_10", 7), ("000001_10", 26)):
            Image.fromarray(np.full(shape, value, np.uint8)).save(tmp_path / "training" / folder / f"{frame}.png")
    return tmp_path / "training"


def test_find_kitti__itself_parent_or_grandparent(training, tmp_path):
    assert find_kitti(training) == training
    assert find_kitti(tmp_path) == training
    (tmp_path / "home").mkdir()
    shutil.move(training, tmp_path / "home" / "data_semantics" / "training")
    assert find_kitti(tmp_path / "home") == tmp_path / "home" / "data_semantics" / "training"


@pytest.mark.parametrize("inside", ["", "data_semantics"])
def test_find_kitti__archive_or_its_folder(training, tmp_path, monkeypatch, inside):
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "root" / inside).mkdir(parents=True)
    shutil.move(training, tmp_path / "root" / inside / "training")
    (tmp_path / "download").mkdir()
    archive = shutil.make_archive(str(tmp_path / "download" / "data_semantics"), "zip", tmp_path / "root")
    for given in (type(tmp_path)(archive), tmp_path / "download"):
        dataset = load_kitti(find_kitti(given))
        assert list(dataset["name"]) == ["000000_10", "000001_10"]
        assert np.asarray(dataset[1]["label"]).tolist() == [[26] * 6] * 4


def test_find_kitti__something_else(tmp_path):
    (tmp_path / "images").mkdir()
    assert find_kitti(tmp_path) is None


def test_load_kitti__pairs_images_with_label_ids(training):
    dataset = load_kitti(training)
    assert list(dataset["name"]) == ["000000_10", "000001_10"]
    assert (dataset[0]["image"].mode, dataset[0]["label"].mode) == ("RGB", "L")
    assert np.asarray(dataset[0]["label"]).tolist() == [[7] * 6] * 4


def test_load_kitti__labels_missing_altogether(training, tmp_path):
    shutil.rmtree(training / "semantic")
    with pytest.raises(DataError, match="training/semantic: expected a folder of images; found no such folder"):
        load_kitti(find_kitti(tmp_path))
