import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from prepared_sets import in_a_folder_of_its_own, png, refused, run, small_kitti, undecoded  # noqa: F401

from hf_urbanseg.data import prepared_sets
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.prepared_sets import write_prepared_set
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES


def test_main__loads_back_with_the_same_pixels_labels_and_splits(kitti, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared/kitti", "--split_seed", "3")
    source, loaded = load_data(data_dir=str(kitti), split_seed=3), load_data(data_dir="prepared/kitti")
    assert (loaded.name, loaded.label_space) == ("kitti", source.label_space) == ("kitti", CITYSCAPES)
    assert loaded.notes == source.notes
    assert list(loaded.splits) == list(source.splits) == ["train", "validation", "test"]
    for split, rows in loaded.splits.items():
        assert list(rows["name"]) == list(source.splits[split]["name"])
        for column, folder, suffix in (("image", "image_2", "jpg"), ("label", "semantic", "png")):
            for name, stored in zip(rows["name"], undecoded(rows, column), strict=True):
                file = kitti / "training" / folder / f"{name}.{suffix}"
                assert stored == {"bytes": file.read_bytes(), "path": None}
        for row, original in zip(rows, source.splits[split], strict=True):
            assert row["label"].mode == original["label"].mode == ("P" if int(row["name"][:6]) % 2 else "L")
            np.testing.assert_array_equal(np.asarray(row["label"]), np.asarray(original["label"]))
    assert "train           3 frames\n" in capsys.readouterr().out


def test_main__needs_nothing_of_the_source(kitti, tmp_path, monkeypatch):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared/kitti")
    for path in (tmp_path / "prepared").rglob("*"):
        assert str(tmp_path).encode() not in (path.read_bytes() if path.is_file() else b""), path
    (tmp_path / "prepared").rename(tmp_path / "moved")
    kitti.rename(tmp_path / "gone")
    assert load_data(data_dir="moved/kitti").splits["train"][0]["image"].size == (12, 8)


def test_main__inside_the_image_folder(kitti, monkeypatch):
    # `datasets` takes a picture's bytes for superfluous if a file of its path exists: image and label share names.
    monkeypatch.chdir(kitti / "training" / "semantic")
    run(monkeypatch, "--data_dir", kitti, "--output", kitti.parent / "prepared")
    rows = load_data(data_dir=str(kitti.parent / "prepared")).splits["train"]
    assert all(row["label"].mode in "LP" and row["image"].mode == "RGB" for row in rows)
    assert max(np.asarray(row["label"]).max() for row in rows) == 33


def test_main__writes_a_split_file_that_serves_the_source(kitti, monkeypatch):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared", "--split_seed", "5")
    again = load_data(data_dir=str(kitti), split_file="prepared/splits.yaml")
    first = load_data(data_dir=str(kitti), split_seed=5)
    assert {s: list(r["name"]) for s, r in again.splits.items()} == {
        s: list(r["name"]) for s, r in first.splits.items()
    }


def test_main__shows_the_labels_and_their_shares(kitti, tmp_path, monkeypatch, capsys):
    """Of the 6 x 96 pixels; the picture is in the README and in nobody's way."""
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared")
    rows = [np.asarray(row["label"]) for split in load_data(data_dir="prepared").splits.values() for row in split]
    cars, roads = ([np.count_nonzero(label == label_id) for label in rows] for label_id in (26, 7))
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, counts in (("car", cars), ("road", roads)):
        share, seen = f"{sum(counts) / (6 * 96):.2%}", str(np.count_nonzero(counts))
        assert [share, "of", "the", "pixels,", "in", seen, "frames", name] in shown
    assert "![frames and their labels](samples.png)" in (tmp_path / "prepared" / "README.md").read_text()
    assert PillowImage.open(tmp_path / "prepared" / "samples.png").size[0] > 400


@pytest.mark.parametrize("space", ["camvid", "camvid_as_cityscapes"])
def test_main__camvid_is_known_by_its_label_space(tmp_path, monkeypatch, space):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "camvid" / split / kind).mkdir(parents=True)
        for index in range(2):
            image = PillowImage.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8))
            image.save(tmp_path / "camvid" / split / "images" / f"{split}{index}.jpg")
            label = rng.integers(0, 12, (8, 12)).astype(np.uint8)
            (tmp_path / "camvid" / split / "labels" / f"{split}{index}.png").write_bytes(png(label))
    run(monkeypatch, "--data_dir", "camvid", "--label_space", space, "--output", "prepared")
    assert json.loads(Path("prepared/source.json").read_text())["origin"] == "camvid"


def test_main__readme_has_counts_and_notes(kitti, monkeypatch):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared")
    text = (kitti.parent / "prepared" / "README.md").read_text()
    assert "| train | 3 |\n| validation | 1 |\n| test | 2 |\n" in text
    assert "- test: 2 of 6 frames, seed 0\n- validation: 1 of 4 training frames, seed 0\n" in text


