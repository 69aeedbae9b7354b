"""Mean IoU and its companions, as functions of a confusion matrix and as an `evaluate.Metric`."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import torch

from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix, divide


def compute_scores(matrix: torch.Tensor | np.ndarray, categories: Sequence[str] = ()) -> dict:
    """Scores in [0, 1] from one confusion matrix over a whole split.

    NaN rule: a class that occurs neither in labels nor in predictions has IoU and Dice NaN and is left out of
    `mean_iou` and `mean_dice`; a class predicted but never labelled has IoU and Dice 0 and counts. A class never
    labelled has accuracy NaN, one never predicted has precision NaN; each is left out of that mean. The same rule holds
    for categories. Without a single labelled pixel the means are NaN.

    Args:
        matrix: (C, C) integer counts; row = label, column = prediction.
        categories: The group of each class (`LabelSpace.categories`), or nothing for no scores of groups. Within a
            group, one class taken for another is right.

    Returns:
        `mean_iou`, `mean_accuracy`, `mean_precision`, `mean_dice`, `overall_accuracy`, `frequency_weighted_iou` (IoU
        weighted by labelled pixels) as floats; `iou`, `accuracy` (the share of a class's pixels that are found),
        `precision` and `dice` (lists of C floats, NaN as above); `support` (C ints: labelled pixels per class). With
        `categories` also `category_iou` (group -> float, in order of appearance) and `mean_category_iou`.

    Source: Cityscapes' evaluation (IoU of classes and categories) and MMSegmentation's `IoUMetric`, which agree on
    this rule.
    """
    matrix = np.asarray(torch.as_tensor(matrix).cpu()).astype(np.int64)
    hits, labelled, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    iou = divide(hits, labelled + predicted - hits)
    accuracy, precision = divide(hits, labelled), divide(hits, predicted)
    dice = divide(2 * hits, labelled + predicted)
    total = matrix.sum()
    scores = {
        "mean_iou": _nan_mean(iou),
        "mean_accuracy": _nan_mean(accuracy),
        "mean_precision": _nan_mean(precision),
        "mean_dice": _nan_mean(dice),
        "overall_accuracy": float(divide(hits.sum(), total)),
        "frequency_weighted_iou": float(divide(np.nansum(labelled * iou), total)),
        "iou": iou.tolist(),
        "accuracy": accuracy.tolist(),
        "precision": precision.tolist(),
        "dice": dice.tolist(),
        "support": labelled.tolist(),
    }
    return scores | (_compute_category_scores(matrix, categories) if categories else {})


def _compute_category_scores(matrix: np.ndarray, categories: Sequence[str]) -> dict:
    names = list(dict.fromkeys(categories))
    member = np.array([[category == name for category in categories] for name in names], np.int64)
    grouped = member @ matrix @ member.T
    hits = np.diag(grouped)
    iou = divide(hits, grouped.sum(1) + grouped.sum(0) - hits)
    return {"category_iou": dict(zip(names, iou.tolist(), strict=True)), "mean_category_iou": _nan_mean(iou)}


def _nan_mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


class MeanIoU(evaluate.Metric):
    """Mean IoU as an `evaluate.Metric` that keeps a confusion matrix instead of every mask.

    `evaluate.load("mean_iou")` needs a download and caches all masks; this one needs neither, and takes images of
    different sizes one by one or in lists.

    Shape:
        predictions, references: lists of (H, W) integer arrays (or one (N, H, W) array); sizes may differ between
            images.

    Example:
        metric = MeanIoU(num_labels=19)
        metric.add_batch(predictions=[pred], references=[label])
        metric.compute()["mean_iou"]
    """

    def __init__(self, num_labels: int, ignore_index: int = IGNORE_INDEX, **kwargs):
        super().__init__(**kwargs)
        self._confusion_matrix = ConfusionMatrix(num_labels, ignore_index)

    def _info(self) -> evaluate.MetricInfo:
        mask = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        return evaluate.MetricInfo(
            description="Mean intersection over union of semantic segmentation, from a running confusion matrix.",
            citation="",
            inputs_description="predictions, references: lists of (H, W) integer arrays of train ids.",
            features=datasets.Features({"predictions": mask, "references": mask}),
        )

    def add(self, *, prediction=None, reference=None, **kwargs) -> None:
        """Adds one image."""
        self._confusion_matrix.update(_as_integers(prediction), _as_integers(reference))

    def add_batch(self, *, predictions=None, references=None, **kwargs) -> None:
        """Adds images; both lists must have the same length."""
        if len(predictions) != len(references):
            raise ValueError(f"expected as many predictions as references; found {len(predictions)}, {len(references)}")
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict:
        """Scores of everything added so far (plus the given images), then starts afresh; see `compute_scores`."""
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        scores = compute_scores(self._confusion_matrix.matrix)
        self._confusion_matrix.reset()
        return scores


def _as_integers(mask) -> torch.Tensor:
    mask = torch.as_tensor(np.asarray(mask) if not isinstance(mask, torch.Tensor) else mask)
    if mask.is_floating_point():
        raise ValueError(f"expected integer train ids; found {mask.dtype}; take the argmax first")
    return mask
