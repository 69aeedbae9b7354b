"""Frames of an export drawn into label files in the cache, once."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from hf_urbanseg.data.archive import cache_folder
from hf_urbanseg.data.pictures import MOST_BYTES, open_picture
from hf_urbanseg.data.sources.exports.folder import Frame, hash_listing
from hf_urbanseg.errors import DataError, join_faults, log_faults
from hf_urbanseg.files import read_bytes, read_json, written_whole
from hf_urbanseg.progress import show_progress

_VERSION = 1  # raise it when the same shapes cover other pixels
_THREADS = 8
_FACTS = "drawn.json"


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
            pixels, without = _draw(frame, ids, rest)
        except DataError as error:
            return error
        Image.fromarray(pixels).save(path)
        bar.update()
        return without

    with ThreadPoolExecutor(_THREADS) as pool, show_progress(len(frames), "drawing labels", "frame") as bar:
        results = list(pool.map(draw, frames, paths))
    if faults := [one for one in results if isinstance(one, DataError)]:
        log_faults(faults[1:])
        raise join_faults(faults, "frame")
    (paths[0].parent / _FACTS).write_text(json.dumps({"without_pixels": sum(results)}))


def _draw(frame: Frame, ids: Mapping[str, int], rest: int) -> tuple[np.ndarray, int]:
    size = _read_size(frame)
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


def _read_size(frame: Frame) -> tuple[int, int]:
    """The picture's (height, width), as its file stores it; what the export says has to be the same."""
    try:
        picture = open_picture(read_bytes(frame.image, MOST_BYTES), frame.image)
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything on damaged bytes
        found = f"{type(error).__name__}: {error}"
        raise DataError("a readable image file", found, "fetch it again or leave it out", frame.image) from error
    size = picture.height, picture.width
    if frame.size not in (None, size):
        turned = ", turned by EXIF," if picture.getexif().get(0x0112, 1) != 1 else ""
        found = f"{size[0]}x{size[1]}{turned} in {frame.image}"
        expected = f"a picture of {frame.size[0]}x{frame.size[1]} (height x width), as `{frame.where}` says"
        fix = "export again with these pictures, or put those back that were labelled (upright, without the EXIF tag)"
        raise DataError(expected, found, fix, frame.file)
    return size
