"""The manifest of a checkpoint: what its files were when it was saved, compared before any of them is read."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from hf_urbanseg.errors import CheckpointError, DataError
from hf_urbanseg.files import hash_file
from hf_urbanseg.json_yaml import read_json

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"


def list_files(folder: Path) -> list[Path]:
    """All of them, in the folders below too."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_manifest(folder: Path, name: str) -> Path:
    """Records the files of a folder that will be the checkpoint of that name; gives the manifest's path."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": hash_file(path), "bytes": path.stat().st_size}
        for path in list_files(folder)
    }
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"checkpoint": name, "files": files}, indent=1), encoding="utf-8")
    return manifest


def verify_checkpoint(checkpoint: Path, only: Collection[str] = ()) -> None:
    """Checks every file, or those named, against the manifest.

    Raises:
        CheckpointError: A file is missing or not as it was saved, or the whole is another step's.
    """
    expected, fix = "a checkpoint as it was saved", "delete the folder or take another"
    try:
        manifest = read_json(checkpoint / MANIFEST) or {}
        entries = {name: (int(one["bytes"]), str(one["sha256"])) for name, one in manifest["files"].items()}
    except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"no {MANIFEST} that can be read" if checkpoint.is_dir() else "none"
        raise CheckpointError("a complete checkpoint", found, fix, checkpoint) from error
    if read_step(checkpoint) is not None and manifest.get("checkpoint", checkpoint.name) != checkpoint.name:
        raise CheckpointError(expected, f"{manifest['checkpoint']} under this name", fix, checkpoint)
    for name in only or entries:
        path, (size, sha256) = checkpoint / name, entries.get(name, (0, ""))
        try:
            if not path.is_file():
                found = f"{name} missing"
            elif path.stat().st_size != size:
                found = f"{name} with {path.stat().st_size} bytes instead of {size}"
            elif hash_file(path) != sha256:
                found = f"{name} with another content"
            else:
                continue
        except OSError as error:  # a bad disk, or no permission
            found = f"{name}, {error.strerror}"
        raise CheckpointError(expected, found, fix, checkpoint)


def read_step(checkpoint: Path) -> int | None:
    """By its name, `checkpoint-<step>`; None for a folder of another name."""
    match = re.fullmatch(rf"{PREFIX}(\d+)", checkpoint.name)
    return match and int(match[1])
