"""Rare-class sampling: some samples are drawn by class, the rarer the more often, and show pixels of it."""

from collections.abc import Sequence

import numpy as np

PASTE_STREAM, DRAW_STREAM = 1, 2
"""Streams of random numbers beside those of the samples' order and augmentation, which stay as they are."""


class RareClasses:
    """Which classes are drawn, and for each the images that have enough of it.

    Args:
        counts: (num_images, num_labels) pixels of the training split, as `Inspection.train_id_counts` has them.
        share: Probability that a sample is such a draw.
        temperature: At 0.01 classes below 1 % of the pixels share nearly all draws; the higher, the more even.
        min_pixels: Of the class, that an image must have to be drawn for it, and its crop must show (see
            `BalancedRandomCrop`). Of a class that no image has so many of, all that have any are drawn.

    Source: Hoyer et al. 2022 (DAFormer), P(c) = softmax((1 - f_c) / T) over the classes that occur, f_c the share of
    the labelled pixels; T 0.01 is theirs. Differs: theirs draws every sample so, asks images of 2048x1024 for 3,000
    pixels and crops for half of that, and refuses a class without such an image.
    """

    def __init__(self, counts: np.ndarray, share: float, temperature: float = 0.01, min_pixels: int = 500):
        self.share, self.temperature, self.min_pixels = share, temperature, min_pixels
        self.frequencies = counts.sum(0) / counts.sum()
        self.probabilities = self.compute_probabilities(range(counts.shape[1]))
        scarce = counts.max(0) < min_pixels
        self.images = [np.flatnonzero(column) for column in np.where(scarce, counts > 0, counts >= min_pixels).T]

    def compute_probabilities(self, train_ids: Sequence[int]) -> np.ndarray:
        """(num_labels,): of a draw among these classes, as far as they occur."""
        among = np.isin(np.arange(len(self.frequencies)), train_ids) & (self.frequencies > 0)
        least = self.frequencies[among].min()
        with np.errstate(over="ignore"):
            values = np.where(among, np.exp((least - self.frequencies) / self.temperature), 0)  # the largest is exp(0)
        return values / values.sum()

    def draw(self, length: int, seed: Sequence[int]) -> list[tuple[int, int] | None]:
        """For each of so many samples the image and the class it is drawn for, or None; determined by `seed` alone."""
        random = np.random.default_rng(np.random.SeedSequence(list(seed), spawn_key=(DRAW_STREAM,)))
        chosen = random.random(length) < self.share
        classes = random.choice(len(self.images), length, p=self.probabilities)
        places = random.random(length)
        return [
            (int(self.images[train_id][int(place * len(self.images[train_id]))]), int(train_id)) if is_drawn else None
            for is_drawn, train_id, place in zip(chosen, classes, places, strict=True)
        ]
