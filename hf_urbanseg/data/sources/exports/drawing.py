"""Frames of an export drawn into label files in the cache, once."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import ExifTags, Image

from hf_urbanseg.data.archive import cache_folder
from hf_urbanseg.data.pictures import open_picture, read_file, readable
from hf_urbanseg.data.sources.exports.folder import Frame, hash_listing
from hf_urbanseg.data.sources.exports.shapes import Size
from hf_urbanseg.errors import DataError, refuse_all
from hf_urbanseg.files import written_whole
from hf_urbanseg.json_yaml import read_json
from hf_urbanseg.progress import show_progress

_VERSION = 1  # raise it when the same shapes cover other pixels
_THREADS = 8
_FACTS = "drawn.json"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""From upright to how a file of that EXIF orientation lies."""


def draw_frames(frames: Sequence[Frame], ids: Mapping[str, int], rest: int, name: str) -> tuple[list[Path], int]:
    """The frames' label files, and how many shapes cover no pixel at all.

    They lie in `exports` of `cache_folder()` under a hash of the annotations, the pictures' paths, sizes and times and
    `ids`, so that a later start draws nothing. The folder appears whole or not at all, and of several processes one
    draws.

    Args:
        ids: What is written for each class.
        rest: What is written where no shape is.
        name: Of the data, in the folder's name.

    Raises:
        DataError: The first shape or picture at fault, with the number of others, which are logged.
    """
    target = cache_folder() / "exports" / f"{name[:50]}-{hash_listing(frames, [_VERSION, sorted(ids.items()), rest])}"
    paths = [target / f"{number:06d}.png" for number in range(len(frames))]
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                with written_whole(target, folder=True) as staged:
                    _draw_all(frames, [staged / path.name for path in paths], ids, rest)
    return paths, (read_json(target / _FACTS) or {}).get("without_pixels", 0)


def _draw_all(frames: Sequence[Frame], paths: Sequence[Path], ids: Mapping[str, int], rest: int) -> None:
    def draw(frame: Frame, path: Path) -> int | DataError:
        try:
            size, orientation, turn = _read_size(frame)
            pixels, without = _draw(frame, size, ids, rest)
        except DataError as error:
            return error
        label, mark = Image.fromarray(pixels), Image.Exif()
        if orientation != 1:  # as the picture's file: both are turned when they are read
            mark[ExifTags.Base.Orientation] = orientation
        (label if turn is None else label.transpose(turn)).save(path, exif=mark)
        bar.update()
        return without

    with ThreadPoolExecutor(_THREADS) as pool, show_progress(len(frames), "drawing labels", "frame") as bar:
        results = list(pool.map(draw, frames, paths))
    refuse_all([one for one in results if isinstance(one, DataError)], "frame")
    (paths[0].parent / _FACTS).write_text(json.dumps({"without_pixels": sum(results)}))


def _draw(frame: Frame, size: Size, ids: Mapping[str, int], rest: int) -> tuple[np.ndarray, int]:
    label, without = np.full(size, rest, np.uint8), 0
    for shape in frame.shapes:
        try:
            mask, top, left = shape.cover(size)
        except DataError as error:
            where = f"{error.found} at `{shape.where}`"
            raise DataError(error.expected, where, error.fix, frame.file) from error
        # What lies left of or above the picture.
        mask = mask[max(-top, 0) :, max(-left, 0) :]
        part = label[max(top, 0) :, max(left, 0) :][: mask.shape[0], : mask.shape[1]]
        mask = mask[: part.shape[0], : part.shape[1]]
        part[mask] = ids[shape.name]
        without += not mask.any()
    return label, without


def _read_size(frame: Frame) -> tuple[Size, int, Image.Transpose | None]:
    """(height, width) to draw in, the picture's EXIF orientation, and how the label is turned to lie as its file does.

    Tools show and label pictures upright; only where the export's size is that of the file lying on its side, one
    hasn't.
    """
    with readable("image file", frame.image):
        picture = open_picture(read_file(frame.image), frame.image)
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    orientation = orientation if orientation in _TURNS else 1
    stored = picture.height, picture.width
    upright = stored[::-1] if orientation >= 5 else stored
    if frame.size in (None, upright):
        return upright, orientation, _TURNS.get(orientation)
    if frame.size == stored:
        return stored, orientation, None
    expected = f"a picture of {frame.size[0]}x{frame.size[1]} (height x width), as `{frame.where}` says"
    fix = "export again with these pictures, or put those back that were labelled"
    raise DataError(expected, f"{upright[0]}x{upright[1]} in {frame.image}", fix, frame.file)
