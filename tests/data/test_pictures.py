"""Pictures that would fill the memory, never end, or be fetched from elsewhere."""

import io
import re
import struct
import zipfile
import zlib

import pytest
from hostile_files import ENDLESS
from made_pictures import encode, noise
from PIL import Image

from hf_urbanseg.data import pictures
from hf_urbanseg.data.pictures import open_picture, read_stored
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
        (huge_png(60_000, 60_000), r"Image size .3600000000 pixels. exceeds"),
        (b"P5 9000 9000 255\n", "9000x9000"),
        (
            encode(Image.new("L", (2, 2)), "BMP").replace(struct.pack("<ii", 2, 2), struct.pack("<ii", 9000, 9000)),
            "9000x9000",
        ),
    ],
)
def test_open_picture__too_many_pixels(content, found):
    with pytest.raises(DataError, match=f"there: expected a picture of 67,108,864 pixels at most; found {found}"):
        open_picture(content, "there")


def test_open_picture__as_many_as_allowed():
    assert open_picture(huge_png(8192, 8192), "there").size == (8192, 8192)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_open_picture__text_that_unpacks_to_much(kind):
    packed = zlib.compress(bytes(200 << 20), 9)
    body = b"a\0\0" + packed if kind == b"zTXt" else b"a\0\1\0\0\0" + packed
    with pytest.raises(ValueError, match="too large"):
        open_picture(huge_png(8, 8, chunk(kind, body)), "there").load()


def test_open_picture__no_kind_that_runs_a_program():
    eps = io.BytesIO()
    Image.new("L", (4, 4)).save(eps, "EPS")
    with pytest.raises(OSError, match="cannot identify"):
        open_picture(eps.getvalue(), "there")


def test_open_picture__a_jpeg_that_goes_over_its_pixels_again_and_again():
    usual = encode(noise(), "JPEG", progressive=True)
    scan = usual[usual.rindex(b"\xff\xda") : -2]
    with pytest.raises(SyntaxError, match="more than 100 scans"):
        open_picture(usual[:-2] + 100 * scan + usual[-2:], "there")
    assert open_picture(usual, "there").load()
    # A phone's motion photograph: a video behind the picture, in which those bytes occur by chance.
    assert open_picture(usual + bytes(10_000_000) + 150 * b"\xff\xda", "there").load()
