import io
import sys

import cv2
import numpy as np
import pytest
import tifffile
from made_pictures import encode, noise

from hf_urbanseg.data.bands import read_bands
from hf_urbanseg.errors import DataError

PIXELS = noise(channels=(4,))


def save_array(values, **options) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def save_tiff(values, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **{"photometric": "minisblack", "planarconfig": "contig"} | options)
    return buffer.getvalue()


def with_overview() -> bytes:
    buffer = io.BytesIO()
    options = {"photometric": "minisblack", "planarconfig": "contig", "tile": (16, 16)}
    with tifffile.TiffWriter(buffer) as file:
        file.write(PIXELS, **options)
        file.write(PIXELS[::2, ::2], subfiletype=1, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        save_array(PIXELS), save_array(np.asfortranarray(PIXELS)), save_tiff(PIXELS),
        save_tiff(PIXELS, compression="lzw", predictor=True), save_tiff(PIXELS, photometric="rgb"),
        save_tiff(np.moveaxis(PIXELS, -1, 0), planarconfig="separate"), with_overview(), encode(PIXELS),
        encode(PIXELS, "WEBP", lossless=True, exact=True),
    ],
)  # fmt: skip
def test_read_bands__the_bytes_that_were_saved(content):
    found = read_bands(content, "there")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, PIXELS)


def test_read_bands__more_than_pillow_has_modes_for():
    pixels = noise(channels=(9,))
    np.testing.assert_array_equal(read_bands(save_tiff(pixels), "there"), pixels)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (save_array(PIXELS.astype(np.float32)), "float32 numbers of shape 20x30x4"),
        (save_array(PIXELS[..., 0]), "uint8 numbers of shape 20x30;"),
        (save_array(np.array([print]), allow_pickle=True), "ValueError: Object arrays cannot be loaded"),
        (save_array(PIXELS)[:-1], "ValueError"),
        (save_tiff(PIXELS.astype(np.uint16)), "uint16 numbers of shape 20x30x4"),
        (save_tiff(np.moveaxis(PIXELS, -1, 0), planarconfig=None), "4 pages"),
        (save_tiff(PIXELS)[:300], "Error"),
        (cv2.imencode(".png", PIXELS.astype(np.uint16))[1].tobytes(), "16 bits"),
        (
            encode(PIXELS, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
            "orientation",
        ),
        (b"hello", "no picture that Pillow recognises"),
    ],
)
def test_read_bands__what_is_none(content, found):
    with pytest.raises(DataError, match=f"there: expected .*; found .*{found}") as caught:
        read_bands(content, "there")
    assert "\n" not in str(caught.value)


def test_read_bands__tiff_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError, match=r"there: expected the extra `multiband` .* pip install .*\[multiband\]"):
        read_bands(save_tiff(PIXELS), "there")
