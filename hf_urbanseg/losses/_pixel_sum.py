"""Losses of upsampled logits without the upsampled logits: some rows at a time, gradient included."""

from collections.abc import Callable

import torch
from torch import Tensor

from hf_urbanseg.losses._blocks import ImageBlock, RowBlock, build_blocks, choose_dtype, keep_full_precision
from hf_urbanseg.losses._threads import run_in_threads

Block = RowBlock | ImageBlock

PixelLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(cross-entropy, weight) of some pixels -> their losses, and the slopes of these by the cross-entropy.

An ignored pixel has weight 0 and some cross-entropy; its loss and slope must be 0.
"""


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
        pixel_loss: See `PixelLoss`. Called once for every block of pixels, without a graph, by several threads.

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

    def fill(pixels: _Pixels) -> None:
        torch.mul(pixels.cross_entropy, pixels.weight, out=result[pixels.block.where])

    _run_over_pixels(fill, logits, labels, weights, ignore_index)
    return result


class _PixelSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, labels, weights, ignore_index, pixel_loss, with_gradient):
        def compute(pixels: _Pixels) -> tuple[Tensor, Tensor | None, Block]:
            losses, slopes = pixel_loss(pixels.cross_entropy, pixels.weight)
            return losses.sum(), pixels.compute_gradient(slopes) if with_gradient else None, pixels.block

        def add(result: tuple[Tensor, Tensor | None, Block]) -> None:
            part, contribution, block = result
            total.add_(part)
            if with_gradient:
                block.add(contribution, gradient)

        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        gradient = torch.zeros_like(logits, dtype=choose_dtype(logits)) if with_gradient else None
        _run_over_pixels(compute, logits, labels, weights, ignore_index, add)
        if with_gradient:
            ctx.save_for_backward(gradient)
            ctx.dtype = logits.dtype
        return total.to(choose_dtype(logits))

    @staticmethod
    def backward(ctx, upstream):
        if torch.is_grad_enabled():
            # `once_differentiable` would return a constant where `upstream` is one.
            raise RuntimeError("expected a loss that is differentiated once; found create_graph=True; leave it out")
        (gradient,) = ctx.saved_tensors
        # Half-precision logits: scaled first, as a loss scaler is there to save what the type would lose.
        return (gradient * upstream).to(ctx.dtype), None, None, None, None, None


def _run_over_pixels(work: Callable, logits, labels, weights, ignore_index, consume: Callable = lambda _: None) -> None:
    """`work` on the `_Pixels` of each block, by several threads; `consume` on what it returns, in order.

    Autocast changes nothing here: results are written in place or into given memory, and nothing else is lowered by it.
    """
    if logits.ndim != 4 or labels.ndim != 3 or len(logits) != len(labels):
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (N, C, h, w) and labels (N, H, W); found {shapes}")
    if weights is not None and len(weights) != logits.shape[1]:
        raise ValueError(f"expected a weight for each of {logits.shape[1]} classes; found {len(weights)}")
    look_up = _build_look_up(logits, weights, ignore_index)

    def run(block: Block):
        return work(_Pixels(block, *look_up(labels[block.where])))

    blocks = build_blocks(logits, labels.shape[-2:])
    if logits.device.type == "cpu":
        with keep_full_precision():
            run_in_threads(run, blocks, consume)
    else:
        for block in blocks:
            consume(run(block))


def _build_look_up(
    logits: Tensor, weights: Tensor | None, ignore_index: int
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Labels -> class (int64) and weight of each, both 0 where ignored.

    On a CPU a look-up takes a fraction of the time of comparing and masking.
    """
    count, device = logits.shape[1], logits.device
    # A label between the classes and `ignore_index` leads to a class that isn't there, which `gather` refuses.
    classes = torch.full((max(count, ignore_index) + 1,), count, device=device)
    classes[:count] = torch.arange(count, device=device)
    weight_of = torch.zeros(len(classes), dtype=choose_dtype(logits), device=device)
    weight_of[:count] = 1 if weights is None else weights
    ignored = ignore_index if ignore_index >= 0 else count
    classes[ignored], weight_of[ignored] = 0, 0

    def look_up(labels: Tensor) -> tuple[Tensor, Tensor]:
        if ignore_index < 0:
            labels = labels.masked_fill(labels == ignore_index, ignored)
        flat = labels.reshape(-1).long()
        return tuple(table.index_select(0, flat).view(labels.shape) for table in (classes, weight_of))

    return look_up


class _Pixels:
    """A block's pixels at label resolution.

    Attributes:
        cross_entropy: Of the true class; of class 0 where ignored.
        weight: Of the true class; 0 where ignored.
    """

    def __init__(self, block: Block, true_class: Tensor, weight: Tensor):
        self.block, self.weight, self._true_class = block, weight, true_class.unsqueeze(1)
        logits = block.upsample()
        # In place and at once: this is read and overwritten several times while it is in the cache.
        logits -= logits.amax(1, keepdim=True)
        true_logit = logits.gather(1, self._true_class)
        self._exp = logits.exp_()
        self._sum = self._exp.sum(1, keepdim=True)
        self.cross_entropy = (self._sum.log() - true_logit).squeeze(1)

    def compute_gradient(self, slopes: Tensor) -> Tensor:
        """Slope x (softmax - one-hot of the true class), brought to the logits' resolution; may be called once."""
        slopes = slopes.unsqueeze(1)
        return self.block.transpose(self._exp.mul_(slopes / self._sum).scatter_add_(1, self._true_class, -slopes))
