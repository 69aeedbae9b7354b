import os
import zipfile

import pytest

from hf_urbanseg.data import archive
from hf_urbanseg.data.archive import cache_folder, extract_folders
from hf_urbanseg.errors import DataError

FOLDERS = ["training/image_2", "training/semantic"]
MEMBERS = {
    "training/image_2/000000_10.png": b"image",
    "training/semantic/000000_10.png": b"label",
    "training/semantic_rgb/000000_10.png": b"colours",
    "testing/image_2/000000_10.png": b"unlabelled",
}


def write_zip(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return path


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_cache_folder__default(monkeypatch):
    monkeypatch.delenv("HF_URBANSEG_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(cache_folder()) == "/home/somebody/.cache/hf_urbanseg"


@pytest.mark.parametrize("prefix", ["", "data_semantics/"])
def test_extract_folders__unpacks_only_what_is_asked(tmp_path, prefix):
    path = write_zip(tmp_path / "data.zip", {prefix + name: content for name, content in MEMBERS.items()})
    assert files_below(extract_folders(path, FOLDERS)) == {name: MEMBERS[name] for name in list(MEMBERS)[:2]}


def test_extract_folders__leaves_out_what_macos_adds(tmp_path):
    extra = {"__MACOSX/training/image_2/._000000_10.png": b"x", "training/image_2/.DS_Store": b"x"}
    path = write_zip(tmp_path / "data.zip", MEMBERS | extra)
    assert len(files_below(extract_folders(path, FOLDERS))) == 2


def test_extract_folders__second_call_reads_nothing(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "data.zip", MEMBERS)
    first = extract_folders(path, FOLDERS)
    monkeypatch.setattr(archive, "_extract", None)
    assert extract_folders(path, FOLDERS) == first


def test_extract_folders__changed_archive_is_unpacked_anew(tmp_path):
    path = write_zip(tmp_path / "data.zip", MEMBERS)
    first = extract_folders(path, FOLDERS)
    write_zip(path, MEMBERS | {"training/image_2/000000_10.png": b"IMAGE"})  # of the same size
    os.utime(path, ns=(0, 0))
    second = extract_folders(path, FOLDERS)
    assert second != first
    assert (second / "training/image_2/000000_10.png").read_bytes() == b"IMAGE"


def test_extract_folders__an_interrupted_one_leaves_nothing_and_the_next_completes(tmp_path, cache, monkeypatch):
    path = write_zip(tmp_path / "data.zip", MEMBERS)

    def copy_half(source, destination, length):
        destination.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archive.shutil, "copyfileobj", copy_half)
        with pytest.raises(KeyboardInterrupt):
            extract_folders(path, FOLDERS)
    assert [name for name in files_below(cache) if not name.endswith(".lock")] == []
    assert (extract_folders(path, FOLDERS) / "training/semantic/000000_10.png").read_bytes() == b"label"


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "training/../../evil.png", "training\\..\\evil.png"])
def test_extract_folders__unsafe_member(tmp_path, cache, name):
    path = write_zip(tmp_path / "data.zip", MEMBERS | {name: b"x"})
    target = extract_folders(path, FOLDERS)
    assert len(files_below(target)) == 2
    assert not [found for found in tmp_path.rglob("evil*") if target not in found.parents]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda content: b"<html>404</html>", "File is not a zip file; download it again"),
        (lambda content: content[:-40], "File is not a zip file; download it again"),
        (lambda content: content.replace(b"label", b"lavel"), "Bad CRC-32"),
    ],
)
def test_extract_folders__damaged(tmp_path, cache, damage, found):
    path = write_zip(tmp_path / "data.zip", MEMBERS, zipfile.ZIP_STORED)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"data\.zip: expected a complete \.zip archive; found {found}"):
        extract_folders(path, FOLDERS)
    assert [name for name in files_below(cache) if not name.endswith(".lock")] == []


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"training/image_2/a.png": b"x", "readme.txt": b"x"},
         "files in `training/semantic/`; found training/image_2/a.png, readme.txt"),
        (MEMBERS | {"copy/training/semantic/000000_10.png": b"other"},
         "each file once; found `training/semantic/000000_10.png` twice"),
    ],
)  # fmt: skip
def test_extract_folders__other_members(tmp_path, members, found):
    with pytest.raises(DataError, match=found):
        extract_folders(write_zip(tmp_path / "data.zip", members), FOLDERS)


def test_extract_folders__cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HF_URBANSEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"room to unpack the archive.*`HF_URBANSEG_CACHE`"):
        extract_folders(write_zip(tmp_path / "data.zip", MEMBERS), FOLDERS)
