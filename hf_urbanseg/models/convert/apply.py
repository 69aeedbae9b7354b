"""Tensors of a file by name and shape -> tensors of a Hub module: all of them, each once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import SegformerConfig

from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.convert.keys import Rule


def apply_rules(
    rules: Sequence[Rule], tensors: Mapping[str, Tensor], hub: torch.nn.Module, what: str, path: Path,
    prefix: str = "",
) -> dict[str, Tensor]:  # fmt: skip
    """Every rule once, after names and shapes are found to be those of the rules.

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
    _check_names_and_shapes({rule.file: rule.to_file(shapes) for rule in rules}, tensors, what, path, prefix)
    return {name: part for rule in rules for name, part in rule.to_hub(tensors[rule.file])}


def _check_names_and_shapes(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str, path: Path, prefix: str = ""
) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            difference = f"`{prefix}{name}` missing"
        elif name not in expected:
            difference = f"`{prefix}{name}` left over"
        elif found[name].shape != expected[name].shape:
            difference = f"`{prefix}{name}` {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        elif found[name].is_floating_point() != expected[name].is_floating_point():
            difference = f"`{prefix}{name}` as {found[name].dtype}"
        else:
            continue
        raise ModelError(f"the {len(expected)} tensors of the {what}", difference, "take an unaltered checkpoint", path)


def build_meta_model(model_type: type, config: SegformerConfig):
    """A module of names and shapes that takes no memory."""
    with torch.device("meta"):
        return model_type(config)
