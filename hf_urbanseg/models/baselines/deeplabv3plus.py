"""DeepLabV3+: dilated convolutions of several rates on the last feature map, refined by the first."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_urbanseg.models.baselines.resnet import DilatedResNet, DilatedResNetConfig
from hf_urbanseg.models.baselines.segmenter import ConvBlock, Segmenter


class DeepLabV3PlusConfig(DilatedResNetConfig):
    """`DilatedResNetConfig` with the head's dilations and the width of its low-level branch.

    Args:
        head_dilations (defaults to 1, 12, 24, 36): of the parallel convolutions; 1 is a 1x1 convolution.
        low_level_channels (`int`, *optional*): None is 3/16 of the first stage's, which is 48 for ResNet-50 and
            ResNet-101 and 12 for ResNet-18, as in MMSegmentation.
    """

    model_type = "urbanseg_deeplabv3plus"
    head_dilations: list[int] | tuple[int, ...] = (1, 12, 24, 36)
    low_level_channels: int | None = None


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise 3x3 convolution without bias, padded to keep height and width.

    At dilation 36 four fifths of what the kernel meets around a 46x46 map is padding, and oneDNN computes it. Training
    in fp32 on a CPU sums shifted maps instead; everything else is PyTorch's own convolution.

    Shape:
        x: (N, C, H, W). returns: the same.
    """

    def __init__(self, channels: int, dilation: int):
        super().__init__(channels, channels, 3, 1, dilation, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        dilation = self.dilation[0]
        plain = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)
        if self.training and dilation > 1 and plain and not torch.is_autocast_enabled("cpu"):
            return _ShiftedSum.apply(x, self.weight, dilation)
        return super().forward(x)


class _ShiftedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _sum_shifted(x, weight, dilation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad_weight = torch.zeros_like(weight)
        for row, column, there, here in _shifts(x.shape[2:], ctx.dilation):
            grad_weight[:, 0, row, column] = (x[there] * grad[here]).sum((0, 2, 3))
        return _sum_shifted(grad, weight.flip(2, 3), ctx.dilation), grad_weight, None


def _sum_shifted(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    factors = weight[:, 0, :, :, None, None]
    total = torch.zeros_like(x)
    for row, column, there, here in _shifts(x.shape[2:], dilation):
        total[here].addcmul_(x[there], factors[:, row, column])
    return total


def _shifts(size: torch.Size, dilation: int) -> Iterator[tuple[int, int, tuple, tuple]]:
    """Per weight that meets the map: its row, its column, the part of the input it reads and where that goes."""
    for row in range(3):
        for column in range(3):
            shifts = (row - 1) * dilation, (column - 1) * dilation
            if all(abs(shift) < side for shift, side in zip(shifts, size, strict=True)):
                there = (..., *(slice(max(0, s), n + min(0, s)) for s, n in zip(shifts, size, strict=True)))
                here = (..., *(slice(max(0, -s), n + min(0, -s)) for s, n in zip(shifts, size, strict=True)))
                yield row, column, there, here


class DepthwiseSeparableBlock(nn.Sequential):
    """A depthwise 3x3 and a 1x1 convolution, each with BatchNorm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1):
        depthwise = OrderedDict(conv=DepthwiseConv2d(in_channels, dilation), batch_norm=nn.BatchNorm2d(in_channels))
        depthwise["activation"] = nn.ReLU(inplace=True)
        super().__init__(nn.Sequential(depthwise), ConvBlock(in_channels, out_channels, 1))


class DeepLabV3PlusHead(nn.Module):
    """Atrous spatial pyramid pooling, upsampling to the first stage, two separable convolutions, a classifier.

    Shape:
        features: maps of the backbone, of which the first (N, C_0, h, w) and the last are read.
        returns: (N, num_labels, h, w).

    Source: Chen et al. 2018 as MMSegmentation's `DepthwiseSeparableASPPHead`; dropout leaves out whole channels.
    """

    def __init__(self, config: DeepLabV3PlusConfig):
        super().__init__()
        first, last, width = config.hidden_sizes[0], config.hidden_sizes[-1], config.head_width
        low_level = config.low_level_channels or first * 3 // 16
        self.image_pool = ConvBlock(last, width, 1)
        self.aspp = nn.ModuleList(
            ConvBlock(last, width, 1) if dilation == 1 else DepthwiseSeparableBlock(last, width, dilation)
            for dilation in config.head_dilations
        )
        self.bottleneck = ConvBlock((1 + len(self.aspp)) * width, width, 3)
        self.low_level = ConvBlock(first, low_level, 1)
        self.refinement = nn.Sequential(
            DepthwiseSeparableBlock(width + low_level, width), DepthwiseSeparableBlock(width, width)
        )
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = nn.Conv2d(width, config.num_labels, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        first, last = features[0], features[-1]
        pooled = self.image_pool(last.mean((2, 3), keepdim=True)).expand(-1, -1, *last.shape[2:])
        hidden = self.bottleneck(torch.cat([pooled, *(branch(last) for branch in self.aspp)], dim=1))
        hidden = F.interpolate(hidden, first.shape[2:], mode="bilinear", align_corners=False)
        hidden = self.refinement(torch.cat([hidden, self.low_level(first)], dim=1))
        return self.classifier(self.dropout(hidden))


class DeepLabV3PlusForSemanticSegmentation(Segmenter):
    """DeepLabV3+ on a dilated ResNet; logits at stride 4. See `Segmenter`."""

    config: DeepLabV3PlusConfig

    def __init__(self, config: DeepLabV3PlusConfig):
        super().__init__(config, DilatedResNet(config), DeepLabV3PlusHead(config), config.hidden_sizes)
