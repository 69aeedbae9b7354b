"""What a forward pass costs in arithmetic: parameters, multiply-accumulates under named conventions, torch's FLOPs."""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSemanticSegmentation, PretrainedConfig

from hf_urbanseg.errors import ConfigError

Convention = Literal["plain", "fvcore", "report"]

CONVENTIONS: dict[Convention, str] = {
    "plain": "multiply-accumulates of convolutions and matrix products, attention's too; half of torch's FLOPs",
    "fvcore": "plain, plus 5 for each value of a LayerNorm, 2 of a BatchNorm and 4 of a bilinear resize, that of the "
    "logits to the input size too",
    "report": "fvcore, plus the BatchNorm that MMSegmentation's head has behind each of its four projections",
}
"""What each convention counts, always for one image. `report` gives the G column of the report's table."""

_PLAIN = ("convolution", "matrix_product")


@dataclass(frozen=True)
class OperationCounts:
    """Operations of one forward pass over one image.

    Args:
        counts: part ("encoder", "decode_head", "classifier_resize") -> kind ("convolution", "matrix_product",
            "layer_norm", "batch_norm", "resize") -> operations, in fvcore's weights.
        mmsegmentation_norms: What the `report` convention adds to the decode head.
    """

    counts: dict[str, dict[str, int]]
    mmsegmentation_norms: int = 0

    def by_part(self, convention: Convention = "report") -> dict[str, int]:
        """Operations of every part; their sum is the `total`.

        Raises:
            ConfigError: Unknown convention.
        """
        if convention not in CONVENTIONS:
            raise ConfigError(f"a convention of {', '.join(CONVENTIONS)}", f"`{convention}`", "choose one of them")
        parts = {
            part: sum(count for kind, count in kinds.items() if convention != "plain" or kind in _PLAIN)
            for part, kinds in self.counts.items()
        }
        if convention == "report" and self.mmsegmentation_norms:
            parts["decode_head"] += self.mmsegmentation_norms
        return parts

    def total(self, convention: Convention = "report") -> int:
        """Operations of the whole pass."""
        return sum(self.by_part(convention).values())


def count_parameters(model_or_config: nn.Module | PretrainedConfig) -> dict[str, int]:
    """Parameters by part ("encoder", "decode_head") and in "total", each once.

    Args:
        model_or_config: A model, or the configuration of one, which then takes no memory.
    """
    parts = Counter()
    for name, parameter in _copy_to_meta(model_or_config).named_parameters():
        parts[_part(name.split(".")[0])] += parameter.numel()
    return {**parts, "total": parts.total()}


def count_operations(
    model_or_config: nn.Module | PretrainedConfig, image_size: Sequence[int] = (375, 1242)
) -> OperationCounts:
    """Counts what one image costs; a model is neither run nor changed, and no memory is used.

    The model is copied without its weights to torch's meta device, where only shapes are computed, and the operations
    that reach the dispatcher are counted: any SegFormer, number of classes and input size as it runs, sizes that are
    no multiple of 32 too. Activations, softmax, additions, biases and scalings count nothing in any convention.
    Evaluation mode, batch 1. (Other networks may hold operations that have a weight in fvcore and none here, such as
    adaptive pooling.)

    Args:
        model_or_config: A model (`pixel_values` -> `.logits` or logits), or the configuration of one.
        image_size: (height, width).

    Raises:
        ConfigError: An image size that is no such pair, or too small for the model.

    Source: fvcore 0.1.5 `FlopCountAnalysis`, with which the report measured MMSegmentation 0.25's `forward_dummy`; the
        totals are equal to fvcore's own to the last operation. A linear layer or product of (n, k) and (k, m) counts
        n k m, a convolution out_height out_width weight.numel().
    """
    size = _check_size(image_size)
    model = _copy_to_meta(model_or_config)
    counter = _OperationCounter(model)
    with torch.no_grad(), counter:
        logits = _run(model, size)
        F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    return OperationCounts(
        {part: dict(kinds) for part, kinds in counter.parts.items()}, _count_mmsegmentation_norms(model, size)
    )


