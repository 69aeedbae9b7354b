"""Label pictures -> the values that they hold, and train ids."""

import cv2
import numpy as np
from PIL import Image

from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace

_INSTANCES = 1000


def read_train_ids(picture: Image.Image, label_space: LabelSpace) -> np.ndarray:
    """(height, width) uint8 train ids of a label picture that the preflight has let through; void is 255."""
    values = read_values(picture, label_space.encoding)
    if not label_space.lossy:
        return look_up(label_space.train_id_table, values)
    return np.array([IGNORE_INDEX, *label_space.label_ids.values()], np.uint8)[find_places(values, label_space)]


def find_places(values: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """(height, width): the entry of `LabelSpace.value_table` for every pixel.

    Of lossy files also 0, as unknown ones, where the 3x3 pixels around don't agree: what lies between two colours may
    be the colour of a third class.
    """
    places = look_up(label_space.value_table, values)
    if label_space.lossy:
        around = np.ones((3, 3), np.uint8)
        places[cv2.dilate(places, around) != cv2.erode(places, around)] = 0
    return places


def look_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The table's entry for every value, its last for larger ones."""
    if values.dtype == np.uint8:
        return table[values]
    # As int64, numpy's own kind of index: any other is converted inside, slower.
    return table.take(np.minimum(values, len(table) - 1, dtype=np.uint32).astype(np.int64))


def read_values(picture: Image.Image, encoding: str) -> np.ndarray:
    """(height, width) uint8, uint16 or uint32: what each pixel says by the `encoding` of a `LabelSpace`.

    Negative numbers of a 32-bit file are as large as unsigned ones can be. A colour is as `pack_color` has it, with
    255 - opacity as a fourth byte above; where nothing is seen it counts as black.

    Raises:
        ValueError: The picture's mode is none that the encoding knows; the words say what it knows.
    """
    mode = picture.mode
    if encoding == "color":
        if mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"):
            raise ValueError("colours or grey of 8 bits")
        has_alpha = picture.has_transparency_data
        packed = _pack(picture.convert("RGBA"))
        if not has_alpha:
            return packed & np.uint32(0xFFFFFF)
        packed ^= np.uint32(0xFF000000)
        packed[packed >> 24 == 255] = 0
        return packed
    if encoding == "red" or (encoding == "instance" and mode in ("RGB", "RGBA")):
        if mode not in ("RGB", "RGBA"):
            raise ValueError("three channels of 8 bits")
        if encoding == "red":
            return np.asarray(picture.getchannel(0))
        values = _pack(picture.convert("RGBA")) & np.uint32(0xFFFFFF)
    elif mode in ("1", "L", "P"):
        values = np.asarray(picture).astype(np.uint8, copy=False)
    elif mode in ("LA", "RGB", "RGBA"):  # of equal channels, as the preflight has seen
        values = np.asarray(picture.getchannel(0))
    elif mode.startswith("I"):
        values = np.asarray(picture)
        values = values.astype(np.uint16 if mode.startswith("I;16") else np.int32, copy=False)
        values = values.view(np.uint32) if values.dtype == np.int32 else values
    elif mode == "F":
        found = np.asarray(picture)
        values = found.astype(np.int32).view(np.uint32)
        if (values.view(np.int32) != found).any():
            raise ValueError("whole numbers")
    else:
        raise ValueError("ids in grey, in a palette's indices or in three equal channels")
    if encoding == "instance" and values.dtype != np.uint8:
        values = np.where(values < _INSTANCES, values, values // _INSTANCES)
    return values


def _pack(picture: Image.Image) -> np.ndarray:
    """(height, width) uint32 of an RGBA picture: red lowest, opacity highest."""
    return np.frombuffer(picture.tobytes(), "<u4").reshape(picture.height, picture.width).copy()
