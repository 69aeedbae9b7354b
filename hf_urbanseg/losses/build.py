"""From names and numbers to the loss of a run."""

from collections.abc import Mapping, Sequence

from torch import nn

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.losses.composition import LossPart, WeightedSumLoss
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.losses.dice import DiceLoss
from hf_urbanseg.losses.focal import FocalLoss
from hf_urbanseg.losses.lovasz import LovaszSoftmaxLoss
from hf_urbanseg.losses.ohem import OhemCrossEntropyLoss

NAMES = ("cross_entropy", "ohem", "focal", "dice", "lovasz")


def build_loss(
    loss: str,
    num_labels: int,
    class_weights: Sequence[float] | None = None,
    normalizer: str = "valid_pixels",
    add_losses: Sequence[str] = (),
    auxiliary_weight: float | None = None,
    ohem_threshold: float | None = None,
    ohem_min_kept: int = 100_000,
    loss_scope: str = "process",
    focal_gamma: float = 2.0,
    further: Mapping[str, LossPart] | None = None,
) -> WeightedSumLoss:
    """The main loss, any further ones, and the auxiliary head's cross-entropy, as one weighted sum.

    Args:
        loss: One of `NAMES`.
        class_weights, normalizer: For every part but dice and lovasz, which balance classes by themselves.
        add_losses: `name=weight` words.
        auxiliary_weight: Weight of plain weighted cross-entropy on `auxiliary_logits`; None leaves it out.
        further: Parts that are built already.
    """
    weighted = num_labels, class_weights, normalizer

    def build(name: str) -> nn.Module:
        match name:
            case "cross_entropy":
                return CrossEntropyLoss(*weighted)
            case "ohem":
                return OhemCrossEntropyLoss(*weighted, ohem_min_kept, ohem_threshold, loss_scope)
            case "focal":
                return FocalLoss(*weighted, focal_gamma)
            case "dice":
                return DiceLoss(num_labels, scope=loss_scope)
            case "lovasz":
                return LovaszSoftmaxLoss(num_labels)
            case _:
                raise ConfigError(f"a loss of {', '.join(NAMES)}", f"`{name}`", "choose one")

    parts = {loss: LossPart(build(loss))}
    for word in add_losses:
        name, _, weight = word.partition("=")
        try:
            value = float(weight)
        except ValueError:
            raise ConfigError("`add_losses` as name=weight", f"`{word}`", "write for example dice=0.5") from None
        if name in parts:
            raise ConfigError("every loss once", f"`{name}` twice", "drop one", "add_losses")
        parts[name] = LossPart(build(name), value)
    if auxiliary_weight is not None:
        parts["auxiliary"] = LossPart(build("cross_entropy"), auxiliary_weight, "auxiliary_logits")
    return WeightedSumLoss({**parts, **(further or {})})
