"""Blocks of bilinearly upsampled logits, and the way back of their gradient."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CPU_BLOCK = 2**19
"""Upsampled logits made at once on a CPU: 2 MB in fp32, about what stays in cores' own caches through all passes."""
DEVICE_BLOCK = 2**24
"""The same elsewhere, where the start of a kernel costs more than its memory; at least one image."""
COLUMNS = 128
"""Columns of one matrix product; the wider, the more zeros it multiplies."""


def choose_dtype(logits: Tensor) -> torch.dtype:
    """fp64 for fp64, else fp32: half precision would lose the small losses in the sum."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def build_blocks(logits: Tensor, size: tuple[int, int] | torch.Size, gradient: Tensor | None) -> Iterator:
    """Cuts logits upsampled to `size` (bilinear, align_corners=False) into blocks that are made one by one.

    A block has `where`, its index in (N, *size); `upsample()`, its logits; and `add_gradient(block_gradient)`, which
    adds what these contribute to the gradient by the low-resolution logits.

    Args:
        gradient: Zeros like `logits`, in their `choose_dtype`; None if no gradient is wanted.

    Shape:
        logits: (N, C, h, w). Blocks: (images, C, height, width) or (rows, C, width): classes are always dimension 1.
    """
    build = _build_blocks if logits.device.type == "cpu" else _build_image_blocks
    return build(logits.detach(), tuple(size), gradient)


class _Band(NamedTuple):
    """Rows `out` of an interpolation matrix, with the columns `taps` that are not zero in all of them."""

    out: slice
    taps: slice
    matrix: Tensor


def _build_bands(source: int, target: int, step: int, dtype: torch.dtype) -> list[_Band] | None:
    """The resize of one axis as a product with a banded matrix, `step` results at a time; None if nothing changes.

    The matrix is torch's own resize of the identity, so that positions and weights are its own to the last bit.
    """
    if source == target:
        return None
    identity = torch.eye(source, dtype=dtype)[None, None]
    matrix = F.interpolate(identity, (target, source), mode="bilinear", align_corners=False)[0, 0]
    bands = []
    for start in range(0, target, step):
        rows = matrix[start : start + step]
        used = rows.any(0).nonzero()
        taps = slice(int(used[0]), int(used[-1]) + 1)
        bands.append(_Band(slice(start, start + len(rows)), taps, rows[:, taps].contiguous()))
    return bands


def _build_blocks(logits: Tensor, size: tuple[int, int], gradient: Tensor | None) -> Iterator["_RowBlock"]:
    (_, classes, height, width), dtype = logits.shape, choose_dtype(logits)
    step = max(1, CPU_BLOCK // (classes * size[1]))
    vertical = _build_bands(height, size[0], step, dtype)
    horizontal = _build_bands(width, size[1], COLUMNS, dtype)
    if vertical is None:
        spans = (slice(start, min(start + step, height)) for start in range(0, height, step))
        vertical = [_Band(span, span, None) for span in spans]
    for image, one in enumerate(logits):
        # Rows first: then a block is one piece of memory, and interpolating rows is one plain matrix product.
        source = one.transpose(0, 1).to(dtype).contiguous()
        back = None if gradient is None else torch.zeros_like(source)
        for band in vertical:
            yield _RowBlock(source, back, image, band, horizontal, size[1])
        if gradient is not None:
            gradient[image] = back.transpose(0, 1)


class _RowBlock:
    """Some rows of one image, (rows, C, width)."""

    def __init__(self, source, back, image, rows, columns, width):
        self.where = (image, rows.out)
        self._source, self._back, self._rows, self._columns, self._width = source, back, rows, columns, width

    def upsample(self) -> Tensor:
        block = self._source[self._rows.taps]
        if self._columns is not None:
            narrow, block = block.view(-1, block.shape[2]), block.new_empty(*block.shape[:2], self._width)
            wide = block.view(-1, self._width)
            for out, taps, matrix in self._columns:
                torch.mm(narrow[:, taps], matrix.T, out=wide[:, out])
        if self._rows.matrix is not None:
            return torch.mm(self._rows.matrix, block.view(len(block), -1)).view(-1, *block.shape[1:])
        return block if self._columns is not None else block.clone()

    def add_gradient(self, block: Tensor) -> None:
        target = self._back[self._rows.taps]
        if self._rows.matrix is not None:
            block = torch.mm(self._rows.matrix.T, block.view(len(block), -1)).view(-1, *block.shape[1:])
        if self._columns is None:
            target += block
            return
        narrow, wide = target.view(-1, target.shape[2]), block.view(-1, self._width)
        for out, taps, matrix in self._columns:
            narrow[:, taps].addmm_(wide[:, out], matrix)


def _build_image_blocks(logits: Tensor, size: tuple[int, int], gradient: Tensor | None) -> Iterator["_ImageBlock"]:
    step = max(1, DEVICE_BLOCK // (logits.shape[1] * size[0] * size[1]))
    for start in range(0, len(logits), step):
        yield _ImageBlock(logits, gradient, slice(start, start + step), size)


class _ImageBlock:
    """Some whole images, (images, C, height, width)."""

    def __init__(self, logits, gradient, images, size):
        self.where = images
        self._source, self._size = logits[images].to(choose_dtype(logits)), size
        self._gradient = None if gradient is None else gradient[images]

    def upsample(self) -> Tensor:
        if self._source.shape[-2:] == self._size:
            return self._source.clone()
        return F.interpolate(self._source, self._size, mode="bilinear", align_corners=False)

    def add_gradient(self, block: Tensor) -> None:
        if self._source.shape[-2:] != self._size:
            block = torch.ops.aten.upsample_bilinear2d_backward(block, self._size, self._source.shape, False)
        self._gradient += block
