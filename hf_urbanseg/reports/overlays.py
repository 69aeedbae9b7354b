"""Pictures of predictions: class colours, overlays, and prediction beside label."""

import re
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.reports.contact_sheet import is_contact_sheet, save_contact_sheet
from hf_urbanseg.reports.formats import format_percent

_WRONG, _VOID = (255, 40, 40), (128, 128, 128)
FADED_VOID = (250, 240, 205)
"""Colour of pixels without a label in `error_map`: cream, which no class of a street has."""


def colorize(train_ids: np.ndarray, label_space: LabelSpace) -> np.ndarray:
    """Class colours, (H, W, 3) uint8, of a label map; void is black."""
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
    image, train_ids = np.asarray(image), np.asarray(train_ids)
    if train_ids.shape != image.shape[:2]:
        expected = f"train ids of the image's size {image.shape[0]}x{image.shape[1]} (height x width)"
        raise DataError(expected, "x".join(map(str, train_ids.shape)), "bring them to the image's size first")
    mixed = (1 - alpha) * image + alpha * colorize(train_ids, label_space)
    return np.where((train_ids == IGNORE_INDEX)[..., None], image, np.rint(mixed).astype(np.uint8))


def mark_errors(image: np.ndarray, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The image dim and grey where the prediction is right, red where it is wrong, flat grey without a label."""
    picture = np.repeat(0.35 * image.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
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
    """
    # Nearly white, because half of the classes of a street have dark colours or are grey.
    grey = np.asarray(image).mean(-1) // 16
    picture = np.repeat((176 + 5 * grey)[..., None], 3, -1).astype(np.uint8)
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
    image = np.asarray(image)
    cells = [
        (image, "image"),
        (blend(image, prediction, label_space), "prediction"),
        (blend(image, label, label_space), "label"),
    ]
    valid = label != IGNORE_INDEX
    wrong = np.count_nonzero(valid & (prediction != label)) / max(np.count_nonzero(valid), 1)
    share = f"{format_percent(wrong, 1)} % of the labelled pixels" if valid.any() else "no labelled pixel"
    cells.append((mark_errors(image, prediction, label), f"errors: {share}"))
    classes = find_classes(label_space, prediction, label)
    legend = [(label_space.names[c], label_space.colors[c]) for c in classes]
    legend += [("wrong (in errors)", _WRONG), ("no label (in errors)", _VOID)]
    height, width = image.shape[:2]
    columns, least_width = (1, 720) if width >= 1.8 * height else (2, 480)
    # Whole factors keep the pixels of small frames square and sharp.
    shown_width = min(width * max(1, round(least_width / width)), 1280)
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


def _spread(mask: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool: where the mask is within `reach` pixels, diagonals included."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0
