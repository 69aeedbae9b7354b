"""All options of a run together: a command line over options of Python over a recipe."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hf_urbanseg.options.config import AugmentationArguments, DataArguments, LossArguments, ModelArguments, RunArguments
from hf_urbanseg.options.distillation import DistillationArguments
from hf_urbanseg.options.parsing import find_option, parse_arguments
from hf_urbanseg.options.recipe import load_recipe
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments


class FinetuneArguments(NamedTuple):
    """All options of a run."""

    run: RunArguments
    data: DataArguments
    model: ModelArguments
    augmentation: AugmentationArguments
    loss: LossArguments
    distillation: DistillationArguments
    training: UrbanSegTrainingArguments


def parse_finetuning(
    argv: Sequence[str] = (), recipe: str | None = None, options: Mapping | None = None
) -> FinetuneArguments:
    """A run's options: words of a command line over those of Python; `recipe` is taken where neither names one."""
    options = dict(options or {})
    names = ("recipe", "size", "init", "model_name_or_path")
    chosen = {name: find_option(argv, name) or options.get(name) for name in names}
    recipe = chosen["recipe"] or recipe or RunArguments.recipe
    own_model = chosen["init"] == "random" or chosen["model_name_or_path"] is not None
    content = load_recipe(recipe, chosen["size"], any_size=own_model)
    if any(find_option(argv, one) or options.get(one) for one in ("data_dir", "dataset")):
        for one in ("data_dir", "dataset", "dataset_config", "dataset_revision"):
            content.pop(one, None)  # the recipe's own data, in place of which others were named
    types = tuple(FinetuneArguments.__annotations__.values())
    return FinetuneArguments(*parse_arguments(types, argv, content, recipe, options))
