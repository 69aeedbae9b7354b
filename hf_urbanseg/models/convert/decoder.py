"""MMSegmentation's decoder and the Hub's: where the two functions are equal, and where nothing makes them so.

With x_i the map of stage i, U upsampling to stage 1 (bilinear), A and P weights, and BN in evaluation mode:

    Hub, NVlabs      classifier(ReLU(BN(F [U(A_4 x_4 + a_4), ..., U(A_1 x_1 + a_1)])))
    MMSegmentation   classifier(ReLU(BN(F [U(ReLU(BN_1(P_1 x_1))), ..., U(ReLU(BN_4(P_4 x_4)))])))

The inner BN is affine and folds into A and a. The inner ReLU does not: a trained MMSegmentation decoder has two
non-linear layers where the Hub's has one, so in general no weights of the Hub's decoder compute it.

The other way round there is always a solution. x_i is the output of a LayerNorm, g * n + b with sum(n) = 0 and
|n|^2 <= width, so for every image that there can be, channel j of A x + a lies within sqrt(width) * |A_j * g - mean|
of A_j b + a_j. A constant c_j that lifts it above zero makes the ReLU the identity; U keeps constants, and the BN
after F takes F c off again through its running mean. Both decoders then compute one function, at inference: in training
mode BatchNorm normalises by the batch, and the lifted decoder is another model.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_EPS = 1e-5  # of BatchNorm, in all three codebases
_MARGIN = 1e-3  # of the bound, for rounding; float32 is off by 1e-6 at most
_BN = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def linear_to_conv_decoder(linear: Mapping[str, Tensor], norms: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """MMSegmentation's decoder with the function of a Hub decoder, at inference.

    From tensors of `SegformerDecodeHead` by name, and weight and bias of each stage's last LayerNorm.
    """
    conv, dtype = {}, linear["classifier.weight"].dtype
    fusion = list(linear["linear_fuse.weight"].double().chunk(4, dim=1))[::-1]  # the Hub stacks stage 4 first
    mean = linear["batch_norm.running_mean"].double()
    for stage, norm in enumerate(norms):
        weight, bias = (linear[f"linear_projections.{stage}.proj.{kind}"].double() for kind in ("weight", "bias"))
        lift = (-_lower_bound(weight, bias, norm)).clamp(min=0)
        mean = mean + fusion[stage].flatten(1) @ lift
        conv[f"convs.{stage}.conv.weight"] = weight[..., None, None]
        one, tracked = torch.ones_like(bias), torch.zeros_like(linear["batch_norm.num_batches_tracked"])
        for kind, tensor in zip(_BN, (one, bias + lift, 0 * one, one - _EPS, tracked), strict=True):
            conv[f"convs.{stage}.bn.{kind}"] = tensor
    conv["fusion_conv.conv.weight"] = torch.cat(fusion, dim=1)
    conv |= {f"fusion_conv.bn.{kind}": linear[f"batch_norm.{kind}"] for kind in _BN}
    conv["fusion_conv.bn.running_mean"] = mean
    conv |= {f"conv_seg.{kind}": linear[f"classifier.{kind}"] for kind in ("weight", "bias")}
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in conv.items()}


def conv_to_linear_decoder(
    conv: Mapping[str, Tensor], norms: list[tuple[Tensor, Tensor]]
) -> tuple[dict[str, Tensor] | None, float]:
    """The Hub decoder with the function of an MMSegmentation decoder, where there is one.

    And the share of inner channels whose ReLU may cut something off for some image. Where it is not 0 there are no
    tensors: the two functions differ.
    """
    linear, dtype, cutting = {}, conv["conv_seg.weight"].dtype, []
    for stage, norm in enumerate(norms):
        bn = {kind: conv[f"convs.{stage}.bn.{kind}"].double() for kind in _BN}
        scale = bn["weight"] / (bn["running_var"] + _EPS).sqrt()
        weight = conv[f"convs.{stage}.conv.weight"].double().flatten(1) * scale[:, None]
        bias = bn["bias"] - bn["running_mean"] * scale
        # Half the margin: what `linear_to_conv_decoder` lifted was rounded since.
        cutting.append(_lower_bound(weight, bias, norm, _MARGIN / 2) < 0)
        linear[f"linear_projections.{stage}.proj.weight"] = weight
        linear[f"linear_projections.{stage}.proj.bias"] = bias
    share = torch.cat(cutting).double().mean().item()
    if share:
        return None, share
    linear["linear_fuse.weight"] = torch.cat(conv["fusion_conv.conv.weight"].chunk(4, dim=1)[::-1], dim=1)
    linear |= {f"batch_norm.{kind}": conv[f"fusion_conv.bn.{kind}"] for kind in _BN}
    linear |= {f"classifier.{kind}": conv[f"conv_seg.{kind}"] for kind in ("weight", "bias")}
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in linear.items()}, 0.0


def _lower_bound(weight: Tensor, bias: Tensor, norm: tuple[Tensor, Tensor], margin: float = _MARGIN) -> Tensor:
    """A number per output channel below which `weight @ LayerNorm(anything) + bias` never goes, (out,) float64."""
    norm_weight, norm_bias = (tensor.double() for tensor in norm)
    slope = weight * norm_weight
    # The part along (1, ..., 1) sees a sum of 0.
    radius = (slope - slope.mean(1, keepdim=True)).norm(dim=1) * weight.shape[1] ** 0.5
    return weight @ norm_bias + bias - (1 + margin) * radius
