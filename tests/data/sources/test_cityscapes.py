import shutil

import numpy as np
import pytest
from made_pictures import write_flat

from hf_urbanseg.data.sources import cityscapes
from hf_urbanseg.data.sources.request import DataRequest
from hf_urbanseg.errors import DataError


@pytest.fixture
def root(tmp_path):
    """The official layout: two train cities, one val city, one unlabelled test city."""
    for split, city, count in (("train", "aachen", 2), ("train", "ulm", 1), ("val", "lindau", 2), ("test", "bonn", 1)):
        for sequence in range(count):
            frame = f"{city}_{sequence:06d}_000019"
            write_flat(tmp_path / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png", (4, 8, 3))
            for end, shape, value in (("color", (4, 8, 3), 0), ("labelIds", (4, 8), 7), ("labelTrainIds", (4, 8), 0)):
                write_flat(tmp_path / "gtFine" / split / city / f"{frame}_gtFine_{end}.png", shape, value)
    return tmp_path


def read(root, label_space_name=None):
    request = DataRequest(root, label_space_name=label_space_name)
    assert cityscapes.matches(request)
    return cityscapes.load(request)


def test_matches__either_folder(root):
    assert cityscapes.matches(DataRequest(root))
    shutil.rmtree(root / "leftImg8bit")
    assert cityscapes.matches(DataRequest(root))
    shutil.rmtree(root / "gtFine")
    assert not cityscapes.matches(DataRequest(root))


def test_load__val_is_our_test_and_the_official_test_is_left_out(root):
    found = read(root)
    assert {split: list(rows["name"]) for split, rows in found.splits.items()} == {
        "train": ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"],
        "test": ["lindau_000000_000019", "lindau_000001_000019"],
    }
    assert np.unique(np.asarray(found.splits["train"][0]["label"])).tolist() == [7]
    assert found.scenes == [["aachen_000000_000019", "aachen_000001_000019"], ["ulm_000000_000019"]]
    assert found.name == "cityscapes"


def test_load__train_id_files(root):
    found = read(root, "cityscapes_train_ids")
    assert np.unique(np.asarray(found.splits["train"][0]["label"])).tolist() == [0]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("color", r"`\*_gtFine_labelIds\.png`; found only kinds color; unpack .*; the colours can't replace it"),
        ("color labelTrainIds", "only kinds color, labelTrainIds; say `--label_space cityscapes_train_ids`"),
        (
            "color polygons",
            "only kinds color, polygons; make them: IDD's by its createLabels.py, Cityscapes' by",
        ),
        ("instanceIds", "only kinds instanceIds; unpack gtFine_trainvaltest.zip"),
    ],
)
def test_load__label_files_of_other_kinds(root, kinds, message):
    for file in root.glob("gtFine/*/*/*"):
        for kind in kinds.split():
            file.with_name(f"{file.stem.rpartition('_')[0]}_{kind}.{'json' if kind == 'polygons' else 'png'}").touch()
        if file.stem.rpartition("_")[2] not in kinds.split():
            file.unlink()
    with pytest.raises(DataError, match=message):
        read(root)


@pytest.mark.parametrize(("lost", "left"), [("val", "train"), ("train", "test")])
def test_load__one_of_them_alone(root, lost, left):
    shutil.rmtree(root / "leftImg8bit" / lost)
    assert list(read(root).splits) == [left]


def test_load__frame_without_label(root):
    (root / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match=r"aachen_000001_000019_leftImg8bit\.png: expected a label .* none for 1 of 2"):
        read(root)


@pytest.mark.parametrize("lost", ["leftImg8bit/train/ulm", "gtFine/train/ulm", "gtFine/val"])
def test_load__city_without_counterpart(root, lost):
    shutil.rmtree(root / lost)
    with pytest.raises(DataError, match=f"{lost}.*: expected a folder of images; found no such folder"):
        read(root)


def test_load__only_the_unlabelled_test(root):
    shutil.rmtree(root / "leftImg8bit" / "train")
    shutil.rmtree(root / "leftImg8bit" / "val")
    with pytest.raises(DataError, match="leftImg8bit/train or leftImg8bit/val; found neither"):
        read(root)
