"""Boundary IoU: how well the edges of classes are met, where plain IoU sees mostly their insides."""

import math

import cv2
import numpy as np

from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.metrics.confusion_matrix import count_byte_pairs


def compute_boundary_counts(
    prediction: np.ndarray, label: np.ndarray, num_labels: int, dilation_ratio: float = 0.02
) -> np.ndarray:
    """Pixels hit, labelled and predicted within the boundary bands of one image.

    The band of a class holds its pixels closer than `width` (in rows or columns, whichever is more) to a pixel of
    something else or to the image's edge; `width` is `dilation_ratio` of the image's diagonal, rounded, at least 1.
    IoU of the bands per class: `hits / (labelled + predicted - hits)`; sum the counts over images first.

    Void rule: what is void in the label is made void in the prediction before bands are drawn, and is counted
    nowhere. Void is "something else": the rim of a void region belongs to both bands.

    Shape:
        prediction, label: (H, W) integer train ids of 0..C-1, checked by `ConfusionMatrix`; label may be 255.
        returns: (3, C) int64: class right and in both bands; labelled in the label's band; predicted in its own band.

    Source: Cheng et al. 2021, Boundary IoU (CVPR): bands as in the authors' boundary-iou-api, which erodes one mask
    per class; one pass over the image gives the same bands for all classes at once.
    """
    void = label == IGNORE_INDEX
    label, prediction = label.astype(np.uint8), prediction.astype(np.uint8)
    prediction[void] = IGNORE_INDEX
    width = max(1, round(dilation_ratio * math.hypot(*label.shape)))
    # Outside its band a pixel is of no class: void in the label, one class more in the prediction.
    in_label, in_prediction = (_find_inside(mask, width) for mask in (label, prediction))
    label[in_label], prediction[in_prediction | void] = IGNORE_INDEX, num_labels
    table = count_byte_pairs(label.reshape(-1), prediction.reshape(-1), num_labels, num_labels + 1)
    return np.stack([np.diag(table[1:]), table[1:].sum(1), table[:, :num_labels].sum(0)])


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
