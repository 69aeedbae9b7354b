"""Sets that are `datasets` already: saved with `save_to_disk`, or from the Hub."""

from collections.abc import Mapping
from pathlib import Path

import datasets

from hf_urbanseg.data.label_space_files import label_space_from_names, read_mapping
from hf_urbanseg.data.layouts.hub_sets import find_own_file
from hf_urbanseg.data.splits import UNSPLIT
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import LabelSpace

LABEL_SPACE_FILE = "label_space.json"
SOURCE_FILE = "source.json"
"""Beside a set that `prepare_data` wrote: where it comes from. Its splits are final."""
IMAGE_COLUMNS = ("image", "pixel_values", "img")
LABEL_COLUMNS = ("label", "labels", "annotation", "semantic_segmentation", "mask", "segmentation")
NAME_COLUMNS = ("name", "filename", "file_name", "id", "image_id")
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test", UNSPLIT: UNSPLIT}
SPLIT_NAMES |= dict.fromkeys(("validation", "val", "valid", "dev"), "validation")


def is_saved_set(path: Path) -> bool:
    """Whether `path` was written by `save_to_disk`, of a `DatasetDict` or of one `Dataset`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def load_saved_set(path: Path) -> datasets.DatasetDict:
    """The saved splits; a single `Dataset` is under `all`.

    Raises:
        DataError: Incomplete or damaged.
    """
    try:
        saved = datasets.load_from_disk(str(path))
    # pyarrow's errors are ValueErrors and OSErrors; json's is a ValueError; a lost key of the JSON is a KeyError.
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            "a complete saved set", f"{type(error).__name__}: {error}", "prepare or copy it again", path
        ) from error
    return saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict({UNSPLIT: saved})


def read_own_label_space(dataset: str, commit: str | None = None) -> LabelSpace | None:
    """The label space that a saved or Hub set brings along, None if it has none.

    Taken from `label_space.json`, or from the `id2label.json` of Hub sets, whose labels are train ids by convention.

    Args:
        dataset: `user/name`, or a folder.
        commit: Of the Hub set.

    Raises:
        DataError: Such a file is there but unreadable.
    """
    if path := find_own_file(dataset, LABEL_SPACE_FILE, commit):
        return LabelSpace.from_dict(read_mapping(path, "label space"), str(path))
    if path := find_own_file(dataset, "id2label.json", commit):
        return label_space_from_names(read_mapping(path, "id2label"), dataset.rpartition("/")[2], path)
    return None


def read_source(dataset: str, commit: str | None = None) -> dict:
    """What `source.json` says about a saved or Hub set: `origin`, `license`, `notes`; empty if there is no such file.

    Raises:
        DataError: It is there but unreadable.
    """
    path = find_own_file(dataset, SOURCE_FILE, commit)
    if path is None:
        return {}
    source = read_mapping(path, "source")
    notes = source.get("notes") or []
    words = [source.get("origin") or "", source.get("license") or "", *(notes if isinstance(notes, list) else [None])]
    if not all(isinstance(word, str) for word in words):
        raise DataError("`origin` and `license` as words, `notes` as a list of them", "others", "prepare it anew", path)
    return {"origin": source.get("origin"), "license": source.get("license"), "notes": notes}


def normalise_columns(
    found: datasets.DatasetDict, image_column: str | None, label_column: str | None, source: str
) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """Our split names, and the columns image, label, name with the files' bytes untouched.

    Args:
        found: Any splits and columns.
        image_column: None takes the first image column of `IMAGE_COLUMNS`; `label_column` likewise.
        source: The set, named in errors.

    Returns:
        Splits, and a sentence on each one that was left out.

    Raises:
        DataError: A column is missing or holds no images, or no split has a known name.
    """
    splits, notes = {}, []
    for their_name, rows in found.items():
        split = SPLIT_NAMES.get(str(their_name).lower())
        if split is None:
            notes.append(f"{their_name}: left out, not a split that is trained or measured on")
            continue
        if split in splits:
            raise DataError(f"one {split} split", f"a second one, `{their_name}`", "remove or rename one", source)
        image, label = choose_columns(rows.features, image_column, label_column, source)
        unlabelled = rows.data.column(label).null_count
        if unlabelled and unlabelled == len(rows):
            notes.append(f"{their_name}: left out, it has no labels")
            continue
        if unlabelled or rows.data.column(image).null_count:
            raise DataError("an image and a label in every row", f"empty ones in {their_name}", "remove them", source)
        names = _frame_names(rows, split)
        rows = rows.with_format(None).select_columns([image, label])
        rows = rows.rename_columns({image: "image", label: "label"}).add_column("name", names)
        # Without a mode: `Image(mode="L")`, which some sets declare, turns a palette label into its brightness.
        splits[split] = rows.cast_column("image", datasets.Image()).cast_column("label", datasets.Image())
    if not splits:
        some = ", ".join(map(str, found)) or "no split"
        raise DataError("a labelled split named train, validation or test", some, "rename or label one", source)
    return splits, notes


def choose_columns(
    features: Mapping, image_column: str | None, label_column: str | None, source: str
) -> tuple[str, str]:
    """The columns of images and of labels.

    Args, Raises: As for `normalise_columns`.
    """
    image = _choose_column(features, image_column, IMAGE_COLUMNS, "image", source)
    return image, _choose_column(features, label_column, LABEL_COLUMNS, "label", source)


def _choose_column(features: Mapping, chosen: str | None, usual: tuple[str, ...], role: str, source: str) -> str:
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    column = chosen if chosen is not None else next((name for name in usual if name in images), None)
    if column not in images:
        there = [name if name in images else f"{name} ({type(kind).__name__})" for name, kind in features.items()]
        raise DataError(
            f"an image column `{chosen}`" if chosen else f"an image column named {', '.join(usual)}",
            f"image columns {', '.join(images) or '(none)'} among {', '.join(there)}",
            f"name one of pictures with `--{role}_column`, or give folders of image files as `--data_dir`",
            source,
        )
    return column


def _frame_names(rows: datasets.Dataset, split: str) -> list[str]:
    for column in NAME_COLUMNS:
        if column in rows.column_names and rows.features[column] in (_STRING, _LARGE_STRING, *_INTEGERS):
            names = list(rows[column])
            if len(set(names)) == len(names) and not {"", None} & set(names):
                return [str(name) for name in names]
    return [f"{split}_{index:06d}" for index in range(len(rows))]


_STRING, _LARGE_STRING = datasets.Value("string"), datasets.Value("large_string")
_INTEGERS = tuple(datasets.Value(kind) for kind in ("int16", "int32", "int64"))
