import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from made_pictures import write_pair

from hf_urbanseg.data.image_files import FEATURES, build_dataset, pair_folders
from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.sources import synthetic
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.palettes import COLORBLIND

REAL_DATA = Path(os.environ.get("HF_URBANSEG_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture
def kitti(tmp_path):
    """Eight frames in the official layout; the label of frame i is the id i + 7."""
    for index in range(8):
        training = tmp_path / "kitti" / "training"
        write_pair(training / "image_2", training / "semantic", f"{index:06d}_10", index + 7)
    return tmp_path / "kitti"


@pytest.fixture
def cityscapes(tmp_path):
    """Four train cities of five frames, one val city of two."""
    root = tmp_path / "cityscapes"
    for split, city, count in (
        *(("train", city, 5) for city in ("bremen", "jena", "ulm", "zurich")),
        ("val", "lindau", 2),
    ):
        for index in range(count):
            images, labels = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
            write_pair(images, labels, f"{city}_{index:06d}_000019", 7, "_leftImg8bit.png", "_gtFine_labelIds.png")
    return root


def sizes(loaded):
    return {split: len(rows) for split, rows in loaded.splits.items()}


def names(loaded, split):
    return list(loaded.splits[split]["name"])


def test_load_data__palette(kitti):
    own, other = load_data(data_dir=str(kitti)), load_data(data_dir=str(kitti), palette="colorblind")
    assert other.label_space.colors == COLORBLIND[:19]
    assert replace(other.label_space, colors=CITYSCAPES.colors) == own.label_space


def test_load_data__kitti(kitti):
    loaded = load_data(data_dir=str(kitti))
    assert (loaded.name, loaded.label_space) == ("kitti", CITYSCAPES)
    assert list(loaded.splits) == ["train", "validation", "test"]
    assert sizes(loaded) == {"train": 5, "validation": 1, "test": 2}
    assert loaded.notes == ("test: 2 of 8 frames, seed 0", "validation: 1 of 6 training frames, seed 0")
    for rows in loaded.splits.values():
        assert rows.features == FEATURES
        for row in rows:  # each image still has its own label
            assert np.unique(np.asarray(row["label"])).tolist() == [int(row["name"][:6]) + 7]


def test_load_data__default_kitti_split_never_changes(kitti):
    # Written down, because published numbers depend on it; from `printf 0/000001_10 | sha256sum` and so on.
    loaded = load_data(data_dir=str(kitti))
    assert names(loaded, "test") == ["000001_10", "000004_10"]
    assert names(loaded, "validation") == ["000006_10"]


def test_load_data__kitti_with_split_file(kitti, tmp_path):
    (tmp_path / "mine.yaml").write_text("train: [000003_10, 000001_10]\nvalidation: [000000_10]\n")
    loaded = load_data(data_dir=str(kitti), split_file=str(tmp_path / "mine.yaml"))
    assert names(loaded, "train") == ["000001_10", "000003_10"]
    assert names(loaded, "validation") == ["000000_10"]
    assert loaded.notes[1:] == ("split file: 5 of 8 frames are not listed and not used", "test: none")


def test_load_data__kitti_with_train_ids_and_a_tilde(kitti, monkeypatch):
    monkeypatch.setenv("HOME", str(kitti.parent))
    loaded = load_data(data_dir="~/kitti", label_space="cityscapes_train_ids")
    assert loaded.label_space == CITYSCAPES.with_train_ids()


def test_load_data__cityscapes(cityscapes):
    loaded = load_data(data_dir=str(cityscapes))
    assert sizes(loaded) == {"train": 15, "validation": 5, "test": 2}
    assert len({name.split("_")[0] for name in names(loaded, "validation")}) == 1  # a whole city
    assert names(loaded, "test") == ["lindau_000000_000019", "lindau_000001_000019"]
    assert loaded.notes[0].startswith("Cityscapes: the official val cities are our test")
    assert loaded.notes[1:] == ("validation: 5 of 20 training frames, seed 0",)


def test_load_data__described_folders(tmp_path):
    for split in ("train", "val"):
        for name in "abc":
            write_pair(tmp_path / split / "images", tmp_path / split / "labels", f"{split}_{name}", 3)
    loaded = load_data(data_dir=str(tmp_path), label_space="camvid")
    assert (loaded.name, loaded.label_space.num_labels) == ("camvid", 11)
    assert sizes(loaded) == {"train": 3, "validation": 3}
    assert names(loaded, "validation") == ["val_a", "val_b", "val_c"]
    assert loaded.notes == ("test: none",)


def test_load_data__one_described_pair_is_cut(tmp_path):
    for index in range(8):
        write_pair(tmp_path / "x", tmp_path / "y", f"{index}", 0, "_rgb.png", "_L.png")
    description = {"name": "mine", "classes": [{"name": "all", "color": [1, 2, 3]}], "images": "x", "labels": "y"}
    (tmp_path / "mine.yaml").write_text(json.dumps(description | {"image_suffix": "_rgb", "label_suffix": "_L"}))
    loaded = load_data(data_dir=str(tmp_path), label_space=str(tmp_path / "mine.yaml"), test_fraction=0.5)
    assert sizes(loaded) == {"train": 3, "validation": 1, "test": 4}
    assert sorted(name for split in loaded.splits for name in names(loaded, split)) == list("01234567")


def test_load_data__saved_set_brings_its_label_space(kitti, tmp_path):
    rows = build_dataset(pair_folders(kitti / "training" / "image_2", kitti / "training" / "semantic"))
    DatasetDict({"val": rows.select(range(2)), "train": rows.select(range(2, 8))}).save_to_disk(tmp_path / "mine")
    with pytest.raises(DataError, match=r"mine: expected label_space\.json or .*; found neither; .*`--label_space`"):
        load_data(data_dir=str(tmp_path / "mine"))
    (tmp_path / "mine" / "label_space.json").write_text(json.dumps(describe_label_space(CITYSCAPES)))
    loaded = load_data(data_dir=str(tmp_path / "mine"))
    assert (loaded.name, loaded.label_space) == ("mine", CITYSCAPES)
    assert sizes(loaded) == {"train": 6, "validation": 2}
    assert load_data(data_dir=str(tmp_path / "mine"), label_space="cityscapes").label_space == CITYSCAPES


def test_load_data__synthetic(monkeypatch):
    rows = Dataset.from_dict({"image": [None], "label": [None], "name": ["a"]}, features=FEATURES)
    monkeypatch.setattr(synthetic, "build_synthetic_splits", lambda: DatasetDict({"train": rows, "validation": rows}))
    loaded = load_data(dataset="synthetic")
    assert (loaded.name, loaded.label_space, sizes(loaded)) == ("synthetic", CITYSCAPES, {"train": 1, "validation": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either `data_dir` or `dataset`; found neither"),
        ({"data_dir": "a", "dataset": "b"}, "found both, `a` and `b`"),
        ({"data_dir": "nowhere"}, "nowhere: expected a folder or .zip archive; found no such path; correct"),
        ({"data_dir": "user/name"}, "user/name: expected a folder or .zip archive; found no such path; correct "
         "`--data_dir`, or give a Hub id as `--dataset`"),
        ({"dataset": "name"}, "a Hub id `user/name`, a folder or a .parquet file; found `name`, which is none"),
        ({"dataset": "/no/such/folder"}, "found `/no/such/folder`, which is none"),
        ({"dataset": "a", "test_fraction": 1.0}, "a: expected `test_fraction` from 0 to below 1; found 1.0"),
        ({"data_dir": "a", "validation_fraction": -0.1}, "`validation_fraction` from 0 to below 1; found -0.1"),
        ({"data_dir": "a", "validation_fraction": float("nan")}, "found nan"),
        ({"data_dir": "a", "streaming": True}, "a: expected a Hub id as `dataset` with `streaming`; found `a`; leave "
         "`--streaming` out"),
        ({"dataset": "synthetic", "dataset_revision": "v1"}, "a Hub id as `dataset` with `dataset_revision`; found"),
        ({"data_dir": "a", "dataset_config": "fine"}, "a: expected a Hub id as `dataset` with `dataset_config`"),
        ({"dataset": "synthetic", "dataset_config": "x"}, "a town of riverside, hillside, harbour; found `x`"),
        ({"dataset": ".", "dataset_revision": "v1"}, "with `dataset_revision`; found a local folder"),
    ],
)  # fmt: skip
def test_load_data__bad_arguments(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(**arguments)
    assert message in str(caught.value)


def test_load_data__unknown_layout_says_what_was_looked_for(tmp_path):
    (tmp_path / "frames").mkdir()
    with pytest.raises(DataError) as caught:
        load_data(data_dir=str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}: expected dataset_dict.json (a saved set), or folders of a")
    assert "training/image_2 and training/semantic (KITTI), or leftImg8bit and gtFine (Cityscapes)" in str(caught.value)
    assert "found frames; check `--data_dir`, or describe the folders in a YAML file" in str(caught.value)


def test_load_data__the_folder_inside_is_meant(kitti, cityscapes):
    cityscapes.rename(kitti / "cityscapes")
    (kitti / "training").rename(kitti / "other")
    with pytest.raises(DataError, match=r"found cityscapes, other; give `--data_dir .*kitti/cityscapes`"):
        load_data(data_dir=str(kitti))


def test_load_data__a_file_that_is_no_archive(tmp_path):
    (tmp_path / "image.png").touch()
    with pytest.raises(
        DataError, match=r"image\.png: expected a folder, a \.zip archive or an .*; found a file of another kind"
    ):
        load_data(data_dir=str(tmp_path / "image.png"))


def test_load_data__described_folders_that_are_missing(tmp_path):
    with pytest.raises(DataError, match=r"train/images: expected a folder of images; found no such folder"):
        load_data(data_dir=str(tmp_path), label_space="camvid")


def test_load_data__unreadable_folder(kitti):
    (kitti / "training" / "semantic").rename(kitti / "labels")
    (kitti / "training" / "semantic").symlink_to(kitti / "training" / "semantic")  # a loop; permissions don't bind root
    with pytest.raises(DataError, match="kitti"):
        load_data(data_dir=str(kitti))
    with pytest.raises(DataError, match="expected data that can be read; found File name too long"):
        load_data(data_dir="x" * 5000)


def test_load_data__one_frame_is_too_few(tmp_path):
    write_pair(tmp_path / "training" / "image_2", tmp_path / "training" / "semantic", "000000_10")
    with pytest.raises(DataError, match="at least two frames or scenes to split; found 1 frames in 1 scene"):
        load_data(data_dir=str(tmp_path))


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL_DATA / "kitti48").is_dir(), reason=f"no KITTI frames at {REAL_DATA / 'kitti48'}")
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_load_data__real_kitti_keeps_one_scene_on_one_side(seed):
    scene = {f"{index:06d}_10" for index in (43, 44, 46, 47)}
    loaded = load_data(data_dir=str(REAL_DATA / "kitti48"), keep_together=[",".join(scene)], split_seed=seed)
    assert sizes(loaded) == {"train": 32, "validation": 4, "test": 12}
    assert sum(bool(scene & set(names(loaded, split))) for split in loaded.splits) == 1


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL_DATA / "camvid").is_dir(), reason=f"no CamVid frames at {REAL_DATA / 'camvid'}")
@pytest.mark.parametrize("label_space", ["camvid", "camvid_as_cityscapes"])
def test_load_data__real_camvid(label_space):
    loaded = load_data(data_dir=str(REAL_DATA / "camvid"), label_space=label_space)
    assert sizes(loaded) == {"train": 367, "validation": 101}
    row = loaded.splits["validation"][0]
    assert row["image"].size == row["label"].size == (480, 360)
    assert loaded.label_space.value_table[np.unique(np.asarray(row["label"]))].all()
