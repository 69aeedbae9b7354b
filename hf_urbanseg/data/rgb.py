"""A picture of whatever mode -> 8-bit RGB, by one rule for training, measuring and predicting."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from hf_urbanseg.data.bands import read_bands
from hf_urbanseg.data.pictures import read_stored, stored_bits
from hf_urbanseg.errors import DataError

_MODES = ("RGB", "L", "P", "1", "RGBA", "LA", "PA", "CMYK", "YCbCr", "RGBX")
_WHITE = 64
"""Of 256: 16-bit values that all stay below come from a camera of 14 bits or less, and would be nearly black."""


class Converted(NamedTuple):
    """An RGB picture, and what was done that its owner should know of, or nothing."""

    picture: Image.Image | np.ndarray
    note: str = ""


def to_array(image: Image.Image | Mapping) -> np.ndarray:
    """A row's image as a model takes it: RGB of a picture, and all channels of a file that isn't decoded yet.

    Shape:
        returns: (H, W, C) uint8.
    """
    if isinstance(image, Mapping):
        return read_bands(read_stored(image), image["path"])
    return np.asarray(to_rgb(image))


def to_rgb(image: Image.Image | Mapping | np.ndarray) -> Image.Image:
    """A row's image to look at: of a picture that of `convert_to_rgb`, of several channels the first three."""
    if isinstance(image, Image.Image):
        return convert_to_rgb(image).picture
    return Image.fromarray(np.ascontiguousarray((image if isinstance(image, np.ndarray) else to_array(image))[..., :3]))


def find_size(image: Image.Image | np.ndarray) -> tuple[int, int]:
    """(height, width)."""
    return image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)


def convert_to_rgb(picture: Image.Image, where: object = None, bits: int | None = None) -> Converted:
    """Grey, palette and CMYK in RGB; what isn't opaque, on black; of 16 bits the upper 8, as OpenCV reads them.

    Colour profiles and EXIF orientation aren't looked at.

    Args:
        where: The file, named in errors.
        bits: Per channel of the file (`stored_bits`), which a picture no longer knows once it is loaded.

    Raises:
        DataError: Values whose white is unknown: floats, 32 bits, or 16 that are used to less than a quarter.
    """
    bits, mode, notes = stored_bits(picture) if bits is None else bits, picture.mode, []
    if mode == "RGB" and bits <= 8 and "transparency" not in picture.info:
        return Converted(picture)
    if mode in ("I", "F"):
        low, high = picture.getextrema()
        fix = "scale them to 8 bits, because nothing says which of them is white"
        raise DataError("8 or 16 bits per channel", f"values {low:g}..{high:g} of mode {mode}", fix, where)
    if mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif mode not in _MODES:
        expected = "an image in RGB, CMYK, grey or palette colours"
        raise DataError(expected, f"mode {mode}", "convert it to 8-bit RGB", where)
    rgb = picture.convert("RGB")
    if bits > 8:
        highest = max(high for _, high in rgb.getextrema())
        if highest < _WHITE:
            found = f"16 bits and no value above {256 * highest + 255}"
            fix = "multiply the values so that white is 65535, or save them in 8 bits"
            raise DataError("8 bits per channel, or 16 whose white is 65535", found, fix, where)
        notes.append("16 bits per channel, of which the upper 8 are used")
    if picture.has_transparency_data:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] < 255:
            # The colours below are whatever the program left there.
            black = Image.new("RGB", picture.size)
            black.paste(rgb, mask=alpha)
            rgb = black
            notes.append("transparent pixels, laid on black (a fourth band needs `--channels 4`)")
    return Converted(rgb, " and ".join(notes))
