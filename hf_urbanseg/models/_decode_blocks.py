"""The decode head block of rows by block of rows, so that maps of full width pass through the cache, not memory (CPU).

A `map` here is channels-last: (height, width, channels). `fine` is the first stage, whose resolution the head works at;
`coarse` are the other stages, already projected to the head's width D.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_ELEMENTS_PER_THREAD = 2**19  # 2 MB of fp32, about what a core's own cache holds


@dataclass(frozen=True)
class _Block:
    """Output rows `first` to `last` - 1, the rows of each coarse map they are made of, and with which weights."""

    first: int
    last: int
    spans: tuple[tuple[int, int], ...]
    weights: Tensor  # (rows, sum of the spans' lengths)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _plan_blocks(height: int, coarse_heights: tuple[int, ...], rows: int, dtype: torch.dtype) -> tuple[_Block, ...]:
    precision = torch.promote_types(dtype, torch.float32)
    # What resizing makes of unit vectors are its weights, rounded as torch rounds them.
    matrices = [
        F.interpolate(
            torch.eye(source, dtype=precision)[None, None], (height, source), mode="bilinear", align_corners=False
        )[0, 0]
        for source in coarse_heights
    ]
    blocks = []
    for first in range(0, height, rows):
        last = min(first + rows, height)
        used = [matrix[first:last].any(0).nonzero()[:, 0] for matrix in matrices]
        spans = tuple((int(index[0]), int(index[-1]) + 1) for index in used)
        weights = [matrix[first:last, start:stop] for matrix, (start, stop) in zip(matrices, spans, strict=True)]
        blocks.append(_Block(first, last, spans, torch.cat(weights, 1).to(dtype)))
    return tuple(blocks)


class _Sum:
    """`fine @ weight.T + sum of the upsampled coarse maps`, any block of it on demand.

    Shape:
        fine: (N, h * w, C). weight: (D, C). coarse: (N, h_i, w_i, D) each. All of one dtype.
    """

    def __init__(self, size: tuple[int, int], fine: Tensor, weight: Tensor, coarse: Sequence[Tensor]):
        self.height, self.width = size
        self.fine, self.weight, self.coarse = fine, weight, coarse
        rows = _ELEMENTS_PER_THREAD * torch.get_num_threads() // (self.width * len(weight))
        heights = tuple(one.shape[1] for one in coarse)
        self.plan = _plan_blocks(self.height, heights, min(max(rows, 4), self.height), fine.dtype)

    def blocks(self) -> Iterator[tuple[int, _Block, slice]]:
        """(image, block, its pixels within the image), all images after one another."""
        for image in range(len(self.fine)):
            for block in self.plan:
                yield image, block, slice(block.first * self.width, block.last * self.width)

    def compute(self, image: int, block: _Block, pixels: slice, out: Tensor) -> None:
        """Writes one block.

        Shape:
            out: (pixels, D).
        """
        # Along the width by torch's resize while there are few rows, along the height as one small matrix product.
        wide = [
            F.interpolate(
                one[image, start:stop].permute(2, 0, 1)[None],
                (stop - start, self.width), mode="bilinear", align_corners=False,
            )[0].permute(1, 2, 0)
            for one, (start, stop) in zip(self.coarse, block.spans, strict=True)
        ]  # fmt: skip
        flat = out.view(block.last - block.first, -1)
        torch.mm(block.weights, torch.cat(wide).view(-1, flat.shape[1]), out=flat)
        torch.addmm(out, self.fine[image, pixels], self.weight.T, out=out)

    def add_gradients(self, image: int, block: _Block, gradient: Tensor, coarse_gradients: Sequence[Tensor]) -> None:
        """Adds what a block's gradient (pixels, D) means for the coarse maps: the transpose of `compute`."""
        wide = block.weights.T @ gradient.view(block.last - block.first, -1)
        wide = wide.view(len(wide), self.width, -1)
        begin = 0
        for (start, stop), total in zip(block.spans, coarse_gradients, strict=True):
            rows, begin = wide[begin : begin + stop - start], begin + stop - start
            shape = (1, total.shape[-1], stop - start, total.shape[2])
            narrow = torch.ops.aten.upsample_bilinear2d_backward(
                rows.permute(2, 0, 1)[None], (stop - start, self.width), shape, False, None, None
            )
            total[image, start:stop] += narrow[0].permute(1, 2, 0)


def compute_logits(
    size: tuple[int, int],
    fine: Tensor,
    fine_weight: Tensor,
    coarse: Sequence[Tensor],
    classifier_weight: Tensor,
    classifier_bias: Tensor,
    keep: Tensor | None = None,
    hidden: Tensor | None = None,
) -> Tensor:
    """Classifier of the ReLU of the sum (a BatchNorm with fixed statistics is already in the weights), no gradient.

    Args:
        size: (h, w).
        hidden: Where the classifier's input is written if it is wanted.

    Shape:
        fine: (N, h * w, C). fine_weight: (D, C). coarse: (N, h_i, w_i, D) each. classifier_weight: (K, D).
        keep: (N, h * w, D) uint8, 0 where dropout drops. hidden: (N, h * w, D).
        returns: (N, h * w, K).
    """
    total = _Sum(size, fine, fine_weight, coarse)
    logits = fine.new_empty(*fine.shape[:2], len(classifier_weight))
    pixels_per_block = (total.plan[0].last - total.plan[0].first) * size[1]
    buffer = fine.new_empty(pixels_per_block, len(fine_weight)) if hidden is None else None
    for image, block, pixels in total.blocks():
        here = buffer[: pixels.stop - pixels.start] if hidden is None else hidden[image, pixels]
        total.compute(image, block, pixels, out=here)
        here.relu_()
        if keep is not None:
            here.mul_(keep[image, pixels])
        torch.addmm(classifier_bias, here, classifier_weight.T, out=logits[image, pixels])
    return logits


