"""A running confusion matrix: everything segmentation scores need, in O(classes^2) memory."""

import cv2
import numpy as np
import torch
from torch import Tensor

from hf_urbanseg.labels import IGNORE_INDEX

# calcHist gives float32, which counts exactly up to 2**24; no piece is larger. A multiple of 8 (bytes of a word).
_PIECE = 2**24


class ConfusionMatrix:
    """Pixel counts by (label, prediction), accumulated image by image.

    `matrix` is (C, C) int64; row = label, column = prediction. It lives on `device`; updates on others move only the
    C x C result.
    """

    def __init__(self, num_labels: int, ignore_index: int = IGNORE_INDEX, device: torch.device | str = "cpu"):
        self.num_labels, self.ignore_index = num_labels, ignore_index
        self.matrix = torch.zeros(num_labels, num_labels, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Adds pixels.

        Shape:
            predictions, labels: the same shape, any integer type; train ids, labels may be `ignore_index`. 8-bit
                tensors on the CPU are the fastest.
            returns: (C, C) int64 on the masks' device, the counts of these pixels alone.

        Raises:
            ValueError: Shapes differ, or a value is neither a class nor (labels only) `ignore_index`.
        """
        if predictions.shape != labels.shape:
            found = f"{tuple(predictions.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"expected both of one shape; found {found}; upsample the logits to the label's size")
        on_cpu = predictions.device.type == labels.device.type == "cpu"
        counts = None
        if on_cpu and self.ignore_index == IGNORE_INDEX and self.num_labels <= IGNORE_INDEX:
            counts = _count_bytes(predictions, labels, self.num_labels)
        if counts is None:
            predictions, labels = predictions.long(), labels.long()  # torch can't compare uint16
            counts = _count_anywhere(predictions, labels, self.num_labels, self.ignore_index)
        if counts is None:
            self._raise_unknown(predictions, labels)
        self.matrix += counts if on_cpu and self.matrix.device.type == "cpu" else counts.to(self.matrix.device)
        return counts

    def _raise_unknown(self, predictions: Tensor, labels: Tensor) -> None:
        for kind, values in (("predictions", predictions), ("labels", labels[labels != self.ignore_index])):
            wrong = values[(values < 0) | (values >= self.num_labels)].unique().tolist()
            if wrong:
                raise ValueError(f"expected {kind} of 0..{self.num_labels - 1}; found {wrong}; map them first")

    def reset(self) -> None:
        self.matrix.zero_()


def count_byte_pairs(labels: np.ndarray, predictions: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """How often each value of a label meets each value of a prediction; `IGNORE_INDEX` is a value of labels, too.

    OpenCV's histogram increments one 32-bit counter per pixel. Street scenes are long runs of one class, and
    incrementing one counter again and again waits for the store before: so neighbours count in up to eight copies of
    the table, told apart by spare high bits of the prediction, which are summed at the end.

    Shape:
        labels, predictions: (P,) uint8; predictions below `columns`.
        returns: (1 + `rows`, `columns`) int64; row 0 = `IGNORE_INDEX`, row 1 + v = label v. Labels of `rows`..254 are
            in no row: the counts then sum to less than P.
    """
    rows, columns = int(rows), int(columns)
    step = 1 << (columns - 1).bit_length()
    copies = min(8, 256 // step)
    word = (np.arange(8) % copies * step).astype(np.uint8).view(np.uint64)
    counts = np.zeros((1 + rows, columns), np.int64)
    for start in range(0, len(labels), _PIECE):
        # 255 + 1 wraps to 0: the table stays small, and calls reuse its memory.
        shifted = labels[start : start + _PIECE] + np.uint8(1)
        plain = predictions[start : start + _PIECE]
        spread, whole = np.empty_like(plain), len(plain) // 8 * 8
        np.bitwise_xor(plain[:whole].view(np.uint64), word, out=spread[:whole].view(np.uint64))
        # The up to seven pixels behind the last whole word stay in the first copy.
        spread[whole:] = plain[whole:]
        table = cv2.calcHist([shifted[None], spread[None]], [0, 1], None, [1 + rows, 256], [0, 1 + rows, 0, 256])
        table = table.astype(np.int64).reshape(1 + rows, 256 // step, step)
        counts += table[:, :copies, :columns].sum(1)
    return counts


def divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where the whole is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def _count_bytes(predictions: Tensor, labels: Tensor, classes: int) -> Tensor | None:
    """(C, C) counts of masks whose values all fit into a byte; None if one doesn't or is no class."""
    label_bytes, prediction_bytes = _as_bytes(labels), _as_bytes(predictions)
    if label_bytes is None or prediction_bytes is None:
        return None
    if len(prediction_bytes) and prediction_bytes.max() >= classes:
        return None
    counts = count_byte_pairs(label_bytes, prediction_bytes, classes, classes)
    # Missing pixels have a label that is no class: the check costs no pass over the pixels.
    return torch.from_numpy(counts[1:]) if counts.sum() == len(label_bytes) else None


def _as_bytes(values: Tensor) -> np.ndarray | None:
    """(P,) uint8; None if a value doesn't fit."""
    # Out of torch at once: on a mask of this size each of its calls costs as much as a pass over the pixels.
    array = values.numpy()
    if array.dtype != np.uint8:
        # The bits of all values together: one pass finds what is negative and what is too large.
        if int(np.bitwise_or.reduce(array, axis=None)) & ~255:
            return None
        array = array.astype(np.uint8)
    return np.ascontiguousarray(array).reshape(-1)


def _count_anywhere(predictions: Tensor, labels: Tensor, classes: int, ignore_index: int) -> Tensor | None:
    """(C, C) counts of any integers on any device; None if a value is no class. The masks never leave the device."""
    predictions, labels = predictions.reshape(-1), labels.reshape(-1)
    # Row C takes ignored pixels, row C + 1 and column C what is no class: one histogram counts and checks.
    rows = torch.where((labels >= 0) & (labels < classes), labels, classes + 1)
    rows = torch.where(labels == ignore_index, classes, rows)
    columns = torch.where((predictions >= 0) & (predictions < classes), predictions, classes)
    buckets = torch.bincount(rows * (classes + 1) + columns, minlength=(classes + 2) * (classes + 1))
    buckets = buckets.reshape(classes + 2, classes + 1)
    if bool(buckets[:, classes].sum() + buckets[classes + 1].sum()):
        return None
    return buckets[:classes, :classes]
