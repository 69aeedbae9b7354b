"""Street sets that a label space of this package describes, recognised by their folders."""

from functools import cache
from pathlib import Path

from hf_urbanseg.data.label_space_files import read_label_space, shipped_label_spaces
from hf_urbanseg.errors import DataError


def recognise_set(root: Path) -> str | None:
    """The name of the shipped label space that is `recognised_by` what is in a folder, or None.

    Raises:
        DataError: There are several.
    """
    names = [name for name, paths in _read_marks().items() if all(any(root.glob(path)) for path in paths)]
    if len(names) > 1:
        fix = f"say which by `--label_space`, for example `--label_space {names[0]}`"
        raise DataError("the files of one known set", f"those of {' and '.join(names)}", fix, root)
    return names[0] if names else None


@cache  # of files that are installed with the package
def _read_marks() -> dict[str, list[str]]:
    folders = {name: read_label_space(name)[1] for name in shipped_label_spaces()}
    return {name: found["recognised_by"] for name, found in folders.items() if "recognised_by" in found}
