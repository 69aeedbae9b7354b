"""A network for RGB that takes further channels, too."""

import logging

import torch
from torch import nn
from transformers import PreTrainedModel, SegformerForSemanticSegmentation

from hf_urbanseg.errors import ModelError

logger = logging.getLogger(__name__)


def widen_input(model: PreTrainedModel, channels: int) -> None:
    """Gives a SegFormer's first convolution further input channels, in place.

    Their weights are zero, so that the network computes what it did whatever they hold, and learns what they are good
    for. A model that takes so many already stays.

    Raises:
        ModelError: Another network, or one of neither three nor so many channels.
    """
    known = getattr(model.config, "num_channels", 3)
    if known == channels:
        return
    if known != 3 or not isinstance(model, SegformerForSemanticSegmentation):
        expected = f"a SegFormer of {' or '.join(map(str, sorted({3, channels})))} input channels"
        found = f"a `{model.config.model_type}` of {known}"
        raise ModelError(expected, found, "choose another, or other `--channels`")
    embedding = model.segformer.stages[0].patch_embeddings
    old = embedding.proj
    embedding.proj = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    with torch.no_grad():
        embedding.proj.weight.zero_()
        embedding.proj.weight[:, :known] = old.weight
        embedding.proj.bias.copy_(old.bias)
    model.config.num_channels = channels
    logger.info("%d channels: those behind red, green and blue start with weights of zero", channels)
