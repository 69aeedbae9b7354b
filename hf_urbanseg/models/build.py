"""Models from the Hub, a folder or random weights, and the image processor that belongs to them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    ResNetBackbone,
    SegformerForSemanticSegmentation,
    SwinBackbone,
)

from hf_urbanseg.errors import ModelError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.models.baselines.deeplabv3plus import DeepLabV3PlusForSemanticSegmentation
from hf_urbanseg.models.baselines.encoder_decoder import EncoderDecoderForSemanticSegmentation
from hf_urbanseg.models.baselines.pspnet import PSPNetForSemanticSegmentation
from hf_urbanseg.models.baselines.swin_segformer import SwinSegformerForSemanticSegmentation
from hf_urbanseg.models.baselines.unet import UNetForSemanticSegmentation
from hf_urbanseg.models.classes import adapt_classes, label_fields
from hf_urbanseg.models.conv_decode_head import SegformerConvDecoderConfig
from hf_urbanseg.models.loading import (
    SegformerImageProcessorPil,
    build_from_config,
    first_line,
    load_complete,
    load_config,
)
from hf_urbanseg.ranges import INPUT_SIDES

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

_RESNETS: dict[str, dict] = {
    "tiny": {"layer_type": "basic", "embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]},
    "resnet18": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "resnet50": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
    "resnet101": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 23, 3]},
}
"""He et al. 2016, table 1. From random weights with the deep stem, as the report's; with the Hub's, with the Hub's."""
_RESNETS = {size: fields | {"deep_stem": True} for size, fields in _RESNETS.items()}


@dataclass(frozen=True)
class Architecture:
    """A family of networks.

    Args:
        model_class: Of the whole.
        sizes: Fields of its configuration, by name of a size.
        encoder_class: transformers' own, whose weights fit those trained for classification.
        encoder_new: Prefixes of its tensors that classification doesn't have.
        encoder_unused: Prefixes of those that segmentation doesn't have.
    """

    model_class: type[PreTrainedModel]
    sizes: Mapping[str, Mapping]
    encoder_class: type[PreTrainedModel] | None = None
    encoder_new: tuple[str, ...] = ()
    encoder_unused: tuple[str, ...] = ()

    @property
    def model_type(self) -> str:
        return self.model_class.config_class.model_type

    @property
    def encoder_type(self) -> str | None:
        return self.encoder_class and self.encoder_class.config_class.model_type


ARCHITECTURES: dict[str, Architecture] = {
    "segformer": Architecture(SegformerForSemanticSegmentation, SIZES),
    "encoder_decoder": Architecture(
        EncoderDecoderForSemanticSegmentation,
        {
            "tiny": (tiny := {"hidden_sizes": [16, 32, 64, 128], "bottleneck_channels": 128}),
            "tiny_unpooling": tiny | {"upsampling": "unpooling"},
            "transposed": {},
            "unpooling": {"upsampling": "unpooling"},
        },
    ),
    "unet": Architecture(UNetForSemanticSegmentation, {"tiny": {"hidden_sizes": [8, 16, 32, 64, 128]}, "s5-d16": {}}),
    "deeplabv3plus": Architecture(DeepLabV3PlusForSemanticSegmentation, _RESNETS, ResNetBackbone),
    "pspnet": Architecture(PSPNetForSemanticSegmentation, _RESNETS, ResNetBackbone),
    "swin_segformer": Architecture(
        SwinSegformerForSemanticSegmentation,
        {
            "tiny": {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "decoder_hidden_size": 64},
            "swin-tiny": {},
        },
        SwinBackbone,
        ("hidden_states_norms.",),
        ("swin.layernorm.",),
    ),
}
"""By the word of `--architecture`: SegFormer and the networks that the report compares it with."""


def name_architecture(model_type: str | None) -> str | None:
    """The word of `--architecture` for the model type of a configuration; None for models of others."""
    return next((name for name, one in ARCHITECTURES.items() if one.model_type == model_type), None)


def find_size(config: Mapping) -> str | None:
    """The name of a configuration's size, by widths and depths of its encoder; None if it has no name."""
    family = ARCHITECTURES[name_architecture(config.get("model_type")) or "segformer"]
    defaults = family.model_class.config_class().to_dict()
    shape = {"hidden_sizes", "embed_dim", "depths", "upsampling"} & defaults.keys()
    sizes = ((name, defaults | fields) for name, fields in family.sizes.items())
    return next((name for name, fields in sizes if all(config.get(k) == fields[k] for k in shape)), None)


def build_config(size: str, label_space: LabelSpace, architecture: str = "segformer", **overrides) -> PretrainedConfig:
    """Configuration of a named size for these classes; `overrides` are fields of the architecture's configuration."""
    family = _find_architecture(architecture)
    if size not in family.sizes:
        fix = f"choose one of them, or another `--architecture` than {architecture}"
        raise ModelError(f"a size of {', '.join(family.sizes)}", f"`{size}`", fix)
    fields = family.sizes[size] | label_fields(label_space) | _check_fields(architecture, overrides)
    return family.model_class.config_class(**fields)


def build_random_model(
    size: str, label_space: LabelSpace, architecture: str = "segformer", **overrides
) -> PreTrainedModel:
    """A model with random weights."""
    config = build_config(size, label_space, architecture, **overrides)
    return _find_architecture(architecture).model_class(config)


