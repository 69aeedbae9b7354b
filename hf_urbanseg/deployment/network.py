"""A model as other runtimes get it: constants in place of what training computes anew, and operators that all have."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from hf_urbanseg.deployment.encoder import apply_exported_encoder
from hf_urbanseg.models.decode_head import FastSegformerDecodeHead, apply_fast_decode_head


class ComposedDecodeHead(nn.Module):
    """`FastSegformerDecodeHead` of a trained model with its matrices multiplied out, BatchNorm included.

    With the products in the graph runtimes multiply at every image, and NNCF finds no weights to quantise.

    Shape:
        stages: (N, C_i, h_i, w_i) each, the largest map first. returns: logits (N, num_labels, h_0, w_0).
    """

    def __init__(self, head: FastSegformerDecodeHead, weights: Sequence[Tensor], bias: Tensor):
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(weight.shape[1], len(weight), 1, bias=False) for weight in weights)
        for layer, weight in zip(self.maps, weights, strict=True):
            layer.weight = nn.Parameter(weight[:, :, None, None].contiguous())
        self.maps[0].bias = nn.Parameter(bias)
        self.activation, self.classifier = head.activation, head.classifier

    def forward(self, stages: Sequence[Tensor], **kwargs) -> Tensor:
        total = self.maps[0](stages[0])
        for layer, stage in zip(self.maps[1:], stages[1:], strict=True):
            total = total + F.interpolate(layer(stage), total.shape[2:], mode="bilinear", align_corners=False)
        return self.classifier(self.activation(total))


class LogitsNetwork(nn.Module):
    """Normalised pixels -> logits as the model gives them.

    Args:
        model: In evaluation mode; stays as it is.
        dtype: Of weights and activations; what goes in and comes out is fp32.

    Shape:
        pixel_values: (N, 3, H, W) float32. returns: (N, num_labels, h, w) float32.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype = torch.float32):
        super().__init__()
        model = copy.deepcopy(model)
        if apply_fast_decode_head(model) and (composed := model.decode_head.compose()):
            model.decode_head = ComposedDecodeHead(model.decode_head, *composed)
        apply_exported_encoder(model)
        self.model, self.dtype = model.to(dtype), dtype
        self.eval().requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values.to(self.dtype)).logits.float()


class LabelMapNetwork(nn.Module):
    """An image's bytes -> the class of each of its pixels: resizing, normalising, upsampling and argmax inside.

    Shape:
        image: (N, H, W, 3) uint8 RGB. returns: (N, H, W) uint8 train ids.
    """

    def __init__(self, logits: LogitsNetwork, image_processor):
        super().__init__()
        self.logits, self.size = logits, None
        if image_processor.do_resize:
            self.size = image_processor.size["height"], image_processor.size["width"]
        ones = torch.ones(3, 1, 1)
        scale = ones * (image_processor.rescale_factor if image_processor.do_rescale else 1)
        mean, std = torch.zeros(3, 1, 1), ones
        if image_processor.do_normalize:
            statistics = image_processor.image_mean, image_processor.image_std
            mean, std = (torch.tensor(one)[:, None, None] for one in statistics)
        self.register_buffer("scale", scale / std)
        self.register_buffer("shift", -mean / std)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[1], image.shape[2]
        pixels = image.permute(0, 3, 1, 2).float()
        if self.size is not None:
            # As Pillow, each side's result rounded to bytes. Its version 13 takes the height first where that shrinks,
            # by which a byte may differ by 1.
            pixels = torch.floor(pixels @ _resize_matrix(width, self.size[1]).T + 0.5)
            pixels = torch.floor(_resize_matrix(height, self.size[0]) @ pixels + 0.5)
        logits = self.logits(pixels * self.scale + self.shift)
        logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        return logits.argmax(1).to(torch.uint8)


def _resize_matrix(source, target: int) -> Tensor:
    """(target, source) weights of Pillow's bilinear filter, which widens where it makes smaller.

    An operator with antialiasing has no counterpart in all runtimes; the length `source` may be unknown until it runs.
    """
    positions = torch.arange(source).float() + 0.5
    scale = (positions[-1] + 0.5) / target
    centers = (torch.arange(target).float()[:, None] + 0.5) * scale
    weights = F.relu(1 - (positions - centers).abs() / scale.clamp(min=1))
    return weights / weights.sum(1, keepdim=True)


class KnownOperators(TorchFunctionMode):
    """Writes pools of a number of bins, while traced, as products that ONNX has for any size."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.adaptive_avg_pool2d:
            maps, bins = args
            return _pool_matrix(maps.shape[2], bins) @ maps @ _pool_matrix(maps.shape[3], bins).T
        return function(*args, **kwargs or {})


def _pool_matrix(source, bins: int) -> Tensor:
    """(bins, source) weights of torch's adaptive average: bins from floor(i h / n) to ceil((i + 1) h / n)."""
    pixels, index = torch.arange(source), torch.arange(bins)[:, None]
    length = pixels[-1] + 1
    inside = (pixels >= index * length // bins) & (pixels < ((index + 1) * length + bins - 1) // bins)
    return inside.float() / inside.float().sum(1, keepdim=True)
