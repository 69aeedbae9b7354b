"""Focal loss: cross-entropy that fades as a pixel is learnt."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss, Normalizer
from hf_urbanseg.ranges import check_range


class FocalLoss(CrossEntropyLoss):
    """Class-weighted cross-entropy, each pixel times (1 - p)^gamma with p the softmax probability of its true class.

    Args:
        class_weights (`Sequence[float]`, *optional*): as in `CrossEntropyLoss`; the paper's alpha, per class.
        normalizer (`str`, defaults to `"valid_pixels"`): as in `CrossEntropyLoss`; (1 - p)^gamma is not in it.
        gamma (`float`, defaults to 2.0): 0 or more; 0 is cross-entropy, exactly.

    Shape: that of `CrossEntropyLoss`.

    Source: Lin et al. 2017 (arXiv:1708.02002), equation 5. Differs in being over the softmax of C classes instead of
        C sigmoids (MMSegmentation's is the latter), and in dividing by labelled pixels, not by assigned anchors.
    """

    name = "focal"

    def __init__(
        self,
        num_labels: int,
        class_weights: Sequence[float] | Tensor | None = None,
        normalizer: Normalizer = "valid_pixels",
        gamma: float = 2.0,
        ignore_index: int = IGNORE_INDEX,
    ):
        super().__init__(num_labels, class_weights, normalizer, ignore_index)
        check_range(0, gamma=gamma)
        self.gamma = float(gamma)

    def forward(self, logits: Tensor, labels: Tensor, normalizer: Tensor | float | None = None) -> Tensor:
        if self.gamma == 0:
            return super().forward(logits, labels, normalizer)
        return self._sum_over_pixels(logits, labels, normalizer, self._fade)

    def _fade(self, cross_entropy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        # expm1 loses no further digits of 1 - p near p = 1; the clamp keeps the power's slope finite at p = 1.
        wrong = (-torch.expm1(-cross_entropy)).clamp_min(torch.finfo(cross_entropy.dtype).tiny)
        faded = weight * wrong**self.gamma
        return faded * cross_entropy, faded * (1 + self.gamma * torch.exp(-cross_entropy) * cross_entropy / wrong)
