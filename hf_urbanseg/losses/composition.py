"""A training loss as a sum of named, weighted parts."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.ranges import Range


class LossPart(NamedTuple):
    """One term of a `WeightedSumLoss`: a loss, its weight, the model output it is computed from, and what else of the
    outputs it reads, keyword -> name, where it is there."""

    loss: nn.Module
    weight: float = 1.0
    output: str = "logits"
    reads: Mapping[str, str] | None = None


class WeightedSumLoss(nn.Module):
    """Named losses, each with its weight, its own normaliser and the model output it looks at.

    A part's loss is as `hf_urbanseg.losses` says; one that needs to see the whole step first has `needs_collection`.

    Args:
        parts: Name -> `LossPart` or (loss, weight[, output]), weights 0 or more; or a loss alone, under its own `name`.

    Shape:
        outputs: mapping of names to (N, C, h, w) logits, or the logits themselves. labels: (N, H, W) int64.
        returns: dict name -> scalar, weight applied; the training loss is their sum.
    """

    def __init__(self, parts: Mapping[str, LossPart | tuple] | nn.Module):
        super().__init__()
        if isinstance(parts, nn.Module):
            parts = {getattr(parts, "name", type(parts).__name__): LossPart(parts)}
        parts = {name: LossPart(*part) for name, part in parts.items()}
        for name, part in parts.items():
            if not hasattr(part.loss, "compute_normalizer"):
                found = f"a {type(part.loss).__name__}"
                raise ConfigError("a loss with `compute_normalizer`", found, "take one of `hf_urbanseg.losses`", name)
            if part.weight not in Range(0):
                raise ConfigError("loss weights of 0 or more", f"{part.weight} for `{name}`", "correct it")
        self.losses = nn.ModuleDict({name: part.loss for name, part in parts.items()})
        self.weights = {name: float(part.weight) for name, part in parts.items()}
        self.outputs = {name: part.output for name, part in parts.items()}
        self.reads = {name: dict(part.reads or {}) for name, part in parts.items()}

    def compute_normalizer(self, labels: Tensor) -> dict[str, Tensor]:
        """One fp64 scalar per part; sums over micro-batches and ranks give the global normalisers."""
        return {name: loss.compute_normalizer(labels) for name, loss in self.losses.items()}

    def forward(
        self, outputs: Mapping[str, Tensor] | Tensor, labels: Tensor, normalizer: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        normalizer = normalizer or self.compute_normalizer(labels)
        parts = {}
        for name, loss in self.losses.items():
            read = {key: outputs[one] for key, one in self.reads[name].items() if one in outputs}
            parts[name] = self.weights[name] * loss(self._logits(name, outputs), labels, normalizer[name], **read)
        return parts

    @property
    def diagnostics(self) -> dict[str, Tensor]:
        """What the parts have to say about their last batch, as `<part>_<what>`."""
        return {
            f"{name}_{what}": value
            for name, loss in self.losses.items()
            for what, value in getattr(loss, "diagnostics", {}).items()
        }

    @property
    def needs_collection(self) -> bool:
        """Whether a part must see all batches of a step before the first backward pass."""
        return any(self._collecting().values())

    def collect(self, outputs: Mapping[str, Tensor], labels: Tensor) -> None:
        for name, loss in self._collecting().items():
            loss.collect(self._logits(name, outputs), labels)

    def settle(self, reduce: Callable[[Tensor], Tensor]) -> None:
        for loss in self._collecting().values():
            loss.settle(reduce)

    def release(self) -> None:
        for loss in self._collecting().values():
            loss.release()

    def _collecting(self) -> dict[str, nn.Module]:
        return {name: loss for name, loss in self.losses.items() if getattr(loss, "needs_collection", False)}

    def _logits(self, name: str, outputs: Mapping[str, Tensor] | Tensor) -> Tensor:
        return outputs if isinstance(outputs, Tensor) else outputs[self.outputs[name]]
