"""Boundary IoU: how well the edges of classes are met, where plain IoU sees mostly their insides."""

import math

import cv2
import numpy as np

from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.metrics.confusion_matrix import count_byte_pairs


def compute_boundary_counts(
    prediction: np.ndarray,
    label: np.ndarray,
    num_labels: int,
    ignore_index: int = IGNORE_INDEX,
    dilation_ratio: float = 0.02,
) -> np.ndarray:
    """Pixels hit, labelled and predicted within the boundary bands of one image.

    The band of a class holds its pixels closer than `width` (in rows or columns, whichever is more) to a pixel of
    something else or to the image's edge; `width` is `dilation_ratio` of the image's diagonal, rounded, at least 1.
    IoU of the bands per class: `hits / (labelled + predicted - hits)`; sum the counts over images first.

    Void rule: what is void in the label is made void in the prediction before bands are drawn, and is counted
    nowhere. Void is "something else": the rim of a void region belongs to both bands.

    Args:
        num_labels: C, up to 254.
        ignore_index: Label of void pixels.
        dilation_ratio: Width of the band by the image's diagonal; 0.02 is the paper's.

    Shape:
        prediction, label: (H, W) integer train ids of 0..C-1; label may be `ignore_index`.
        returns: (3, C) int64: class right and in both bands; labelled in the label's band; predicted in its own band.

    Raises:
        ValueError: Shapes differ, or a value is no class.

    Source: Cheng et al. 2021, Boundary IoU (CVPR): bands as in the authors' boundary-iou-api, which erodes one mask
    per class; one pass over the image gives the same bands for all classes at once.
    """
    prediction, label = np.asarray(prediction), np.asarray(label)
    if prediction.shape != label.shape or prediction.ndim != 2:
        raise ValueError(
            f"expected prediction and label of one (height, width); found {prediction.shape} and {label.shape}; "
            "upsample the logits to the label's size first"
        )
    if not 1 <= num_labels < IGNORE_INDEX:
        raise ValueError(f"expected `num_labels` of 1..{IGNORE_INDEX - 1}; found {num_labels}; merge classes")
    void = label == ignore_index
    label = _as_classes(np.where(void, 0, label), num_labels, "labels")
    prediction = _as_classes(prediction, num_labels, "predictions")
    label[void] = prediction[void] = IGNORE_INDEX
    width = max(1, round(dilation_ratio * math.hypot(*label.shape)))
    # Outside its band a pixel is of no class: void in the label, one class more in the prediction.
    in_label, in_prediction = (_find_inside(mask, width) for mask in (label, prediction))
    label[in_label], prediction[in_prediction | void] = IGNORE_INDEX, num_labels
    table = count_byte_pairs(label.reshape(-1), prediction.reshape(-1), num_labels, num_labels + 1)
    return np.stack([np.diag(table[1:]), table[1:].sum(1), table[:, :num_labels].sum(0)])


def _as_classes(mask: np.ndarray, num_labels: int, kind: str) -> np.ndarray:
    if mask.size and (mask.min() < 0 or mask.max() >= num_labels):
        wrong = np.unique(mask[(mask < 0) | (mask >= num_labels)]).tolist()
        raise ValueError(f"expected {kind} of 0..{num_labels - 1}; found {wrong}; map them first")
    return mask.astype(np.uint8)


def _find_inside(mask: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool: the square of 2 `width` + 1 pixels around the pixel is in the image and of one value."""
    height, breadth = mask.shape
    inside = np.zeros(mask.shape, bool)
    if min(height, breadth) <= 2 * width:
        return inside
    corner = mask[:-1, :-1]
    # A square is of one value if and only if each of its 2 x 2 blocks is: one dilation for all classes.
    mixed = (corner != mask[1:, :-1]) | (corner != mask[:-1, 1:]) | (corner != mask[1:, 1:])
    kernel = np.ones((2 * width, 2 * width), np.uint8)
    spread = cv2.dilate(mixed.view(np.uint8), kernel, anchor=(width, width), borderType=cv2.BORDER_CONSTANT)
    inner = (slice(width, height - width), slice(width, breadth - width))
    inside[inner] = spread[inner] == 0
    return inside
