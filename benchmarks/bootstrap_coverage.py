"""How often the bootstrap interval of mIoU holds the truth, and how often its p-value cries wolf.

    OMP_NUM_THREADS=1 python benchmarks/bootstrap_coverage.py

A population of 100,000 simulated images (counts only) has a known mIoU. Splits of a few images are drawn from it; the
interval should hold the population's mIoU as often as it promises. 19 classes: nine in nearly every image, the others
ever rarer and smaller, down to 6 % of the images. Images differ in difficulty, all classes of one image together.
"""

import argparse
import time

import numpy as np

from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.metrics.bootstrap import bootstrap_mean_iou, paired_bootstrap
from hf_urbanseg.metrics.image_counts import ImageCounts

COMMON, RARE = 9, 10
PRESENCE = np.concatenate([np.full(COMMON, 0.95), np.geomspace(0.8, 0.06, RARE)])
PIXELS = np.concatenate([np.geomspace(1.5e5, 4e3, COMMON), np.geomspace(2e4, 600, RARE)])
EASE = np.linspace(3, -0.3, COMMON + RARE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=1000, help="splits drawn for every figure")
    parser.add_argument("--images", type=int, nargs="+", default=[25, 50, 200], help="images of a split")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--population", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    labelled, ease = build_labels(rng, args.population)
    equal = [build_model(rng, labelled, ease, 0.0) for _ in range(2)]
    better = build_model(rng, labelled, ease, 0.3)
    for images in args.images:
        start = time.perf_counter()
        held, width = [], []
        for _ in range(args.splits):
            chosen = rng.integers(0, args.population, images)
            interval = bootstrap_mean_iou(pick(equal[0], chosen), 0.95, args.resamples, int(rng.integers(2**31)))
            held.append(interval.low <= truth(equal[0]) <= interval.high)
            width.append(interval.high - interval.low)
        print(f"{images} images: 95 % interval of mIoU {show(held)}, mean width {np.mean(width):.4f}")
        for name, other in (("equally good models", equal[1]), ("a better model", better)):
            held, alarms, gap = [], [], truth(other) - truth(equal[0])
            for _ in range(args.splits):
                chosen = rng.integers(0, args.population, images)
                pair = pick(equal[0], chosen), pick(other, chosen)
                result = paired_bootstrap(*pair, 0.95, args.resamples, int(rng.integers(2**31)))
                held.append(result.interval.low <= gap <= result.interval.high)
                alarms.append(result.p_value < 0.05)
            print(f"  {name} (true difference {gap:+.4f}): interval {show(held)}; p < 0.05 in {show(alarms, '')}")
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)


def build_labels(rng: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) labelled pixels, and how easy each class of each image is to any model."""
    size = (images, COMMON + RARE)
    labelled = (rng.random(size) < PRESENCE) * np.round(PIXELS * rng.lognormal(-0.5, 1, size))
    return labelled.astype(np.int64), EASE + rng.normal(0, 0.6, (images, 1)) + rng.normal(0, 0.8, size)


def build_model(rng: np.random.Generator, labelled: np.ndarray, ease: np.ndarray, skill: float) -> np.ndarray:
    """(3, N, C) hits, labelled, predicted of one model; what it misses goes to a few classes of the image."""
    recall = 1 / (1 + np.exp(-(ease + skill + rng.normal(0, 0.5, ease.shape))))
    hits = np.round(labelled * recall).astype(np.int64)
    shares = rng.dirichlet(np.where(PRESENCE > 0.5, 0.5, 0.08), len(labelled))
    wrong = np.round((labelled - hits).sum(1, keepdims=True) * shares).astype(np.int64)
    return np.stack([hits, labelled, hits + wrong])


def pick(model: np.ndarray, chosen: np.ndarray) -> ImageCounts:
    return ImageCounts(tuple(map(str, range(len(chosen)))), CITYSCAPES.names, *model[:, chosen])


def truth(model: np.ndarray) -> float:
    hits, labelled, predicted = model.sum(1)
    return float((hits / (labelled + predicted - hits)).mean())


def show(outcomes: list[bool], verb: str = "holds the truth in ") -> str:
    share = np.mean(outcomes)
    return f"{verb}{100 * share:.1f} % (+- {100 * np.sqrt(share * (1 - share) / len(outcomes)):.1f})"


if __name__ == "__main__":
    main()
