import os

import numpy as np
import pytest
from made_pictures import with_palette, write_flat, write_pair

from hf_urbanseg.data.image_files import FEATURES, build_dataset, list_images, pair_folders
from hf_urbanseg.errors import DataError


def make_pairs(images, labels, names="ab"):
    for name in names:
        write_pair(images, labels, name, image_end=".jpg")
    return images, labels


def test_list_images__names_are_stems(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.d.tif", "notes.txt", ".hidden.png", "._a.jpg"):
        (tmp_path / name).touch()
    assert list(list_images(tmp_path)) == ["a", "b", "c.d"]


def test_list_images__arrays_where_there_are_no_pictures(tmp_path):
    for name in ("a.npy", "b.NPY", "notes.txt"):
        (tmp_path / name).touch()
    assert list(list_images(tmp_path)) == ["a", "b"]
    (tmp_path / "a.png").touch()
    assert list_images(tmp_path) == {"a": tmp_path / "a.png"}


def test_list_images__suffix_is_taken_off_and_other_files_left_out(tmp_path):
    for name in ("a_color.png", "a_L.png", "b_L.png"):
        (tmp_path / name).touch()
    assert list_images(tmp_path, "_L") == {"a": tmp_path / "a_L.png", "b": tmp_path / "b_L.png"}


def test_list_images__a_star_in_the_suffix(tmp_path):
    for name in ("2018_label_front_01.png", "2018_label_front_02.png", "2018_camera_front_01.png"):
        (tmp_path / name).touch()
    assert list(list_images(tmp_path, "_label_*")) == ["2018_front_01", "2018_front_02"]
    with pytest.raises(DataError, match=r"ending in `_L`; found 2018_.* \.\.\.|get or make the files that end so"):
        list_images(tmp_path, "_L")


def test_list_images__duplicate_stem(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png: expected one file per frame; found a\.jpg and a\.png"):
        list_images(tmp_path)


def test_list_images__a_name_that_is_no_text(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / os.fsdecode(b"notes\xff.txt")).touch()
    assert list(list_images(tmp_path)) == ["a"]
    (tmp_path / os.fsdecode(b"b\xff.png")).touch()
    with pytest.raises(DataError, match=r"b\\xff\.png: expected a file name in UTF-8; found"):
        list_images(tmp_path)


def test_list_images__empty_missing_or_nested(tmp_path):
    with pytest.raises(DataError, match="found an empty folder"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="found no such folder"):
        list_images(tmp_path / "none")
    write_flat(tmp_path / "city" / "a.png")
    with pytest.raises(DataError, match="found city; put the files directly into this folder"):
        list_images(tmp_path)


def test_pair_folders__sorted_pairs(tmp_path):
    pairs = pair_folders(*make_pairs(tmp_path / "images", tmp_path / "labels", "ba"))
    assert [(name, image.name, label.name) for name, (image, label) in pairs.items()] == [
        ("a", "a.jpg", "a.png"),
        ("b", "b.jpg", "b.png"),
    ]


def test_pair_folders__image_without_label(tmp_path):
    images, labels = make_pairs(tmp_path / "images", tmp_path / "labels", "abcd")
    (labels / "b.png").unlink()
    (labels / "c.png").unlink()
    with pytest.raises(DataError, match=r"images/b\.jpg: expected a label named b in .*labels; found none for 2 of 4"):
        pair_folders(images, labels)


def test_pair_folders__label_without_image(tmp_path):
    images, labels = make_pairs(tmp_path / "images", tmp_path / "labels")
    (images / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"labels/a\.png: expected an image named a in .*images; found none for 1 of 2"):
        pair_folders(images, labels)


def test_build_dataset__palette_label_keeps_indices_not_brightness(tmp_path):
    indices = np.arange(24, dtype=np.uint8).reshape(4, 6)
    write_flat(tmp_path / "i" / "a.png")
    (tmp_path / "l").mkdir()
    with_palette(indices).save(tmp_path / "l" / "a.png")
    dataset = build_dataset(pair_folders(tmp_path / "i", tmp_path / "l"))
    assert dataset.features == FEATURES
    assert dataset[0]["label"].mode == "P"
    np.testing.assert_array_equal(np.asarray(dataset[0]["label"]), indices)


def test_build_dataset__survives_a_change_of_folder(tmp_path, monkeypatch):
    make_pairs(tmp_path / "i", tmp_path / "l")
    monkeypatch.chdir(tmp_path)
    dataset = build_dataset(pair_folders(*map(type(tmp_path), ("i", "l"))))
    monkeypatch.chdir("/")
    assert dataset[0]["image"].size == (6, 4)
