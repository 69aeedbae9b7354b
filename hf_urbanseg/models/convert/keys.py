"""Which tensors of NVlabs' and MMSegmentation's SegFormer files are which tensors of the Hub's.

One table per layout, read in both directions, so that a file converted and converted back is the same file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class _EncoderNames:
    """Prefixes with the number of the stage from 0 (`s`), from 1 (`n`) and of the block (`b`), and names inside."""

    patch: str
    block: str
    norm: str
    in_patch: dict[str, tuple[str, ...]]
    in_block: dict[str, tuple[str, ...]]
    convolutions: tuple[str, ...] = ()  # those in_block that are linear layers on the Hub


_SHARED = {
    "norm1.": ("layernorm_before",),
    "norm2.": ("layernorm_after",),
    "attn.sr.": ("attention.sequence_reduction.sequence_reduction",),
    "attn.norm.": ("attention.sequence_reduction.layer_norm",),
}
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_QUERY, _KEY, _VALUE = (f"attention.{letter}_proj" for letter in "qkv")

# Names end where `weight` and `bias` follow: nn.MultiheadAttention says in_proj_weight, not in_proj.weight.
_ENCODER: dict[str, _EncoderNames] = {
    "nvlabs": _EncoderNames(
        patch="patch_embed{n}.",
        block="block{n}.{b}.",
        norm="norm{n}.",
        in_patch={"proj.": ("proj",), "norm.": ("layer_norm",)},
        in_block=_SHARED
        | {
            "attn.q.": (_QUERY,),
            "attn.kv.": (_KEY, _VALUE),
            "attn.proj.": ("attention.o_proj",),
            "mlp.fc1.": ("mlp.fc1",),
            "mlp.dwconv.dwconv.": ("mlp.dwconv.dwconv",),
            "mlp.fc2.": ("mlp.fc2",),
        },
    ),
    "mmsegmentation": _EncoderNames(
        patch="layers.{s}.0.",
        block="layers.{s}.1.{b}.",
        norm="layers.{s}.2.",
        in_patch={"projection.": ("proj",), "norm.": ("layer_norm",)},
        in_block=_SHARED
        | {
            "attn.attn.in_proj_": (_QUERY, _KEY, _VALUE),
            "attn.attn.out_proj.": ("attention.o_proj",),
            "ffn.layers.0.": ("mlp.fc1",),
            "ffn.layers.1.": ("mlp.dwconv.dwconv",),
            "ffn.layers.4.": ("mlp.fc2",),
        },
        convolutions=("ffn.layers.0.", "ffn.layers.4."),
    ),
}


def patch_weight_name(layout: Layout, stage: int) -> str:
    """Name of a stage's first weight, (width, channels of the stage before, height, width of the patch)."""
    names = _ENCODER[layout]
    return names.patch.format(s=stage, n=stage + 1) + next(iter(names.in_patch)) + "weight"


def block_prefix(layout: Layout, stage: int) -> str:
    """What the names of all blocks of a stage begin with, before the number of the block."""
    return _ENCODER[layout].block.split("{b}")[0].format(s=stage, n=stage + 1)


def encoder_rules(layout: Layout, depths: Sequence[int], sr_ratios: Sequence[int]) -> list[Rule]:
    """Every tensor of the encoder; file names without `backbone.`, Hub names without `segformer.`."""
    names, rules = _ENCODER[layout], []

    def add(file: str, hub: str, table: Mapping[str, tuple[str, ...]]) -> None:
        for inner, parts in table.items():
            for kind in ("weight", "bias"):
                targets = tuple(f"{hub}{part}.{kind}" for part in parts)
                rules.append(Rule(f"{file}{inner}{kind}", targets, kind == "weight" and inner in names.convolutions))

    for stage, (depth, sr_ratio) in enumerate(zip(depths, sr_ratios, strict=True)):
        hub, number = f"stages.{stage}.", {"s": stage, "n": stage + 1}
        add(names.patch.format(**number), f"{hub}patch_embeddings.", names.in_patch)
        reducing = ("attn.sr.", "attn.norm.")
        in_block = {inner: parts for inner, parts in names.in_block.items() if sr_ratio > 1 or inner not in reducing}
        for block in range(depth):
            add(names.block.format(b=block, **number), f"{hub}blocks.{block}.", in_block)
        add(names.norm.format(**number), hub, {"": ("layer_norm",)})
    return rules


def nvlabs_decoder_rules(projections_as_conv: bool = False) -> list[Rule]:
    """NVlabs' decoder, which is the Hub's under other names; all names without `decode_head.`.

    Args:
        projections_as_conv: The file's projections are 1x1 convolutions with bias: the same function.
    """
    rules = []
    for stage in range(4):
        for kind in ("weight", "bias"):
            hub = (f"linear_projections.{stage}.proj.{kind}",)
            rules.append(
                Rule(f"linear_c{stage + 1}.proj.{kind}", hub, as_conv=projections_as_conv and kind == "weight")
            )
    rules.append(Rule("linear_fuse.conv.weight", ("linear_fuse.weight",)))
    rules += [Rule(f"linear_fuse.bn.{kind}", (f"batch_norm.{kind}",)) for kind in _BATCH_NORM]
    return rules + [Rule(f"linear_pred.{kind}", (f"classifier.{kind}",)) for kind in ("weight", "bias")]


def mmsegmentation_decoder_rules() -> list[Rule]:
    """MMSegmentation's decoder as `SegformerConvDecodeHead` has it; all names without `decode_head.`."""
    modules = {f"convs.{stage}.": (f"linear_c.{stage}.proj", f"linear_c.{stage}.batch_norm") for stage in range(4)}
    rules = []
    for file, (conv, norm) in (modules | {"fusion_conv.": ("linear_fuse", "batch_norm")}).items():
        rules.append(Rule(f"{file}conv.weight", (f"{conv}.weight",)))
        rules += [Rule(f"{file}bn.{kind}", (f"{norm}.{kind}",)) for kind in _BATCH_NORM]
    return rules + [Rule(f"conv_seg.{kind}", (f"classifier.{kind}",)) for kind in ("weight", "bias")]


NVLABS_UNUSED = ("conv_seg.weight", "conv_seg.bias")
"""Tensors of NVlabs' decoder that its forward never reads: the base class makes a classifier, the head another."""
