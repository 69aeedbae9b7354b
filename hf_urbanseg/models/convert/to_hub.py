"""SegFormer checkpoints of NVlabs and MMSegmentation (0.x and 1.x) -> a folder of the Hub.

Strict, as the way back is: each tensor is used exactly once, by name and shape, or it is counted among the dropped.

What is equal and what is not:
    Encoder: the same tensors in all three. LayerNorm's epsilon is not: transformers has 1e-5 everywhere, whatever
        `layer_norm_eps` says; NVlabs has 1e-6 in blocks and at the end of stages; MMSegmentation 1e-6 everywhere. A
        folder can't express that; nvidia's own folders on the Hub don't either.
    Decoder of NVlabs: the Hub's under other names.
    Decoder of MMSegmentation: another function (see decoder.py), which the Hub's computes only where its inner ReLUs
        can't cut anything off: in files written here, not in trained ones. Those are refused, or with
        `decoder="drop"` give their encoder alone, or with "keep" a model of a type of our own (see
        conv_decode_head.py), exact with its epsilons.
    Auxiliary heads, the classifier of ImageNet and NVlabs' unused `conv_seg` are dropped.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX
from hf_urbanseg.models.build import SIZES
from hf_urbanseg.models.conv_decode_head import (
    SegformerConvDecodeHead,
    SegformerConvDecoderConfig,
    SegformerConvDecoderForSemanticSegmentation,
)
from hf_urbanseg.models.convert.decoder import conv_to_linear_decoder
from hf_urbanseg.models.convert.files import CheckpointFile
from hf_urbanseg.models.convert.keys import (
    LAYOUTS,
    NVLABS_UNUSED,
    Layout,
    apply_rules,
    block_prefix,
    encoder_rules,
    mmsegmentation_decoder_rules,
    nvlabs_decoder_rules,
    patch_weight_name,
)

logger = logging.getLogger(__name__)

ENCODER, DECODER = "backbone.", "decode_head."
HUB_ENCODER = "segformer."
"""Prefixes: of both layouts, the decoder's of the Hub too; and of the Hub's encoder."""

_DECODERS = {
    "nvlabs": ("linear_c1.proj.weight", "linear_fuse.conv.weight", "linear_pred.weight"),
    "mmsegmentation": ("convs.0.conv.weight", "fusion_conv.conv.weight", "conv_seg.weight"),
}
"""The name that tells a decoder, and those whose first axes are its width and its number of classes."""


@dataclass
class Converted:
    """A converted checkpoint.

    Args:
        tensors: By their new names; those of a Hub model or of a file.
        config: Of the Hub model.
        size: Name in `SIZES`.
        layout: Of the file's encoder.
        used: Tensors read.
        dropped: What was left out on purpose -> number of tensors.
    """

    tensors: dict[str, Tensor]
    config: SegformerConfig
    size: str
    layout: Layout
    used: int
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def has_decoder(self) -> bool:
        return any(name.startswith(DECODER) for name in self.tensors)

    @property
    def has_conv_decoder(self) -> bool:
        """Whether the decoder is MMSegmentation's, in a model of a type of our own."""
        return self.has_decoder and isinstance(self.config, SegformerConvDecoderConfig)


