"""Pictures that others made: where their files may lie, and how much of them is read."""

import re
from collections.abc import Mapping
from io import BytesIO

from datasets.utils.file_utils import xopen
from PIL import Image

from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_regular, read_bytes

MOST_PIXELS = 1 << 26
"""67 million, 8192x8192: 8K video has half of it, street photographs a third."""
MOST_BYTES = 4 * MOST_PIXELS
"""Of a file: those pixels uncompressed."""
# Pillow knows forty more, of which EPS starts a program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# Each goes over all pixels, whatever few bytes it has; ten are usual.
_JPEG_SIGNATURE, _JPEG_SCAN, _MOST_SCANS = b"\xff\xd8\xff", b"\xff\xda", 100
ADDRESS = re.compile(r"[a-z][\w+.-]*:", re.IGNORECASE)
# What `datasets` calls a member of a local .zip: zip://a.png::/data.zip
_MEMBER = re.compile(rf"zip://(?:(?!::).)+::(?!{ADDRESS.pattern})(?:(?!::).)+", re.IGNORECASE)


def read_stored(stored: Mapping) -> bytes:
    """The file of a picture as `datasets.Image(decode=False)` gives it: `bytes`, or else what is at its `path`.

    Addresses are refused: data that a user called local must not make this machine ask others.

    Raises:
        DataError: Not on this machine, not a regular file, or larger than `MOST_BYTES`.
        Exception: It can't be read; in most cases OSError.
    """
    path = stored["path"]
    if stored["bytes"] is not None:
        return stored["bytes"]
    if not ADDRESS.match(path):
        return read_bytes(path, MOST_BYTES)
    if not _MEMBER.fullmatch(path):
        fix = "download its files and name the folder"
        raise DataError("pictures on this machine", "an address, which is not followed", fix, path)
    check_regular(path.rpartition("::")[2])
    with xopen(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"a file of {MOST_BYTES:,} bytes at most", "more", "leave it out", path)
    return content


def open_picture(content: bytes, where: object) -> Image.Image:
    """What Pillow finds in a file before it decodes the pixels, whose number is bounded.

    Args:
        where: The file, named in errors.

    Raises:
        DataError: Too many pixels.
        Exception: On damaged bytes Pillow raises nearly anything.
    """
    try:
        if content.startswith(_PNG_SIGNATURE):
            # Decoding skips the checksums: without this, one flipped bit in ten changed a label's pixels unnoticed.
            Image.open(BytesIO(content), formats=_FORMATS).verify()
            if content.rfind(_PNG_END) < 0:
                raise SyntaxError("PNG file without its end")
        # A video behind a phone's picture has these two bytes once in 65,536 by chance.
        most = max(_MOST_SCANS, len(content) // 20_000)
        if content.startswith(_JPEG_SIGNATURE) and content.count(_JPEG_SCAN) > most:
            raise SyntaxError(f"JPEG file of more than {most} scans")
        picture = Image.open(BytesIO(content), formats=_FORMATS)
        found = picture.width * picture.height
        refused = found > MOST_PIXELS and f"{picture.height}x{picture.width}"
    except Image.DecompressionBombError as error:
        refused = str(error).partition(",")[0]
    if refused:
        raise DataError(
            f"a picture of {MOST_PIXELS:,} pixels at most", refused, "make it smaller or leave it out", where
        )
    return picture
