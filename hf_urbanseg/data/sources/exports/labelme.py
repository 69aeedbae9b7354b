"""labelme's JSON, one file beside each picture."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from hf_urbanseg.data.sources.exports.folder import Export, ExportFolder, Frame, take, take_size
from hf_urbanseg.data.sources.exports.shapes import (
    Area,
    Shape,
    Size,
    fill_ellipse,
    fill_rectangle,
    fill_rings,
    paste_picture,
    read_numbers,
)
from hf_urbanseg.errors import DataError

_AREAS = ("polygon", "rectangle", "circle", "mask", "rotation", "oriented_rectangle")
"""Kinds with an area; the last two are corners in order, of X-AnyLabeling and of labelme."""


def find(folder: ExportFolder) -> list[Path]:
    """JSON files with one of labelme's keys at their beginning."""
    return folder.find(r'\A(?={)(?s:.*)"(shapes|imagePath|imageData)"\s*:', ".json")


def read(folder: ExportFolder, files: list[Path]) -> Export:
    """Classes are the names found, sorted. The picture inside a file (`imageData`) is not used."""
    export, names = Export(), set()
    for file in files:
        content = folder.read_json(file)
        split = folder.find_split(file, by_name=False)
        image = folder.find_image(take(content, "imagePath", str, file), file, "`/imagePath`", split)
        size = take_size(content, ("imageHeight", "imageWidth"), file, "")
        frame = Frame(image, size, [], file, "/imageHeight", split)
        for number, entry in enumerate(take(content, "shapes", list, file)):
            where = f"/shapes/{number}"
            name, kind = take(entry, "label", str, file, where), entry.get("shape_type") or "polygon"
            if kind in _AREAS:
                kept = {key: entry.get(key) for key in ("points", "mask")}
                frame.shapes.append(Shape(name, f"{where}/points", partial(_cover, entry=kept, kind=kind)))
                names.add(name)
                export.rectangles += kind == "rectangle"
            else:
                export.left_out[str(kind)[:40]] += 1
        export.frames.append(frame)
    export.classes |= dict.fromkeys(sorted(names))
    return export


def _cover(size: Size, entry: Mapping, kind: str) -> Area:
    points = entry["points"]
    if kind in ("rectangle", "circle", "mask"):
        if not isinstance(points, list) or (len(points) != 2 and not (kind == "rectangle" and len(points) == 4)):
            raise DataError(f"two points of a {kind}", f"{points!r:.60}", "correct it in labelme")
        if len(points) == 4:  # all corners, as X-AnyLabeling writes
            return fill_rings(size, [points])
        if kind == "rectangle":
            return fill_rectangle(size, *points)
        if kind == "mask":
            return paste_picture(size, entry["mask"], points[0])
        center, rim = read_numbers(points, (2, 2))
        return fill_ellipse(size, center, [np.hypot(*(rim - center))] * 2)
    return fill_rings(size, [points])
