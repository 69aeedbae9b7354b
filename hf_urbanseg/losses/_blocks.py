"""Blocks of bilinearly upsampled logits, and the way back of their gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CPU_BLOCK = 2**19
"""Upsampled logits made at once by a CPU thread: 2 MB in fp32, about what stays in cache through all passes."""
DEVICE_BLOCK = 2**24
"""The same elsewhere, where the start of a kernel costs more than its memory; at least one image."""
ROWS, COLUMNS = 8, 128
"""Results of one matrix product along each axis; the more, the more zeros it multiplies."""


def choose_dtype(logits: Tensor) -> torch.dtype:
    """fp64 for fp64, else fp32: half precision would lose the small losses in the sum."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


@contextmanager
def keep_full_precision() -> Iterator[None]:
    """Keeps the matrix products of blocks out of `torch.set_float32_matmul_precision`, which is there for models."""
    matmul = torch.backends.mkldnn.matmul
    wanted = matmul.fp32_precision
    if wanted in ("none", "ieee"):
        yield
        return
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = wanted


def build_blocks(logits: Tensor, size: tuple[int, int] | torch.Size) -> list["RowBlock | ImageBlock"]:
    """Cuts logits upsampled to `size` (bilinear, align_corners=False) into blocks that are made one by one.

    A block has `where`, its index in (N, *size); `upsample()`, its logits; `transpose(block_gradient)`, what these
    contribute to the gradient by low-resolution logits, and `add(contribution, gradient)`, which puts that in place.

    Shape:
        logits: (N, C, h, w). Blocks: (images, C, height, width) or (rows, C, width): classes are always dimension 1.
    """
    build = _build_row_blocks if logits.device.type == "cpu" else _build_image_blocks
    return build(logits.detach(), tuple(size))


class _Band(NamedTuple):
    """Some rows of an interpolation matrix, and what they multiply: the others of its columns hold zeros."""

    out: slice
    taps: slice
    matrix: Tensor


class _RowSpan(NamedTuple):
    """Rows of the result, the rows of the source they depend on, and how (relative to both); None if they are these."""

    out: slice
    taps: slice
    bands: list[_Band] | None


def _build_matrix(source: int, target: int, dtype: torch.dtype) -> Tensor:
    """(target, source): torch's resize of the identity, so that positions and weights are its own to the last bit."""
    identity = torch.eye(source, dtype=dtype)[None, None]
    return F.interpolate(identity, (target, source), mode="bilinear", align_corners=False)[0, 0]


def _cut_bands(matrix: Tensor, step: int) -> list[_Band]:
    bands = []
    for start in range(0, len(matrix), step):
        rows = matrix[start : start + step]
        used = rows.any(0).nonzero()
        taps = slice(int(used[0]), int(used[-1]) + 1)
        bands.append(_Band(slice(start, start + len(rows)), taps, rows[:, taps].contiguous()))
    return bands


def _interpolate(bands: list[_Band], source: Tensor, result: Tensor) -> None:
    for out, taps, matrix in bands:
        torch.mm(matrix, source[taps], out=result[out])


def _add_transposed(bands: list[_Band], gradient: Tensor, total: Tensor) -> None:
    for out, taps, matrix in bands:
        total[taps].addmm_(matrix.T, gradient[out])


def _cut_rows(source: int, target: int, step: int, dtype: torch.dtype) -> list[_RowSpan]:
    if source == target:
        spans = [slice(start, min(start + step, source)) for start in range(0, source, step)]
        return [_RowSpan(span, span, None) for span in spans]
    blocks = _cut_bands(_build_matrix(source, target, dtype), step)
    return [_RowSpan(out, taps, _cut_bands(matrix, ROWS)) for out, taps, matrix in blocks]


def _build_row_blocks(logits: Tensor, size: tuple[int, int]) -> list["RowBlock"]:
    (_, classes, height, width), dtype = logits.shape, choose_dtype(logits)
    spans = _cut_rows(height, size[0], max(1, CPU_BLOCK // (classes * size[1])), dtype)
    columns = None if width == size[1] else _cut_bands(_build_matrix(width, size[1], dtype), COLUMNS)
    return [RowBlock(logits, image, span, columns, size[1]) for image in range(len(logits)) for span in spans]


class RowBlock:
    """Some rows of one image, as (rows, C, width): then interpolating rows is one plain matrix product."""

    def __init__(self, logits, image, span, columns, width):
        self.where = (image, span.out)
        self._logits, self._span, self._columns, self._width = logits, span, columns, width

    def upsample(self) -> Tensor:
        image, (out, taps, bands) = self.where[0], self._span
        block = self._logits[image, :, taps].transpose(0, 1)
        block = block.to(choose_dtype(block)).clone(memory_format=torch.contiguous_format)
        (rows, classes, width), height = block.shape, out.stop - out.start
        if self._columns is not None:
            # Along the width first, while there are few rows.
            narrow, block = block.view(-1, width), block.new_empty(rows, classes, self._width)
            _interpolate(self._columns, narrow.T, block.view(-1, self._width).T)
        if bands is not None:
            low, block = block.view(rows, -1), block.new_empty(height, classes, self._width)
            _interpolate(bands, low, block.view(height, -1))
        return block

    def transpose(self, block: Tensor) -> Tensor:
        taps, bands, classes = self._span.taps, self._span.bands, block.shape[1]
        if bands is not None:
            high, block = block.view(len(block), -1), block.new_zeros(taps.stop - taps.start, classes, self._width)
            _add_transposed(bands, high, block.view(len(block), -1))
        if self._columns is not None:
            wide, block = block.view(-1, self._width), block.new_zeros(len(block), classes, self._logits.shape[3])
            _add_transposed(self._columns, wide.T, block.view(-1, block.shape[2]).T)
        return block

    def add(self, contribution: Tensor, gradient: Tensor) -> None:
        gradient[self.where[0], :, self._span.taps] += contribution.transpose(0, 1)


def _build_image_blocks(logits: Tensor, size: tuple[int, int]) -> list["ImageBlock"]:
    step = max(1, DEVICE_BLOCK // (logits.shape[1] * size[0] * size[1]))
    return [ImageBlock(logits, slice(start, start + step), size) for start in range(0, len(logits), step)]


class ImageBlock:
    """Some whole images, (images, C, height, width)."""

    def __init__(self, logits, images, size):
        self.where, self._size = images, size
        self._logits = logits[images]

    def upsample(self) -> Tensor:
        low = self._logits.to(choose_dtype(self._logits)).contiguous()  # classes apart, whatever the model has
        if low.shape[-2:] == self._size:
            return low.clone()
        return F.interpolate(low, self._size, mode="bilinear", align_corners=False)

    def transpose(self, block: Tensor) -> Tensor:
        if self._logits.shape[-2:] == self._size:
            return block
        return torch.ops.aten.upsample_bilinear2d_backward(block, self._size, self._logits.shape, False)

    def add(self, contribution: Tensor, gradient: Tensor) -> None:
        gradient[self.where] += contribution
