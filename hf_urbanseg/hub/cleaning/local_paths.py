"""Takes the paths of this machine out of what is about to be published: of each, its last name stays."""

import html
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

import markupsafe
from huggingface_hub import constants

from hf_urbanseg.hub.cards.markdown import escape_markdown

PATH_OPTIONS = (
    "data_dir", "output_dir", "split_file", "label_space", "class_weights", "model_name_or_path", "logging_dir",
    "recipe", "dataset", "cache_dir", "resume_from_checkpoint",
)  # fmt: skip
_SHARED = ("/", "/usr", "/usr/local", "/opt")  # the same on every machine
# How a path is written inside JSON, YAML, HTML, Markdown and URLs.
_ESCAPES: tuple[Callable[[str], str], ...] = (
    str,
    lambda name: json.dumps(name)[1:-1],
    lambda name: json.dumps(name, ensure_ascii=False)[1:-1],
    lambda name: json.dumps(name)[1:-1].replace("/", r"\/"),
    html.escape,
    lambda name: str(markupsafe.escape(name)),
    lambda name: name.replace("'", "''"),
    lambda name: str(escape_markdown(name)),
    quote,
    lambda name: quote(name, safe=""),
    lambda name: quote(name, safe="/:@!$&'()*+,;=~"),
    lambda name: quote(name.replace("\\", "/"), safe="/:"),
)
# A piece of a path ends at the first sign that a path seldom has; \u00e9 is a letter in JSON.
_PIECE = r"(?:\\u[0-9a-fA-F]{4}|[^\s/\\\"'`<>|:;,(){}\[\]&])+"
# Between pieces; JSON doubles the backslash of Windows, where a single one begins an escape.
_SEPARATORS = {"posix": r"(?:\\?/|%2[Ff]|%5[Cc])+", "windows": r"[\\/]+", "windows in JSON": r"(?:\\\\|/)+"}
# Not in the middle of a URL or of a longer path, but after "\n" as JSON writes it, %20 and an option such as -I.
_BEGIN = r"(?:(?<![\w./\\~-])|(?<=\\[nrt])|(?<=%[0-9A-F]{2})|(?<=[\s\"'\[,]-[A-Z]))"
_FILE_URL = r"(?:file:/{0,3}|file%3A(?:%2F){0,3})?"


def is_absolute(value: object) -> bool:
    """Whether an option is an absolute path or one into a home folder, of this system or another."""
    if not isinstance(value, str):
        return False
    return re.match(r"/|~|\\\\|[A-Za-z]:[/\\]|file:", value) is not None


def shorten_options(options: dict) -> dict:
    """A recipe with every absolute path, in whatever option, cut to its last name."""

    def shorten(value):
        if isinstance(value, list):
            return [shorten(one) for one in value]
        if isinstance(value, dict):
            return {key: shorten(one) for key, one in value.items()}
        return last_name(value) if is_absolute(value) else value

    return {
        key: last_name(value) if key in PATH_OPTIONS and _is_local(value) else shorten(value)
        for key, value in options.items()
    }


def _is_local(value: object) -> bool:
    """Whether an option that may hold a path does: not a Hub id `user/name` nor a bare name such as `cityscapes`."""
    if not isinstance(value, str) or not re.search(r"[/\\]", value):
        return False
    return is_absolute(value) or value.startswith(".") or value.count("/") != 1 or Path(value).exists()


def last_name(path: str) -> str:
    return re.split(r"[/\\]+", path.rstrip("/\\"))[-1] or "folder"


