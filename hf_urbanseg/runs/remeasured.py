"""Metrics of a model measured again: merged in its own folder, refused beside another model."""

import logging
from collections.abc import Mapping
from pathlib import Path

from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.shards import ShardedRows
from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.runs.folder import METRICS, RECIPE, SPLITS, RunFolder, describe_data

logger = logging.getLogger(__name__)

_OF_A_MODEL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", RECIPE)


def is_own_folder(folder: Path, model: str) -> bool:
    """Whether `--output` is the folder of the measured model itself."""
    return Path(model).is_dir() and folder.resolve() == Path(model).resolve()


def check_output(folder: Path, model: str, data: LoadedData, split: str) -> None:
    """Refuses, before anything is measured, a folder in which the numbers would stand for something else.

    Raises:
        ConfigError: The folder of another model or of a run's numbers, or other frames than the run recorded.
        DataError: A file of the run that can't be read.
    """
    run = RunFolder(folder)
    metrics = run.read_metrics() or {}
    if is_own_folder(folder, model):
        _check_classes(metrics, data, folder)
        _check_frames(run, data, split)
        return
    found = next((name for name in _OF_A_MODEL if run.has(name)), None)
    if found is None and metrics.keys() & {"training", "selection"}:
        found = f"{METRICS} of a training run"
    if found:
        expected = f"a folder of its own for the numbers of {model}"
        raise ConfigError(expected, f"another model's ({found})", "name another `--output`", folder)


def check_own_weights(model: str) -> None:
    """Warns if the scores recorded in a model's folder are another model's."""
    try:
        RunFolder(model).check_weights()
    except UrbanSegError as error:
        logger.warning("%s", error)


def check_classes(predicted: LabelSpace, data: LoadedData, model: str) -> None:
    """Refuses (ConfigError) to measure a model on data of other classes, or of another order."""
    names, labelled = predicted.names, data.label_space.names
    if names != labelled:
        expected = f"a model for the {len(labelled)} classes of {data.name} ({', '.join(labelled[:3])}, ...)"
        found, fix = (
            f"{len(names)} classes ({', '.join(names[:3])}, ...)",
            "choose the model or `--label_space` that fits",
        )
        raise ConfigError(expected, found, fix, model)


def merge_metrics(run: RunFolder, split: str, scores: Mapping, environment: Mapping, data: LoadedData) -> dict:
    """Metrics of a run, with one split measured anew.

    Training, selection and the other splits stay, and `environment` stays that of training; where this split was
    measured is recorded beside its scores. A run without metrics gets what is known now.
    """
    # Read here and not before the measurement: meanwhile another process may have measured another split.
    before = run.read_metrics() or {}
    splits = {**before.get("splits", {}), split: {**scores, "environment": dict(environment)}}
    known = {} if before or run.read_splits() is None else {"data": describe_data(data)}
    return {**before, "splits": splits, **known}


def _check_classes(metrics: Mapping, data: LoadedData, folder: Path) -> None:
    classes = list(data.label_space.names)
    for split, scores in metrics.get("splits", {}).items():
        recorded = list(scores.get("iou") or classes)
        if recorded != classes:
            expected = f"scores of the model's {len(classes)} classes for {split}"
            found = f"those of {len(recorded)} others ({', '.join(map(str, recorded[:3]))}, ...)"
            fix = "it is of another model: move it away, or name another `--output`"
            raise ConfigError(expected, found, fix, folder / METRICS)


def _check_frames(run: RunFolder, data: LoadedData, split: str) -> None:
    recorded, rows = run.read_splits() or run.read_frames(), data.splits[split]  # of what was streamed, its files
    if recorded is None:
        return
    mine = set(rows.list_files() if isinstance(rows, ShardedRows) else rows["name"])
    theirs = set(recorded.get(split) or ())
    if mine != theirs:
        expected = f"the {len(theirs)} frames of {split} that the run recorded, as `--output` is its own folder"
        found = f"{len(mine)} frames, {len(mine - theirs)} of them others"
        fix = "leave out the options of data and splits, or name another `--output`"
        raise ConfigError(expected, found, fix, run.path / SPLITS)
