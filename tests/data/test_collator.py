import pytest
import torch

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
