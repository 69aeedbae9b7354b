"""Options of a run from words and recipes."""

import pytest

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.options.finetune_arguments import FinetuneArguments
from hf_urbanseg.options.parsing import parse_arguments

ALL = tuple(FinetuneArguments.__annotations__.values())


def parse(*words, recipe=None):
    """(model, augmentation, loss, training) of a command line over a recipe."""
    arguments = FinetuneArguments(*parse_arguments(ALL, [str(word) for word in words], recipe, "mine.yaml"))
    return arguments.model, arguments.augmentation, arguments.loss, arguments.training


def fails(*words, recipe=None) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*words, recipe=recipe)
    assert "\n" not in str(caught.value)
    return str(caught.value)
