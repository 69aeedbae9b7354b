import os
import re
import struct
import zipfile
from types import SimpleNamespace

import pytest
from folder_contents import read_folder

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


def test_cache_folder__default(monkeypatch):
    monkeypatch.delenv("HF_URBANSEG_CACHE")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(cache_folder()) == "/home/somebody/.cache/hf_urbanseg"


@pytest.mark.parametrize("prefix", ["", "data_semantics/"])
def test_extract_folders__unpacks_only_what_is_asked(tmp_path, prefix):
    path = write_zip(tmp_path / "data.zip", {prefix + name: content for name, content in MEMBERS.items()})
    assert read_folder(extract_folders(path, FOLDERS)) == {name: MEMBERS[name] for name in list(MEMBERS)[:2]}


def test_extract_folders__leaves_out_what_macos_adds(tmp_path):
    extra = {"__MACOSX/training/image_2/._000000_10.png": b"x", "training/image_2/.DS_Store": b"x"}
    path = write_zip(tmp_path / "data.zip", MEMBERS | extra)
    assert len(read_folder(extract_folders(path, FOLDERS))) == 2


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
    assert [name for name in read_folder(cache) if not name.endswith(".lock")] == []
    assert (extract_folders(path, FOLDERS) / "training/semantic/000000_10.png").read_bytes() == b"label"


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "training/../../evil.png", "training\\..\\evil.png"])
def test_extract_folders__unsafe_member(tmp_path, cache, name):
    path = write_zip(tmp_path / "data.zip", MEMBERS | {name: b"x"})
    target = extract_folders(path, FOLDERS)
    assert len(read_folder(target)) == 2
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
    assert [name for name in read_folder(cache) if not name.endswith(".lock")] == []


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


# Archives that would fill the disk or the memory


def refusal(path):
    with pytest.raises(DataError) as caught:
        extract_folders(path, FOLDERS)
    return str(caught.value)


def lie_about_size(path, real, told):
    """In the local header and in the directory."""
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", real), struct.pack("<I", told)))


def test_extract_folders__unpacks_to_far_more(tmp_path, cache):
    bomb = {f"training/image_2/{index}.png": bytes(60 << 20) for index in range(2)}
    message = refusal(write_zip(tmp_path / "data.zip", MEMBERS | bomb))
    assert re.search(r"expected at most 20 times its [\d,]+ bytes when unpacked; found 125,829,130;", message)
    assert not read_folder(cache)


def test_extract_folders__one_member_larger_than_any_picture(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(archive, "MOST_BYTES", 1000)
    message = refusal(write_zip(tmp_path / "data.zip", MEMBERS | {"training/semantic/1.png": bytes(1001)}))
    assert "pictures of 1,000 bytes at most; found `training/semantic/1.png` of 1,001;" in message
    assert not read_folder(cache)


def test_extract_folders__a_member_larger_than_it_says(tmp_path, cache):
    path = write_zip(tmp_path / "data.zip", MEMBERS | {"training/semantic/1.png": bytes(7_654_321)})
    lie_about_size(path, 7_654_321, 10)
    assert "expected a complete .zip archive; found Bad CRC-32" in refusal(path)
    assert [name for name in read_folder(cache) if not name.endswith(".lock")] == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_extract_folders__compression_without_a_bound(tmp_path, cache, compression):
    path = write_zip(tmp_path / "data.zip", MEMBERS, compression)
    assert "stored or deflated, as zips have them; found `training/image_2/000000_10.png` neither" in refusal(path)
    assert not read_folder(cache)


def test_extract_folders__more_than_the_disk_has_room_for(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    assert "room to unpack the archive; found 9 of 10 bytes free" in refusal(write_zip(tmp_path / "data.zip", MEMBERS))
    assert not any(read_folder(cache).values())


@pytest.mark.parametrize("name", ["", ".", "..", "training/image_2/..", "training/image_2/."])
def test_extract_folders__names_that_are_none(tmp_path, name):
    path = write_zip(tmp_path / "data.zip", MEMBERS)
    with zipfile.ZipFile(path, "a") as bundle:
        bundle.writestr(zipfile.ZipInfo(name), b"x")
    assert len(read_folder(extract_folders(path, FOLDERS))) == 2


def test_extract_folders__a_link_becomes_the_text_it_is(tmp_path):
    path = write_zip(tmp_path / "data.zip", MEMBERS)
    with zipfile.ZipFile(path, "a") as bundle:
        link = zipfile.ZipInfo("training/image_2/link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        bundle.writestr(link, "/etc/passwd")
    found = extract_folders(path, FOLDERS) / "training/image_2/link.png"
    assert not found.is_symlink()
    assert found.read_text() == "/etc/passwd"


def test_extract_folders__encrypted(tmp_path, cache):
    path = write_zip(tmp_path / "data.zip", MEMBERS, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    for sign, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = -1
        while (start := content.find(sign, start + 1)) >= 0:
            content[start + offset] |= 1
    path.write_bytes(content)
    assert "is encrypted, password required" in refusal(path)


def test_cache_folder__nobody_has_a_home(monkeypatch):
    monkeypatch.delenv("HF_URBANSEG_CACHE")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(DataError, match="cache/hf_urbanseg: expected a home folder for `~`; found none; set HOME"):
        cache_folder()
