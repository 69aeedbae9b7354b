"""How SegFormer's weights lie in memory: other strides, the same numbers."""

import torch
from torch import nn


def lay_out_depthwise(model: nn.Module) -> None:
    """Marks the depthwise 3x3 convolutions of `model` as channels-last, which they then compute for single images, too.

    SegFormer's tokens are images in channels-last memory. Of a batch torch sees that by itself; of one image the
    strides leave it open, and the convolution copies its input and runs ten times as long (torch 2.13, two CPU cores).
    For a weight of one input channel both layouts are the same bytes, so files and other code see no difference.
    """
    for name, module in model.named_modules():
        if name.endswith("dwconv") and isinstance(module, nn.Conv2d):  # in a class that transformers has renamed
            module.to(memory_format=torch.channels_last)
