"""SegFormer with MMSegmentation's decode head, which no weights of the Hub's head compute (see convert/decoder.py).

Plain transformers refuses its folders: the Auto classes and pipelines because they don't know the type,
`SegformerForSemanticSegmentation` because the projections have the names of its files (`linear_c`) and not the shapes,
(D, C_i, 1, 1) instead of (D, C_i). So does this model with folders of the Hub's. Names of our own would be made anew,
at random, with no more than a warning.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel
from transformers.models.segformer.modeling_segformer import SegformerPreTrainedModel


class SegformerConvDecoderConfig(SegformerConfig):
    """`SegformerConfig` under a type of its own; here `layer_norm_eps` is what every LayerNorm gets."""

    model_type = "segformer_conv_decoder"


class SegformerConvProjection(nn.Module):
    """1x1 convolution, BatchNorm and ReLU: one stage at the decoder's width."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(width)

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.batch_norm(self.proj(hidden_state)).relu()


class SegformerConvDecodeHead(nn.Module):
    """MMSegmentation's `SegformerHead`: a non-linear projection per stage, upsampling, fusion, classifier.

    Args:
        config (`SegformerConvDecoderConfig`): widths of the stages and of the decoder, number of classes, dropout.

    Shape:
        encoder_hidden_states: (N, C_i, h_i, w_i) each, the largest map first.
        returns: logits (N, num_labels, h_0, w_0).

    Source: MMSegmentation 1.2.2, `mmseg/models/decode_heads/segformer_head.py`. Stages are fused in their order there,
    in the reverse order by the Hub's head; dropout leaves out whole channels.
    """

    def __init__(self, config: SegformerConvDecoderConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.linear_c = nn.ModuleList(SegformerConvProjection(channels, width) for channels in config.hidden_sizes)
        self.linear_fuse = nn.Conv2d(width * len(config.hidden_sizes), width, kernel_size=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(config.classifier_dropout_prob)
        self.classifier = nn.Conv2d(width, config.num_labels, kernel_size=1)

    def forward(self, encoder_hidden_states: Sequence[Tensor], **kwargs) -> Tensor:
        size = encoder_hidden_states[0].shape[2:]
        projected = (projection(one) for projection, one in zip(self.linear_c, encoder_hidden_states, strict=True))
        maps = [F.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in projected]
        hidden_states = self.batch_norm(self.linear_fuse(torch.cat(maps, dim=1))).relu()
        return self.classifier(self.dropout(hidden_states))


class SegformerConvDecoderForSemanticSegmentation(SegformerForSemanticSegmentation):
    """transformers' SegFormer in encoder, outputs and loss, with `SegformerConvDecodeHead`.

    Its encoder computes LayerNorms with `config.layer_norm_eps`, 1e-6 as in MMSegmentation; transformers' own has 1e-5
    whatever the configuration says.
    """

    config: SegformerConvDecoderConfig

    def __init__(self, config: SegformerConvDecoderConfig):
        SegformerPreTrainedModel.__init__(self, config)  # the direct parent's would build the Hub's head
        self.segformer = SegformerModel(config)
        for module in self.segformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config.layer_norm_eps
        self.decode_head = SegformerConvDecodeHead(config)
        self.post_init()
