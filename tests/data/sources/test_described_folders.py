import pytest
from made_pictures import write_pair

from hf_urbanseg.data.sources import described_folders
from hf_urbanseg.data.sources.request import DataRequest
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES


def read(path, folders):
    request = DataRequest(path, None, "my.yaml", CITYSCAPES, folders)
    assert described_folders.matches(request)
    return described_folders.load(request)


def test_matches__a_folder_that_is_described(tmp_path):
    assert not described_folders.matches(DataRequest(tmp_path))
    assert not described_folders.matches(DataRequest(dataset="user/name", folders={"images": "x"}))


def test_load__splits_with_suffixes(tmp_path):
    write_pair(tmp_path / "train" / "x", tmp_path / "train" / "y", "a", 0, "_rgb.png", "_L.png")
    write_pair(tmp_path / "val", tmp_path / "val", "b", 0, "_rgb.png", "_L.png")
    folders = {
        "splits": {"train": {"images": "train/x", "labels": "train/y"}, "test": {"images": "val", "labels": "val"}},
        "image_suffix": "_rgb",
        "label_suffix": "_L",
    }
    found = read(tmp_path, folders)
    assert {split: list(rows["name"]) for split, rows in found.splits.items()} == {"train": ["a"], "test": ["b"]}
    assert (found.name, found.label_space) == ("cityscapes", CITYSCAPES)


def test_load__one_pair_is_unsplit(tmp_path):
    for name in "abc":
        write_pair(tmp_path / "images", tmp_path / "labels", name, image_end=".jpg")
    found = read(tmp_path, {"images": "images", "labels": "labels"})
    assert {split: list(rows["name"]) for split, rows in found.splits.items()} == {"all": ["a", "b", "c"]}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"image_suffix": "_x"}, "either `splits` or `images` and `labels`"),
        ({"splits": {}, "images": "a", "labels": "b"}, "either `splits` or `images` and `labels`"),
        ({"images": "a"}, "`images` and `labels`"),
        ({"splits": {}}, "`splits` with train, validation or test"),
        ({"splits": {"val": {"images": "a", "labels": "b"}}}, "found `val`; rename it"),
        ({"splits": {"train": {"images": "a"}}}, "`images` and `labels`"),
        ({"splits": {"train": "a"}}, "`images` and `labels`"),
    ],
)
def test_load__bad_description_names_the_file(tmp_path, folders, message):
    with pytest.raises(DataError) as caught:
        read(tmp_path, folders)
    assert str(caught.value).startswith("my.yaml: ")
    assert message in str(caught.value)
