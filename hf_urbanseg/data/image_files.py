"""Images and videos as a user names them: what there is, and reading one with everything that can be wrong."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageFile, ImageOps
from tqdm.auto import tqdm

from hf_urbanseg.data.video import VIDEO_SUFFIXES
from hf_urbanseg.errors import DataError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}


def find_inputs(inputs: Iterable[str | Path]) -> list[Path]:
    """Lists the images and videos named directly and those in the named folders, in that order.

    Raises:
        DataError: A path that is not there, a folder without any, or two of them with one stem.
    """
    suffixes = IMAGE_SUFFIXES.union(VIDEO_SUFFIXES)
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


def read_image(path: Path) -> Image.Image:
    """Reads an image as 8-bit RGB, turned the way its EXIF orientation says.

    Raises:
        DataError: Not readable to the last byte, or more than 8 bits per channel.
    """
    # `datasets` lets the whole process read truncated files as grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(path) as image:
            if image.format == "PNG":
                image.verify()  # decoding skips the checksums
        with Image.open(path) as image:
            # Pillow opens 16-bit colour as mode RGB and drops the low bytes; only the raw mode tells.
            raw_modes = [args if isinstance(args, str) else str(args[0]) for *_, args in image.tile if args]
            deep = image.mode[0] in "IF" or any(";16" in raw_mode for raw_mode in raw_modes)
            if not deep:
                return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError("a readable image", reason, "replace the file or leave it out", path) from error
    raise DataError("8 bits per channel", f"mode {image.mode} with more", "convert it to an 8-bit image", path)


def check_images(paths: list[Path]) -> None:
    """Reads every image once, in threads (decoding releases the GIL), so that a bad one is known before the work."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in tqdm(pool.map(lambda path: read_image(path).size, paths), "checking", len(paths), unit="image"):
            pass