def convert_to_hub(
    file: CheckpointFile, class_names: Sequence[str] | None = None, decoder: Literal["keep", "drop"] | None = None
) -> Converted:
    """The tensors of a file for a Hub model, strictly.

    Args:
        file: What `read_checkpoint_file` gave.
        class_names: Names of the classes; None takes the file's, and for 19 unnamed ones those of Cityscapes.
        decoder: `drop` converts the encoder alone; `keep` makes MMSegmentation's decoder a model of our own type; None
            makes it the Hub's model, where that computes it.

    Raises:
        ModelError: Not a SegFormer of a known size, a tensor missing, left over or of another shape, a decoder that the
            Hub's model can't compute and that wasn't to be kept, or names that don't fit the classifier.
    """
    parts = _split(file)
    encoder = parts["encoder"]
    layout, size, config = _recognise(encoder, file.path)
    dropped = {part: len(parts[part]) for part in ("auxiliary head", "ImageNet classifier") if parts[part]}
    rules = encoder_rules(layout, config.depths, config.sr_ratios)
    what, hub = f"encoder of a {LAYOUTS[layout]} SegFormer-{size}", _build_meta_model(SegformerModel, config)
    tensors = apply_rules(rules, encoder, hub, what, file.path, _encoder_prefix(file))
    used, head = len(encoder), parts["decoder"]
    if head and decoder == "drop":
        dropped["decoder"] = len(head)
    elif head:
        unused = {name: head.pop(name) for name in NVLABS_UNUSED if "linear_c1.proj.weight" in head and name in head}
        if unused:
            dropped["classifier that NVlabs' forward never reads"] = len(unused)
        used += len(head)
        converted, hub = _convert_decoder(head, tensors, config, layout, file, decoder == "keep")
        names = _choose_names(class_names or file.class_names, hub.num_labels, file.path)
        config = type(hub)(
            **SIZES[size] | {"decoder_hidden_size": hub.decoder_hidden_size},
            id2label=dict(enumerate(names)),
            label2id={name: train_id for train_id, name in enumerate(names)},
            semantic_loss_ignore_index=IGNORE_INDEX,
        )
        tensors = {HUB_ENCODER + name: tensor for name, tensor in tensors.items()}
        tensors |= {DECODER + name: tensor for name, tensor in converted.items()}
    return Converted(tensors, config, size, layout, used, dropped)


def build_converted_model(converted: Converted) -> SegformerForSemanticSegmentation | SegformerModel:
    """The Hub model with these very tensors, in their precision; without a decoder it is a `SegformerModel`."""
    kind = SegformerForSemanticSegmentation if converted.has_decoder else SegformerModel
    kind = SegformerConvDecoderForSemanticSegmentation if converted.has_conv_decoder else kind
    model = _build_meta_model(kind, converted.config)
    # Clones: parts of a fused tensor share its memory, which safetensors refuses.
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in converted.tensors.items()}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval()


def _build_meta_model(kind: type, config: SegformerConfig):
    """A module of names and shapes that takes no memory."""
    with torch.device("meta"):
        return kind(config)


