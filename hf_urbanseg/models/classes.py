"""The classes of a model, and a classifier for others."""

import copy
import logging

import torch
from transformers import PreTrainedModel

from hf_urbanseg.class_names import find_common_classes
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace

logger = logging.getLogger(__name__)

_CLASSIFIER = "decode_head.classifier."
_OF_CLASSES = (_CLASSIFIER, "decode_head.upsamplings.")
"""Prefixes of what depends on the classes."""


def label_fields(label_space: LabelSpace) -> dict:
    """The fields of a configuration that name the classes."""
    labels = {"id2label": label_space.id2label, "label2id": label_space.label2id}
    return labels | {"semantic_loss_ignore_index": IGNORE_INDEX}


def adapt_classes(
    model: PreTrainedModel, label_space: LabelSpace, name: str, new_classifier: bool = False
) -> PreTrainedModel:
    """The model, loaded from `name` with its own classes, for those of `label_space`.

    Rows of the classifier are kept for classes that both have, by name, in their new place; the others start from
    random weights; with `new_classifier` all do. Placeholders such as `LABEL_0` are taken on trust if there are as many
    as classes. The log says what was done, unless nothing had to be.
    """
    old, new = [model.config.id2label[key] for key in sorted(model.config.id2label)], label_space.names
    is_named = not all(str(label).lower().replace("_", " ").startswith("label ") for label in old)
    if not is_named and len(old) == len(new) and not new_classifier:
        logger.warning(
            "the classes of %s have no names (%s, ...): its classifier is kept row by row, in the data's order "
            "(%s, ...); if its own is another, `--new_classifier true` makes it anew", name, old[0], new[0],
        )  # fmt: skip
        rows = {index: index for index in range(len(new))}
    else:
        common = find_common_classes(old, new) if is_named and not new_classifier else {}
        rows = {index: found[0] for index, found in common.items() if len(found) == 1}
        if len(rows) < len(new):
            _log_rows(name, old, new, rows)
        elif [rows[index] for index in range(len(new))] != [*range(len(old))]:
            logger.info("%s has the classes of the data in another order: each keeps its weights, by name", name)
    if len(old) != len(new) or any(index != row for index, row in rows.items()) or len(rows) < len(new):
        model = _replace_classifier(model, label_space, rows)
    for field, value in label_fields(label_space).items():
        setattr(model.config, field, value)
    return model


def _log_rows(name: str, old: list[str], new: tuple[str, ...], rows: dict[int, int]) -> None:
    kept, others = ([label for index, label in enumerate(new) if (index in rows) == wanted] for wanted in (True, False))
    start = "the classifier starts" if not kept else f"{', '.join(others)} start"
    logger.warning(
        "%s predicts %d classes (%s, ...), the data has %d (%s, ...): %s from random weights%s",
        name, len(old), old[0], len(new), new[0], start, f"; kept by name: {', '.join(kept)}" if kept else "",
    )  # fmt: skip


@torch.no_grad()
def _replace_classifier(model: PreTrainedModel, label_space: LabelSpace, rows: dict[int, int]) -> PreTrainedModel:
    config = copy.deepcopy(model.config)
    for field, value in label_fields(label_space).items():
        setattr(config, field, value)
    renewed, state = type(model)(config), model.state_dict()
    classifier = renewed.decode_head.classifier
    torch.nn.init.normal_(classifier.weight, std=getattr(config, "initializer_range", 0.01))
    torch.nn.init.zeros_(classifier.bias)
    for layer in getattr(renewed.decode_head, "upsamplings", ()):
        layer.reset_parameters()
    fresh, new, old = renewed.state_dict(), torch.tensor([*rows]).long(), torch.tensor([*rows.values()]).long()
    for key, tensor in state.items():
        if not key.startswith(_OF_CLASSES):
            fresh[key] = tensor
        elif key.startswith(_CLASSIFIER) or tensor.ndim == 1:
            fresh[key][new] = tensor[old]
        else:  # from classes to classes
            fresh[key][new[:, None], new] = tensor[old[:, None], old]
    renewed.load_state_dict(fresh, strict=True)
    return renewed.train(model.training)
