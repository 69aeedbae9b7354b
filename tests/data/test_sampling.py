import numpy as np
import pytest
import torch

from hf_urbanseg.data.rare_classes import RareClasses
from hf_urbanseg.data.sampling import EpochSampler, JoinedSampler, StreamSampler


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


@pytest.mark.parametrize(
    ("sizes", "shares", "step"),
    [
        ((32, 367), (0.5, 0.5), 8),
        ((10, 3, 50), (0.45, 0.05, 0.5), 4),
        ((3, 2), (0.9, 0.1), 16),
        ((7, 90), (0.999, 0.001), 5),
    ],
)
def test_joined_sampler__every_set_has_its_share_in_shuffled_rounds(sizes, shares, step):
    sampler = JoinedSampler(sizes, shares, step, seed=4)
    keys = []
    for epoch in range(-(-3000 // len(sampler))):
        sampler.set_epoch(epoch)
        keys += list(sampler)
        assert [index for _, index in keys[-step:]] == sampler.list_step(len(keys) // step - 1)
    assert len(set(keys)) == len(keys)  # no two are the same sample
    starts = np.cumsum((0, *sizes))
    which = np.searchsorted(starts, [index for _, index in keys], side="right") - 1
    drawn = np.stack([np.cumsum(which == number) for number in range(len(sizes))])
    exact = np.outer(shares, np.arange(1, len(keys) + 1))
    assert np.abs(drawn - exact)[:, step - 1 :: step].max() < len(sizes)  # at the end of every step
    for number, size in enumerate(sizes):
        own = [index - starts[number] for _, index in keys if starts[number] <= index < starts[number + 1]]
        rounds = [own[start : start + size] for start in range(0, len(own) - size + 1, size)]
        assert all(sorted(one) == list(range(size)) for one in rounds)
        assert len(rounds) < 9 or size < 3 or len(set(map(tuple, rounds))) > 1  # each in another order


def test_joined_sampler__an_epoch_shows_the_first_set_once_and_ranks_get_all_sets():
    sampler = JoinedSampler((32, 400), (0.5, 0.5), 8, seed=0)
    steps = np.array([index for _, index in sampler]).reshape(-1, 8)
    assert len(steps) * 8 == 64
    assert sorted(steps[steps < 32]) == list(range(32))
    assert ((steps < 32).sum(1) == 4).all()
    # Of two ranks' halves of a step, neither is always one set.
    assert 0 < (steps[:, :4] < 32).sum() < steps[:, :4].size
    assert list(sampler) != list(JoinedSampler((32, 400), (0.5, 0.5), 8, seed=1))


RARE = np.array([[100, 1]] * 3 + [[100, 0]] * 17)


def test_epoch_sampler__without_draws_by_class_the_keys_are_those_of_the_shuffled_order():
    for rare in (None, RareClasses(RARE, 0.0)):
        sampler = EpochSampler(20, 8, seed=3, rare=rare)
        sampler.set_epoch(4)
        order = np.random.default_rng((3, 4, 0)).permutation(20)
        assert list(sampler) == [(4, index) for index in order[:16]]


def test_epoch_sampler__draws_by_class_take_places_and_the_others_go_on_in_order():
    sampler = EpochSampler(20, 8, seed=3, rare=RareClasses(RARE, 0.5))
    steps = []
    for epoch in range(30):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        steps += [keys[:8], keys[8:]]
        assert len(set(keys)) == len(keys) == 16
        assert len({key[:2] for key in keys}) == 16  # what seeds a sample: an image that comes again is another
        assert {number & 0xFFFFFFFF for number, *_ in keys} == {epoch}
        drawn, others = ([key for key in keys if len(key) == length] for length in (3, 2))
        assert {train_id for *_, train_id in drawn} <= {1}
        assert {index for _, index, _ in drawn} <= {0, 1, 2}
        order = np.random.default_rng((3, epoch, 0)).permutation(20)
        assert [index for _, index in others] == list(order[: len(others)])
    assert sum(len(key) == 3 for step in steps for key in step) == pytest.approx(240, abs=40)
    assert [sampler.list_step(step) for step in range(60)] == [[key[1] for key in step] for step in steps]


def test_stream_sampler__every_frame_once_file_by_file_within_the_buffer():
    sizes, buffer = (7, 1, 12, 5), 6
    sampler = StreamSampler(sizes, buffer, 1, seed=4)
    starts = np.cumsum((0, *sizes))
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert {key[0] for key in keys} == {epoch}
        indices = [index for _, index in keys]
        assert sorted(indices) == list(range(25))
        # The files in their order of this epoch, and their rows in theirs: each run of the buffer is cut out of that.
        files = np.random.default_rng((4, epoch, 0)).permutation(len(sizes))
        stream = [index for file in files for index in range(starts[file], starts[file + 1])]
        for start in range(0, 25, buffer):
            assert sorted(indices[start : start + buffer]) == sorted(stream[start : start + buffer])
        assert indices != stream
        orders.append(tuple(indices))
    assert len(set(orders)) == 3
    assert sampler.list_step(25 * 2 + 3) == [orders[2][3]]


def test_stream_sampler__whole_steps_and_a_set_smaller_than_one():
    assert len(list(StreamSampler((7, 4), 3, 4, seed=0))) == 8
    keys = list(StreamSampler((2, 1), 100, 8, seed=0))
    assert len(set(keys)) == 8
    assert sorted(index for _, index in keys[:6]) == [0, 0, 1, 1, 2, 2]
