"""Ultralytics' YOLO segmentation: data.yaml, pictures in images/ and text files of outlines in labels/."""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from hf_urbanseg.data.columns import SPLIT_NAMES
from hf_urbanseg.data.sources.exports.folder import Export, ExportFolder, Frame
from hf_urbanseg.data.sources.exports.shapes import Area, Shape, Size, fill_rings, read_numbers
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import read_bytes
from hf_urbanseg.json_yaml import read_mapping

_SPLITS = ("train", "val", "test")
_MOST_TEXT = 64 << 20


def find(folder: ExportFolder) -> list[Path]:
    """YAML files with `names`, where there are text files in a folder `labels`."""
    if not any("labels" in folder.describe(path).split("/") for path in folder.list_files(".txt")):
        return []
    return folder.find(r"(?m)^names:", ".yaml", ".yml")


def read(folder: ExportFolder, files: list[Path]) -> Export:
    """Classes are `names` in the order of their numbers. A picture without a text file is background, as YOLO has it.

    The folders and lists of `train`, `val` and `test` are found by their ends below the folder, of whatever machine the
    paths are; without any, all pictures are read, unsplit.
    """
    if len(files) > 1:
        found = " and ".join(map(folder.describe, files[:2]))
        raise DataError("one data.yaml", found, "give its folder, or move the other away", folder.root)
    (file,) = files
    content = read_mapping(file, "YOLO data")
    names = _read_names(content.get("names"), file)
    export = Export(classes=dict.fromkeys(names))
    for split, image in _list_images(content, folder, file):
        text = _find_text(image, folder.root)
        where = f"{split or 'all'} of {file.name}"
        frame = Frame(image, None, [], text if text.is_file() else file, where, split)
        if text.is_file():
            _read_shapes(text, names, frame, export)
        export.frames.append(frame)
    return export


def _read_names(names: object, file: Path) -> list[str]:
    if isinstance(names, Mapping) and names.keys() == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        found = f"{names!r:.60}"
        raise DataError("`names` as a list of words, or by number from 0", found, "put numbers in quotes", file)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError("every name once", f"`{twice[0]}` again", "rename or merge it", file)
    return names


def _list_images(content: Mapping, folder: ExportFolder, file: Path) -> Iterator[tuple[str | None, Path]]:
    named = {split: content[split] for split in _SPLITS if content.get(split)}
    if not named:
        yield from ((None, path) for paths in folder.images.values() for path in paths)
    everywhere = [path for paths in folder.images.values() for path in paths]
    for split, places in named.items():
        for place in places if isinstance(places, list) else [places]:
            if not isinstance(place, str):
                raise DataError(f"folders or lists under `{split}`", f"{place!r:.60}", "correct it", file)
            at = _find_end(place, folder, file, split)
            if at is None:  # Roboflow names a test folder that it doesn't export
                continue
            if at.is_dir():
                yield from ((SPLIT_NAMES[split], path) for path in everywhere if path.is_relative_to(at))
            else:
                lines = read_bytes(at, _MOST_TEXT).decode("utf-8", "replace").splitlines()
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        image = folder.find_image(line.strip(), at, f"line {number}", SPLIT_NAMES[split])
                        yield SPLIT_NAMES[split], image


def _find_end(place: str, folder: ExportFolder, file: Path, split: str) -> Path | None:
    """What lies below the folder under a path, or under the longest end of one of another machine; None for a test
    split that isn't there."""
    place = place.replace("\\", "/")
    parts = [part for part in place.split("/") if part not in ("", ".", "..")]
    elsewhere = re.match(r"/|[A-Za-z]:", place)
    ends = [parts[start:] for start in range(len(parts))] if elsewhere else [parts]
    for end in ends:
        for base in (file.parent, folder.root):
            # The end `images` alone might be that of any split.
            if end and not (elsewhere and end == ["images"]) and (found := base.joinpath(*end)).exists():
                return found
    if split == "test":
        return None
    raise DataError(f"the folder or list `{place}` of `{split}`", "none below the folder", "correct the path", file)


def _find_text(image: Path, root: Path) -> Path:
    """Beside the picture, but in `labels` where that is in `images`."""
    parts = list(image.relative_to(root).with_suffix(".txt").parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return root.joinpath(*parts)


def _read_shapes(file: Path, names: list[str], frame: Frame, export: Export) -> None:
    lines = read_bytes(file, _MOST_TEXT).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        if not (words := line.split()):
            continue
        where = f"line {number}"
        if not words[0].isdecimal() or int(words[0][:9]) >= len(names):
            expected = f"the number of a class, 0..{len(names) - 1}"
            raise DataError(expected, f"`{words[0][:40]}` in {where}", "correct it, or `names` in data.yaml", file)
        if len(words) == 5:
            export.left_out["box"] += 1
            continue
        frame.shapes.append(Shape(names[int(words[0])], where, partial(_cover, points=words[1:])))


def _cover(size: Size, points: list[str]) -> Area:
    shares = read_numbers(points, (len(points),))
    # Some tools round, or let outlines stand out a little.
    if len(shares) and (shares.min() < -0.1 or shares.max() > 1.1):
        found = f"{shares.min():g}..{shares.max():g}"
        raise DataError("coordinates as shares of the picture, 0..1", found, "divide them by its width and height")
    return fill_rings(size, [shares], scale=(size[1], size[0]))
