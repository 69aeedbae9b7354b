"""A measured model as others are compared to it: its counts image by image, and what it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError
from hf_urbanseg.files import explain_missing
from hf_urbanseg.inference.plan import PredictionPlan
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.models.complexity import count_macs, count_parameters
from hf_urbanseg.models.loading import load_config
from hf_urbanseg.runs.folder import METRICS, RunFolder, per_image

_MEASURE = "train with `urbanseg finetune`, or measure a model with `urbanseg evaluate --output FOLDER`"


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """One model on one split."""

    name: str
    folder: Path
    counts: ImageCounts
    protocol: str  # how it predicted, in words
    data: str
    plan: PredictionPlan
    parameters: int
    macs: float  # of all passes over an image, each at its own size, by the report's convention; mean over the images

    @property
    def iou(self) -> np.ndarray:
        """(C,) float64 over the whole split; NaN for a class in neither labels nor predictions."""
        return self.counts.total().iou[0]

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur, as in metrics.json."""
        iou = self.iou[~np.isnan(self.iou)]
        return float(iou.mean()) if iou.size else float("nan")


def load_measurement(folder: str | Path, split: str, name: str | None = None) -> MeasuredRun:
    """Reads what training, or `urbanseg evaluate --output`, left in a folder; `name` is the folder's by default.

    Raises:
        DataError: A file is missing or damaged, or two of them are of different measurements.
        ModelError: The folder's model is another than was measured.
        ConfigError: The folder holds other splits only.
    """
    run = RunFolder(folder)
    if not run.path.is_dir():
        found = "a file" if run.path.exists() else f"nothing there{explain_missing(run.path)}"
        raise DataError("the folder of a run", found, _MEASURE, run.path)
    measured = run.read_counts(split)
    if measured is None:
        if others := run.list_counted_splits():
            raise ConfigError(f"a split of {', '.join(others)}", f"`{split}`", "choose one with `--split`", run.path)
        path = run.path / per_image(split)
        raise DataError("the counts per image of a measured model", "no such file", _MEASURE, path)
    counts, said = measured
    metrics = run.read_metrics()
    if metrics is None:
        raise DataError("this file beside the counts per image", "none", _MEASURE, run.path / METRICS)
    _check_one_measurement(metrics, counts, split, run.path)
    run.check_weights(split)
    config = _read_config(run.path)
    plan, inputs = _read_inputs(said, run.path / per_image(split))
    return MeasuredRun(
        name or run.path.resolve().name,
        run.path,
        counts,
        str(said.get("protocol") or "not recorded"),
        str(said.get("data") or "not recorded"),
        plan,
        count_parameters(config)["total"],
        sum(number * count_macs(config, size) for size, number in inputs.items()) / len(counts),
    )


def name_runs(folders: Sequence[str | Path]) -> list[str]:
    """The folders' names, with as many above them as tell them apart; ConfigError where one is given twice."""
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


def choose_split(folders: Sequence[str | Path]) -> str:
    """`test` if all were measured on it, else `validation` if all were on that."""
    counted = [RunFolder(folder).list_counted_splits() for folder in folders]
    return next((split for split in ("test", "validation") if all(split in one for one in counted)), "test")


def _read_config(folder: Path):
    path = folder / "config.json"
    if not path.is_file():
        raise DataError("this file beside the counts per image", "none", _MEASURE, path)
    return load_config(folder, error_class=DataError)


def _read_inputs(said: Mapping, path: Path) -> tuple[PredictionPlan, dict[tuple[int, int], int]]:
    """How it predicted, and how often the model was shown an input of each (height, width)."""
    try:
        inputs = {(height, width): number for height, width, number in said["inputs"]}
        if not inputs or not all(type(n) is int and 0 < n < 1 << 40 for size in inputs for n in (*size, inputs[size])):
            raise ValueError
        return PredictionPlan(**said["plan"]), inputs
    except (KeyError, TypeError, ValueError, UrbanSegError) as error:
        found, split = "none that can be read, as of an older version", path.stem.removeprefix("per_image_")
        fix = f"measure its model again: `urbanseg evaluate MODEL --output {path.parent} --split {split}`"
        raise DataError("the `plan` and `inputs` that the model was measured with", found, fix, path) from error


def _check_one_measurement(metrics: Mapping, counts: ImageCounts, split: str, folder: Path) -> None:
    """Metrics and counts per image are written together; one of an earlier time would mislead."""
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
        expected = f"{METRICS} and {per_image(split)} of one measurement"
        raise DataError(expected, "counts that don't add up to its confusion matrix", "measure again", folder)
