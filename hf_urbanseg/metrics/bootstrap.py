"""How far a score would move with other images: intervals and tests by resampling images."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.metrics.image_counts import ImageCounts

# Numbers held at once for the draws of one piece: 32 MB.
_PIECE = 2**22


@dataclass(frozen=True)
class Interval:
    """A score and its confidence interval, all in [0, 1] (a difference: in [-1, 1])."""

    estimate: float
    low: float
    high: float
    confidence: float
    resamples: int
    seed: int

    def to_dict(self) -> dict:
        """JSON-ready, without the estimate (it stands beside it under its own name)."""
        return {key: value for key, value in asdict(self).items() if key != "estimate"}


@dataclass(frozen=True)
class PairedResult:
    """Two models on the same images: mIoU of b minus mIoU of a, its interval, and a two-sided p-value."""

    difference: float
    interval: Interval
    p_value: float


def bootstrap_mean_iou(
    images: ImageCounts, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Bootstrap confidence interval of a split's mIoU.

    PLACEHOLDER

    Raises:
        DataError: Fewer than two images, or none with a labelled pixel.
        ConfigError: `confidence` or `resamples` out of range.
    """
    _check(images, confidence, resamples)
    counts = _stack(images)
    estimate = float(_mean_iou(counts.sum(0)))
    drawn = np.concatenate([_mean_iou(weights @ counts) for weights in _draw(len(images), resamples, seed)])
    low, high = _percentiles(drawn, confidence)
    return Interval(estimate, low, high, confidence, resamples, seed)


def paired_bootstrap(
    a: ImageCounts, b: ImageCounts, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> PairedResult:
    """Is model b better than model a? mIoU of b minus mIoU of a on the same resampled images.

    PLACEHOLDER
    """
    _check(a, confidence, resamples)
    b = _align(a, b)
    counts_a, counts_b = _stack(a), _stack(b)
    difference = float(_mean_iou(counts_b.sum(0)) - _mean_iou(counts_a.sum(0)))
    drawn = np.concatenate(
        [
            _mean_iou(weights @ counts_b) - _mean_iou(weights @ counts_a)
            for weights in _draw(len(a), resamples, seed)
        ]
    )
    low, high = _percentiles(drawn, confidence)
    beyond = np.count_nonzero(np.abs(drawn - difference) >= abs(difference))
    p_value = (1 + beyond) / (1 + resamples)
    return PairedResult(difference, Interval(difference, low, high, confidence, resamples, seed), p_value)


def _draw(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """(R, N) float64 pieces: how often each of N images is in each resample of N."""
    random = np.random.default_rng(seed)
    rows = max(1, _PIECE // images)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(0, images, (count, images)) + np.arange(count)[:, None] * images
        yield np.bincount(drawn.reshape(-1), minlength=count * images).reshape(count, images).astype(np.float64)


def _stack(images: ImageCounts) -> np.ndarray:
    """(N, 2C) float64: hits and unions; sums of pixels stay exact below 2**53."""
    return np.concatenate([images.hits, images.labelled + images.predicted - images.hits], 1).astype(np.float64)


def _mean_iou(sums: np.ndarray) -> np.ndarray:
    """(...) mIoU of (..., 2C) hits and unions: classes without a pixel are left out, as in `compute_scores`."""
    hits, unions = np.split(sums, 2, -1)
    present = unions > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(present, hits / unions, 0)
        return iou.sum(-1) / present.sum(-1)


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _check(images: ImageCounts, confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise ConfigError("`confidence` between 0 and 1", f"{confidence}", "95 % is 0.95")
    if resamples < 100:
        raise ConfigError("`resamples` of 100 or more", f"{resamples}", "use more, they are cheap")
    if len(images) < 2:
        raise DataError("two images or more to resample", f"{len(images)}", "measure more images")
    if not images.labelled.any():
        raise DataError("labelled pixels", "only void", "check the labels")


def _align(a: ImageCounts, b: ImageCounts) -> ImageCounts:
    """b in a's order of images."""
    if a.classes != b.classes:
        raise DataError("the same classes in both", "different ones", "measure with one label space")
    if missing := sorted(set(a.names) ^ set(b.names)):
        where = "first" if missing[0] in set(a.names) else "second"
        found = f"{len(missing)} in one only ({missing[0]} only in the {where})"
        raise DataError("the same images in both", found, "measure both on one split")
    position = {name: index for index, name in enumerate(b.names)}
    b = b.select([position[name] for name in a.names])
    different = np.flatnonzero((a.labelled != b.labelled).any(1))
    if len(different):
        raise DataError("the same labels in both", f"others for {a.names[different[0]]}", "measure both on one split")
    return b
