"""ResNet with the dilations that segmentation heads expect, of transformers' own parts and with the Hub's weights."""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import ResNetBackbone, ResNetConfig

from hf_urbanseg.models.baselines.segmenter import ConvBlock


class DilatedResNetConfig(ResNetConfig):
    """`ResNetConfig` with the fields of the heads on a dilated ResNet.

    Args:
        deep_stem (`bool`, defaults to False): three 3x3 convolutions in front ("v1c", as in the code) in place of the
            7x7 of the Hub's ResNets.
        head_channels (`int`, *optional*): width of the decode head; None is a quarter of the last stage's, which is 512
            for ResNet-50 and ResNet-101 and 128 for ResNet-18, as in MMSegmentation.
        classifier_dropout_prob (`float`, defaults to 0.1): of the decode head, by channels.
    """

    deep_stem: bool = False
    head_channels: int | None = None
    classifier_dropout_prob: float = 0.1
    semantic_loss_ignore_index: int = 255

    @property
    def head_width(self) -> int:
        return self.head_channels or self.hidden_sizes[-1] // 4


class DilatedResNet(ResNetBackbone):
    """transformers' ResNet whose stages have strides 1, 2, 1, 1 and dilations 1, 1, 2, 4: output stride 8.

    Strides and dilations are in no tensor, so that the weights of `microsoft/resnet-18`, -50 and -101 fit as they are.
    The first block of a dilated stage has half its dilation, and a basic block's second convolution has none.

    Shape:
        pixel_values: (N, 3, H, W). returns: four maps, the largest first: (N, C_i, h_i, w_i) at strides 4, 8, 8, 8.

    Source: MMSegmentation's `ResNetV1c` with `contract_dilation=True` (Chen et al. 2017), as in the report's code. Its
        ImageNet weights belong to the deep stem and aren't on the Hub in transformers' layout; with the Hub's weights
        the stem is the plain 7x7 convolution. Everything behind it is the same.
    """

    def __init__(self, config: DilatedResNetConfig):
        super().__init__(config)
        if config.deep_stem:
            self.embedder.embedder = _build_deep_stem(config.num_channels, config.embedding_size)
        for stage, dilation in zip(self.encoder.stages[-2:], (2, 4), strict=True):
            for index, block in enumerate(stage.layers):
                for conv in (block.layer[0].convolution, block.layer[1].convolution, block.layer[-1].convolution):
                    conv.stride = (1, 1)
                _dilate(_find_spatial(block), dilation // 2 if index == 0 else dilation)
                if index == 0:
                    block.shortcut.convolution.stride = (1, 1)
        self.post_init()

    def forward(self, pixel_values: Tensor) -> Sequence[Tensor]:
        return self.encoder(self.embedder(pixel_values), output_hidden_states=True).hidden_states[1:]


def _find_spatial(block: nn.Module) -> nn.Conv2d:
    """The 3x3 convolution of a block that downsamples elsewhere: a basic block's first, a bottleneck's second."""
    return next(layer.convolution for layer in block.layer if layer.convolution.kernel_size == (3, 3))


def _dilate(conv: nn.Conv2d, dilation: int) -> None:
    conv.dilation = conv.padding = (dilation, dilation)


def _build_deep_stem(in_channels: int, width: int) -> nn.Sequential:
    half = width // 2
    return nn.Sequential(ConvBlock(in_channels, half, 3, stride=2), ConvBlock(half, half, 3), ConvBlock(half, width, 3))
