import numpy as np
import pytest
import torch

from hf_urbanseg.data.sampling import EpochSampler


def test_epoch_sampler__an_epoch_is_a_permutation_that_carries_its_number():
    sampler = EpochSampler(12, 4, seed=0)
    sampler.set_epoch(5)
    keys = list(sampler)
    assert {epoch for epoch, _ in keys} == {5}
    assert sorted(index for _, index in keys) == list(range(12))
    assert [index for _, index in keys] != list(range(12))


def test_epoch_sampler__same_on_every_rank_and_every_time():
    sampler = EpochSampler(50, 8, seed=7)
    first = list(sampler)
    assert list(sampler) == first
    np.random.seed(1)
    torch.manual_seed(1)
    assert list(EpochSampler(50, 8, seed=7)) == first


def test_epoch_sampler__order_depends_on_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochSampler(50, 8, seed)
        sampler.set_epoch(epoch)
        return tuple(index for _, index in sampler)

    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize(("samples", "step", "length"), [(50, 8, 48), (48, 8, 48), (9, 8, 8), (8, 8, 8)])
def test_epoch_sampler__whole_steps_of_distinct_samples(samples, step, length):
    sampler = EpochSampler(samples, step, seed=1)
    keys = list(sampler)
    assert len(sampler) == len(keys) == length
    assert len(set(keys)) == length
    assert {index for _, index in keys} <= set(range(samples))


def test_epoch_sampler__what_is_cut_changes_with_the_epoch():
    sampler = EpochSampler(10, 4, seed=1)
    cut = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        cut.append(frozenset(range(10)) - {index for _, index in sampler})
    assert frozenset.union(*cut) == frozenset(range(10))


@pytest.mark.parametrize(("samples", "step"), [(3, 8), (1, 5), (7, 8)])
def test_epoch_sampler__a_set_smaller_than_a_step_repeats_evenly_with_other_augmentation(samples, step):
    sampler = EpochSampler(samples, step, seed=1)
    sampler.set_epoch(2)
    keys = list(sampler)
    assert len(sampler) == len(keys) == step
    assert len(set(keys)) == step  # no two are the same sample: the repeats have keys of their own
    counts = np.bincount([index for _, index in keys], minlength=samples)
    assert counts.max() - counts.min() <= 1
    sampler.set_epoch(3)
    assert not set(keys) & set(sampler)
