"""What every loss needs to know about pixels: their resolution and which of them count."""

import torch
from torch import Tensor, nn


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


def count_class_pixels(labels: Tensor, num_labels: int, ignore_index: int) -> Tensor:
    """Pixels per class, without the ignored ones.

    Shape:
        labels: (...) integer train ids or `ignore_index`.
        returns: (num_labels,) int64 on the device of `labels`.

    Raises:
        ValueError: A label is neither a class nor `ignore_index`. On a GPU the loss itself would only trip a
            device-side assertion that names nothing.
    """
    flat = labels.reshape(-1)
    if ignore_index < num_labels:
        flat = flat[flat != ignore_index]
    counts = torch.bincount(flat.clamp_min(0), minlength=max(num_labels, ignore_index + 1))
    known = counts[:num_labels].sum() + (counts[ignore_index] if ignore_index >= num_labels else 0)
    if bool((known != flat.numel()) | (flat < 0).any()):  # one wait for a GPU
        wrong = sorted({int(v) for v in flat.unique()} - set(range(num_labels)) - {ignore_index})
        raise ValueError(f"expected labels of 0..{num_labels - 1} or {ignore_index}; found {wrong}; map them first")
    return counts[:num_labels]
