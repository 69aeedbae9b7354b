"""Several looks at each image, averaged: scales, mirrored copies, and windows where the plan has them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from itertools import pairwise

import torch
from torch import Tensor

from hf_urbanseg.errors import ModelError
from hf_urbanseg.inference.plan import PLAIN, PredictionPlan
from hf_urbanseg.inference.sliding_window import SlidingWindow
from hf_urbanseg.inference.upsampling import Span, find_best_class, upsample, upsample_block
from hf_urbanseg.memory import explaining_shortage

Views = Sequence[Tensor | Sequence[Tensor]]
"""Per ratio of the plan: (N, 3, h, w), or N tensors (3, h, w) where the images' sizes differ."""

# Elements of C x rows x columns worked on at a time. On CPU a block and its softmax stay in the cache (three times as
# fast as whole images), and it is about square, because rows of logits at its border are upsampled for two blocks. On
# a GPU few large kernels are better.
_CPU_BLOCK, _CPU_COLUMNS, _GPU_BLOCK = 2**18, 512, 2**25
# Columns between which windows are kept: so many that few windows are predicted for two neighbouring stripes.
_STRIPE_WINDOWS = 8
# Logits of at most so many forward passes wait until all passes of their images are done.
_WAITING_PASSES = 16


Visit = Callable[[int, Span, Span, Tensor], object]
"""Called with an image's number in its batch, and rows, columns and logits (C, rows, columns) of a part of it: the
softmax of these are the probabilities, the means where several passes are made."""


def predict_views(
    model: torch.nn.Module,
    views: Views,
    target_sizes: Sequence[tuple[int, int]],
    plan: PredictionPlan = PLAIN,
    device: torch.device | str | None = None,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    names: Sequence[str] | None = None,
    visit: Visit | None = None,
) -> list[Tensor]:
    """Predicts a batch at native resolution by the passes of a plan.

    The logits of every pass are brought to the image's size, then softmax, mirroring back, mean over the passes and
    argmax. One pass over whole images is the argmax of its logits (`upsample_argmax`), bit for bit.

    Full-resolution probabilities exist for a small block of pixels at a time. What is kept of a pass are its logits
    as the model gives them: C / 48 of the memory of its input, twice that with flip.

    Args:
        model: Gives `.logits` (N, C, h / 4, w / 4) for `pixel_values`; in evaluation mode already.
        views: From `collate_eval`: the batch at each ratio of the plan.
        target_sizes: (height, width) of each image's result.
        device: Of the model; None asks the model.
        names: Of the images, for errors; default: their numbers.
        visit: Shown every pixel once, block by block, with the very numbers that its class was chosen by.

    Shape:
        returns: N tensors (height, width) uint8, train ids, on the model's device.

    Raises:
        ModelError: Logits that are NaN or infinite, of which no class is the best.
        OutOfMemoryError: The device's memory doesn't suffice.

    Source: the report's testing (MMSegmentation's `aug_test`); its `slide_inference` for windows.
    """
    predictions = []
    with explaining_shortage(partial(_describe, views, plan)):
        images = _iterate_images(model, views, target_sizes, plan, device, autocast, names)
        for index, (passes, size) in enumerate(images):
            prediction = None
            for rows, columns, scores in _iterate_blocks(passes, size, plan):
                if prediction is None:
                    prediction = torch.empty(size, dtype=torch.uint8, device=scores.device)
                prediction[slice(*rows), slice(*columns)] = find_best_class(scores)
                if visit is not None:
                    visit(index, rows, columns, _to_logits(scores, len(passes)))
            predictions.append(prediction)
    return predictions


