"""The data and splits a run was trained on, recalled from what it left beside its model."""

from dataclasses import fields, replace

from hf_urbanseg.config import DataArguments
from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.models.loading import find_file
from hf_urbanseg.recipe import load_recipe, parse_arguments


def recall_data_arguments(data_args: DataArguments, model: str, revision: str | None = None) -> DataArguments:
    """Without a data option, the data and the very splits of the run; otherwise what the options say.

    Args:
        data_args: From the command line.
        model: The run's folder, or Hub id.
        revision: Of the Hub id.

    Raises:
        ConfigError: No data option, and no recipe beside the model.
    """
    if data_args.data_dir or data_args.dataset:
        return data_args
    try:
        recipe = str(find_file(model, "recipe.yaml", revision))
    except UrbanSegError as error:
        expected = "`data_dir`, `dataset` or a run with recipe.yaml"
        raise ConfigError(expected, "none", "say what to measure on", model) from error
    known = {field.name for field in fields(DataArguments)}
    recorded = {key: value for key, value in load_recipe(recipe).items() if key in known}
    (recalled,) = parse_arguments((DataArguments,), [], recorded, recipe)
    if recalled.dataset != "synthetic" and recalled.split_file is None:
        recalled = replace(recalled, split_file=str(find_file(model, "splits.yaml", revision)))
    return recalled
