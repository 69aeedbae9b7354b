"""The folder of an export: which files are in it, and which of them a name in an annotation means."""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from hf_urbanseg.data.columns import SPLIT_NAMES
from hf_urbanseg.data.image_files import IMAGE_SUFFIXES, UNSPLIT
from hf_urbanseg.data.pictures import ADDRESS
from hf_urbanseg.data.sources.exports.shapes import Shape
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_name
from hf_urbanseg.json_yaml import read_json

MOST_ANNOTATIONS = 1 << 29
"""Bytes of one file: COCO's own largest, of 118,000 pictures, has 470 MB. Read, it takes ten times as much memory."""
_HEAD = 1 << 14  # bytes that tell what a file is
_ANY_FOLDER = {"images", "image", "imgs", "img", "labels", "annotations", "frames", "data", "set"}
_AGAIN = "correct it, or export again"
_WORDS = {list: "a list", dict: "an object", str: "text", int: "a whole number"}
_UPLOAD = re.compile(r"[0-9a-f]{8}-")  # what Label Studio puts before the names of uploaded files


@dataclass
class Frame:
    """A picture with its shapes in the order in which they are drawn, later ones over earlier ones.

    Args:
        size: (height, width) that the export says; None where it says none.
        file, where: Of the picture's entry, for errors.
        split: One of `SPLITS`, or None.
    """

    image: Path
    size: tuple[int, int] | None
    shapes: list[Shape]
    file: Path
    where: str
    split: str | None = None


@dataclass
class Export:
    """What one export holds.

    Args:
        classes: Names in order, each with its colour, or None where the export has none for it.
        left_out: How many annotations of each kind have no area, such as points.
        rectangles: How many shapes are upright or turned boxes.
        notes: One sentence each.
    """

    frames: list[Frame] = field(default_factory=list)
    classes: dict[str, tuple[int, int, int] | None] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    rectangles: int = 0
    notes: list[str] = field(default_factory=list)


