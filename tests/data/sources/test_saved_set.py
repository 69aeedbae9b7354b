import json
import re

import pyarrow as pa
import pytest
from datasets import DatasetDict, load_from_disk
from hostile_files import make_fifo
from made_pictures import write_pair

from hf_urbanseg.data.image_files import build_dataset, pair_folders
from hf_urbanseg.data.label_space_files import describe_label_space
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
    (tmp_path / "mine" / "label_space.json").write_text(json.dumps(describe_label_space(CITYSCAPES)))
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


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b'{"_data_files": 3}', b"[" * 100_000, b'{"features": {"image": 3}}']
)
@pytest.mark.parametrize("file", ["train/state.json", "train/dataset_info.json", "dataset_dict.json"])
def test_load__descriptions_that_say_something_else(rows, tmp_path, file, content):
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "set")
    (tmp_path / "set" / file).write_bytes(content)
    try:
        read(tmp_path / "set")
    except DataError as error:
        assert "expected a complete saved set" in str(error)  # noqa: PT017 (some of it is ignored by `datasets`)


@pytest.mark.parametrize("name", ["train/state.json", "train/data-00000-of-00001.arrow", "source.json"])
def test_load__a_fifo_in_it(rows, tmp_path, name):
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "set")
    (tmp_path / "set" / name).unlink(missing_ok=True)
    make_fifo(tmp_path / "set" / name)
    with pytest.raises(DataError, match=f"{name}: expected a regular file; found a FIFO"):
        read(tmp_path / "set")


def write_with_paths(rows, folder, path) -> None:
    """By hand, with paths in place of pictures: `save_to_disk` would read them."""
    DatasetDict({"train": rows}).save_to_disk(folder)
    (file,) = (folder / "train").glob("*.arrow")
    stored = {column: [{"bytes": None, "path": path}] * len(rows) for column in ("image", "label")}
    table = pa.table({**stored, "name": list(rows["name"])}).cast(rows.features.arrow_schema)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../other/a.png", "a.png", "http://127.0.0.1:9/a.png", "zip://a.png::/tmp/b.zip"]
)
def test_load__pictures_elsewhere(rows, tmp_path, monkeypatch, path):
    write_with_paths(rows, tmp_path / "set", path)
    if ":" in path:
        monkeypatch.chdir(tmp_path / "set")  # where an address, taken for a file's name, would be inside
    with pytest.raises(DataError, match=f"pictures in the set's folder; found `{re.escape(path)}` as image of train"):
        read(tmp_path / "set")


def test_load__pictures_in_the_folder(rows, tmp_path):
    write_with_paths(rows, tmp_path / "set", str(tmp_path / "set" / "a.png"))
    assert len(read(tmp_path / "set").splits["train"]) == len(rows)
