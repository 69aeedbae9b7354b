"""Sentences on a ladder: what its numbers are, and whether they can be compared."""

import shlex
from collections.abc import Mapping, Sequence

from hf_urbanseg.hub.cards.markdown import code_span
from hf_urbanseg.ladder.plan import NO_MATTER, LadderRun
from hf_urbanseg.runs.folder import RunFolder


def describe_measurement(runs: Mapping, metrics: Mapping, split: str) -> list[str]:
    """Sentences on what the numbers of finished runs are and whether they can be compared."""
    if not runs:
        return ["Nothing is finished yet."]
    first = next(iter(metrics.values()))
    selections = " / ".join(sorted({content["selection"]["by"] for content in metrics.values()}))
    notes = [
        f"Ours: mIoU of `{split}` ({first['splits'][split]['num_images']} images), one scale, no flip; exported "
        f"checkpoint by: {selections}. Seeds differ in random weights, order and augmentation, not in the split; std "
        "is the sample's.",
        "*The report's* numbers (arXiv:2206.12571) are SegFormer-B2's, on a 150/50 split that is not published, with "
        "the checkpoint selected on test and, from rung 6 on, multi-scale testing: not the same measurement.",
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


def describe_model(run: LadderRun) -> str:
    """`SegFormer-B2`, or what the options of all runs put in its place."""
    if run.model.init == "random":
        return f"SegFormer-{run.model.size}, random at the start,"
    size = run.model.size
    return f"SegFormer-{size if size == 'tiny' else size.upper()}"


def describe_options(plan: Mapping[tuple[int, int], LadderRun], words: Sequence[str]) -> list[str]:
    """Sentences on the options of all runs, and on rungs that add nothing under them."""
    notes = [f"Options of every run: {code_span(shlex.join(words))}."] if words else []
    by_rung = {number: run for (number, _), run in reversed(plan.items())}
    for number, run in sorted(by_rung.items()):
        if number - 1 in by_rung and _what_counts(run) == _what_counts(by_rung[number - 1]):
            notes.append(f"With these options rung {number} is the same as rung {number - 1}: it adds nothing.")
    return notes


def _what_counts(run: LadderRun) -> dict:
    ignored = NO_MATTER | ({"model_name_or_path", "model_revision"} if run.model.init == "random" else set())
    return {key: value for key, value in run.recipe.items() if key not in ignored}
