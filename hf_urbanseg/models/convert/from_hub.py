"""A Hub folder's SegFormer -> a .pth file under NVlabs' or MMSegmentation's names."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoModelForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.conv_decode_head import SegformerConvDecoderConfig
from hf_urbanseg.models.convert import keys
from hf_urbanseg.models.convert.decoder import linear_to_conv_decoder
from hf_urbanseg.models.convert.files import SAID
from hf_urbanseg.models.convert.to_hub import DECODER, ENCODER, HUB_ENCODER, UNSEEN, Converted, find_size, stage_norms
from hf_urbanseg.models.loading import PROCESSOR_FILE, find_file, load_complete, load_config, load_image_processor

logger = logging.getLogger(__name__)

_FIXED = (
    "num_channels", "num_encoder_blocks", "sr_ratios", "patch_sizes", "strides", "num_attention_heads", "mlp_ratios",
    "hidden_act", "reshape_last_stage",
)  # fmt: skip
"""Fields of the configuration that no file records, so that they must be every SegFormer's."""


def load_hub_model(folder: str | Path) -> SegformerForSemanticSegmentation | SegformerModel:
    """A folder's SegFormer in its own precision, completely; encoders alone as `SegformerModel`.

    Raises:
        ModelError: Not a folder of a SegFormer, or tensors missing, unexpected or of another shape.
    """
    config = load_config(folder)
    kept = config.model_type == SegformerConvDecoderConfig.model_type
    if config.model_type != "segformer" and not kept:
        raise ModelError("a SegFormer", f"model type `{config.model_type}`", "choose another model", folder)
    whole = kept or "SegformerForSemanticSegmentation" in (config.architectures or [])
    kind = AutoModelForSemanticSegmentation if whole else SegformerModel
    unused = () if whole else ("classifier.",)  # what nvidia/mit-b0 classifies ImageNet with
    return load_complete(kind, folder, unused=unused, config=config, dtype="auto").eval()


def convert_from_hub(
    model: SegformerForSemanticSegmentation | SegformerModel,
    layout: keys.Layout,
    decoder: Literal["keep", "drop"] = "keep",
    path: str | Path | None = None,
) -> Converted:
    """The tensors of a Hub model under the names of a layout.

    A segmentor's have `backbone.` and `decode_head.`; an encoder's have no prefix, as what backbones start from.

    Raises:
        ModelError: A size or a configuration that neither layout knows, or a decoder that this one doesn't.
    """
    config, stock = model.config, SegformerConfig()
    size = find_size(list(config.hidden_sizes), list(config.depths), path)
    kept = isinstance(config, SegformerConvDecoderConfig)
    for name in (*_FIXED, "layer_norm_eps") if kept else _FIXED:
        found, expected = (getattr(one, name) for one in (config, stock))
        found, expected = (list(one) if isinstance(one, tuple) else one for one in (found, expected))
        if found != expected:
            raise ModelError(f"`{name}` {expected} as in every SegFormer", f"{found}", "keep the folder", path)
    state, dropped = model.state_dict(), {}
    head = {name.removeprefix(DECODER): tensor for name, tensor in state.items() if name.startswith(DECODER)}
    encoder = {name.removeprefix(HUB_ENCODER): tensor for name, tensor in state.items() if not name.startswith(DECODER)}
    tensors = {rule.file: rule.to_file(encoder) for rule in keys.encoder_rules(layout, config.depths)}
    if head and decoder == "drop":
        dropped["decoder"] = len(head)
    elif head:
        tensors = {ENCODER + name: tensor for name, tensor in tensors.items()}
        if kept and layout != "mmsegmentation":
            fix = "convert it `--to mmsegmentation`, or only the encoder with `--decoder drop`"
            raise ModelError(f"a decoder that {keys.LAYOUTS[layout]} can compute", "MMSegmentation's", fix, path)
        if layout == "mmsegmentation" and not kept:
            converted = linear_to_conv_decoder(head, stage_norms(encoder))
        else:
            rules = keys.mmsegmentation_decoder_rules() if kept else keys.nvlabs_decoder_rules()
            converted = {rule.file: rule.to_file(head) for rule in rules}
        if layout == "nvlabs":
            # Never read there, but a strict load wants it; every configuration of NVlabs makes it 128 wide.
            (weight, bias), classifier = keys.NVLABS_UNUSED, head["classifier.weight"]
            converted[weight] = classifier.new_zeros(len(classifier), 128, 1, 1)
            converted[bias] = classifier.new_zeros(len(classifier))
        tensors |= {DECODER + name: tensor for name, tensor in converted.items()}
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    return Converted(tensors, config, size, layout, len(state) - sum(dropped.values()), dropped)


def describe_folder(config: SegformerConfig, folder: str | Path) -> dict:
    """What a folder says beside its tensors, in plain values, so that the way back makes the same folder of a file."""
    values = {name: getattr(config, name) for name in UNSEEN}
    said = {"config": {name: value for name, value in values.items() if 0 <= value <= UNSEEN[name]}}
    try:
        find_file(folder, PROCESSOR_FILE)
    except ModelError:  # encoders are saved without one
        return said
    return said | {"image_processor": json.loads(load_image_processor(folder).to_json_string())}


def save_checkpoint_file(
    converted: Converted, path: str | Path, palette: Sequence[Sequence[int]], said: Mapping | None = None
) -> None:
    """Writes a file as mmcv (`CLASSES`) and mmengine (`dataset_meta`) look for it, with plain values only.

    `said` is what `describe_folder` gives, and whatever else is to come back.
    """
    meta = {} if said is None else {SAID: dict(said)}
    if converted.has_decoder:
        names = tuple(name for _, name in sorted(converted.config.id2label.items()))
        palette = [list(map(int, color)) for color in palette]
        meta |= {"CLASSES": names, "PALETTE": palette, "dataset_meta": {"classes": names, "palette": palette}}
    torch.save({"meta": meta, "state_dict": converted.tensors}, path)
