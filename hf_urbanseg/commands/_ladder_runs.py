"""The runs of a ladder: what each one is told, what of it exists, and what is missing before the first."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_urbanseg.checkpoints import find_newest_checkpoint, list_checkpoints
from hf_urbanseg.commands.finetune import ARGUMENT_TYPES
from hf_urbanseg.config import DataArguments, ModelArguments
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.errors import CheckpointError, ConfigError, DataError, ModelError, UrbanSegError
from hf_urbanseg.recipe import load_recipe, parse_arguments, resolve_recipe
from hf_urbanseg.reports.ladder import RUNGS, Rung, RunResult

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_OURS = ("recipe", "output_dir", "seed", "resume", "overwrite")
_NO_MATTER = {"output_dir", "num_overlays"}


@dataclass(frozen=True)
class LadderRun:
    """One rung with one seed.

    Args:
        rung: Which.
        seed: Of weights, order and augmentation.
        folder: Its output.
        words: The command line of finetune, without `--resume`.
        recipe: Everything these words decide.
        data: Its data options.
        model: Its model options.
    """

    rung: Rung
    seed: int
    folder: Path
    words: tuple[str, ...]
    recipe: dict
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
        recipe = f"ladder/{size}_{rung.number}_{rung.name}"
        for seed in seeds:
            folder = output / f"{rung.number}_{rung.name}_seed{seed}"
            own = ("--output_dir", str(folder), "--seed", str(seed), *words)
            # `--use_cpu` is not recorded, and keeps this process from taking memory on a GPU.
            arguments = parse_arguments(ARGUMENT_TYPES, [*own, "--use_cpu"], load_recipe(recipe), recipe)
            runs[rung.number, seed] = LadderRun(
                rung, seed, folder, ("--recipe", recipe, *own), resolve_recipe(*arguments), arguments[1], arguments[2]
            )
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
    finished = (folder / "metrics.json").exists()
    if not finished:
        try:
            find_newest_checkpoint(folder)
        except CheckpointError:
            if list_checkpoints(folder):
                raise
            return "new"
    if different := _differences(run):
        raise ConfigError(
            f"the {'finished' if finished else 'unfinished'} run of the same recipe",
            f"another: {different}",
            "repeat its options, delete the folder to run it anew, or name another `--output_dir`",
            folder,
        )
    return "finished" if finished else "started"


def _differences(run: LadderRun) -> str:
    try:
        recorded = yaml.safe_load((run.folder / "recipe.yaml").read_text(encoding="utf-8"))
        splits = yaml.safe_load((run.folder / "splits.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        return f"its recipe.yaml or splits.yaml can't be read ({type(error).__name__})"
    ignored = set(_NO_MATTER)
    if "validation" not in splits:
        ignored |= {"eval_strategy", "load_best_model_at_end"}  # finetune turns them off then, and records that
    expected = yaml.safe_load(yaml.safe_dump(run.recipe))
    keys = [key for key in {**expected, **recorded} if key not in ignored and expected.get(key) != recorded.get(key)]
    shown = [f"`{key}` {recorded.get(key)} instead of {expected.get(key)}" for key in keys[:3]]
    return ", ".join(shown) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def read_result(run: LadderRun, split: str, seconds: float) -> RunResult:
    """What a finished run measured on `split`; `seconds` is its wall time, if that is known to be longer."""
    metrics = read_metrics(run)
    scores = metrics["splits"][split]
    # The run itself only knows the time since it was resumed.
    return RunResult(scores["mean_iou"], scores["iou"], max(seconds, metrics["training"]["seconds"]))


def read_metrics(run: LadderRun) -> dict:
    """metrics.json of a finished run.

    Raises:
        DataError: It is damaged, or not what training wrote.
    """
    path = run.folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("splits", "selection", "training", "environment") if not metrics.get(key)]
    except (OSError, ValueError, AttributeError) as error:
        missing = [type(error).__name__]
    if missing:
        fix = "restore it, or delete the run's folder to train it again"
        raise DataError("the metrics.json of a training run", f"no {', '.join(missing)}", fix, path)
    return metrics


def describe_measurement(runs: Mapping, metrics: Mapping, split: str) -> list[str]:
    """Sentences on what the numbers are and whether they can be compared.

    Args:
        runs: Finished runs by rung and seed.
        metrics: Their metrics.json, by the same.
        split: What was measured.
    """
    if not runs:
        return ["Nothing is finished yet."]
    first = next(iter(metrics.values()))
    selections = " / ".join(sorted({content["selection"]["by"] for content in metrics.values()}))
    notes = [
        f"Ours: mIoU of `{split}` ({first['splits'][split]['num_images']} images), one scale, no flip; exported "
        f"checkpoint by: {selections}. Seeds differ in random weights, order and augmentation, not in the split; std "
        "is the sample's.",
        "*The report's* numbers (arXiv:2206.12571) are SegFormer-B2's, on a 150/50 split that is not published, with "
        "the checkpoint selected on test and, from rung 6 on, multi-scale testing: not the same measurement.",
    ]
    if split != "test":
        notes.append("There is no test split: these are scores of `validation`, which also selected the checkpoints.")
    if len({(run.folder / "splits.yaml").read_text(encoding="utf-8") for run in runs.values()}) > 1:
        notes.append("The runs had different frames in their splits: they can't be compared.")
    processes = sorted({content["training"]["processes"] for content in metrics.values()})
    devices = sorted({str(content["environment"]["device"]) for content in metrics.values()})
    batches = " or ".join(f"{count} process{'es' if count > 1 else ''}" for count in processes)
    notes.append(f"Trained on {' / '.join(devices)}, {batches}.")
    if len(processes) > 1:
        notes.append("The number of processes multiplies the batch: these runs had different batches.")
    return notes


def describe_model(run: LadderRun) -> str:
    """`SegFormer-B2`, or what the options of all runs put in its place."""
    if run.model.init == "random":
        return f"SegFormer-{run.model.size}, random at the start,"
    size = run.words[run.words.index("--recipe") + 1].removeprefix("ladder/").split("_")[0]
    return f"SegFormer-{size if size == 'tiny' else size.upper()}"


def describe_options(plan: Mapping[tuple[int, int], LadderRun], words: Sequence[str]) -> list[str]:
    """Sentences on the options of all runs, and on rungs that add nothing under them."""
    notes = [f"Options of every run: `{shlex.join(words)}`."] if words else []
    by_rung = {number: run for (number, _), run in reversed(plan.items())}
    for number, run in sorted(by_rung.items()):
        if number - 1 in by_rung and _what_counts(run) == _what_counts(by_rung[number - 1]):
            notes.append(f"With these options rung {number} is the same as rung {number - 1}: it adds nothing.")
    return notes


def _what_counts(run: LadderRun) -> dict:
    ignored = _NO_MATTER | ({"model_name_or_path", "model_revision"} if run.model.init == "random" else set())
    return {key: value for key, value in run.recipe.items() if key not in ignored}


def find_problems(runs: Iterable[LadderRun]) -> list[UrbanSegError]:
    """What these runs lack: data (every pair is read) and weights."""
    runs = list(runs)
    checks = [(_check_data, data) for data in _distinct(run.data for run in runs)]
    models = [run.model for run in runs if run.model.init == "pretrained"]
    checks += [
        (_check_weights, model)
        for model in {(model.model_name_or_path, model.model_revision): model for model in models}.values()
    ]
    problems = []
    for check, subject in checks:
        try:
            check(subject)
        except UrbanSegError as error:
            problems.append(error)
    return problems


def _distinct(items: Iterable) -> list:
    found = []
    for item in items:
        if item not in found:
            found.append(item)
    return found


def _check_data(options: DataArguments) -> None:
    data = load_data(**asdict(options))
    inspect_pairs(data.splits, data.label_space)
    for needed in ({"train"}, {"test", "validation"}):
        if not needed & set(data.splits):
            raise DataError(
                f"a split `{'` or `'.join(sorted(needed))}`", ", ".join(data.splits), "name it in `--split_file`",
                data.name,
            )  # fmt: skip


def _check_weights(options: ModelArguments) -> None:
    name, revision = options.model_name_or_path, options.model_revision
    if name is None:
        raise ModelError("`model_name_or_path`", "none", "name a Hub id or folder, or add `--init random`")
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file() or not any((folder / file).is_file() for file in _WEIGHTS):
            fix = "give the folder of a saved model"
            raise ModelError("a model folder with config.json and weights", "not both", fix, name)
        return
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ModelError("a model folder or a Hub id", "no such folder", "correct the path", name) from error
    wanted = [("config.json",), _WEIGHTS]
    if all(
        any(isinstance(try_to_load_from_cache(name, f, revision=revision), str) for f in any_of) for any_of in wanted
    ):
        return
    try:
        # Forced, because a cached file would be returned without asking the Hub.
        hf_hub_download(name, "config.json", revision=revision, force_download=True)
    except (OSError, ValueError) as error:
        command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        raise ModelError(
            "weights in the local cache or a Hub that answers",
            f"neither ({str(error).splitlines()[0].rstrip('.')})",
            f"run `{command}` where there is a network",
            name,
        ) from error