def count_macs(
    model_or_config: nn.Module | PretrainedConfig,
    image_size: Sequence[int] = (375, 1242),
    convention: Convention = "report",
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
    return count_operations(model_or_config, image_size).total(convention)


def count_flops(model_or_config: nn.Module | PretrainedConfig, image_size: Sequence[int] = (375, 1242)) -> int:
    """FLOPs of one image by `torch.utils.flop_counter.FlopCounterMode`: two per multiply-accumulate.

    Counted with eager attention, because torch has no formula for its fused attention on CPU and leaves it out. The
    resize to the input size has none either.
    """
    size = _check_size(image_size)
    model = _copy_to_meta(model_or_config)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _run(model, size)
    return counter.get_total_flops()


class _OperationCounter(TorchDispatchMode):
    """Counts every operation under the part of the model that asked for it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.parts: dict[str, Counter] = {}
        self._part = "classifier_resize"
        for name, child in model.named_children():
            child.register_forward_pre_hook(partial(self._enter, _part(name)))
            child.register_forward_hook(partial(self._enter, self._part))

    def _enter(self, part: str, *_) -> None:
        self._part = part

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        counted = _count(func.overloadpacket.__name__, args, out)
        if counted:
            kind, count = counted
            self.parts.setdefault(self._part, Counter())[kind] += count
        return out


def _count(name: str, args: tuple, out) -> tuple[str, int] | None:
    match name:
        case "convolution":
            image, weight, transposed = args[0], args[1], args[6]
            positions = (image if transposed else out).shape[2:].numel()
            return "convolution", len(image) * positions * weight.numel()
        case "mm" | "bmm":
            return "matrix_product", args[0].numel() * args[1].shape[-1]
        case "addmm" | "baddbmm":
            return "matrix_product", args[1].numel() * args[2].shape[-1]
        case "native_layer_norm":
            return "layer_norm", 5 * args[0].numel()
        # Which of them runs depends on the device and on torch's version.
        case "native_batch_norm" | "_native_batch_norm_legit_no_training" | "_batch_norm_no_update":
            return "batch_norm", 2 * args[0].numel()
        case "upsample_bilinear2d":
            return "resize", 4 * out.numel()
    return None


def _count_mmsegmentation_norms(model: nn.Module, size: tuple[int, int]) -> int:
    """Of the four BatchNorms behind the head's projections, which the Hub's architecture doesn't have."""
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) != "segformer":
        return 0
    positions = 0
    for kernel, stride in zip(config.patch_sizes, config.strides, strict=True):
        size = tuple((side + 2 * (kernel // 2) - kernel) // stride + 1 for side in size)
        positions += size[0] * size[1]
    return 2 * config.decoder_hidden_size * positions


def _copy_to_meta(model_or_config: nn.Module | PretrainedConfig) -> nn.Module:
    """The same model without weights, in evaluation mode and with eager attention; the given one stays as it is."""
    if isinstance(model_or_config, nn.Module):
        tensors = [*model_or_config.parameters(), *model_or_config.buffers()]
        # What deepcopy finds in its memo it takes for copied already: the structure without the weights.
        memo = {id(tensor): _empty_like(tensor) for tensor in tensors}
        model = copy.deepcopy(model_or_config, memo)
    else:
        with torch.device("meta"):
            model = AutoModelForSemanticSegmentation.from_config(copy.deepcopy(model_or_config))
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")
    return model.eval()


def _empty_like(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _run(model: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    channels = getattr(getattr(model, "config", None), "num_channels", 3)
    try:
        output = model(torch.empty(1, channels, *size, dtype=dtype, device="meta"))
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            "an `image_size` that the model can shrink", f"{list(size)} ({reason})", "enlarge it"
        ) from error
    return getattr(output, "logits", output)


def _check_size(image_size: Sequence[int]) -> tuple[int, int]:
    if len(image_size) != 2 or min(image_size) < 1:
        raise ConfigError("`image_size` as height and width", f"{list(image_size)}", "give two whole numbers above 0")
    return int(image_size[0]), int(image_size[1])


def _part(child: str) -> str:
    return "encoder" if child == "segformer" else child
