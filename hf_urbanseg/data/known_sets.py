"""Street sets that a label space of this package describes, recognised by their folders."""

import re
from functools import cache
from pathlib import Path

import yaml

from hf_urbanseg.data.label_space_files import shipped_label_spaces
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
    # That line alone: the whole files take a third of a second, at every start.
    lines = {
        name: re.search("^recognised_by: .*$", path.read_text("utf-8"), re.MULTILINE)
        for name, path in shipped_label_spaces().items()
    }
    return {name: yaml.safe_load(line[0])["recognised_by"] for name, line in lines.items() if line}