def test_main__splits_are_final(kitti, monkeypatch, tmp_path):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared", "--validation_fraction", "0")
    loaded = load_data(data_dir="prepared", validation_fraction=0.5)  # nobody cuts what was left whole
    assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": 4, "test": 2}
    assert loaded.notes == ("test: 2 of 6 frames, seed 0", "validation: none")
    (tmp_path / "mine.yaml").write_text("train: [000000_10, 000001_10, 000002_10]\n")
    loaded = load_data(data_dir="prepared", split_file="mine.yaml", validation_fraction=0.5)
    assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": 1, "validation": 2}
    assert loaded.notes[0] == "splits: as listed in mine.yaml"


def test_main__existing_set_stays_without_overwrite(kitti, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared")
    before = (tmp_path / "prepared" / "splits.yaml").read_bytes()
    line = refused(capsys, monkeypatch, "--data_dir", kitti, "--output", "prepared", "--split_seed", "9")
    assert line.endswith(
        "prepared: expected a new folder to write; found a prepared set; choose another or add `--overwrite`."
    )
    assert (tmp_path / "prepared" / "splits.yaml").read_bytes() == before
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared", "--split_seed", "9", "--overwrite")
    assert (tmp_path / "prepared" / "splits.yaml").read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "kitti", "prepared"]


def test_main__overwrite_never_replaces_other_folders(kitti, tmp_path, monkeypatch, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    line = refused(capsys, monkeypatch, "--data_dir", kitti, "--output", "home", "--overwrite")
    assert "found something else there already; choose another `--output`" in line
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_main__a_set_can_replace_itself(kitti, tmp_path, monkeypatch):
    run(monkeypatch, "--data_dir", kitti, "--output", "prepared")
    source = json.loads(Path("prepared/source.json").read_text())
    assert (source["origin"], source["notes"][0]) == ("kitti", "test: 2 of 6 frames, seed 0")
    run(monkeypatch, "--data_dir", "prepared", "--output", "prepared", "--overwrite")
    assert json.loads(Path("prepared/source.json").read_text()) == source
    loaded = load_data(data_dir="prepared")
    assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": 3, "validation": 1, "test": 2}
    assert np.unique(np.asarray(loaded.splits["train"][0]["label"])).tolist() == [0, 7, 8, 11, 26, 33]


def test_main__bad_label_writes_nothing(kitti, tmp_path, monkeypatch, capsys):
    bad = kitti / "training" / "semantic" / "000002_10.png"
    PillowImage.fromarray(np.full((8, 12), 200, np.uint8)).save(bad)
    line = refused(capsys, monkeypatch, "--data_dir", kitti, "--output", "new/prepared")
    assert line.startswith(f"error: {bad}: ")
    assert not (tmp_path / "new").exists()


def test_main__no_output_option(kitti, monkeypatch, capsys):
    assert "--output" in refused(capsys, monkeypatch, "--data_dir", kitti)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError("No space left on device")])
def test_write_prepared_set__interrupted_leaves_the_old_set(kitti, tmp_path, monkeypatch, fault):
    loaded = load_data(data_dir=str(kitti))
    output = tmp_path / "prepared"
    write_prepared_set(loaded, output)
    before = (output / "splits.yaml").read_bytes()

    def fail(path, splits):
        raise fault

    monkeypatch.setattr(prepared_sets, "write_split_file", fail)
    with pytest.raises((KeyboardInterrupt, DataError)):
        write_prepared_set(load_data(data_dir=str(kitti), split_seed=9), output, overwrite=True)
    assert (output / "splits.yaml").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "kitti", "prepared"]


def test_write_prepared_set__clears_what_a_killed_run_left(kitti, tmp_path):
    (tmp_path / ".prepared.partial" / "complete").mkdir(parents=True)
    (tmp_path / ".prepared.partial" / "complete" / "half.arrow").touch()
    write_prepared_set(load_data(data_dir=str(kitti)), tmp_path / "prepared")
    assert not (tmp_path / "prepared" / "half.arrow").exists()
    assert not (tmp_path / ".prepared.partial").exists()


def test_main__shards(kitti, tmp_path, monkeypatch, capsys):
    words = "--data_dir", kitti, "--output", "shards", "--shards", "2"
    run(monkeypatch, *words)
    files = sorted(path.name for path in Path("shards/data").iterdir())
    assert files[1:3] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert "train on it with --dataset shards --streaming true\n" in capsys.readouterr().out
    streamed = load_data(dataset="shards", streaming=True)
    assert streamed.label_space == CITYSCAPES
    assert sorted(streamed.splits["train"]["name"]) == list(load_data(data_dir=str(kitti)).splits["train"]["name"])
    assert "found a set of shards; delete it first" in refused(capsys, monkeypatch, *words)
    assert "shards without it; found `overwrite`" in refused(capsys, monkeypatch, *words, "--overwrite")
    (tmp_path / "others" / "data").mkdir(parents=True)
    (tmp_path / "others" / "data" / "train.parquet").write_bytes(b"years of work")
    line = refused(capsys, monkeypatch, *words[:3], "others", *words[4:])
    assert "found something else there already" in line
    assert (tmp_path / "others" / "data" / "train.parquet").read_bytes() == b"years of work"
