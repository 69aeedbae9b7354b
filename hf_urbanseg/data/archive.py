"""Unpacking the needed part of a .zip into a cache, once."""

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from filelock import FileLock

from hf_urbanseg.errors import DataError
from hf_urbanseg.files import written_whole


def cache_folder() -> Path:
    """Where unpacked archives are kept: `HF_URBANSEG_CACHE`, or ~/.cache/hf_urbanseg."""
    return Path(os.environ.get("HF_URBANSEG_CACHE") or "~/.cache/hf_urbanseg").expanduser()


def extract_folders(archive: Path, folders: Sequence[str]) -> Path:
    """Unpacks the files directly inside `folders` of a .zip and returns the folder that then holds them.

    The result is cached by the archive's path, size and time of change. It appears under its final name only when it
    is complete, so an interrupted run leaves nothing that a later one could mistake for the data, and of several
    processes one unpacks while the others wait.

    Args:
        archive: The .zip file.
        folders: Folders inside it, such as `training/image_2`, at the top or below one enclosing folder.
    """
    status = archive.stat()
    key = f"{archive.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n{' '.join(folders)}"
    target = cache_folder() / "archives" / f"{archive.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The lock is the kernel's, so it goes with its holder, and a partial folder seen under it is always stale.
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                with written_whole(target, folder=True) as partial:
                    _extract(archive, folders, partial)
    except OSError as error:
        found = f"{error.strerror or error} at {error.filename or target.parent}"
        fix = "free some space or point `HF_URBANSEG_CACHE` elsewhere"
        raise DataError("room to unpack the archive", found, fix, archive) from error
    return target


def _extract(archive: Path, folders: Sequence[str], target: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as bundle:
            for relative, info in _wanted_members(bundle, archive, folders).items():
                path = target / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                with bundle.open(info) as source, open(path, "wb") as destination:
                    shutil.copyfileobj(source, destination, 1 << 20)
    # RuntimeError is an encrypted member, NotImplementedError an exotic compression.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError("a complete .zip archive", f"{error}", "download it again", archive) from error


def _wanted_members(bundle: zipfile.ZipFile, archive: Path, folders: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for info in bundle.infolist():
        member = PurePosixPath(info.filename)
        if info.is_dir() or member.name.startswith(".") or member.parts[0] == "__MACOSX":
            continue
        for folder in folders:
            if member.parent in (PurePosixPath(folder), PurePosixPath(member.parts[0], folder)):
                # Of a member's path only its last part is used, so none can land outside the cache.
                relative = f"{folder}/{member.name}"
                if relative in found:
                    raise DataError("each file once", f"`{relative}` twice", "remove one copy", archive)
                found[relative] = info
    for folder in folders:
        if not any(relative.startswith(f"{folder}/") for relative in found):
            some = ", ".join(info.filename for info in bundle.infolist()[:3]) or "an empty archive"
            fix = "give the official data_semantics.zip or unpack the archive"
            raise DataError(f"files in `{folder}/`", some, fix, archive)
    return found
