import shutil

import numpy as np
import pytest
from made_pictures import write_flat

from hf_urbanseg.data.sources import kitti
from hf_urbanseg.data.sources.request import DataRequest
from hf_urbanseg.errors import DataError


@pytest.fixture
def training(tmp_path):
    """The official folder `training` with two frames."""
    for folder, channels in (("image_2", (3,)), ("semantic", ()), ("semantic_rgb", (3,))):
        for frame, value in (("000000_10", 7), ("000001_10", 26)):
            write_flat(tmp_path / "training" / folder / f"{frame}.png", (4, 6, *channels), value)
    return tmp_path / "training"


def read(path):
    request = DataRequest(path)
    assert kitti.matches(request)
    found = kitti.load(request)
    assert (list(found.splits), found.name, found.final_notes) == (["all"], "kitti", None)
    return found.splits["all"]


def test_load__pairs_images_with_label_ids(training):
    rows = read(training)
    assert list(rows["name"]) == ["000000_10", "000001_10"]
    assert (rows[0]["image"].mode, rows[0]["label"].mode) == ("RGB", "L")
    assert np.asarray(rows[0]["label"]).tolist() == [[7] * 6] * 4


def test_load__parent_or_grandparent(training, tmp_path):
    assert len(read(tmp_path)) == 2
    (tmp_path / "home").mkdir()
    shutil.move(training, tmp_path / "home" / "data_semantics" / "training")
    assert len(read(tmp_path / "home")) == 2


@pytest.mark.parametrize("inside", ["", "data_semantics"])
def test_load__archive_or_its_folder(training, tmp_path, inside):
    (tmp_path / "root" / inside).mkdir(parents=True)
    shutil.move(training, tmp_path / "root" / inside / "training")
    (tmp_path / "download").mkdir()
    archive = shutil.make_archive(str(tmp_path / "download" / "data_semantics"), "zip", tmp_path / "root")
    for given in (type(tmp_path)(archive), tmp_path / "download"):
        rows = read(given)
        assert list(rows["name"]) == ["000000_10", "000001_10"]
        assert np.asarray(rows[1]["label"]).tolist() == [[26] * 6] * 4


def test_matches__nothing_else(tmp_path):
    (tmp_path / "images").mkdir()
    assert not kitti.matches(DataRequest(tmp_path))
    assert not kitti.matches(DataRequest(dataset="user/name"))


def test_load__labels_missing_altogether(training, tmp_path):
    shutil.rmtree(training / "semantic")
    with pytest.raises(DataError, match="training/semantic: expected a folder of images; found no such folder"):
        read(tmp_path)


def test_load__frames_of_a_drive_stay_together(training, tmp_path):
    for frame in ("000002_10", "000003_10"):
        for folder in ("image_2", "semantic"):
            shutil.copy(training / folder / "000000_10.png", training / folder / f"{frame}.png")
    mapping = tmp_path / "devkit_scene_flow" / "mapping" / "train_mapping.txt"
    mapping.parent.mkdir(parents=True)
    drive = "2011_09_26 2011_09_26_drive_0005_sync"
    mapping.write_text(f"{drive} 0000000059\n\n{drive} 0000000079\n2011_09_26 2011_09_26_drive_0009_sync 0000000010\n")
    for given in (tmp_path, training):
        found = kitti.load(DataRequest(given))
        assert found.scenes == [["000000_10", "000002_10"]]
        assert found.notes == ["scenes: 3 of 4 frames are of 2 drives, as train_mapping.txt says"]
    mapping.write_text("0000000059\n")
    with pytest.raises(DataError, match=r"train_mapping.txt: .*found `0000000059` in line 1"):
        kitti.load(DataRequest(tmp_path))
