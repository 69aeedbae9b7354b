"""Training checkpoints that are whole or not there, and strict loading of what is in them."""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_urbanseg.errors import CheckpointError
from hf_urbanseg.files import follow_umask, hash_file
from hf_urbanseg.manifest import MANIFEST, PREFIX, list_files, read_step, verify_checkpoint, write_manifest
from hf_urbanseg.models.ema import ExponentialMovingAverage
from hf_urbanseg.models.loading import explain, load_complete
from hf_urbanseg.models.training_branch import load_branches, split_state_dict

logger = logging.getLogger(__name__)

_STAGING = ".staging-"
_REPLACED = _STAGING + "old-"


def staging_folder(checkpoint: Path) -> Path:
    """Where a checkpoint is written before it is complete; no reader takes such a folder for a checkpoint."""
    return checkpoint.with_name(_STAGING + checkpoint.name)


def commit_checkpoint(staged: Path, checkpoint: Path) -> None:
    """Turns a staged folder into a checkpoint: files to disk, a manifest of their hashes last, then one rename.

    A process killed at any point leaves either the earlier state or the complete checkpoint.
    """
    follow_umask(staged)
    for path in list_files(staged):
        _sync(path)
    _sync(write_manifest(staged, checkpoint.name))
    _sync(staged)
    if checkpoint.exists():
        # The same step saved again after a resume. Between the renames only the old copy is complete, under another
        # name; `find_newest_checkpoint` puts it back if this process dies there.
        old = checkpoint.with_name(_REPLACED + checkpoint.name)
        shutil.rmtree(old, ignore_errors=True)
        checkpoint.rename(old)
        staged.rename(checkpoint)
        shutil.rmtree(old)
    else:
        staged.rename(checkpoint)
    _sync(checkpoint.parent)


def explain_failed_save(target: Path, reason: str) -> CheckpointError:
    """What to tell of a checkpoint or model that couldn't be written: why, what is safe, how to go on."""
    free = shutil.disk_usage(target.parent).free if target.parent.is_dir() else 0
    whole = [one.name for one in list_checkpoints(target.parent) if (one / MANIFEST).is_file()]
    fix = f"{whole[-1]} is complete: go on from it with `--resume`" if whole else "none is complete yet: start again"
    found = f"{reason} ({free / 1e6:.0f} MB free)"
    return CheckpointError("room for it", found, f"mend the space or the permissions; {fix}", target)


@contextlib.contextmanager
def reading_state(checkpoint: str | Path | None, what: str) -> Iterator[None]:
    """Inside, files of a checkpoint are read by transformers, which doesn't say what is wrong with them."""
    try:
        yield
    except (torch.AcceleratorError, torch.OutOfMemoryError):  # the device's fault, not the file's
        raise
    except Exception as error:  # on damaged or foreign bytes torch, pickle and an optimiser raise nearly anything
        fix = "delete the folder or resume from another"
        raise CheckpointError(f"the {what} of this run", explain(error), fix, checkpoint) from error


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Folders `checkpoint-<step>`, by step."""
    paths = Path(output_dir).glob(f"{PREFIX}*")
    return sorted((path for path in paths if path.is_dir() and read_step(path) is not None), key=read_step)


def find_newest_checkpoint(output_dir: str | Path) -> Path:
    """The newest complete checkpoint; incomplete ones are passed over with a warning."""
    for replaced in Path(output_dir).glob(f"{_REPLACED}{PREFIX}*"):
        checkpoint = replaced.with_name(replaced.name.removeprefix(_REPLACED))
        if not checkpoint.exists():
            with contextlib.suppress(FileNotFoundError):  # another rank was faster
                replaced.rename(checkpoint)
    newest = _find_complete(reversed(list_checkpoints(output_dir)))
    if newest is None:
        fix = "start anew with `--overwrite` in place of `--resume`, or correct `--output_dir`"
        raise CheckpointError(f"a complete {PREFIX}<step> folder", "none", fix, output_dir)
    logger.info("resuming from %s", newest)
    return newest


def find_best_checkpoint(
    output_dir: str | Path, best: int, scores: Mapping[int, float], greater_is_better: bool = True
) -> int | None:
    """Step of the best complete checkpoint; incomplete ones are passed over with a warning.

    Args:
        best: Step recorded as the best, which is taken if it is complete.
        scores: By step; among equals the earlier is better, as in training.
    """
    saved = [step for step in map(read_step, list_checkpoints(output_dir)) if step in scores and step != best]
    ranked = [best, *sorted(saved, key=scores.get, reverse=greater_is_better)]
    found = _find_complete(Path(output_dir) / f"{PREFIX}{step}" for step in ranked)
    return found and read_step(found)


def rotate_checkpoints(newest: Path, limit: int | None, best: str | None) -> None:
    """Deletes the oldest checkpoints beyond `limit`, never `best` and never `newest`, which was just saved.

    Later ones than `newest` are left alone and not counted: a run that resumed past a damaged checkpoint must not give
    up the one just saved for it. They are replaced when the run comes to their step.
    """
    if not limit or limit < 1:
        return
    checkpoints = list_checkpoints(newest.parent)
    for checkpoint in checkpoints[: checkpoints.index(newest) + 1][:-limit]:
        if best is None or checkpoint.name != Path(best).name:
            shutil.rmtree(checkpoint)


def remove_staging(output_dir: str | Path) -> None:
    """Deletes what a killed process left half-written."""
    for path in Path(output_dir).glob(f"{_STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)


def load_weights(model: PreTrainedModel, folder: str | Path, ema: ExponentialMovingAverage | None = None) -> None:
    """Puts the saved weights of a checkpoint into `model`, its auxiliary head and `ema`: every tensor, or an error.

    The files are verified first, for a flipped bit makes a weight like any other. They are read by `from_pretrained`,
    because checkpoints are written with SegFormer's old key names and only that path converts them; `Trainer`'s own
    loading restores 8 of 124 tensors and warns.
    """
    verify_checkpoint(Path(folder))
    saved = load_complete(
        type(model),
        folder,
        config=model.config,
        error_class=CheckpointError,
        fix="resume with the options the run was started with",
    )
    # A branch is no part of the saved SegFormer, and adapters are merged in it: they come back from files of their own,
    # or not at all.
    plain, others = split_state_dict(model)
    saved = saved.state_dict()
    model.load_state_dict({key: saved[key] for key in plain} | others, strict=True)
    load_branches(model, folder)
    if ema is not None:
        ema.load(folder)


def check_export(model: PreTrainedModel, folder: Path) -> str:
    """Reads a written model back, compares it bit for bit with `model`, and gives the sha256 of its weights.

    Raises:
        CheckpointError: It is another.
    """
    fix = "check disk and memory, and export again with `--resume`"
    saved = load_complete(type(model), folder, dtype=model.dtype, error_class=CheckpointError, fix=fix).state_dict()
    own, _ = split_state_dict(model)
    different = [name for name, tensor in own.items() if not torch.equal(tensor.cpu(), saved[name])]
    if different:
        found = f"{len(different)} tensors with other numbers ({different[0]})"
        raise CheckpointError("the exported model as it is in memory", found, fix, folder)
    return hash_file(folder / SAFE_WEIGHTS_NAME)


def _find_complete(checkpoints: Iterable[Path]) -> Path | None:
    for checkpoint in checkpoints:
        try:
            verify_checkpoint(checkpoint)
        except CheckpointError as error:
            logger.warning("passed over: %s", error)
        else:
            return checkpoint
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
