import html
import json
import sys
import tempfile
import urllib.parse
from pathlib import Path

import markupsafe
import pytest
import yaml
from clean_machine import elsewhere  # noqa: F401

from hf_urbanseg.hub.cards.markdown import escape_markdown
from hf_urbanseg.hub.cleaning.local_paths import (
    is_absolute,
    last_name,
    list_local_folders,
    names_folder,
    remove_local_paths,
    shorten_options,
)

HOME = "/home/ann"
ODD = (
    "/mnt/nas of ann/kitti",
    "/home/ann_b/été/日本",
    "/srv/o'neil/a\"b",
    "/data/r&d/<x>",
    "/mnt/50%/a+b",
    "/x/[1]/*y_",
)


@pytest.mark.parametrize(
    ("value", "absolute"),
    [
        ("/home/ann", True), ("~/kitti", True), ("C:\\Users\\ann", True), ("d:/data", True), ("\\\\nas\\share", True),
        ("file:///home/ann", True), ("user/name", False), ("../lists/a.yaml", False), ("https://x.org/home", False),
        ("b:0.5", False), ("0.5-2.0", False), (None, False), (5, False), ("", False),
    ],
)  # fmt: skip
def test_is_absolute__of_this_system_and_others(value, absolute):
    assert is_absolute(value) is absolute


def test_last_name__of_every_kind():
    paths = ("/a/b c/", "C:\\a\\b c", "b c", "/", "a//b c//")
    assert [last_name(path) for path in paths] == ["b c", "b c", "b c", "folder", "b c"]


def test_shorten_options__inside_lists_and_mappings(tmp_path):
    (tmp_path / "work" / "runs" / "start").mkdir(parents=True)
    options = {
        "data_dir": "../kitti", "model_name_or_path": "runs/start", "dataset": "user/streets", "seed": 1,
        "more": ["/a/b", {"c": "~/d", "/e/f": "h/i"}], "url": "https://x.org/a",
    }  # fmt: skip
    assert shorten_options(options) == {
        "data_dir": "kitti", "model_name_or_path": "start", "dataset": "user/streets", "seed": 1,
        "more": ["b", {"c": "d", "/e/f": "h/i"}], "url": "https://x.org/a",
    }  # fmt: skip


def test_list_local_folders__all_that_tell_something_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", "/mnt/cache/hf")
    monkeypatch.setenv("TORCH_HOME", "/mnt/cache/torch")
    monkeypatch.setenv("PWD", "/logical/work")
    monkeypatch.setattr(sys, "prefix", "/mnt/envs/venv")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work" / "linked").symlink_to(tmp_path / "elsewhere")
    options = {
        "data_dir": "../kitti", "split_file": "linked", "class_weights": "~/w.json", "note": "/opt/tools/x",
        "list": ["C:\\Users\\ann", {"deep": "/deep/er"}], "dataset": "user/name", "seed": 1, "root": "/", "dots": "~/",
    }  # fmt: skip
    run = tmp_path / "runs" / "x"
    found = list_local_folders(run, options)
    assert found == sorted(found, key=lambda name: (-len(name), name))
    package = str(Path(sys.modules["hf_urbanseg"].__file__).parents[1])
    expected = {
        str(run), str(run.parent), str(tmp_path / "work"), str(tmp_path / "home"), tempfile.gettempdir(), package,
        "/mnt/cache/hf", "/mnt/cache/torch", "/logical/work", "/mnt/envs/venv", str(tmp_path / "kitti"),
        str(tmp_path / "elsewhere"), str(tmp_path / "home" / "w.json"), "/opt/tools/x", "C:\\Users\\ann", "/deep/er",
    }  # fmt: skip
    assert expected <= set(found)
    assert not {"/", "", "~", "/usr", "user/name", "kitti", "/opt"} & set(found)


