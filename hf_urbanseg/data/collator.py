"""Samples to batches.

In a loader's worker they are put into shared memory here, where a lack of it is an error that reaches the training. The
queue behind would print it and leave the loader waiting for ever (torch 2.13; containers have 64 MB).
"""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import default_collate, get_worker_info


def collate_train(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor | dict[str, Tensor]]:
    """Stacks crops: pixel_values (N, 3, h, w), labels (N, h, w), and what else the samples have.

    Unlabelled crops, of which samples bring different numbers, are stacked alike, as `unlabelled`.
    """
    crops = [crop for sample in samples for crop in sample.get("unlabelled", ())]
    batch = default_collate([{key: sample[key] for key in samples[0] if key != "unlabelled"} for sample in samples])
    return batch | ({"unlabelled": collate_train(crops)} if crops else {})


def collate_eval(samples: Sequence[dict]) -> dict[str, list]:
    """Collects images by scale, and labels in a list, because native sizes differ: no padding, nothing to mask.

    Shape:
        views: one entry per scale, as `stack_views` gives it; labels: N tensors (H, W); index: N int.
    """
    return {
        "views": stack_views([sample["views"] for sample in samples]),
        "labels": [_share(sample["labels"]) for sample in samples],
        "index": [sample["index"] for sample in samples],
    }


def stack_views(images: Sequence[Sequence[Tensor]]) -> list[Tensor | list[Tensor]]:
    """Views of N images -> per scale one (N, 3, h, w) tensor, or N tensors (3, h, w) where their sizes differ."""
    return [_stack_or_list(views) for views in zip(*images, strict=True)]


def _stack_or_list(views: Sequence[Tensor]) -> Tensor | list[Tensor]:
    if len({view.shape for view in views}) == 1:
        return default_collate(views)
    return [*map(_share, views)]


def _share(tensor: Tensor) -> Tensor:
    return tensor if get_worker_info() is None else tensor.share_memory_()
