"""What is written appears whole or not at all, and what is read is an object or one line."""

import errno
import json
import math
import os
import resource
import socket
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from folder_contents import read_folder
from hostile_files import ENDLESS

from hf_urbanseg import files
from hf_urbanseg.data.image_files import list_images
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.submission import find_images, get_benchmark
from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError
from hf_urbanseg.files import (
    check_name,
    check_place,
    expand_home,
    explain_missing,
    read_bytes,
    read_json,
    read_mapping,
    write_json,
    write_yaml,
    written_whole,
)
from hf_urbanseg.inference.input_files import find_inputs
from hf_urbanseg.models.loading import find_file
from hf_urbanseg.runs.measured import load_measurement


def test_write_json__reads_back_and_keeps_the_order(tmp_path):
    content = {"zeta": 1.5, "alpha": [None, "Straße"]}
    write_json(tmp_path / "metrics.json", content)
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.index("zeta") < text.index("alpha")
    assert "Straße" in text
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_write_json__numbers_that_json_has_no_words_for_are_null(tmp_path):
    row = {"loss": math.nan, "grad_norm": math.inf, "step": 2, "rates": (np.float64(-math.inf), 0.5)}
    write_json(tmp_path / "log.json", {"log_history": [row]})
    read = json.loads((tmp_path / "log.json").read_text(), parse_constant=pytest.fail)
    assert read == {"log_history": [{"loss": None, "grad_norm": None, "step": 2, "rates": [None, 0.5]}]}


def test_write_json__a_failure_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"value": 1})
    with pytest.raises(TypeError):
        write_json(path, {"value": {1, 2}})
    assert json.loads(path.read_text()) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


def test_write_yaml__reads_back_in_order(tmp_path):
    write_yaml(tmp_path / "recipe.yaml", {"size": "b0", "crop_size": [368, 368], "eval_size": None})
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load(text)) == ["size", "crop_size", "eval_size"]


def test_write_json__killed_before_the_last_step_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"value": 1})

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"value": 2})
    assert json.loads(path.read_text()) == {"value": 1}


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


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "expected JSON; found"), (b"\xff", "expected JSON; found"), (b"[1]", "expected a JSON object; found list")],
)
def test_read_json__damaged_is_one_line(tmp_path, content, said):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert f"{path}: {said}" in str(caught.value)


def test_read_json__a_name_twice(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text('{"a": [{"weights": {"road": 1, "car": 2, "road": 3}}], "weights": 1}')
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path}: expected every name in an object once; found `road` again; keep one."


@pytest.mark.parametrize("name", [b"a\xff.png", b"a\x1b]0;b\x07.png", b"a\nb.png", b"\xc2\x85.png"])
def test_check_name__refuses_what_cannot_be_written_down(name, tmp_path):
    for path in (tmp_path / os.fsdecode(name), tmp_path / os.fsdecode(name) / "a.png"):
        with pytest.raises(DataError) as caught:
            check_name(path)
        assert str(caught.value).isprintable()
        assert "expected a file name in UTF-8" in str(caught.value)
    odd = tmp_path / "\u200eIMG 1\u202f(2) 道路.png"  # as phones and screenshots name them
    assert check_name(odd) == odd


def test_read_json__missing_and_not_a_number(tmp_path):
    assert read_json(tmp_path / "x.json") is None
    (tmp_path / "file").write_text("")
    assert read_json(tmp_path / "file" / "x.json") is None
    (tmp_path / "x.json").write_text('{"a": NaN, "b": Infinity}')
    assert read_json(tmp_path / "x.json") == {"a": None, "b": None}


# What others made


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # such a name has 108 bytes at most
        one.bind(path.name)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        *ENDLESS,
        (make_socket, "found a socket;"),
        (lambda path: path.mkdir(), "found a folder;"),
    ],
)
@pytest.mark.parametrize("read", [read_json, lambda path: read_mapping(path, "recipe", error_class=ConfigError)])
def test_read__only_regular_files_of_bounded_size(tmp_path, monkeypatch, make, found, read):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.yaml")
    with pytest.raises((DataError, ConfigError), match=found) as caught:
        read(tmp_path / "a.yaml")
    assert caught.type is (DataError if read is read_json else ConfigError)


def test_read_bytes__a_file_that_grows(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(files, "check_regular", lambda *_: 3)
    assert read_bytes(tmp_path / "a", 4) == b"123"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'{"a": ' + b"[" * 100_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "limit"),
        (b"\xff\xfe{}", "decode"),
        (b'{"a": "\x00"}', "control character"),
    ],
)
def test_read_json__hostile(tmp_path, content, found):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=f"a.json: expected JSON; found .*{found}"):
        read_json(tmp_path / "a.json")


def test_read__a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == read_mapping(tmp_path / "a.json", "recipe") == {"a": 1}


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{two}: &{two} [{', '.join([f'*{one}'] * 9)}]\n" for one, two in pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (LAUGHS, "an alias .write its values out. in line 2, column 8"),
        ("a: &a [*a]", "an alias"),
        ("a: &a {b: 1}\nc: {<<: *a}", "an alias"),
        ("a: " + "[" * 5000, "more than 50 levels or 10,000 values in line 1, column 53"),
        ("a:\n" + "".join(" " * level + "- \n" for level in range(60)), "more than 50 levels"),
        ("? " * 5000, "more than 50 levels"),
        (f"a: [{'1,' * 30_000}]", "more than 50 levels or 10,000 values"),
        ("a: 1\nx: 2001-99-99", "month must be in 1..12 in line 2, column 4"),
        ("x: 2001-01-01 25:00:00", "hour must be in 0..23"),
        ("x: " + "9" * 5000, "a number or date of 5,000 characters in line 1"),
        ("x: 1" + ":59" * 100_000, "a number or date of 300,001 characters"),
        ("x: 0x" + "f" * 5000, "a number or date of 5,002 characters"),
        *((f"x: !!{kind} ab", "line 1, column 4") for kind in ("int", "float", "bool", "timestamp", "binary", "set")),
        ('x: !!int ""', "in line 1"),
        ("x: !!python/object/apply:os.system [true]", "could not determine a constructor for the tag"),
        ("[a]: b", "unhashable key"),
        ("x: a\x00b", "special characters are not allowed"),
        (b"x: \xff", "can't decode byte"),
        ("a: 1\n---\nb: 2", "but found another document"),
        ("a: 1\nb: {c: 1, c: 2}", "found the key `c` again in line 2, column 11; correct it"),
    ],
)  # fmt: skip
def test_read_mapping__hostile(tmp_path, monkeypatch, content, found):
    monkeypatch.setattr(files, "_MOST_NODES", 10_000)  # 260,000 take 10 s
    (tmp_path / "a.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=f"a.yaml: expected .*{found}") as caught:
        read_mapping(tmp_path / "a.yaml", "recipe", error_class=ConfigError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_read_mapping__a_great_many_keys_and_names_pass(tmp_path):
    names = [f"aachen_{index:06d}_000019" for index in range(4000)]
    (tmp_path / "a.json").write_text(json.dumps({"train": names, **dict.fromkeys(names, 1)}))
    assert read_mapping(tmp_path / "a.json", "split", words=True)["train"] == names


def test_write_yaml__what_is_the_same_list_twice_reads_back(tmp_path):
    size = [64, 64]
    write_yaml(tmp_path / "recipe.yaml", {"crop_size": size, "eval_size": size})
    assert read_mapping(tmp_path / "recipe.yaml", "recipe") == {"crop_size": size, "eval_size": size}
