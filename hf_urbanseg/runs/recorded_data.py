"""The data and splits a run was trained on, recalled from what it left beside its model."""

import contextlib
import logging
import os
from dataclasses import asdict, fields, replace
from pathlib import Path

from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError
from hf_urbanseg.files import expand_home, hash_file
from hf_urbanseg.models.exported import find_weights, is_exported
from hf_urbanseg.models.loading import find_file
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.recipe import load_recipe
from hf_urbanseg.runs.folder import LABEL_SPACE, MEASURED, RECIPE, SPLITS, WEIGHTS, WEIGHTS_SHA256, RunFolder

logger = logging.getLogger(__name__)

_CUTS = ("split_file", "fold", "keep_together", "scenes", "test_fraction", "validation_fraction", "split_seed")


def load_recorded_data(data_args: DataArguments, model: str, revision: str | None = None) -> LoadedData:
    """The data to measure a run on, split as in training wherever that can be.

    Without a data option, the data and the very splits of the run. With one, and no option that splits it, the splits
    of the run if all of its frames are in the data; if they are not, the data's own splits or the usual
    cut, and the log says so: what is then called test may have been trained on.
    """
    if data_args.palette is None:  # other data has the run's colours, too
        with contextlib.suppress(UrbanSegError):
            data_args = replace(data_args, palette=load_recipe(str(find_file(model, RECIPE, revision))).get("palette"))
    recalled = recall_data_arguments(data_args, model, revision)
    if recalled is not data_args or any(getattr(data_args, one) != getattr(DataArguments(), one) for one in _CUTS):
        return load_data(**asdict(recalled))
    try:
        listed = str(find_file(model, SPLITS, revision))
    except UrbanSegError:
        return load_data(**asdict(data_args))
    try:
        data = load_data(**asdict(replace(data_args, split_file=listed)))
    except DataError as error:
        data = load_data(**asdict(data_args))  # fails again if the data itself is at fault
        logger.warning(
            "the splits of %s are not used, because they don't fit this data (%s); the data's own or the usual cut is, "
            "and may call frames test that the model was trained on", model, error.found,
        )  # fmt: skip
        return data
    logger.warning("splits: as %s was trained (`--split_file` names others)", model)
    return data


def recall_data_arguments(data_args: DataArguments, model: str, revision: str | None = None) -> DataArguments:
    """Without a data option, the data and the very splits of the run; otherwise what the options say.

    Args:
        model: The run's folder, or that of a measured model's numbers, or a Hub id.

    Raises:
        ConfigError: No data option, and no recipe beside the model.
    """
    if data_args.data_dir or data_args.dataset:
        return data_args
    if source := RunFolder(model).read_source():
        recipe, content = str(Path(model) / MEASURED), source["data"]
    else:
        try:
            recipe = str(find_file(model, RECIPE, revision))
        except UrbanSegError as error:
            expected = f"`data_dir`, `dataset` or a run with {RECIPE}"
            raise ConfigError(expected, "none", "say what to measure on", model) from error
        content = load_recipe(recipe)
    known = {field.name for field in fields(DataArguments)}
    recorded = {key: value for key, value in content.items() if key in known}
    (recalled,) = parse_arguments((DataArguments,), [], recorded, recipe)
    recalled = replace(recalled, palette=data_args.palette or recalled.palette)
    has_splits = source is None or RunFolder(model).has(SPLITS)
    listed = recalled.split_file is not None and recalled.fold is None
    if recalled.dataset != "synthetic" and not recalled.streaming and not listed and has_splits:
        recalled = replace(recalled, split_file=str(find_file(model, SPLITS, revision)), fold=None)
    if recalled.dataset not in (None, "synthetic") and recalled.label_space is None:
        # What names of classes mean is told from them (`label_space_from_names`); the run's own reading counts.
        with contextlib.suppress(UrbanSegError):
            recalled = replace(recalled, label_space=str(find_file(model, LABEL_SPACE, revision)))
    return recalled


def describe_source(
    model: str, revision: str | None, data_args: DataArguments, data: LoadedData
) -> dict[str, str | dict | None]:
    """Which model and data are measured, to be found again from another folder by `recall_data_arguments`.

    Args:
        data_args: As they were given, or recalled.
        data: What they loaded; its splits are written beside.

    Returns:
        `model`, its path or Hub id, and its commit as `revision`; `weights_sha256`, None for a model without the one
        file of weights; `data`, the options that name it.
    """
    weights = None
    if is_exported(model):
        weights = hash_file(find_weights(model))
    elif not Path(model).is_dir():
        revision = find_file(model, "config.json", revision).parent.name  # in the Hub's cache the commit
    with contextlib.suppress(UrbanSegError):
        weights = weights or hash_file(find_file(model, WEIGHTS, revision))
    if Path(model).exists():
        model = os.path.abspath(model)
    options = {f.name: getattr(data_args, f.name) for f in fields(DataArguments)}
    options = {key: value for key, value in options.items() if value != getattr(DataArguments(), key)}
    for key in {"data_dir", "dataset", "label_space", "split_file"} & options.keys():
        path = expand_home(options[key])
        is_name = options[key] == "synthetic" or (key == "label_space" and not path.suffix)
        if path.exists() and not is_name:
            options[key] = os.path.abspath(path)
    if "train" in data.splits:
        options = {key: value for key, value in options.items() if key not in _CUTS} | {"validation_fraction": 0.0}
    return {"model": model, "revision": revision, WEIGHTS_SHA256: weights, "data": options}


def read_recorded_recipe(model: str, revision: str | None = None) -> str | None:
    """The text of a run's recipe; None where the model came without one."""
    try:
        return find_file(model, RECIPE, revision).read_text(encoding="utf-8")
    except UrbanSegError:
        return None
