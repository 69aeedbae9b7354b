"""Takes the paths of this machine out of what is about to be published: of each, its last name stays."""

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

PATH_OPTIONS = (
    "data_dir", "output_dir", "split_file", "label_space", "class_weights", "model_name_or_path", "logging_dir",
    "recipe", "dataset", "cache_dir", "resume_from_checkpoint",
)  # fmt: skip


def is_absolute(value: object) -> bool:
    """Whether an option is an absolute path or one into a home folder, of this system or another."""
    if not isinstance(value, str):
        return False
    return value.startswith(("/", "~", "\\\\")) or bool(PureWindowsPath(value).drive)


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
    """The folders whose names must not appear: the home, working and run's folder, and those the recipe names."""
    paths = [run, run.resolve(), Path.cwd(), Path.home(), Path(tempfile.gettempdir())]
    named = {str(path) for path in paths}
    named |= {value for value in options.values() if is_absolute(value)}
    # The root itself would match everywhere; relative names say nothing about the machine.
    named = {name.rstrip("/\\") for name in named if is_absolute(name) and name.strip("/\\.~")}
    return sorted(named, key=len, reverse=True)


def remove_local_paths(text: str, folders: Iterable[str]) -> str:
    """`text` with every path into one of `folders` cut to its last name."""
    # JSON doubles the backslashes of Windows.
    names = {form for folder in folders for form in (folder, folder.replace("\\", "\\\\")) if form in text}
    if not names:
        return text
    names = sorted(map(re.escape, names), key=len, reverse=True)
    # Not in the middle of a URL or of a longer path; up to the first sign that a path seldom has.
    pattern = (
        rf"(?<![\w./\\~-])(?:file://)?(?:{'|'.join(names)})(?:[/\\]+[^\s/\\\"'`<>|:;,(){{}}\[\]&]+)*[/\\]*(?![\w-])"
    )
    return re.sub(pattern, lambda match: last_name(match[0].removeprefix("file://")), text)
