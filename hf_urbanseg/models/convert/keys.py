"""Which tensors of NVlabs' and MMSegmentation's SegFormer files are which tensors of the Hub's.

One table per layout, read in both directions, so that a file converted and converted back is the same file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.loading import find_difference

Layout = Literal["nvlabs", "mmsegmentation"]
LAYOUTS: dict[str, str] = {"nvlabs": "NVlabs", "mmsegmentation": "MMSegmentation"}
"""Layouts and how they are called in sentences."""


@dataclass(frozen=True)
class Rule:
    """One tensor of a file and the Hub tensors it is made of, stacked along the output channels.

    Args:
        file: Name in the file.
        hub: Names in `SegformerForSemanticSegmentation`, in the order in which the file stacks them.
        as_conv: The file holds a 1x1 convolution, (out, in, 1, 1), where the Hub has a linear layer, (out, in).
    """

    file: str
    hub: tuple[str, ...]
    as_conv: bool = False

    def to_file(self, hub: Mapping[str, Tensor]) -> Tensor:
        """The file's tensor."""
        tensor = torch.cat([hub[name] for name in self.hub]) if len(self.hub) > 1 else hub[self.hub[0]]
        return tensor[..., None, None] if self.as_conv else tensor

    def to_hub(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The Hub's tensors by name."""
        tensor = tensor.flatten(1) if self.as_conv else tensor
        parts = tensor.chunk(len(self.hub)) if len(self.hub) > 1 else (tensor,)
        return zip(self.hub, parts, strict=True)


def _in_block(block: str, names: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    names |= {
        "norm1.": ("layernorm_before",),
        "norm2.": ("layernorm_after",),
        "attn.sr.": ("attention.sequence_reduction.sequence_reduction",),
        "attn.norm.": ("attention.sequence_reduction.layer_norm",),
    }
    return {block + name: tuple("blocks.{b}." + part for part in parts) for name, parts in names.items()}


_QUERY, _KEY, _VALUE = (f"attention.{letter}_proj" for letter in "qkv")
# What names begin with in a file, with the number of the stage from 0 (`s`), from 1 (`n`) and of the block (`b`) -> the
# modules of a stage of the Hub's that are stacked there. The first is that of the patch embedding.
# They end where `weight` and `bias` follow: nn.MultiheadAttention says in_proj_weight, not in_proj.weight.
_ENCODER = {
    "nvlabs": {
        "patch_embed{n}.proj.": ("patch_embeddings.proj",),
        "patch_embed{n}.norm.": ("patch_embeddings.layer_norm",),
        "norm{n}.": ("layer_norm",),
    }
    | _in_block(
        "block{n}.{b}.",
        {
            "attn.q.": (_QUERY,),
            "attn.kv.": (_KEY, _VALUE),
            "attn.proj.": ("attention.o_proj",),
            "mlp.fc1.": ("mlp.fc1",),
            "mlp.dwconv.dwconv.": ("mlp.dwconv.dwconv",),
            "mlp.fc2.": ("mlp.fc2",),
        },
    ),
    "mmsegmentation": {
        "layers.{s}.0.projection.": ("patch_embeddings.proj",),
        "layers.{s}.0.norm.": ("patch_embeddings.layer_norm",),
        "layers.{s}.2.": ("layer_norm",),
    }
    | _in_block(
        "layers.{s}.1.{b}.",
        {
            "attn.attn.in_proj_": (_QUERY, _KEY, _VALUE),
            "attn.attn.out_proj.": ("attention.o_proj",),
            "ffn.layers.0.": ("mlp.fc1",),
            "ffn.layers.1.": ("mlp.dwconv.dwconv",),
            "ffn.layers.4.": ("mlp.fc2",),
        },
    ),
}
_CONVOLUTIONS = ("ffn.layers.0.", "ffn.layers.4.")  # linear layers on the Hub
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_AFFINE = _BATCH_NORM[:2]

NVLABS_UNUSED = ("conv_seg.weight", "conv_seg.bias")
"""Tensors of NVlabs' decoder that its forward never reads: the base class makes a classifier, the head another."""


def patch_weight_name(layout: Layout, stage: int) -> str:
    """Name of a stage's first weight, (width, channels of the stage before, height, width of the patch)."""
    return next(iter(_ENCODER[layout])).format(s=stage, n=stage + 1) + "weight"


def block_prefix(layout: Layout, stage: int) -> str:
    """What the names of all blocks of a stage begin with, before the number of the block."""
    return next(name for name in _ENCODER[layout] if "{b}" in name).split("{b}")[0].format(s=stage, n=stage + 1)


def encoder_rules(layout: Layout, depths: Sequence[int], sr_ratios: Sequence[int]) -> list[Rule]:
    """Every tensor of the encoder; file names without `backbone.`, Hub names without `segformer.`."""
    rules = []
    for stage, (depth, sr_ratio) in enumerate(zip(depths, sr_ratios, strict=True)):
        for name, modules in _ENCODER[layout].items():
            if sr_ratio == 1 and name.endswith(("attn.sr.", "attn.norm.")):
                continue
            for block in range(depth if "{b}" in name else 1):
                file = name.format(s=stage, n=stage + 1, b=block)
                hub = [f"stages.{stage}.{module.format(b=block)}" for module in modules]
                for kind in _AFFINE:
                    as_conv = kind == "weight" and name.endswith(_CONVOLUTIONS)
                    rules.append(Rule(file + kind, tuple(f"{module}.{kind}" for module in hub), as_conv))
    return rules


def nvlabs_decoder_rules(projections_as_conv: bool = False) -> list[Rule]:
    """NVlabs' decoder, which is the Hub's under other names; all names without `decode_head.`.

    Args:
        projections_as_conv: The file's projections are 1x1 convolutions with bias: the same function.
    """
    rules = []
    for stage in range(4):
        names = {f"linear_c{stage + 1}.proj.{kind}": f"linear_projections.{stage}.proj.{kind}" for kind in _AFFINE}
        rules += [Rule(file, (hub,), projections_as_conv and file.endswith("weight")) for file, hub in names.items()]
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
    rules: Sequence[Rule], tensors: Mapping[str, Tensor], hub: torch.nn.Module, what: str, path: Path,
    prefix: str = "",
) -> dict[str, Tensor]:  # fmt: skip
    """The tensors of a Hub module from those of a file: every rule once, after names and shapes are found to fit.

    Args:
        rules: All that belong to the module.
        tensors: Of a file, by the names of the rules.
        hub: The module that takes the result; only its shapes are read.
        what: The tensors, for errors.
        path: The file, for errors.
        prefix: Put before names in errors.

    Raises:
        ModelError: A tensor missing, left over or of another shape.
    """
    shapes = hub.state_dict()
    expected = {rule.file: rule.to_file(shapes) for rule in rules}
    if different := find_difference(expected, tensors, prefix):
        raise ModelError(f"the {len(expected)} tensors of the {what}", different, "take an unaltered checkpoint", path)
    return {name: part for rule in rules for name, part in rule.to_hub(tensors[rule.file])}
