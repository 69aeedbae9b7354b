import json

import pytest
from datasets import DatasetDict, load_from_disk
from made_pictures import write_pair

from hf_urbanseg.data.image_files import build_dataset, pair_folders
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.sources import saved_set
from hf_urbanseg.data.sources.request import DataRequest
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES


@pytest.fixture
def rows(tmp_path):
    for name in "abcdefgh":
        write_pair(tmp_path / "images", tmp_path / "labels", name)
    return build_dataset(pair_folders(tmp_path / "images", tmp_path / "labels"))


def read(path):
    request = DataRequest(path, label_space=CITYSCAPES)
    assert saved_set.matches(request)
    return saved_set.load(request)


def test_load__dict_and_single(rows, tmp_path):
    DatasetDict({"val": rows}).save_to_disk(tmp_path / "dict")
    rows.save_to_disk(tmp_path / "single")
    assert list(read(tmp_path / "dict").splits) == ["validation"]
    found = read(tmp_path / "single")
    assert {split: len(rows) for split, rows in found.splits.items()} == {"all": 8}
    assert (found.name, found.final_notes) == ("single", None)


def test_load__what_was_prepared_is_final(rows, tmp_path):
    """No validation is cut off it again, but where a split file says otherwise."""
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "mine")
    (tmp_path / "mine" / "source.json").write_text('{"origin": "kitti", "notes": ["test: 2 of 10 frames"]}')
    (tmp_path / "mine" / "label_space.json").write_text(json.dumps(CITYSCAPES.to_dict()))
    loaded = load_data(data_dir=str(tmp_path / "mine"))
    assert list(loaded.splits) == ["train"]
    assert loaded.notes == ("test: 2 of 10 frames", "validation: none", "test: none")
    (tmp_path / "splits.yaml").write_text(f"train: [{', '.join('abcde')}]\ntest: [f]\n")
    loaded = load_data(data_dir=str(tmp_path / "mine"), split_file=str(tmp_path / "splits.yaml"))
    assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": 4, "validation": 1, "test": 1}
    assert loaded.notes[0] == "splits: as listed in splits.yaml"


@pytest.mark.parametrize("lost", ["train/state.json", "train/dataset_info.json", "train/data-00000-of-00001.arrow"])
@pytest.mark.parametrize("left", [None, b"", b"{}"])
def test_load__damaged(rows, tmp_path, lost, left):
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "set")
    (tmp_path / "set" / lost).unlink()
    if left is not None:
        (tmp_path / "set" / lost).write_bytes(left)
    if (lost, left) == ("train/dataset_info.json", b"{}"):  # complete: the features are in the Arrow file too
        assert load_from_disk(str(tmp_path / "set"))["train"].features == rows.features
        return
    with pytest.raises(DataError, match="expected a complete saved set"):
        read(tmp_path / "set")
