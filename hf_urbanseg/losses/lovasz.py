"""Lovász-softmax: a convex surrogate of the Jaccard index, the very thing that is measured."""

import torch
from torch import Tensor, nn

from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses._pixels import count_class_pixels, divide, upsample_logits


class LovaszSoftmaxLoss(nn.Module):
    """Lovász extension of 1 - IoU at the softmax errors, per image, mean over the classes in its labels.

    Sorts the pixels of every class of an image: the dearest loss here.

    Shape: that of `hf_urbanseg.losses`; in [0, 1]. The normaliser is the number of images with a labelled pixel.

    Source: Berman et al. 2018 (arXiv:1705.08790), algorithm 1, with `per_image=True, classes="present"` of the
        authors' code. Differs in its gradient by sorted error being written out instead of taken as differences of
        neighbouring Jaccard losses: those agree to within 1/pixels, where single precision has few digits left.
    """

    name = "lovasz"

    def __init__(self, num_labels: int, ignore_index: int = IGNORE_INDEX):
        super().__init__()
        self.num_labels, self.ignore_index = num_labels, ignore_index

    def compute_normalizer(self, labels: Tensor) -> Tensor:
        count_class_pixels(labels, self.num_labels, self.ignore_index)  # for its check
        return (labels != self.ignore_index).flatten(1).any(1).sum().double()

    def forward(self, logits: Tensor, labels: Tensor, normalizer: Tensor | float | None = None) -> Tensor:
        if normalizer is None:
            normalizer = self.compute_normalizer(labels)
        with torch.autocast(logits.device.type, enabled=False):
            probs = upsample_logits(logits, labels.shape[-2:]).softmax(1)
            total = probs[:0].sum()  # 0 with a gradient, should no image have labels
            for image, label in zip(probs.flatten(2), labels.flatten(1), strict=True):
                valid = label != self.ignore_index
                if valid.any():
                    total = total + _compute_image_loss(image[:, valid], label[valid])
            return divide(total, normalizer)


def _compute_image_loss(probs: Tensor, labels: Tensor) -> Tensor:
    """Shape: probs (C, n), labels (n,), n > 0. Returns a scalar."""
    classes = labels.unique()
    foreground = labels == classes.unsqueeze(1)
    errors = torch.where(foreground, 1 - probs[classes], probs[classes])
    errors, order = errors.sort(dim=1, descending=True)
    return (errors * _compute_jaccard_steps(foreground.gather(1, order)).to(errors.dtype)).sum(1).mean()


def _compute_jaccard_steps(foreground: Tensor) -> Tensor:
    """By how much 1 - IoU grows when one more pixel, in the given order, is wrong.

    A foreground pixel takes one from the intersection I and leaves the union U: 1 / U. A background pixel adds one to
    the union: I / (U - 1) - I / U = I / (U (U - 1)), with U after it.

    Shape:
        foreground: (classes, n) bool, a True in every row.
        returns: (classes, n) fp64, rows of sum 1.
    """
    size = foreground.sum(1, keepdim=True)
    intersection = size - foreground.cumsum(1)
    union = size + (~foreground).cumsum(1)
    return torch.where(foreground, 1, intersection / (union - 1).double()) / union
