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


def test_load__patterns(tmp_path):
    """As ACDC and KITTI-STEP have them: a folder per scene, whose frames go together; names may come again."""
    for weather in ("fog", "snow"):
        for scene in ("0", "1"):
            pair = (tmp_path / kind / weather / "train" / scene for kind in ("rgb", "gt"))
            write_pair(*pair, f"{weather}_{scene}", 0, "_rgb.png", "_gt.png")
    folders = {"splits": {"train": {"images": "rgb/*/train/*", "labels": "gt/*/train/*"}}}
    found = read(tmp_path, folders | {"image_suffix": "_rgb", "label_suffix": "_gt"})
    assert list(found.splits["train"]["name"]) == ["fog_0", "fog_1", "snow_0", "snow_1"]
    assert found.scenes == [["fog_0"], ["fog_1"], ["snow_0"], ["snow_1"]]
    for sequence in ("0000", "0001"):
        write_pair(tmp_path / "image_02" / sequence, tmp_path / "maps" / sequence, "000000")
    found = read(tmp_path, {"images": "image_02/*", "labels": "maps/*"})
    assert list(found.splits["all"]["name"]) == ["0000_000000", "0001_000000"]


def test_load__patterns_that_name_nothing_or_one_side(tmp_path):
    with pytest.raises(DataError, match=r"expected folders `rgb/\*` and `gt/\*`; found none"):
        read(tmp_path, {"images": "rgb/*", "labels": "gt/*"})
    write_pair(tmp_path / "rgb" / "a", tmp_path / "gt" / "b", "x")
    with pytest.raises(DataError, match="gt/a: expected a folder of images; found no such folder"):
        read(tmp_path, {"images": "rgb/*", "labels": "gt/*"})


def test_load__images_without_a_label(tmp_path):
    write_pair(tmp_path / "x", tmp_path / "y", "a")
    write_pair(tmp_path / "x", tmp_path / "z", "b")
    with pytest.raises(DataError, match="expected a label named b"):
        read(tmp_path, {"images": "x", "labels": "y"})
    found = read(tmp_path, {"images": "x", "labels": "y", "unlabelled_images": True})
    assert list(found.splits["all"]["name"]) == ["a"]


def test_load__val_and_images_beside_their_labels(tmp_path):
    write_pair(tmp_path / "v", tmp_path / "v", "a", 0, ".png", "_mask.png")
    found = read(tmp_path, {"splits": {"val": {"images": "v", "labels": "v"}}, "label_suffix": "_mask"})
    assert list(found.splits["validation"]["name"]) == ["a"]


def test_load__splits_by_names(tmp_path):
    for name in ("a_1", "a_2", "b_1", "c_1"):
        write_pair(tmp_path / "x", tmp_path / "y", name)
    pair = {"images": "x", "labels": "y"}
    splits = {"train": pair | {"names": "a_.*"}, "val": pair | {"names": "b"}, "test": pair | {"names": "b_."}}
    found = read(tmp_path, {"splits": {"train": splits["train"], "test": splits["test"]}, "note": "As published."})
    assert {split: list(rows["name"]) for split, rows in found.splits.items()} == {
        "train": ["a_1", "a_2"],
        "test": ["b_1"],
    }
    assert list(found.notes) == ["As published.", "1 frames are left out: their names are in no split"]
    assert not len(read(tmp_path, {"splits": splits}).splits["validation"])  # the whole name, not a part of it
    with pytest.raises(DataError, match=r"my\.yaml: expected a regular expression as `names`; found '\('"):
        read(tmp_path, {"splits": {"train": pair | {"names": "("}}})


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"image_suffix": "_x"}, "either `splits` or `images` and `labels`"),
        ({"splits": {}, "images": "a", "labels": "b"}, "either `splits` or `images` and `labels`"),
        ({"images": "a"}, "`images` and `labels`"),
        ({"splits": {}}, "`splits` with train, validation or test"),
        ({"splits": {"eval": {"images": "a", "labels": "b"}}}, "found `eval`; rename it"),
        ({"splits": {"train": {"images": "a"}}}, "`images` and `labels`"),
        ({"splits": {"train": "a"}}, "`images` and `labels`"),
    ],
)
def test_load__bad_description_names_the_file(tmp_path, folders, message):
    with pytest.raises(DataError) as caught:
        read(tmp_path, folders)
    assert str(caught.value).startswith("my.yaml: ")
    assert message in str(caught.value)
