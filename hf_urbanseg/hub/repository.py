"""What of a run's folder goes into its repository: an allow-list, without the paths of this machine."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from hf_urbanseg.errors import ModelError
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cleaning import clean_file, list_local_folders
from hf_urbanseg.inference.calibration_file import CALIBRATION
from hf_urbanseg.json_yaml import read_json
from hf_urbanseg.models.loading import check_finite, first_line
from hf_urbanseg.runs import folder as names
from hf_urbanseg.runs.folder import RunFolder, per_class, per_image

logger = logging.getLogger(__name__)

Files = dict[str, Path | bytes]
"""Path in the repository -> the file, or its content where it differs from the file."""

# `*` is anything without a slash; names that begin with a dot never match.
_MODEL = (
    "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "config.json",
    "preprocessor_config.json", CALIBRATION,
)  # fmt: skip
_INPUTS = (
    names.RECIPE, names.TRAINING_ARGUMENTS, names.SPLITS, names.LABEL_SPACE, names.CLASS_WEIGHTS,
    names.CLASS_DISTRIBUTION, names.TEACHER, names.ADDED_DATA,
)  # fmt: skip
# Made from the data's images, which have a licence of their own.
_PICTURES = (names.REPORT, f"{names.FAILURES}/*.html")
_PICTURES += tuple(f"{folder}/*{end}" for folder in (names.OVERLAYS, names.FAILURES) for end in (".png", ".jpg"))
_RESULTS = (
    names.CARD, names.METRICS, names.LOG_HISTORY, names.TRAINING_CURVES, per_image("*"), f"{names.FAILURES}/*.md",
    f"{names.FAILURES}/*.json", *(per_class("*", suffix) for suffix in (".md", ".csv", ".png")), *_PICTURES,
)  # fmt: skip
# TensorBoard's
_EVENTS = ("runs/events.out.tfevents.*", "runs/*/events.out.tfevents.*")


def is_ours(path: str) -> bool:
    """Whether a later push of a run may remove this path of a repository: whether an earlier one could have written it.

    Event files stay: they are of earlier runs, or were put there by others' tools.
    """
    return _matches(path, (*_MODEL, *_INPUTS, *_RESULTS))


def is_model(path: str) -> bool:
    """Whether a path in a run's folder is of its model."""
    return _matches(path, _MODEL)


def collect_repository(run: str | Path, tensorboard: bool = False, pictures: bool | None = None) -> Files:
    """The files of a finished run's repository.

    Everything comes from an allow-list (`is_ours`), so checkpoints, optimizer states, `training_args.bin`, `.env`,
    push.json and whatever else lies in the folder stay. In texts the paths of this machine are cut to their last
    name; a link that leads out of the folder is left out. TensorBoard's event files go without host names and without
    the records that hold paths, `pictures` (overlays, failures, the report) by default unless the data's terms
    forbid it or may do so.

    Raises:
        ModelError: No model, or another than was measured.
        DataError: A file can't be read.
    """
    run = Path(run)
    if not run.is_dir():
        raise ModelError("the folder of a run", "none", "correct the path", run)
    found = _find(run, (*_MODEL, *_INPUTS, *_RESULTS))
    _check_model(run, found)
    if names.METRICS not in found:
        fix = "let `urbanseg finetune` finish (`--resume`), or measure it: `urbanseg evaluate --model RUN --output RUN`"
        raise ModelError(f"a measured model with {names.METRICS}", "none", fix, run)
    RunFolder(run).check_weights()
    _check_weights(found)
    shown = [name for name in found if _matches(name, _PICTURES)]
    if shown and not (summary := RunSummary.read(run)).shows_pictures(pictures):
        if pictures is None:
            terms = "forbids" if summary.data_kind == "cityscapes" else "may forbid"
            logger.warning(
                "left out: %d files that show images of %s, whose licence %s to publish them",
                len(shown), summary.data_title, terms,
            )  # fmt: skip
        found = {name: path for name, path in found.items() if name not in shown}
    return _clean(run, found, tensorboard)


def collect_checkpoint(run: str | Path, checkpoint: str | Path, tensorboard: bool = False) -> Files:
    """The files of a repository in the middle of training: the checkpoint's model, and what went into the run."""
    run, checkpoint = Path(run), Path(checkpoint)
    found = _find(checkpoint, _MODEL)
    _check_model(checkpoint, found)
    _check_weights(found)
    return _clean(run, _find(run, _INPUTS) | found, tensorboard)


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    if any(part.startswith(".") for part in path.split("/")):
        return False
    return any(re.fullmatch(re.escape(one).replace(r"\*", "[^/]*"), path) for one in patterns)


def _find(folder: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if not path.resolve().is_relative_to(folder.resolve()):
            logger.warning("left out: %s in %s is a link that leads out of the folder", name, folder)
        elif _matches(name, patterns):
            found[name] = path
    return found


def _find_events(run: Path) -> dict[str, Path]:
    """TensorBoard's files under names without the host's: TensorBoard itself puts it into folder and file."""
    found = {}
    for name, path in _find(run, _EVENTS).items():
        *_, folder, file = PurePosixPath("runs", name).parts
        started = re.match(r"[A-Z][a-z]{2}\d{2}_\d{2}-\d{2}-\d{2}(?=_)", folder)
        number = re.search(r"tfevents\.(\d+)", file)
        target = "" if folder == "runs" else f"{started[0] if started else folder}/"
        stem = f"runs/{target}events.out.tfevents.{number[1] if number else 0}"
        found[f"{stem}.{sum(known.startswith(stem) for known in found)}"] = path
    return found


def _check_model(folder: Path, found: Mapping[str, Path]) -> None:
    missing = [name for name in ("config.json", "preprocessor_config.json") if name not in found]
    if index := found.get("model.safetensors.index.json"):
        missing += sorted(set((read_json(index) or {}).get("weight_map", {}).values()) - set(found))
    elif "model.safetensors" not in found:
        missing.insert(0, "model.safetensors")
    if missing:
        fix = "let `urbanseg finetune` finish (`--resume`)"
        raise ModelError("a trained model", f"no {', '.join(missing)}", fix, folder)


def _check_weights(found: Mapping[str, Path]) -> None:
    for path in (path for name, path in found.items() if name.endswith(".safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                check_finite(((name, file.get_tensor(name)) for name in file.keys()), path)  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError("readable weights", first_line(error), "copy or train the model again", path) from error


def _clean(run: Path, found: Mapping[str, Path], tensorboard: bool) -> Files:
    folders = list_local_folders(run, RunFolder(run).read_recipe() or {})
    found = dict(found) | (_find_events(run) if tensorboard else {})
    files = {name: clean_file(name, path, folders) for name, path in sorted(found.items())}
    return {name: content for name, content in files.items() if content is not None}
