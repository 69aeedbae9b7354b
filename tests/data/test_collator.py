import pytest
import torch

from hf_urbanseg.data.collator import collate_eval, collate_train


def build_samples(sizes):
    return [
        {"pixel_values": torch.full((3, 4, 6), float(k)), "labels": torch.full(size, k, dtype=torch.int64)}
        for k, size in enumerate(sizes)
    ]


def test_collate_train__stacks_in_order():
    batch = collate_train(build_samples([(4, 6)] * 3))
    assert batch["pixel_values"].shape == (3, 3, 4, 6)
    assert batch["labels"].shape == (3, 4, 6)
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"][:, 0, 0].tolist() == batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 1, 2]


def test_collate_eval__labels_keep_their_own_sizes():
    batch = collate_eval(build_samples([(5, 7), (2, 9)]))
    assert batch["pixel_values"].shape == (2, 3, 4, 6)
    assert [tuple(labels.shape) for labels in batch["labels"]] == [(5, 7), (2, 9)]
    assert [int(labels.unique()) for labels in batch["labels"]] == [0, 1]


def test_collate_train__crops_of_different_size_are_a_mistake():
    with pytest.raises(RuntimeError):
        collate_train(build_samples([(4, 6), (5, 6)]))
