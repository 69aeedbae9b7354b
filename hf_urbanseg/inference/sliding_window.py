"""Images larger than the crop: windows over the image, their logits averaged where they overlap."""

from collections.abc import Callable
from itertools import islice, product

import torch

from hf_urbanseg.inference.plan import PredictionPlan, compute_window_starts
from hf_urbanseg.inference.upsampling import Span, source_span, upsample_block


class SlidingWindow:
    """The logits of one image seen through windows, made block by block: `prepare` some rows, then ask for them.

    Every window's logits are brought to the window's size, averaged over the windows that cover a pixel, and resized
    from the size of `image` to `size`. Only logits as the model gives them (a quarter of the input's size) are kept,
    and of those only windows that the current block or a later one of the same columns needs. Memory so depends on
    the width of the columns asked for, and on neither the height nor the width of the image.

    Args:
        image: (3, H, W) normalised pixel values at the scale to predict.
        size: (height, width) of the result, the image's own.
        flip: Predict the mirrored image, and mirror the result back.

    Source: `slide_inference` of MMSegmentation 0.25, which holds all logits at the image's size instead.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], torch.Tensor],
        image: torch.Tensor,
        size: tuple[int, int],
        plan: PredictionPlan,
        flip: bool = False,
    ):
        self.forward, self.image, self.size, self.flip = forward, image, size, flip
        self.window = tuple(min(pair) for pair in zip(plan.window, image.shape[-2:], strict=True))
        self.tops, self.lefts = (
            compute_window_starts(*axis) for axis in zip(image.shape[-2:], self.window, plan.steps, strict=True)
        )
        if flip:
            # The windows of the mirrored image; the last one, shifted in, is then at the left of ours.
            self.lefts = sorted(image.shape[-1] - self.window[1] - left for left in self.lefts)
        self.batch_size = max(1, plan.max_batch_pixels // (self.window[0] * self.window[1]))
        self.logits: dict[tuple[int, int], torch.Tensor] = {}

    @property
    def sample(self) -> torch.Tensor:
        """(C, h, w) logits of some window."""
        return next(iter(self.logits.values()))

    def prepare(self, rows: Span, columns: Span) -> None:
        """Predicts the windows that a part of the result needs, and forgets those above it or beside it."""
        rows, columns = self._source_spans(rows, columns)
        tops = [y for y in self.tops if y + self.window[0] > rows[0]]
        lefts = [x for x in self.lefts if x + self.window[1] > columns[0] and x < columns[1]]
        self.logits = {(y, x): logits for (y, x), logits in self.logits.items() if y >= tops[0] and x in lefts}
        missing = [key for key in product(tops, lefts) if key not in self.logits and key[0] < rows[1]]
        if not missing:
            return
        # Whole batches: the last one is filled with the windows that come next.
        fill = -len(missing) % self.batch_size
        missing += islice((key for key in product(tops, lefts) if key not in self.logits and key[0] >= rows[1]), fill)
        for start in range(0, len(missing), self.batch_size):
            keys = missing[start : start + self.batch_size]
            crops = [self.image[:, y : y + self.window[0], x : x + self.window[1]] for y, x in keys]
            logits = self.forward(torch.stack([crop.flip(-1) if self.flip else crop for crop in crops]))
            # Copies of their own: a slice would keep the whole batch alive until its last window is done.
            self.logits |= zip(keys, (one.flip(-1) if self.flip else one.clone() for one in logits), strict=True)

    def block(self, rows: Span, columns: Span) -> torch.Tensor:
        """(C, rows, columns) logits of a part of what was prepared, fp32 (fp64 of an fp64 model)."""
        (height, width), (top, bottom), (left, right) = self.image.shape[-2:], *self._source_spans(rows, columns)
        total = None
        for y, x in sorted(self.logits):
            rows_here = max(top, y), min(bottom, y + self.window[0])
            columns_here = max(left, x), min(right, x + self.window[1])
            if rows_here[0] >= rows_here[1] or columns_here[0] >= columns_here[1]:
                continue
            part = upsample_block(self.logits[y, x], self.window, _shift(rows_here, -y), _shift(columns_here, -x))
            if total is None:
                total = part.new_zeros(len(part), bottom - top, right - left)
            total[:, slice(*_shift(rows_here, -top)), slice(*_shift(columns_here, -left))] += part
        vertical = _count_windows(self.tops, self.window[0], (top, bottom))
        horizontal = _count_windows(self.lefts, self.window[1], (left, right))
        total /= (vertical[:, None] * horizontal).to(total.device)
        return upsample_block(total, self.size, rows, columns, (height, width), (top, left))

    def _source_spans(self, rows: Span, columns: Span) -> tuple[Span, Span]:
        height, width = self.image.shape[-2:]
        return source_span(height, self.size[0], rows), source_span(width, self.size[1], columns)


def _shift(span: Span, by: int) -> Span:
    return span[0] + by, span[1] + by


def _count_windows(starts: list[int], window: int, span: Span) -> torch.Tensor:
    """How many windows cover each row (or column) of the span."""
    positions, starts = torch.arange(*span)[:, None], torch.tensor(starts)
    return ((positions >= starts) & (positions < starts + window)).sum(1)
