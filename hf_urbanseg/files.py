"""Files written whole or not at all, and files that others made, of which only so much is read."""

import difflib
import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_urbanseg.errors import DataError, UrbanSegError
from hf_urbanseg.escaping import is_plain

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


@contextmanager
def written_whole(path: str | Path, *, folder: bool = False, also: tuple[type[Exception], ...] = ()) -> Iterator[Path]:
    """Gives a hidden name beside `path` to write to; it takes the name `path` if the block ends well, else it is gone.

    Args:
        path: Its parent is made if missing. What is there is replaced at the end.
        folder: The hidden name is that of a new folder.
        also: What a library raises beside `OSError` where it can't write (torch a RuntimeError).

    Raises:
        DataError: Writing failed; what was at `path` is still there.
    """
    path = Path(path)
    # Always the same name, so that the next start clears what a killed one left.
    staged = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(staged)
        if folder:
            staged.mkdir()
        yield staged
        if folder:
            follow_umask(staged)
        if folder and path.is_dir():  # a folder that isn't empty can't be replaced
            earlier = path.with_name(f".{path.name}.replaced")
            _remove(earlier)
            path.rename(earlier)
            staged.rename(path)
            _remove(earlier)
        else:
            os.replace(staged, path)
    except (OSError, *also) as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "no reason given")
        raise DataError("a place to write to", reason, "check the path, its space and permissions", path) from error
    finally:
        _remove(staged)


def check_place(path: str | Path, *, folder: bool = False) -> Path:
    """Refuses, before any work and without making anything, a path at which nothing can be written.

    Args:
        folder: Files are to be written inside; else `path` itself is a file.
    """
    path, kind = Path(path), "folder" if folder else "file"
    fix = f"name another {kind}, or mend its space and permissions"
    try:
        with suppress(FileNotFoundError):
            os.lstat(path)
            if not (path.is_dir() if folder else path.is_file()):
                raise OSError(errno.EEXIST, "a folder" if path.is_dir() else "a file" if folder else "no plain file")
        start = path.absolute() if folder else path.absolute().parent
        with tempfile.TemporaryFile(dir=next(one for one in (start, *start.parents) if one.exists())) as file:
            file.write(bytes(1 << 16))  # an empty file still fits on a full disk
            file.flush()
    except (OSError, ValueError) as error:  # ValueError is a name with a null byte
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"a {kind} to write to", reason, fix, path) from error
    return path


def follow_umask(folder: Path) -> None:
    """Gives the files of a new folder the mode that others' have; safetensors makes its own for the owner alone."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)


def hash_file(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(path: Path) -> Path:
    """The path itself; refused if it can't be written down: not UTF-8, or with a line break or control character."""
    if not is_plain(str(path.absolute())):
        found = "one that isn't, or with control characters (spelt out here)"
        raise DataError("a file name in UTF-8", found, "rename the file or its folder", path.absolute())
    return path


def expand_home(path: str | Path) -> Path:
    """`path` with `~` as the home folder; DataError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # of a user without an entry in passwd, or a name that nobody has
        raise DataError("a home folder for `~`", "none", "set HOME, or give the whole path", path) from error


def explain_missing(path: str | Path) -> str:
    """What is probably wrong with a path at which nothing is, to be put behind `nothing there`; empty if unknown."""
    text, path = str(path), Path(path)
    if os.sep == "/" and re.match(r"[A-Za-z]:\\", text):
        return ", for it is a path of Windows: give it as this system names it (WSL: `/mnt/c/...`)"
    for fault, mended in (
        ("a backslash separates no folders here", text.replace("\\", "/") if os.sep == "/" else text),
        ("a name begins or ends with a space", str(Path(*(part.strip() or part for part in path.parts)))),
    ):
        if mended != text and Path(mended) != path:
            return f", for {fault}: write `{mended}`"
    with suppress(OSError):
        at = next(one for one in (path, *path.parents) if one.parent.is_dir() or one.parent == one)
        if near := difflib.get_close_matches(at.name, os.listdir(at.parent), 1):
            return f", but `{at.with_name(near[0])}` is there"
        if at != path and at.parent != Path():
            return f": `{at.parent}` has no `{at.name}`"
    return ""


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8, also where Python took the bytes of a path for something else (in the C locale)."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    with written_whole(path) as staged:
        staged.write_text(text, encoding="utf-8")


def check_regular(
    path: str | Path,
    most: int | None = None,
    error_class: type[UrbanSegError] = DataError,
    fix: str = "check that it is the right one",
) -> int:
    """The size of a regular file, where links lead; a FIFO or a device may never end and isn't even opened.

    Args:
        most: Bytes it may have at most.
        error_class: Raised of something else, or a larger file, for which `fix` says what to do.

    Raises:
        OSError: Nothing there, or no permission.
    """
    try:
        status = os.stat(path)
    except ValueError as error:  # a zero byte in the name
        raise error_class("the path of a file", str(error), "correct it", repr(str(path))) from error
    if not stat.S_ISREG(status.st_mode):
        found = _KINDS.get(stat.S_IFMT(status.st_mode), "a folder")
        raise error_class("a regular file", found, "replace it or leave it out", path)
    if most is not None and status.st_size > most:
        found = f"{status.st_size:,} bytes"
        raise error_class(f"a file of {most:,} bytes at most", found, fix, path)
    return status.st_size


def check_files(folder: str | Path) -> None:
    """Refuses a folder for libraries that would wait for a FIFO in it, at whatever depth; hidden ones aside."""
    for at, folders, names in os.walk(folder):
        folders[:] = (name for name in folders if not name.startswith("."))
        for name in names:
            with suppress(FileNotFoundError):  # a link that leads nowhere
                check_regular(Path(at, name))


def read_bytes(path: str | Path, most: int, *args, **options) -> bytes:
    """The content of a file that passes `check_regular`, as large as it was then; takes and raises what that does."""
    size = check_regular(path, most, *args, **options)
    with open(path, "rb") as file:
        return file.read(size)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
