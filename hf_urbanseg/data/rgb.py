"""A picture of whatever mode -> 8-bit RGB, by one rule for training, measuring and predicting."""

import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from hf_urbanseg.errors import DataError

_MODES = ("RGB", "L", "P", "1", "RGBA", "LA", "PA", "CMYK", "YCbCr", "RGBX")
_WHITE = 64
"""Of 256: 16-bit values that all stay below come from a camera of 14 bits or less, and would be nearly black."""


class Converted(NamedTuple):
    """An RGB picture, and what was done that its owner should know of, or nothing."""

    picture: Image.Image
    note: str = ""


def to_rgb(picture: Image.Image) -> Image.Image:
    """The picture of `convert_to_rgb`, which may be the very one that was given."""
    return convert_to_rgb(picture).picture


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
            notes.append("transparent pixels, laid on black")
    return Converted(rgb, " and ".join(notes))


def stored_bits(picture: Image.Image) -> int:
    """Bits per channel of the file of a picture that isn't loaded yet; of one that is, of its mode."""
    # How the file stores its pixels, e.g. "RGB;16B" behind mode RGB, whose low bytes Pillow drops; it also stretches
    # 2- and 4-bit grey to 0..255.
    layout = picture.tile[0][3] if getattr(picture, "tile", None) else picture.mode
    raw_bits = re.search(r";(16|[124])", layout if isinstance(layout, str) else str(layout and layout[0]))
    return int(raw_bits[1]) if raw_bits else {"1": 1, "I": 32, "F": 32}.get(picture.mode, 8)
