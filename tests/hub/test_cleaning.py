"""No path of this machine in what is published, and everything else as it was."""

import json
import struct
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from clean_machine import elsewhere  # noqa: F401
from markupsafe import escape

from hf_urbanseg.errors import DataError
from hf_urbanseg.hub.cleaning import (
    clean_file,
    is_absolute,
    last_name,
    list_local_folders,
    remove_local_paths,
    shorten_options,
)

HOME = "/home/ann"
ODD = ("/mnt/nas of ann/kitti", "/home/ann_b/été/日本", "/srv/o'neil/a\"b", "/data/r&d/<x>", "/mnt/50%/a+b")


@pytest.mark.parametrize(
    ("value", "absolute"),
    [
        ("/home/ann", True), ("~/kitti", True), ("C:\\Users\\ann", True), ("\\\\nas\\share", True), ("file:///a", True),
        ("user/name", False), ("../lists/a.yaml", False), ("https://x.org/home", False), ("0.5-2.0", False),
        (None, False), (5, False), ("", False),
    ],
)  # fmt: skip
def test_is_absolute__of_this_system_and_others(value, absolute):
    assert is_absolute(value) is absolute


def test_last_name__of_every_kind():
    paths = ("/a/b c/", "C:\\a\\b c", "b c", "/", "a//b c//")
    assert [last_name(path) for path in paths] == ["b c", "b c", "b c", "folder", "b c"]


def test_shorten_options__paths_wherever_they_stand():
    options = {
        "data_dir": "../kitti", "model_name_or_path": "nvidia/mit-b0", "dataset": "user/streets", "seed": 1,
        "more": ["/a/b", {"c": "~/d", "e": "C:\\x\\y"}], "url": "https://x.org/a", "output_dir": "runs/b0",
        "add_data": ["/a/b:camvid:0.5", "sets/c:/home/me/d.yaml:0.25", "C:\\x\\e:D:\\f.yaml", "user/set:0.5"],
    }  # fmt: skip
    assert shorten_options(options) == {
        "data_dir": "kitti", "model_name_or_path": "nvidia/mit-b0", "dataset": "user/streets", "seed": 1,
        "more": ["b", {"c": "d", "e": "y"}], "url": "https://x.org/a", "output_dir": "runs/b0",
        "add_data": ["b:camvid:0.5", "sets/c:d.yaml:0.25", "e:f.yaml", "user/set:0.5"],
    }  # fmt: skip


def test_list_local_folders__all_that_tell_something_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", "/mnt/cache/hf")
    monkeypatch.setattr(sys, "prefix", "/mnt/envs/venv")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work" / "linked").symlink_to(tmp_path / "elsewhere")
    run = tmp_path / "runs" / "x"
    options = {"data_dir": "../kitti", "split_file": "./linked", "class_weights": "~/w.json", "dataset": "user/name"}
    options |= {"unlabelled": ["drives", "../drives"]}
    found = list_local_folders(run, options | {"root": "/"})
    assert found == sorted(found, key=lambda name: (-len(name), name))
    assert {
        str(run), str(run.parent), str(tmp_path / "work"), str(tmp_path / "home"), tempfile.gettempdir(),
        str(Path(sys.modules["hf_urbanseg"].__file__).parents[1]), "/mnt/cache/hf", "/mnt/envs/venv",
        str(tmp_path / "kitti"), str(tmp_path / "elsewhere"), str(tmp_path / "home" / "w.json"),
        str(tmp_path / "drives"),
    } <= set(found)  # fmt: skip
    assert not {"/", "", "~", "/usr", "user/name"} & set(found)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/ann", "ann"),
        ("/home/ann/kitti/a.png", "a.png"),
        ("(/home/ann/x), [/home/ann/y]; '/home/ann/z': `/home/ann/w`.", "(x), [y]; 'z': `w`."),
        ("PATH=/home/ann/bin:/home/ann/sbin --data_dir=/home/ann/kitti", "PATH=bin:sbin --data_dir=kitti"),
        ("file:///home/ann/a.png", "a.png"),
        ("user@host:/home/ann/x", "user@host:x"),
        ("<td>/home/ann/x</td>&quot;/home/ann/y&quot;", "<td>x</td>&quot;y&quot;"),
    ],
)
def test_remove_local_paths__wherever_they_stand(text, left):
    assert remove_local_paths(text, [HOME]) == left


