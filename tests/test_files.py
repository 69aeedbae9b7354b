"""What is written appears whole or not at all, and what is read is an object or one line."""

import json
import math
import os

import pytest
import yaml

from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_name, make_folder, read_json, write_json, write_yaml, written_whole


def test_write_json__reads_back_and_keeps_the_order(tmp_path):
    content = {"zeta": 1.5, "alpha": [None, "Straße"]}
    write_json(tmp_path / "metrics.json", content)
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert text.index("zeta") < text.index("alpha")
    assert "Straße" in text
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, {1, 2}])
def test_write_json__a_failure_leaves_the_earlier_file(tmp_path, bad):
    path = tmp_path / "metrics.json"
    write_json(path, {"value": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"value": bad})
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


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_written_whole__a_folder_replaces_the_earlier_one(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").write_text("1")
    with written_whole(tmp_path / "set", folder=True) as staged:
        (staged / "new").write_text("2")
        assert tree(tmp_path)["set/old"] == "1"
    assert tree(tmp_path) == {"set/new": "2"}


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
    before = tree(tmp_path)
    with pytest.raises(expected) as caught:
        fail_half_way(path, folder, error)
    assert tree(tmp_path) == before
    if expected is DataError:
        assert str(caught.value).startswith(f"{path}: expected a place to write to; found No space left on device; ")


def test_written_whole__clears_what_a_killed_process_left(tmp_path):
    (tmp_path / ".set.partial").mkdir()
    (tmp_path / ".set.partial" / "half").write_text("1")
    with written_whole(tmp_path / "set", folder=True) as staged:
        (staged / "new").write_text("2")
    assert tree(tmp_path) == {"set/new": "2"}


def test_written_whole__what_a_library_raises(tmp_path):
    error = RuntimeError("unexpected pos 1446720 vs 1446608\nand a long rest")
    with pytest.raises(DataError, match="found unexpected pos 1446720 vs 1446608; "):
        fail_half_way(tmp_path / "x.pth", False, error, also=(RuntimeError,))


def test_make_folder__one_that_cannot_be_written_to(tmp_path, monkeypatch):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="b: expected a folder to write to; found Permission denied; choose another"):
        make_folder(tmp_path / "a" / "b")


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
