from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from hf_urbanseg.data.collator import collate_eval, collate_train, stack_views


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
    samples = [
        {"views": [sample["pixel_values"]], "labels": sample["labels"], "index": 7 + k}
        for k, sample in enumerate(build_samples([(5, 7), (2, 9)]))
    ]
    batch = collate_eval(samples)
    assert [view.shape for view in batch["views"]] == [(2, 3, 4, 6)]
    assert batch["views"][0][:, 0, 0, 0].tolist() == [0, 1]
    assert [tuple(labels.shape) for labels in batch["labels"]] == [(5, 7), (2, 9)]
    assert [int(labels.unique()) for labels in batch["labels"]] == [0, 1]
    assert batch["index"] == [7, 8]


def test_stack_views__by_scale_and_stacked_where_sizes_agree():
    images = [[torch.full((3, 4, 6), 1.0), torch.full((3, 8, 12), 2.0)]]
    images.append([torch.full((3, 4, 6), 3.0), torch.full((3, 8, 10), 4.0)])
    small, large = stack_views(images)
    assert small.shape == (2, 3, 4, 6)
    assert small[:, 0, 0, 0].tolist() == [1, 3]
    assert [tuple(one.shape) for one in large] == [(3, 8, 12), (3, 8, 10)]
    assert [float(one[0, 0, 0]) for one in large] == [2, 4]


def test_stack_views__every_image_has_every_scale():
    with pytest.raises(ValueError):
        stack_views([[torch.zeros(3, 4, 6)], [torch.zeros(3, 4, 6), torch.zeros(3, 8, 8)]])


def test_collate__in_a_worker_into_shared_memory():
    """What isn't there yet is moved by the queue behind, which drops a batch for want of memory, unheard."""

    def list_shared(collate, samples) -> list[bool]:
        return look_into(collate(samples))

    def look_into(batch) -> list[bool]:
        values = batch.values() if isinstance(batch, dict) else batch
        tensors = [one for one in values if isinstance(one, torch.Tensor)]
        nested = [one for one in values if isinstance(one, (dict, list))]
        return [one.is_shared() for one in tensors] + [shared for one in nested for shared in look_into(one)]

    crops = build_samples([(4, 6)])
    train = [sample | {"unlabelled": crops} for sample in build_samples([(4, 6)] * 3)]
    sizes = [(5, 7), (2, 9)]
    measured = [
        {"views": [sample["pixel_values"], torch.zeros(3, *size)], "labels": sample["labels"], "index": 7}
        for sample, size in zip(build_samples(sizes), sizes, strict=True)
    ]
    for samples, collate, tensors in ((train, collate_train, 4), (measured, collate_eval, 5)):
        look = partial(list_shared, collate)
        found = [
            one for workers in (0, 1) for one in DataLoader(samples, len(samples), num_workers=workers, collate_fn=look)
        ]
        assert found == [[False] * tensors, [True] * tensors]
