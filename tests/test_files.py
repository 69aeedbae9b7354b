"""What is written appears whole or not at all, and what is read is an object or one line."""

import errno
import os
import resource
from pathlib import Path

import pytest
from folder_contents import read_folder

from hf_urbanseg import files
from hf_urbanseg.data.image_files import list_images
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.submission import find_images, get_benchmark
from hf_urbanseg.errors import DataError, UrbanSegError
from hf_urbanseg.files import check_name, check_place, expand_home, explain_missing, read_bytes, written_whole
from hf_urbanseg.inference.input_files import find_inputs
from hf_urbanseg.json_yaml import read_json, read_mapping, write_json
from hf_urbanseg.models.loading import find_file
from hf_urbanseg.runs.measured import load_measurement


def test_written_whole__a_folder_replaces_the_earlier_one(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").write_text("1")
    with written_whole(tmp_path / "set", folder=True) as staged:
        (staged / "new").write_text("2")
        assert read_folder(tmp_path)["set/old"] == b"1"
    assert read_folder(tmp_path) == {"set/new": b"2"}


def fail_half_way(path, folder, error, **options):
    with written_whole(path, folder=folder, **options) as staged:
        (staged / "new" if folder else staged).write_text("half")
        raise error


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize(
    ("error", "expected"), [(OSError(28, "No space left on device"), DataError), (ValueError("ours"), ValueError)]
)
def test_written_whole__a_failure_leaves_what_was_there(tmp_path, folder, error, expected):
    path = tmp_path / "out"
    if folder:
        path.mkdir()
    (path / "old" if folder else path).write_text("1")
    before = read_folder(tmp_path)
    with pytest.raises(expected) as caught:
        fail_half_way(path, folder, error)
    assert read_folder(tmp_path) == before
    if expected is DataError:
        assert str(caught.value).startswith(f"{path}: expected a place to write to; found No space left on device; ")


def test_written_whole__clears_what_a_killed_process_left(tmp_path):
    (tmp_path / ".set.partial").mkdir()
    (tmp_path / ".set.partial" / "half").write_text("1")
    with written_whole(tmp_path / "set", folder=True) as staged:
        (staged / "new").write_text("2")
    assert read_folder(tmp_path) == {"set/new": b"2"}


def test_written_whole__what_a_library_raises(tmp_path):
    error = RuntimeError("unexpected pos 1446720 vs 1446608\nand a long rest")
    with pytest.raises(DataError, match="found unexpected pos 1446720 vs 1446608; "):
        fail_half_way(tmp_path / "x.pth", False, error, also=(RuntimeError,))


def test_write_text__a_path_of_the_c_locale_and_one_that_is_no_text(tmp_path):
    paths = ["Straße".encode().decode("ascii", "surrogateescape"), b"a\xff".decode("utf-8", "surrogateescape")]
    write_json(tmp_path / "x.json", {"paths": paths})
    assert read_json(tmp_path / "x.json") == {"paths": ["Straße", "a\ufffd"]}


def test_check_place__makes_nothing(tmp_path):
    assert check_place(tmp_path / "a" / "b.json") == tmp_path / "a" / "b.json"
    assert check_place(tmp_path / "a" / "b", folder=True) == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "old").write_text("1")
    check_place(tmp_path / "a" / "b", folder=True)
    check_place(tmp_path / "a" / "b" / "old")
    assert read_folder(tmp_path) == {"a/b/old": b"1"}


@pytest.mark.parametrize(
    ("path", "folder", "found"),
    [
        ("file", True, "a file"),
        ("file/below", True, "Not a directory"),
        ("file/far/below.json", False, "Not a directory"),
        (".", False, "a folder"),
        ("x" * 300, True, "File name too long"),
        ("null\0byte", False, "embedded null byte"),
        ("broken", True, "a file"),
        ("/dev/null", False, "no plain file"),  # which root would replace
        ("/proc/nothing", True, "No such file or directory"),
    ],
)
def test_check_place__refuses_in_one_line(tmp_path, monkeypatch, path, folder, found):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("broken").symlink_to("nowhere")
    with pytest.raises(DataError) as caught:
        check_place(path, folder=folder)
    assert f"expected a {'folder' if folder else 'file'} to write to; found {found}" in str(caught.value)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_check_place__a_disk_that_refuses(tmp_path, monkeypatch, number):
    def refuse(dir):
        assert dir == tmp_path  # the nearest folder that is there
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(DataError, match=f"b: expected a .* to write to; found {os.strerror(number)}; name another"):
        check_place(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_check_place__no_room_for_a_file(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match="found File too large"):
            check_place(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (r"C:\data\kitti", ", for it is a path of Windows: give it as this system names it (WSL: `/mnt/c/...`)"),
        (r"{0}\images", ", for a backslash separates no folders here: write `{0}/images`"),
        ("{0}/images ", ", for a name begins or ends with a space: write `{0}/images`"),
        ("{0}/imges", ", but `{0}/images` is there"),
        ("{0}/imges/a.png", ", but `{0}/images` is there"),
        ("{0}/zzz/a/b", ": `{0}` has no `zzz`"),
        ("{0}/zzz", ""),
        ("user/name", ""),
        ("", ""),
        ("/", ""),
        ("a\0b", ""),
    ],
)
def test_explain_missing__what_is_probably_wrong(tmp_path, monkeypatch, path, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    assert explain_missing(path.format(tmp_path)) == said.format(tmp_path)


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (lambda path: load_data(data_dir=path), "a folder or .zip archive"),
        (lambda path: load_data(dataset=path), "`synthetic`, a Hub id"),
        (lambda path: list_images(Path(path)), "a folder of images"),
        (lambda path: find_inputs([path]), "an image, a video or a folder"),
        (lambda path: find_file(path, "config.json"), "a model folder"),
        (lambda path: read_mapping(path, "recipe"), "a readable recipe file"),
        (lambda path: find_images(Path(path), get_benchmark("kitti", "test")), "the data of KITTI"),
        (lambda path: load_measurement(path, "test"), "the folder of a run"),
    ],
)
def test_explain_missing__is_asked_wherever_a_path_leads_nowhere(tmp_path, monkeypatch, look, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub" / "images").mkdir(parents=True)
    with pytest.raises(UrbanSegError) as caught:
        look(r"sub\images")
    assert expected in caught.value.expected
    assert "for a backslash separates no folders here: write `sub/images`" in caught.value.found


def test_expand_home__without_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home("~/data") == tmp_path / "data"
    with pytest.raises(DataError, match="~nobody_of_that_name/x: expected a home folder for `~`; found none; set HOME"):
        expand_home("~nobody_of_that_name/x")


@pytest.mark.parametrize("name", [b"a\xff.png", b"a\x1b]0;b\x07.png", b"a\nb.png", b"\xc2\x85.png"])
def test_check_name__refuses_what_cannot_be_written_down(name, tmp_path):
    for path in (tmp_path / os.fsdecode(name), tmp_path / os.fsdecode(name) / "a.png"):
        with pytest.raises(DataError) as caught:
            check_name(path)
        assert str(caught.value).isprintable()
        assert "expected a file name in UTF-8" in str(caught.value)
    odd = tmp_path / "\u200eIMG 1\u202f(2) 道路.png"  # as phones and screenshots name them
    assert check_name(odd) == odd


def test_read_bytes__a_file_that_grows(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(files, "check_regular", lambda *_: 3)
    assert read_bytes(tmp_path / "a", 4) == b"123"
