"""A run of a recipe with a seed: what it is told, and what of it exists."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from hf_urbanseg.errors import CheckpointError, ConfigError, UrbanSegError
from hf_urbanseg.options.config import DataArguments, ModelArguments
from hf_urbanseg.options.finetune_arguments import parse_finetuning
from hf_urbanseg.options.training_arguments import resolve_recipe
from hf_urbanseg.runs.folder import RunFolder
from hf_urbanseg.runs.inputs import list_defaults
from hf_urbanseg.training.checkpoints import find_newest_checkpoint, list_checkpoints

_OURS = ("recipe", "output_dir", "seed", "resume", "overwrite")
NO_MATTER = frozenset({"output_dir", "num_overlays", "teacher"})
"""Options that don't change a run's numbers; a teacher is the run of another row, wherever it lies."""


@dataclass(frozen=True)
class PlannedRun:
    """One recipe with one seed."""

    folder: Path
    words: tuple[str, ...]  # the command line of finetune, without `--resume`
    recipe: dict  # everything these words decide
    defaults: dict  # what a recorded recipe means that doesn't say it
    data: DataArguments
    model: ModelArguments
    is_measured: bool = True  # on data that it isn't trained on

    @property
    def name(self) -> str:
        return self.folder.name


Plan = dict[Hashable, PlannedRun]
"""Runs by what tells them apart: a rung, row or recipe, a fold, a seed."""


def check_words(words: Sequence[str]) -> None:
    """Refuses (ConfigError) options for all runs that tell the runs apart."""
    for word in words:
        if word.startswith("--") and word[2:].split("=")[0].replace("-", "_") in _OURS:
            raise ConfigError("options for all runs after `--`", f"`{word}`, which every run has its own of", "drop it")


def plan_run(folder: Path, recipe: str, size: str | None, seed: int, words: Sequence[str]) -> PlannedRun:
    """A run of a recipe in a folder; a `--size` among the words wins, and None is the recipe's own.

    Raises:
        ConfigError: An option that finetune doesn't take.
    """
    own = ["--recipe", recipe, *(["--size", size] if size else []), "--output_dir", str(folder)]
    own += ["--seed", str(seed), *words]
    # `--use_cpu` is not recorded, and keeps this process from taking memory on a GPU.
    arguments = parse_finetuning([*own, "--use_cpu"])
    recipe, defaults = resolve_recipe(*arguments), list_defaults(arguments)
    return PlannedRun(folder, tuple(own), recipe, defaults, arguments.data, arguments.model)


def find_state(run: PlannedRun) -> str:
    """`finished`, `started` (to be resumed) or `new`.

    Raises:
        ConfigError: The folder holds something else, such as a run with other options.
        CheckpointError: It holds checkpoints, but none is complete.
    """
    folder = run.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigError("a folder for the run", "a file", "move it or name another `--output_dir`", folder)
    finished = RunFolder(folder).is_finished
    if not finished:
        try:
            find_newest_checkpoint(folder)
        except CheckpointError:
            if list_checkpoints(folder):
                raise
            return "new"
    if different := _differences(run):
        expected = f"the {'finished' if finished else 'unfinished'} run of the same recipe"
        fix = "repeat its options, delete the folder to run it anew, or name another `--output_dir`"
        raise ConfigError(expected, f"another: {different}", fix, folder)
    return "finished" if finished else "started"


def _differences(run: PlannedRun) -> str:
    try:
        recorded, splits = RunFolder(run.folder).read_recipe() or {}, RunFolder(run.folder).read_splits() or {}
    except UrbanSegError as error:
        return f"its {Path(error.path).name} can't be read"
    ignored = set(NO_MATTER)
    if "validation" not in splits:
        ignored |= {"eval_strategy", "load_best_model_at_end"}  # finetune turns them off then, and records that
    expected = yaml.safe_load(yaml.safe_dump(run.recipe))
    found = {
        key: [said.get(key, run.defaults.get(key)) for said in (recorded, expected)] for key in {**expected, **recorded}
    }
    keys = [key for key, (one, other) in found.items() if key not in ignored and one != other]
    shown = ["`{}` {} instead of {}".format(key, *found[key]) for key in keys[:3]]
    return ", ".join(shown) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def what_counts(run: PlannedRun) -> dict:
    """The options of a run that can change its numbers."""
    ignored = NO_MATTER | ({"model_name_or_path", "model_revision"} if run.model.init == "random" else set())
    return {key: value for key, value in run.recipe.items() if key not in ignored}
