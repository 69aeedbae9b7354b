"""JSON and YAML that is written reads back, and what is read is an object or one line."""

import json
import math
import os
import socket
from itertools import pairwise

import numpy as np
import pytest
import yaml
from hostile_files import ENDLESS

from hf_urbanseg import json_yaml
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.json_yaml import read_json, read_mapping, write_json, write_yaml


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


def test_read_json__missing_and_not_a_number(tmp_path):
    assert read_json(tmp_path / "x.json") is None
    (tmp_path / "file").write_text("")
    assert read_json(tmp_path / "file" / "x.json") is None
    (tmp_path / "x.json").write_text('{"a": NaN, "b": Infinity}')
    assert read_json(tmp_path / "x.json") == {"a": None, "b": None}


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
    monkeypatch.setattr(json_yaml, "_MOST_NODES", 10_000)  # 260,000 take 10 s
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
