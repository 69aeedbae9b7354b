"""Which samples a training step sees, and in which order."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Shuffled (epoch, index) keys, the same on every rank, in whole optimiser steps.

    The epoch travels with the index, so that workers that outlive an epoch can't repeat its augmentations. An epoch
    is cut (or, for a set smaller than one step, repeated) to a whole number of steps: every step then sees the same
    samples however they are laid out over ranks and micro-batches. What is cut differs from epoch to epoch.

    Args:
        num_samples: Size of the data set.
        step_size: Samples per optimiser step over all ranks and micro-batches.
        seed: Of the run; the order depends on it and the epoch.
    """

    def __init__(self, num_samples: int, step_size: int, seed: int):
        self.num_samples, self.step_size, self.seed = num_samples, step_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return max(self.num_samples // self.step_size, 1) * self.step_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._list_epoch(self.epoch))

    def list_step(self, step: int) -> list[int]:
        """Indices of an optimiser step's samples, over all ranks; steps are counted from 0, through all epochs."""
        epoch, step = divmod(step, len(self) // self.step_size)
        return [index for _, index in self._list_epoch(epoch)[step * self.step_size :][: self.step_size]]

    def _list_epoch(self, epoch: int) -> list[tuple[int, int]]:
        rounds = -(-len(self) // self.num_samples)
        keys = []
        for repeat in range(rounds):
            order = np.random.default_rng((self.seed, epoch, repeat)).permutation(self.num_samples)
            # A set smaller than one step repeats inside it; numbers that no real epoch has keep the repeats different.
            keys += [(epoch + (repeat << 32), int(index)) for index in order]
        return keys[: len(self)]
