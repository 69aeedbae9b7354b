"""One image and its label file: opened strictly, measured, or refused in one line."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile

from hf_urbanseg.data.bands import read_bands
from hf_urbanseg.data.pictures import REPAIR, find_lossy, open_picture, read_stored, readable, stored_bits
from hf_urbanseg.data.preflight.label_values import check_palette, count_values, read_label
from hf_urbanseg.data.rgb import convert_to_rgb, find_size
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import LabelSpace


@dataclass(frozen=True, eq=False)
class PairInspection:
    """What the preflight keeps of one pair.

    Args:
        name: Frame name.
        size: (height, width) after any EXIF rotation that both files share.
        label_counts: Pixels per value of the label file; see `count_values`.
        image_digest: SHA-256 of the size and the decoded pixels.
        file_digests: SHA-256 of the bytes of the image's and of the label's file, where there is one.
        note: What was done to have the image in 8-bit RGB, if its owner should know of it.
    """

    name: str
    size: tuple[int, int]
    label_counts: dict[int, int]
    image_digest: str
    file_digests: tuple[str, ...]
    note: str = ""


class OpenedPair(NamedTuple):
    """The decoded files of one pair, each fit to be trained on and both fit for each other.

    Args:
        image: As `convert_to_rgb` gives it, or (H, W, C) of other channels.
        label: As it is in its file.
        label_counts, note: As in `PairInspection`.
        orientation: By EXIF, of both; 1 is upright.
        contents: The bytes of both files.
    """

    name: str
    image: Image.Image | np.ndarray
    label: Image.Image
    label_counts: dict[int, int]
    note: str
    orientation: int
    contents: tuple[bytes, bytes]


_pillow_lock = threading.Lock()


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Lets Pillow raise on truncated files; other libraries switch that off for the whole process."""
    with _pillow_lock:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def where_is(stored: Mapping | None, split: str, name: str) -> str:
    """How errors call one file: its path, or `<split>/<name>` for bytes inside a data set."""
    in_a_file = stored and stored["bytes"] is None and stored["path"]
    return stored["path"] if in_a_file else f"{split}/{name}"


def inspect_pair(split: str, row: Mapping, label_space: LabelSpace, channels: int = 3) -> PairInspection:
    """Decodes and measures one pair as `open_pair` has it; call it inside `strict_pillow`."""
    pair = open_pair(split, row, label_space, channels)
    files = tuple(hashlib.sha256(content).hexdigest() for content in pair.contents)
    size, digest = _measure(pair.image, pair.orientation)
    return PairInspection(pair.name, size, pair.label_counts, digest, files, pair.note)


def open_pair(split: str, row: Mapping, label_space: LabelSpace, channels: int = 3) -> OpenedPair:
    """All that one pair is judged by alone, but for values that no class has (`find_unknown`).

    Args:
        row: `name`, and `image` and `label` as `datasets.Image(decode=False)` gives them.
        label_space: What the label's pixels may say, and how.

    Raises:
        DataError: A file is unreadable, of an unsupported kind, or doesn't fit the other.
    """
    image_where, image_bytes = _read(split, row, "image")
    label_where, label_bytes = _read(split, row, "label")
    picture, note, orientation = _open_image(image_bytes, image_where, channels)
    mask, label_bits, label_orientation = _open(label_bytes, "label", label_where)
    if not label_space.lossy and (kind := find_lossy(label_bytes, mask)):
        found = f"{kind}, whose compression makes other ids of label ids"
        fix = "export the label anew as PNG, or say `lossy: true` in the label space"
        raise DataError("a label file without lossy compression", found, fix, label_where)
    values = read_label(mask, label_bits, label_space, label_where)
    if orientation != label_orientation:
        expected = "the same EXIF orientation in an image and its label"
        found = f"{orientation} in the image and {label_orientation} in the label (1 is upright)"
        fix = "store the pixels upright in both files and remove the tag"
        raise DataError(expected, found, fix, image_where if orientation != 1 else label_where)
    height, width = find_size(picture)
    if mask.size != (width, height):
        of_image = f" {image_where}" if image_where != label_where else ""
        expected = f"a label as large as its image{of_image}, {height}x{width} (height x width)"
        fix = "pair the files that belong together, or resize the label with nearest-neighbour interpolation"
        raise DataError(expected, f"{mask.height}x{mask.width}", fix, label_where)
    counts = count_values(values, label_space)
    if mask.mode == "P" and label_space.encoding == "ids":
        check_palette(mask, counts, label_space, label_where)
    return OpenedPair(row["name"], picture, mask, counts, note, orientation, (image_bytes, label_bytes))


def inspect_image(split: str, row: Mapping, channels: int = 3) -> PairInspection:
    """The same of an image without a label."""
    where, content = _read(split, row, "image")
    picture, note, orientation = _open_image(content, where, channels)
    size, digest = _measure(picture, orientation)
    return PairInspection(row["name"], size, {}, digest, (hashlib.sha256(content).hexdigest(),), note)


def _measure(picture: Image.Image | np.ndarray, orientation: int) -> tuple[tuple[int, int], str]:
    """`size` and `image_digest`."""
    height, width = find_size(picture)
    digest = hashlib.sha256(f"{height}x{width}:".encode())
    digest.update(picture.tobytes())
    return (width, height) if orientation >= 5 else (height, width), digest.hexdigest()


def _read(split: str, row: Mapping, role: str) -> tuple[str, bytes]:
    """How errors call a file, and its content."""
    stored, where = row[role], where_is(row[role], split, row["name"])
    if stored is None or (stored["bytes"] is None and not stored["path"]):
        raise DataError(f"an image and a label for every frame, and so a {role} here", "none", REPAIR, where)
    with readable(f"{role} file", where):
        content = read_stored(stored)
    if not content:
        raise DataError(f"a readable {role} file", "an empty file (0 bytes)", REPAIR, where)
    return where, content


def _open_image(content: bytes, where: str, channels: int) -> tuple[Image.Image | np.ndarray, str, int]:
    """The pixels that are trained on, what was done to have them, and their EXIF orientation."""
    if channels != 3:
        return read_bands(content, where, channels), "", 1
    picture, bits, orientation = _open(content, "image", where)
    return *convert_to_rgb(picture, where, bits), orientation


def _open(content: bytes, role: str, where: str) -> tuple[Image.Image, int, int]:
    """The decoded picture, its file's bits per channel, and its EXIF orientation."""
    with readable(f"{role} file", where):
        pixels = open_picture(content, where)
        bits = stored_bits(pixels)
        pixels.load()
        orientation = pixels.getexif().get(ExifTags.Base.Orientation, 1)
    return pixels, bits, orientation if orientation in range(2, 9) else 1
