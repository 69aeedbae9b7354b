"""Pictures that others made: where their files may lie, and how much of them is read."""

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import count
from pathlib import Path

from datasets.utils.file_utils import xopen
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_regular, read_bytes

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()  # here, so that `datasets` decodes such files in every process that trains

MOST_PIXELS = 1 << 26
"""67 million, 8192x8192: 8K video has half of it, street photographs a third."""
MOST_BYTES = 4 * MOST_PIXELS
"""Of a file: those pixels uncompressed."""
# Pillow knows forty more, of which EPS starts a program.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", *(["HEIF"] if pillow_heif else []))
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
TILES = "cut it into tiles, make it smaller or leave it out"
"""What to do with a picture that is too large."""
REPAIR = "fetch the file again or leave it out"
ARRAY_SIGNATURE, TIFF_SIGNATURES = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# Each goes over all pixels, whatever few bytes it has; ten are usual.
_JPEG_SIGNATURE, _JPEG_SCAN, _MOST_SCANS = b"\xff\xd8\xff", b"\xff\xda", 100
_SUBFILE_TYPE = 254
_BANDS = "name their number for a model of them all (`--channels 4`), save the three of red, green and blue"
ADDRESS = re.compile(r"[a-z][\w+.-]*:", re.IGNORECASE)
# What `datasets` calls a member of a local .zip: zip://a.png::/data.zip
_MEMBER = re.compile(rf"zip://(?:(?!::).)+::(?!{ADDRESS.pattern})(?:(?!::).)+", re.IGNORECASE)


@contextmanager
def readable(what: str, where: object, fix: str = REPAIR) -> Iterator[None]:
    """One line of whatever is raised inside about a damaged file: Pillow's decoders alone raise a dozen kinds."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        found = getattr(error, "strerror", None) or f"a truncated or damaged file ({type(error).__name__}: {error})"
        found = str(error) if isinstance(error, UnidentifiedImageError) else found
        raise DataError(f"a readable {what}", found, fix, where) from error


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
        return read_file(path)
    if not _MEMBER.fullmatch(path):
        fix = "download its files and name the folder"
        raise DataError("pictures on this machine", "an address, which is not followed", fix, path)
    check_regular(path.rpartition("::")[2])
    with xopen(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise DataError(f"a file of {MOST_BYTES:,} bytes at most", "more", TILES, path)
    return content


def embed_stored(stored: Mapping) -> dict:
    """The same with its bytes and no path: `datasets` drops the bytes where a file of that path exists."""
    return {"bytes": read_stored(stored), "path": None}


def read_file(path: str | Path) -> bytes:
    """The bytes of a picture's file; raises what `read_stored` raises."""
    return read_bytes(path, MOST_BYTES, fix=TILES)


def open_picture(content: bytes, where: object) -> Image.Image:
    """What Pillow finds in a file before it decodes the pixels, whose number is bounded.

    Args:
        where: The file, named in errors.

    Raises:
        DataError: Too many pixels, several pictures, bands that Pillow would leave out, or HEIC without its extra.
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
        if pillow_heif is None and content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS:
            fix = 'pip install "hf-urbanseg[heif]", or convert it to JPEG'
            raise DataError("the extra `heif` for HEIC pictures", "pillow-heif is not installed", fix, where)
        if content.startswith(ARRAY_SIGNATURE):
            raise DataError("a picture", "an array", "name its channels (`--channels 4`), or save PNG", where)
        picture = Image.open(BytesIO(content), formats=_FORMATS)
        found = picture.width * picture.height
        refused = found > MOST_PIXELS and f"{picture.height}x{picture.width}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a warning where one is an error
        refused = f"{int(re.search('[0-9]+', str(error))[0]):,} pixels"
    except UnidentifiedImageError as error:
        if not content.startswith(TIFF_SIGNATURES):
            # Pillow's words name an address in memory.
            raise UnidentifiedImageError("no picture that Pillow recognises") from error
        found, fix = "bands that Pillow doesn't know", f"{_BANDS}, or export it anew"
        raise DataError("a TIFF in grey, palette or RGB colours", found, fix, where) from error
    if refused:
        raise DataError(f"a picture of {MOST_PIXELS:,} pixels at most", refused, TILES, where)
    _check_single(picture, where)
    return picture


def _check_single(picture: Image.Image, where: object) -> None:
    """One picture in the file, of whose bands Pillow shows all."""
    found, fix = "", "save the one that is meant as a file of its own"
    if picture.format == "TIFF":
        bands = picture.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        if bands > len(picture.getbands()):
            found, fix = f"{bands} bands", _BANDS
        pages = 1
        with suppress(EOFError):
            # Overviews of an orthophoto and masks are pages, too, and say so.
            for page in count(1):
                picture.seek(page)
                pages += not picture.tag_v2.get(_SUBFILE_TYPE, 0) & 0b101
                if pages > 1:
                    found = "several pages"
                    break
        picture.seek(0)
    elif picture.format in ("GIF", "PNG", "WEBP") and picture.is_animated:
        found = "an animation"
    if found:
        raise DataError("one picture in grey, palette or RGB colours", found, fix, where)


def stored_bits(picture: Image.Image) -> int:
    """Bits per channel of the file of a picture that isn't loaded yet; of one that is, of its mode."""
    # How the file stores its pixels, e.g. "RGB;16B" behind mode RGB, whose low bytes Pillow drops; it also stretches
    # 2- and 4-bit grey to 0..255.
    layout = picture.tile[0][3] if getattr(picture, "tile", None) else picture.mode
    raw_bits = re.search(r";(16|[124])", layout if isinstance(layout, str) else str(layout and layout[0]))
    return int(raw_bits[1]) if raw_bits else {"1": 1, "I": 32, "F": 32}.get(picture.mode, 8)


def find_lossy(content: bytes, picture: Image.Image) -> str:
    """What makes the pixels of an opened file others than those that were saved, or nothing."""
    if picture.format in ("JPEG", "MPO", "HEIF"):
        return picture.format
    inside = picture.info.get("compression") if picture.format == "TIFF" else None
    if inside in ("jpeg", "tiff_jpeg", "webp"):
        return f"a TIFF with {inside} inside"
    # Its chunks: "VP8 " is lossy, "VP8L" isn't; both are said to be there before any pixel.
    if picture.format == "WEBP" and _has_chunk(content, b"VP8 "):
        return "a lossy WebP"
    return ""


def _has_chunk(content: bytes, name: bytes) -> bool:
    place = 12
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, place)
        if kind == name:
            return True
        place += 8 + size + size % 2
    return False
