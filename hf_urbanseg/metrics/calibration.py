"""Calibration: whether of pixels with a confidence of 0.8 four in five are right, and the temperature that mends it."""

import math

import numpy as np
import torch
from torch import Tensor

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.metrics.confusion_matrix import divide
from hf_urbanseg.ranges import Range

BINS = 15
TEMPERATURE = Range(0.01, 100)
# Sums are whole numbers of 2^-24, fp32's own step below 1: exact, in whatever order batches and processes add them.
_UNIT = 2**24


def count_calibration(probabilities: Tensor, labels: Tensor) -> Tensor:
    """What `describe_calibration` needs of some pixels; of several parts, the sum. Unlabelled pixels count nowhere.

    Shape:
        probabilities: (C, ...) float, of each class. labels: (...) integers, train ids or `IGNORE_INDEX`.
        returns: (5, 15) int64 on the same device; for each bin of the confidence, which is the largest probability:
            pixels, those right, and in units of 2^-24 the sums of confidence, negative log-likelihood and Brier score.
    """
    probabilities, labels = probabilities.flatten(1), labels.flatten()
    valid = labels != IGNORE_INDEX
    if not bool(valid.all()):
        probabilities, labels = probabilities[:, valid], labels[valid]
    confidence, best = probabilities.max(0)
    true = probabilities.gather(0, labels.long()[None])[0]
    # Bins hold their upper ends, as in the paper.
    bins = (confidence.double() * BINS).ceil_().long().clamp_(1, BINS) - 1
    likelihood = -true.clamp_min(torch.finfo(true.dtype).tiny).log()
    brier = probabilities.square().sum(0) - 2 * true + 1
    rows = [torch.bincount(bins, minlength=BINS), torch.bincount(bins[best == labels], minlength=BINS)]
    for values in (confidence, likelihood, brier):
        rows.append(torch.bincount(bins, (values.double() * _UNIT).round_(), minlength=BINS).long())
    return torch.stack(rows)


def describe_calibration(counts: Tensor) -> dict:
    """Scores from the sum of `count_calibration` over a split; NaN of no pixel at all, and of a bin without one.

    Returns:
        `ece`: expected calibration error of the largest probability: the mean over pixels of |accuracy - confidence| of
        their bin, of 15 equal bins. `nll`: mean negative log of the true class's probability (one below 1e-38 counts
        as that). `brier`: mean of the squared distances of all probabilities from 0 or 1, summed over classes: 0..2.
        `bins`: lists of 15: `pixels`, and the means `confidence` and `accuracy`.

    Source: Guo et al. 2017, On Calibration of Modern Neural Networks (ICML), equation 3; Brier 1950.
    """
    pixels, right, *sums = counts.cpu().numpy()
    confidence, likelihood, brier = (one / _UNIT for one in sums)
    total = pixels.sum()
    return {
        "ece": float(divide(np.abs(right - confidence).sum(), total)),
        "nll": float(divide(likelihood.sum(), total)),
        "brier": float(divide(brier.sum(), total)),
        "bins": {
            "pixels": pixels.tolist(),
            "confidence": divide(confidence, pixels).tolist(),
            "accuracy": divide(right, pixels).tolist(),
        },
    }


def compute_likelihood(logits: Tensor, labels: Tensor, weights: Tensor, temperature: float = 1.0) -> float:
    """Weighted mean negative log-likelihood of logits divided by a temperature; shapes as for `fit_temperature`."""
    return float(weights @ torch.nn.functional.cross_entropy(logits / temperature, labels, reduction="none"))


def fit_temperature(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """The temperature that logits must be divided by for the least mean negative log-likelihood.

    In 1 / temperature that mean is convex: its derivative is halved in on, in fp64, to 11 digits.

    Shape:
        logits: (P, C) float64. labels: (P,) int64. weights: (P,) float64 that sum to 1.

    Raises:
        DataError: None within `TEMPERATURE`: no pixel, none or all right, or logits that tell nothing of the labels.

    Source: Guo et al. 2017, section 4.2.
    """
    true = logits.gather(1, labels[:, None])[:, 0]

    def slope(temperature: float) -> float:
        return float(weights @ (((logits / temperature).softmax(1) * logits).sum(1) - true))

    low, high = math.log(TEMPERATURE.least), math.log(TEMPERATURE.most)
    if not len(labels) or not slope(TEMPERATURE.least) > 0 > slope(TEMPERATURE.most):
        found = f"none, of {len(labels):,} labelled pixels"
        raise DataError(f"a best temperature {TEMPERATURE}", found, "validate on more images, or train the model first")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp((low + high) / 2)
