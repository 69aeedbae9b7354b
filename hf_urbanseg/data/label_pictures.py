"""Label pictures -> the values that they hold, and train ids."""

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace

_BAND = 16
"""Rows that are read at a time: what lies between stays in the processor's cache."""


def read_train_ids(picture: Image.Image, label_space: LabelSpace) -> np.ndarray:
    """(height, width) uint8 train ids of a label picture that the preflight has let through; void is 255."""
    if label_space.lossy:
        places = find_places(read_values(picture, label_space.encoding), label_space)
        return np.array([IGNORE_INDEX, *label_space.label_ids.values()], np.uint8)[places]
    return _look_up(label_space.train_id_table, _read_pixels(picture, label_space.encoding))


def find_places(values: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """(height, width): the entry of `LabelSpace.value_table` for every pixel.

    Of lossy files also 0, as unknown ones, where the 3x3 pixels around don't agree: what lies between two colours may
    be the colour of a third class.
    """
    places = _look_up(label_space.value_table, values)
    if label_space.lossy:
        around = np.ones((3, 3), np.uint8)
        places[cv2.dilate(places, around) != cv2.erode(places, around)] = 0
    return places


def read_values(picture: Image.Image, encoding: str) -> np.ndarray:
    """(height, width) uint8, uint16 or uint32: what each pixel holds by the `encoding` of a `LabelSpace`.

    Negative numbers of a 32-bit file are as large as unsigned ones can be. A colour is as `pack_color` has it, with
    255 - opacity as a fourth byte above; where nothing is seen it counts as black.

    Raises:
        ValueError: The picture's mode is none that the encoding knows; the words say what it knows.
    """
    return _pack(_read_pixels(picture, encoding))


def _look_up(table: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The table's entry for every value, its last for larger ones."""
    if pixels.ndim == 2 and pixels.dtype == np.uint8:
        return table[pixels]
    found = np.empty(pixels.shape[:2], table.dtype)
    for top in range(0, len(pixels), _BAND):
        # As int64, numpy's own kind of index: any other is converted inside, slower.
        values = _pack(pixels[top : top + _BAND]).astype(np.int64)
        table.take(values, mode="clip", out=found[top : top + _BAND])
    return found


def _read_pixels(picture: Image.Image, encoding: str) -> np.ndarray:
    """Values, or what `_pack` makes them of."""
    mode = picture.mode
    if encoding == "color":
        if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"):
            raise ValueError("colours or grey of 8 bits")
        return _share_colors(picture)
    if encoding == "red":
        if mode not in ("RGB", "RGBA"):
            raise ValueError("three channels of 8 bits")
        return np.asarray(picture.getchannel(0))
    if encoding == "instance" and mode in ("RGB", "RGBA"):
        return _share_colors(picture)
    if mode in ("1", "L", "P"):
        return np.asarray(picture).astype(np.uint8, copy=False)
    if mode in ("LA", "RGB", "RGBA"):  # of equal channels, as the preflight has seen
        return np.asarray(picture.getchannel(0))
    if mode.startswith("I"):
        values = np.asarray(picture)
        return values.astype(np.uint16, copy=False) if mode.startswith("I;16") else values.view(np.uint32)
    if mode == "F":
        found = np.asarray(picture)
        values = found.astype(np.int32)
        if (values != found).any():
            raise ValueError("whole numbers")
        return values.view(np.uint32)
    raise ValueError("ids in grey, in a palette's indices or in three equal channels")


def _share_colors(picture: Image.Image) -> np.ndarray:
    """(height, width) int32, red lowest, the highest byte of no meaning: the picture's own memory if that can be had.

    Where something isn't opaque, (height, width, 4) uint8 instead.
    """
    if picture.has_transparency_data:
        return np.asarray(picture.convert("RGBA"))
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    picture.load()
    try:
        shared = np.frombuffer(pa.array(picture).values.buffers()[1], "<i4")
    except (ValueError, TypeError):  # in several blocks, as pictures above 16 MB are; Pillow before 11.3
        shared = np.asarray(picture.convert("RGBA")).view("<i4")
    return shared.reshape(picture.height, picture.width)


def _pack(pixels: np.ndarray) -> np.ndarray:
    """(height, width): values as they are, colours as one number each."""
    if pixels.dtype == np.int32:
        return pixels.view(np.uint32) & np.uint32(0xFFFFFF)
    if pixels.ndim == 2:
        return pixels
    packed = pixels.view("<u4")[..., 0] ^ np.uint32(0xFF000000)
    packed[packed >> 24 == 255] = 0
    return packed
