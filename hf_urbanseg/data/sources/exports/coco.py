"""COCO's JSON of instances, one or several files: of CVAT, Roboflow, Label Studio, LabelMe's converters and others."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hf_urbanseg.data.sources.exports.folder import Export, ExportFolder, Frame, take, take_size
from hf_urbanseg.data.sources.exports.shapes import Area, Shape, Size, fill_counts, fill_rings, read_counts
from hf_urbanseg.errors import DataError

_LISTS = ("images", "annotations", "categories")


def find(folder: ExportFolder) -> list[Path]:
    """JSON files with one of COCO's lists at their beginning."""
    return folder.find(rf'\A(?={{)(?s:.*)"({"|".join(_LISTS)})"\s*:\s*\[', ".json")


def read(folder: ExportFolder, files: list[Path]) -> Export:
    """Classes in the order of their ids, shapes in the order of the file; crowds are regions like others.

    Annotations with a box alone are left out and counted. A category that only heads others and has no annotation, as
    Roboflow writes first, is no class.
    """
    export, headings, used = Export(), set(), set()
    for file in files:
        content, split = folder.read_json(file), folder.find_split(file)
        if missing := [name for name in _LISTS if not isinstance(content.get(name), list)]:
            found = f"{folder.describe(file)}: left out, it has no list `{missing[0]}`"
            if len(files) == 1:
                raise DataError(f"lists {', '.join(_LISTS)}", f"no list `{missing[0]}`", "export again", file)
            export.notes.append(found)
            continue
        names = _read_categories(content["categories"], file)
        export.classes |= dict.fromkeys(names.values())
        above = {entry["name"]: entry.get("supercategory") for entry in content["categories"]}
        headings |= {heading for name, heading in above.items() if heading != name and heading in names.values()}
        frames = _read_images(content["images"], folder, file, split)
        for number, entry in enumerate(content["annotations"]):
            where = f"/annotations/{number}"
            frame = frames.get(_key(entry, "image_id", file, where))
            if frame is None:
                found = f"{entry['image_id']!r:.40} at `{where}`, which is none"
                raise DataError("the id of one of `images`", found, "export again", file)
            name = names.get(_key(entry, "category_id", file, where))
            if name is None:
                found = f"{entry['category_id']!r:.40} at `{where}`, which is none"
                raise DataError("the id of one of `categories`", found, "export again", file)
            used.add(name)
            if "segments_info" in entry:
                fix = "convert it with panopticapi, or export instances"
                raise DataError("COCO's instances", "panoptic segments", fix, file)
            if segmentation := entry.get("segmentation"):
                cover = partial(_cover, segmentation=segmentation)
                frame.shapes.append(Shape(name, f"{where}/segmentation", cover))
            else:
                export.left_out["box" if entry.get("bbox") else "annotation without a segmentation"] += 1
        export.frames += frames.values()
    for name in sorted(headings - used):
        del export.classes[name]
        export.notes.append(f"class `{name}`: left out, it heads others and has no annotation")
    return export


def _key(entry: object, name: str, file: Path, where: str) -> int | str:
    """An id; the standard says numbers, and some tools write words."""
    kind = str if isinstance(entry, Mapping) and isinstance(entry.get(name), str) else int
    return take(entry, name, kind, file, where)


def _read_categories(entries: list, file: Path) -> dict[int | str, str]:
    names = {}
    for number, entry in enumerate(entries):
        where = f"/categories/{number}"
        key, name = _key(entry, "id", file, where), take(entry, "name", str, file, where)
        if key in names or name in names.values():
            raise DataError("every category once", f"`{key}` `{name}` again at `{where}`", "rename it", file)
        names[key] = name
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _read_images(entries: list, folder: ExportFolder, file: Path, split: str | None) -> dict[int | str, Frame]:
    frames = {}
    for number, entry in enumerate(entries):
        where = f"/images/{number}"
        key = _key(entry, "id", file, where)
        if key in frames:
            raise DataError("every image id once", f"{key} again at `{where}`", "export again", file)
        image = folder.find_image(take(entry, "file_name", str, file, where), file, f"`{where}`", split)
        frames[key] = Frame(image, take_size(entry, ("height", "width"), file, where), [], file, where, split)
    return frames


def _cover(size: Size, segmentation: object) -> Area:
    if isinstance(segmentation, Mapping):
        counts, said = segmentation.get("counts"), segmentation.get("size")
        if said != list(size):
            found = f"{said!r:.40}"
            raise DataError(f"a mask of the picture's size [{size[0]}, {size[1]}]", found, "export again")
        if not isinstance(counts, str | list):
            raise DataError("`counts` as text or a list", f"{counts!r:.40}", "export again")
        return fill_counts(size, read_counts(counts) if isinstance(counts, str) else counts)
    if not isinstance(segmentation, list):
        raise DataError("`segmentation` as lists of points or as run lengths", f"{segmentation!r:.40}", "export again")
    return fill_rings(size, segmentation)
