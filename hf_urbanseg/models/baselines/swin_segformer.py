"""Swin Transformer with SegFormer's decode head."""

from torch import nn
from transformers import SegformerConfig, SwinBackbone, SwinConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from hf_urbanseg.models.baselines.segmenter import Segmenter


class SwinSegformerConfig(SwinConfig):
    """`SwinConfig` with the head's width (`decoder_hidden_size`, defaults to 512) and dropout."""

    model_type = "urbanseg_swin_segformer"
    decoder_hidden_size: int = 512
    classifier_dropout_prob: float = 0.1
    semantic_loss_ignore_index: int = 255

    def __post_init__(self, **kwargs):
        if not kwargs.get("out_features"):
            kwargs |= {"out_features": [f"stage{number}" for number in range(1, len(self.depths) + 1)]}
            kwargs.pop("out_indices", None)
        super().__post_init__(**kwargs)


class Swin(SwinBackbone):
    """`SwinBackbone` that returns its maps alone, (N, C_i, h_i, w_i) at strides 4, 8, 16, 32.

    Without the LayerNorm behind all stages, which only classification reads: DDP asks a gradient of every parameter.
    """

    def __init__(self, config: SwinSegformerConfig):
        super().__init__(config)
        self.swin.layernorm = nn.Identity()

    def forward(self, pixel_values):
        return super().forward(pixel_values).feature_maps


class SwinSegformerForSemanticSegmentation(Segmenter):
    """transformers' Swin and the decode head of its SegFormer; logits at stride 4. See `Segmenter`.

    Source: Liu et al. 2021 and Xie et al. 2021. The report's head, MMSegmentation's, has a BatchNorm and a ReLU behind
        each projection; transformers' has none.
    """

    config: SwinSegformerConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: SwinSegformerConfig):
        widths = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        shared = ("decoder_hidden_size", "classifier_dropout_prob", "num_labels")
        fields = {name: getattr(config, name) for name in shared}
        head = SegformerConfig(num_encoder_blocks=len(widths), hidden_sizes=widths, **fields)
        super().__init__(config, Swin(config), SegformerDecodeHead(head), widths)