def _split(file: CheckpointFile) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part by their names inside it."""
    parts = {"encoder": {}, "decoder": {}, "auxiliary head": {}, "ImageNet classifier": {}}
    prefixes = {ENCODER: "encoder", DECODER: "decoder", "auxiliary_head.": "auxiliary head"}
    if not _encoder_prefix(file):
        # Backbones are saved without a prefix, and NVlabs' with the classifier they were trained with.
        prefixes = {"head.": "ImageNet classifier", "": "encoder"}
    for name, tensor in file.tensors.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            known = ", ".join(f"`{prefix}`" for prefix in prefixes)
            raise ModelError(
                f"names that begin with {known}", f"`{name}`", "save a checkpoint of the segmentor alone", file.path
            )
        parts[prefixes[prefix]][name.removeprefix(prefix)] = tensor
    return parts


def _encoder_prefix(file: CheckpointFile) -> str:
    return ENCODER if any(name.startswith(ENCODER) for name in file.tensors) else ""


def _recognise(encoder: Mapping[str, Tensor], path: Path) -> tuple[Layout, str, SegformerConfig]:
    """Layout and size from names and shapes; no file records them otherwise."""
    layout = next((layout for layout in LAYOUTS if patch_weight_name(layout, 0) in encoder), None)
    if layout is None:
        known = " or ".join(f"`{patch_weight_name(layout, 0)}` ({who})" for layout, who in LAYOUTS.items())
        found = f"none among {len(encoder)} tensors (`{next(iter(encoder), 'none')}`, ...)"
        raise ModelError(f"a SegFormer's encoder, with {known}", found, "convert SegFormers only", path)
    hidden_sizes, depths = [], []
    for stage in range(4):
        name = patch_weight_name(layout, stage)
        if name not in encoder:
            raise ModelError("four stages", f"no `{name}`", "take an unaltered checkpoint", path)
        hidden_sizes.append(encoder[name].shape[0])
        pattern = re.compile(re.escape(block_prefix(layout, stage)) + r"(\d+)\.")
        blocks = [int(match[1]) for match in map(pattern.match, encoder) if match]
        depths.append(max(blocks, default=-1) + 1)
    size = find_size(hidden_sizes, depths, path)
    return layout, size, SegformerConfig(**SIZES[size], semantic_loss_ignore_index=IGNORE_INDEX)


def find_size(hidden_sizes: list[int], depths: list[int], path: str | Path | None) -> str:
    for size, fields in SIZES.items():
        if (fields["hidden_sizes"], fields["depths"]) == (hidden_sizes, depths):
            return size
    # Refused although more could be converted: the number of attention heads isn't in the shapes.
    raise ModelError(
        f"widths and depths of {', '.join(SIZES)} (b2: {SIZES['b2']['hidden_sizes']}, {SIZES['b2']['depths']})",
        f"widths {hidden_sizes} and depths {depths}",
        "take a complete checkpoint of one of them",
        path,
    )


def _convert_decoder(
    head: Mapping[str, Tensor], encoder: Mapping[str, Tensor], config: SegformerConfig, encoder_layout: Layout,
    file: CheckpointFile, keep: bool,
) -> tuple[dict[str, Tensor], SegformerConfig]:  # fmt: skip
    """Tensors of the decoder, and a configuration of its model with the right type, width and number of classes."""
    path, drop = file.path, "take the encoder alone with `--decoder drop`"
    layout = next((layout for layout, (mark, *_) in _DECODERS.items() if mark in head), None)
    if layout is None:
        known = " or ".join(f"`{DECODER}{names[0]}` ({LAYOUTS[layout]})" for layout, names in _DECODERS.items())
        raise ModelError(known, f"`{DECODER}{min(head)}`, ...", drop, path)
    for name in _DECODERS[layout]:
        if name not in head:
            raise ModelError("a complete decoder", f"no `{DECODER}{name}`", "take an unaltered checkpoint", path)
    width, num_labels = (head[name].shape[0] for name in _DECODERS[layout][1:])
    fields = {"hidden_sizes": config.hidden_sizes, "decoder_hidden_size": width, "num_labels": num_labels}
    what, stock = f"{LAYOUTS[layout]} decoder of width {width}", SegformerConfig(**fields)
    if layout == "nvlabs":
        rules = nvlabs_decoder_rules(projections_as_conv=head["linear_c1.proj.weight"].ndim == 4)
        return apply_rules(rules, head, _build_meta_model(SegformerDecodeHead, stock), what, path, DECODER), stock
    if "convs.0.conv.bias" in head:
        found = "convolutions with bias, and whether a ReLU follows isn't in the file"
        fix = f"{drop}, and train a new decoder on it"
        raise ModelError("BatchNorm behind the decoder's projections", found, fix, path)
    own = SegformerConvDecoderConfig(**fields)
    module = _build_meta_model(SegformerConvDecodeHead, own)
    kept = apply_rules(mmsegmentation_decoder_rules(), head, module, what, path, DECODER)
    if not keep:
        converted, share = conv_to_linear_decoder(head, stage_norms(encoder))
        if converted is not None:
            return converted, stock
        raise ModelError(
            "a decoder without non-linear layers between encoder and fusion, as the Hub's SegFormer has",
            f"MMSegmentation's BatchNorm and ReLU there, and the ReLU can cut off values in {share:.0%} of channels, "
            "so it is another function",
            "take it over as it is with `--decoder keep`, for hf_urbanseg alone, or only the encoder with "
            "`--decoder drop`, to train a new decoder on it",
            path,
        )
    if encoder_layout != layout:
        # Their LayerNorms have other epsilons, and nobody trains this pair.
        raise ModelError("MMSegmentation's encoder with its decoder", "NVlabs' encoder", drop, path)
    return kept, own


def stage_norms(encoder: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [tuple(encoder[f"stages.{stage}.layer_norm.{kind}"] for kind in ("weight", "bias")) for stage in range(4)]


def _choose_names(names: Sequence[str] | None, num_labels: int, path: Path) -> Sequence[str]:
    if names is None:
        if num_labels == CITYSCAPES.num_labels:
            logger.warning("%s names none of its 19 classes: taken for those of Cityscapes, see `--label_space`", path)
            return CITYSCAPES.names
        found = f"no names of its {num_labels} classes"
    elif len(names) != num_labels:
        found = f"{len(names)} names for {num_labels} classes"
    elif len(set(names)) < num_labels:
        found = f"a name twice among {', '.join(names)}"
    else:
        return names
    raise ModelError("a name for every class", found, "give them with `--label_space`", path)
