"""Which samples a training step sees, and in which order."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import numpy as np
from torch.utils.data import Sampler

from hf_urbanseg.data.rare_classes import RareClasses


class EpochSampler(Sampler[tuple[int, ...]]):
    """Shuffled (epoch, index) keys, the same on every rank, in whole optimiser steps.

    The epoch travels with the index, so that workers that outlive an epoch can't repeat its augmentations. An epoch
    is cut (or, for a set smaller than one step, repeated) to a whole number of steps: every step then sees the same
    samples however they are laid out over ranks and micro-batches. What is cut differs from epoch to epoch.

    Args:
        num_samples: Size of the data set.
        step_size: Samples per optimiser step over all ranks and micro-batches.
        seed: Of the run; the order depends on it and the epoch.
        rare: Puts samples drawn by class in the place of some, *optional*: (epoch, index, class). The others go on
            through the shuffled order, as far as the epoch reaches.
    """

    def __init__(self, num_samples: int, step_size: int, seed: int, rare: RareClasses | None = None):
        self.num_samples, self.step_size, self.seed, self.rare = num_samples, step_size, seed, rare
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return max(self.num_samples // self.step_size, 1) * self.step_size

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return iter(self._generate(self.epoch))

    def list_step(self, step: int) -> list[int]:
        """Indices of an optimiser step's samples, over all ranks; steps are counted from 0, through all epochs."""
        epoch, step = divmod(step, len(self) // self.step_size)
        keys = islice(self._generate(epoch), step * self.step_size, (step + 1) * self.step_size)
        return [index for _, index, *_ in keys]

    def _generate(self, epoch: int) -> Iterable[tuple[int, ...]]:
        length = len(self)
        drawn = self.rare.draw(length, (self.seed, epoch)) if self.rare else [None] * length
        rounds = range(-(-length // self.num_samples))
        order = chain.from_iterable(
            np.random.default_rng((self.seed, epoch, repeat)).permutation(self.num_samples) for repeat in rounds
        )
        return _build_keys(epoch, [one or (int(next(order)),) for one in drawn])


def _build_keys(epoch: int, samples: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    keys, times = [], Counter()
    for index, *train_id in samples:
        # An image that comes again in an epoch gets a number that no real epoch has: its augmentation is another.
        keys.append((epoch + (times[index] << 32), index, *train_id))
        times[index] += 1
    return keys


class JoinedSampler(EpochSampler):
    """The same over several data sets, of which each has a share of the samples.

    Every run of samples has each set's share, to within a sample or two for rounding; so has every step. A set goes
    through shuffled rounds of its own, on through the epochs: none of its images comes again before all others have.
    An epoch is as long as the first set takes for one round.

    Args:
        sizes: Of the data sets, whose indices follow each other.
        shares: Of the samples, one for each set, above 0 and 1 together.
        rare: Draws by class among the frames of the first set, in place of some of its samples, *optional*.
    """

    def __init__(
        self, sizes: Sequence[int], shares: Sequence[float], step_size: int, seed: int, rare: RareClasses | None = None
    ):
        super().__init__(max(round(sizes[0] / shares[0]), 1), step_size, seed, rare)
        self.sizes, self.shares = tuple(sizes), tuple(shares)

    def _generate(self, epoch: int) -> Iterable[tuple[int, ...]]:
        drawn = self._count_drawn(np.arange(epoch * len(self), (epoch + 1) * len(self) + 1))
        chosen = np.diff(drawn).argmax(0)  # which set, for every sample
        # Shuffled within their steps, or a rank could have samples of one set alone.
        chosen = np.random.default_rng((self.seed, epoch)).permuted(chosen.reshape(-1, self.step_size), axis=1).ravel()
        indices = np.empty(len(self), np.int64)
        for number, counts in enumerate(drawn):
            indices[chosen == number] = self._list_drawn(number, int(counts[0]), int(counts[-1]))
        by_class = iter(self.rare.draw(int((chosen == 0).sum()), (self.seed, epoch)) if self.rare else ())
        samples = zip(chosen, indices.tolist(), strict=True)
        return _build_keys(epoch, [(None if number else next(by_class, None)) or (place,) for number, place in samples])

    def _count_drawn(self, samples: np.ndarray) -> np.ndarray:
        """(sets, *samples.shape) int64: how many of the first so many samples of a run are of each set."""
        counts, left, share_left = [], samples, 1.0
        for share in self.shares[:0:-1]:
            count = np.floor(left * (share / share_left) + 0.5).astype(np.int64)
            counts.insert(0, count)
            left, share_left = left - count, share_left - share
        return np.stack([left, *counts])

    def _list_drawn(self, number: int, start: int, stop: int) -> np.ndarray:
        """Indices that a set gives from its `start`-th draw to the one before `stop`."""
        size = self.sizes[number]
        first, last = start // size, -(-stop // size)
        rounds = [np.random.default_rng((self.seed, one, number + 1)).permutation(size) for one in range(first, last)]
        places = np.concatenate([np.empty(0, np.int64), *rounds])
        return sum(self.sizes[:number]) + places[start - first * size : stop - first * size]


class StreamSampler(EpochSampler):
    """The same over files that are read as they come: neighbours in time are neighbours in a few files.

    The files are shuffled; of their rows, one file after the other, `buffer` at a time are shuffled. Nothing is held
    but the keys of one such run, however many frames there are, and which samples a step has is still decided by
    (seed, epoch) alone, whoever reads them.

    Args:
        sizes: Rows of each file, whose indices follow each other.
        buffer: Frames that are shuffled at a time.
    """

    def __init__(self, sizes: Sequence[int], buffer: int, step_size: int, seed: int):
        super().__init__(sum(sizes), step_size, seed)
        self.sizes, self.buffer = np.asarray(sizes, np.int64), buffer

    def _generate(self, epoch: int) -> Iterator[tuple[int, int]]:
        rounds = range(-(-len(self) // self.num_samples))
        return islice(chain.from_iterable(self._generate_round(epoch, repeat) for repeat in rounds), len(self))

    def _generate_round(self, epoch: int, repeat: int) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, epoch, repeat)).permutation(len(self.sizes))
        ends = np.cumsum(self.sizes[order])
        # Of a row's place in that order, to its index.
        shifts = (np.cumsum(self.sizes) - self.sizes)[order] - (ends - self.sizes[order])
        for number, start in enumerate(range(0, self.num_samples, self.buffer)):
            places = np.arange(start, min(start + self.buffer, self.num_samples))
            indices = places + shifts[np.searchsorted(ends, places, side="right")]
            shuffled = np.random.default_rng((self.seed, epoch, repeat, number)).permutation(indices)
            yield from ((epoch + (repeat << 32), index) for index in shuffled.tolist())


class IndexSampler(EpochSampler):
    """The same order without the epochs, which data sets of others don't know."""

    def __iter__(self) -> Iterator[int]:
        return (index for _, index in super().__iter__())
