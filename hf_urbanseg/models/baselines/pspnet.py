"""PSPNet: average-pooled views of the whole image beside the last feature map."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_urbanseg.models.baselines.resnet import DilatedResNet, DilatedResNetConfig
from hf_urbanseg.models.baselines.segmenter import ConvBlock, Segmenter


class PSPNetConfig(DilatedResNetConfig):
    """`DilatedResNetConfig` with `pool_scales` (defaults to 1, 2, 3, 6): sides of the pooled grids."""

    model_type = "urbanseg_pspnet"
    pool_scales: list[int] | tuple[int, ...] = (1, 2, 3, 6)


class PSPHead(nn.Module):
    """Pyramid pooling, one 3x3 convolution, a classifier.

    Shape:
        features: maps of the backbone, of which the last is read, (N, C, h, w). returns: (N, num_labels, h, w).

    Source: Zhao et al. 2017 as MMSegmentation's `PSPHead`; dropout leaves out whole channels.
    """

    def __init__(self, config: PSPNetConfig):
        super().__init__()
        in_channels, width = config.hidden_sizes[-1], config.head_width
        self.scales = tuple(config.pool_scales)
        self.pools = nn.ModuleList(ConvBlock(in_channels, width, 1) for _ in self.scales)
        self.bottleneck = ConvBlock(in_channels + len(self.scales) * width, width, 3)
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = nn.Conv2d(width, config.num_labels, kernel_size=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        last = features[-1]
        pairs = zip(self.scales, self.pools, strict=True)
        pooled = (block(F.adaptive_avg_pool2d(last, scale)) for scale, block in pairs)
        pooled = (F.interpolate(one, last.shape[2:], mode="bilinear", align_corners=False) for one in pooled)
        hidden = self.bottleneck(torch.cat([last, *pooled], dim=1))
        return self.classifier(self.dropout(hidden))


class PSPNetForSemanticSegmentation(Segmenter):
    """PSPNet on a dilated ResNet; logits at stride 8. See `Segmenter`."""

    config: PSPNetConfig

    def __init__(self, config: PSPNetConfig):
        super().__init__(config, DilatedResNet(config), PSPHead(config), config.hidden_sizes)
