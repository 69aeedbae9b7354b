"""How a model predicts."""

from dataclasses import dataclass
from typing import Annotated

from hf_urbanseg.inference.plan import PIXELS, RATIO, REPORT_RATIOS, PredictionPlan
from hf_urbanseg.options.fields import Options, check_device, device_option, option, stock_decode_head_option
from hf_urbanseg.ranges import Batch, Size


@dataclass
class PlanArguments(Options):
    """How a model predicts; the default is one pass over each image."""

    multi_scale: bool = option(
        False, "The report's 12 passes: six scales, with and without flip, their probabilities averaged."
    )
    ratios: Annotated[list[float], RATIO] | None = option(
        None,
        "Scales of the image processor's size (with a sliding window, of the image's own), such as 0.75 1 1.25. "
        "Default: 1, or with --multi_scale 0.5 to 1.75 in steps of 0.25.",
    )
    flip: bool | None = option(
        None,
        "Also predict every scale mirrored (`--flip false`: don't). Default: as --multi_scale.",
        nargs="?",
        const=True,
    )
    sliding_window: Size | None = option(
        None, "Height and width of a window that slides over images at their own size. Default: the whole image."
    )
    stride: Size | None = option(None, "Steps of the window, height and width. Default: two thirds of it.")
    max_batch_pixels: Annotated[int, PIXELS] = option(
        PredictionPlan.max_batch_pixels,
        "Input pixels per forward pass at most (one image or window at least): lower it if memory runs out.",
    )
    stock_decode_head: bool = stock_decode_head_option()
    batch_size: Batch = option(4, "Images or frames in memory at a time, per process.")
    device: str | None = device_option()

    def __post_init__(self):
        super().__post_init__()
        check_device(self.device)
        self.build_plan()

    def build_plan(self) -> PredictionPlan:
        """The plan these options describe, which checks them."""
        return PredictionPlan(
            ratios=self.ratios or (REPORT_RATIOS if self.multi_scale else PredictionPlan.ratios),
            flip=self.multi_scale if self.flip is None else self.flip,
            window=self.sliding_window,
            stride=self.stride,
            max_batch_pixels=self.max_batch_pixels,
        )
