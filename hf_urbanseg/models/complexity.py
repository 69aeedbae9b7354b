"""What a forward pass costs in arithmetic: parameters, multiply-accumulates under named conventions, torch's FLOPs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig

from hf_urbanseg.models.loading import build_from_config

Convention = Literal["plain", "fvcore", "report"]

CONVENTIONS: dict[Convention, str] = {
    "plain": "multiply-accumulates of convolutions and matrix products, attention's too; half of torch's FLOPs",
    "fvcore": "plain, plus 5 for each value of a LayerNorm, 2 of a BatchNorm and 4 of a bilinear resize, that of the "
    "logits to the input size too",
    "report": "fvcore, plus the BatchNorm that MMSegmentation's SegFormer has behind each of its four projections",
}
"""What each convention counts, always for one image. `report` gives the G column of the report's table."""

_ATEN = torch.ops.aten
_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "_batch_norm_no_update")  # by device and version
_FVCORE = {
    _ATEN.native_layer_norm: lambda shape, *_, **__: 5 * shape.numel(),
    _ATEN.upsample_bilinear2d: lambda *_, out_shape, **__: 4 * out_shape.numel(),
} | {getattr(_ATEN, name): lambda shape, *_, **__: 2 * shape.numel() for name in _NORMS}
"""What fvcore counts of operations for which torch's counter has no formula."""


def count_parameters(config: PretrainedConfig) -> dict[str, int]:
    """Parameters by part ("encoder", "decode_head") and in "total", each once."""
    parts = Counter()
    for name, parameter in _build_on_meta(config).named_parameters():
        parts[_part(name.split(".")[0])] += parameter.numel()
    return {**parts, "total": parts.total()}


def count_operations(
    config: PretrainedConfig, image_size: Sequence[int] = (375, 1242)
) -> dict[Convention, dict[str, int]]:
    """Operations of one image in evaluation mode: convention -> part ("encoder", "decode_head", "classifier_resize").

    The model is built on torch's meta device, where only shapes are computed, and the operations that reach the
    dispatcher are counted: any of our networks, number of classes and input size as it runs, sizes that are no multiple
    of 32 too. Activations, softmax, additions, biases and scalings count nothing in any convention. (Nor does adaptive
    pooling, which has a weight in fvcore: 0.015 G of PSPNet's 97.)

    Source: fvcore 0.1.5 `FlopCountAnalysis`, with which the report measured MMSegmentation 0.25's `forward_dummy`; the
        totals are equal to fvcore's own to the last operation. A linear layer or product of (n, k) and (k, m) counts
        n k m, a convolution out_height out_width weight.numel().
    """
    model = _build_on_meta(config)
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_FVCORE) as counter:
        F.interpolate(_run(model, image_size), size=tuple(image_size), mode="bilinear", align_corners=False)
    counts = counter.get_flop_counts()
    parts = {_part(name): counts.get(f"{type(model).__name__}.{name}") for name, _ in model.named_children()}
    parts = {part: _halve_flops(found) for part, found in parts.items() if found}
    plain = {part: kinds.total() - sum(kinds[kind] for kind in _FVCORE) for part, kinds in parts.items()}
    fvcore = {part: kinds.total() for part, kinds in parts.items()}
    fvcore["classifier_resize"] = _halve_flops(counts["Global"]).total() - sum(fvcore.values())
    plain["classifier_resize"] = 0
    report = dict(fvcore)
    if config.model_type == "segformer":
        report["decode_head"] += _count_mmsegmentation_norms(config, image_size)
    return {"plain": plain, "fvcore": fvcore, "report": report}


def count_macs(
    config: PretrainedConfig, image_size: Sequence[int] = (375, 1242), convention: Convention = "report"
) -> int:
    """Multiply-accumulates of one image; `CONVENTIONS` says what each convention counts.

    At 375x1242 with 19 classes and a 256-channel decoder, in G:

    | | plain | fvcore | report | the report's table |
    |---|---:|---:|---:|---:|
    | B0 | 15.334 | 15.559 | 15.579 | 15.579 |
    | B2 | 50.264 | 50.614 | 50.633 | 50.633 |
    | B5 | 149.347 | 149.945 | 149.964 | 150 |

    The Hub's 768-channel B2 and B5 are 113.7 and 212.8 in `plain`.
    """
    return sum(count_operations(config, image_size)[convention].values())


def count_flops(config: PretrainedConfig, image_size: Sequence[int]) -> int:
    """FLOPs of one image by `torch.utils.flop_counter.FlopCounterMode`: two per multiply-accumulate.

    It has no formula for the resize to the input size.
    """
    model = _build_on_meta(config)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _run(model, image_size)
    return counter.get_total_flops()


def _halve_flops(found: Mapping) -> Counter:
    """Multiply-accumulates by kind; torch counts two FLOPs for each, and ours are counted as they are."""
    return Counter({kind: count if kind in _FVCORE else count // 2 for kind, count in found.items()})


def _count_mmsegmentation_norms(config: PretrainedConfig, size: Sequence[int]) -> int:
    """Of the four BatchNorms behind the head's projections, which the Hub's architecture doesn't have."""
    positions = 0
    for kernel, stride in zip(config.patch_sizes, config.strides, strict=True):
        size = [(side + 2 * (kernel // 2) - kernel) // stride + 1 for side in size]
        positions += size[0] * size[1]
    return 2 * config.decoder_hidden_size * positions


def _build_on_meta(config: PretrainedConfig) -> nn.Module:
    """A model without weights, with eager attention: for torch's fused one on CPU there are no formulas."""
    with torch.device("meta"):
        model = build_from_config(config)
    model.set_attn_implementation("eager")
    return model.eval()


def _run(model: nn.Module, size: Sequence[int]) -> torch.Tensor:
    channels = getattr(model.config, "num_channels", 3)
    return model(torch.empty(1, channels, *size, dtype=model.dtype, device="meta")).logits


def _part(child: str) -> str:
    return "encoder" if child in ("segformer", "backbone") else child
