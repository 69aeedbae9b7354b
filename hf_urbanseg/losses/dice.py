"""Soft Dice over classes: overlap instead of pixels, so that small classes weigh as much as large ones."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses._pixels import count_class_pixels, divide, upsample_logits


class _Sums(NamedTuple):
    """Per class over labelled pixels, (C,) fp64: probability on the class's own pixels, on all pixels, and pixels."""

    intersection: Tensor
    probability: Tensor
    pixels: Tensor


class DiceLoss(nn.Module):
    """1 - Dice of softmax probabilities, per class over all labelled pixels, mean over the classes in the labels.

    Per class, Dice = 2 I / (P + L), with I the summed probability on the class's pixels, P on all labelled pixels, L
    their number.

    Args:
        num_labels (`int`): C.
        scope (`str`, defaults to `"process"`): which pixels a class is summed over. `"process"`: those of one
            `forward`; an optimiser step's loss is then the mean over micro-batches and ranks and depends on how they
            are cut. `"global"`: all of the step, so it doesn't. That takes a `collect` of every micro-batch before
            the first real `forward` (a second forward pass of the model) and one reduction of 3 C numbers.

    Shape:
        logits: (N, C, h, w) float, unnormalised, any resolution. labels: (N, H, W) int64 train ids or 255.
        normalizer: scalar, the number of batches with a labelled pixel over *all* micro-batches and ranks of an
            optimiser step; None takes this batch's own.
        returns: scalar fp32 (fp64 for fp64 logits) in [0, 1]; this batch's share of the step's loss; 0 with gradient
            when no pixel is labelled. Sums over pixels are fp64. After `settle` each batch returns the global loss
            divided by the number of batches, with the gradient of the global loss by its own logits.

    Raises:
        ConfigError: Unknown `scope`.

    Source: Milletari et al. 2016 (arXiv:1606.04797), without their squares in the denominator and over C classes, as
        in segmentation_models.pytorch (with its `smooth` of 0). That one divides by all classes, so that classes
        absent from a batch lower its loss; ours divides by those present.
    """

    name = "dice"

    def __init__(
        self,
        num_labels: int,
        scope: Literal["process", "global"] = "process",
    ):
        super().__init__()
        if scope not in ("process", "global"):
            raise ConfigError("`scope` process or global", f"{scope!r}", "choose one of them")
        self.num_labels, self.scope = num_labels, scope
        self.release()

    @property
    def needs_collection(self) -> bool:
        """Whether an optimiser step calls `collect` and `settle` before its forward passes."""
        return self.scope == "global"

    def compute_normalizer(self, labels: Tensor) -> Tensor:
        """1 for a batch with a labelled pixel, else 0: fp64 scalar, additive over batches and ranks."""
        return (count_class_pixels(labels, self.num_labels).sum() > 0).double()

    @torch.no_grad()
    def collect(self, logits: Tensor, labels: Tensor) -> None:
        """Adds the sums of one micro-batch of the step."""
        sums = torch.stack(self._compute_sums(logits, labels))
        self._collected = sums if self._collected is None else self._collected + sums

    @torch.no_grad()
    def settle(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Fixes the step's sums; `reduce` sums a tensor over ranks, and is called once."""
        self._settled, self._collected = _Sums(*reduce(self._collected)), None

    def release(self) -> None:
        """Forgets the step: the next `forward` without a `settle` goes by its own batch."""
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
        pixels = count_class_pixels(labels, self.num_labels).double()
        with torch.autocast(logits.device.type, enabled=False):
            probs = upsample_logits(logits, labels.shape[-2:]).softmax(1)
            valid = labels != IGNORE_INDEX
            true_class = torch.where(valid, labels, 0)
            on_own = torch.where(valid, probs.gather(1, true_class.unsqueeze(1)).squeeze(1), 0).double()
            intersection = torch.zeros_like(pixels).index_add(0, true_class.flatten(), on_own.flatten())
            # Per image in single precision, as fp64 copies of all classes would be large; images are added in fp64.
            probability = torch.where(valid.unsqueeze(1), probs, 0).sum((2, 3)).double().sum(0)
        return _Sums(intersection, probability, pixels)

    def _compute_loss(self, sums: _Sums) -> Tensor:
        present = sums.pixels > 0
        dice = 2 * sums.intersection / torch.where(present, sums.probability + sums.pixels, 1)
        return torch.where(present, 1 - dice, 0).sum() / present.sum().clamp_min(1)