@pytest.mark.parametrize(
    "text",
    ["https://x.org/home/ann/page", "/mnt/home/ann/x", "road/home/ann", "/home/annabel/x", "/home/ann-b", "home/ann"],
)
def test_remove_local_paths__keeps_what_only_looks_alike(text):
    assert remove_local_paths(text, [HOME]) == text


@pytest.mark.parametrize("folder", ODD)
@pytest.mark.parametrize("write", [str, escape, quote])
def test_remove_local_paths__odd_names(folder, write):
    assert remove_local_paths(f"a {write(folder)} b", [folder]) == f"a {write(last_name(folder))} b"
    assert remove_local_paths(f'<img src="file://{write(folder)}/x.png">', [folder]) == '<img src="x.png">'
    assert remove_local_paths("/a/b/c /a/b", ["/a", "/a/b"]) == "c b"  # the longest counts


# ---- files ----


@pytest.fixture
def clean(tmp_path):
    """Writes a file and cleans it."""

    def run(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        cleaned = clean_file(name, path, [HOME, "/home/zoë"])
        return "the file" if cleaned == path else cleaned

    return run


def test_clean_file__what_names_no_path_goes_as_it_is(clean):
    for name, content in {
        "README.md": "https://x.org/home/ann", "splits.yaml": "train: [a]  # mine", "a.json": '{"a":\n 1e-05}',
        "a.csv": "a", "report.html": "<p>", "overlays/a.png": b"\x89PNG", "model.safetensors": b"x",
    }.items():  # fmt: skip
        assert clean(name, content) == "the file"


def test_clean_file__json_and_yaml_by_their_values(clean):
    content = {
        "data_dir": "/home/ann/yes", "note": "see /home/ann/*x\n/home/ann/y", "seed": 1, "rate": 1e-5, "none": None,
        "lists": ["/home/zoë/@a", {"/home/ann/k": "/home/ann/- b"}],
    }  # fmt: skip
    expected = {
        "data_dir": "yes", "note": "see *x\ny", "seed": 1, "rate": 1e-5, "none": None, "lists": ["@a", {"k": "- b"}],
    }  # fmt: skip
    for ascii_only in (True, False):
        assert json.loads(clean("metrics.json", json.dumps(content, ensure_ascii=ascii_only))) == expected
    cleaned = yaml.safe_load(clean("splits.yaml", yaml.safe_dump(content, sort_keys=False)))
    assert (cleaned, list(cleaned)) == (expected, list(content))


@pytest.mark.parametrize(("name", "write"), [("recipe.yaml", yaml.safe_dump), ("training_arguments.json", json.dumps)])
def test_clean_file__options_lose_every_path_that_tells_of_a_machine(clean, name, write):
    cleaned = yaml.safe_load(
        clean(name, write({"data_dir": "/other/disk/kitti", "split_file": "../a/b.yaml", "x": "b/c"}))
    )
    assert cleaned == {"data_dir": "kitti", "split_file": "b.yaml", "x": "b/c"}


def test_clean_file__where_a_model_was_loaded_from(clean):
    config = {"_name_or_path": "/scratch/x/run", "id2label": {"0": "/m/0k4j"}}
    config |= {"inside": {"_name_or_path": "nvidia/mit-b0", "name_or_path": "D:\\x\\y"}}
    cleaned = json.loads(clean("config.json", json.dumps(config)))
    inside = {"_name_or_path": "nvidia/mit-b0", "name_or_path": "y"}
    assert cleaned == {"_name_or_path": "run", "id2label": {"0": "/m/0k4j"}, "inside": inside}


def test_clean_file__event_records(clean):
    def record(data: str) -> bytes:
        return struct.pack("<Q", len(data.encode())) + b"crc1" + data.encode() + b"crc2"

    kept = [record("version"), record("loss")]
    args = [record(json.dumps({"output_dir": f"{folder}/x"})) for folder in (HOME, "/home/zoë")]
    content = kept[0] + args[0] + record("A/home/zoë") + kept[1] + args[1] + record("half written")[:-3]
    assert clean("runs/events.out.tfevents.1.0", content) == b"".join(kept)
    assert clean("runs/events.out.tfevents.1.0", args[0]) is None


def test_clean_file__names_a_file_that_it_cannot_read(clean):
    for name, content in (("metrics.json", b"\xff\xfe"), ("recipe.yaml", b"a: ["), ("README.md", b"\xff")):
        with pytest.raises(DataError, match=rf"{name}: expected (JSON|a run's file in YAML|a readable file); found "):
            clean(name, content)
