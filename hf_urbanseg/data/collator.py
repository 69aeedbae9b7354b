"""Samples to batches."""

from collections.abc import Sequence

import torch
from torch import Tensor


def collate_train(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor | dict[str, Tensor]]:
    """Stacks crops: pixel_values (N, 3, h, w), labels (N, h, w), and what else the samples have.

    Unlabelled crops, of which samples bring different numbers, are stacked alike, as `unlabelled`.
    """
    crops = [crop for sample in samples for crop in sample.get("unlabelled", ())]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0] if key != "unlabelled"}
    return batch | ({"unlabelled": collate_train(crops)} if crops else {})


def collate_eval(samples: Sequence[dict]) -> dict[str, list]:
    """Collects images by scale, and labels in a list, because native sizes differ: no padding, nothing to mask.

    Shape:
        views: one entry per scale, as `stack_views` gives it; labels: N tensors (H, W); index: N int.
    """
    return {
        "views": stack_views([sample["views"] for sample in samples]),
        "labels": [sample["labels"] for sample in samples],
        "index": [sample["index"] for sample in samples],
    }


def stack_views(images: Sequence[Sequence[Tensor]]) -> list[Tensor | list[Tensor]]:
    """Views of N images -> per scale one (N, 3, h, w) tensor, or N tensors (3, h, w) where their sizes differ."""
    by_scale = [list(views) for views in zip(*images, strict=True)]
    return [torch.stack(views) if len({view.shape for view in views}) == 1 else views for views in by_scale]
