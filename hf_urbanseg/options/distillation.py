"""The options of a run that is taught by another network."""

from dataclasses import dataclass, fields
from typing import Annotated

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.options.fields import Options, option
from hf_urbanseg.ranges import Amount, Range

DEFAULTS = {
    ("soft", "output"): {"weight": 1.0, "temperature": 1.0},
    ("cwd", "output"): {"weight": 3.0, "temperature": 4.0},
    ("cwd", "features"): {"weight": 50.0, "temperature": 4.0},
}
"""By the words of `--distill` and `--distill_from`: of CIRKD's comparison, and of Shu et al. 2021."""


@dataclass
class DistillationArguments(Options):
    """Who teaches, and how."""

    teacher: str | None = option(
        None,
        "Learn from this model, too: a folder or Hub id of any semantic segmentation model of transformers, "
        "Mask2Former and EoMT among them, whose classes are found by name; or a folder written by `urbanseg teach`, "
        "whose use costs a step nothing.",
    )
    teacher_revision: str | None = option(None, "Branch, tag or commit of the teacher's Hub id.")
    teacher_precision: str | None = option(
        None, "Of the teacher's weights and pass, fp32 or bf16. Default: fp32.", choices=["fp32", "bf16"]
    )
    distill: str | None = option(
        None,
        "`soft`: its class probabilities pixel by pixel, never against the label (default); `cwd`: where in the image "
        "it sees each class (report: Shu et al. 2021).",
        choices=["soft", "cwd"],
    )
    distill_from: str | None = option(
        None,
        "What cwd compares: the `output` (default), or the last `features` of both encoders, the student's behind a "
        "1x1 convolution that is not exported.",
        choices=["output", "features"],
    )
    distill_weight: Amount | None = option(None, "Weight of that loss. Default: 1 of soft, 3 of cwd, 50 of features.")
    distill_temperature: Annotated[float, Range(0, 1000, above=True)] | None = option(
        None, "Temperature of both distributions. Default: 1 of soft, 4 of cwd."
    )
    distill_void: bool = option(False, "Learn from the teacher where the label is void, too.")

    def __post_init__(self):
        super().__post_init__()
        for one in fields(self):
            value = getattr(self, one.name)
            if self.teacher is None and value is not None and value is not False:
                fix = "name one, or leave the other out"
                raise ConfigError(f"a `teacher` with `{one.name}`", "none", fix)

        if (self.kind, self.source) not in DEFAULTS:
            expected, fix = "`distill` cwd with `distill_from` features", "add `--distill cwd`, or leave it out"
            raise ConfigError(expected, f"`{self.kind}`", fix)

    @property
    def kind(self) -> str:
        return self.distill or "soft"

    @property
    def source(self) -> str:
        return self.distill_from or "output"

    @property
    def weight(self) -> float:
        usual = DEFAULTS[self.kind, self.source]["weight"]
        return usual if self.distill_weight is None else self.distill_weight

    @property
    def temperature(self) -> float:
        usual = DEFAULTS[self.kind, self.source]["temperature"]
        return usual if self.distill_temperature is None else self.distill_temperature
