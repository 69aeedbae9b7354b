"""A running confusion matrix: everything segmentation scores need, in O(classes^2) memory."""

import torch
from torch import Tensor

from hf_urbanseg.labels import IGNORE_INDEX


class ConfusionMatrix:
    """Pixel counts by (label, prediction), accumulated image by image.

    Args:
        num_classes: C.
        ignore_index: Label of pixels that are not counted.
        device: Where the counts live; updates on other devices move only the C x C result.

    Attributes:
        matrix: (C, C) int64; row = label, column = prediction.
    """

    def __init__(self, num_classes: int, ignore_index: int = IGNORE_INDEX, device: torch.device | str = "cpu"):
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds pixels.

        Shape:
            predictions, labels: the same shape, any integer type; train ids, labels may be `ignore_index`.

        Raises:
            ValueError: Shapes differ, or a value is neither a class nor (labels only) `ignore_index`.
        """
        if predictions.shape != labels.shape:
            raise ValueError(
                f"expected predictions and labels of one shape; found {tuple(predictions.shape)} and "
                f"{tuple(labels.shape)}; upsample the logits to the label's size first"
            )
        classes = self.num_classes
        labels, predictions = labels.reshape(-1).long(), predictions.reshape(-1).long()
        ignored = labels == self.ignore_index
        for kind, values, allowed in (("predictions", predictions, None), ("labels", labels, ignored)):
            wrong = (values < 0) | (values >= classes)
            if allowed is not None:
                wrong &= ~allowed
            if bool(wrong.any()):
                raise ValueError(
                    f"expected {kind} of 0..{classes - 1}; found {sorted(set(values[wrong].tolist()))}; map them first"
                )
        # Ignored pixels fall into one bucket behind the matrix: cheaper than selecting the others.
        index = torch.where(ignored, classes * classes, labels * classes + predictions)
        counts = torch.bincount(index, minlength=classes * classes + 1)[:-1]
        self.matrix += counts.reshape(classes, classes).to(self.matrix.device)

    def all_reduce(self) -> None:
        """Sums the counts over all processes of the default group; afterwards every process holds the total."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.matrix)

    def reset(self) -> None:
        self.matrix.zero_()
