"""Losses of upsampled logits without the upsampled logits: some rows at a time, gradient included."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_urbanseg.losses._blocks import build_blocks, choose_dtype

PixelLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(cross-entropy, weight) of some pixels, both 0 where ignored -> their losses and the slopes by the cross-entropy."""


@torch.compiler.disable  # tracing would unroll the loop over blocks
def sum_pixel_losses(
    logits: Tensor, labels: Tensor, weights: Tensor | None, ignore_index: int, pixel_loss: PixelLoss
) -> Tensor:
    """Sum over pixels of a loss that is a function of the pixel's cross-entropy at label resolution.

    The gradient by the logits is formed along with the loss, block by block, and kept at the logits' own resolution:
    a sum is linear in what comes from above, so the backward pass only has to scale it. The upsampled logits, their
    probabilities and their gradient, each the largest tensor of a usual training step, are never whole in memory.

    Args:
        weights: Per class, None for 1.
        ignore_index: Label of pixels left out.
        pixel_loss: See `PixelLoss`. Called once for every block of pixels, without a graph.

    Shape:
        logits: (N, C, h, w) float, upsampled in fp32 or fp64 (bilinear, align_corners=False).
        labels: (N, H, W) integer. weights: (C,).
        returns: scalar fp32, fp64 for fp64 logits; differentiable once.
    """
    with_gradient = logits.requires_grad and torch.is_grad_enabled()
    return _PixelSum.apply(logits, labels, weights, ignore_index, pixel_loss, with_gradient)


@torch.compiler.disable
@torch.no_grad()
def compute_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, ignore_index: int) -> Tensor:
    """Every pixel's weighted cross-entropy at label resolution.

    Shape:
        logits, labels, weights: as in `sum_pixel_losses`.
        returns: (N, H, W) fp32, fp64 for fp64 logits; 0 or more, 0 where ignored; no graph.
    """
    result = torch.empty(labels.shape, dtype=choose_dtype(logits), device=logits.device)
    for pixels in _iterate_pixels(logits, labels, weights, ignore_index):
        torch.mul(pixels.cross_entropy, pixels.weight, out=result[pixels.where])
    return result


class _PixelSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, weights, ignore_index, pixel_loss, with_gradient):
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        gradient = torch.zeros_like(logits, dtype=choose_dtype(logits)) if with_gradient else None
        for pixels in _iterate_pixels(logits, labels, weights, ignore_index, gradient):
            losses, slopes = pixel_loss(pixels.cross_entropy, pixels.weight)
            total += losses.sum(dtype=torch.float64)
            if with_gradient:
                pixels.add_gradient(slopes)
        if with_gradient:
            ctx.save_for_backward(gradient)
            ctx.dtype = logits.dtype
        return total.to(choose_dtype(logits))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        # Half-precision logits: scaled first, as a loss scaler is there to save what the type would lose.
        return (gradient * upstream).to(ctx.dtype), None, None, None, None, None


def _iterate_pixels(logits, labels, weights, ignore_index, gradient=None) -> Iterator["_Pixels"]:
    if logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels):
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (N, C, h, w) and labels (N, H, W); found {shapes}")
    if weights is not None and len(weights) != logits.shape[1]:
        raise ValueError(f"expected a weight for each of {logits.shape[1]} classes; found {len(weights)}")
    if weights is not None:
        weights = weights.to(logits.device, choose_dtype(logits))
    with torch.autocast(logits.device.type, enabled=False):
        for block in build_blocks(logits, labels.shape[-2:], gradient):
            yield _Pixels(block, labels, weights, ignore_index)


class _Pixels:
    """Some pixels at label resolution.

    Attributes:
        where: Their index in labels.
        cross_entropy, weight: Shape of `labels[where]`; 0 where ignored.
    """

    def __init__(self, block, labels: Tensor, weights: Tensor | None, ignore_index: int):
        self._block, self.where = block, block.where
        labels, logits = labels[block.where], block.upsample()
        void = labels == ignore_index
        self._true_class = labels.long().masked_fill(void, 0).unsqueeze(1)
        # The upsampled logits are read and overwritten while they are in the cache.
        logits -= logits.amax(1, keepdim=True)
        true_logit = logits.gather(1, self._true_class)
        self._exp = logits.exp_()
        self._sum = self._exp.sum(1, keepdim=True)
        self.cross_entropy = (self._sum.log() - true_logit).squeeze(1).masked_fill_(void, 0)
        if weights is None:
            self.weight = (~void).to(logits.dtype)
        else:
            self.weight = weights.index_select(0, self._true_class.flatten()).view(void.shape).masked_fill_(void, 0)

    def add_gradient(self, slopes: Tensor) -> None:
        """Adds slope x (softmax - one-hot of the true class), brought to the logits' resolution; may be called once."""
        slopes = slopes.unsqueeze(1)
        gradient = self._exp.mul_(slopes / self._sum).scatter_add_(1, self._true_class, -slopes)
        self._block.add_gradient(gradient)
