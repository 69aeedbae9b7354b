"""From a Hub id, a saved set, a folder or an archive to splits of image, label and name."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, DatasetDict

from hf_urbanseg.data.label_space_files import read_label_space
from hf_urbanseg.data.layouts.cityscapes import NOTE as CITYSCAPES_NOTE
from hf_urbanseg.data.layouts.cityscapes import find_cityscapes, group_by_city, load_cityscapes
from hf_urbanseg.data.layouts.folders import load_described_folders
from hf_urbanseg.data.layouts.hub_sets import load_hub_set
from hf_urbanseg.data.layouts.kitti import find_kitti, load_kitti
from hf_urbanseg.data.layouts.saved_sets import (
    NAME_COLUMNS,
    SPLIT_NAMES,
    choose_columns,
    is_saved_set,
    load_saved_set,
    normalise_columns,
    read_own_label_space,
    read_source,
)
from hf_urbanseg.data.splits import UNSPLIT, arrange_splits
from hf_urbanseg.data.synthetic import build_synthetic_splits
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedData:
    """Splits and their classes.

    Args:
        splits: Keys among train, validation, test; columns image (`Image()`), label (`Image()`, raw label ids, the
            file's own mode) and name (string), sorted by name.
        label_space: What the label ids mean.
        name: Short name of the data, such as `kitti`, or the Hub id.
        notes: One sentence each on how the splits came about.
    """

    splits: DatasetDict
    label_space: LabelSpace
    name: str
    notes: tuple[str, ...]

    def get_split(self, split: str) -> Dataset:
        """The rows of a split that a user names.

        Raises:
            ConfigError: There is none of that name.
        """
        if split not in self.splits:
            raise ConfigError(f"a split of {', '.join(self.splits)}", f"`{split}`", "choose one with `--split`")
        return self.splits[split]


@dataclass(frozen=True)
class _Found:
    """What a layout holds before it is cut: its own splits, or everything under `all`.

    Splits with a `source` were made by `prepare_data`: nothing is cut off them.
    """

    splits: dict[str, Dataset]
    label_space: LabelSpace
    name: str
    notes: Sequence[str] = ()
    scenes: Iterable[Sequence[str]] = ()
    source: Mapping = field(default_factory=dict)


def load_data(
    data_dir: str | None = None,
    dataset: str | None = None,
    label_space: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    split_file: str | None = None,
    keep_together: Sequence[str] | None = None,
    test_fraction: float = 0.25,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    dataset_revision: str | None = None,
    dataset_config: str | None = None,
    streaming: bool = False,
) -> LoadedData:
    """Loads data, pairs images with labels and splits them. Files are listed but not opened: see `inspect_pairs`.

    Args:
        data_dir: KITTI folder or archive, Cityscapes folder, saved set, or a folder that `label_space` describes.
        dataset: `synthetic`, a Hub id, or a folder that `datasets.load_dataset` reads.
        label_space: A name or file for `read_label_space`; None takes what the layout or the set itself says.
        image_column: Of a saved or Hub set; None guesses from the usual names. `label_column` likewise.
        split_file: YAML for `read_split_file`, in place of the data's own splits and of all cuts but validation's.
        keep_together: Comma-separated names of frames that must be in one split, one string per group.
        test_fraction: Share cut off as test where the layout has no splits at all (KITTI, one pair of folders).
        validation_fraction: Share of train cut off as validation where there is none; 0 leaves it out.
        split_seed: Of both cuts.
        dataset_revision: Branch, tag or commit of the Hub id.
        dataset_config: Configuration of a `dataset` that has several.
        streaming: Read the Hub set over the network once and hold its files in memory, instead of downloading it.

    Raises:
        DataError: Anything missing, unpaired, ambiguous or unreadable; one line that names it.
    """
    if (data_dir is None) == (dataset is None):
        given = "neither" if data_dir is None else f"both, `{data_dir}` and `{dataset}`"
        raise DataError("either `data_dir` or `dataset`", given, "give one of them")
    for name, fraction in (("test_fraction", test_fraction), ("validation_fraction", validation_fraction)):
        if not 0 <= fraction < 1:  # also refuses NaN
            raise DataError(
                f"`{name}` from 0 to below 1", f"{fraction}", "give a share such as 0.1", data_dir or dataset
            )
    source = data_dir if dataset is None else dataset
    hub_only = {"streaming": streaming, "dataset_revision": dataset_revision, "dataset_config": dataset_config}
    for name, given in hub_only.items():
        if given and dataset in (None, "synthetic"):
            raise DataError(f"a Hub id as `dataset` with `{name}`", f"`{source}`", f"leave `--{name}` out", source)
    try:
        if dataset is not None:
            columns, where = (image_column, label_column), (dataset_revision, dataset_config, streaming)
            found = _load_dataset(dataset, label_space, *columns, *where)
        else:
            found = _load_folder(Path(data_dir).expanduser(), label_space, image_column, label_column)
    except OSError as error:  # no permission, a loop of links, a name too long, a share that went away
        what = f"{error.strerror or error} at {error.filename or source}"
        raise DataError("data that can be read", what, "check the path and its permissions", source) from error
    made = found.source if split_file is None else {}
    if made:
        validation_fraction = 0
    splits, notes = arrange_splits(
        found.splits, split_file, keep_together, found.scenes, test_fraction, validation_fraction, split_seed, source
    )
    notes = tuple(dict.fromkeys((*found.notes, *made.get("notes", ()), *notes)))
    logger.info("%s: %s; %s", found.name, {split: len(rows) for split, rows in splits.items()}, "; ".join(notes))
    return LoadedData(splits, found.label_space, found.name, notes)


def _load_dataset(
    dataset: str,
    label_space: str | None,
    image_column: str | None,
    label_column: str | None,
    revision: str | None,
    config: str | None,
    streaming: bool,
) -> _Found:
    if dataset == "synthetic":
        space = read_label_space(label_space)[0] if label_space else CITYSCAPES
        return _Found(dict(build_synthetic_splits()), space, "synthetic")
    if not Path(dataset).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", dataset):
        raise DataError(
            "`synthetic`, a Hub id `user/name` or a folder", f"`{dataset}`, which is none", "correct `--dataset`"
        )

    def choose(features, split: str) -> list[str] | None:
        if str(split).lower() not in SPLIT_NAMES:
            return None
        columns = choose_columns(features, image_column, label_column, dataset)
        return [*columns, *(name for name in NAME_COLUMNS if name in features and name not in columns)]

    hub_set = load_hub_set(dataset, revision, streaming, choose, config)
    splits, notes = normalise_columns(hub_set.splits, image_column, label_column, dataset)
    if config is not None:
        notes.append(f"configuration {config} of the set")
    name = dataset if not Path(dataset).is_dir() else Path(dataset).resolve().name
    space = _label_space_of(dataset, label_space, hub_set.commit)
    return _Found(splits, space, name, notes, source=read_source(dataset, hub_set.commit))


def _load_folder(path: Path, label_space: str | None, image_column: str | None, label_column: str | None) -> _Found:
    if not path.exists():
        looks_like_id = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path))
        fix = "correct `--data_dir`" + (", or give a Hub id as `--dataset`" if looks_like_id else "")
        raise DataError("a folder or .zip archive", "no such path", fix, path)
    if path.is_file() and path.suffix.lower() != ".zip":
        raise DataError("a folder or .zip archive", "a file of another kind", "give the folder around it", path)
    if is_saved_set(path):
        splits, notes = normalise_columns(load_saved_set(path), image_column, label_column, str(path))
        space = _label_space_of(str(path), label_space)
        return _Found(splits, space, path.resolve().name, notes, source=read_source(str(path)))
    space, folders = read_label_space(label_space) if label_space else (CITYSCAPES, {})
    if folders and path.is_dir():
        return _Found(load_described_folders(path, folders, label_space), space, space.name)
    if training := find_kitti(path):
        return _Found({UNSPLIT: load_kitti(training)}, space, "kitti")
    if root := find_cityscapes(path):
        train_ids = label_space == "cityscapes_train_ids"
        splits = load_cityscapes(root, f"_gtFine_label{'Train' if train_ids else ''}Ids")
        scenes = group_by_city(splits["train"]["name"]) if "train" in splits else ()
        return _Found(splits, space, "cityscapes", (CITYSCAPES_NOTE,), scenes)
    inside = sorted(entry.name for entry in path.iterdir())
    raise DataError(
        "training/image_2 and training/semantic (KITTI), leftImg8bit and gtFine (Cityscapes), dataset_dict.json (a "
        "saved set), or a `label_space` file with `splits`",
        f"{', '.join(inside[:5])}{' ...' if len(inside) > 5 else ''}" if inside else "an empty folder",
        "check `--data_dir`, or describe the folders in a YAML file as `--label_space`",
        path,
    )


def _label_space_of(dataset: str, label_space: str | None, commit: str | None = None) -> LabelSpace:
    space = read_label_space(label_space)[0] if label_space else read_own_label_space(dataset, commit)
    if space is None:
        raise DataError(
            "label_space.json or id2label.json in the data set",
            "neither",
            "give its classes by `--label_space`, such as a JSON file of `id: name` pairs",
            dataset,
        )
    return space
