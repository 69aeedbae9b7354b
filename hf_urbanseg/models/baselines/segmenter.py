"""What the baselines have in common: an encoder, a decode head, and what the rest of the package asks of a model."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput

from hf_urbanseg.errors import ModelError


class ConvBlock(nn.Sequential):
    """Convolution without bias, BatchNorm, ReLU; what is padded keeps height and width at stride 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.batch_norm = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU(inplace=True)


class Segmenter(PreTrainedModel):
    """A network of `backbone` and `decode_head`, used as transformers' own segmentation models are.

    Each feature map of the backbone, `feature_channels` wide, passes one of `taps`, which change nothing: an auxiliary
    head is hooked to one of them.

    Shape:
        pixel_values: (N, 3, H, W) float. labels: (N, H, W) int64 train ids or `semantic_loss_ignore_index`.
        logits: (N, num_labels, h, w) float, unnormalised, at the head's own resolution; resized to the labels' for the
            loss (bilinear, corners free).
    """

    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    smallest_side = 1
    """Of an input, in pixels."""
    deepest_tap = -1
    """Index of the map with the fewest places."""

    def __init__(
        self, config: PretrainedConfig, backbone: nn.Module, decode_head: nn.Module, feature_channels: Sequence[int]
    ):
        super().__init__(config)
        self.backbone, self.decode_head = backbone, decode_head
        self.feature_channels = tuple(feature_channels)
        self.taps = nn.ModuleList(nn.Identity() for _ in feature_channels)
        self.post_init()

    def _decode(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        return self.decode_head(features)

    def _init_weights(self, module: nn.Module) -> None:
        """As MMSegmentation: Kaiming normal (fan out, ReLU), and the classifier normal with std 0.01."""
        if module is getattr(self.decode_head, "classifier", None):
            init.normal_(module.weight, std=0.01)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SemanticSegmenterOutput | tuple:
        size = tuple(pixel_values.shape[2:])
        if min(size) < self.smallest_side:
            fix = "take larger images, crops or scales"
            raise ModelError(f"inputs of {self.smallest_side} pixels a side at least", f"{size[0]}x{size[1]}", fix)
        features = [tap(one) for tap, one in zip(self.taps, self.backbone(pixel_values), strict=True)]
        logits = self._decode(features, size)
        loss = None
        if labels is not None:
            full = F.interpolate(logits.float(), labels.shape[1:], mode="bilinear", align_corners=False)
            loss = F.cross_entropy(full, labels, ignore_index=self.config.semantic_loss_ignore_index)
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        outputs = SemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=tuple(features) if asked else None)
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if use_dict else outputs.to_tuple()
