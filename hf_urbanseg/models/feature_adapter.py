"""A 1x1 convolution that makes a student's last feature map as wide as its teacher's."""

from torch import Tensor, nn
from transformers import SegformerForSemanticSegmentation

from hf_urbanseg.models.baselines.segmenter import Segmenter
from hf_urbanseg.models.training_branch import TrainingBranch, attach_branch, find_stages


class FeatureAdapter(TrainingBranch):
    """Shape: feature_map: (N, in_channels, h, w) float. returns: (N, channels, h, w).

    Source: Shu et al. 2021, where the student's channels are another number than the teacher's.
    """

    name, field = "feature_adapter", "adapted_features"

    def __init__(self, in_channels: int, channels: int, stage: int):
        super().__init__(stage)
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=1)

    def forward(self, feature_map: Tensor) -> Tensor:
        return self.conv(feature_map)


def attach_feature_adapter(model: SegformerForSemanticSegmentation | Segmenter, channels: int) -> None:
    """Adds `model.feature_adapter` on the deepest map; outputs then have `adapted_features`."""
    _, widths = find_stages(model)
    stage = range(len(widths))[getattr(model, "deepest_tap", -1)]
    attach_branch(model, FeatureAdapter(widths[stage], channels, stage + 1))
