"""The report's baseline: a plain convolutional encoder and a decoder that enlarges class scores or unpools features."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers import initialization as init

from hf_urbanseg.models.baselines.segmenter import Segmenter

_UPSAMPLINGS = ("transposed", "unpooling")


class EncoderDecoderConfig(PretrainedConfig):
    """What the baseline is made of.

    Args:
        hidden_sizes (defaults to 64, 128, 256, 512): widths of the encoder's stages; the first has two convolutions.
        bottleneck_channels (`int`, defaults to 2048): width of the two convolutions behind the encoder.
        upsampling (`str`, defaults to "transposed"): "transposed" (the report's code) or "unpooling" (its text).
        classifier_dropout_prob (`float`, defaults to 0.5): behind the two, by channels.
    """

    model_type = "urbanseg_encoder_decoder"
    num_channels: int = 3
    hidden_sizes: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    bottleneck_channels: int = 2048
    upsampling: str = "transposed"
    classifier_dropout_prob: float = 0.5
    semantic_loss_ignore_index: int = 255

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.upsampling not in _UPSAMPLINGS:
            raise ValueError(f"`upsampling` {self.upsampling} is not one of {', '.join(_UPSAMPLINGS)}")


class PlainEncoder(nn.Module):
    """3x3 convolutions with ReLU, and between the stages 2x2 max-pooling that rounds sizes up.

    Shape:
        pixel_values: (N, 3, H, W). returns: the map of each stage, not pooled yet, (N, C_i, ceil(H / 2^i), ...).
    """

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        widths = [config.num_channels, config.hidden_sizes[0], *config.hidden_sizes]
        convs = [nn.Conv2d(one, other, 3, padding=1) for one, other in pairwise(widths)]
        self.stages = nn.ModuleList([nn.ModuleList(convs[:2]), *(nn.ModuleList([conv]) for conv in convs[2:])])

    def forward(self, pixel_values: Tensor) -> Sequence[Tensor]:
        maps: list[Tensor] = []
        for stage in self.stages:
            hidden = _pool(maps[-1]) if maps else pixel_values
            for conv in stage:
                hidden = conv(hidden).relu()
            maps.append(hidden)
        return maps


class TransposedDecodeHead(nn.Module):
    """Two wide convolutions, a classifier, and three transposed convolutions of its scores.

    Shape:
        features: maps of the encoder, of which the last is read. returns: (N, num_labels, h, w), about half the input's
            size; the model enlarges it (bilinear, corners aligned).

    Source: the report's code.
    """

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        width, classes = config.bottleneck_channels, config.num_labels
        self.convs = nn.ModuleList([nn.Conv2d(config.hidden_sizes[-1], width, 3), nn.Conv2d(width, width, 1)])
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = nn.Conv2d(width, classes, 1)
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(classes, classes, 4, stride=2, bias=False, **options)
            for options in ({"output_padding": 1}, {}, {"padding": 1})
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        hidden = _pool(features[-1])
        for conv in self.convs:
            hidden = self.dropout(conv(hidden).relu())
        hidden = self.classifier(hidden)
        for upsampling in self.upsamplings:
            hidden = upsampling(hidden)
        return hidden


class UnpoolingDecodeHead(nn.Module):
    """Two wide convolutions, then max-unpooling back through the encoder's pools, a 3x3 convolution behind each.

    Shape:
        features: maps of the encoder. returns: (N, num_labels, H, W).

    Source: the report's text says max-unpooling and no more; this is it as in Badrinarayanan et al. 2017 (SegNet).
    """

    def __init__(self, config: EncoderDecoderConfig):
        super().__init__()
        sizes, width = list(config.hidden_sizes), config.bottleneck_channels
        self.convs = nn.ModuleList([nn.Conv2d(sizes[-1], width, 3, padding=1), nn.Conv2d(width, width, 1)])
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.projection = nn.Conv2d(width, sizes[-1], 1)
        pairs = list(pairwise(sizes[::-1]))
        self.refinements = nn.ModuleList(nn.Conv2d(deep, wide, 3, padding=1) for deep, wide in pairs)
        self.classifier = nn.Conv2d(sizes[0], config.num_labels, 3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        hidden = _pool(features[-1])
        for conv in self.convs:
            hidden = self.dropout(conv(hidden).relu())
        hidden = self.projection(hidden).relu()
        for one, refinement in zip(reversed(features), [*self.refinements, None], strict=True):
            # The pools' indices are cheaper to find again than to keep.
            indices = F.max_pool2d(one.detach(), 2, ceil_mode=True, return_indices=True)[1]
            hidden = F.max_unpool2d(hidden, indices, 2, output_size=one.shape[2:])
            hidden = self.classifier(hidden) if refinement is None else refinement(hidden).relu()
        return hidden


class EncoderDecoderForSemanticSegmentation(Segmenter):
    """The report's baseline; logits at the input's resolution. See `Segmenter`."""

    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig):
        transposed = config.upsampling == "transposed"
        head = TransposedDecodeHead if transposed else UnpoolingDecodeHead
        super().__init__(config, PlainEncoder(config), head(config), config.hidden_sizes)
        if transposed:
            self.smallest_side = 33  # for the unpadded 3x3 convolution behind four pools

    def _decode(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        logits = self.decode_head(features)
        if logits.shape[2:] == size:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=True)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.ConvTranspose2d):
            bound = (module.weight[0].numel()) ** -0.5  # as torch itself
            init.uniform_(module.weight, -bound, bound)
        else:
            super()._init_weights(module)


def _pool(hidden: Tensor) -> Tensor:
    return F.max_pool2d(hidden, 2, ceil_mode=True)
