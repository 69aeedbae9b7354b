"""CVAT's XML "for images 1.1", of a task or a project."""

import re
from collections.abc import Collection
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
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


def find(folder: ExportFolder) -> list[Path]:
    """XML files with the element `annotations` at their beginning."""
    return folder.find(r"\A(?=<)(?s:.*)<annotations\b", ".xml")


def read(folder: ExportFolder, files: list[Path]) -> Export:
    """Classes and colours in the order of the labels, shapes by `z_order` and then in the order of the file."""
    export = Export()
    for file in files:
        root, declared = _parse(file), set()
        if (track := next(root.iter("track"), None)) is not None:
            found = f'a track of "CVAT for video" in {_find_line(track)}'
            raise DataError("shapes of images", found, 'export as "CVAT for images 1.1"', file)
        for label in root.iterfind(".//labels/label"):
            if name := label.findtext("name", "").strip():
                declared.add(name)
                export.classes.setdefault(name, read_color(label.findtext("color", "").strip()))
        export.frames += [_read_frame(image, declared, folder, file, export) for image in root.iterfind("image")]
    return export


def _parse(file: Path) -> Element:
    """The tree, each element with its `line` in the file; what a DTD could define is refused with it."""
    check_regular(file, MOST_ANNOTATIONS)
    parser, builder = expat.ParserCreate(), TreeBuilder()

    def refuse_doctype(*_) -> None:
        found = f"<!DOCTYPE in line {parser.CurrentLineNumber}"
        raise DataError("XML without a DTD, as CVAT writes it", found, "remove it, or export again", file)

    parser.StartDoctypeDeclHandler = refuse_doctype
    parser.StartElementHandler = lambda tag, said: builder.start(tag, said | {"line": str(parser.CurrentLineNumber)})
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        with open(file, "rb") as opened:
            parser.ParseFile(opened)
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter of an encoding that is none
        raise DataError("XML", f"{error}", "export again", file) from error
    return builder.close()


def _find_line(element: Element) -> str:
    return f"line {element.get('line')}"


def _read_frame(image: Element, declared: Collection[str], folder: ExportFolder, file: Path, export: Export) -> Frame:
    split = SPLIT_NAMES.get(image.get("subset", "").lower()) or folder.find_split(file)
    path = folder.find_image(image.get("name"), file, _find_line(image), split)
    height, width = (_read_integer(image, key, file) for key in ("height", "width"))
    layers: list[tuple[int, Shape]] = []
    for one in image:
        if one.tag in _OTHERS:
            export.left_out[one.tag] += 1
        if one.tag not in _AREAS:
            continue
        name, where = one.get("label"), _find_line(one)
        if not name or (declared and name not in declared):
            expected = f"a label of the task's ({', '.join(sorted(declared))})"
            raise DataError(expected, f"`{name}` in {where}", "export again", file)
        export.classes.setdefault(name, None)
        export.rectangles += one.tag == "box"
        shape = Shape(name, where, partial(_cover, kind=one.tag, said=one.attrib))
        layers.append((_read_integer(one, "z_order", file, "0"), shape))
    shapes = [shape for _, shape in sorted(layers, key=lambda layer: layer[0])]
    return Frame(path, (height, width), shapes, file, _find_line(image), split)


def _read_integer(element: Element, key: str, file: Path, default: str | None = None) -> int:
    value = element.get(key, default)
    if value is None or not re.fullmatch(r"-?\d{1,9}", value):
        raise DataError(f"a whole number as `{key}`", f"{value!r:.40} in {_find_line(element)}", "export again", file)
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
