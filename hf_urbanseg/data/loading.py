"""From a Hub id, a saved set, a folder or an archive to splits of image, label and name."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datasets import Dataset, DatasetDict, Image

from hf_urbanseg.data.class_files import read_class_words
from hf_urbanseg.data.label_space_files import read_label_space
from hf_urbanseg.data.scenes import ALIKE, describe_scenes, find_alike, read_scenes
from hf_urbanseg.data.shards import ShardedRows
from hf_urbanseg.data.sources import (
    cityscapes,
    described_folders,
    hub_set,
    kitti,
    labelling_export,
    saved_set,
    simple_folders,
    synthetic,
)
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.data.splits import SPLITS, arrange_splits
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.files import expand_home, explain_missing
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.palettes import recolor

DATASET_SOURCES = (synthetic, hub_set)
DATA_DIR_SOURCES = (saved_set, described_folders, kitti, cityscapes, labelling_export, simple_folders)
"""Asked in this order; a new layout is a YAML file in `label_spaces`, or a module in `sources` and its name here."""


@dataclass(frozen=True)
class LoadedData:
    """Splits and their classes.

    Args:
        splits: Keys among train, validation, test; columns image (`Image()`), label (`Image()`, raw label ids, the
            file's own mode) and name (string), sorted by name; or rows that are read when they are asked for.
        label_space: What the label ids mean.
        name: Short name of the data, such as `kitti`, or the Hub id.
        notes: One sentence each on how the splits came about.
        channels: Of every image. If they aren't 3, column image is `Image(decode=False)`; see `to_array`.
        find_scenes: Rows -> names that belong together in them, and a sentence on it.
    """

    splits: DatasetDict | dict[str, ShardedRows]
    label_space: LabelSpace
    name: str
    notes: tuple[str, ...]
    channels: int = 3
    find_scenes: Callable[[Dataset], tuple[list, str | None]] = lambda rows: ([], None)

    def get_split(self, split: str) -> Dataset:
        """The rows of a split that a user names; ConfigError where there is none of that name."""
        if split not in self.splits:
            raise ConfigError(f"a split of {', '.join(self.splits)}", f"`{split}`", "choose one with `--split`")
        return self.splits[split]


def load_data(
    data_dir: str | None = None,
    dataset: str | None = None,
    label_space: str | LabelSpace | None = None,
    classes: Sequence[str] | None = None,
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
    preflight_frames: int = 1000,
    palette: str | None = None,
    format: str = "auto",
    background: str | None = None,
    channels: int = 3,
    scenes: str = "auto",
    fold: int | None = None,
) -> LoadedData:
    """Loads data, pairs images with labels and splits them. Files are listed but not opened: see `inspect_pairs`.

    Args:
        data_dir: KITTI folder or archive, folder of Cityscapes or another known set, saved set, a folder that
            `label_space` describes, plain folders of images and masks, or the export of a labelling tool: the
            folder, or one file of its annotations.
        dataset: `synthetic`, a Hub id, or a folder or .parquet file that `datasets.load_dataset` reads.
        label_space: Or a name or file for `read_label_space`; None takes what the layout or the set itself says.
        classes: For `read_class_words`, in place of a label space.
        image_column: Of a saved or Hub set; None guesses from the usual names. `label_column` likewise.
        split_file: YAML lists of frame names, in place of the data's own splits and of all cuts but validation's.
        keep_together: Comma-separated names of frames that must be in one split, one string per group.
        test_fraction: Share cut off as test where the layout has no splits at all (KITTI, one pair of folders).
        validation_fraction: Share of train cut off as validation where there is none; 0 leaves it out.
        split_seed: Of both cuts.
        dataset_revision: Branch, tag or commit of the Hub id.
        dataset_config: Configuration of a `dataset` that has several.
        streaming: Read each row when it is asked for (`ShardedRows`), of a Hub set, a folder of parquet files or tars.
        preflight_frames: Of each split, for the preflight of rows that are streamed.
        palette: The classes' colours (`choose_colors`); None takes the data's own.
        format: Of the export, one of `labelling_export.FORMATS`; `auto` looks at the files.
        background: What pixels in no shape of an export are: `class` or `void`; None is the former, if `label_space`
            has such a class.
        channels: Of every image; 3 are RGB, whatever the file has.
        scenes: Frames that a cut keeps together: `auto` is what the layout says, else whose pictures are alike
            (`find_alike`); `none`; or a YAML file with a list `scenes` of lists of names.
        fold: Number of the one that is held out as test, of a `split_file` that lists `folds`.

    Raises:
        DataError: Anything missing, unpaired, ambiguous or unreadable; one line that names it.
    """
    if (data_dir is None) == (dataset is None):
        given = "neither" if data_dir is None else f"both, `{data_dir}` and `{dataset}`"
        raise DataError("either `data_dir` or `dataset`", given, "give one of them")
    where = data_dir if dataset is None else dataset
    for name, fraction in (("test_fraction", test_fraction), ("validation_fraction", validation_fraction)):
        if not 0 <= fraction < 1:  # also refuses NaN
            raise DataError(f"`{name}` from 0 to below 1", f"{fraction}", "give a share such as 0.1", where)
    if dataset is not None and format != "auto":
        raise DataError("an export as `data_dir` with `format`", f"`{where}`", "leave `--format` out", where)
    hub_only = {"streaming": streaming, "dataset_revision": dataset_revision, "dataset_config": dataset_config}
    for name, given in hub_only.items():
        if given and (dataset is None or (dataset == "synthetic" and name != "dataset_config")):
            raise DataError(f"a Hub id as `dataset` with `{name}`", f"`{where}`", f"leave `--{name}` out", where)
    if classes and label_space:
        raise DataError("either `label_space` or `classes`", "both", "give one of them")
    space, folders = (read_class_words(classes), {}) if classes else (label_space, {})
    if isinstance(label_space, str):
        space, folders = read_label_space(label_space)
    request = DataRequest(
        path=None if data_dir is None else expand_home(data_dir),
        dataset=dataset,
        label_space_name=label_space if isinstance(label_space, str) else None,
        label_space=space,
        folders=folders,
        image_column=image_column,
        label_column=label_column,
        revision=dataset_revision,
        config=dataset_config,
        streaming=streaming,
        preflight_frames=preflight_frames,
        format=format,
        background=background,
    )
    try:
        source = _find_source(request)
        if background is not None and source is not labelling_export:
            found = "data whose labels are files"
            raise DataError("an export of shapes with `background`", found, "leave `--background` out", where)
        found = source.load(request)
    except OSError as error:  # no permission, a loop of links, a name too long, a share that went away
        what = f"{error.strerror or error} at {error.filename or where}"
        raise DataError("data that can be read", what, "check the path and its permissions", where) from error
    if streaming:
        unfit = {"split_file": split_file, "fold": fold is not None, "keep_together": keep_together}
        unfit |= {"channels": channels != 3}
        if given := [name for name, value in unfit.items() if value]:
            fix = f"leave `--{given[0]}` out, or `--streaming`"
            raise DataError("a streamed set with the splits it has, of RGB", f"`{given[0]}`", fix, where)
        notes = [f"{split}: none, and a streamed set is not cut" for split in SPLITS if split not in found.splits]
        space = recolor(found.label_space, palette)
        notes = tuple(dict.fromkeys((*found.notes, *(found.final_notes or ()), *notes)))
        return LoadedData(found.splits, space, found.name, notes)
    made = found.final_notes if split_file is None else None
    fractions = test_fraction, validation_fraction if made is None else 0
    find_scenes = partial(_choose_scenes, scenes, found)
    splits, notes = arrange_splits(
        found.splits, split_file, keep_together, find_scenes, *fractions, split_seed, where, fold
    )
    notes = tuple(dict.fromkeys((*found.notes, *(made or ()), *notes)))
    if channels != 3:
        splits = splits.cast_column("image", Image(decode=False))
    return LoadedData(splits, recolor(found.label_space, palette), found.name, notes, channels, find_scenes)


def _choose_scenes(choice: str, found: FoundData, rows: Dataset) -> tuple[list, str | None]:
    """Groups of frames that a cut of `rows` keeps together, and a sentence on what isn't told by the layout."""
    if choice == "none":
        return [], None
    if choice != "auto":
        names = [name for split in found.splits.values() for name in split["name"]]
        groups = read_scenes(choice, names)
        return groups, describe_scenes(groups, f"as listed in {Path(choice).name}")
    told = {name for scene in found.scenes for name in scene}
    groups = find_alike(rows) if set(rows["name"]) - told else []
    how = f"because their pictures are alike (correlation above {ALIKE}; `--scenes none` ignores it)"
    return [*found.scenes, *groups], describe_scenes(groups, how) if groups else None


def _find_source(request: DataRequest):
    """The module of `sources` that reads what is asked for."""
    path = request.path
    if path is None:
        if source := next((one for one in DATASET_SOURCES if one.matches(request)), None):
            return source
        found = f"`{request.dataset}`, which is none{explain_missing(request.dataset)}"
        raise DataError("`synthetic`, a Hub id `user/name`, a folder or a .parquet file", found, "correct `--dataset`")
    if not path.exists():
        looks_like_id = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path))
        fix = "correct `--data_dir`" + (", or give a Hub id as `--dataset`" if looks_like_id else "")
        raise DataError("a folder or .zip archive", f"no such path{explain_missing(path)}", fix, path)
    if path.is_file() and path.suffix.lower() not in (".zip", *labelling_export.SUFFIXES):
        fix = "name it by `--dataset`" if path.suffix.lower() == ".parquet" else "give the folder around it"
        expected = "a folder, a .zip archive or an export's .json or .xml"
        raise DataError(expected, "a file of another kind", fix, path)
    if request.format == "masks":
        return simple_folders
    if request.format != "auto" or (path.is_file() and path.suffix.lower() in labelling_export.SUFFIXES):
        return labelling_export
    if source := next((one for one in DATA_DIR_SOURCES if one.matches(request)), None):
        if source is labelling_export and simple_folders.matches(request):
            fix = "move one away, or say which: `--format masks`, or that of the annotations, such as coco"
            raise DataError("annotations or masks", "both", fix, path)
        return source
    inside = sorted(entry.name for entry in path.iterdir())
    found = f"{', '.join(inside[:5])}{' ...' if len(inside) > 5 else ''}" if inside else "an empty folder"
    fix = "check `--data_dir`, or describe the folders in a YAML file as `--label_space`"
    for folder in (path / name for name in inside if (path / name).is_dir()):  # archives have one around the data
        if any(one.matches(replace(request, path=folder)) for one in DATA_DIR_SOURCES):
            fix = f"give `--data_dir {folder}`"
            break
    if next((path.glob("*.parquet")), None) or next(path.glob("*/*.parquet"), None):
        fix = "name a folder of tables by `--dataset`"
    raise DataError(", or ".join(one.LOOKS_LIKE for one in DATA_DIR_SOURCES), found, fix, path)
