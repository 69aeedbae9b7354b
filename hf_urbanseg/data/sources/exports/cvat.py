"""CVAT's XML "for images 1.1", of a task or a project."""

import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from xml.parsers import expat

from hf_urbanseg.data.columns import SPLIT_NAMES
from hf_urbanseg.data.sources.exports.folder import MOST_ANNOTATIONS, Export, ExportFolder, Frame, read_color
from hf_urbanseg.data.sources.exports.shapes import (
    Area,
    Shape,
    Size,
    fill_counts,
    fill_ellipse,
    fill_rectangle,
    fill_rings,
)
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_regular

_AREAS = ("polygon", "box", "ellipse", "mask")
_OTHERS = ("polyline", "points", "cuboid", "skeleton")
_MOST_DEPTH = 50  # CVAT nests 7 deep


def find(folder: ExportFolder) -> list[Path]:
    """XML files with the element `annotations` at their beginning."""
    return folder.find(r"\A(?=<)(?s:.*)<annotations\b", ".xml")


def read(folder: ExportFolder, files: list[Path]) -> Export:
    """Classes and colours in the order of the labels, shapes by `z_order` and then in the order of the file."""
    export = Export()
    for file in files:
        reader = _Reader(folder, file, export)
        reader.parse()
        export.frames += reader.frames
    return export


class _Reader:
    """Handlers of the standard library's parser, which keeps no tree; what a DTD could define is refused with it."""

    def __init__(self, folder: ExportFolder, file: Path, export: Export):
        self.folder, self.file, self.export = folder, file, export
        self.frames: list[Frame] = []
        self.stack: list[str] = []
        self.text: list[str] = []
        self.label: dict[str, str] = {}
        self.declared: set[str] = set()
        self.layers: dict[int, list[Shape]] = defaultdict(list)
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self.refuse_doctype
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.hear

    def parse(self) -> None:
        check_regular(self.file, MOST_ANNOTATIONS)
        try:
            with open(self.file, "rb") as file:
                self.parser.ParseFile(file)
        except (expat.ExpatError, ValueError, LookupError) as error:  # the latter of an encoding that is none
            raise DataError("XML", f"{error}", "export again", self.file) from error

    @property
    def where(self) -> str:
        return f"line {self.parser.CurrentLineNumber}"

    def refuse(self, expected: str, found: str, fix: str = "export again") -> DataError:
        return DataError(expected, f"{found} in {self.where}", fix, self.file)

    def refuse_doctype(self, *_) -> None:
        raise self.refuse("XML without a DTD, as CVAT writes it", "<!DOCTYPE", "remove it, or export again")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.stack.append(tag)
        if len(self.stack) > _MOST_DEPTH:
            raise self.refuse(f"{_MOST_DEPTH} elements inside each other at most", "more")
        self.text.clear()
        if tag == "track":
            fix = 'export as "CVAT for images 1.1"'
            raise self.refuse("shapes of images", 'a track of "CVAT for video"', fix)
        if tag == "image" and len(self.stack) == 2:
            self.layers.clear()
            self.frames.append(self.read_image(attributes))
        elif self.stack[:2] == ["annotations", "image"] and len(self.stack) == 3:
            if tag in _OTHERS:
                self.export.left_out[tag] += 1
            elif tag in _AREAS:
                self.read_shape(tag, attributes)

    def end(self, tag: str) -> None:
        if self.stack[-2:-1] == ["label"] and tag in ("name", "color"):
            self.label[tag] = "".join(self.text).strip()
        elif tag == "label" and self.stack[-2:-1] == ["labels"] and self.label.get("name"):
            self.declared.add(self.label["name"])
            self.export.classes.setdefault(self.label["name"], read_color(self.label.get("color")))
            self.label = {}
        elif tag == "image" and len(self.stack) == 2:
            self.frames[-1].shapes += [shape for order in sorted(self.layers) for shape in self.layers[order]]
        self.stack.pop()

    def hear(self, text: str) -> None:
        if self.stack[-2:-1] == ["label"]:
            self.text.append(text)

    def read_image(self, attributes: dict[str, str]) -> Frame:
        split = SPLIT_NAMES.get(attributes.get("subset", "").lower()) or self.folder.find_split(self.file)
        image = self.folder.find_image(attributes.get("name"), self.file, self.where, split)
        size = tuple(self.read_integer(attributes, key) for key in ("height", "width"))
        return Frame(image, size, [], self.file, self.where, split)

    def read_shape(self, kind: str, attributes: dict[str, str]) -> None:
        name = attributes.get("label")
        if not name or (self.declared and name not in self.declared):
            expected = f"a label of the task's ({', '.join(sorted(self.declared))})"
            raise self.refuse(expected, f"`{name}`")
        self.export.classes.setdefault(name, None)
        self.export.rectangles += kind == "box"
        order = self.read_integer(attributes, "z_order", "0")
        self.layers[order].append(Shape(name, self.where, partial(_cover, kind=kind, said=attributes)))

    def read_integer(self, attributes: dict[str, str], key: str, default: str | None = None) -> int:
        value = attributes.get(key, default)
        if value is None or not re.fullmatch(r"-?\d{1,9}", value):
            raise self.refuse(f"a whole number as `{key}`", f"{value!r:.40}")
        return int(value)


def _cover(size: Size, kind: str, said: dict[str, str]) -> Area:
    def get(*keys: str) -> list[str]:
        if missing := [key for key in keys if key not in said]:
            raise DataError(f"`{missing[0]}` of the {kind}", "none", "export again")
        return [said[key] for key in keys]

    if kind == "polygon":
        return fill_rings(size, [[pair.split(",") for pair in get("points")[0].split(";")]])
    if kind == "mask":
        words = ",".join(get("left", "top", "width", "height", "rle")).split(",")
        if not all(re.fullmatch(r"\s*-?\d{1,9}\s*", word) for word in words):
            raise DataError("whole numbers in a mask", "others", "export again")
        box, counts = (list(map(int, part)) for part in (words[:4], words[4:]))
        return fill_counts(size, counts, "C", box)
    turn = said.get("rotation", "0")
    if kind == "ellipse":
        return fill_ellipse(size, get("cx", "cy"), get("rx", "ry"), turn)
    left, top, right, bottom = get("xtl", "ytl", "xbr", "ybr")
    return fill_rectangle(size, (left, top), (right, bottom), turn)
