"""UNet: five stages down, four up, each joined with the map it came from."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig

from hf_urbanseg.models.baselines.segmenter import ConvBlock, Segmenter


class UNetConfig(PretrainedConfig):
    """What a UNet is made of.

    Args:
        hidden_sizes (defaults to 64, 128, 256, 512, 1024): widths from the input's resolution down.
        classifier_dropout_prob (`float`, defaults to 0.1): of the decode head, by channels.
    """

    model_type = "urbanseg_unet"
    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512, 1024)
    classifier_dropout_prob: float = 0.1
    semantic_loss_ignore_index: int = 255


class UNet(nn.Module):
    """Encoder and decoder.

    The 1x1 convolution of an upward step comes before its upsampling, with which it commutes, at a quarter of the cost;
    its BatchNorm comes behind, as in the original. What is upsampled takes the size of the map it is joined with, so
    that sides need not be multiples of 16.

    Shape:
        pixel_values: (N, 3, H, W). returns: the deepest map and those of the upward steps, (N, C_i, h_i, w_i), the
            smallest first; the last has the input's size.

    Source: Ronneberger et al. 2015 as MMSegmentation's `UNet` ("s5-d16", `InterpConv`).
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        widths = list(config.hidden_sizes)
        pairs = list(pairwise(widths))
        steps = [(config.num_channels, widths[0]), *pairs]
        self.stages = nn.ModuleList(_build_pair(one, other) for one, other in steps)
        self.projections = nn.ModuleList(nn.Conv2d(deep, wide, 1, bias=False) for wide, deep in reversed(pairs))
        self.norms = nn.ModuleList(nn.BatchNorm2d(wide) for wide, _ in reversed(pairs))
        self.fusions = nn.ModuleList(_build_pair(2 * wide, wide) for wide, _ in reversed(pairs))

    def forward(self, pixel_values: Tensor) -> Sequence[Tensor]:
        hidden, skipped = pixel_values, []
        for stage in self.stages:
            hidden = stage(F.max_pool2d(hidden, 2) if skipped else hidden)
            skipped.append(hidden)
        maps = [skipped.pop()]
        for projection, norm, fusion in zip(self.projections, self.norms, self.fusions, strict=True):
            skip = skipped.pop()
            hidden = F.interpolate(projection(maps[-1]), skip.shape[2:], mode="bilinear", align_corners=False)
            maps.append(fusion(torch.cat([skip, norm(hidden).relu()], dim=1)))
        return maps


class FCNHead(nn.Module):
    """One 3x3 convolution and a classifier on the last map.

    Shape:
        features: maps, of which the last is read, (N, C, h, w). returns: (N, num_labels, h, w).
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        channels = config.hidden_sizes[0]
        self.block = ConvBlock(channels, channels, 3)
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = nn.Conv2d(channels, config.num_labels, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.block(features[-1])))


class UNetForSemanticSegmentation(Segmenter):
    """UNet with an FCN head; logits at the input's resolution. See `Segmenter`."""

    config: UNetConfig
    deepest_tap = 0
    smallest_side = 16

    def __init__(self, config: UNetConfig):
        super().__init__(config, UNet(config), FCNHead(config), config.hidden_sizes[::-1])


def _build_pair(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ConvBlock(in_channels, out_channels, 3), ConvBlock(out_channels, out_channels, 3))
