"""A run's files without the paths of this machine: of each path, its last name stays."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import yaml
from huggingface_hub import constants
from markupsafe import escape

from hf_urbanseg.errors import DataError
from hf_urbanseg.json_yaml import read_json, read_mapping
from hf_urbanseg.runs.folder import RECIPE, TRAINING_ARGUMENTS

_TEXT = (".md", ".csv", ".html")
_OPTIONS = (RECIPE, TRAINING_ARGUMENTS)
_LOADED_FROM = ("_name_or_path", "name_or_path")  # of a model's config, on whatever machine


def is_absolute(value: object) -> bool:
    """Whether an option is an absolute path or one into a home folder, of this system or another."""
    return isinstance(value, str) and re.match(r"/|~|\\\\|[A-Za-z]:[/\\]|file:", value) is not None


def is_local(value: object) -> bool:
    """Whether an option is a path that tells of this machine: not a name, a Hub id, or a folder such as runs/demo."""
    return is_absolute(value) or (isinstance(value, str) and re.match(r"\.\.?[/\\]", value) is not None)


def last_name(path: str) -> str:
    return re.split(r"[/\\]+", path.rstrip("/\\"))[-1] or "folder"


def shorten_options(options):
    """A recipe with every path that tells of this machine, in whatever option, cut to its last name."""
    if isinstance(options, dict):
        return {key: shorten_options(value) for key, value in options.items()}
    if isinstance(options, list):
        return [shorten_options(value) for value in options]
    if not isinstance(options, str):
        return options
    # Of several parts, as of `add_data`, each path behind a colon; but an address is no path.
    parts = re.split(r":(?=/(?!/)|~|\\\\|[A-Za-z]:[/\\])", options)
    return ":".join(last_name(part) if is_local(part) else part for part in parts)


def list_local_folders(run: str | Path, options: dict) -> list[str]:
    """The folders whose names must not appear, longest first.

    They are the run's, the working and the home folder, those of Python, caches and temporary files, and those that
    the recipe names; links as they are and as they lead.
    """
    paths = [run, Path.cwd(), Path(os.path.abspath(run)).parent, os.path.expanduser("~"), tempfile.gettempdir()]
    paths += [constants.HF_HOME, sys.prefix, Path(__file__).parents[2]]
    values = (one for value in options.values() for one in (value if isinstance(value, list) else [value]))
    paths += [os.path.expanduser(value) for value in values if is_local(value)]
    named = {form for path in paths for form in (str(path), os.path.abspath(path), os.path.realpath(path))}
    # The root would match everywhere, and /usr is the same on every machine.
    named = {name.rstrip("/\\") for name in named if is_absolute(name)} - {"", "/usr", "/opt", "~"}
    return sorted(named, key=lambda name: (-len(name), name))


def remove_local_paths(text: str, folders: Iterable[str]) -> str:
    """`text` with every path into one of `folders` cut to its last name; URLs and longer paths stay."""
    forms = {str(write(name)): str(write(last_name(name))) for name in folders for write in (str, escape, quote)}
    forms = {form: last for form, last in forms.items() if form in text}
    if not forms:
        return text
    names = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    piece = r"[/\\]+[^\s/\\\"'`<>|:;,(){}\[\]&]+"
    pattern = rf"(?<![\w./-])(?:file://)?({names})((?:{piece})*)[/\\]?(?![\w-])"
    return re.sub(pattern, lambda match: re.split(r"[/\\]+", match[2])[-1] or forms[match[1]], text)


def clean_values(value, folders: Iterable[str]):
    """The content of a JSON or YAML file without `folders`, whatever the names in it would mean to JSON or YAML."""
    if isinstance(value, dict):
        return {
            clean_values(key, folders): (
                last_name(one) if key in _LOADED_FROM and is_absolute(one) else clean_values(one, folders)
            )
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [clean_values(one, folders) for one in value]
    return remove_local_paths(value, folders) if isinstance(value, str) else value


def clean_file(name: str, path: Path, folders: list[str]) -> Path | bytes | None:
    """A file's content without the paths of this machine, the file itself where it has none, None to leave it out.

    `name` is its path in the repository, `folders` come from `list_local_folders`; a text that can't be read is a
    DataError.
    """
    try:
        if "tfevents" in name:
            return _clean_events(path.read_bytes(), folders) or None
        if path.suffix in _TEXT:
            text = path.read_text(encoding="utf-8")
            cleaned = remove_local_paths(text, folders)
            return path if cleaned == text else cleaned.encode()
        if path.suffix not in (".json", ".yaml"):
            return path
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise DataError("a readable file", reason, "repair or remove it", path) from error
    is_json = path.suffix == ".json"
    content = read_json(path) if is_json else read_mapping(path, "run's")
    cleaned = clean_values(shorten_options(content) if name in _OPTIONS else content, folders)
    if cleaned == content:
        return path
    if is_json:
        return (json.dumps(cleaned, indent=1, ensure_ascii=False) + "\n").encode()
    return yaml.safe_dump(cleaned, sort_keys=False, allow_unicode=True).encode()


def _clean_events(content: bytes, folders: list[str]) -> bytes:
    """An event file's whole records without those that name a path: transformers writes all its arguments into one.

    A record is length (8 bytes), its checksum (4), data, its checksum (4).
    """
    names = {form.encode() for folder in folders for form in (folder, json.dumps(folder)[1:-1])}
    kept, at = b"", 0
    while at + 16 <= len(content):
        record = content[at : at + 16 + int.from_bytes(content[at : at + 8], "little")]
        at += 16 + int.from_bytes(content[at : at + 8], "little")
        if at <= len(content) and not any(name in record for name in names):
            kept += record
    return kept
