"""The texts that picture files carry beside their pixels."""

import contextlib
import mmap
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_BEGINNINGS = {".png": _PNG, ".jpg": b"\xff\xd8\xff"}
_LONGEST_TEXT = 10_000_000


def is_picture(suffix: str, content: bytes) -> bool:
    """Whether a file begins as its suffix says."""
    return content.startswith(_BEGINNINGS[suffix])


def read_texts(content: bytes | mmap.mmap) -> Iterator[bytes]:
    """The metadata of a PNG or JPEG, decompressed; nothing for other files."""
    if content[: len(_PNG)] == _PNG:
        yield from _read_png(content)
    elif content[:2] == b"\xff\xd8":
        yield from _read_jpeg(content)


def _read_png(content: bytes | mmap.mmap) -> Iterator[bytes]:
    at = len(_PNG)
    while at + 8 <= len(content):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            data = content[at + 8 : at + 8 + length]
            yield data
        if kind in (b"zTXt", b"iTXt"):
            packed = data.split(b"\0", 1)[-1]
            # After the keyword: zTXt has a method; iTXt a flag, a method, and two words that end in NUL.
            packed = packed[1:] if kind == b"zTXt" else packed[2:].split(b"\0", 2)[-1]
            with contextlib.suppress(zlib.error):
                yield zlib.decompressobj().decompress(packed, _LONGEST_TEXT)
        at += length + 12


def _read_jpeg(content: bytes | mmap.mmap) -> Iterator[bytes]:
    """Comments and application data: all that stands in front of the pixels."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        if 0xE0 <= content[at + 1] <= 0xEF or content[at + 1] == 0xFE:
            yield content[at + 4 : at + 2 + length]
        at += 2 + length
