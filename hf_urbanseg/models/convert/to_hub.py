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
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, check_class_names
from hf_urbanseg.models.build import SIZES
from hf_urbanseg.models.conv_decode_head import (
    SegformerConvDecodeHead,
    SegformerConvDecoderConfig,
    SegformerConvDecoderForSemanticSegmentation,
)
from hf_urbanseg.models.convert import keys
from hf_urbanseg.models.convert.decoder import conv_to_linear_decoder
from hf_urbanseg.models.convert.files import CheckpointFile

logger = logging.getLogger(__name__)

ENCODER, DECODER = "backbone.", "decode_head."
HUB_ENCODER = "segformer."
"""Prefixes: of both layouts, the decoder's of the Hub too; and of the Hub's encoder."""

UNSEEN = dict.fromkeys(
    ("classifier_dropout_prob", "drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob",
     "initializer_range"), 1,
) | {"semantic_loss_ignore_index": 255}  # fmt: skip
"""Fields of the configuration that no tensor shows and that training goes by, and the most they can be."""

# What tells an encoder, its blocks (stage and number), and a decoder, whose width is the first axis; one bias a class.
_FIRST = {"nvlabs": "patch_embed1.proj.weight", "mmsegmentation": "layers.0.0.projection.weight"}
_IN_BLOCK = {"nvlabs": r"block(\d)\.(\d+)\.", "mmsegmentation": r"layers\.(\d)\.1\.(\d+)\."}
_FIRST_OF_DECODER = {"nvlabs": "linear_c1.proj.weight", "mmsegmentation": "convs.0.conv.weight"}
_CLASSIFIER = {"nvlabs": "linear_pred.bias", "mmsegmentation": "conv_seg.bias"}


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
    layout: keys.Layout
    used: int
    dropped: dict[str, int]

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
        class_names: Names of the classes; None takes the file's, and for 19 unnamed ones those of Cityscapes.
        decoder: `drop` converts the encoder alone; `keep` makes MMSegmentation's decoder a model of our own type; None
            makes it the Hub's model, where that computes it.

    Raises:
        ModelError: Not a SegFormer of a known size, a tensor missing, left over or of another shape, a decoder that the
            Hub's model can't compute and that wasn't to be kept, or names that don't fit the classifier.
    """
    prefix = ENCODER if any(name.startswith(ENCODER) for name in file.tensors) else ""
    parts = _split(file, prefix)
    encoder, head = parts.pop("encoder"), parts.pop("decoder")
    layout, size = _recognise(encoder, file.path)
    fields = SIZES[size] | {"semantic_loss_ignore_index": IGNORE_INDEX} | _read_fields(file)
    config = SegformerConfig(**fields)
    hub, what = _build_meta_model(SegformerModel, config), f"encoder of a {keys.LAYOUTS[layout]} SegFormer-{size}"
    tensors = keys.apply_rules(keys.encoder_rules(layout, config.depths), encoder, hub, what, file.path, prefix)
    dropped = {part: len(left_out) for part, left_out in parts.items() if left_out}
    used = len(encoder)
    if head and decoder == "drop":
        dropped["decoder"] = len(head)
    elif head:
        unused = [head.pop(name) for name in keys.NVLABS_UNUSED if _FIRST_OF_DECODER["nvlabs"] in head and name in head]
        if unused:
            dropped["classifier that NVlabs' forward never reads"] = len(unused)
        used += len(head)
        converted, config = _convert_decoder(head, tensors, fields, layout, file.path, decoder == "keep")
        names = _choose_names(class_names or file.class_names, config.num_labels, file.path)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: train_id for train_id, name in enumerate(names)}
        tensors = {HUB_ENCODER + name: tensor for name, tensor in tensors.items()}
        tensors |= {DECODER + name: tensor for name, tensor in converted.items()}
    return Converted(tensors, config, size, layout, used, dropped)


def _read_fields(file: CheckpointFile) -> dict:
    """Fields of the configuration that no tensor shows, as far as the file says them."""
    said = (file.said or {}).get("config")
    found = {name: said[name] for name in UNSEEN if name in said} if isinstance(said, dict) else {}
    for name, value in found.items():
        if not isinstance(value, int | float) or not 0 <= value <= UNSEEN[name]:
            raise ModelError(f"`{name}` of 0..{UNSEEN[name]}", f"{value}", "take an unaltered file", file.path)
    return found


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


def _split(file: CheckpointFile, encoder_prefix: str) -> dict[str, dict[str, Tensor]]:
    """The tensors of each part by their names inside it."""
    # Backbones are saved without a prefix, and NVlabs' with the classifier they were trained with.
    prefixes = {"head.": "ImageNet classifier", "": "encoder"}
    if encoder_prefix:
        prefixes = {ENCODER: "encoder", DECODER: "decoder", "auxiliary_head.": "auxiliary head"}
    parts = {"encoder": {}, "decoder": {}} | {part: {} for part in prefixes.values()}
    for name, tensor in file.tensors.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            known = "names that begin with " + ", ".join(f"`{prefix}`" for prefix in prefixes)
            raise ModelError(known, f"`{name}`", "save a checkpoint of the segmentor alone", file.path)
        parts[prefixes[prefix]][name.removeprefix(prefix)] = tensor
    return parts


def _recognise(encoder: Mapping[str, Tensor], path: Path) -> tuple[keys.Layout, str]:
    """Layout and size from names and shapes; no file records them otherwise."""
    layout = next((layout for layout, name in _FIRST.items() if name in encoder), None)
    if layout is None:
        known = " or ".join(f"`{name}` ({keys.LAYOUTS[layout]})" for layout, name in _FIRST.items())
        found = f"none among {len(encoder)} tensors (`{next(iter(encoder), 'none')}`, ...)"
        raise ModelError(f"a SegFormer's encoder, with {known}", found, "convert SegFormers only", path)
    blocks = {match.groups() for match in map(re.compile(_IN_BLOCK[layout]).match, encoder) if match}
    depths = [count for _, count in sorted(Counter(stage for stage, _ in blocks).items())]
    return layout, find_size([encoder[_FIRST[layout]].shape[0]], depths, path)


def find_size(widths: list[int], depths: list[int], path: str | Path | None) -> str:
    """Name in `SIZES`, by the widths of the first stages or of all."""
    for size, fields in SIZES.items():
        if (fields["hidden_sizes"][: len(widths)], fields["depths"]) == (widths, depths):
            return size
    # Refused although more could be converted: the number of attention heads isn't in the shapes.
    expected = f"widths and depths of {', '.join(SIZES)} (b2: {SIZES['b2']['hidden_sizes']}, {SIZES['b2']['depths']})"
    raise ModelError(expected, f"widths {widths} and depths {depths}", "take a complete checkpoint of one", path)


def _convert_decoder(
    head: Mapping[str, Tensor], encoder: Mapping[str, Tensor], fields: dict, encoder_layout: keys.Layout, path: Path,
    keep: bool,
) -> tuple[dict[str, Tensor], SegformerConfig]:  # fmt: skip
    """Tensors of the decoder, and a configuration of its model with the right type, width and number of classes."""
    drop = "take the encoder alone with `--decoder drop`"
    layout = next((layout for layout, name in _FIRST_OF_DECODER.items() if name in head), None)
    if layout is None:
        known = " or ".join(f"`{DECODER}{name}` ({keys.LAYOUTS[layout]})" for layout, name in _FIRST_OF_DECODER.items())
        raise ModelError(known, f"`{DECODER}{min(head)}`, ...", drop, path)
    width, classifier = head[_FIRST_OF_DECODER[layout]].shape[0], head.get(_CLASSIFIER[layout])
    num_labels = 1 if classifier is None else classifier.shape[0]  # missing: `apply_rules` says so
    fields = fields | {"decoder_hidden_size": width, "num_labels": num_labels}
    what, stock = f"{keys.LAYOUTS[layout]} decoder of width {width}", SegformerConfig(**fields)
    if layout == "nvlabs":
        rules = keys.nvlabs_decoder_rules(projections_as_conv=head[_FIRST_OF_DECODER[layout]].ndim == 4)
        return keys.apply_rules(rules, head, _build_meta_model(SegformerDecodeHead, stock), what, path, DECODER), stock
    if "convs.0.conv.bias" in head:
        found = "convolutions with bias, and whether a ReLU follows isn't in the file"
        raise ModelError("BatchNorm behind the decoder's projections", found, f"{drop}, and train a new decoder", path)
    own = SegformerConvDecoderConfig(**fields)
    module = _build_meta_model(SegformerConvDecodeHead, own)
    kept = keys.apply_rules(keys.mmsegmentation_decoder_rules(), head, module, what, path, DECODER)
    if not keep:
        converted, share = conv_to_linear_decoder(head, stage_norms(encoder))
        if converted is not None:
            return converted, stock
        raise ModelError(
            "a decoder without non-linear layers between encoder and fusion, as the Hub's SegFormer has",
            f"MMSegmentation's, whose ReLU can cut off values in {share:.0%} of channels: another function",
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
    if names is None and num_labels == CITYSCAPES.num_labels:
        logger.warning("%s names none of its 19 classes: taken for those of Cityscapes, see `--label_space`", path)
        return CITYSCAPES.names
    check_class_names(names or (), str(path))
    if names is not None and len(set(names)) == len(names) == num_labels:
        return names
    found = f"no names of its {num_labels} classes"
    if names is not None:
        found = f"{len(names)} names ({len(set(names))} different) for {num_labels} classes"
    raise ModelError("a name for every class", found, "give them with `--label_space`", path)
