"""Several runs on the same images: what changed per class and per image, and how sure that is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import AutoConfig

from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.metrics.bootstrap import Interval, PairedResult, bootstrap_mean_iou, paired_bootstrap
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.models.complexity import count_macs, count_parameters

_MEASURE = "train with `urbanseg finetune`, or measure a model with `urbanseg evaluate --output FOLDER`"


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """One model on one split.

    Args:
        name: For tables and pictures.
        folder: Where it was read.
        counts: Pixels per image and class.
        protocol: How it predicted, in words.
        data: Name of the data.
        parameters: Of the model.
        macs: Multiply-accumulates of one pass over one 375x1242 image, by the report's convention.
    """

    name: str
    folder: Path
    counts: ImageCounts
    protocol: str
    data: str
    parameters: int
    macs: int

    @property
    def iou(self) -> np.ndarray:
        """(C,) float64 over the whole split; NaN for a class in neither labels nor predictions."""
        hits = self.counts.hits.sum(0)
        union = self.counts.labelled.sum(0) + self.counts.predicted.sum(0) - hits
        return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur, as in metrics.json."""
        iou = self.iou
        return float(iou[~np.isnan(iou)].mean()) if not np.isnan(iou).all() else float("nan")


@dataclass(frozen=True, eq=False)
class Change:
    """A run against the first one; differences are this run minus the first.

    Args:
        run: The run.
        bootstrap: Difference of mIoU with its interval and p-value.
        iou: (C,) differences, NaN where either has none.
        images: (N,) differences of per-image mIoU, NaN for images without labelled pixels.
    """

    run: MeasuredRun
    bootstrap: PairedResult
    iou: np.ndarray
    images: np.ndarray

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


def load_measurement(folder: str | Path, split: str, name: str | None = None) -> MeasuredRun:
    """Reads what finetune.py, or evaluate.py with `--output`, left in a folder.

    Args:
        name: Default: the folder's.

    Raises:
        DataError: A file is missing or damaged, or two of them are of different measurements.
        ConfigError: The folder holds other splits only.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise DataError("the folder of a run", found, _MEASURE, folder)
    path = folder / f"per_image_{split}.json"
    if not path.is_file():
        measured = sorted(file.stem.removeprefix("per_image_") for file in folder.glob("per_image_*.json"))
        if measured:
            raise ConfigError(f"a split of {', '.join(measured)}", f"`{split}`", "choose one with `--split`", folder)
        raise DataError("the counts per image of a measured model", "no such file", _MEASURE, path)
    content = _read_json(path)
    counts = ImageCounts.from_dict(content, str(path))
    _check_one_measurement(_read_json(folder / "metrics.json"), counts, split, folder)
    config = _read_config(folder / "config.json")
    return MeasuredRun(
        name or folder.resolve().name,
        folder,
        counts,
        str(content.get("protocol") or "not recorded"),
        str(content.get("data") or "not recorded"),
        count_parameters(config)["total"],
        count_macs(config),
    )


def compare_runs(runs: Sequence[MeasuredRun], split: str) -> Comparison:
    """Everything about two or more runs on the same images.

    Raises:
        DataError: Other classes, images or labels than the first run's; the message names what differs.
    """
    first = runs[0]
    runs = [first, *(_align(run, first) for run in runs[1:])]
    changes = [
        Change(
            run,
            paired_bootstrap(first.counts, run.counts),
            run.iou - first.iou,
            run.counts.mean_iou - first.counts.mean_iou,
        )
        for run in runs[1:]
    ]
    return Comparison(split, runs, [bootstrap_mean_iou(run.counts) for run in runs], changes)


def name_runs(folders: Sequence[str | Path]) -> list[str]:
    """The folders' names, with as many folders above them as it takes to tell them apart.

    Raises:
        ConfigError: A folder twice.
    """
    parts = [Path(folder).resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        twice = next(folder for folder, one in zip(folders, parts, strict=True) if parts.count(one) > 1)
        raise ConfigError("each run once", "it twice", "remove one", twice)
    longest = max(map(len, parts))
    return next(
        names
        for depth in range(1, longest + 1)
        if len(set(names := ["/".join(one[-depth:]) for one in parts])) == len(parts)
    )


def _read_json(path: Path) -> Mapping:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError("this file beside the counts per image", "none", _MEASURE, path) from error
    except OSError as error:
        raise DataError("a readable file", error.strerror or str(error), "check it", path) from error
    except ValueError as error:  # of JSON and of UTF-8
        raise DataError("JSON", str(error).rstrip("."), "measure again", path) from error
    if not isinstance(content, Mapping):
        raise DataError("a JSON object", type(content).__name__, "measure again", path)
    return content


def _read_config(path: Path):
    _read_json(path)
    try:
        return AutoConfig.from_pretrained(path.parent)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {next(iter(str(error).splitlines()), 'no reason given').rstrip('.')}"
        raise DataError("the configuration of a model", reason, "measure again", path) from error


def _check_one_measurement(metrics: Mapping, counts: ImageCounts, split: str, folder: Path) -> None:
    """metrics.json and the counts per image are written together; one of an earlier time would mislead."""
    try:
        matrix = np.array(metrics["splits"][split]["confusion_matrix"], np.int64)
        sums = (np.diag(matrix), matrix.sum(1), matrix.sum(0))
        fits = all(
            np.array_equal(wanted, found.sum(0))
            for wanted, found in zip(sums, (counts.hits, counts.labelled, counts.predicted), strict=True)
        )
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        expected = f"metrics.json and per_image_{split}.json of one measurement"
        raise DataError(expected, "counts that don't add up to its confusion matrix", "measure again", folder)


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
