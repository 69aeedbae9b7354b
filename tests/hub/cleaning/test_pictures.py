import io
import zlib

import pytest
from PIL import Image
from run_folders import build_png

from hf_urbanseg.hub.cleaning.pictures import is_picture, read_texts


def test_is_picture__by_its_beginning():
    png, jpg = build_png(), b"\xff\xd8\xff\xe0..."
    assert is_picture(".png", png)
    assert is_picture(".jpg", jpg)
    assert not is_picture(".png", jpg)
    assert not is_picture(".jpg", png)
    assert not is_picture(".jpg", b"\xff\xfeT\0O\0K\0")
    assert not is_picture(".png", b"")
    assert not is_picture(".png", b"TOKEN=1")


def test_read_texts__of_a_png():
    chunks = [
        (b"tEXt", b"Title\0one"), (b"zTXt", b"Title\0\0" + zlib.compress(b"two")), (b"eXIf", b"MM three"),
        (b"iTXt", b"Title\0\1\0en\0Titel\0" + zlib.compress(b"four")), (b"iTXt", b"Title\0\0\0en\0Titel\0five"),
        (b"tIME", b"1234567"), (b"zTXt", b"broken\0\0xx"), (b"zTXt", b""),
    ]  # fmt: skip
    texts = list(read_texts(build_png(*chunks)))
    assert [text for text in texts if text in (b"two", b"four")] == [b"two", b"four"]
    assert [data in texts for _, data in chunks] == [True] * 5 + [False, True, True]


@pytest.mark.parametrize("cut", [3, 20, 45, -30, -1])
def test_read_texts__of_a_damaged_png_ends(cut):
    texts = list(read_texts(build_png((b"tEXt", b"Title\0one"))[:cut]))
    assert all(b"Title\0one".startswith(text) for text in texts)
    assert len(texts) == (cut not in (3, 20))


def test_read_texts__a_bomb_is_read_in_part():
    texts = list(read_texts(build_png((b"zTXt", b"Title\0\0" + zlib.compress(b"\0" * 50_000_000)))))
    assert max(map(len, texts)) == 10_000_000


def test_read_texts__of_a_jpeg():
    exif = Image.Exif()
    exif[0x9286] = "from the exif"
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", exif=exif, comment=b"from the comment")
    texts = list(read_texts(file.getvalue()))
    assert any(b"from the exif" in text for text in texts)
    assert b"from the comment" in texts
    assert all(len(text) < len(file.getvalue()) for text in texts)
    for cut in range(0, 120, 7):
        list(read_texts(file.getvalue()[:cut]))


def test_read_texts__of_anything_else():
    assert list(read_texts(b"tEXt one")) == list(read_texts(b"")) == []
