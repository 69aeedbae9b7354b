"""Sentences on runs: what their numbers are, and whether they can be compared."""

import shlex
from collections.abc import Sequence

from hf_urbanseg.hub.cards.markdown import code_span
from hf_urbanseg.reproduction.plan import NO_MATTER, PlannedRun
from hf_urbanseg.reproduction.results import Finished
from hf_urbanseg.runs.folder import RunFolder


def describe_measurement(finished: Finished, report: str) -> list[str]:
    """What the numbers of finished runs are and whether they can be compared; `report` says it of the report's."""
    runs, metrics, split = finished.runs, finished.metrics, finished.split
    if not runs:
        return ["Nothing is finished yet."]
    first = next(iter(metrics.values()))
    selections = " / ".join(sorted({content["selection"]["by"] for content in metrics.values()}))
    notes = [
        f"Ours: mIoU of `{split}` ({first['splits'][split]['num_images']} images), one scale, no flip; exported "
        f"checkpoint by: {selections}. Seeds differ in random weights, order and augmentation, not in the split; std "
        "is the sample's.",
        report,
    ]
    if split != "test":
        notes.append("There is no test split: these are scores of `validation`, which also selected the checkpoints.")
    if len({str(RunFolder(run.folder).read_splits()) for run in runs.values()}) > 1:
        notes.append("The runs had different frames in their splits: they can't be compared.")
    processes = sorted({content["training"]["processes"] for content in metrics.values()})
    devices = sorted({str(content["environment"]["device"]) for content in metrics.values()})
    batches = " or ".join(f"{count} process{'es' if count > 1 else ''}" for count in processes)
    notes.append(f"Trained on {' / '.join(devices)}, {batches}.")
    if len(processes) > 1:
        notes.append("The number of processes multiplies the batch: these runs had different batches.")
    return notes


def describe_options(words: Sequence[str]) -> list[str]:
    """The options of all runs."""
    return [f"Options of every run: {code_span(shlex.join(words))}."] if words else []


def what_counts(run: PlannedRun) -> dict:
    """The options of a run that can change its numbers."""
    ignored = NO_MATTER | ({"model_name_or_path", "model_revision"} if run.model.init == "random" else set())
    return {key: value for key, value in run.recipe.items() if key not in ignored}
