"""Files and folders that appear whole or not at all, and JSON and YAML written that way."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from hf_urbanseg.errors import DataError
from hf_urbanseg.escaping import is_plain


@contextmanager
def written_whole(path: str | Path, *, folder: bool = False, also: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """Gives a hidden name beside `path` to write to; it takes the name `path` if the block ends well, else it is gone.

    Args:
        path: Its parent is made if missing. What is there is replaced at the end.
        folder: The hidden name is that of a new folder.
        also: What a library raises beside `OSError` where it can't write (torch a RuntimeError).

    Raises:
        DataError: Writing failed; what was at `path` is still there.
    """
    path = Path(path)
    # Always the same name, so that the next start clears what a killed one left.
    staged = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(staged)
        if folder:
            staged.mkdir()
        yield staged
        if folder:
            follow_umask(staged)
        if folder and path.is_dir():  # a folder that isn't empty can't be replaced
            earlier = path.with_name(f".{path.name}.replaced")
            _remove(earlier)
            path.rename(earlier)
            staged.rename(path)
            _remove(earlier)
        else:
            os.replace(staged, path)
    except (OSError, *also) as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "no reason given")
        raise DataError("a place to write to", reason, "check the path, its space and permissions", path) from error
    finally:
        _remove(staged)


def make_folder(path: str | Path) -> Path:
    """The folder at `path`, made if missing."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise DataError("a folder to write to", error.strerror or str(error), "choose another", path) from error
    return Path(path)


def follow_umask(folder: Path) -> None:
    """Gives the files of a new folder the mode that others' have; safetensors makes its own for the owner alone."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)


def hash_file(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(path: Path) -> Path:
    """The path itself; refused if it can't be written down: not UTF-8, or with a line break or control character."""
    if not is_plain(str(path.absolute())):
        found = "one that isn't, or with control characters (spelt out here)"
        raise DataError("a file name in UTF-8", found, "rename the file or its folder", path.absolute())
    return path


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8."""
    with written_whole(path) as staged:
        staged.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Mapping, indent: int | None = 1) -> None:
    """Writes JSON (no NaN: it is not JSON); `indent` None is one long line."""
    write_text(path, json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def write_yaml(path: str | Path, content: Mapping) -> None:
    """Writes YAML in the given order."""
    write_text(path, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def read_json(path: str | Path) -> dict | None:
    """The object in a JSON file; None if there is no such file. NaN, which is not JSON, is read as None."""

    def build(pairs: list[tuple]) -> dict:
        content = dict(pairs)
        if len(content) < len(pairs):  # the last one would win
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError("every name in an object once", f"`{twice}` again", "keep one", path)
        return content

    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text, parse_constant=lambda _: None, object_pairs_hook=build)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError("a readable file", error.strerror or str(error), "check it", path) from error
    except ValueError as error:  # of JSON and of UTF-8
        raise DataError("JSON", str(error).rstrip("."), "restore the file or make it anew", path) from error
    if not isinstance(content, dict):
        raise DataError("a JSON object", type(content).__name__, "restore the file or make it anew", path)
    return content


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
