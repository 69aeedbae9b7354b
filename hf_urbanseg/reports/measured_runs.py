"""A measured run as its folder holds it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoConfig

from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.models.complexity import count_macs, count_parameters

_MEASURE = "train with scripts/finetune.py, or measure a model with `scripts/evaluate.py --output FOLDER`"


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
