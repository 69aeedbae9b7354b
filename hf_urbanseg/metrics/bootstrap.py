"""How far a score would move with other images: intervals and tests by resampling images."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from hf_urbanseg.errors import DataError
from hf_urbanseg.metrics.image_counts import ImageCounts

# Numbers of one piece of draws, 8 bytes each: memory stays flat, however many images and resamples.
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
    images: ImageCounts | Sequence[ImageCounts],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    scenes: Sequence[Sequence[str]] = (),
) -> Interval:
    """Percentile bootstrap interval of a split's mIoU.

    As many images as there are are drawn with replacement and their counts summed, `resamples` times; the interval
    holds the middle `confidence` of the mIoUs. Classes without a pixel in a resample are left out of its mean, as in
    `compute_scores`; a resample of nothing but void is left out altogether. It says how far other images of the same
    kind would move the score; it says nothing of another training seed.

    Measured coverage of nominal 95 % intervals (benchmarks/bootstrap_coverage.py: simulated images of 19 classes, the
    rarest in 6 % of the images; 1,000 splits each, +- 1): 90 % with 25 images, 92 % with 50, 95 % with 200. So with 50
    images the truth is outside more often than the name says. BCa intervals were no better in the same simulation.

    10,000 resamples hold the limits to about 2 % of the interval's width. Equal seeds give equal intervals.

    Args:
        images: Of one model, or of one for each of several training seeds on the same images: then the score is their
            mean, seeds are drawn with replacement, too, and the interval also says how far other seeds would move it.
        scenes: Names of images that are drawn together, for frames of one street say little more than one of them;
            all others are drawn one by one.

    Raises:
        DataError: Fewer than two images or scenes, or none with a labelled pixel.
    """
    counts = _stack_all(images, scenes)
    estimate = float(np.mean([_mean_iou(one.sum(0)) for one in counts]))
    drawn = _draw_seeds(_resample(counts, resamples, seed), seed)
    return _build_interval(estimate, drawn, confidence, seed)


def paired_bootstrap(
    a: ImageCounts | Sequence[ImageCounts],
    b: ImageCounts | Sequence[ImageCounts],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    scenes: Sequence[Sequence[str]] = (),
) -> PairedResult:
    """Is model b better than model a? mIoU of b minus mIoU of a on the same resampled images.

    The p-value is twice the share of resamples in which the difference is 0 or has the other sign: p = 2 (1 + m) /
    (1 + `resamples`), m being the smaller of the counts of differences <= 0 and >= 0, and at most 1. It is never below
    2 / (1 + `resamples`), and below 1 - `confidence` only if the interval lies on one side of 0. In the simulation of
    `bootstrap_mean_iou`, p < 0.05 came out for 6 to 7 % of pairs of equally good models (25, 50, 200 images): take p
    between 0.02 and 0.05 as a hint.

    Several training seeds, of each model as many and in the same order, and `scenes` as in `bootstrap_mean_iou`: a
    resample takes the same seeds and scenes of both.

    Raises:
        DataError: Other images, classes or labels in a than in b, or fewer than two images or scenes.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 15.4 (level from the percentiles).
    """
    a, b = _list(a), _list(b)
    counts_a, counts_b = (_stack_all(one, scenes, a[0]) for one in (a, b))
    pairs = zip(counts_a, counts_b, strict=True)
    difference = float(np.mean([_mean_iou(two.sum(0)) - _mean_iou(one.sum(0)) for one, two in pairs]))
    drawn = _draw_seeds(_resample(counts_b, resamples, seed) - _resample(counts_a, resamples, seed), seed)
    rarer = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    p_value = min(1.0, 2 * (1 + int(rarer)) / (1 + resamples))
    return PairedResult(difference, _build_interval(difference, drawn, confidence, seed), p_value)


def _draw(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """(R, N) float64 pieces: how often each of N images is in each resample of N."""
    random = np.random.default_rng(seed)
    rows = max(1, _PIECE // images)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.integers(0, images, (count, images)) + np.arange(count)[:, None] * images
        yield np.bincount(drawn.reshape(-1), minlength=count * images).reshape(count, images).astype(np.float64)


def _resample(counts: Sequence[np.ndarray], resamples: int, seed: int) -> np.ndarray:
    """(R, S): mIoU of each of S measurements in each of R resamples."""
    draws = _draw(len(counts[0]), resamples, seed)
    return np.concatenate([np.stack([_mean_iou(weights @ one) for one in counts], 1) for weights in draws])


def _draw_seeds(scores: np.ndarray, seed: int) -> np.ndarray:
    """(R, S) -> (R,): the mean of S of them, drawn with replacement; of one, itself."""
    drawn = np.random.default_rng((seed, 1)).integers(0, scores.shape[1], scores.shape)
    return np.take_along_axis(scores, drawn, 1).mean(1)


def _list(images: ImageCounts | Sequence[ImageCounts]) -> list[ImageCounts]:
    return [images] if isinstance(images, ImageCounts) else list(images)


def _stack_all(
    images: ImageCounts | Sequence[ImageCounts], scenes: Sequence[Sequence[str]], like: ImageCounts | None = None
) -> list[np.ndarray]:
    """Of each measurement (U, 2C) float64, hits and unions by scene; sums of pixels stay exact below 2**53."""
    images = _list(images)
    like = like or images[0]
    scene_of = {name: number for number, scene in enumerate(scenes) for name in scene}
    units = [scene_of.get(name, name) for name in like.names]
    place = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    if len(place) < 2:
        what = "images" if len(place) == len(like) else "scenes"
        raise DataError(f"two {what} or more to resample", f"{len(place)}", "measure more images")
    if not like.labelled.any():
        raise DataError("labelled pixels", "only void", "check the labels")
    stacked = []
    for one in (like if one is like else _align(like, one) for one in images):
        found = np.zeros((len(place), 2 * len(like.classes)))
        rows = np.concatenate([one.hits, one.labelled + one.predicted - one.hits], 1)
        np.add.at(found, [place[unit] for unit in units], rows)
        stacked.append(found)
    return stacked


def _mean_iou(sums: np.ndarray) -> np.ndarray:
    """(...) mIoU of (..., 2C) hits and unions: classes without a pixel are left out, as in `compute_scores`."""
    hits, unions = np.split(sums, 2, -1)
    present = unions > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(present, hits / unions, 0)
        return iou.sum(-1) / present.sum(-1)


def _build_interval(estimate: float, drawn: np.ndarray, confidence: float, seed: int) -> Interval:
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2]).tolist()
    return Interval(estimate, low, high, confidence, len(drawn), seed)


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
