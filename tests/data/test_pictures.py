"""Pictures that would fill the memory, never end, or be fetched from elsewhere."""

import io
import re
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from hostile_files import ENDLESS
from made_pictures import encode, noise
from PIL import Image, TiffImagePlugin

from hf_urbanseg.data import pictures
from hf_urbanseg.data.pictures import find_lossy, open_picture, read_stored
from hf_urbanseg.errors import DataError

PNG = encode(noise())


def at(path):
    return {"path": str(path), "bytes": None}


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def huge_png(width, height, *chunks):
    """Only the header is large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encode_bands(count):
    """A TIFF of so many bands, of which the first three are colours if there are that many; Pillow can't write it."""
    tags = {256: 30, 257: 20, 258: [8] * count, 259: 1, 262: 2 if count > 2 else 1, 273: 8, 277: count, 278: 20}
    tags |= {279: 600 * count, 338: [0] * (count - (3 if count > 2 else 1))}
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    directory.update(tags)
    directory[273] = 8 + len(directory.tobytes(8))
    return b"II*\0\x08\0\0\0" + directory.tobytes(8) + noise(channels=(count,)).tobytes()


@pytest.mark.parametrize(("make", "found"), ENDLESS)
def test_read_stored__what_never_ends(tmp_path, make, found):
    make(tmp_path / "a.png")
    with pytest.raises(DataError, match=rf"a\.png: expected .*{found}"):
        read_stored(at(tmp_path / "a.png"))


@pytest.mark.parametrize(
    "address",
    [
        "https://somewhere/a.png", "http:a.png", "HTTP://somewhere/a.png", "ftp://somewhere/a.png", "s3://bucket/a.png",
        "hf://datasets/a/b/a.png", "file:///etc/passwd", "zip://a.png::https://somewhere/data.zip", "http::/data/a.png",
        "zip://a.png::zip://b.zip::https://somewhere/data.zip", "zip://a.png::/data.zip::https://somewhere",
        "simplecache::https://somewhere/a.png", "filecache::/data/a.png",
    ],
)  # fmt: skip
def test_read_stored__addresses(address):
    with pytest.raises(DataError, match=re.escape(f"{address}: expected pictures on this machine")):
        read_stored(at(address))


@pytest.mark.parametrize(
    "path", ["/a/b.png", "../b.png", "b.png", "/a/run::1/b.png", "/a b/c:d.png", "zip://a:b/c.png::/data.zip"]
)
def test_read_stored__paths(path):
    with pytest.raises(FileNotFoundError):
        read_stored(at(path))


