"""The runs of a ladder: what each one is told, what of it exists, and what it measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from hf_urbanseg.errors import CheckpointError, ConfigError, DataError, UrbanSegError
from hf_urbanseg.finetuning import parse_finetuning
from hf_urbanseg.options.config import DataArguments, ModelArguments
from hf_urbanseg.options.training_arguments import resolve_recipe
from hf_urbanseg.reports.ladder import RUNGS, RunResult
from hf_urbanseg.runs.folder import METRICS, RunFolder
from hf_urbanseg.training.checkpoints import find_newest_checkpoint, list_checkpoints

_OURS = ("recipe", "output_dir", "seed", "resume", "overwrite")
NO_MATTER = frozenset({"output_dir", "num_overlays"})
"""Options that don't change a run's numbers."""


@dataclass(frozen=True)
class LadderRun:
    """One rung with one seed."""

    folder: Path
    words: tuple[str, ...]  # the command line of finetune, without `--resume`
    recipe: dict  # everything these words decide
    data: DataArguments
    model: ModelArguments

    @property
    def name(self) -> str:
        return self.folder.name


def plan_runs(size: str, seeds: Sequence[int], output: Path, words: Sequence[str]) -> dict[tuple[int, int], LadderRun]:
    """Every rung with every seed, by both, rungs outside.

    Raises:
        ConfigError: An option that finetune doesn't take, or one that tells the runs apart.
    """
    for word in words:
        if word.startswith("--") and word[2:].split("=")[0].replace("-", "_") in _OURS:
            raise ConfigError("options for all runs after `--`", f"`{word}`, which every run has its own of", "drop it")
    runs = {}
    for rung in RUNGS:
        for seed in seeds:
            folder = output / f"{rung.number}_{rung.name}_seed{seed}"
            own = ["--recipe", f"ladder/{rung.number}_{rung.name}", "--size", size, "--output_dir", str(folder)]
            own += ["--seed", str(seed), *words]
            # `--use_cpu` is not recorded, and keeps this process from taking memory on a GPU.
            arguments = parse_finetuning([*own, "--use_cpu"])
            recipe = resolve_recipe(*arguments)
            runs[rung.number, seed] = LadderRun(folder, tuple(own), recipe, arguments.data, arguments.model)
    return runs


def find_state(run: LadderRun) -> str:
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


def read_metrics(run: LadderRun) -> dict:
    """Metrics of a finished run; DataError where they are damaged, or not what training wrote."""
    metrics = RunFolder(run.folder).read_metrics() or {}
    missing = [key for key in ("splits", "selection", "training", "environment") if not metrics.get(key)]
    if missing:
        fix = "restore it, or delete the run's folder to train it again"
        raise DataError("the metrics of a training run", f"no {', '.join(missing)}", fix, run.folder / METRICS)
    return metrics


def read_result(metrics: dict, split: str, seconds: float) -> RunResult:
    """What a finished run measured on `split`; `seconds` is its wall time, if that is known to be longer."""
    scores = metrics["splits"][split]
    # The run itself only knows the time since it was resumed.
    return RunResult(scores["mean_iou"], scores["iou"], max(seconds, metrics["training"]["seconds"]))


def _differences(run: LadderRun) -> str:
    try:
        recorded, splits = RunFolder(run.folder).read_recipe() or {}, RunFolder(run.folder).read_splits() or {}
    except UrbanSegError as error:
        return f"its {Path(error.path).name} can't be read"
    ignored = set(NO_MATTER)
    if "validation" not in splits:
        ignored |= {"eval_strategy", "load_best_model_at_end"}  # finetune turns them off then, and records that
    expected = yaml.safe_load(yaml.safe_dump(run.recipe))
    keys = [key for key in {**expected, **recorded} if key not in ignored and expected.get(key) != recorded.get(key)]
    shown = [f"`{key}` {recorded.get(key)} instead of {expected.get(key)}" for key in keys[:3]]
    return ", ".join(shown) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
