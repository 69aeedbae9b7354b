"""The files a finished run leaves beside its model."""

import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import accelerate
import albumentations
import datasets
import numpy as np
import torch
import transformers
import yaml

from hf_urbanseg import __version__
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.metrics.mean_iou import compute_scores


def describe_environment() -> dict:
    """Versions and machine, without names or paths that belong to a person."""
    return {
        "hf_urbanseg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "datasets": datasets.__version__,
        "albumentations": albumentations.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "system": platform.system(),
    }


def describe_scores(matrix: torch.Tensor | np.ndarray, label_space: LabelSpace, constant_class: int) -> dict:
    """Scores of one split for `metrics.json`, beside those of always guessing one class.

    Args:
        matrix: (C, C) confusion matrix; row = label.
        label_space: Class names.
        constant_class: Train id of the guess, the commonest class of train.

    Returns:
        `mean_iou`, `mean_accuracy`, `overall_accuracy`; `iou`, `accuracy`, `support` by class name, None where a class
        does not occur; `absent_classes`; `constant_guess`; `confusion_matrix`. Values in [0, 1], nothing is NaN.
    """
    matrix = np.asarray(matrix)
    scores = compute_scores(matrix)
    guess = np.zeros_like(matrix)
    guess[:, constant_class] = matrix.sum(1)
    guessed = compute_scores(guess)
    means = ("mean_iou", "mean_accuracy", "overall_accuracy")
    return {
        **{key: _finite(scores[key]) for key in means},
        **{
            key: {name: _finite(value) for name, value in zip(label_space.names, scores[key], strict=True)}
            for key in ("iou", "accuracy", "support")
        },
        "absent_classes": [n for n, v in zip(label_space.names, scores["iou"], strict=True) if math.isnan(v)],
        "constant_guess": {
            "class": label_space.names[constant_class],
            **{key: _finite(guessed[key]) for key in means},
        },
        "confusion_matrix": matrix.tolist(),
    }


def write_json(path: str | Path, content: Mapping) -> None:
    """Writes JSON (no NaN: it is not JSON), whole or not at all."""
    _write(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_yaml(path: str | Path, content: Mapping) -> None:
    """Writes YAML in the given order, whole or not at all."""
    _write(path, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def _finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: str | Path, text: str) -> None:
    path = Path(path)
    staged = path.with_name(f".{path.name}.tmp")
    staged.write_text(text, encoding="utf-8")
    os.replace(staged, path)
