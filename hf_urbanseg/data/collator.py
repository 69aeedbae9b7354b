"""Samples to batches."""

from collections.abc import Sequence

import torch
from torch import Tensor


def collate_train(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks crops: pixel_values (N, 3, h, w) float32, labels (N, h, w) int64."""
    return {key: torch.stack([sample[key] for sample in samples]) for key in ("pixel_values", "labels")}


def collate_eval(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor | list[Tensor]]:
    """Stacks images and keeps labels in a list, because native sizes differ: no padding, nothing to mask."""
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": [sample["labels"] for sample in samples],
    }
