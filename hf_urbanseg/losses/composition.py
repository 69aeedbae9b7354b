"""A training loss as a sum of named, weighted parts."""

from collections.abc import Mapping

from torch import Tensor, nn

from hf_urbanseg.errors import ConfigError


class WeightedSumLoss(nn.Module):
    """Named losses on the model's logits, each with its weight and its own normaliser.

    Args:
        parts: Name -> (loss, weight). A loss has `compute_normalizer(labels)` (additive) and
            `forward(logits, labels, normalizer)`. Weights are 0 or more.

    Shape:
        as the parts.
        returns: dict name -> scalar, weight applied; the training loss is their sum.
    """

    def __init__(self, parts: Mapping[str, tuple[nn.Module, float]]):
        super().__init__()
        if not parts:
            raise ConfigError("at least one loss", "none", "name one with `--loss`")
        for name, (_, weight) in parts.items():
            if not weight >= 0:
                raise ConfigError("loss weights of 0 or more", f"{weight} for `{name}`", "correct it")
        self.losses = nn.ModuleDict({name: loss for name, (loss, _) in parts.items()})
        self.weights = {name: float(weight) for name, (_, weight) in parts.items()}

    def compute_normalizer(self, labels: Tensor) -> dict[str, Tensor]:
        """One fp64 scalar per part; sums over micro-batches and ranks give the global normalisers."""
        return {name: loss.compute_normalizer(labels) for name, loss in self.losses.items()}

    def forward(
        self, logits: Tensor, labels: Tensor, normalizer: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        normalizer = normalizer or self.compute_normalizer(labels)
        return {name: self.weights[name] * loss(logits, labels, normalizer[name]) for name, loss in self.losses.items()}
