"""A small FCN head on one encoder stage that helps training and is never exported."""

from torch import Tensor, nn
from transformers import SegformerForSemanticSegmentation

from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.baselines.segmenter import Segmenter
from hf_urbanseg.models.training_branch import TrainingBranch, attach_branch, find_stages


class AuxiliaryHead(TrainingBranch):
    """FCN head: 3x3 convolution without bias, BatchNorm, ReLU, channel dropout, 1x1 convolution.

    Shape:
        feature_map: (N, in_channels, h, w) float. returns: (N, num_labels, h, w) float, unnormalised.

    Source: Long et al. 2015 as MMSegmentation's `FCNHead(num_convs=1, concat_input=False)`, with its initial weights:
        Kaiming normal (fan out, ReLU) for the 3x3, normal with std 0.01 and zero bias for the 1x1. Like there, dropout
        is `Dropout2d`.
    """

    name, field = "auxiliary_head", "auxiliary_logits"

    def __init__(self, in_channels: int, num_labels: int, channels: int = 256, dropout: float = 0.1, stage: int = 3):
        super().__init__(stage)
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=3, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(channels)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_labels, kernel_size=1)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, feature_map: Tensor) -> Tensor:
        hidden = self.activation(self.batch_norm(self.conv(feature_map)))
        return self.classifier(self.dropout(hidden))


def attach_auxiliary_head(
    model: SegformerForSemanticSegmentation | Segmenter, stage: int = 3, channels: int = 256, dropout: float = 0.1
) -> None:
    """Adds `model.auxiliary_head`; in training mode, outputs then have `auxiliary_logits` too. See `attach_branch`.

    Args:
        stage: Encoder stage, from 1; of a UNet, the deepest map is 1 and those of the upward steps follow. The report's
            code uses SegFormer's third (stride 16); its text says "second intermediate layer", which is 2 (stride 8).

    Raises:
        ModelError: No such stage.
    """
    _, widths = find_stages(model)
    if not 1 <= stage <= len(widths):
        raise ModelError(f"an encoder stage of 1..{len(widths)}", f"{stage}", "choose one of them")
    attach_branch(model, AuxiliaryHead(widths[stage - 1], model.config.num_labels, channels, dropout, stage))
