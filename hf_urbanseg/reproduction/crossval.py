"""Cross-validation: every fold and seed of one or several recipes as runs, and the report on them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets

from hf_urbanseg.data.folds import deal_folds, find_lacking, read_folds, write_folds
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.shards import refuse_streamed
from hf_urbanseg.data.splits import parse_groups
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.escaping import escape_markdown
from hf_urbanseg.json_yaml import write_json
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.reports import crossval as reports
from hf_urbanseg.reproduction.plan import Plan, PlannedRun, check_words, plan_run
from hf_urbanseg.reproduction.results import describe_options, read_finished
from hf_urbanseg.runs.folder import RunFolder

FOLDS_FILE = "folds.yaml"


def prepare_folds(data: DataArguments, folds: int, output: Path) -> tuple[str, list[str]]:
    """Writes the file of folds into `output` unless it is there; a sentence on its scenes, and some on what it lacks.

    Everything that isn't the data's own test split is dealt; that split is in no fold and is measured by `--final`.

    Raises:
        DataError: Folds of other frames or another number, or fewer scenes than folds.
    """
    path = output / FOLDS_FILE
    loaded = load_data(**asdict(replace(data, validation_fraction=0.0)))
    refuse_streamed(loaded.splits)
    if not (parts := [rows for split, rows in loaded.splits.items() if split != "test"]):
        raise DataError("frames to deal into folds", "a split `test` alone", "add others", loaded.name)
    pool = concatenate_datasets(parts)
    if path.is_file():
        try:
            read, _ = read_folds(path)
            load_data(**asdict(replace(data, split_file=str(path), fold=0, validation_fraction=0.0)))
        except KeyError as error:
            raise DataError("a list `folds`", "none", "delete the file to deal them anew", path) from error
        if len(read) != folds or sorted(name for fold in read for name in fold) != sorted(pool["name"]):
            found = f"{len(read)} folds of {sum(map(len, read))} frames"
            fix = "name another `--output_dir`, or delete the file and the runs"
            raise DataError(f"{folds} folds of the {len(pool)} frames here", found, fix, path)
    inspection = inspect_pairs(loaded.splits, loaded.label_space, channels=loaded.channels)
    counts = {}
    for split in loaded.splits:
        if split != "test":
            names = (pair.name for pair in inspection.pairs[split])
            counts |= zip(names, inspection.train_id_counts(split, loaded.label_space), strict=True)
    groups, note = loaded.find_scenes(pool)
    groups = [*groups, *parse_groups(data.keep_together, pool["name"], loaded.name)]
    if not path.is_file():
        dealt = deal_folds(counts, groups, folds, data.split_seed)
        write_folds(path, dealt, groups, loaded.splits["test"]["name"] if "test" in loaded.splits else [])
    lacking = find_lacking(counts, read_folds(path)[0], loaded.label_space.names)
    lacks = "No pixel of {} in fold {}: absent there, and scored with all folds together."
    notes = [lacks.format(escape_markdown(name), ", ".join(map(str, where))) for name, where in lacking.items()]
    return note or f"scenes: {len(groups)} groups of frames stay together", notes


def plan_crossval(
    recipes: Mapping[str, Sequence[str]],
    size: str | None,
    folds: int,
    seeds: Sequence[int],
    output: Path,
    words: Sequence[str],
) -> Plan:
    """Every recipe, with the words of its own, with every fold and seed, by the three."""
    check_words(words)
    plan = {}
    for recipe, fold, seed in product(recipes, range(folds), seeds):
        own = ["--split_file", str(output / FOLDS_FILE), "--fold", str(fold), *recipes[recipe], *words]
        folder = output / f"{name_recipe(recipe)}_fold{fold}_seed{seed}"
        plan[recipe, fold, seed] = plan_run(folder, recipe, size, seed, own)
    if len({run.name for run in plan.values()}) < len(plan):
        raise ConfigError("recipes of different names", f"{' '.join(recipes)}", "rename one of the files")
    return plan


def plan_final(recipe: str, size: str | None, seed: int, output: Path, words: Sequence[str]) -> PlannedRun:
    """The run on all folds together; `words` are all that it gets."""
    own = ["--split_file", str(output / FOLDS_FILE), *words]
    run = plan_run(output / f"{name_recipe(recipe)}_final_seed{seed}", recipe, size, seed, own)
    return replace(run, is_measured=False)


def name_recipe(recipe: str) -> str:
    """The last part of a recipe's name or path."""
    return Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe.rpartition("/")[2]


def write_crossval_report(
    output: Path, plan: Plan, words: Sequence[str], notes: Sequence[str] = (), ladder: bool = False
) -> str:
    """crossval.json, crossval.md and crossval.png from whatever is finished; returns what to print at the end.

    Of a `ladder`, each recipe is compared with the one before it, else with the first.
    """
    finished = read_finished(output, plan)
    folds, scenes = read_folds(output / FOLDS_FILE)
    measured: dict[str, dict[int, reports.Measured]] = {}
    for recipe, seed in dict.fromkeys((recipe, seed) for recipe, _, seed in plan):
        keys = [(recipe, fold, seed) for fold in range(len(folds))]
        if all(key in finished.runs for key in keys):
            counts = [RunFolder(finished.runs[key].folder).read_counts("test")[0] for key in keys]
            matrix = sum(np.array(finished.metrics[key]["splits"]["test"]["confusion_matrix"]) for key in keys)
            seconds = sum(finished.results[key].seconds for key in keys)
            measured.setdefault(recipe, {})[seed] = reports.Measured(ImageCounts.concatenate(counts), matrix, seconds)
    recipes = list(dict.fromkeys(recipe for recipe, _, _ in plan))
    built = reports.build_crossval(
        {name_recipe(recipe): measured.get(recipe, {}) for recipe in recipes}, folds, scenes, against_first=not ladder
    )
    seeds = len({seed for _, _, seed in plan})
    numbers = reports.describe_crossval(built, folds, scenes, seeds)
    notes = [*numbers, *notes, *describe_options(words), *finished.left_out]
    title = f"Cross-validation on {finished.data}: {len(folds)} folds"
    write_json(output / "crossval.json", {"data": finished.data, "options": list(words), "notes": notes, **built})
    reports.write_crossval_table(built, output / "crossval.md", title, notes)
    reports.plot_crossval(built, output / "crossval.png", title)
    lines = ["pooled mIoU in %: mean ± std over seeds [95 % interval]"]
    lines += [f"  {one['recipe']:<24}{one['shown']}" for one in built["recipes"]]
    return "\n".join([*lines, f"Table, plot and numbers: {output}/crossval.md, .png, .json"])