class ExportFolder:
    """The files below a folder, hidden ones aside; `data_dir` may also be one file of annotations in it.

    Args:
        path: The folder, or the file. The pictures of a file lie in its folder, or beside that where it is called
            `annotations`.
    """

    def __init__(self, path: Path):
        self.root = path
        if path.is_file():
            parent = path.absolute().parent
            self.root = parent.parent if parent.name.lower() in ("annotations", "annotation", "ann") else parent
        self.images: dict[str, list[Path]] = defaultdict(list)
        self._files: dict[str, list[Path]] = defaultdict(list)
        seen = set()
        for at, folders, names in os.walk(self.root, followlinks=True):
            if (place := os.path.realpath(at)) in seen:  # a loop of links
                folders.clear()
                continue
            seen.add(place)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                suffix = os.path.splitext(name)[1].lower()
                if suffix in IMAGE_SUFFIXES:
                    self.images[name].append(Path(at, name))
                elif not name.startswith("."):
                    self._files[suffix].append(Path(at, name))
        if path.is_file():
            self._files = {path.suffix.lower(): [path]}

    def list_files(self, *suffixes: str) -> list[Path]:
        """Those with one of the suffixes, of folders in their order."""
        return [path for suffix in suffixes for path in self._files.get(suffix, ())]

    def find(self, pattern: str, *suffixes: str, stem: str | None = None) -> list[Path]:
        """Regular files of such names, whose first characters have the pattern in them."""
        named = [path for path in self.list_files(*suffixes) if stem in (None, path.stem)]
        return [path for path in named if path.is_file() and re.search(pattern, _read_head(path))]

    def read_json(self, path: Path, kind: type = dict) -> dict | list:
        """The content of a file that was found here."""
        return read_json(path, most=MOST_ANNOTATIONS, kind=kind)

    def describe(self, path: Path) -> str:
        """A file's path inside the folder."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def find_split(self, path: Path, by_name: bool = True) -> str | None:
        """The split that a file of annotations or a folder around it is called by: `instances_val2017.json`,
        `valid/a.json`, but not `train station/a.json`.

        Args:
            by_name: False for a file that is called as its picture is.
        """
        *folders, name = self.describe(path).lower().split("/")
        found = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", name) if word in SPLIT_NAMES.keys() - {UNSPLIT}}
        if by_name and len(found) == 1:
            return found.pop()
        for folder in reversed(folders):
            words = set(re.findall("[a-z]+", folder)) - _ANY_FOLDER
            if len(words) == 1 and words <= SPLIT_NAMES.keys() - {UNSPLIT}:
                return SPLIT_NAMES[words.pop()]
        return None

    def find_image(self, named: object, file: Path, where: str, split: str | None = None) -> Path:
        """The picture below the folder that an export means by a path or address of whatever machine.

        Found by its name. Of several with it the one counts with the most folders of the path, then the one beside
        `file`, then the one of the same split.
        """
        if not isinstance(named, str) or not named:
            raise DataError("the name of a picture", f"{named!r:.60} at {where}", _AGAIN, file)
        parts = _read_parts(named)
        found = self.images.get(parts[-1]) or self.images.get(_UPLOAD.sub("", parts[-1], count=1)) or []
        if len(found) > 1:
            shared = [_count_shared(path.parts[:-1], parts[:-1]) for path in found]
            found = [path for path, count in zip(found, shared, strict=True) if count == max(shared)]
        for closer in (
            lambda path: path.parent == file.parent,
            lambda path: split is not None and self.find_split(path, by_name=False) == split,
        ):
            if len(found) > 1:
                found = [path for path in found if closer(path)] or found
        if len(found) != 1:
            several = f"{len(found)}, such as {' and '.join(map(self.describe, found[:2]))}" if found else "none"
            fix = "copy the pictures into the folder" if not found else "name the folders in the export, or rename them"
            raise DataError(f"one picture `{parts[-1]}` ({where}) below {self.root}", several, fix, file)
        return check_name(found[0])


def _read_head(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(_HEAD).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")


def _read_parts(named: str) -> list[str]:
    """The folders and the name in a path of any system or an address; of `/data/local-files/?d=a/b.png`, those of d."""
    if (ADDRESS.match(named) and not re.match(r"[A-Za-z]:[\\/]", named)) or "?d=" in named:
        try:
            address = urlsplit(named)
        except ValueError:  # brackets without an end
            return [named]
        named = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    return [part for part in named.replace("\\", "/").split("/") if part not in ("", ".", "..")] or [named]


def _count_shared(folders: Sequence[str], named: Sequence[str]) -> int:
    """How many folders agree, from the file upwards."""
    pairs = zip(reversed(folders), reversed(named), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def take(content: object, key: str, kind: type, file: Path, where: str = ""):
    """`content[key]`, which has to be there and of that kind; `where` is the place of `content` in the file."""
    value = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        found = f"{value!r:.60}" if isinstance(content, Mapping) else f"{content!r:.60} around it"
        raise DataError(f"{_WORDS[kind]} at `{where}/{key}`", found, _AGAIN, file)
    return value


def take_size(content: Mapping, keys: tuple[str, str], file: Path, where: str) -> tuple[int, int] | None:
    """(height, width) under two keys; None where there is neither."""
    if all(content.get(key) is None for key in keys):
        return None
    return tuple(take(content, key, int, file, where) for key in keys)


def read_color(text: object) -> tuple[int, ...] | None:
    """Of `#80402a` its channels; None of anything else."""
    return tuple(bytes.fromhex(text[1:])) if re.fullmatch(r"#[0-9a-fA-F]{6}", str(text)) else None


def hash_listing(frames: Sequence[Frame], rule: object) -> str:
    """Changes with the content of any annotation, with any picture, and with `rule`."""
    key = hashlib.sha256(json.dumps(rule).encode())
    for file in sorted({frame.file for frame in frames}):
        with open(file, "rb") as opened:
            key.update(hashlib.file_digest(opened, "sha256").digest())
    for frame in frames:
        status = frame.image.stat()
        key.update(f"{frame.image.absolute()}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return key.hexdigest()[:32]
