"""What every loss needs to know about pixels: their resolution and which of them count."""

import torch
from torch import Tensor, nn

from hf_urbanseg.labels import IGNORE_INDEX


def upsample_logits(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Brings logits to label resolution in fp32, the way SegFormer is trained and tested (bilinear, corners free).

    Shape:
        logits: (N, C, h, w), any float type; fp64 stays fp64.
        returns: (N, C, *size), fp32 or fp64.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if logits.shape[-2:] == tuple(size):
        return logits
    return nn.functional.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def divide(total: Tensor, normalizer: Tensor | float) -> Tensor:
    """`total / normalizer` in the precision of `total`; `total` itself, which is 0, where the normaliser is 0."""
    normalizer = torch.as_tensor(normalizer, device=total.device)
    return total / torch.where(normalizer > 0, normalizer, 1).to(total.dtype)


def count_class_pixels(labels: Tensor, num_labels: int) -> Tensor:
    """Pixels per class, without the ignored ones.

    Shape:
        labels: (...) integer train ids or 255.
        returns: (num_labels,) int64 on the device of `labels`.

    Raises:
        ValueError: A label is neither a class nor 255. On a GPU the loss itself would only trip a
            device-side assertion that names nothing.
    """
    flat = labels.reshape(-1)
    counts = torch.bincount(flat.clamp_min(0), minlength=IGNORE_INDEX + 1)
    if int(counts[:num_labels].sum() + counts[IGNORE_INDEX]) != flat.numel() or bool((flat < 0).any()):
        wrong = sorted({int(v) for v in flat.unique()} - {*range(num_labels), IGNORE_INDEX})
        raise ValueError(f"expected labels of 0..{num_labels - 1} or {IGNORE_INDEX}; found {wrong}; map them first")
    return counts[:num_labels]
