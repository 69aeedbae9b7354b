"""A grid of captioned pictures with a legend of classes, as one PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _FAINT = (255, 255, 255), (32, 32, 32), (110, 110, 110)
_GAP, _LINE, _HEADING, _SWATCH = 14, 24, 34, 16


@dataclass(frozen=True, eq=False)
class Cell:
    """One picture of the grid.

    Args:
        picture: (H, W, 3) uint8 RGB, any size.
        caption: One line below it, cut where it is too long.
    """

    picture: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Swatch:
    """One entry of the legend; `pattern` is a small picture in place of a plain colour."""

    name: str
    color: tuple[int, int, int] = (255, 255, 255)
    pattern: np.ndarray | None = None


def save_contact_sheet(
    path: str | Path,
    cells: Sequence[Cell],
    columns: int,
    title: str,
    legend: Sequence[Swatch] = (),
    cell_width: int = 400,
) -> None:
    """Writes the grid, row by row; pictures are brought to `cell_width` and keep their aspect ratio.

    Args:
        columns: Of the grid; fewer cells make it narrower.
        title: Above the grid, wrapped.
        legend: Below the grid.
    """
    columns = max(1, min(columns, len(cells)))
    font, heading = _font(15), _font(20, bold=True)
    pictures = [_fit(cell.picture, cell_width) for cell in cells]
    rows = [range(start, min(start + columns, len(cells))) for start in range(0, len(cells), columns)]
    heights = [max(pictures[i].height for i in row) for row in rows]
    captioned = _LINE if any(cell.caption for cell in cells) else 0

    width = max(columns * (cell_width + _GAP) + _GAP, 480)
    title_lines = _wrap(title, heading, width - 2 * _GAP)
    entry_width = max((int(font.getlength(swatch.name)) for swatch in legend), default=0) + _SWATCH + 30
    per_row = max(1, (width - 2 * _GAP) // entry_width)
    legend_rows = -(-len(legend) // per_row)
    top = _GAP + _HEADING * len(title_lines)
    legend_top = top + sum(height + captioned + _GAP for height in heights)
    sheet = Image.new("RGB", (width, legend_top + legend_rows * (_LINE + 4) + (_GAP if legend else 0)), _PAPER)
    draw = ImageDraw.Draw(sheet)

    for number, text in enumerate(title_lines):
        draw.text((_GAP, _GAP + number * _HEADING), text, _INK, heading)
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            x = _GAP + column * (cell_width + _GAP)
            sheet.paste(pictures[index], (x, y))
            if caption := cells[index].caption:
                text = _cut(caption, font, cell_width)
                draw.text((x, y + pictures[index].height + _LINE / 2 + 1), text, _FAINT, font, anchor="lm")
        y += height + captioned + _GAP
    for number, swatch in enumerate(legend):
        x = _GAP + number % per_row * entry_width
        y = legend_top + number // per_row * (_LINE + 4) + (_LINE - _SWATCH) // 2
        if swatch.pattern is not None:
            sheet.paste(Image.fromarray(swatch.pattern).resize((_SWATCH, _SWATCH)), (x, y))
        fill = swatch.color if swatch.pattern is None else None
        draw.rectangle((x, y, x + _SWATCH, y + _SWATCH), fill=fill, outline=_INK)
        draw.text((x + _SWATCH + 7, y + _SWATCH / 2), swatch.name, _INK, font, anchor="lm")
    sheet.save(path, format="PNG")


def _fit(picture: np.ndarray, width: int) -> Image.Image:
    image = Image.fromarray(picture)
    # Much enlarged frames stay sharp; a little enlarged, nearest would make rows of unequal height.
    kind = Image.Resampling.NEAREST if width >= 2 * image.width else Image.Resampling.LANCZOS
    return image.resize((width, max(1, round(image.height * width / image.width))), kind)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu with it: the same font on every machine.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip(" ,;:") + "…"
