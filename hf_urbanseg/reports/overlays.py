"""Pictures of predictions: class colours, overlays, and prediction beside label."""

import os
import re
import textwrap
import zlib
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, PngImagePlugin

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace

_PAPER, _INK = (255, 255, 255), (32, 32, 32)
_WRONG, _VOID = (255, 40, 40), (128, 128, 128)
_GAP = 12
_MARK, _SOFTWARE = "hf_urbanseg", 305  # the program that made a picture, and the tag that EXIF has for it
"""What tells our pictures from those that others put into the same folder."""
FADED_VOID = (250, 240, 205)
"""Colour of pixels without a label in `error_map`: cream, which no class of a street has."""


def colorize(train_ids: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """Class colours of a label map; void is black.

    Shape:
        train_ids: (H, W) uint8. returns: (H, W, 3) uint8.
    """
    return label_space.palette[np.asarray(train_ids, np.uint8)]


def blend(
    image: Image.Image | np.ndarray, train_ids: np.ndarray, label_space: LabelSpace, alpha: float = 0.5
) -> np.ndarray:
    """Class colours over the image; void pixels stay plain image.

    Args:
        image: RGB.
        alpha: Opacity of the colours, 0..1.

    Shape:
        image: (H, W, 3) uint8. train_ids: (H, W) uint8. returns: (H, W, 3) uint8.

    Raises:
        DataError: Image and train ids of different size.
    """
    image = _as_rgb(image)
    train_ids = np.asarray(train_ids, np.uint8)
    _check_size("train ids", train_ids, image)
    mixed = (1 - alpha) * image + alpha * colorize(train_ids, label_space)
    return np.where((train_ids == IGNORE_INDEX)[..., None], image, np.rint(mixed).astype(np.uint8))


def mark_errors(image: Image.Image | np.ndarray, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The image dim and grey where the prediction is right, red where it is wrong, flat grey where there is no label.

    Shape:
        image: (H, W, 3) uint8. prediction, label: (H, W) uint8 train ids. returns: (H, W, 3) uint8.
    """
    picture = np.repeat(0.35 * _as_rgb(image).mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    picture[prediction != label] = _WRONG
    picture[label == IGNORE_INDEX] = _VOID
    return picture


def error_map(
    image: Image.Image | np.ndarray, prediction: np.ndarray, label: np.ndarray, label_space: LabelSpace
) -> np.ndarray:
    """Which class was taken for which.

    The image is faded where the prediction is right. Where it is wrong it has the predicted class's colour, and areas
    wide enough for a frame are framed in the colour of the label's class. Pixels without a label are `FADED_VOID`.
    There are 16 greys besides the classes' colours, so that it packs well as a palette PNG.

    Shape:
        image: (H, W, 3) uint8. prediction, label: (H, W) uint8 train ids. returns: (H, W, 3) uint8.

    Raises:
        DataError: Image, prediction and label of different size.
    """
    image = _as_rgb(image)
    prediction, label = np.asarray(prediction, np.uint8), np.asarray(label, np.uint8)
    _check_size("a prediction", prediction, image)
    _check_size("a label", label, image)
    # Nearly white, because half of the classes of a street have dark colours or are grey.
    grey = image.mean(-1) // 16
    picture = np.repeat((176 + 5 * grey)[..., None], 3, -1).astype(np.uint8)
    wrong = (prediction != label) & (label != IGNORE_INDEX)
    picture[wrong] = colorize(prediction[wrong], label_space)
    # Areas are of one pair of classes and 7 pixels wide at least: what is left after 3 were taken off and put back.
    pair = np.where(wrong, label.astype(np.int32) * 256 + prediction, -1)
    rim = _differs_from_a_neighbour(pair)
    frame = _spread(wrong & ~_spread(rim, 2), 3) & _spread(rim, 1) & wrong
    picture[frame] = colorize(label[frame], label_space)
    picture[label == IGNORE_INDEX] = FADED_VOID
    return picture


def save_comparison(
    path: str | Path,
    image: Image.Image | np.ndarray,
    prediction: np.ndarray,
    label: np.ndarray,
    label_space: LabelSpace,
    title: str,
    note: str = "",
) -> None:
    """Writes one picture, whole or not at all: image, prediction, label and errors, with a legend of what occurs.

    Wide frames are stacked, others are in two columns; small frames are enlarged so that the text fits. The file is
    marked as ours, for `clear_comparisons`.

    Args:
        path: `.jpg`, or `.png`, which is larger and slower (benchmarks/pictures.py).
        image: RGB.
        title: In bold at the top; `note` under it in smaller letters, a paragraph for each of its lines.

    Shape:
        image: (H, W, 3) uint8. prediction, label: (H, W) uint8 train ids.

    Raises:
        DataError: Image, prediction and label of different size.
    """
    image = _as_rgb(image)
    prediction, label = np.asarray(prediction, np.uint8), np.asarray(label, np.uint8)
    _check_size("a prediction", prediction, image)
    _check_size("a label", label, image)
    valid = label != IGNORE_INDEX
    wrong = np.count_nonzero(valid & (prediction != label)) / max(np.count_nonzero(valid), 1)
    panels = [
        ("image", image, ()),
        ("prediction", blend(image, prediction, label_space), ()),
        ("label", blend(image, label, label_space), ()),
        (
            f"errors: {100 * wrong:.1f} % of the labelled pixels" if valid.any() else "errors: no labelled pixel",
            mark_errors(image, prediction, label),
            (("wrong", _WRONG), ("no label", _VOID)),
        ),
    ]
    height, width = image.shape[:2]
    columns = 1 if width >= 1.8 * height else 2
    least_width = 720 if columns == 1 else 480
    # Whole factors keep the pixels of small frames square and sharp.
    panel_width = min(width * max(1, round(least_width / width)), 1280)
    cell_width = max(panel_width, 480)  # the widest heading fits
    panel_height = max(1, round(height * panel_width / width))
    enlarge = Image.Resampling.NEAREST if panel_width >= width else Image.Resampling.LANCZOS
    font, heading = _font(16), _font(20, bold=True)
    line, title_line = 26, 30

    sheet_width = columns * (cell_width + _GAP) + _GAP
    title_lines = _wrap(title, heading, sheet_width - 2 * _GAP)
    note_lines = [line for one in note.splitlines() for line in _wrap(one, font, sheet_width - 2 * _GAP)]
    classes = [int(c) for c in np.union1d(prediction, label[valid]) if c < label_space.num_labels]
    legend = [(label_space.names[c], label_space.colors[c]) for c in classes]
    entry_width = max([int(font.getlength(name)) for name, _ in legend], default=0) + 22 + 24
    per_row = max(1, (sheet_width - 2 * _GAP) // entry_width)
    legend_rows = -(-len(legend) // per_row)
    panel_rows = len(panels) // columns
    top = _GAP + title_line * len(title_lines) + line * len(note_lines)
    legend_top = top + panel_rows * (line + panel_height + _GAP)
    sheet = Image.new("RGB", (sheet_width, legend_top + legend_rows * line + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)

    for index, text in enumerate(title_lines):
        draw.text((_GAP, _GAP + index * title_line), text, _INK, heading)
    for index, text in enumerate(note_lines):
        draw.text((_GAP, _GAP + title_line * len(title_lines) + index * line), text, _INK, font)
    for index, (name, picture, keys) in enumerate(panels):
        x = _GAP + (index % columns) * (cell_width + _GAP)
        y = top + (index // columns) * (line + panel_height + _GAP)
        draw.text((x, y + line / 2), name, _INK, font, anchor="lm")
        right = x + cell_width
        for key, color in reversed(keys):
            right -= int(font.getlength(key))
            draw.text((right, y + line / 2), key, _INK, font, anchor="lm")
            right -= 22
            _swatch(draw, right, y + line // 2, color)
            right -= 18
        sheet.paste(Image.fromarray(picture).resize((panel_width, panel_height), enlarge), (x, y + line))
    for index, (name, color) in enumerate(legend):
        x = _GAP + (index % per_row) * entry_width
        y = legend_top + (index // per_row) * line + line // 2
        _swatch(draw, x, y, color)
        draw.text((x + 22, y), name, _INK, font, anchor="lm")
    _write(sheet, Path(path))


def _write(sheet: Image.Image, path: Path) -> None:
    if path.suffix == ".jpg":
        mark = Image.Exif()
        mark[_SOFTWARE] = _MARK
        # Full colour resolution: the edges of coloured areas and letters stay clean.
        options = {"format": "JPEG", "quality": 90, "subsampling": 0, "exif": mark}
    else:
        mark = PngImagePlugin.PngInfo()
        mark.add_text("Software", _MARK)
        options = {"format": "PNG", "pnginfo": mark}
    staged = path.with_name(f".{path.name}.tmp")
    sheet.save(staged, **options)
    os.replace(staged, path)


def name_picture(name: str) -> str:
    """The file name, without suffix, of the picture of a frame: the frame's own wherever that can name a file.

    Names in data sets of others may be paths, begin with a dot, or be too long; those are rewritten, and a checksum
    keeps them apart.
    """
    safe = re.sub(r"[^\w .,+()@=-]", "_", name.lstrip(". ")).encode()[:200].decode(errors="ignore")
    return name if name == safe else f"{safe}-{zlib.crc32(name.encode('utf-8', 'surrogatepass')):08x}"


def clear_comparisons(folder: str | Path) -> None:
    """Removes the pictures that `save_comparison` wrote into a folder; whatever else is there stays."""
    for path in (*Path(folder).glob("*.png"), *Path(folder).glob("*.jpg")):
        try:
            with Image.open(path) as picture:
                ours = _MARK in (picture.info.get("Software"), picture.getexif().get(_SOFTWARE))
        except OSError:
            continue
        if ours:
            path.unlink()


def _swatch(draw: ImageDraw.ImageDraw, x: int, y: int, color: tuple[int, int, int]) -> None:
    draw.rectangle((x, y - 8, x + 16, y + 8), fill=tuple(color), outline=_INK)


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib brings DejaVu with it: the same font on every machine, and more alphabets than Pillow's own.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    characters = max(10, int(width / max(font.getlength("n"), 1)))
    return textwrap.wrap(text, characters)


def _differs_from_a_neighbour(values: np.ndarray) -> np.ndarray:
    """(H, W) bool: where one of the eight pixels around is another; the image's edge is no neighbour."""
    height, width = values.shape
    padded = np.pad(values, 1, mode="edge")
    differs = np.zeros(values.shape, bool)
    for y in range(3):
        for x in range(3):
            differs |= padded[y : y + height, x : x + width] != values
    return differs


def _spread(mask: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool: where the mask is within `reach` pixels, diagonals included."""
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * reach + 1)), bool)


def _as_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    return np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)


def _check_size(what: str, train_ids: np.ndarray, image: np.ndarray) -> None:
    if train_ids.shape != image.shape[:2]:
        raise DataError(
            f"{what} of the image's size {image.shape[0]}x{image.shape[1]} (height x width)",
            "x".join(map(str, train_ids.shape)),
            "bring it to the image's size first",
        )
