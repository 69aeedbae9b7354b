"""What runs lack before the first is started: data and weights."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.errors import DataError, ModelError, UrbanSegError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_config
from hf_urbanseg.models.loading import first_line, locate
from hf_urbanseg.options.config import ModelArguments
from hf_urbanseg.reproduction.plan import PlannedRun

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def find_problems(runs: Iterable[PlannedRun]) -> list[UrbanSegError]:
    """What these runs lack: data (every pair is read) and weights."""
    runs = list(runs)
    checks = [(_check_data, run) for run in {(repr(run.data), run.is_measured): run for run in runs}.values()]
    models = {
        (run.model.model_name_or_path, run.model.model_revision)
        if run.model.init == "pretrained"
        else (run.model.architecture, run.model.size): run.model
        for run in runs
    }
    checks += [(_check_model, model) for model in models.values()]
    problems = []
    for check, subject in checks:
        try:
            check(subject)
        except UrbanSegError as error:
            problems.append(error)
    return problems


def _check_data(run: PlannedRun) -> None:
    data = load_data(**asdict(run.data))
    inspect_pairs(data.splits, data.label_space, channels=data.channels)
    for needed in ({"train"}, *([{"test", "validation"}] if run.is_measured else [])):
        if not needed & set(data.splits):
            expected, found = f"a split `{'` or `'.join(sorted(needed))}`", ", ".join(data.splits)
            raise DataError(expected, found, "name it in `--split_file`", data.name)


def _check_model(options: ModelArguments) -> None:
    if options.init == "random":
        build_config(options.size, CITYSCAPES, options.architecture)
        return
    name, revision = options.model_name_or_path, options.model_revision
    if name is None:
        # Of the package's recipes, the one of this row alone names none.
        expected = "a model that the row `swin_cityscapes` starts from"
        raise ModelError(expected, "none", "name a folder or Hub id by `--swin_cityscapes`, or leave the row out")
    folder = Path(locate(name))
    if folder.is_dir():
        if not (folder / "config.json").is_file() or not any((folder / file).is_file() for file in _WEIGHTS):
            fix = "give the folder of a saved model"
            raise ModelError("a model folder with config.json and weights", "not both", fix, name)
        return
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ModelError("a model folder or a Hub id", "no such folder", "correct the path", name) from error
    files = ("config.json", *_WEIGHTS)
    cached = [one for one in files if isinstance(try_to_load_from_cache(name, one, revision=revision), str)]
    if "config.json" in cached and len(cached) > 1:
        return
    try:
        # Forced, because a cached file would be returned without asking the Hub.
        hf_hub_download(name, "config.json", revision=revision, force_download=True)
    except (OSError, ValueError) as error:
        command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
        expected, found = "weights in the local cache or a Hub that answers", f"neither ({first_line(error)})"
        raise ModelError(expected, found, f"run `{command}` where there is a network", name) from error
