"""Unpacking the needed part of a .zip into a cache, once."""

import errno
import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from filelock import FileLock

from hf_urbanseg.data.pictures import MOST_BYTES
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import expand_home, written_whole

_MOST_GROWTH, _HARMLESS = 20, 100 << 20


def cache_folder() -> Path:
    """Where unpacked archives are kept: `HF_URBANSEG_CACHE`, or ~/.cache/hf_urbanseg."""
    return expand_home(os.environ.get("HF_URBANSEG_CACHE") or "~/.cache/hf_urbanseg")


def extract_folders(archive: Path, folders: Sequence[str]) -> Path:
    """Unpacks the files directly inside `folders` of a .zip and returns the folder that then holds them.

    The result is cached by the archive's path, size and time of change. It appears under its final name only when it
    is complete, so an interrupted run leaves nothing that a later one could mistake for the data, and of several
    processes one unpacks while the others wait. Folders, such as `training/image_2`, are at the top of the archive or
    below one enclosing folder.
    """
    status = archive.stat()
    key = f"{archive.resolve()}\n{status.st_size}\n{status.st_mtime_ns}\n{' '.join(folders)}"
    target = cache_folder() / "archives" / f"{archive.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    try:
        if target.is_dir():
            return target
        with zipfile.ZipFile(archive) as bundle:
            members = _wanted_members(bundle, archive, folders)
            target.parent.mkdir(parents=True, exist_ok=True)
            total = _check_sizes(members, archive)
            # The lock is the kernel's, so it goes with its holder, and a partial folder seen under it is always stale.
            with FileLock(f"{target}.lock"):
                if not target.is_dir():
                    free = shutil.disk_usage(target.parent).free
                    if total > free:
                        raise OSError(errno.ENOSPC, f"{free:,} of {total:,} bytes free", str(target.parent))
                    with written_whole(target, folder=True) as partial:
                        _extract(bundle, members, partial)
    except OSError as error:
        found = f"{error.strerror or error} at {error.filename or target.parent}"
        fix = "free some space or point `HF_URBANSEG_CACHE` elsewhere"
        raise DataError("room to unpack the archive", found, fix, archive) from error
    # RuntimeError is an encrypted member, NotImplementedError an exotic compression.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError("a complete .zip archive", f"{error}", "download it again", archive) from error
    return target


def _extract(bundle: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], target: Path) -> None:
    for relative, info in members.items():
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        # No more than the size that was checked is read, whatever the member holds.
        with bundle.open(info) as source, open(path, "wb") as destination:
            shutil.copyfileobj(source, destination, 1 << 20)


def _check_sizes(members: Mapping[str, zipfile.ZipInfo], archive: Path) -> int:
    """The bytes when unpacked; refuses what grows: pictures are compressed already."""
    total, packed = sum(info.file_size for info in members.values()), archive.stat().st_size
    for relative, info in members.items():
        # Of the others a few kilobytes may fill the memory at once.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            found = f"`{relative}` neither"
            raise DataError("files stored or deflated, as zips have them", found, "unpack it yourself", archive)
        if info.file_size > MOST_BYTES:
            found = f"`{relative}` of {info.file_size:,}"
            raise DataError(f"pictures of {MOST_BYTES:,} bytes at most", found, "leave it out", archive)
    if total > max(_MOST_GROWTH * packed, _HARMLESS):
        expected = f"at most {_MOST_GROWTH} times its {packed:,} bytes when unpacked"
        raise DataError(expected, f"{total:,}", "check where it comes from, or unpack it yourself", archive)
    return total


def _wanted_members(bundle: zipfile.ZipFile, archive: Path, folders: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for info in bundle.infolist():
        member = PurePosixPath(info.filename)
        if not member.name or info.is_dir() or member.name.startswith(".") or member.parts[0] == "__MACOSX":
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