class BlockedHead(torch.autograd.Function):
    """`compute_logits` with gradients; with `scale` and `shift`, a training BatchNorm between sum and ReLU.

    Saved for the backward pass is one map of width D (the sums, or without BatchNorm the classifier's input) and one
    byte per element of dropout; what lies between is formed again, block by block.

    Returns logits (N, h * w, K), then mean and biased variance of the sums over the batch (None without BatchNorm).
    """

    @staticmethod
    def forward(ctx, size, epsilon, keep, fine, fine_weight, scale, shift, classifier_weight, classifier_bias, *coarse):
        normalised = scale is not None
        ctx.size, ctx.normalised = size, normalised
        if not normalised:
            hidden = fine.new_empty(*fine.shape[:2], len(fine_weight))
            logits = compute_logits(size, fine, fine_weight, coarse, classifier_weight, classifier_bias, keep, hidden)
            ctx.save_for_backward(hidden, keep, fine, fine_weight, classifier_weight, None, None, None, None, *coarse)
            return logits, None, None

        # The sums are kept about their mean, nearly, which makes the mean of squares a safe way to the variance.
        pivot = fine_weight @ fine.mean((0, 1)) + sum(one.mean((0, 1, 2)) for one in coarse)
        coarse = (*coarse[:-1], coarse[-1] - pivot)
        total = _Sum(size, fine, fine_weight, coarse)
        sums = fine.new_empty(*fine.shape[:2], len(fine_weight))
        precision = torch.promote_types(fine.dtype, torch.float32)
        first, second = torch.zeros(2, len(fine_weight), dtype=precision)
        for image, block, pixels in total.blocks():
            here = sums[image, pixels]
            total.compute(image, block, pixels, out=here)
            here = here.to(precision)
            first += here.sum(0)
            second += (here * here).sum(0)
        count = sums[..., 0].numel()
        offset = first / count
        variance = second / count - offset * offset
        inverse = (variance + epsilon).rsqrt()
        factor = scale * inverse
        constant = shift - offset * factor

        logits = fine.new_empty(*fine.shape[:2], len(classifier_weight))
        for image, _, pixels in total.blocks():
            hidden = _activate(sums, factor, constant, keep, image, pixels).to(fine.dtype)
            torch.addmm(classifier_bias, hidden, classifier_weight.T, out=logits[image, pixels])
        ctx.save_for_backward(
            sums, keep, fine, fine_weight, classifier_weight, factor, constant, offset, inverse, *coarse
        )
        mean = pivot + offset
        ctx.mark_non_differentiable(mean, variance)
        return logits, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, *_):
        saved, keep, fine, fine_weight, classifier_weight, factor, constant, offset, inverse, *coarse = (
            ctx.saved_tensors
        )
        total = _Sum(ctx.size, fine, fine_weight, coarse)
        gradient = gradient.contiguous()
        precision = torch.promote_types(fine.dtype, torch.float32)

        def enter(image: int, pixels: slice) -> tuple[Tensor, Tensor]:
            """The classifier's input, and the gradient before the ReLU."""
            hidden = saved[image, pixels]
            if ctx.normalised:
                hidden = _activate(saved, factor, constant, keep, image, pixels)
            inner = (gradient[image, pixels] @ classifier_weight).to(hidden.dtype)
            # Zero where the ReLU or dropout made a zero.
            return hidden, torch.ops.aten.threshold_backward(inner, hidden, 0)

        classifier_gradient = torch.zeros_like(classifier_weight, dtype=precision)
        scale_gradient = shift_gradient = None
        if ctx.normalised:
            shift_gradient, correlation = torch.zeros(2, len(fine_weight), dtype=precision)
            for image, _, pixels in total.blocks():
                hidden, inner = enter(image, pixels)
                classifier_gradient += gradient[image, pixels].T @ hidden.to(fine.dtype)
                shift_gradient += inner.sum(0)
                correlation += (inner * saved[image, pixels]).sum(0)
            correlation = (correlation - offset * shift_gradient) * inverse
            scale_gradient = correlation
            count = saved[..., 0].numel()
            slope = -factor * inverse * correlation / count
            level = -factor * shift_gradient / count - offset * slope

        fine_gradient = torch.empty(fine.shape, dtype=fine.dtype) if ctx.needs_input_grad[3] else None
        weight_gradient = torch.zeros_like(fine_weight, dtype=precision)
        coarse_gradients = [torch.zeros_like(one, dtype=precision) for one in coarse]
        for image, block, pixels in total.blocks():
            hidden, inner = enter(image, pixels)
            if ctx.normalised:
                inner = torch.addcmul(level, saved[image, pixels], slope).addcmul_(inner, factor)
            else:
                classifier_gradient += gradient[image, pixels].T @ hidden
            inner = inner.to(fine.dtype)
            if fine_gradient is not None:
                torch.mm(inner, fine_weight, out=fine_gradient[image, pixels])
            weight_gradient += inner.T @ fine[image, pixels]
            total.add_gradients(image, block, inner, coarse_gradients)

        return (
            None, None, None, fine_gradient, weight_gradient.to(fine.dtype), scale_gradient, shift_gradient,
            classifier_gradient.to(fine.dtype), gradient.sum((0, 1)), *(one.to(fine.dtype) for one in coarse_gradients),
        )  # fmt: skip


def _activate(sums: Tensor, factor: Tensor, constant: Tensor, keep: Tensor | None, image: int, pixels: slice) -> Tensor:
    hidden = torch.addcmul(constant, sums[image, pixels], factor).relu_()
    return hidden if keep is None else hidden.mul_(keep[image, pixels])
