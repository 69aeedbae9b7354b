"""Cross-entropy at label resolution with a normaliser that can span ranks and micro-batches."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.losses._pixel_sum import PixelLoss, sum_pixel_losses
from hf_urbanseg.losses._pixels import count_class_pixels, divide

Normalizer = Literal["valid_pixels", "weight_sum"]


class CrossEntropyLoss(nn.Module):
    """Class-weighted cross-entropy of logits upsampled to the label's resolution.

    Args:
        class_weights (`Sequence[float]`, *optional*): C positive weights; None weighs all classes by 1.
        normalizer (`str`, defaults to `"valid_pixels"`): what the weighted sum is divided by. `"valid_pixels"`: the
            number of labelled pixels, as in the report's code (MMSegmentation with `avg_non_ignore=True`), so weights
            change the loss's scale. `"weight_sum"`: the summed weights of the labelled pixels, as in
            `torch.nn.CrossEntropyLoss(weight=...)`.

    Shape: that of `hf_urbanseg.losses`. Differentiable once; upsampled logits are never whole in memory.

    Source: the report's code, `CrossEntropyLoss` with `class_weight`; differs in the normaliser being a name, and in
        being additive: the sum over any partition of a batch, each divided by the common normaliser, is the same.
    """

    name = "cross_entropy"

    def __init__(
        self,
        num_labels: int,
        class_weights: Sequence[float] | Tensor | None = None,
        normalizer: Normalizer = "valid_pixels",
        ignore_index: int = IGNORE_INDEX,
    ):
        super().__init__()
        if normalizer not in ("valid_pixels", "weight_sum"):
            raise ConfigError("`normalizer` valid_pixels or weight_sum", f"{normalizer!r}", "choose one of them")
        if class_weights is not None:
            class_weights = torch.as_tensor(class_weights, dtype=torch.float64)
            if class_weights.shape != (num_labels,):
                fix = "give one per class in train-id order"
                raise ConfigError(f"{num_labels} class weights", f"{class_weights.numel()}", fix)
            if not bool((torch.isfinite(class_weights) & (class_weights > 0)).all()):
                raise ConfigError("positive, finite class weights", f"{class_weights.tolist()}", "correct them")
        self.num_labels, self.normalizer, self.ignore_index = num_labels, normalizer, ignore_index
        # Not in the state dict: weights belong to the recipe, and checkpoints must not depend on them.
        self.register_buffer("class_weights", class_weights, persistent=False)

    def compute_normalizer(self, labels: Tensor) -> Tensor:
        counts = count_class_pixels(labels, self.num_labels, self.ignore_index).double()
        if self.normalizer == "valid_pixels" or self.class_weights is None:
            return counts.sum()
        return counts @ self.class_weights.to(counts.device)

    def forward(self, logits: Tensor, labels: Tensor, normalizer: Tensor | float | None = None) -> Tensor:
        return self._sum_over_pixels(logits, labels, normalizer, _weigh)

    def _sum_over_pixels(
        self, logits: Tensor, labels: Tensor, normalizer: Tensor | float | None, pixel_loss: PixelLoss
    ) -> Tensor:
        if normalizer is None:
            normalizer = self.compute_normalizer(labels)
        total = sum_pixel_losses(logits, labels, self.class_weights, self.ignore_index, pixel_loss)
        return divide(total, normalizer)


def _weigh(cross_entropy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return cross_entropy * weight, weight
