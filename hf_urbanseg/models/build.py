"""SegFormer from the Hub, a folder or random weights, and the image processor that belongs to it."""

import logging
import math
from collections.abc import Mapping

import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.models.conv_decode_head import SegformerConvDecoderConfig
from hf_urbanseg.models.loading import SegformerImageProcessorPil, load_complete, load_config

logger = logging.getLogger(__name__)

SIZES: dict[str, dict] = {
    "tiny": {"hidden_sizes": [16, 32, 80, 128], "depths": [1, 1, 2, 1], "decoder_hidden_size": 128},
    "b0": {"hidden_sizes": [32, 64, 160, 256], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b1": {"hidden_sizes": [64, 128, 320, 512], "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b2": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
    "b3": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 18, 3], "decoder_hidden_size": 768},
    "b4": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 8, 27, 3], "decoder_hidden_size": 768},
    "b5": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 6, 40, 3], "decoder_hidden_size": 768},
}
"""Xie et al. 2021, table 7; decoder widths of the Hub's checkpoints. `tiny` is ours, for the demo and tests."""

_CLASSIFIER = "decode_head.classifier."


def build_config(size: str, label_space: LabelSpace, **overrides) -> SegformerConfig:
    """Configuration of a named size for these classes; `overrides` are fields of `SegformerConfig`."""
    if size not in SIZES:
        raise ModelError(f"a size of {', '.join(SIZES)}", f"`{size}`", "choose one with `--size`")
    return SegformerConfig(**{**SIZES[size], **_label_fields(label_space), **overrides})


def build_random_model(size: str, label_space: LabelSpace, **overrides) -> SegformerForSemanticSegmentation:
    """A SegFormer with random weights."""
    return SegformerForSemanticSegmentation(build_config(size, label_space, **overrides))


def load_pretrained_model(
    name_or_path: str, label_space: LabelSpace, revision: str | None = None, **overrides
) -> SegformerForSemanticSegmentation:
    """A SegFormer from the Hub or a folder, completely: every tensor is found, or it is an error.

    The classifier is made anew (and the log says so) when the checkpoint's classes are others. A checkpoint of the
    encoder alone (`nvidia/mit-b0`, trained on ImageNet) keeps its encoder and gets a new decode head.

    Args:
        name_or_path: Hub id or local folder, keys in the old or the new layout of transformers.
        overrides: Fields of `SegformerConfig`, for example `drop_path_rate`.

    Raises:
        ModelError: Not found, not a SegFormer, damaged, or tensors missing, unexpected or of another shape.
    """
    config = load_config(name_or_path, revision)
    if config.model_type != "segformer":
        kept = config.model_type == SegformerConvDecoderConfig.model_type
        fix = "convert its .pth file with `--decoder drop` and train a new decoder" if kept else "choose another model"
        raise ModelError("a SegFormer", f"model type `{config.model_type}`", fix, name_or_path)
    same_classes = _same_classes(config.id2label, label_space)
    old_names = [config.id2label[key] for key in sorted(config.id2label)]
    encoder_only = "SegformerForSemanticSegmentation" not in (config.architectures or [])
    for name, value in {**_label_fields(label_space), **overrides}.items():
        setattr(config, name, value)
    model = load_complete(
        SegformerForSemanticSegmentation,
        name_or_path,
        new=("decode_head.",) if encoder_only else () if same_classes else (_CLASSIFIER,),
        unused=("classifier.",) if encoder_only else (),
        revision=revision,
        config=config,
    )
    if encoder_only:
        logger.warning("%s holds an encoder only: the decode head starts from random weights", name_or_path)
    elif not same_classes:
        torch.nn.init.normal_(model.decode_head.classifier.weight, std=model.config.initializer_range)
        torch.nn.init.zeros_(model.decode_head.classifier.bias)
        logger.warning(
            "%s predicts %d classes (%s, ...), the data has %d (%s, ...): the classifier starts from random weights",
            name_or_path, len(old_names), old_names[0], label_space.num_labels, label_space.names[0],
        )  # fmt: skip
    return model


def build_image_processor(size: tuple[int, int]) -> SegformerImageProcessorPil:
    """The image processor saved with a model: resize to `size` (height, width), ImageNet normalisation.

    nvidia's processors resize to a square, which distorts street scenes; `choose_eval_size` gives one that fits.
    """
    height, width = size
    if height <= 0 or width <= 0 or height % 32 or width % 32:
        found = f"{height} {width}"
        raise ModelError("`eval_size` (height, width) in multiples of 32", found, "give for example 384 1280")
    return SegformerImageProcessorPil(size={"height": height, "width": width}, do_reduce_labels=False)


def choose_eval_size(sizes: Mapping[tuple[int, int], int]) -> tuple[int, int]:
    """The commonest (height, width) of a data set, each side brought to the nearest multiple of 32."""
    height, width = max(sorted(sizes), key=lambda size: sizes[size])
    return tuple(max(32, 32 * math.floor(side / 32 + 0.5)) for side in (height, width))


def _label_fields(label_space: LabelSpace) -> dict:
    labels = {"id2label": label_space.id2label, "label2id": label_space.label2id}
    return labels | {"semantic_loss_ignore_index": IGNORE_INDEX}


def _same_classes(id2label: Mapping[int, str], label_space: LabelSpace) -> bool:
    """Same names in the same order; `LABEL_0`-style placeholders of the right number are taken on trust."""
    names = [str(id2label[key]).strip().lower().replace("_", " ") for key in sorted(id2label)]
    if all(name.startswith("label ") for name in names):
        return len(names) == label_space.num_labels
    return names == [name.lower().replace("_", " ") for name in label_space.names]