def _describe(views: Views, plan: PredictionPlan) -> tuple[str, list[str], str]:
    """For `explaining_shortage`."""
    height, width = max((tuple(one.shape[-2:]) for images in views for one in images), key=math.prod)
    fixes = ["lower `--batch_size` (`--per_device_eval_batch_size` in training)", "`--max_batch_pixels`"]
    if plan.window is None:
        fixes.append("let a `--sliding_window` of 512 512 go over the images")
    passes = f" in {plan.passes} passes" if plan.passes > 1 else ""
    return f"predicting {len(views[0])} images of up to {height}x{width} (height x width){passes}", fixes, ""


def predict_probabilities(
    model: torch.nn.Module,
    views: Views,
    target_sizes: Sequence[tuple[int, int]],
    plan: PredictionPlan = PLAIN,
    device: torch.device | str | None = None,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    names: Sequence[str] | None = None,
) -> Iterator[Tensor]:
    """As `predict_views`, but gives the mean probabilities (C, height, width), image by image: each is large."""
    for passes, size in _iterate_images(model, views, target_sizes, plan, device, autocast, names):
        probabilities = None
        for rows, columns, scores in _iterate_blocks(passes, size, plan):
            if probabilities is None:
                probabilities = scores.new_empty(len(scores), *size)
            probabilities[:, slice(*rows), slice(*columns)] = _to_logits(scores, len(passes)).softmax(0)
        yield probabilities


def _to_logits(scores: Tensor, passes: int) -> Tensor:
    """Of one pass its logits, of several the logarithm of their mean probabilities (at least the smallest number)."""
    return scores if passes == 1 else (scores / passes).clamp_min(torch.finfo(scores.dtype).tiny).log()


class _WholeImage:
    """Logits of one pass over a whole image; a `SlidingWindow` in all that is asked of it."""

    def __init__(self, logits: Tensor, size: tuple[int, int]):
        self.sample, self.size = logits, size

    def prepare(self, rows: Span, columns: Span) -> None:
        """Nothing: all is at hand."""

    def block(self, rows: Span, columns: Span) -> Tensor:
        return upsample_block(self.sample, self.size, rows, columns)


def _iterate_images(
    model, views, target_sizes, plan, device, autocast, names
) -> Iterator[tuple[list[_WholeImage | SlidingWindow], tuple[int, int]]]:
    """The passes of each image in turn, with its size."""
    parameter = next(model.parameters(), None)
    device = device or ("cpu" if parameter is None else parameter.device)
    dtype = views[0][0].dtype if parameter is None else parameter.dtype

    def send(image: Tensor) -> Tensor:
        return image.to(device, dtype, non_blocking=image.is_pinned())

    @torch.no_grad()
    def forward(pixel_values: Tensor, indices: Sequence[int]) -> Tensor:
        with autocast():
            logits = model(pixel_values=pixel_values).logits
        # Of each image the sum, which NaN and infinity are in, too: a hundredth of the time of looking at each number.
        sums = logits.sum((1, 2, 3), dtype=torch.promote_types(logits.dtype, torch.float32))
        finite = sums.isfinite().tolist()
        if not all(finite):
            index = indices[finite.index(False) % len(indices)]  # one for all windows of an image
            found = f"NaN or infinity for {f'image {index}' if names is None else names[index]}"
            fix = "take an earlier checkpoint, or train with a lower `--learning_rate`"
            raise ModelError("logits that are finite numbers", found, fix)
        return logits

    for group in _group_images(views, plan):
        logits = {}
        for ratio, images in enumerate(views):
            whole = [index for index in group if not _needs_windows(images[index], plan)]
            found = _predict_whole(forward, send, images, whole, plan)
            logits |= {(index, ratio): one for index, one in found.items()}
        for index in group:
            size = tuple(map(int, target_sizes[index]))
            passes = []
            for ratio, images in enumerate(views):
                if (index, ratio) in logits:
                    found = logits.pop((index, ratio))
                    found = [upsample(found[0], size)] if plan.passes == 1 else found  # one alone is made at once
                    passes += [_WholeImage(one, size) for one in found]
                else:
                    flips = (False, True) if plan.flip else (False,)
                    windows = partial(forward, indices=[index])
                    passes += [SlidingWindow(windows, send(images[index]), size, plan, flip) for flip in flips]
            yield passes, size


