"""The scores of a measured split, as they are written."""

import math
from collections.abc import Mapping

import numpy as np
import torch

from hf_urbanseg.json_yaml import replace_non_finite
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.metrics.bootstrap import bootstrap_mean_iou
from hf_urbanseg.metrics.calibration import describe_calibration
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.metrics.mean_iou import compute_scores


def describe_scores(
    matrix: torch.Tensor | np.ndarray,
    label_space: LabelSpace,
    constant_class: int,
    images: ImageCounts | None = None,
    calibration: Mapping[float, torch.Tensor] | None = None,
) -> dict:
    """Scores of one split for a run's metrics, beside those of always guessing one class.

    Args:
        matrix: (C, C) confusion matrix; row = label.
        label_space: Class names, and the categories to score if it has any.
        constant_class: Train id of the guess, the commonest class of train.
        images: Counts of the same pixels image by image, *optional*: they add a confidence interval and, if measured,
            boundary IoU.
        calibration: As of a `Measurement`; they add the list `calibration`, one of `describe_calibration` for each
            `temperature`.

    Returns:
        `mean_iou`, `mean_accuracy`, `mean_precision`, `mean_dice`, `overall_accuracy`, `frequency_weighted_iou`;
        `iou`, `accuracy`, `precision`, `dice`, `support` by class name, None where a class does not occur;
        `category_iou` by category and `mean_category_iou` where there are categories; with `images`
        `confidence_interval` of `mean_iou` (`low`, `high`, `confidence`, `resamples`, `seed`; None for a single image)
        and, if measured, `boundary_iou`, `mean_boundary_iou`; `absent_classes`, left out of the means;
        `constant_guess`; `confusion_matrix`. Values in [0, 1], nothing is NaN.
    """
    matrix = np.asarray(torch.as_tensor(matrix).cpu())
    names = label_space.names
    scores = compute_scores(matrix, label_space.categories)
    guess = np.zeros_like(matrix)
    guess[:, constant_class] = matrix.sum(1)
    guessed = compute_scores(guess)
    if images is not None:
        scores |= _describe_images(images)
    measured = [{"temperature": one, **describe_calibration(found)} for one, found in (calibration or {}).items()]
    # A score per class is a list, in the order of classes.
    described = {
        key: dict(zip(names, value, strict=True)) if isinstance(value, list) else value for key, value in scores.items()
    }
    return replace_non_finite({
        **described,
        "absent_classes": [name for name, value in zip(names, scores["iou"], strict=True) if math.isnan(value)],
        "constant_guess": {
            "class": names[constant_class],
            **{key: guessed[key] for key in ("mean_iou", "mean_accuracy", "overall_accuracy")},
        },
        **({"calibration": measured} if measured else {}),
        "confusion_matrix": matrix.tolist(),
    })  # fmt: skip


def _describe_images(images: ImageCounts) -> dict:
    enough = len(images) >= 2 and images.labelled.any()
    described = {"confidence_interval": bootstrap_mean_iou(images).to_dict() if enough else None}
    if images.boundary is not None:
        total = images.total()
        described["boundary_iou"] = total.boundary_iou[0].tolist()
        described["mean_boundary_iou"] = float(total.mean_boundary_iou[0])
    return described
