"""Whatever holds one image -> an 8-bit RGB picture."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps

from hf_urbanseg.data.pictures import MOST_BYTES, open_picture
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import read_bytes

ImageInput = str | Path | Image.Image | np.ndarray | torch.Tensor
"""A file; a picture of up to 8 bits per channel; (H, W, 3) uint8 RGB values; (3, H, W) uint8 RGB values, any device."""


def read_image(path: str | Path) -> Image.Image:
    """Reads an image as 8-bit RGB, to the last byte, turned the way its EXIF orientation says."""
    # `datasets` lets the whole process read truncated files as grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with open_picture(read_bytes(path, MOST_BYTES), path) as image:
            # Pillow opens 16-bit colour as mode RGB and drops the low bytes; only the raw mode tells.
            raw_modes = [args if isinstance(args, str) else str(args[0]) for *_, args in image.tile if args]
            if not _is_deep(image) and not any(";16" in raw_mode for raw_mode in raw_modes):
                picture = ImageOps.exif_transpose(image).convert("RGB")
                picture.filename = str(path)  # Pillow's own attribute, which its copies lose
                return picture
    except DataError:
        raise
    except Exception as error:  # on damaged bytes Pillow's decoders raise nearly anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError("a readable image", reason, "replace the file or leave it out", path) from error
    raise DataError("8 bits per channel", f"mode {image.mode} with more", "convert it to an 8-bit image", path)


def to_image(image: ImageInput) -> Image.Image:
    """One image of any accepted kind; a picture in memory is taken as it lies, its EXIF orientation isn't looked at."""
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        if _is_deep(image):
            raise DataError("8 bits per channel", f"a picture of mode {image.mode}", "convert it to an 8-bit image")
        return image
    found = type(image).__name__
    if isinstance(image, (np.ndarray, torch.Tensor)):
        values = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, torch.Tensor) and image.ndim == 3 else image
        if values.ndim == 3 and values.shape[2] == 3 and str(values.dtype) == "uint8" and 0 not in values.shape:
            return Image.fromarray(np.ascontiguousarray(values))
        found += f" {tuple(image.shape)} {str(image.dtype).removeprefix('torch.')}"
    expected = "a path, a PIL image, an array (H, W, 3) or a tensor (3, H, W), both uint8 RGB"
    raise DataError(expected, found, "convert it, or give a list of such images")


def _is_deep(image: Image.Image) -> bool:
    return image.mode[0] in "IF"
