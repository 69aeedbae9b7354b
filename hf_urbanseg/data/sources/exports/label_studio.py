"""Label Studio's JSON export: one list of tasks with their annotations."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from hf_urbanseg.data.image_files import IMAGE_SUFFIXES
from hf_urbanseg.data.sources.exports.folder import Export, ExportFolder, Frame, take, take_size
from hf_urbanseg.data.sources.exports.shapes import (
    Area,
    Shape,
    Size,
    fill_ellipse,
    fill_rectangle,
    fill_rings,
    read_numbers,
)
from hf_urbanseg.errors import DataError


def find(folder: ExportFolder) -> list[Path]:
    """JSON files that begin with a list of tasks."""
    return folder.find(r'\A\[\s*\{(?s:.*)"(annotations|completions)"\s*:\s*\[', ".json")


def read(folder: ExportFolder, files: list[Path]) -> Export:
    """Classes are the names found, sorted; shapes are drawn in the order of the file.

    Tasks without an annotation, or with a cancelled one alone, are not labelled and left out. Of several annotations of
    a task the one marked as ground truth counts.
    """
    export, names, skipped = Export(), set(), 0
    for file in files:
        split = folder.find_split(file)
        for number, task in enumerate(folder.read_json(file, list)):
            where = f"/{number}"
            chosen = _choose(take(task, "annotations", list, file, where), file, where)
            if chosen is None:
                skipped += 1
                continue
            where += f"/annotations/{chosen}/result"
            results = take(task["annotations"][chosen], "result", list, file, where.removesuffix("/result"))
            image = folder.find_image(_find_name(task, file, f"/{number}"), file, f"`/{number}/data`", split)
            frame = Frame(image, None, [], file, where, split)
            for index, result in enumerate(results):
                _read_result(result, frame, export, f"{where}/{index}")
            names |= {shape.name for shape in frame.shapes}
            export.frames.append(frame)
    export.classes |= dict.fromkeys(sorted(names))
    if skipped:
        export.notes.append(f"tasks without an annotation, left out: {skipped}")
    return export


def _choose(annotations: list, file: Path, where: str) -> int | None:
    """The number of the annotation that counts."""
    if not all(isinstance(one, Mapping) for one in annotations):
        raise DataError(f"objects at `{where}/annotations`", "others", "export again as JSON", file)
    kept = [index for index, one in enumerate(annotations) if not one.get("was_cancelled")]
    kept = [index for index in kept if annotations[index].get("ground_truth")] or kept
    if len(kept) > 1:
        fix = "mark one as ground truth in Label Studio, or delete the others"
        raise DataError(f"one annotation of the task at `{where}`", f"{len(kept)}", fix, file)
    return kept[0] if kept else None


def _find_name(task: Mapping, file: Path, where: str) -> str:
    data = take(task, "data", dict, file, where)
    found = [value for value in data.values() if isinstance(value, str) and _is_picture(value)]
    if len(found) != 1:
        named = ", ".join(found) or "none"
        raise DataError(f"one picture at `{where}/data`", named, "export tasks of single pictures", file)
    return found[0]


def _is_picture(value: str) -> bool:
    return any(PurePosixPath(part).suffix.lower() in IMAGE_SUFFIXES for part in re.split(r"[?&#=]", value))


def _read_result(result: object, frame: Frame, export: Export, where: str) -> None:
    value = result.get("value") if isinstance(result, Mapping) else None
    key = next((key for key in value if key.endswith("labels")), None) if isinstance(value, Mapping) else None
    if key is None:  # a choice or a text about the whole picture, a relation between shapes
        return
    labels = take(value, key, list, frame.file, f"{where}/value")
    if len(labels) != 1 or not isinstance(labels[0], str):
        found = f"{labels!r:.60} at `{where}/value/{key}`"
        raise DataError("one label of a shape", found, "choose one in Label Studio", frame.file)
    if result.get("image_rotation"):
        found = f"one turned by {result['image_rotation']!r:.10} degrees at `{where}`"
        raise DataError("a picture that was labelled upright", found, "turn the file instead", frame.file)
    size = take_size(result, ("original_height", "original_width"), frame.file, where)
    if frame.size not in (None, size):
        raise DataError(f"one size, {frame.size}", f"{size} at `{where}`", "export again", frame.file)
    frame.size, frame.where = size, where
    geometry = next((one for one in ("points", "rle", "radiusX", "height") if one in value), None)
    if geometry is None or key == "keypointlabels":
        export.left_out[key.removesuffix("labels") or "label"] += 1
        return
    export.rectangles += geometry == "height"
    frame.shapes.append(Shape(labels[0], f"{where}/value", partial(_cover, value=value, geometry=geometry)))


def _cover(size: Size, value: Mapping, geometry: str) -> Area:
    percent, turn = (size[1] / 100, size[0] / 100), value.get("rotation") or 0
    if geometry == "points":
        return fill_rings(size, [value["points"]], scale=percent)
    if geometry == "rle":
        return Area(unpack_brush(size, value["rle"]))
    place = value.get("x"), value.get("y")
    if geometry == "radiusX":
        return fill_ellipse(size, place, (value["radiusX"], value.get("radiusY")), turn, percent)
    x, y, width, height = read_numbers((*place, value.get("width"), value["height"]), (4,))
    return fill_rectangle(size, (x, y), (x + width, y + height), turn, percent, about_corner=True)


def unpack_brush(size: Size, packed: Sequence[int]) -> np.ndarray:
    """(H, W) bool: where a brush has painted, from the bytes in which Label Studio packs its red, green, blue, alpha.

    The bits are: 32 of the number of values, 5 of the bits in a value less 1, four times 4 of the bits in a length
    less 1; then pieces of 1 (whether one value is repeated), 2 (which of the four), a length less 1, and the value or
    values.

    Source: @thi.ng/rle-pack, which Label Studio uses.
    """
    try:
        content = bytes(packed if isinstance(packed, list) else [None])  # of a number, that many zeros
    except (TypeError, ValueError) as error:
        raise DataError("`rle` as a list of bytes", f"{packed!r:.40}", "export again") from error
    bits, place = format(int.from_bytes(content, "big"), f"0{8 * len(content)}b"), 0

    def take_bits(count: int) -> int:
        nonlocal place
        place += count
        if place > len(bits):
            raise DataError("`rle` of a whole brush", "one that is cut short", "export again")
        return int(bits[place - count : place], 2)

    total = take_bits(32)
    if total != 4 * size[0] * size[1]:
        found = f"{total:,} values"
        raise DataError(f"`rle` of {size[0]}x{size[1]} pixels of 4 values", found, "export again")
    if take_bits(5) != 7:
        raise DataError("`rle` of values of 8 bits", "others", "export again")
    lengths = [take_bits(4) + 1 for _ in range(4)]
    painted, done = np.empty(total, np.uint8), 0
    while done < total:
        repeated = take_bits(1)
        count = min(take_bits(lengths[take_bits(2)]) + 1, total - done)
        # Colours don't repeat: most of a real brush is values one by one.
        piece = take_bits(8) if repeated else np.frombuffer(take_bits(8 * count).to_bytes(count, "big"), np.uint8)
        painted[done : done + count] = piece
        done += count
    return painted.reshape(*size, 4)[..., 3] > 0
