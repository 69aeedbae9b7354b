"""What a folder holds, to be compared with what it held before."""

from collections.abc import Sequence
from pathlib import Path


def read_folder(folder: Path, without: Sequence[str] = ()) -> dict[str, bytes]:
    """Path and content of every file, those named in `without` excepted, in the paths' order."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if name not in without}
