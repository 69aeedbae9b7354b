"""Several runs on the same images: what changed per class and per image, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hf_urbanseg.errors import DataError
from hf_urbanseg.metrics.bootstrap import Interval, PairedResult, bootstrap_mean_iou, paired_bootstrap
from hf_urbanseg.runs.measured import MeasuredRun


@dataclass(frozen=True, eq=False)
class Change:
    """A run against the first one; differences are this run minus the first."""

    run: MeasuredRun
    bootstrap: PairedResult
    iou: np.ndarray  # (C,), NaN where either has none
    images: np.ndarray  # (N,) of per-image mIoU, NaN for images without labelled pixels

    def most_changed(self, count: int, better: bool) -> list[int]:
        """Images that changed most to the better (or to the worse), the largest change first."""
        gain = np.nan_to_num(self.images if better else -self.images)
        return [int(i) for i in np.argsort(-gain, kind="stable")[:count] if gain[i] > 0]


@dataclass(frozen=True, eq=False)
class Comparison:
    """All runs, the first being what the others are compared to."""

    split: str
    runs: Sequence[MeasuredRun]
    intervals: Sequence[Interval]
    changes: Sequence[Change]

    @property
    def first(self) -> MeasuredRun:
        return self.runs[0]

    @property
    def is_of_kitti(self) -> bool:
        """Whether the data is the report's, of whose images it had others: by its name, which its layout gives."""
        return self.first.data.rpartition("/")[2].lower() == "kitti"


def compare_runs(runs: Sequence[MeasuredRun], split: str) -> Comparison:
    """Everything about two or more runs on the same images.

    Raises:
        DataError: Other classes, images or labels than the first run's; the message names what differs.
    """
    first = runs[0]
    runs = [first, *(_align(run, first) for run in runs[1:])]
    changes = []
    for run in runs[1:]:
        images = run.counts.mean_iou - first.counts.mean_iou
        changes.append(Change(run, paired_bootstrap(first.counts, run.counts), run.iou - first.iou, images))
    return Comparison(split, runs, [bootstrap_mean_iou(run.counts) for run in runs], changes)


def _align(run: MeasuredRun, first: MeasuredRun) -> MeasuredRun:
    """The run with its images in the first one's order."""
    mine, theirs = run.counts, first.counts
    again = "measure both on the same data and split"
    if mine.classes != theirs.classes:
        found = _differ(theirs.classes, mine.classes)
        raise DataError(f"the {len(theirs.classes)} classes of {first.folder}", found, again, run.folder)
    if set(mine.names) != set(theirs.names):
        found = _differ(theirs.names, mine.names)
        raise DataError(f"the {len(theirs)} images of {first.folder}", found, again, run.folder)
    place = {name: index for index, name in enumerate(mine.names)}
    counts = mine.select(place[name] for name in theirs.names)
    different = np.flatnonzero((counts.labelled != theirs.labelled).any(1))
    if len(different):
        found = f"others in {len(different)} of {len(theirs)} images, first {theirs.names[different[0]]}"
        raise DataError(f"the labels of {first.folder}", found, again, run.folder)
    return replace(run, counts=counts)


def _differ(expected: Sequence[str], found: Sequence[str]) -> str:
    missing = [name for name in expected if name not in set(found)]
    added = [name for name in found if name not in set(expected)]
    words = [
        f"{len(names)} {kind} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for names, kind in ((missing, "missing"), (added, "others"))
        if names
    ]
    return " and ".join(words) or "the same in another order"
