"""metrics.json where `evaluate.py` writes: merged in the measured model's own folder, refused beside another model."""

import json
from collections.abc import Mapping
from pathlib import Path

import yaml

from hf_urbanseg.data.label_space_files import read_mapping
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.errors import ConfigError, DataError

_RUN_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "recipe.yaml")


def describe_data(data: LoadedData) -> dict:
    """What a run was trained and measured on, for metrics.json."""
    return {
        "name": data.name,
        "images": {split: len(rows) for split, rows in data.splits.items()},
        "notes": list(data.notes),
    }


def is_own_folder(folder: Path, model: str) -> bool:
    """Whether `--output` is the folder of the measured model itself."""
    return Path(model).is_dir() and folder.resolve() == Path(model).resolve()


def check_output(folder: Path, model: str, data: LoadedData, split: str) -> None:
    """Refuses, before anything is measured, a folder in which the numbers would stand for something else.

    Args:
        folder: Of `--output`; needn't exist.
        model: `--model`.
        data: What will be measured on.
        split: Which of it.

    Raises:
        ConfigError: The folder of another model or of a run's numbers, or other frames than the run recorded.
        DataError: A metrics.json or splits.yaml that can't be read.
    """
    path = folder / "metrics.json"
    content = read_metrics(path)
    if is_own_folder(folder, model):
        _check_classes(content, data, path)
        _check_frames(folder / "splits.yaml", data, split)
        return
    found = next((name for name in _RUN_FILES if (folder / name).is_file()), None)
    if found is None and content.keys() & {"training", "selection"}:
        found = "metrics.json of a training run"
    if found:
        expected = f"a folder of its own for the numbers of {model}"
        raise ConfigError(expected, f"another model's ({found})", "name another `--output`", folder)


def merge_metrics(folder: Path, split: str, entry: Mapping, environment: Mapping, data: LoadedData) -> dict:
    """metrics.json of a run, with one split measured anew.

    Training, selection and the other splits stay, and `environment` stays that of training; where this split was
    measured is recorded beside its scores. A run without metrics.json gets what is known now.

    Args:
        folder: The run's.
        entry: The split's scores.
        environment: Where they were measured.
        data: What they were measured on.

    Raises:
        DataError: A metrics.json that can't be read.
    """
    # Read here and not before the measurement: meanwhile another process may have measured another split.
    before = read_metrics(folder / "metrics.json")
    splits = {**before.get("splits", {}), split: {**entry, "environment": dict(environment)}}
    known = {} if before or _read_splits(folder / "splits.yaml") is None else {"data": describe_data(data)}
    return {**before, "splits": splits, **known}


def read_metrics(path: Path) -> dict:
    """Its content; empty if there is no such file.

    Raises:
        DataError: It is damaged, or not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:  # ValueError: of JSON and of UTF-8
        content, reason = None, f"{type(error).__name__}: {str(error).rstrip('.')}"
    else:
        reason = "something else"
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, dict) or not all(isinstance(entry, dict) for entry in splits.values()):
        fix = "restore it, move it away to have it written anew, or name another `--output`"
        raise DataError("the metrics.json of a run", reason, fix, path)
    return content


def _check_classes(content: Mapping, data: LoadedData, path: Path) -> None:
    classes = list(data.label_space.names)
    for split, entry in content.get("splits", {}).items():
        recorded = list(entry.get("iou") or classes)
        if recorded != classes:
            raise ConfigError(
                f"scores of the model's {len(classes)} classes for {split}",
                f"those of {len(recorded)} others ({', '.join(map(str, recorded[:3]))}, ...)",
                "it is of another model: move it away, or name another `--output`",
                path,
            )


def _check_frames(path: Path, data: LoadedData, split: str) -> None:
    recorded = _read_splits(path)
    if recorded is None:
        return
    mine, theirs = set(data.splits[split]["name"]), set(recorded.get(split) or ())
    if mine != theirs:
        raise ConfigError(
            f"the {len(theirs)} frames of {split} that the run recorded, as `--output` is its own folder",
            f"{len(mine)} frames, {len(mine - theirs)} of them others",
            "leave out the options of data and splits, or name another `--output`",
            path,
        )


def _read_splits(path: Path) -> Mapping | None:
    """Frame names by split; None where the model came without them."""
    # BaseLoader keeps names such as 000001 words.
    return read_mapping(path, "split", yaml.BaseLoader) if path.is_file() else None
