"""The options of a run that also trains on frames without labels."""

from dataclasses import dataclass, fields
from typing import Annotated

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.options.fields import Options, option
from hf_urbanseg.ranges import Amount, Range, Share

OWN_AVERAGES = "ema"


@dataclass
class UnlabelledArguments(Options):
    """Frames without labels, and who labels them."""

    unlabelled: list[str] | None = option(
        None,
        "Folders of further pictures, without labels: the student learns to see in distorted colours what a teacher is "
        "sure of. See docs/beyond.md.",
    )
    unlabelled_teacher: str = option(
        OWN_AVERAGES,
        "`ema`, the run's own averaged weights (with --ema_decay), or a model as of --teacher, which doesn't train.",
    )
    unlabelled_threshold: Share = option(
        0.95, "Pixels whose best class the teacher holds for more probable than this are learnt."
    )
    unlabelled_weight: Amount = option(1.0, "Weight of their cross-entropy.")
    unlabelled_share: Annotated[float, Range(0, 64, above=True)] = option(
        1.0, "Unlabelled crops for each labelled one; of a step, an even number of them."
    )
    unlabelled_cutmix: Share = option(0.5, "Probability that two unlabelled crops exchange a box (CutMix).")

    def __post_init__(self):
        super().__post_init__()
        for one in fields(self)[1:]:
            if not self.unlabelled and getattr(self, one.name) != one.default:
                raise ConfigError(f"`unlabelled` with `{one.name}`", "none", "name a folder, or leave the other out")
