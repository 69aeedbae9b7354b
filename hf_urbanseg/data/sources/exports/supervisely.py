"""Supervisely's projects: meta.json, and in each data set img/ and ann/ with a JSON file for every picture."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hf_urbanseg.data.image_files import IMAGE_SUFFIXES
from hf_urbanseg.data.sources.exports.folder import Export, ExportFolder, Frame, read_color, take, take_size
from hf_urbanseg.data.sources.exports.shapes import Area, Shape, Size, fill_rectangle, fill_rings, paste_picture
from hf_urbanseg.errors import DataError

_AREAS = ("polygon", "bitmap", "rectangle")


def find(folder: ExportFolder) -> list[Path]:
    """Files meta.json with classes."""
    return folder.find(r'"classes"\s*:\s*\[', ".json", stem="meta")


def read(folder: ExportFolder, files: list[Path]) -> Export:
    """Classes and colours in the order of meta.json, shapes in the order of each file."""
    if len(files) > 1:
        found = " and ".join(map(folder.describe, files[:2]))
        raise DataError("one project", found, "give its folder", folder.root)
    (meta,) = files
    export = Export()
    for number, entry in enumerate(take(folder.read_json(meta), "classes", list, meta)):
        name = take(entry, "title", str, meta, f"/classes/{number}")
        export.classes[name] = read_color(entry.get("color"))
    for file in folder.list_files(".json"):
        if file.parent.name == "ann":
            export.frames.append(_read_frame(folder, file, export))
    return export


def _read_frame(folder: ExportFolder, file: Path, export: Export) -> Frame:
    content, split, name = folder.read_json(file), folder.find_split(file, by_name=False), file.stem
    if Path(name).suffix.lower() not in IMAGE_SUFFIXES:  # as older versions name them
        name = next((one for one in folder.images if Path(one).stem == name), name)
    image = folder.find_image(f"{file.parent.parent.name}/img/{name}", file, "its name", split)
    size = take_size(take(content, "size", dict, file), ("height", "width"), file, "/size")
    frame = Frame(image, size, [], file, "/size", split)
    for number, entry in enumerate(take(content, "objects", list, file)):
        where = f"/objects/{number}"
        title, kind = (take(entry, key, str, file, where) for key in ("classTitle", "geometryType"))
        if title not in export.classes:
            found = f"`{title}` at `{where}`"
            raise DataError("a class of meta.json", found, "export again with meta.json", file)
        export.rectangles += kind == "rectangle"
        if kind in _AREAS:
            frame.shapes.append(Shape(title, where, partial(_cover, entry=entry, kind=kind)))
        else:
            export.left_out[kind[:40]] += 1
    return frame


def _cover(size: Size, entry: Mapping, kind: str) -> Area:
    inside = entry.get("bitmap" if kind == "bitmap" else "points")
    if not isinstance(inside, Mapping):
        raise DataError(f"the points or the bitmap of a {kind}", f"{inside!r:.60}", "export again")
    if kind == "bitmap":
        return paste_picture(size, inside.get("data"), inside.get("origin"), packed=True)
    exterior, interior = inside.get("exterior"), inside.get("interior") or []
    if kind == "rectangle":
        if not isinstance(exterior, list) or len(exterior) != 2:
            raise DataError("two corners of a rectangle", f"{exterior!r:.60}", "export again")
        return fill_rectangle(size, *exterior)
    return fill_rings(size, [exterior], interior if isinstance(interior, list) else [interior])
