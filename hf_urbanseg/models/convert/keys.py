"""Which tensors of NVlabs' and MMSegmentation's SegFormer files are which tensors of the Hub's.

One table per layout, read in both directions, so that a file converted and converted back is the same file.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.loading import find_difference

Layout = Literal["nvlabs", "mmsegmentation"]
LAYOUTS: dict[str, str] = {"nvlabs": "NVlabs", "mmsegmentation": "MMSegmentation"}
"""Layouts and how they are called in sentences."""


class Rule(NamedTuple):
    """One tensor of a file and the Hub tensors it is made of, stacked along the output channels."""

    file: str
    hub: tuple[str, ...]
    as_conv: bool = False
    """The file holds a 1x1 convolution, (out, in, 1, 1), where the Hub has a linear layer, (out, in)."""

    def to_file(self, hub: Mapping[str, Tensor]) -> Tensor:
        tensor = torch.cat([hub[name] for name in self.hub]) if len(self.hub) > 1 else hub[self.hub[0]]
        return tensor[..., None, None] if self.as_conv else tensor

    def to_hub(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        tensor = tensor.flatten(1) if self.as_conv else tensor
        parts = tensor.chunk(len(self.hub)) if len(self.hub) > 1 else (tensor,)
        return zip(self.hub, parts, strict=True)


# What names begin with in a file, with the number of the stage from 0 (`s`), from 1 (`n`) and of the block (`b`) -> the
# modules of a stage of the Hub's that are stacked there.
# They end where `weight` and `bias` follow: nn.MultiheadAttention says in_proj_weight, not in_proj.weight.
_STAGE = {
    "nvlabs": {
        "patch_embed{n}.proj.": "patch_embeddings.proj",
        "patch_embed{n}.norm.": "patch_embeddings.layer_norm",
        "norm{n}.": "layer_norm",
    },
    "mmsegmentation": {
        "layers.{s}.0.projection.": "patch_embeddings.proj",
        "layers.{s}.0.norm.": "patch_embeddings.layer_norm",
        "layers.{s}.2.": "layer_norm",
    },
}
_BLOCK_PREFIX = {"nvlabs": "block{n}.{b}.", "mmsegmentation": "layers.{s}.1.{b}."}
_EVERY_BLOCK = {
    "norm1.": "layernorm_before",
    "norm2.": "layernorm_after",
    "attn.sr.": "attention.sequence_reduction.sequence_reduction",
    "attn.norm.": "attention.sequence_reduction.layer_norm",
}
_BLOCK = {
    "nvlabs": {
        "attn.q.": "attention.q_proj",
        "attn.kv.": "attention.k_proj attention.v_proj",
        "attn.proj.": "attention.o_proj",
        "mlp.fc1.": "mlp.fc1",
        "mlp.dwconv.dwconv.": "mlp.dwconv.dwconv",
        "mlp.fc2.": "mlp.fc2",
    },
    "mmsegmentation": {
        "attn.attn.in_proj_": "attention.q_proj attention.k_proj attention.v_proj",
        "attn.attn.out_proj.": "attention.o_proj",
        "ffn.layers.0.": "mlp.fc1",
        "ffn.layers.1.": "mlp.dwconv.dwconv",
        "ffn.layers.4.": "mlp.fc2",
    },
}
_CONVOLUTIONS = ("ffn.layers.0.", "ffn.layers.4.")  # linear layers on the Hub
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_AFFINE = _BATCH_NORM[:2]

NVLABS_UNUSED = ("conv_seg.weight", "conv_seg.bias")
"""Tensors of NVlabs' decoder that its forward never reads: the base class makes a classifier, the head another."""


def encoder_rules(layout: Layout, depths: Sequence[int]) -> list[Rule]:
    """Every tensor of the encoder; file names without `backbone.`, Hub names without `segformer.`."""
    rules = []
    for stage, depth in enumerate(depths):
        modules = [(name, [module]) for name, module in _STAGE[layout].items()]
        for block in range(depth):
            for name, inner in (_BLOCK[layout] | _EVERY_BLOCK).items():
                if stage < 3 or name not in ("attn.sr.", "attn.norm."):  # the last one's attention reduces nothing
                    file = _BLOCK_PREFIX[layout].replace("{b}", str(block)) + name
                    modules.append((file, [f"blocks.{block}.{module}" for module in inner.split()]))
        for name, hub in modules:
            for kind in _AFFINE:
                file = name.format(s=stage, n=stage + 1) + kind
                as_conv = kind == "weight" and name.endswith(_CONVOLUTIONS)
                rules.append(Rule(file, tuple(f"stages.{stage}.{module}.{kind}" for module in hub), as_conv))
    return rules


def nvlabs_decoder_rules(projections_as_conv: bool = False) -> list[Rule]:
    """NVlabs' decoder, which is the Hub's under other names; all names without `decode_head.`.

    Projections that are 1x1 convolutions with bias in the file are the same function.
    """
    rules = [
        Rule(f"linear_c{stage + 1}.proj.{kind}", (f"linear_projections.{stage}.proj.{kind}",), as_conv)
        for stage in range(4)
        for kind, as_conv in zip(_AFFINE, (projections_as_conv, False), strict=True)
    ]
    return rules + _conv_and_norm("linear_fuse", "", "linear_fuse") + _classifier("linear_pred")


def mmsegmentation_decoder_rules() -> list[Rule]:
    """MMSegmentation's decoder as `SegformerConvDecodeHead` has it; all names without `decode_head.`."""
    rules = [rule for stage in range(4) for rule in _conv_and_norm(f"convs.{stage}", f"linear_c.{stage}.", "proj")]
    return rules + _conv_and_norm("fusion_conv", "", "linear_fuse") + _classifier("conv_seg")


def _conv_and_norm(file: str, hub: str, conv: str) -> list[Rule]:
    norm = [Rule(f"{file}.bn.{kind}", (f"{hub}batch_norm.{kind}",)) for kind in _BATCH_NORM]
    return [Rule(f"{file}.conv.weight", (f"{hub}{conv}.weight",)), *norm]


def _classifier(file: str) -> list[Rule]:
    return [Rule(f"{file}.{kind}", (f"classifier.{kind}",)) for kind in _AFFINE]


def apply_rules(
    rules: Sequence[Rule], tensors: Mapping[str, Tensor], hub: torch.nn.Module, what: str, path: Path, prefix: str
) -> dict[str, Tensor]:
    """The tensors of a Hub module, of which only shapes are read, from those of a file: every rule exactly once."""
    shapes = hub.state_dict()
    expected = {rule.file: rule.to_file(shapes) for rule in rules}
    if different := find_difference(expected, tensors, prefix):
        raise ModelError(f"the {len(expected)} tensors of the {what}", different, "take an unaltered checkpoint", path)
    return {name: part for rule in rules for name, part in rule.to_hub(tensors[rule.file])}
