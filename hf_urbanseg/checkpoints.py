"""Training checkpoints that are whole or not there, and strict loading of what is in them."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

from transformers import PreTrainedModel

from hf_urbanseg.errors import CheckpointError
from hf_urbanseg.models.auxiliary_head import load_auxiliary_head, split_state_dict
from hf_urbanseg.models.loading import load_complete

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_PREFIX = "checkpoint-"
_STAGING = ".staging-"
_REPLACED = _STAGING + "old-"


def staging_folder(checkpoint: Path) -> Path:
    """Where a checkpoint is written before it is complete; no reader takes such a folder for a checkpoint."""
    return checkpoint.with_name(_STAGING + checkpoint.name)


def commit_checkpoint(staged: Path, checkpoint: Path) -> None:
    """Turns a staged folder into a checkpoint: files to disk, a manifest of their hashes last, then one rename.

    A process killed at any point leaves either the earlier state or the complete checkpoint.
    """
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    entries = {}
    for path in files:
        entries[path.relative_to(staged).as_posix()] = {"sha256": _hash(path), "bytes": path.stat().st_size}
        _sync(path)
    manifest = staged / MANIFEST
    manifest.write_text(json.dumps({"files": entries}, indent=1), encoding="utf-8")
    _sync(manifest)
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


def verify_checkpoint(checkpoint: Path) -> None:
    """Checks every file against the manifest."""
    fix = "delete the folder or resume from another"
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        entries = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        expected = f"a complete checkpoint with {MANIFEST}"
        raise CheckpointError(expected, type(error).__name__, fix, checkpoint) from error
    for name, (size, sha256) in entries.items():
        path = checkpoint / name
        if not path.is_file():
            found = f"{name} missing"
        elif path.stat().st_size != size:
            found = f"{name} with {path.stat().st_size} bytes instead of {size}"
        elif _hash(path) != sha256:
            found = f"{name} with another content"
        else:
            continue
        raise CheckpointError("a checkpoint as it was saved", found, fix, checkpoint)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Folders `checkpoint-<step>`, by step."""
    paths = Path(output_dir).glob(f"{_PREFIX}*")
    folders = [path for path in paths if path.is_dir() and re.fullmatch(rf"{_PREFIX}\d+", path.name)]
    return sorted(folders, key=lambda path: int(path.name.removeprefix(_PREFIX)))


def find_newest_checkpoint(output_dir: str | Path) -> Path:
    """The newest complete checkpoint; incomplete ones are passed over with a warning."""
    for replaced in Path(output_dir).glob(f"{_REPLACED}{_PREFIX}*"):
        checkpoint = replaced.with_name(replaced.name.removeprefix(_REPLACED))
        if not checkpoint.exists():
            with contextlib.suppress(FileNotFoundError):  # another rank was faster
                replaced.rename(checkpoint)
    for checkpoint in reversed(list_checkpoints(output_dir)):
        try:
            verify_checkpoint(checkpoint)
        except CheckpointError as error:
            logger.warning("passed over: %s", error)
            continue
        logger.info("resuming from %s", checkpoint)
        return checkpoint
    fix = "start without `--resume`, or correct `--output_dir`"
    raise CheckpointError(f"a complete {_PREFIX}<step> folder", "none", fix, output_dir)


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


def load_weights(model: PreTrainedModel, folder: str | Path) -> None:
    """Puts the saved weights of `folder` into `model`: every tensor, or an error.

    Goes through `from_pretrained`, because checkpoints are written with SegFormer's old key names and only that path
    converts them; `Trainer`'s own loading restores 8 of 124 tensors and warns.
    """
    saved = load_complete(
        type(model),
        folder,
        config=model.config,
        error_class=CheckpointError,
        fix="resume with the options the run was started with",
    )
    # An auxiliary head is no part of the saved SegFormer and comes back from its own file, or not at all.
    _, auxiliary = split_state_dict(model)
    model.load_state_dict(saved.state_dict() | auxiliary, strict=True)
    load_auxiliary_head(model, folder)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