def test_read_stored__a_member_of_a_zip(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("a/b.png", PNG)
        bundle.writestr("large.png", b"0" * 3000)
    assert read_stored(at(f"zip://a/b.png::{tmp_path}/data.zip")) == PNG
    monkeypatch.setattr(pictures, "MOST_BYTES", 2999)
    with pytest.raises(DataError, match="2,999 bytes at most; found more"):
        read_stored(at(f"zip://large.png::{tmp_path}/data.zip"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (huge_png(8193, 8192), "8192x8193"),
        (huge_png(60_000, 60_000), "3,600,000,000 pixels"),
        (b"P5 9000 9000 255\n", "9000x9000"),
        (
            encode(Image.new("L", (2, 2)), "BMP").replace(struct.pack("<ii", 2, 2), struct.pack("<ii", 9000, 9000)),
            "9000x9000",
        ),
    ],
)
def test_open_picture__too_many_pixels(content, found):
    expected = f"there: expected a picture of 67,108,864 pixels at most; found {found}; cut it into tiles"
    with pytest.raises(DataError, match=expected):
        open_picture(content, "there")


def test_open_picture__as_many_as_allowed():
    assert open_picture(huge_png(8192, 8192), "there").size == (8192, 8192)


def test_open_picture__too_many_pixels_where_a_warning_is_an_error():
    content = huge_png(10_000, 10_000)
    with warnings.catch_warnings(action="error"), pytest.raises(DataError, match="100,000,000 pixels; cut it into"):
        open_picture(content, "there")


def test_read_file__more_bytes_than_its_pixels_could_have(tmp_path):
    with open(tmp_path / "a.tif", "wb") as file:
        file.truncate(pictures.MOST_BYTES + 1)
    with pytest.raises(DataError, match=r"a\.tif: expected a file of .* found 268,435,457 bytes; cut it into tiles"):
        pictures.read_file(tmp_path / "a.tif")


FRAMES = [Image.fromarray(noise(seed)) for seed in range(3)]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (encode(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "several pages"),
        (encode(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "an animation"),
        (encode(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "an animation"),
        (encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "an animation"),
        (encode_bands(5), "5 bands"),
        (encode_bands(2), "2 bands"),
    ],
    ids=["tiff", "gif", "png", "webp", "five bands", "two bands"],
)
def test_open_picture__more_than_one_picture_shows(content, found):
    with pytest.raises(DataError, match=f"there: expected one picture in grey, palette or RGB .*; found {found}; "):
        open_picture(content, "there")


def test_open_picture__overviews_and_masks_are_no_pages():
    overview, mask = FRAMES[1].resize((15, 10)), Image.fromarray(noise(channels=()))
    overview.encoderinfo, mask.encoderinfo = ({"tiffinfo": {254: kind}} for kind in (1, 4))
    content = encode(FRAMES[0], "TIFF", save_all=True, append_images=[overview, mask])
    assert Image.open(io.BytesIO(content)).n_frames == 3
    np.testing.assert_array_equal(np.asarray(open_picture(content, "there")), noise(0))


def test_open_picture__heic_without_its_extra(monkeypatch):
    monkeypatch.setattr(pictures, "pillow_heif", None)
    with pytest.raises(DataError, match=r"there: expected the extra `heif` .* not installed; pip install .*\[heif\]"):
        open_picture(encode(noise(), "HEIF"), "there")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (encode(noise(), "WEBP"), "a lossy WebP"),
        (encode(noise(channels=(4,)), "WEBP"), "a lossy WebP"),  # its chunk lies behind others
        (encode(noise(), "WEBP", lossless=True), ""),
        (encode(noise(channels=(4,)), "WEBP", lossless=True, exif=b"Exif\0\0VP8 "), ""),
        (encode(noise(), "TIFF", compression="jpeg"), "a TIFF with jpeg inside"),
        (encode(noise(), "TIFF", compression="tiff_lzw"), ""),
        (encode(noise(), "JPEG"), "JPEG"),
        (encode(noise(), "HEIF"), "HEIF"),
        (encode(noise(), "BMP"), ""),
        (PNG, ""),
    ],
)
def test_find_lossy(content, found):
    assert find_lossy(content, open_picture(content, "there")) == found


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_open_picture__text_that_unpacks_to_much(kind):
    packed = zlib.compress(bytes(200 << 20), 9)
    body = b"a\0\0" + packed if kind == b"zTXt" else b"a\0\1\0\0\0" + packed
    with pytest.raises(ValueError, match="too large"):
        open_picture(huge_png(8, 8, chunk(kind, body)), "there").load()


def test_open_picture__no_kind_that_runs_a_program():
    eps = io.BytesIO()
    Image.new("L", (4, 4)).save(eps, "EPS")
    with pytest.raises(OSError, match="no picture that Pillow recognises"):
        open_picture(eps.getvalue(), "there")


def test_open_picture__a_jpeg_that_goes_over_its_pixels_again_and_again():
    usual = encode(noise(), "JPEG", progressive=True)
    scan = usual[usual.rindex(b"\xff\xda") : -2]
    with pytest.raises(SyntaxError, match="more than 100 scans"):
        open_picture(usual[:-2] + 100 * scan + usual[-2:], "there")
    assert open_picture(usual, "there").load()
    # A phone's motion photograph: a video behind the picture, in which those bytes occur by chance.
    assert open_picture(usual + bytes(10_000_000) + 150 * b"\xff\xda", "there").load()
