"""Sets written by `save_to_disk`, which is what `prepare_data` does."""

from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow.compute as pc

from hf_urbanseg.data.columns import normalise_columns
from hf_urbanseg.data.image_files import UNSPLIT
from hf_urbanseg.data.own_files import read_own_label_space, read_source
from hf_urbanseg.data.pictures import ADDRESS
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_files

LOOKS_LIKE = "dataset_dict.json (a saved set)"


def is_saved_set(path: Path) -> bool:
    """Whether `path` was written by `save_to_disk`, of a `DatasetDict` or of one `Dataset`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def matches(request: DataRequest) -> bool:
    """Whether the path is a saved set."""
    return request.path is not None and is_saved_set(request.path)


def load(request: DataRequest) -> FoundData:
    """The saved splits, final where `prepare_data` wrote them; a single `Dataset` is unsplit."""
    where = str(request.path)
    check_files(request.path)
    try:
        saved = datasets.load_from_disk(where)
    except Exception as error:  # of pyarrow and json; of `datasets` nearly anything where the JSON says something else
        found = f"{type(error).__name__}: {error}"
        raise DataError("a complete saved set", found, "prepare or copy it again", where) from error
    if isinstance(saved, datasets.Dataset):
        saved = {UNSPLIT: saved}
    splits, notes = normalise_columns(saved, request.image_column, request.label_column, where)
    _check_places(splits, request.path)
    space = request.label_space or read_own_label_space(where)
    return FoundData(splits, space, request.path.resolve().name, notes, final_notes=read_source(where).get("notes"))


def _check_places(splits: Mapping[str, datasets.Dataset], folder: Path) -> None:
    """Pictures are in the set, where `save_to_disk` puts them, or in its folder: it must not name others' files."""
    for split, rows in splits.items():
        for kind in ("image", "label"):
            paths, contents = (pc.struct_field(rows.data.column(kind), part) for part in ("path", "bytes"))
            named = paths.filter(contents.is_null()).to_pylist()
            if elsewhere := [path for path in named if not _is_inside(path, folder)]:
                found = f"`{elsewhere[0]}` as {kind} of {split} (and {len(elsewhere) - 1} more elsewhere)"
                fix = "save the set anew with `save_to_disk`, which puts them in"
                raise DataError("pictures in the set's folder", found, fix, folder)


def _is_inside(path: str | None, folder: Path) -> bool:
    return path is None or (not ADDRESS.match(path) and Path(path).resolve().is_relative_to(folder.resolve()))
