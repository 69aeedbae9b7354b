"""Soft Dice over classes: overlap instead of pixels, so that small classes weigh as much as large ones."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses._pixels import count_class_pixels, divide, upsample_logits
from hf_urbanseg.ranges import check_range


class _Sums(NamedTuple):
    """Per class over labelled pixels, (C,) fp64: probability on the class's own pixels, on all pixels, and pixels."""

    intersection: Tensor
    probability: Tensor
    pixels: Tensor


class DiceLoss(nn.Module):
    """1 - Dice of softmax probabilities, per class over all labelled pixels, mean over the classes in the labels.

    Per class, Dice = (2 I + smooth) / (P + L + smooth), with I the summed probability on the class's pixels, P on all
    labelled pixels, L their number.

    Args:
        smooth (`float`, defaults to 0.0): 0 or more, in pixels. Not needed against division by zero (a class without
            pixels is not in the mean), so 0 is Dice itself; a positive value lets go of classes of few pixels.
        scope (`str`, defaults to `"process"`): which pixels a class is summed over; see `hf_urbanseg.losses`.
            `"process"` makes a step's loss the mean over micro-batches and ranks; `"global"` takes one reduction of
            3 C numbers.

    Shape: that of `hf_urbanseg.losses`; in [0, 1]. The normaliser is the number of batches with a labelled pixel. Sums
        over pixels are fp64. After `settle` each batch returns the global loss divided by the number of batches, with
        the gradient of the global loss by its own logits.

    Source: Milletari et al. 2016 (arXiv:1606.04797), without their squares in the denominator and over C classes, as
        in segmentation_models.pytorch (`smooth` 0.0 there too). That one divides by all classes, so that classes
        absent from a batch lower its loss; ours divides by those present.
    """

    name = "dice"

    def __init__(
        self,
        num_labels: int,
        smooth: float = 0.0,
        scope: Literal["process", "global"] = "process",
        ignore_index: int = IGNORE_INDEX,
    ):
        super().__init__()
        check_range(0, smooth=smooth)
        if scope not in ("process", "global"):
            raise ConfigError("`scope` process or global", f"{scope!r}", "choose one of them")
        self.num_labels, self.smooth, self.scope, self.ignore_index = num_labels, float(smooth), scope, ignore_index
        self.needs_collection = scope == "global"
        self.release()

    def compute_normalizer(self, labels: Tensor) -> Tensor:
        return (count_class_pixels(labels, self.num_labels, self.ignore_index).sum() > 0).double()

    @torch.no_grad()
    def collect(self, logits: Tensor, labels: Tensor) -> None:
        sums = torch.stack(self._compute_sums(logits, labels))
        self._collected = sums if self._collected is None else self._collected + sums

    @torch.no_grad()
    def settle(self, reduce: Callable[[Tensor], Tensor]) -> None:
        self._settled, self._collected = _Sums(*reduce(self._collected)), None

    def release(self) -> None:
        self._collected: Tensor | None = None
        self._settled: _Sums | None = None

    def forward(self, logits: Tensor, labels: Tensor, normalizer: Tensor | float | None = None) -> Tensor:
        own = self._compute_sums(logits, labels)
        labelled = own.pixels.sum() > 0
        normalizer = labelled.double() if normalizer is None else normalizer
        if self._settled is None:
            loss = divide(self._compute_loss(own), normalizer)
        else:
            # The sums are additive, the loss is not: its first-order part at the global sums is additive again, and
            # has the same gradient.
            with torch.enable_grad():
                whole = _Sums(*(each.detach().requires_grad_() for each in self._settled[:2]), self._settled.pixels)
                value = self._compute_loss(whole)
                by_intersection, by_probability = torch.autograd.grad(value, whole[:2])
            slope = by_intersection @ own.intersection + by_probability @ own.probability
            loss = slope - slope.detach() + divide(labelled * value.detach(), normalizer)
        return loss.to(logits.dtype if logits.dtype == torch.float64 else torch.float32)

    def _compute_sums(self, logits: Tensor, labels: Tensor) -> _Sums:
        pixels = count_class_pixels(labels, self.num_labels, self.ignore_index).double()
        with torch.autocast(logits.device.type, enabled=False):
            probs = upsample_logits(logits, labels.shape[-2:]).softmax(1)
            valid = labels != self.ignore_index
            true_class = torch.where(valid, labels, 0)
            on_own = torch.where(valid, probs.gather(1, true_class.unsqueeze(1)).squeeze(1), 0).double()
            intersection = torch.zeros_like(pixels).index_add(0, true_class.flatten(), on_own.flatten())
            # Per image in single precision, as fp64 copies of all classes would be large; images are added in fp64.
            probability = torch.where(valid.unsqueeze(1), probs, 0).sum((2, 3)).double().sum(0)
        return _Sums(intersection, probability, pixels)

    def _compute_loss(self, sums: _Sums) -> Tensor:
        present = sums.pixels > 0
        size = torch.where(present, sums.probability + sums.pixels + self.smooth, 1)
        dice = (2 * sums.intersection + self.smooth) / size
        return torch.where(present, 1 - dice, 0).sum() / present.sum().clamp_min(1)