def test_list_local_folders__a_folder_of_the_root_is_no_name_of_its_own():
    assert "/scratch" not in list_local_folders(Path("/scratch/x"), {})
    assert {"/scratch/ann", "/scratch/ann/x"} <= set(list_local_folders(Path("/scratch/ann/x"), {}))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/ann", "ann"),
        ("/home/ann/", "ann"),
        ("/home/ann/kitti/a.png", "a.png"),
        ("(/home/ann/x), [/home/ann/y]; '/home/ann/z': `/home/ann/w`.", "(x), [y]; 'z': `w`."),
        ("PATH=/home/ann/bin:/home/ann/sbin", "PATH=bin:sbin"),
        ("--data_dir=/home/ann/kitti -I/home/ann/include", "--data_dir=kitti -Iinclude"),
        ("file:///home/ann/a.png file:/home/ann/b.png", "a.png b.png"),
        ("file:///home/ann/my%20data/a%20b.png", "a%20b.png"),
        ("a%20/home/ann/x", "a%20x"),
        ("?path=%2Fhome%2Fann%2Fx%2Fy.png&a=1", "?path=y.png&a=1"),
        ("file%3A%2F%2F%2Fhome%2Fann%2Fx", "x"),
        ('{"a": "one\\n/home/ann/x\\ttwo"}', '{"a": "one\\nx\\ttwo"}'),
        ('"/home/ann/my pictures/of one/a b.png"', '"a b.png"'),
        ("'/home/ann/some pictures of one/a b.png'", "'a b.png'"),
        ('"/home/ann/my pictures and /home/ann/x"', '"my pictures and x"'),
        ('"/home/ann/run is done, see x/y"', '"run is done, see x/y"'),
        ("no quotes: /home/ann/my pictures/a.png", "no quotes: my pictures/a.png"),
        ('"\\/home\\/ann\\/x"', '"x"'),
        ("user@host:/home/ann/x", "user@host:x"),
        ("<td>/home/ann/x</td>&quot;/home/ann/y&quot;", "<td>x</td>&quot;y&quot;"),
        ("/home/ann/été/日本.png /home/ann/\\u00e9t\\u00e9", "日本.png \\u00e9t\\u00e9"),
    ],
)
def test_remove_local_paths__wherever_they_stand(text, left):
    assert remove_local_paths(text, [HOME]) == left


@pytest.mark.parametrize(
    "text",
    [
        "https://x.org/home/ann/page", "/mnt/home/ann/x", "road/home/ann", "/home/annabel/x", "/home/ann-b",
        "~/home/ann", "../home/ann", "https://x.org:80/home/ann", "/home/", "home/ann",
    ],
)  # fmt: skip
def test_remove_local_paths__keeps_what_only_looks_alike(text):
    assert remove_local_paths(text, [HOME]) == text


def test_remove_local_paths__a_class_named_like_a_folder_stays():
    text = json.dumps({"id2label": {"0": "tmp/x", "1": "sky/tmp", "2": "tmp"}})
    assert remove_local_paths(text, ["/tmp"]) == text


@pytest.mark.parametrize("folder", ODD)
@pytest.mark.parametrize("rest", ["", "/", "/a b/été.png", "/x.png"])
def test_remove_local_paths__odd_names_leave_valid_files(folder, rest):
    name = last_name(rest) if rest.strip("/") else last_name(folder)
    value = {"path": folder + rest, "said": f"see {folder}, twice", "number": 1.5}
    for ascii_only in (True, False):
        left = json.loads(remove_local_paths(json.dumps(value, ensure_ascii=ascii_only), [folder]))
        assert left == {"path": name, "said": f"see {last_name(folder)}, twice", "number": 1.5}
    for escape in (html.escape, lambda text: str(markupsafe.escape(text))):
        page = f"<p title={escape('a')}>{escape(folder)}</p>"
        assert html.unescape(remove_local_paths(page, [folder])) == f"<p title=a>{last_name(folder)}</p>"
    for safe in ("/", "", "/:@!$&'()*+,;=~"):
        link = "file://" + urllib.parse.quote(f"{folder}/x.png", safe=safe)
        assert remove_local_paths(f'<img src="{link}">', [folder]) == '<img src="x.png">'
    card = f"a {escape_markdown(folder)} b"
    assert remove_local_paths(card, [folder]) == f"a {escape_markdown(last_name(folder))} b"


def test_remove_local_paths__of_windows():
    folder = "C:\\Users\\ann b"
    value = {"a": folder, "b": folder + "\\kitti\\a.png", "c": "C:\\Users\\other", "d": f"{folder}\nnew\tline"}
    left = json.loads(remove_local_paths(json.dumps(value), [folder]))
    assert left == {"a": "ann b", "b": "a.png", "c": "C:\\Users\\other", "d": "ann b\nnew\tline"}
    assert remove_local_paths(f"{folder}\\x\\y.png and {folder}", [folder]) == "y.png and ann b"
    assert remove_local_paths("file:///C:/Users/ann%20b/x.png", [folder]) == "x.png"


def test_remove_local_paths__the_longest_folder_counts():
    assert remove_local_paths("/a/b/c /a/b", ["/a", "/a/b"]) == "c b"
    assert remove_local_paths("see /a/b c/d here", ["/a", "/a/b c"]) == "see d here"


def test_remove_local_paths__yaml_with_single_quotes():
    text = yaml.safe_dump({"a": "/srv/o'neil: x/y"})
    assert "''" in text
    assert yaml.safe_load(remove_local_paths(text, ["/srv/o'neil: x"])) == {"a": "y"}


@pytest.mark.parametrize("folder", [*ODD, HOME])
def test_names_folder__in_anything_but_text(folder):
    for written in (folder, json.dumps(folder), html.escape(folder), urllib.parse.quote(folder)):
        for code in ("utf-8", "utf-16-le", "utf-16-be"):
            assert names_folder(b"\x08A" + written.encode(code) + b"/x", ["/other", folder])
    assert not names_folder(b"\x08A" + folder[:-1].encode(), [folder])
