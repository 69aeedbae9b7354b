"""The decode head block of rows by block of rows, so that maps of full width pass through the cache, not memory (CPU).

Everything is channels-last here. `fine` is the first stage, at whose resolution (h, w) the head works, its pixels in
one axis; `coarse` are the other stages, already projected to the head's width D. What a block holds is fp32 at least.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_ELEMENTS_PER_THREAD = 2**19  # 2 MB of fp32, about what a core's own cache holds


@dataclass(frozen=True)
class _Block:
    """Some rows of the result.

    Args:
        pixels: Theirs, among those of an image.
        spans: The rows (first and last + 1) of each coarse map that they are made of.
        weights: (rows, sum of the spans' lengths): with which weights.
    """

    pixels: slice
    spans: tuple[tuple[int, int], ...]
    weights: Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _plan_blocks(
    size: tuple[int, int], coarse_heights: tuple[int, ...], rows: int, precision: torch.dtype
) -> tuple[_Block, ...]:
    height, width = size
    # What resizing makes of unit vectors are its weights, rounded as torch rounds them.
    matrices = []
    for source in coarse_heights:
        units = torch.eye(source, dtype=precision, device="cpu")[None, None]
        matrices.append(F.interpolate(units, (height, source), mode="bilinear", align_corners=False)[0, 0])
    blocks = []
    for first in range(0, height, rows):
        last = min(first + rows, height)
        used = [matrix[first:last].any(0).nonzero()[:, 0] for matrix in matrices]
        spans = tuple((int(index[0]), int(index[-1]) + 1) for index in used)
        weights = [matrix[first:last, start:stop] for matrix, (start, stop) in zip(matrices, spans, strict=True)]
        blocks.append(_Block(slice(first * width, last * width), spans, torch.cat(weights, 1)))
    return tuple(blocks)


class _UpsampledSum:
    """`fine @ weight.T + sum of the upsampled coarse maps`, block by block, and its transpose.

    Args:
        size: (h, w).
        width: D.
        coarse_heights: Of the coarse maps.
        dtype: Of all that is given.
    """

    def __init__(self, size: tuple[int, int], width: int, coarse_heights: Sequence[int], dtype: torch.dtype):
        self.columns = size[1]
        self.precision = torch.promote_types(dtype, torch.float32)
        rows = _ELEMENTS_PER_THREAD * torch.get_num_threads() // (size[1] * width)
        self.plan = _plan_blocks(size, tuple(coarse_heights), min(max(rows, 4), size[0]), self.precision)

    def blocks(self, images: int) -> Iterator[tuple[int, _Block]]:
        return ((image, block) for image in range(images) for block in self.plan)

    def compute(self, image: int, block: _Block, fine: Tensor, weight: Tensor, coarse: Sequence[Tensor], out: Tensor):
        """Writes a block.

        Shape:
            fine: (N, h * w, C). weight: (D, C). coarse: (N, h_i, w_i, D) each. out: (pixels, D) in fp32 at least.
        """
        # Along the width by torch's resize while there are few rows, along the height as one small matrix product.
        wide = []
        for one, (start, stop) in zip(coarse, block.spans, strict=True):
            # A view that is seen to be channels-last, and resized fast; adding the axis of images later, it isn't.
            rows = one[image : image + 1, start:stop].permute(0, 3, 1, 2).to(self.precision)
            rows = F.interpolate(rows, (stop - start, self.columns), mode="bilinear", align_corners=False)
            wide.append(rows.permute(0, 2, 3, 1))
        flat = out.view(len(block.weights), -1)
        torch.mm(block.weights, torch.cat(wide, 1).view(-1, flat.shape[1]), out=flat)
        pixels = fine[image, block.pixels]
        if fine.dtype == out.dtype:
            torch.addmm(out, pixels, weight.T, out=out)
        else:
            out += pixels @ weight.T

    def add_gradients(self, image: int, block: _Block, gradient: Tensor, coarse_gradients: Sequence[Tensor]) -> None:
        """Adds what the gradient (pixels, D) of a block means for the coarse maps: `compute` transposed."""
        wide = block.weights.T @ gradient.view(len(block.weights), -1)
        wide = wide.view(1, len(wide), self.columns, -1).permute(0, 3, 1, 2)
        begin = 0
        for (start, stop), total in zip(block.spans, coarse_gradients, strict=True):
            rows, begin = wide[:, :, begin : begin + stop - start], begin + stop - start
            narrow = torch.ops.aten.upsample_bilinear2d_backward(
                rows, rows.shape[2:], (*rows.shape[:3], total.shape[2]), False, None, None
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
    """Classifier of the ReLU of the sum; a BatchNorm with fixed statistics is in the weights already. No gradient.

    Args:
        size: (h, w).
        keep: 0 where dropout drops, 1 elsewhere; what makes up for it is in the classifier's weight.
        hidden: Where the classifier's input is written if it is wanted.

    Shape:
        fine: (N, h * w, C). fine_weight: (D, C). coarse: (N, h_i, w_i, D) each. classifier_weight: (K, D).
        keep: (N, h * w, D) uint8. hidden: (N, h * w, D).
        returns: (N, h * w, K).
    """
    total = _UpsampledSum(size, len(fine_weight), [one.shape[1] for one in coarse], fine.dtype)
    logits = fine.new_empty(*fine.shape[:2], len(classifier_weight))
    buffer = fine.new_empty(total.plan[0].pixels.stop, len(fine_weight), dtype=total.precision)
    for image, block in total.blocks(len(fine)):
        here = buffer[: block.pixels.stop - block.pixels.start]
        total.compute(image, block, fine, fine_weight, coarse, out=here)
        here.relu_()
        if keep is not None:
            here.mul_(keep[image, block.pixels])
        here = here.to(fine.dtype)
        torch.addmm(classifier_bias, here, classifier_weight.T, out=logits[image, block.pixels])
        if hidden is not None:
            hidden[image, block.pixels] = here
    return logits


class BlockedHead(torch.autograd.Function):
    """`compute_logits` with gradients; with `scale` and `shift`, a training BatchNorm between the sum and the ReLU.

    Saved for the backward pass is one map of width D (the sums, or without BatchNorm the classifier's input) and one
    byte per element of dropout; what lies between is formed again, block by block.

    Returns logits (N, h * w, K), then mean and biased variance of the sums over the batch (None without BatchNorm).
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, size, epsilon, keep, fine, fine_weight, scale, shift, classifier_weight, classifier_bias, *coarse):
        ctx.size, ctx.normalised, ctx.coarse_shapes = size, scale is not None, [one.shape for one in coarse]
        saved = fine.new_empty(*fine.shape[:2], len(fine_weight))
        if not ctx.normalised:
            logits = compute_logits(size, fine, fine_weight, coarse, classifier_weight, classifier_bias, keep, saved)
            ctx.save_for_backward(saved, None, fine, fine_weight, classifier_weight)
            return logits, None, None

        total = _UpsampledSum(size, len(fine_weight), [one.shape[1] for one in coarse], fine.dtype)
        # The sums are kept about their mean, nearly, which makes the mean of squares a safe way to the variance.
        pivot = (fine_weight @ fine.mean((0, 1)) + sum(one.mean((0, 1, 2)) for one in coarse)).to(total.precision)
        coarse = (*coarse[:-1], coarse[-1] - pivot)
        first, second = fine.new_zeros(2, len(fine_weight), dtype=total.precision)
        for image, block in total.blocks(len(fine)):
            target = saved[image, block.pixels]
            here = target if target.dtype == total.precision else torch.empty_like(target, dtype=total.precision)
            total.compute(image, block, fine, fine_weight, coarse, out=here)
            if here is not target:
                target.copy_(here)
            first += here.sum(0)
            second += (here * here).sum(0)
        count = len(fine) * fine.shape[1]
        offset = first / count
        variance = second / count - offset * offset
        inverse = (variance + epsilon).rsqrt()
        factor = scale * inverse
        constant = shift - offset * factor
        logits = fine.new_empty(*fine.shape[:2], len(classifier_weight))
        for image, block in total.blocks(len(fine)):
            hidden = _activate(saved, factor, constant, keep, image, block).to(fine.dtype)
            torch.addmm(classifier_bias, hidden, classifier_weight.T, out=logits[image, block.pixels])
        ctx.save_for_backward(saved, keep, fine, fine_weight, classifier_weight, factor, constant, offset, inverse)
        mean = pivot + offset
        ctx.mark_non_differentiable(mean, variance)
        return logits, mean, variance

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # without autocast, as forward was called
    def backward(ctx, gradient, *_):
        if torch.is_grad_enabled():
            # `once_differentiable` would return a constant where `gradient` is one.
            found = "create_graph=True; restore_stock_decode_head first (--stock_decode_head)"
            raise RuntimeError(f"expected a decode head that is differentiated once; found {found}")
        saved, keep, fine, fine_weight, classifier_weight, *statistics = ctx.saved_tensors
        total = _UpsampledSum(ctx.size, len(fine_weight), [shape[1] for shape in ctx.coarse_shapes], fine.dtype)
        gradient = gradient.contiguous()

        def enter(image: int, block: _Block) -> tuple[Tensor, Tensor]:
            """The classifier's input, and the gradient before the ReLU."""
            if ctx.normalised:
                hidden = _activate(saved, factor, constant, keep, image, block)
            else:
                hidden = saved[image, block.pixels].to(total.precision)
            inner = (gradient[image, block.pixels] @ classifier_weight).to(total.precision)
            # Zero where the ReLU or dropout made a zero.
            return hidden, torch.ops.aten.threshold_backward(inner, hidden, 0, grad_input=inner)

        classifier_gradient = torch.zeros_like(classifier_weight, dtype=total.precision)
        scale_gradient = shift_gradient = None
        if ctx.normalised:
            factor, constant, offset, inverse = statistics
            scale_gradient, shift_gradient = fine.new_zeros(2, len(fine_weight), dtype=total.precision)
            for image, block in total.blocks(len(fine)):
                hidden, inner = enter(image, block)
                classifier_gradient += gradient[image, block.pixels].T @ hidden.to(fine.dtype)
                shift_gradient += inner.sum(0)
                scale_gradient += inner.mul_(saved[image, block.pixels]).sum(0)
            scale_gradient = (scale_gradient - offset * shift_gradient) * inverse
            count = len(fine) * fine.shape[1]
            slope = -factor * inverse * scale_gradient / count
            level = -factor * shift_gradient / count - offset * slope

        fine_gradient = fine.new_empty(fine.shape)
        weight_gradient = torch.zeros_like(fine_weight, dtype=total.precision)
        coarse_gradients = [fine.new_zeros(shape, dtype=total.precision) for shape in ctx.coarse_shapes]
        for image, block in total.blocks(len(fine)):
            hidden, inner = enter(image, block)
            if ctx.normalised:
                inner = inner.mul_(factor).add_(level).addcmul_(saved[image, block.pixels], slope)
            else:
                classifier_gradient += gradient[image, block.pixels].T @ hidden.to(fine.dtype)
            total.add_gradients(image, block, inner, coarse_gradients)
            inner = inner.to(fine.dtype)
            torch.mm(inner, fine_weight, out=fine_gradient[image, block.pixels])
            weight_gradient += inner.T @ fine[image, block.pixels]

        return (
            None, None, None, fine_gradient, weight_gradient.to(fine.dtype), scale_gradient, shift_gradient,
            classifier_gradient.to(fine.dtype), gradient.sum((0, 1)), *(one.to(fine.dtype) for one in coarse_gradients),
        )  # fmt: skip


def _activate(sums: Tensor, factor: Tensor, constant: Tensor, keep: Tensor | None, image: int, block: _Block) -> Tensor:
    hidden = torch.addcmul(constant, sums[image, block.pixels], factor).relu_()
    return hidden if keep is None else hidden.mul_(keep[image, block.pixels])
