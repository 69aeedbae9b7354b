"""Images and videos as a user names them: what there is, and whether it can be read."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from hf_urbanseg.data.image_files import IMAGE_SUFFIXES
from hf_urbanseg.data.video import VIDEO_SUFFIXES
from hf_urbanseg.errors import DataError
from hf_urbanseg.inference.images import read_image


def find_inputs(inputs: Iterable[str | Path]) -> list[Path]:
    """Lists the images and videos named directly and those in the named folders, in that order."""
    suffixes = {*IMAGE_SUFFIXES, *VIDEO_SUFFIXES}
    paths = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            found = sorted(p for p in entry.iterdir() if p.suffix.lower() in suffixes and p.is_file())
            if not found:
                kinds = ", ".join(sorted(suffix[1:] for suffix in suffixes))
                raise DataError(f"images or videos ({kinds})", "none in this folder", "correct `--input`", entry)
            paths += found
        elif entry.is_file():
            paths.append(entry)
        else:
            raise DataError("an image, a video or a folder of them", "nothing there", "correct `--input`", entry)
    by_stem = {}
    for path in paths:
        first = by_stem.setdefault(path.stem, path)
        if first.resolve() != path.resolve():
            fix = "rename one, or predict them into different `--output` folders"
            raise DataError("one input per file name (results are named after it)", f"also {first}", fix, path)
    return list(by_stem.values())


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def check_images(paths: list[Path]) -> None:
    """Reads every image once, in threads (decoding releases the GIL), so that a bad one is known before the work."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(pool.map(lambda path: read_image(path).size, paths), "checking", len(paths), unit="image"):
            pass
