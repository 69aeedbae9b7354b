"""Images and videos as a user names them: what there is, and whether it can be read."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hf_urbanseg.data.image_files import IMAGE_SUFFIXES, choose_images
from hf_urbanseg.data.rgb import find_size
from hf_urbanseg.data.video import VIDEO_SUFFIXES, VideoInfo, inspect_video
from hf_urbanseg.errors import DataError, join_faults, log_faults
from hf_urbanseg.files import check_name, explain_missing
from hf_urbanseg.inference.images import read_image
from hf_urbanseg.progress import show_progress

logger = logging.getLogger(__name__)


def find_inputs(inputs: Iterable[str | Path]) -> list[Path]:
    """Lists the images and videos named directly and those in the named folders, in that order."""
    suffixes = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
    paths = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            found = sorted(choose_images(filter(Path.is_file, entry.iterdir()), suffixes))
            if not found:
                kinds = ", ".join(sorted(suffix[1:] for suffix in suffixes))
                raise DataError(f"images or videos ({kinds})", "none in this folder", "correct `--input`", entry)
            paths += found
        elif entry.is_file():
            paths.append(entry)
        else:
            found = f"nothing there{explain_missing(entry)}"
            raise DataError("an image, a video or a folder of them", found, "correct `--input`", entry)
    by_stem = {}
    for path in map(check_name, paths):
        first = by_stem.setdefault(path.stem, path)
        if first.resolve() != path.resolve():
            fix = "rename one, or predict them into different `--output` folders"
            raise DataError("one input per file name (results are named after it)", f"also {first}", fix, path)
    return list(by_stem.values())


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def check_inputs(
    paths: Sequence[Path], channels: int = 3
) -> tuple[dict[Path, tuple[int, int] | VideoInfo], list[DataError]]:
    """Reads every file once, images in threads (decoding releases the GIL), so that bad ones are known before the work.

    Returns:
        What is known of each good file, of an image its width and height; and what is wrong with each bad one. If they
        are several, they have been listed.
    """

    def inspect(path: Path) -> tuple[int, int] | VideoInfo | DataError:
        try:
            if is_video(path):
                return inspect_video(path)
            picture, note = read_image(path, channels)
        except DataError as error:
            return error
        notes[note] += 1
        return find_size(picture)[::-1]

    found, notes = {}, Counter()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, show_progress(len(paths), "checking", "file") as bar:
        for path, one in zip(paths, pool.map(inspect, paths), strict=True):
            found[path] = one
            bar.update()
    for note in filter(None, notes):
        logger.warning("%s, in %d of %d images", note, notes[note], notes.total())
    bad = [one for one in found.values() if isinstance(one, DataError)]
    if len(bad) > 1:
        log_faults(bad, logging.WARNING)
    return {path: one for path, one in found.items() if not isinstance(one, DataError)}, bad


def refuse_bad(bad: Sequence[DataError], total: int, outcome: str) -> None:
    """Raises one error for all that are `bad` of `total` files; `outcome` says what became of the others."""
    if bad:
        raise join_faults(bad, "bad file", f"; {total - len(bad)} of {total} {outcome}")