def list_local_folders(run: Path, options: dict) -> list[str]:
    """The folders whose names must not appear, longest first.

    They are the run's, the working and the home folder, those of Python, caches and temporary files, and those the
    recipe names; links as they are and as they lead.
    """
    paths = [run, Path.cwd(), os.environ.get("PWD"), os.path.expanduser("~"), tempfile.gettempdir()]
    paths += [constants.HF_HOME, constants.HF_HUB_CACHE]
    paths += [os.environ.get(name) for name in ("TORCH_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME")]
    paths += [sys.prefix, sys.base_prefix, Path(__file__).parents[3]]
    for value in (options.get(key) for key in PATH_OPTIONS):
        if isinstance(value, str) and (_is_local(value) or os.path.lexists(value)):
            paths.append(os.path.expanduser(value))
    named = {value for value in _list_texts(options) if is_absolute(value)}
    if len((folder := Path(os.path.abspath(run)).parent).parts) > 2:
        paths.append(folder)  # of other runs
    for path in filter(None, paths):
        named |= {str(path), os.path.abspath(path), os.path.realpath(path)}
    # The root itself would match everywhere; relative names say nothing about the machine.
    named = {name.rstrip("/\\") for name in named if is_absolute(name) and name.strip("/\\.~")}
    return sorted(named - set(_SHARED), key=lambda name: (-len(name), name))


def names_folder(content: bytes, folders: Iterable[str]) -> bool:
    """Whether one of `folders` is named anywhere in a content that is not text, wherever its words begin and end."""
    forms = {form for folder in folders for form, _ in _spell(folder)}
    return any(form.encode(code) in content for form in forms for code in ("utf-8", "utf-16-le", "utf-16-be"))


def _list_texts(options: object) -> list[str]:
    if isinstance(options, (list, tuple, dict)):
        inner = options.values() if isinstance(options, dict) else options
        return [text for one in inner for text in _list_texts(one)]
    return [options] if isinstance(options, str) else []


def remove_local_paths(text: str, folders: Iterable[str]) -> str:
    """`text` with every path into one of `folders` cut to its last name, however JSON, HTML or URLs write it.

    What was valid JSON or HTML stays so. URLs of the web and paths that only end like one of `folders` stay.
    """
    last = {form: name for folder in folders for form, name in _spell(folder) if form in text}
    for kind, separator in _SEPARATORS.items():
        text = _cut(text, {form: name for form, name in last.items() if _kind(form) == kind}, separator)
    return text


def _kind(form: str) -> str:
    windows = re.match(r"[A-Za-z]:|\\\\", form)
    return "posix" if not windows else "windows in JSON" if r"\\" in form[2:] else "windows"


def _cut(text: str, last: dict[str, str], separator: str) -> str:
    """`text` with every path into a key of `last` cut to its last name, or to the value if it is the folder itself."""
    if not last:
        return text
    names = "|".join(map(re.escape, sorted(last, key=len, reverse=True)))
    # In quotation marks a path may hold spaces, if another piece follows them.
    quoted = "|".join(
        rf"(?<={mark}){_FILE_URL}(?:{names})(?={separator})(?:(?!\s[/~]|[,;])[^{mark}\n]){{0,300}}?\s(?![/~])"
        rf"(?:(?!\s[/~]|[,;])[^{mark}\n]){{0,300}}{separator}"
        rf"(?P<quoted{number}>(?:\\u[0-9a-fA-F]{{4}}|[^{mark}\n/\\,;])+)(?={mark})"
        for number, mark in enumerate("\"'`")
    )
    plain = rf"{_BEGIN}{_FILE_URL}(?P<folder>{names})(?P<rest>(?:{separator}{_PIECE})*)(?:{separator})?(?![\w-])"

    def shorten(match: re.Match) -> str:
        if match["folder"] is None:
            return match[match.lastgroup]
        return re.split(separator, match["rest"])[-1] or last[match["folder"]]

    return re.sub(f"{quoted}|{plain}", shorten, text)


@lru_cache(maxsize=256)
def _spell(folder: str) -> tuple[tuple[str, str], ...]:
    """Each way to write a folder, and its last name in the same way."""
    name = last_name(folder)
    return tuple({escape(folder): escape(name) for escape in _ESCAPES}.items())
