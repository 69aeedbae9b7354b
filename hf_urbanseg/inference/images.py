"""Whatever holds one image -> an 8-bit RGB picture."""

import logging
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps

from hf_urbanseg.data.bands import read_bands
from hf_urbanseg.data.pictures import open_picture, read_file, readable, stored_bits
from hf_urbanseg.data.rgb import Converted, convert_to_rgb
from hf_urbanseg.errors import DataError

logger = logging.getLogger(__name__)

ImageInput = str | Path | Image.Image | np.ndarray | torch.Tensor
"""A file; a picture; (H, W, 3) uint8 RGB values; (3, H, W) uint8 RGB values, any device."""


def read_image(path: str | Path, channels: int = 3) -> Converted:
    """Reads an image as 8-bit RGB, to the last byte, turned the way its EXIF orientation says.

    If `channels` aren't 3, all of the file's as an array, which must be so many.
    """
    # `datasets` lets the whole process read truncated files as grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with readable("image", path, "replace the file or leave it out"):
        content = read_file(path)
        if channels != 3:
            return Converted(read_bands(content, path, channels))
        with open_picture(content, path) as image:
            bits = stored_bits(image)
            found = convert_to_rgb(ImageOps.exif_transpose(image), path, bits)
    found.picture.filename = str(path)  # Pillow's own attribute, which its copies lose
    return found


def to_image(image: ImageInput, channels: int = 3) -> Image.Image | np.ndarray:
    """One image of any accepted kind: RGB as a picture, other channels as an array (H, W, channels).

    A picture in memory is taken as it lies, its EXIF orientation isn't looked at.
    """
    if isinstance(image, (str, Path)) or (isinstance(image, Image.Image) and channels == 3):
        found = convert_to_rgb(image) if isinstance(image, Image.Image) else read_image(image, channels)
        if found.note:
            _say_once(found.note)
        return found.picture
    found = type(image).__name__
    if isinstance(image, (np.ndarray, torch.Tensor)):
        values = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, torch.Tensor) and image.ndim == 3 else image
        if values.ndim == 3 and values.shape[2] == channels and str(values.dtype) == "uint8" and 0 not in values.shape:
            return Image.fromarray(np.ascontiguousarray(values)) if channels == 3 else values
        found += f" {tuple(image.shape)} {str(image.dtype).removeprefix('torch.')}"
    picture, kind = (" a PIL image,", " RGB") if channels == 3 else ("", "")
    expected = f"a path,{picture} an array (H, W, {channels}) or a tensor ({channels}, H, W), both uint8{kind}"
    raise DataError(expected, found, "convert it, or give a list of such images")


@cache
def _say_once(note: str) -> None:
    logger.warning("images with %s", note)
