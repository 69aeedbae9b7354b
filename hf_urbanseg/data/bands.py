"""Images of more than three channels: arrays of .npy files, GeoTIFFs of several bands, pictures with a fourth one."""

from io import BytesIO

import numpy as np
from PIL import ExifTags

from hf_urbanseg.data.pictures import (
    ARRAY_SIGNATURE,
    MOST_PIXELS,
    TIFF_SIGNATURES,
    TILES,
    open_picture,
    readable,
    stored_bits,
)
from hf_urbanseg.errors import DataError


def read_bands(content: bytes, where: object, channels: int | None = None) -> np.ndarray:
    """All channels of an image's file as they are stored; nothing is converted.

    Args:
        where: The file, named in errors.
        channels: That it must have.

    Shape:
        returns: (H, W, C) uint8.

    Raises:
        DataError: Damaged, of other numbers than 8 bits, of several pages, or a TIFF without the extra `multiband`.
    """
    with readable("image file", where):
        if content.startswith(ARRAY_SIGNATURE):
            pixels = np.load(BytesIO(content), allow_pickle=False)
        elif content.startswith(TIFF_SIGNATURES):
            pixels = _read_tiff(content, where)
        else:
            pixels = _read_picture(content, where)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or 0 in pixels.shape:
        found = f"{pixels.dtype} numbers of shape {'x'.join(map(str, pixels.shape))}"
        raise DataError("height x width x channels of uint8", found, "convert them", where)
    if pixels.shape[0] * pixels.shape[1] > MOST_PIXELS:
        found = f"{pixels.shape[0]}x{pixels.shape[1]}"
        raise DataError(f"a picture of {MOST_PIXELS:,} pixels at most", found, TILES, where)
    if channels not in (None, pixels.shape[2]):
        fix = "correct `--channels`, choose another model, or leave it out"
        raise DataError(f"an image of {channels} channels", f"{pixels.shape[2]}", fix, where)
    return pixels


def _read_picture(content: bytes, where: object) -> np.ndarray:
    picture = open_picture(content, where)
    if stored_bits(picture) != 8 or picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        found = f"{stored_bits(picture)} bits" if stored_bits(picture) != 8 else "an EXIF orientation"
        raise DataError("8 bits per channel, stored upright", found, "convert it", where)
    return np.asarray(picture)


def _read_tiff(content: bytes, where: object) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        fix = 'pip install "hf-urbanseg[multiband]", or save .npy files'
        raise DataError("the extra `multiband` for TIFF", "tifffile is not installed", fix, where) from error
    with tifffile.TiffFile(BytesIO(content)) as file:
        pages = [page for page in file.pages if not page.subfiletype & 0b101]  # neither overviews nor masks
        if len(pages) != 1:
            found = f"{len(pages)} pages"
            raise DataError("one page with all bands", found, "save the bands in one", where)
        page = pages[0]
        height, width = page.imagelength, page.imagewidth
        if height * width > MOST_PIXELS:
            raise DataError(f"a picture of {MOST_PIXELS:,} pixels at most", f"{height}x{width}", TILES, where)
        pixels = page.asarray()
    return np.moveaxis(pixels, 0, -1) if page.axes.startswith("S") else pixels
