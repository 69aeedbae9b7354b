"""Data sets of the Hub, downloaded into the cache of `datasets` or read where they are; local ones of that kind."""

import glob
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import datasets
import huggingface_hub
from datasets import data_files
from datasets.packaged_modules.parquet.parquet import Parquet
from datasets.packaged_modules.webdataset.webdataset import WebDataset
from huggingface_hub.errors import OfflineModeIsEnabled

from hf_urbanseg.data.columns import SPLIT_NAMES, choose_columns, name_splits, normalise_columns, refuse_unlabelled
from hf_urbanseg.data.hub_errors import hub_errors_in_one_line
from hf_urbanseg.data.image_files import FEATURES, UNSPLIT
from hf_urbanseg.data.own_files import (
    OWN_FILES,
    SHARDS_FILE,
    find_folder,
    is_address,
    is_table,
    read_own_label_space,
    read_shards_file,
    read_source,
)
from hf_urbanseg.data.parquet_shards import ParquetRows, build_indexed
from hf_urbanseg.data.shards import ShardedRows, read_shards
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.data.tar_shards import TarRows
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_files, check_regular

logger = logging.getLogger(__name__)

_ASK_TIMEOUT = 30.0


def matches(request: DataRequest) -> bool:
    """Whether `dataset` is a folder, a .parquet file, `user/name`, or an address such as `s3://bucket/set`."""
    dataset = request.dataset
    if dataset is None:
        return False
    return find_folder(dataset) is not None or is_address(dataset) or bool(re.fullmatch(r"[\w.-]+/[\w.-]+", dataset))


def load(request: DataRequest) -> FoundData:
    """Reads a data set of the Hub, or of a local folder or .parquet file that `datasets.load_dataset` reads.

    The Hub is asked for the set first, and everything then comes from the commit it names. So a Hub that is away or
    refuses is told at once, without the library's retries (25 s and more), which begin with the files.

    Streaming reads a row when it is asked for, of parquet files alone, which can be read so.
    """
    dataset = request.dataset
    if is_address(dataset) and not request.streaming:
        raise DataError("a Hub id, or a folder or file here", "an address", "add `--streaming true`", dataset)
    local = find_folder(dataset) is not None
    if request.streaming:
        splits, notes, commit = _list_rows(request)
    else:
        with hub_errors_in_one_line(dataset, request.revision):
            found, commit = _read_local(request) if local else _read_hub(request)
        splits, notes = normalise_columns(found, request.image_column, request.label_column, dataset)
    if request.config is not None:
        notes.append(f"configuration {request.config} of the set")
    space = request.label_space or read_own_label_space(dataset, commit)
    name = Path(dataset).resolve().name.removesuffix(".parquet") if local else dataset
    return FoundData(splits, space, name, notes, final_notes=read_source(dataset, commit).get("notes"))


def _read_local(request: DataRequest) -> tuple[Mapping[str, datasets.Dataset], None]:
    table = is_table(request.dataset)
    for name, given in (("dataset_revision", request.revision), ("dataset_config", table and request.config)):
        if given:
            fix = f"leave `--{name}` out: the files are here already"
            raise DataError(f"a Hub id `user/name` with `{name}`", "a local folder or file", fix)
    folder = Path(request.dataset)
    if table:
        check_regular(folder)
        split = folder.stem if folder.stem.lower() in SPLIT_NAMES else UNSPLIT
        rows = datasets.load_dataset("parquet", data_files=glob.escape(str(folder.absolute())), split="train")
        return {split: rows}, None
    check_files(folder)
    with _own_files(folder):
        return datasets.load_dataset(request.dataset, request.config), None


@contextmanager
def _own_files(folder: Path) -> Iterator[None]:
    """Keeps `datasets` to the data in a folder: its README may name other files, at addresses of the web, too."""
    resolve = data_files.resolve_pattern

    roots = [Path(os.path.abspath(folder)), folder.resolve()]

    def resolve_inside(pattern: str, base_path: str, *args, **options) -> list[str]:
        place = Path(os.path.abspath(Path(base_path, pattern)))  # by its words: links in the folder are its owner's
        if "://" in pattern or not any(place.is_relative_to(root) for root in roots):
            fix = "correct the front matter of its README.md"
            raise DataError("the folder's own files as `data_files`", f"`{pattern}`", fix, folder)
        found = resolve(pattern, glob.escape(base_path), *args, **options)  # a folder may be called `data [1]`
        return [file for file in found if os.path.basename(file) not in OWN_FILES]  # one beside one tar: a set of JSON?

    data_files.resolve_pattern = resolve_inside
    try:
        yield
    finally:
        data_files.resolve_pattern = resolve