def _needs_windows(image: Tensor, plan: PredictionPlan) -> bool:
    return plan.window is not None and any(a > b for a, b in zip(image.shape[-2:], plan.window, strict=True))


def _group_images(views: Views, plan: PredictionPlan) -> Iterator[list[int]]:
    """Consecutive images whose logits may wait together."""
    group, waiting = [], 0
    for index in range(len(views[0])):
        sizes = [images[index].shape[-2:] for images in views if not _needs_windows(images[index], plan)]
        pixels = sum(height * width for height, width in sizes) * (1 + plan.flip)
        if group and waiting + pixels > _WAITING_PASSES * plan.max_batch_pixels:
            yield group
            group, waiting = [], 0
        group.append(index)
        waiting += pixels
    if group:
        yield group


def _predict_whole(forward, send, images, indices: list[int], plan: PredictionPlan) -> dict[int, list[Tensor]]:
    """Logits of whole images at one ratio, and of their mirror images mirrored back, by index."""
    found: dict[int, list[Tensor]] = {index: [] for index in indices}
    by_size: dict[tuple[int, int], list[int]] = {}
    for index in indices:
        by_size.setdefault(tuple(images[index].shape[-2:]), []).append(index)
    for (height, width), members in by_size.items():
        items = [(index, flip) for index in members for flip in ((False, True) if plan.flip else (False,))]
        batch_size = max(1, plan.max_batch_pixels // (height * width))
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            # Sent before they are stacked: from the memory that the loader has pinned, and each once.
            sent = {index: send(images[index]) for index, _ in batch}
            views = [sent[index].flip(-1) if flip else sent[index] for index, flip in batch]
            logits = forward(torch.stack(views), [index for index, _ in batch])
            # Mirroring commutes with upsampling, and here there are 16 times fewer values.
            for (index, flip), one in zip(batch, logits, strict=True):
                found[index].append(one.flip(-1) if flip else one)
    return found


def _iterate_blocks(
    passes: Sequence[_WholeImage | SlidingWindow], size: tuple[int, int], plan: PredictionPlan
) -> Iterator[tuple[Span, Span, Tensor]]:
    """Rows, columns and (C, rows, columns) of an image, from the top, stripe by stripe: logits of its only pass, or the
    sum of the probabilities of several."""
    height, width = size
    stripe, enlarged = width, 1.0
    if plan.window is not None:
        # A block is made from one of the enlarged image, which is what must stay small.
        enlarged = max(1.0, *plan.ratios)
        stripe = max(1, int(_STRIPE_WINDOWS * plan.window[1] / enlarged))
    passes[0].prepare((0, 1), (0, min(stripe, width)))
    on_cpu, num_labels = passes[0].sample.device.type == "cpu", len(passes[0].sample)
    max_columns = min(stripe, _CPU_COLUMNS) if on_cpu else stripe
    limit = (_CPU_BLOCK if on_cpu else _GPU_BLOCK) / (num_labels * enlarged**2)
    for left, right in _split(0, width, stripe):
        max_rows = max(1, int(limit / min(max_columns, right - left)))
        for rows in _split(0, height, max_rows):
            for one in passes:
                one.prepare(rows, (left, right))
            for columns in _split(left, right, max_columns):
                scores = (one.block(rows, columns) for one in passes)
                if len(passes) > 1:
                    scores = (one.softmax(0) for one in scores)
                yield rows, columns, reduce(Tensor.add_, scores)


def _split(start: int, stop: int, longest: int) -> list[Span]:
    """Parts of about the same length, up to `longest`."""
    count = -(-(stop - start) // longest)
    edges = [start + (stop - start) * index // count for index in range(count + 1)]
    return list(pairwise(edges))
