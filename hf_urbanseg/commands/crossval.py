"""Trains every fold and seed of one or several recipes, and says with error bars how good they are and which is better.

Folds keep scenes together, spread rare classes and stand in folds.yaml of --output_dir, which may be edited before the
first run. Options behind `--` go to every run:
`urbanseg crossval --recipe beyond/b0 --data_dir data_semantics.zip --seeds 0 1 2 --final true -- --bf16 true`.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from hf_urbanseg.command_line import command, help_if_asked
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, option, required
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.several_runs import SeveralRuns, launcher_option, spell_data, split_words
from hf_urbanseg.ranges import Range, Seed


@dataclass
class CrossvalArguments(Options):
    """What is compared."""

    recipe: list[str] = required("Recipes to cross-validate; those behind the first are compared with it.")


@dataclass
class FoldsArguments(SeveralRuns):
    """Which runs, and how they are started."""

    size: str | None = option(None, "Size, of recipes for several.")
    folds: Annotated[int, Range(2, 100)] = option(4, "Parts, each held out once.")
    seeds: list[Seed] = option([0, 1, 2], "Every fold is trained once with each.")
    final: bool = option(
        False, "Then train the last recipe on all folds, with the first seed; the data's own test split measures it."
    )
    output_dir: str = option("runs/crossval", "Folder of the folds, all runs, the table and the plot.")
    launcher: str | None = launcher_option()


@command
def main(argv: list[str]) -> None:
    own, extra = split_words(argv)
    usage = "crossval --recipe RECIPE ... --data_dir FOLDER [--option VALUE ...] [-- --option-of-finetune VALUE ...]"
    types = (CrossvalArguments, FoldsArguments, DataArguments)
    help_if_asked(own, types, __doc__, usage)
    chosen, args, data = parse_arguments(types, ["--test_fraction", "0", *own])
    run_folds(args, {recipe: [] for recipe in chosen.recipe}, data, extra)


def run_folds(
    args: FoldsArguments, recipes: Mapping[str, list[str]], data: DataArguments, extra: list[str], ladder: bool = False
) -> None:
    """Everything behind the options: of `recipes` each has words of its own, and `ladder` compares it with the one
    before it."""
    from hf_urbanseg.reproduction.crossval import (
        FOLDS_FILE,
        plan_crossval,
        plan_final,
        prepare_folds,
        write_crossval_report,
    )
    from hf_urbanseg.reproduction.running import check_runs, run_all

    if data.fold is not None:
        raise ConfigError("no `fold` for several", f"{data.fold}", "leave it out: every fold is held out once")
    output = Path(args.output_dir)
    words = [*spell_data(data, ("split_file", "fold", "test_fraction")), *extra]
    plan = plan_crossval(recipes, args.size, args.folds, args.seeds, output, words)
    with locked(output):
        scenes, notes = prepare_folds(data, args.folds, output)
        print(f"folds: {output / FOLDS_FILE}", scenes, *notes, sep="\n  ")
        runs = list(plan.values())
        report = partial(write_crossval_report, output, plan, words, notes, ladder)
        *_, (recipe, own) = recipes.items()
        last = [plan_final(recipe, args.size, args.seeds[0], output, [*own, *words])] if args.final else []
        runs += last
        run_all(runs, check_runs(runs, output, "cross-validation"), output, shlex.split(args.launcher or ""), report)
        print(report(), *(f"Trained on everything: {run.folder}" for run in last), sep="\n")
