"""From the splits and columns of anybody's set to ours."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import datasets
import pyarrow.compute as pc

from hf_urbanseg.data.column_names import IMAGE_COLUMNS, LABEL_COLUMNS, NAME_COLUMNS
from hf_urbanseg.data.image_files import UNSPLIT
from hf_urbanseg.errors import DataError
from hf_urbanseg.escaping import is_plain

SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test", UNSPLIT: UNSPLIT}
SPLIT_NAMES |= dict.fromkeys(("validation", "val", "valid", "dev"), "validation")
_BYTES = "write the bytes of PNG files in place of paths or arrays, or give folders of image files as `--data_dir`"
_NAME_KINDS = tuple(datasets.Value(kind) for kind in ("string", "large_string", "int16", "int32", "int64"))


def name_splits(names: Iterable[str], source: str) -> tuple[dict[str, str], list[str]]:
    """Their names by ours, and a sentence on each split that is left out; `source` is named in errors."""
    theirs, notes = {}, []
    for name in names:
        split = SPLIT_NAMES.get(str(name).lower())
        if split is None:
            notes.append(f"{name}: left out, not a split that is trained or measured on")
        elif split in theirs:
            raise DataError(f"one {split} split", f"a second one, `{name}`", "remove or rename one", source)
        else:
            theirs[split] = name
    return theirs, notes


def normalise_columns(
    found: Mapping[str, datasets.Dataset], image_column: str | None, label_column: str | None, source: str
) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """Our split names, and the columns image, label, name with the files' bytes untouched.

    Args:
        found: Any splits and columns.
        image_column: None takes the first image column of `IMAGE_COLUMNS`; `label_column` likewise.
        source: The set, named in errors.

    Returns:
        Splits, and a sentence on each one that was left out.
    """
    splits, (theirs, notes) = {}, name_splits(found, source)
    for split, their_name in theirs.items():
        rows = found[their_name]
        image, label = choose_columns(rows.features, image_column, label_column, source)
        unlabelled = rows.data.column(label).null_count
        if unlabelled and unlabelled == len(rows):
            notes.append(f"{their_name}: left out, it has no labels")
            continue
        if unlabelled or rows.data.column(image).null_count:
            raise DataError("an image and a label in every row", f"empty ones in {their_name}", "remove them", source)
        for column in (image, label):
            # Others' paths may lead anywhere on this machine.
            is_file = isinstance(rows.features[column], dict)
            if is_file and pc.struct_field(rows.data.column(column), "bytes").null_count:
                found = f"rows of {their_name} with a path alone"
                raise DataError(f"the bytes of each picture in `{column}`", found, _BYTES, source)
        names = _frame_names(rows, split)
        rows = rows.with_format(None).select_columns([image, label])
        rows = rows.rename_columns({image: "image", label: "label"}).add_column("name", names)
        # Without a mode: `Image(mode="L")`, which some sets declare, turns a palette label into its brightness.
        splits[split] = rows.cast_column("image", datasets.Image()).cast_column("label", datasets.Image())
    refuse_unlabelled(splits, found, source)
    return splits, notes


def refuse_unlabelled(splits: Mapping, names: Iterable[str], source: str) -> None:
    """Where no split is left of those with these names."""
    if not splits:
        some = ", ".join(map(str, names)) or "no split"
        raise DataError("a labelled split named train, validation or test", some, "rename or label one", source)


def choose_columns(
    features: Mapping, image_column: str | None, label_column: str | None, source: str
) -> tuple[str, str]:
    """The columns of images and of labels: declared so, else of files' bytes, as pandas, polars and Spark write."""
    declared = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    images = [*declared, *(name for name, feature in features.items() if _holds_files(feature))]
    columns = []
    for role, chosen, usual in (("image", image_column, IMAGE_COLUMNS), ("label", label_column, LABEL_COLUMNS)):
        column = chosen
        if chosen is None:
            column = next((name for these in (declared, images) for name in usual if name in these), None)
            column = column or _find_extension(declared, role, usual, columns)
        if column not in images:
            there = [name if name in images else f"{name} ({_name_kind(kind)})" for name, kind in features.items()]
            raise DataError(
                f"an image column `{chosen}`" if chosen else f"an image column named {', '.join(usual)}",
                f"image columns {', '.join(images) or '(none)'} among {', '.join(there)}",
                f"name one of pictures with `--{role}_column`, {_BYTES}",
                source,
            )
        columns.append(column)
    return tuple(columns)


def _find_extension(declared: Sequence[str], role: str, usual: Sequence[str], taken: Sequence[str]) -> str | None:
    """Of columns that a WebDataset tar names by its files' ends: `label.png`, else the one `jpg` or the other `png`."""
    stems = [name for name in declared if name.rpartition(".")[0] in usual]
    ends = ("jpg", "jpeg") if role == "image" else ("png",)
    fitting = [name for name in declared if name.rpartition(".")[2].lower() in ends and name not in taken]
    found = stems or fitting
    return found[0] if len(found) == 1 else None


def _holds_files(feature) -> bool:
    """Whether a column has bytes: alone, or as `datasets` and others write a file, with its path."""
    if isinstance(feature, dict):
        return {"bytes"} <= feature.keys() <= {"bytes", "path"} and _holds_files(feature["bytes"])
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _name_kind(feature) -> str:
    return feature.dtype if isinstance(feature, datasets.Value) else type(feature).__name__


def list_name_columns(features: Mapping) -> Iterator[str]:
    """Columns that may hold names of frames."""
    return (column for column in NAME_COLUMNS if features.get(column) in _NAME_KINDS)


def _frame_names(rows: datasets.Dataset, split: str) -> list[str]:
    for column in list_name_columns(rows.features):
        names = list(rows[column])
        if len(set(names)) == len(names) and not {"", None} & set(names) and all(is_plain(str(n)) for n in names):
            return [str(name) for name in names]
    return [f"{split}_{index:06d}" for index in range(len(rows))]
