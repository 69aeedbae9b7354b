"""The options of which samples a run is trained on."""

from dataclasses import dataclass
from typing import Annotated

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.options.fields import Options, option
from hf_urbanseg.ranges import Range, Share, Whole


@dataclass
class SamplingArguments(Options):
    """How often rare classes are shown, beyond what the data has of them."""

    rare_class_share: Share = option(
        0.0, "Share of samples drawn by class, rare ones more often, with a crop that shows it."
    )
    rare_class_temperature: Annotated[float, Range(0, 1000, above=True)] = option(
        0.01, "How little frequent classes are drawn: by softmax((1 - share of the pixels) / this) (DAFormer: 0.01)."
    )
    rare_class_min_pixels: Whole = option(
        500, "Pixels of its class that an image must have to be drawn, and its crop shows as far as its scale allows."
    )
    paste_share: Share = option(0.0, "Share of the samples into which an object of another training frame is pasted.")
    paste_classes: list[str] | None = option(
        None,
        "Classes of such objects. Default: people and vehicles below a hundredth of the pixels.",
    )
    shuffle_buffer: Whole = option(
        4096, "Of a streamed set, the frames that are shuffled at a time, behind the files, which all are."
    )
    bad_frames: str = option(
        "stop",
        "Of a streamed set, what a frame does that can't be trained on and is met in mid-epoch: `stop`, or `skip`, "
        "which takes the next one and lists it in skipped_frames.txt.",
        choices=["stop", "skip"],
    )

    def __post_init__(self):
        super().__post_init__()
        if self.paste_classes and not self.paste_share:
            fix = "add for example 0.3, or leave the other out"
            raise ConfigError("a `paste_share` above 0 with `paste_classes`", "0", fix)