def load_pretrained_model(
    name_or_path: str,
    label_space: LabelSpace,
    revision: str | None = None,
    architecture: str = "segformer",
    new_classifier: bool = False,
    **overrides,
) -> PreTrainedModel:
    """A model from the Hub or a folder, completely: every tensor is found, or it is an error.

    When the checkpoint's classes are others, rows of the classifier are kept for those that both have, by name, the
    others start from random weights, and the log lists both. A checkpoint of the encoder alone, trained on ImageNet,
    keeps its encoder and gets a new decode head: `nvidia/mit-b0` for a SegFormer, `microsoft/resnet-50` for DeepLabV3+
    and PSPNet, `microsoft/swin-tiny-patch4-window7-224` for Swin.

    Args:
        name_or_path: Hub id or local folder, keys in the old or the new layout of transformers.
        new_classifier: Keep no row of the classifier.
        overrides: Fields of the architecture's configuration, for example `drop_path_rate`.

    Raises:
        ModelError: Not found, of another architecture, damaged, or tensors missing, unexpected or of another shape.
    """
    family, config = _find_architecture(architecture), load_config(name_or_path, revision)
    fields = label_fields(label_space) | _check_fields(architecture, overrides)
    model_class = family.model_class
    if config.model_type == family.encoder_type:
        return _load_encoder(name_or_path, revision, family, config, fields)
    if config.model_type != family.model_type:
        kept = config.model_type == SegformerConvDecoderConfig.model_type
        fix = "choose another model"
        if kept:
            fix = "convert its .pth file with `--decoder drop` and train a new decoder"
        elif known := name_architecture(config.model_type):
            fix += f" or `--architecture {known}`"
        expected = "a SegFormer" if architecture == "segformer" else f"a `{architecture}`"
        expected += f", or a `{family.encoder_type}` as its encoder" if family.encoder_type else ""
        raise ModelError(expected, f"model type `{config.model_type}`", fix, name_or_path)
    encoder_only = architecture == "segformer" and model_class.__name__ not in (config.architectures or [])
    own = label_fields(label_space) if encoder_only else {}
    for name, value in (_check_fields(architecture, overrides) | own).items():
        setattr(config, name, value)
    parts = {"new": ("decode_head.",), "unused": ("classifier.",)} if encoder_only else {}
    model = load_complete(model_class, name_or_path, revision=revision, config=config, **parts)
    if encoder_only:
        logger.warning("%s holds an encoder only: the decode head starts from random weights", name_or_path)
        return model
    return adapt_classes(model, label_space, str(name_or_path), new_classifier)


def _load_encoder(
    name_or_path: str, revision: str | None, family: Architecture, config: PretrainedConfig, fields: Mapping
) -> PreTrainedModel:
    """A new model whose encoder has the weights of a classifier's."""
    own = {"id2label", "label2id", "num_labels", "architectures", "model_type", "out_features", "out_indices"}
    shape = {key: value for key, value in config.to_dict().items() if key not in own}
    config.out_features = config.stage_names[1:]
    parts = {"new": family.encoder_new, "unused": ("classifier.",)}
    encoder = load_complete(family.encoder_class, name_or_path, revision=revision, config=config, **parts)
    model = family.model_class(family.model_class.config_class(**shape | fields))
    state = {name: one for name, one in encoder.state_dict().items() if not name.startswith(family.encoder_unused)}
    model.backbone.load_state_dict(state, strict=True)
    logger.warning("%s holds an encoder only: the decode head starts from random weights", name_or_path)
    return model


def _find_architecture(name: str) -> Architecture:
    if name not in ARCHITECTURES:
        raise ModelError(f"an architecture of {', '.join(ARCHITECTURES)}", f"`{name}`", "choose one of them")
    return ARCHITECTURES[name]


def has_field(architecture: str, name: str) -> bool:
    """Whether the architecture's configuration has a field of this name."""
    return hasattr(_find_architecture(architecture).model_class.config_class(), name)


def _check_fields(architecture: str, overrides: Mapping) -> Mapping:
    """The fields, each of which the architecture's configuration must have."""
    if unknown := [name for name in overrides if not has_field(architecture, name)]:
        found = f"`{unknown[0]}` with `{architecture}`"
        raise ModelError("options that the architecture has", found, f"leave `{unknown[0]}` out")
    return overrides


def check_input(config: PretrainedConfig, name: str, size: tuple[int, int], images: int = 0) -> None:
    """Sends shapes alone through a model, so that an input it can't take is told before anything is written.

    Args:
        name: Of the option that decides `size` (height, width).
        images: Train on so many at once, BatchNorm included; 0 is evaluation.

    Raises:
        ModelError: An input too small for the network, or batches of one value per channel for its BatchNorm.
    """
    with torch.device("meta"):
        model = build_from_config(config).train(images > 0)
    try:
        model(torch.empty(images or 1, config.num_channels, *size, device="meta"))
    except Exception as error:  # of any layer
        reason = f"it takes {error.expected}" if isinstance(error, ModelError) else first_line(error)
        found = f"{size[0]} {size[1]}{f' in batches of {images}' if images else ''} ({reason})"
        fix = "take a larger one" + (", or larger batches (`--per_device_train_batch_size`)" if images else "")
        raise ModelError(f"a `{name}` that `{config.model_type}` can take", found, fix) from error


def build_image_processor(
    size: tuple[int, int], statistics: tuple[Sequence[float], Sequence[float]] | None = None
) -> SegformerImageProcessorPil:
    """The image processor saved with a model: resize to `size` (height, width), ImageNet normalisation.

    Given `statistics`, mean and deviation of more than three channels, it leaves images at their size: resizing four
    by Pillow would multiply the colours with the fourth, and resizing five fails.

    nvidia's processors resize to a square, which distorts street scenes; `choose_eval_size` gives one that fits.
    """
    INPUT_SIDES.check("eval_size", list(size))
    options = {"size": dict(zip(("height", "width"), size, strict=True)), "do_reduce_labels": False}
    if statistics is not None:
        mean, std = map(list, statistics)
        options |= {"do_resize": False, "image_mean": mean, "image_std": std}
    return SegformerImageProcessorPil(**options)
