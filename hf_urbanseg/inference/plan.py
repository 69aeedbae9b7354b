"""How images are shown to a model: scales, flips, windows, and how much at a time."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.ranges import Range, check_options

RATIO, PIXELS, SIDES = Range(0, 16, above=True), Range(1024, 10**12), Range(32, 16_384, sides=True)

REPORT_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The report's six scales, each with and without flip: 12 passes."""


def compute_window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one axis: every `stride`, the last one shifted in so that it ends with the image.

    Source: `slide_inference` of MMSegmentation 0.25 (mmseg/models/segmentors/encoder_decoder.py).
    """
    if window >= length:
        return [0]
    count = -(-(length - window) // stride) + 1
    return [min(index * stride, length - window) for index in range(count)]


@dataclass(frozen=True)
class PredictionPlan:
    """Which passes a prediction is made of; the default is one pass at the image processor's size.

    Args:
        ratios: Scales, relative to the image processor's size (or, with a window, to the image's own size).
        flip: Also predict every scale mirrored.
        window: (height, width) of a sliding window; None shows the whole image at once.
        stride: (height, width) steps of the window; None takes two thirds of it.
        max_batch_pixels: Input pixels per forward pass at most, one image or window being the least: bounds memory.
            The default takes 8 KITTI images (384x1280), or 2 of Cityscapes.
    """

    ratios: Annotated[tuple[float, ...], RATIO] = (1.0,)
    flip: bool = False
    window: Annotated[tuple[int, int], SIDES] | None = None
    stride: Annotated[tuple[int, int], SIDES] | None = None
    max_batch_pixels: Annotated[int, PIXELS] = 4_194_304

    def __post_init__(self):
        # Lists, as options and recipes have them, would neither compare nor hash.
        for name in ("ratios", "window", "stride"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_options(self)
        if len(set(self.ratios)) != len(self.ratios):
            raise ConfigError("each of the `ratios` once", f"{list(self.ratios)}", "remove the repeated one")
        if self.stride is not None:
            if self.window is None:
                raise ConfigError("a sliding `window` with `stride`", "none", "add it or leave the stride out")
            if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
                raise ConfigError("`stride` up to the `window`", f"{list(self.stride)}", "or pixels are left out")

    def input_sizes(self, base_size: tuple[int, int] | None, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """The (height, width) an image is resized to, one per ratio.

        Without a window: ratio x `base_size`, each side to the nearest multiple of 32 (32 at least); ratio 1 is
        `base_size` itself. With a window: ratio x `image_size`, each side to the nearest pixel (32 at least).

        Args:
            base_size: (height, width) of the image processor; None where it doesn't resize: the image's own.
            image_size: (height, width) of the image.

        Source: the report's ratios of 1280x384 are multiples of 32 without rounding; for other sizes MMSegmentation's
        `ResizeToMultiple` would round up.
        """
        if self.window is not None:
            return [_scale(image_size, ratio, 1) for ratio in self.ratios]
        base_size = tuple(base_size or image_size)
        return [base_size if ratio == 1 else _scale(base_size, ratio, 32) for ratio in self.ratios]

    def count_inputs(self, base_size: tuple[int, int] | None, image_sizes: Mapping[tuple[int, int], int]) -> Counter:
        """How often a model is shown an input of each (height, width): every scale, mirrored copy and window once.

        `image_sizes` are how many images have each; `base_size` as for `input_sizes`.
        """
        inputs = Counter()
        for image_size, images in image_sizes.items():
            for size in self.input_sizes(base_size, image_size):
                window = size if self.window is None else tuple(map(min, size, self.window))
                starts = map(compute_window_starts, size, window, window if self.window is None else self.steps)
                inputs[window] += images * (1 + self.flip) * math.prod(map(len, starts))
        return inputs

    @property
    def steps(self) -> tuple[int, int]:
        """The `stride`, or its default of two thirds of the `window` (512 -> 341, as is usual for Cityscapes)."""
        return self.stride or (self.window[0] * 2 // 3, self.window[1] * 2 // 3)

    @property
    def passes(self) -> int:
        """Views of each image (windows of one view count as one)."""
        return len(self.ratios) * (1 + self.flip)

    @property
    def is_plain(self) -> bool:
        """One pass over the whole image at the image processor's own size."""
        return self.ratios == (1.0,) and not self.flip and self.window is None

    def describe(self, base_size: tuple[int, int] | None = None) -> str:
        """For tables and cards: `12 passes: ratios 0.5 0.75 ... of 384x1280 (height x width), with and without flip`.

        Names all that numbers depend on, so that cards can tell how to measure again: a window's stride, too, as
        `sliding window 512x512, stride 256x256`, unless it is the default.
        """
        of, sliding = "", ""
        if self.window is not None:
            of, sliding = " of the image's own size", ", sliding window {}x{}".format(*self.window)
            if self.steps != replace(self, stride=None).steps:
                sliding += ", stride {}x{}".format(*self.steps)
        elif base_size:
            of = f" of {base_size[0]}x{base_size[1]} (height x width)"
        ratios = " ".join(_spell(ratio) for ratio in self.ratios)
        scale = "single scale" if self.ratios == (1.0,) else f"ratios {ratios}"
        flips = ", with and without flip" if self.flip else ""
        count = f"{self.passes} passes: " if self.passes > 1 else ""
        return f"{count}{scale}{of}{flips}{sliding}"


PLAIN = PredictionPlan()


def _spell(ratio: float) -> str:
    """As short as it can be and still be the same number when it is read again."""
    return short if float(short := f"{ratio:g}") == ratio else repr(float(ratio))


def _scale(size: tuple[int, int], ratio: float, multiple: int) -> tuple[int, int]:
    height, width = (max(32, multiple * math.floor(side * ratio / multiple + 0.5)) for side in size)
    return height, width
