"""A grid of captioned pictures with a legend of classes, as one picture file."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hf_urbanseg.escaping import flatten
from hf_urbanseg.files import written_whole

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 32, 32), (110, 110, 110)
_TEXT, _GAP, _LINE, _HEADING, _SWATCH, _LEAST_WIDTH = 15, 14, 24, 34, 16, 480
TALLEST = 900
"""Pixels in height of a picture in a sheet at most: a screen's."""
_MARK, _SOFTWARE = "hf_urbanseg", 305  # the program that made a picture, and the tag that EXIF has for it


def save_contact_sheet(
    path: str | Path,
    cells: Sequence[tuple[np.ndarray, str]],
    columns: int,
    title: str,
    legend: Sequence[tuple[str, Sequence]] = (),
    cell_width: int = 400,
    note: str = "",
) -> None:
    """Writes the grid, row by row, whole or not at all; pictures keep their shape.

    Args:
        path: A .jpg is written as JPEG, anything else as PNG.
        cells: (H, W, 3) uint8 pictures of any size, each with a line above it, cut where it is too long.
        cell_width: To which pictures are brought, or else to the height `TALLEST`, which none exceeds.
        columns: Of the grid; fewer cells make it narrower.
        title: Above the grid, wrapped.
        legend: Below the grid: names, each with a colour or a small picture.
        note: Under the title, in smaller letters, a paragraph for each of its lines.
    """
    columns = max(1, min(columns, len(cells)))
    width = max(columns * (cell_width + _GAP) + _GAP, _LEAST_WIDTH)
    font, heading = _font(_TEXT), _font(20, bold=True)
    bands = [
        _draw_text(_wrap(title, heading, width), heading, _HEADING, width, _GAP),
        _draw_text([line for one in note.splitlines() for line in _wrap(one, font, width)], font, _LINE, width, 0),
        *(
            _draw_row(cells[start : start + columns], cell_width, font, width)
            for start in range(0, len(cells), columns)
        ),
        draw_legend(legend, width),
    ]
    path, mark = Path(path), Image.Exif()
    mark[_SOFTWARE] = _MARK
    # JPEG in full colour resolution: the edges of coloured areas and letters stay clean.
    options = {"format": "JPEG", "quality": 90, "subsampling": 0} if path.suffix == ".jpg" else {"format": "PNG"}
    with written_whole(path) as staged:
        Image.fromarray(np.concatenate(bands)).save(staged, exif=mark, **options)


def is_contact_sheet(path: Path) -> bool:
    """Whether `save_contact_sheet` wrote the file."""
    try:
        with Image.open(path) as picture:
            return picture.getexif().get(_SOFTWARE) == _MARK
    except OSError:
        return False


def _draw_text(lines: Sequence[str], font: ImageFont.FreeTypeFont, line_height: int, width: int, top: int):
    band = Image.new("RGB", (width, top + line_height * len(lines)), _PAPER)
    for number, text in enumerate(lines):
        ImageDraw.Draw(band).text((_GAP, top + number * line_height), text, _INK, font)
    return band


def _draw_row(cells: Sequence[tuple], cell_width: int, font: ImageFont.FreeTypeFont, width: int) -> Image.Image:
    pictures = [_fit(picture, cell_width) for picture, _ in cells]
    band = Image.new("RGB", (width, _LINE + max(picture.height for picture in pictures) + _GAP), _PAPER)
    for column, ((_, caption), picture) in enumerate(zip(cells, pictures, strict=True)):
        x = _GAP + column * (cell_width + _GAP)
        ImageDraw.Draw(band).text((x, _LINE / 2 - 1), _cut(caption, font, cell_width), _FAINT, font, anchor="lm")
        band.paste(picture, (x, _LINE))
    return band


def draw_legend(legend: Sequence[tuple], width: int, size: int = _TEXT) -> Image.Image:
    """Names in columns, each behind its colour or small picture.

    Args:
        legend: As of `save_contact_sheet`.
        width: Of the band; longer names are cut.
        size: Of the letters, in pixels; all else grows with them.
    """
    gap, line, swatch, space = (round(one * size / _TEXT) for one in (_GAP, _LINE + 4, _SWATCH, 8))
    font = _font(size)
    legend = [(_cut(name, font, width - 2 * gap - swatch - 4 * space), fill) for name, fill in legend]
    entry_width = max((int(font.getlength(name)) for name, _ in legend), default=0) + swatch + 4 * space
    per_row = max(1, (width - 2 * gap) // entry_width)
    band = Image.new("RGB", (width, -(-len(legend) // per_row) * line + gap), _PAPER)
    draw = ImageDraw.Draw(band)
    for number, (name, fill) in enumerate(legend):
        x, y = gap + number % per_row * entry_width, number // per_row * line + (line - swatch) // 2
        draw.rectangle((x, y, x + swatch, y + swatch), outline=_INK)
        drawn = Image.fromarray(np.ascontiguousarray(np.broadcast_to(np.uint8(fill), (_SWATCH, _SWATCH, 3))))
        band.paste(drawn.resize((swatch - 1, swatch - 1), Image.Resampling.NEAREST), (x + 1, y + 1))
        draw.text((x + swatch + space - 1, y + swatch / 2), name, _INK, font, anchor="lm")
    return band


def _fit(picture: np.ndarray, width: int) -> Image.Image:
    image = Image.fromarray(picture)
    width = max(1, min(width, round(TALLEST * image.width / image.height)))
    # Much enlarged frames stay sharp; a little enlarged, nearest would make rows of unequal height.
    kind = Image.Resampling.NEAREST if width >= 2 * image.width else Image.Resampling.LANCZOS
    return image.resize((width, max(1, round(image.height * width / image.width))), kind)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu with it: the same font on every machine, and more alphabets than Pillow's own.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    text, room = flatten(text), width - 2 * _GAP
    letters = int(room / font.getlength("n"))
    lines = textwrap.wrap(text, letters)
    while any(font.getlength(line) > room for line in lines):  # capitals and other alphabets are wider
        letters -= 1
        lines = textwrap.wrap(text, letters)
    return lines


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    text = flatten(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip(" ,;:") + "…"
