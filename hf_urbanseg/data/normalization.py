"""Bytes of training samples to a model's floats, on its device."""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def channel_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, in 0..1: ImageNet's of RGB, and their average of further ones."""
    return tuple(one + (sum(one) / 3,) * (channels - 3) for one in (IMAGENET_MEAN, IMAGENET_STD))


def normalize_batch(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A collated batch of `TrainDataset` as a model takes it, on the batch's device; a batch of floats stays.

    Bytes travel from the workers: a sixth of the memory, where containers give workers 64 MB to share.

    Shape:
        pixel_values: (N, C, h, w) uint8, labels: (N, h, w) uint8, extent: (N, 2) int64 ->
        pixel_values: (N, C, h, w) float32, 0 (the mean colour) where padded; labels: (N, h, w) int64;
        inside: (N, h, w) bool, what isn't padding.

    Source: equals albumentations' `Normalize` and `PadIfNeeded` bit for bit.
    """
    pixels, rest = batch["pixel_values"], dict(batch)
    if pixels.dtype != torch.uint8:
        return rest
    inside = find_inside(rest.pop("extent"), pixels.shape[2:])
    values = normalize_pixels(pixels, inside)
    return rest | {"pixel_values": values, "labels": batch["labels"].long(), "inside": inside}


def find_inside(extent: Tensor, size: Sequence[int]) -> Tensor:
    """Shape: extent: (N, 2) rows and columns; returns (N, *size) bool, what isn't padding."""
    heights, widths = extent.T[..., None]
    rows, columns = (torch.arange(side, device=extent.device) for side in size)
    return (rows < heights)[:, :, None] & (columns < widths)[:, None, :]


def normalize_pixels(pixels: Tensor, inside: Tensor) -> Tensor:
    """Shape: pixels: (N, C, h, w) uint8; inside: (N, h, w) bool; returns float32 like `pixels`, 0 outside."""
    center, width = _statistics_on(pixels.device, pixels.shape[1])
    return (pixels.float() - center).mul_(width.reciprocal()).mul_(inside[:, None])


@cache
def _statistics_on(device: torch.device, channels: int) -> tuple[Tensor, Tensor]:
    """(C, 1, 1) mean and deviation in 0..255; kept, as to copy them waits for a GPU to end all its work."""
    mean, deviation = (255 * torch.tensor(one, device=device).view(-1, 1, 1) for one in channel_statistics(channels))
    return mean, deviation
