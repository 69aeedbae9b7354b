"""One writer per folder: a lock that the kernel holds, so that it goes with its process however that ends."""

import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from hf_urbanseg.errors import ConfigError, DataError

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows
    flock = None

logger = logging.getLogger(__name__)

LOCK = ".lock"
"""Inside a folder that a process writes into: who it is. Gone when the process has ended, but for a killed one's."""
_held: set[int] = set()


@contextmanager
def locked(path: str | Path, *, inside: bool = True) -> Iterator[Callable[[], None]]:
    """Keeps all others from writing to `path` while the block runs; what was made for that is removed again.

    The lock is the kernel's: it works among machines that share a disk (NFS included), and a killed process holds none.
    On a disk without locks a warning takes its place.

    Args:
        path: A folder, made if missing.
        inside: The lock lies inside; False is for a file, or a folder that appears whole: it then lies beside.

    Yields:
        A function that raises a ConfigError if the folder was deleted, moved or replaced since.

    Raises:
        ConfigError: Another process is at work there, which is named; at once.
        DataError: Nothing can be written there.
    """
    path = Path(path)
    file = path / LOCK if inside else path.with_name(f".{path.name}{LOCK}")
    try:
        made = [one for one in (file.parent, *file.parent.absolute().parents) if not one.exists()]
        descriptor = _take(file)
    except BlockingIOError as error:
        holder = ""
        with suppress(OSError):
            for _ in range(20):  # it has the lock a moment before it has signed
                if holder := file.read_text(encoding="utf-8", errors="replace").strip():
                    break
                time.sleep(0.05)
        fix = "wait for it, stop it or name another"
        raise ConfigError("no other process that writes there", f"one at work ({holder or error})", fix, path) from None
    except (OSError, ValueError) as error:  # ValueError is a name with a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError("a folder to write to", reason, "choose another", path) from error

    def check() -> None:
        if not _is_at(descriptor, file):
            fix = "start anew: what was written is gone with it"
            raise ConfigError("the folder that was begun in", "it deleted, moved or replaced meanwhile", fix, path)

    try:
        yield check
    finally:
        if descriptor in _held:  # and not in a child that was forked inside the block
            _held.discard(descriptor)
            with suppress(OSError):
                if _is_at(descriptor, file):
                    file.unlink()
            os.close(descriptor)
            for one in made:
                with suppress(OSError):  # something was written
                    one.rmdir()


def _take(file: Path) -> int:
    """A descriptor of the locked file, which says who holds it."""
    for _ in range(100):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            # No link: what it leads to would be overwritten.
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except FileNotFoundError:  # the process before has just removed the folder that it had made
            continue
        try:
            _lock(descriptor, file)
            if not _is_at(descriptor, file):  # the process before has just removed the file
                os.close(descriptor)
                continue
        except OSError:
            os.close(descriptor)
            raise
        _held.add(descriptor)
        _sign(descriptor)
        return descriptor
    raise BlockingIOError("which keeps coming and going")


def _lock(descriptor: int, file: Path) -> None:
    try:
        if flock is None:
            raise OSError("none on this system")
        flock(descriptor, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:  # ENOLCK, ENOTSUP, ENOSYS, ...: as the disk pleases
        reason = error.strerror or error
        logger.warning("%s: no lock can be had here (%s): let no other process write there", file.parent, reason)


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(file))
    except OSError:
        return False


def _sign(descriptor: int) -> None:
    with suppress(OSError):  # a full disk: the lock holds without a name
        if before := os.read(descriptor, 1000).decode("utf-8", "replace").strip():
            logger.info("the process that wrote here before was killed: %s", before)
        os.ftruncate(descriptor, 0)
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}, since {since}\n".encode(), 0)


def _let_go() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    # A killed process's workers live on for seconds, and would hold its lock.
    os.register_at_fork(after_in_child=_let_go)