def _read_hub(request: DataRequest) -> tuple[Mapping[str, datasets.Dataset], str | None]:
    """The splits and the commit they are of."""
    dataset, revision = request.dataset, request.revision
    commit = _ask(request)
    splits = datasets.load_dataset(dataset, request.config, revision=commit or revision)
    cached = commit or _cached_commit(splits)
    if commit is None and revision not in (None, cached):  # offline, `datasets` takes the newest it has
        fix = "unset HF_HUB_OFFLINE, or name that commit if it is the one you want"
        raise DataError(f"revision {revision} in the cache", f"commit {cached}", fix)
    return splits, cached


def _ask(request: DataRequest) -> str | None:
    """The commit a revision stands at, None in offline mode."""
    try:
        api = huggingface_hub.HfApi()
        return api.dataset_info(request.dataset, revision=request.revision, timeout=_ASK_TIMEOUT).sha
    except OfflineModeIsEnabled:
        if request.streaming:
            raise
        return None


def _cached_commit(splits: Mapping[str, datasets.Dataset]) -> str | None:
    """The commit that `datasets` names its cached files' folder after."""
    names = {Path(file["filename"]).parent.name for rows in splits.values() for file in rows.cache_files}
    commits = [name for name in names if re.fullmatch(r"[0-9a-f]{40}", name)]
    return commits[0] if len(names) == len(commits) == 1 else None


def _list_rows(request: DataRequest) -> tuple[dict[str, ShardedRows], list[str], str | None]:
    """The splits to stream, a sentence each on what is unusual about them, and their commit."""
    dataset, folder, commit = request.dataset, find_folder(request.dataset), None
    with hub_errors_in_one_line(dataset, request.revision):
        if folder is None and not is_address(dataset):
            commit = _ask(request)
        index = None if is_table(dataset) else read_shards_file(dataset, commit)
        kind, files = (ParquetRows, index["shards"]) if index is not None else _list_files(request, commit)
        theirs, notes = name_splits(files, dataset)
        if index is not None:
            where = f"hf://datasets/{dataset}@{commit}" if commit else dataset.rstrip("/")
            where, frames = where if folder is None else str(folder.absolute()), request.preflight_frames
            choose_columns(FEATURES, request.image_column, request.label_column, dataset)
            splits = {split: build_indexed(index, where, name, frames) for split, name in theirs.items()}
        else:
            files_of = {split: files[name] for split, name in theirs.items()}
            columns = request.image_column, request.label_column
            splits = read_shards(kind, files_of, *columns, dataset, request.preflight_frames)
    notes += [f"{name}: left out, it has no labels" for split, name in theirs.items() if split not in splits]
    refuse_unlabelled(splits, files, dataset)
    counted = (f"{split} {len(rows)} frames in {len(rows.shards)} files" for split, rows in splits.items())
    return splits, [*notes, f"streamed: {', '.join(counted)}"], commit


def _list_files(request: DataRequest, commit: str | None) -> tuple[type[ShardedRows], dict[str, list[str]]]:
    """What reads the files of a set that lists none itself, and their addresses or paths by split."""
    dataset, folder = request.dataset, find_folder(request.dataset)
    if is_address(dataset):
        fix = "write the set with `urbanseg prepare-data --rows_per_shard 1000`, and copy the whole folder"
        raise DataError(f"{SHARDS_FILE}, which lists the files", "none", fix, dataset)
    if is_table(dataset):
        check_regular(Path(dataset))
        stem = Path(dataset).stem
        return ParquetRows, {stem if stem.lower() in SPLIT_NAMES else "train": [os.path.abspath(dataset)]}
    if folder is not None:
        check_files(folder)
    with _own_files(folder) if folder is not None else _fewer_retries():
        builder = datasets.load_dataset_builder(dataset, request.config, revision=commit)
    match builder:
        case Parquet():
            kind = ParquetRows
        case WebDataset() if folder is not None:
            kind = TarRows
        case _:
            found = f"files for `{type(builder).__module__.rpartition('.')[2]}`"
            fix = "leave `--streaming` out, or write such files: `urbanseg prepare-data --rows_per_shard 1000`"
            raise DataError("parquet files to stream from, or tars in a folder here", found, fix, dataset)
    return kind, {str(split): [str(url) for url in urls] for split, urls in builder.config.data_files.items()}


@contextmanager
def _fewer_retries() -> Iterator[None]:
    """Leaves out the retries of `datasets` (20, 5 to 60 s apart) around those of `huggingface_hub` (5 in 23 s)."""
    limits = re.compile(r"STREAMING_\w+_(MAX_RETRIES|INTERVAL)")
    before = {name: value for name, value in vars(datasets.config).items() if limits.fullmatch(name)}
    try:
        for name in before:
            setattr(datasets.config, name, int(name.endswith("RETRIES")))
        yield
    finally:
        for name, value in before.items():
            setattr(datasets.config, name, value)
