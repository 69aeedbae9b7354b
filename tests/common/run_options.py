"""Options of a run from words and recipes."""

import pytest

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.options.finetune_arguments import FinetuneArguments
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.recipe import load_recipe
from hf_urbanseg.options.training_arguments import resolve_recipe

ALL = tuple(FinetuneArguments.__annotations__.values())


def parse(*words, recipe=None):
    """(model, augmentation, loss, training) of a command line over a recipe."""
    arguments = FinetuneArguments(*parse_arguments(ALL, [str(word) for word in words], recipe, "mine.yaml"))
    return arguments.model, arguments.augmentation, arguments.loss, arguments.training


def resolved(name: str, size: str | None = None) -> dict:
    """Everything a recipe decides, defaults included, but the folder it writes to."""
    recipe = resolve_recipe(*parse_arguments(ALL, [], load_recipe(name, size), name))
    return {key: value for key, value in recipe.items() if key != "output_dir"}


def fails(*words, recipe=None) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*words, recipe=recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)
