"""A run's files without the paths of this machine."""

import contextlib
import json
import logging
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import yaml

from hf_urbanseg.errors import DataError
from hf_urbanseg.hub.cleaning.local_paths import (
    is_absolute,
    last_name,
    names_folder,
    remove_local_paths,
    shorten_options,
)
from hf_urbanseg.hub.cleaning.pictures import is_picture, read_texts

logger = logging.getLogger(__name__)

_TEXT = (".json", ".yaml", ".md", ".csv", ".html")
# Where a model was loaded from, on whatever machine.
_LOADED_FROM = re.compile(r'("_?name_or_path":\s*)("(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")')


def clean_file(name: str, path: Path, folders: list[str]) -> Path | bytes | None:
    """A file's content without the paths of this machine, the file itself where it has none, None to leave it out.

    Texts are cut; records of event files that name a path are dropped; pictures are left out, with a warning.

    Args:
        name: Path in the repository.
        path: The file.
        folders: From `list_local_folders`.

    Raises:
        DataError: A file that can't be read, or weights whose metadata name a path.
    """
    if "tfevents" in name:
        content = path.read_bytes()
        cleaned = _clean_events(content, folders)
        return cleaned if cleaned or not content else None
    if name == "recipe.yaml":
        return _dump(_clean_values(shorten_options(read_options(path)), folders))
    if path.suffix in _TEXT:
        return _clean_text(path, folders)
    if path.suffix == ".safetensors":
        with path.open("rb") as file, contextlib.suppress(struct.error):  # `check_files` complains of a broken one
            if names_folder(read_header(file), folders):
                fix = "write it again without"
                raise DataError("weights without paths", "one of this machine in their metadata", fix, path)
        return path
    content = path.read_bytes()
    if not is_picture(path.suffix, content):
        logger.warning("left out: %s, which is not what its name says", path)
        return None
    if any(names_folder(text, folders) for text in read_texts(content)):
        logger.warning("left out: %s, whose metadata name a folder of this machine", path)
        return None
    return path


def read_options(path: Path) -> dict:
    """A YAML file of options."""
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError("valid YAML", type(error).__name__, "restore the file", path) from error
    if not isinstance(options, dict):
        raise DataError("a mapping of options", type(options).__name__, "restore the file", path)
    return options


def _dump(options: dict) -> bytes:
    return yaml.safe_dump(options, sort_keys=False, allow_unicode=True).encode()


def _clean_values(value, folders: list[str]):
    """YAML goes by its values, as a path's last name alone may mean something to YAML: `yes`, `*x`, `2020`."""
    if isinstance(value, dict):
        return {_clean_values(key, folders): _clean_values(one, folders) for key, one in value.items()}
    if isinstance(value, list):
        return [_clean_values(one, folders) for one in value]
    return remove_local_paths(value, folders) if isinstance(value, str) else value


def _clean_text(path: Path, folders: list[str]) -> Path | bytes:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError("a text file in UTF-8", f"{type(error).__name__}", "repair or remove it", path) from error
    cleaned = remove_local_paths(text, folders)
    if path.suffix == ".json":
        cleaned = _LOADED_FROM.sub(_shorten_loaded, cleaned)
    if cleaned == text:
        return path
    return _dump(_clean_values(read_options(path), folders)) if path.suffix == ".yaml" else cleaned.encode()


def _shorten_loaded(match: re.Match) -> str:
    value = json.loads(match[2])
    return match[1] + (json.dumps(last_name(value)) if is_absolute(value) else match[2])


def _clean_events(content: bytes, folders: list[str]) -> bytes:
    """An event file without the records that name a path: transformers writes all its arguments into one."""
    return b"".join(one for one in _split_events(content) if not names_folder(one, folders))


def _split_events(content: bytes) -> Iterator[bytes]:
    """The records of an event file, whole ones only: length (8 bytes), its checksum (4), data, its checksum (4)."""
    at = 0
    while at + 16 <= len(content):
        end = at + 16 + int.from_bytes(content[at : at + 8], "little")
        if end > len(content):
            return
        yield content[at:end]
        at = end


def read_header(file: BinaryIO) -> bytes:
    """Of a safetensors file all that can hold text."""
    (length,) = struct.unpack("<Q", file.read(8))
    return file.read(min(length, 100_000_000))


def unreadable(path: Path, error: Exception) -> DataError:
    """For a file that the system refuses."""
    reason = getattr(error, "strerror", None) or str(error)
    return DataError("a readable file", reason, "repair or remove it", path)
