"""All options of a run together: a command line over options of Python over a recipe."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hf_urbanseg.options.added_data import AddedDataArguments
from hf_urbanseg.options.config import AugmentationArguments, DataArguments, LossArguments, ModelArguments, RunArguments
from hf_urbanseg.options.distillation import DistillationArguments
from hf_urbanseg.options.parsing import find_option, parse_arguments
from hf_urbanseg.options.recipe import load_recipe
from hf_urbanseg.options.sampling import SamplingArguments
from hf_urbanseg.options.training_arguments import UrbanSegTrainingArguments
from hf_urbanseg.options.unlabelled import UnlabelledArguments

OWN_DATA = "own_data"
"""The recipe where data is named and no recipe."""


class FinetuneArguments(NamedTuple):
    """All options of a run."""

    run: RunArguments
    data: DataArguments
    model: ModelArguments
    augmentation: AugmentationArguments
    sampling: SamplingArguments
    loss: LossArguments
    distillation: DistillationArguments
    added: AddedDataArguments
    unlabelled: UnlabelledArguments
    training: UrbanSegTrainingArguments


def parse_finetuning(argv: Sequence[str] = (), options: Mapping | None = None) -> FinetuneArguments:
    """A run's options: words of a command line over those of Python, both over those of a recipe."""
    options = dict(options or {})
    names = ("recipe", "size", "init", "model_name_or_path", "data_dir", "dataset")
    chosen = {name: find_option(argv, name) or options.get(name) for name in names}
    own_model = chosen["init"] == "random" or chosen["model_name_or_path"] is not None
    recipe, size = chosen["recipe"], chosen["size"]
    if recipe is None and (chosen["data_dir"] or chosen["dataset"] not in (None, "synthetic")):
        recipe = OWN_DATA
        if chosen["model_name_or_path"] not in (None, "tiny-streets"):
            size = size or "b0"  # its rates are those of a large network that knows much already
    content = load_recipe(recipe or "demo", size, any_size=own_model)
    if chosen["data_dir"] or chosen["dataset"]:
        for one in ("data_dir", "dataset", "dataset_config", "dataset_revision"):
            content.pop(one, None)  # the recipe's own data, in place of which others were named
    types = tuple(FinetuneArguments.__annotations__.values())
    return FinetuneArguments(*parse_arguments(types, argv, content, recipe or "demo", options))
