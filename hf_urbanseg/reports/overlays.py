"""Pictures of predictions: class colours, overlays, and prediction beside label."""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.reports.contact_sheet import TALLEST, draw_legend, is_contact_sheet, save_contact_sheet
from hf_urbanseg.reports.formats import format_percent

_FADED = 176, 251
"""Darkest and lightest grey of what is right in `error_map`."""
FADED_VOID = (250, 240, 205)
"""Colour of pixels without a label in `error_map`: cream, which no class of a street has."""


def colorize(train_ids: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """Class colours, (H, W, 3) uint8, of a label map; void is black."""
    return label_space.palette[np.asarray(train_ids, np.uint8)]


def blend(
    image: Image.Image | np.ndarray, train_ids: np.ndarray, label_space: LabelSpace, alpha: float = 0.5
) -> np.ndarray:
    """Class colours over the image, `alpha` (0..1) of them; void pixels stay plain image.

    Shape:
        image: (H, W, 3) uint8 RGB. train_ids: (H, W) uint8. returns: (H, W, 3) uint8.

    Raises:
        DataError: Image and train ids of different size.
    """
    image, train_ids = np.asarray(image), np.asarray(train_ids)
    _check_size(image, train_ids)
    mixed = (1 - alpha) * image + alpha * colorize(train_ids, label_space)
    return np.where((train_ids == IGNORE_INDEX)[..., None], image, np.rint(mixed).astype(np.uint8))


def draw_class_legend(size: tuple[int, int], label_space: LabelSpace, classes: Sequence[int]) -> np.ndarray:
    """A band with the names of `classes`, as wide as the picture of `size` (height, width) that it is to stand below;
    the letters grow with the picture."""
    height, width = size
    legend = [(label_space.names[c], label_space.colors[c]) for c in classes]
    return np.asarray(draw_legend(legend, width, max(12, round((height * width) ** 0.5 / 48))))


def error_map(
    image: Image.Image | np.ndarray, prediction: np.ndarray, label: np.ndarray, label_space: LabelSpace
) -> np.ndarray:
    """Which class was taken for which.

    The image is faded where the prediction is right. Where it is wrong it has the predicted class's colour, and areas
    wide enough for a frame are framed in the colour of the label's class. Pixels without a label are `FADED_VOID`.
    There are 16 greys besides the classes' colours, so that it packs well as a palette PNG.

    Shape:
        image: (H, W, 3) uint8. prediction, label: (H, W) uint8 train ids. returns: (H, W, 3) uint8.
    """
    # Nearly white, because half of the classes of a street have dark colours or are grey.
    grey = np.asarray(image).mean(-1) // 16
    picture = np.repeat((_FADED[0] + 5 * grey)[..., None], 3, -1).astype(np.uint8)
    wrong = (prediction != label) & (label != IGNORE_INDEX)
    picture[wrong] = colorize(prediction[wrong], label_space)
    # Areas are of one pair of classes and 7 pixels wide at least: what is left after 3 were taken off and put back.
    pair = np.where(wrong, label.astype(np.uint16) * 256 + prediction, np.uint16(65535)).astype(np.uint16)
    rim = cv2.morphologyEx(pair, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
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
    """Writes one picture, whole or not at all: image, prediction, label and errors (`error_map`), with a legend.

    Wide frames are stacked, upright ones side by side, others in two columns; small frames are enlarged so that the
    text fits. The file is marked as ours, for `clear_comparisons`.

    Args:
        path: `.jpg`, or `.png`, which is larger and slower (benchmarks/pictures.py).
        title: In bold at the top; `note` under it in smaller letters, a paragraph for each of its lines.

    Shape:
        image: (H, W, 3) uint8 RGB. prediction, label: (H, W) uint8 train ids.

    Raises:
        DataError: Image, prediction and label of different size.
    """
    for one in (prediction, label):
        _check_size(np.asarray(image), one)
    image = Image.fromarray(np.asarray(image))
    valid, classes = label != IGNORE_INDEX, find_classes(label_space, prediction, label)
    wrong = np.count_nonzero(valid & (prediction != label)) / max(np.count_nonzero(valid), 1)
    share = f"errors, {format_percent(wrong, 1)} %" if valid.any() else "no labelled pixel"
    width, height = image.size
    columns, least_width = (1, 720) if width >= 1.8 * height else (2 if width >= 0.9 * height else 4, 480)
    # Whole factors keep the pixels of small frames square and sharp.
    shown_width = min(width * max(1, round(least_width / width)), 1280, round(TALLEST * width / height))
    if shown_width < width:  # drawn at the size it is shown at, so that the frames in the errors stay
        size = shown_width, max(1, round(height * shown_width / width))
        image = image.resize(size, Image.Resampling.LANCZOS)
        maps = (Image.fromarray(one).resize(size, Image.Resampling.NEAREST) for one in (prediction, label))
        prediction, label = map(np.asarray, maps)
    cells = [
        (np.asarray(image), "image"),
        (blend(image, prediction, label_space), "prediction"),
        (blend(image, label, label_space), "label"),
        (error_map(image, prediction, label, label_space), f"{share}: filled as predicted, framed as labelled"),
    ]
    legend = [(label_space.names[c], label_space.colors[c]) for c in classes]
    right = np.broadcast_to(np.linspace(*_FADED, 16, dtype=np.uint8)[:, None], (16, 16, 3))
    legend += [("right (in errors)", right), ("no label (in errors)", FADED_VOID)]
    save_contact_sheet(path, cells, columns, title, legend, shown_width, note)


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
        if is_contact_sheet(path):
            path.unlink()


def find_classes(label_space: LabelSpace, *maps: np.ndarray) -> list[int]:
    """Train ids of the classes that occur in any of the maps."""
    seen = np.unique(np.concatenate([train_ids.ravel() for train_ids in maps])).tolist()
    return [train_id for train_id in seen if train_id < label_space.num_labels]


def _check_size(image: np.ndarray, train_ids: np.ndarray) -> None:
    height, width = image.shape[:2]
    if train_ids.shape != (height, width):
        expected = f"train ids of the image's size {height}x{width} (height x width)"
        raise DataError(expected, "x".join(map(str, train_ids.shape)), "bring them to the image's size first")


def _spread(mask: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool: where the mask is within `reach` pixels, diagonals included."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
