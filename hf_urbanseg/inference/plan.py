"""How images are shown to a model: scales, flips, windows, and how much at a time."""

from dataclasses import dataclass

from hf_urbanseg.errors import ConfigError

REPORT_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The report's six scales, each with and without flip: 12 passes."""


@dataclass(frozen=True)
class PredictionPlan:
    """Which passes a prediction is made of; the default is one pass at the image processor's size.

    Args:
        ratios: Scales, relative to the image processor's size (or, with a window, to the image's own size).
        flip: Also predict every scale mirrored.
        window: (height, width) of a sliding window; None shows the whole image at once.
        stride: (height, width) steps of the window; None takes two thirds of it.
        max_batch_pixels: Input pixels per forward pass at most, one image or window being the least: bounds memory.

    Raises:
        ConfigError: A ratio, window or stride that makes no sense.
    """

    ratios: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    max_batch_pixels: int = 4_194_304

    def __post_init__(self):
        if not self.ratios or not all(0 < ratio <= 16 for ratio in self.ratios):
            raise ConfigError("`ratios` above 0, up to 16", f"{list(self.ratios)}", "correct them")
        if len(set(self.ratios)) != len(self.ratios):
            raise ConfigError("each of the `ratios` once", f"{list(self.ratios)}", "remove the repeated one")
        for name in ("window", "stride"):
            pair = getattr(self, name)
            if pair is not None and (len(pair) != 2 or min(pair) < 32):
                raise ConfigError(f"`{name}` as height and width of 32 or more", f"{list(pair)}", "correct it")
        if self.stride is not None:
            if self.window is None:
                raise ConfigError("a `window` with `stride`", "none", "add it or leave the stride out")
            if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
                raise ConfigError("`stride` up to the `window`", f"{list(self.stride)}", "or pixels are left out")
        if self.max_batch_pixels < 1024:
            raise ConfigError("`max_batch_pixels` of 1024 or more", f"{self.max_batch_pixels}", "enlarge it")

    @property
    def passes(self) -> int:
        """Views of each image (windows of one view count as one)."""
        return len(self.ratios) * (1 + self.flip)

    @property
    def is_plain(self) -> bool:
        """One pass over the whole image at the image processor's own size."""
        return self.ratios == (1.0,) and not self.flip and self.window is None

    def describe(self, base_size: tuple[int, int] | None = None) -> str:
        """For tables and cards: `12 passes: ratios 0.5 0.75 ... of 384x1280, each with flip`."""
        of = f" of {base_size[0]}x{base_size[1]} (height x width)" if base_size and self.window is None else ""
        if self.window is not None:
            window, of = self.window, " of the image's own size"
            sliding = f", sliding window {window[0]}x{window[1]}"
        else:
            sliding = ""
        ratios = " ".join(f"{ratio:g}" for ratio in self.ratios)
        scale = "single scale" if self.ratios == (1.0,) else f"ratios {ratios}"
        flips = ", with and without flip" if self.flip else ""
        count = f"{self.passes} passes: " if self.passes > 1 else ""
        return f"{count}{scale}{of}{flips}{sliding}"
