"""What labelling tools export: polygons, outlines and masks with class names, drawn into files of ids."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_urbanseg.class_names import find_common_classes
from hf_urbanseg.data.id2label import label_space_from_names
from hf_urbanseg.data.image_files import UNSPLIT, build_dataset
from hf_urbanseg.data.sources.exports import coco, cvat, label_studio, labelme, supervisely, yolo
from hf_urbanseg.data.sources.exports.drawing import draw_frames
from hf_urbanseg.data.sources.exports.folder import Export, ExportFolder, Frame
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.palettes import choose_colors

FORMATS = {
    "coco": coco,
    "labelme": labelme,
    "cvat": cvat,
    "yolo": yolo,
    "label_studio": label_studio,
    "supervisely": supervisely,
}
LOOKS_LIKE = "an export of a labelling tool (COCO, labelme, CVAT, YOLO, Label Studio, Supervisely)"
SUFFIXES = (".json", ".xml")
"""Of files that may be given in place of the folder."""
_BACKGROUND = ("background", "_background_")
_DIM = (40, 40, 40)
"""Of the background, so that shapes stand out of a dimmed picture."""
_MOST_CLASSES = 254


def matches(request: DataRequest) -> bool:
    """Whether there are annotations of one of the formats below the path, or of the only one asked for."""
    return request.path is not None and bool(_find(ExportFolder(request.path), request.format))


def load(request: DataRequest) -> FoundData:
    """The splits of the export, or all frames unsplit, with labels of train ids in the cache (`draw_frames`).

    Pixels in no shape are the class `background`, or void where `background` says so; see `_choose_classes`.
    """
    folder = ExportFolder(request.path)
    if request.format not in ("auto", *FORMATS):
        raise DataError(f"`format` of auto, {', '.join(FORMATS)}", f"`{request.format}`", "choose one", request.path)
    found = _find(folder, request.format)
    if not found:
        what = ", ".join(FORMATS) if request.format == "auto" else request.format
        raise DataError(f"annotations in the format {what}", "none", "check `--data_dir` and `--format`", request.path)
    if len(found) > 1:
        some = " and ".join(f"{name} ({folder.describe(files[0])})" for name, files in found.items())
        fix = f"choose one with `--format {next(iter(found))}`"
        raise DataError("annotations of one format", some, fix, request.path)
    ((kind, files),) = found.items()
    export = FORMATS[kind].read(folder, files)
    _check(export, kind, request.path)
    name = folder.root.resolve().name
    space, ids, rest, said = _choose_classes(export, request, name)
    labels, without = draw_frames(export.frames, ids, rest, name)
    splits = _split(export.frames, labels, folder, request.path)
    unused = sum(map(len, folder.images.values())) - len(export.frames)
    several = f"{len(files)} files" if len(files) > 1 else files[0].name
    shapes = sum(len(frame.shapes) for frame in export.frames)
    how = f"read as {kind} ({several}): {shapes:,} shapes in {len(export.frames):,} frames"
    return FoundData(splits, space, name, [how, *export.notes, said, *_count(export, without, unused)])


def _find(folder: ExportFolder, only: str = "auto") -> dict[str, list[Path]]:
    found = {name: module.find(folder) for name, module in FORMATS.items() if only in ("auto", name)}
    return {name: files for name, files in found.items() if files}


def _check(export: Export, kind: str, path: Path) -> None:
    if not export.frames:
        raise DataError("pictures with annotations", "none", "export again with the pictures", path)
    if not any(frame.shapes for frame in export.frames):
        found = ", ".join(f"{count} of kind {name}" for name, count in export.left_out.items()) or "no shape at all"
        if set(export.left_out) == {"box"}:
            found += ", which is detection data"
        fix = "label areas (polygons or masks) in the tool, and export those"
        raise DataError(f"shapes with an area in the {kind} export", found, fix, path)
    seen: dict[Path, Frame] = {}
    for frame in export.frames:
        before = seen.setdefault(frame.image, frame)
        if before is not frame:
            found = f"{frame.image.name} again at `{frame.where}`, before at `{before.where}` of {before.file.name}"
            fix = "remove one, or give a single file of annotations as `--data_dir`"
            raise DataError("every picture once in the export", found, fix, frame.file)


def _choose_classes(export: Export, request: DataRequest, name: str) -> tuple[LabelSpace, dict[str, int], int, str]:
    """The label space of the drawn files, which hold train ids; names' ids; the rest's; and a sentence on that.

    A name that is void by itself, such as `ignore`, is void (`label_space_from_names`). A class of the export that is
    called background takes the pixels in no shape, too.
    """
    names = list(export.classes)
    if not 0 < len(names) <= _MOST_CLASSES:
        raise DataError(f"1 to {_MOST_CLASSES} classes in the export", f"{len(names)}", "merge some", request.path)
    source = request.path
    own = label_space_from_names(dict(enumerate(names)), name, source)
    void = {one for index, one in enumerate(names) if own.label_ids[index] == IGNORE_INDEX}
    if request.label_space is not None:
        space, ids = request.label_space.with_train_ids(), _match(export, void, request.label_space, source)
    else:
        kept = [name for name in names if name not in void]
        has_own = any(name.lower() in _BACKGROUND for name in kept)
        if request.background != "void" and not has_own:
            kept.insert(0, _BACKGROUND[0])
        colors = [
            export.classes.get(one) or (_DIM if one.lower() in _BACKGROUND else color)
            for one, color in zip(kept, choose_colors(kept), strict=True)
        ]
        ids = {name: index for index, name in enumerate(kept)}
        space = LabelSpace(name, tuple(kept), tuple(colors), dict(enumerate(range(len(kept)))))
        space = space.with_train_ids()
        ids |= dict.fromkeys(void, IGNORE_INDEX)
    background = [index for index, name in enumerate(space.names) if name.lower() in _BACKGROUND]
    if request.background == "class" and not background:
        fix = "add it to the file, or say `--background void`"
        raise DataError("a class `background` in the label space", "none", fix, request.label_space_name)
    if request.background == "void" or not background:
        return space, ids, IGNORE_INDEX, "pixels in no shape: void, in no loss and no score"
    said = f"pixels in no shape: class `{space.names[background[0]]}`; `--background void` leaves them out"
    return space, ids, background[0], said


def _match(export: Export, void: set[str], space: LabelSpace, source: Path) -> dict[str, int]:
    """The train ids in a label space of the user's, by name; case and underscores don't matter."""
    names = list(export.classes)
    common = find_common_classes(names, space.names)
    ids = {names[theirs]: ours for ours, found in common.items() for theirs in found}
    ids |= dict.fromkeys(void - ids.keys(), IGNORE_INDEX)
    counts = Counter(shape.name for frame in export.frames for shape in frame.shapes)
    if unknown := [f"`{name}` ({counts[name]} shapes)" for name in names if name not in ids and counts[name]]:
        expected = f"only classes of `{space.name}` ({', '.join(space.names)})"
        raise DataError(expected, ", ".join(unknown), "rename them, or add them to the label space", source)
    return ids


def _split(frames: Sequence[Frame], labels: Sequence[Path], folder: ExportFolder, path: Path) -> Mapping:
    unsplit = [frame for frame in frames if frame.split is None]
    if 0 < len(unsplit) < len(frames):
        others = ", ".join(sorted({frame.split for frame in frames if frame.split}))
        found = f"{folder.describe(unsplit[0].file)} in none of them, others in {others}"
        fix = "put train, val or test into the names of files or folders of all, or of none"
        raise DataError("all frames in splits, or none", found, fix, path)
    stems = Counter(frame.image.stem for frame in frames)
    pairs: dict[str, dict] = {}
    for frame, label in zip(frames, labels, strict=True):
        name = frame.image.stem if stems[frame.image.stem] == 1 else folder.describe(frame.image)
        pairs.setdefault(frame.split or UNSPLIT, {})[name] = (frame.image, label)
    return {split: build_dataset(dict(sorted(found.items()))) for split, found in pairs.items()}


def _count(export: Export, without: int, unused: int) -> list[str]:
    """Sentences on what was left out or is empty."""
    left_out = ", ".join(f"{count:,} {name}" for name, count in export.left_out.items())
    empty = sum(not frame.shapes for frame in export.frames)
    said = {
        f"annotations without an area, left out: {left_out}": left_out,
        f"rectangles, drawn as areas: {export.rectangles:,} (boxes around objects would be wrong labels)": (
            export.rectangles
        ),
        f"frames without a shape, the rest alone: {empty:,}": empty,
        f"shapes that cover no pixel (outside the picture, or too thin): {without:,}": without,
        f"pictures without annotations, left out: {unused:,}": unused > 0,
    }
    return [sentence for sentence, holds in said.items() if holds]
