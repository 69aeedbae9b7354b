"""Sets and caches of ours on disk: the small files that they bring along, and which folder may be written over."""

import hashlib
import os
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import huggingface_hub
from fsspec.core import url_to_fs
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from hf_urbanseg.data.archive import cache_folder
from hf_urbanseg.data.class_files import MissingClassesError
from hf_urbanseg.data.hub_errors import hub_errors_in_one_line
from hf_urbanseg.data.id2label import label_space_from_names
from hf_urbanseg.data.label_space_files import parse_label_space
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import written_whole
from hf_urbanseg.json_yaml import read_json, read_mapping
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.locks import LOCK

LABEL_SPACE_FILE = "label_space.json"
SHARDS_FILE = "shards.json"
"""Beside a set of shards: the files of each split with their rows, digests, and pixels per class."""
SOURCE_FILE = "source.json"
"""Beside a set that `prepare_data` wrote: where it comes from. Its splits are final."""
ID2LABEL_FILE = "id2label.json"
OWN_FILES = (LABEL_SPACE_FILE, ID2LABEL_FILE, SHARDS_FILE, SOURCE_FILE)


def read_own_label_space(dataset: str, commit: str | None = None) -> LabelSpace:
    """The label space that a set brings along, or that of the `id2label.json` of Hub sets, whose files hold its ids.

    Args:
        dataset: `user/name`, a folder, or a file in one; `commit` is of the former.
    """
    if path := _find_own_file(dataset, LABEL_SPACE_FILE, commit):
        return parse_label_space(read_mapping(path, "label space"), str(path))
    if path := _find_own_file(dataset, ID2LABEL_FILE, commit):
        return label_space_from_names(read_mapping(path, "id2label"), dataset.rpartition("/")[2], path)
    fix = "give its classes by `--label_space`, such as a JSON file of `id: name` pairs, or `urbanseg label-space` "
    fix += "shows what its labels hold"
    raise MissingClassesError(f"{LABEL_SPACE_FILE} or id2label.json in the data set", "neither", fix, dataset)


def read_source(dataset: str, commit: str | None = None) -> dict:
    """What `source.json` says about a set: `origin`, `license`, `notes`; empty if there is no such file."""
    path = _find_own_file(dataset, SOURCE_FILE, commit)
    if path is None:
        return {}
    source = read_mapping(path, "source")
    notes = source.get("notes") or []
    words = [source.get("origin") or "", source.get("license") or "", *(notes if isinstance(notes, list) else [None])]
    if not all(isinstance(word, str) for word in words):
        raise DataError("`origin` and `license` as words, `notes` as a list of them", "others", "prepare it anew", path)
    return {"origin": source.get("origin"), "license": source.get("license"), "notes": notes}


def read_shards_file(dataset: str, commit: str | None = None) -> dict | None:
    """What `shards.json` says of a set of shards; None where there is none."""
    path = _find_own_file(dataset, SHARDS_FILE, commit)
    if path is None:
        return None
    index = read_json(path)
    try:
        shards = list(chain.from_iterable(index["shards"].values()))
        for one in shards:
            counts = [one["rows"], *one["pixels"]]
            good = all(isinstance(count, int) and 0 <= count < 2**50 for count in counts)
            words = isinstance(index["mapping"], str) and isinstance(one["digest"], str)
            if not (good and words and len(counts) == 1 + len(shards[0]["pixels"])):
                raise ValueError
        files = {one["file"] for one in shards}
        if len(files) < len(shards) or not all(re.fullmatch(r"data/[\w.-]+", file) for file in files):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError):
        expected = "every file once, with its rows, digest and pixels per class"
        fix = "write the set anew with `urbanseg prepare-data`, or delete the file"
        raise DataError(expected, "something else", fix, path) from None
    return index


def is_table(dataset: str) -> bool:
    """Whether this is a local .parquet file."""
    return dataset.lower().endswith(".parquet") and Path(dataset).is_file()


def find_folder(dataset: str) -> Path | None:
    """The folder of a local set, which may be a file in it; None for the Hub's."""
    if is_table(dataset):
        return Path(dataset).parent
    return Path(dataset) if Path(dataset).is_dir() else None


def is_address(dataset: str) -> bool:
    """Whether this is a folder on object storage or anything else that fsspec reads, such as `s3://bucket/set`."""
    return bool(re.match(r"[a-z][a-z0-9]+://", dataset))


def _fetch(url: str) -> Path | None:
    """A copy of a small file, which may be another tomorrow; None where there is none."""
    folder = cache_folder() / "addresses" / hashlib.sha256(url.encode()).hexdigest()
    with hub_errors_in_one_line(url):
        system, path = url_to_fs(url)
        try:
            system.info(path)
        except FileNotFoundError:
            return None  # `exists` says so of an outage, too
        with written_whole(folder / Path(path).name) as staged:
            system.get_file(path, str(staged))
    return folder / Path(path).name


def _find_own_file(dataset: str, name: str, commit: str | None) -> Path | None:
    if is_address(dataset):
        return _fetch(f"{dataset.rstrip('/')}/{name}")
    if folder := find_folder(dataset):
        path = folder / name
        return path if path.is_file() else None
    try:
        with hub_errors_in_one_line(dataset):
            return Path(huggingface_hub.hf_hub_download(dataset, name, repo_type="dataset", revision=commit))
    except DataError as error:
        missing = error.__cause__
        if isinstance(missing, LocalEntryNotFoundError):
            # Offline and never downloaded: then `--label_space` is asked for. Otherwise the Hub didn't answer.
            missing = missing.__cause__ if isinstance(missing.__cause__, OfflineModeIsEnabled) else None
        if isinstance(missing, (EntryNotFoundError, OfflineModeIsEnabled)):
            return None
        raise


def check_output(output: Path, overwrite: bool, is_own: Callable[[Path], bool], kind: str) -> None:
    """Refuses a folder to write that holds anything but, with `overwrite`, what the same command wrote before.

    Args:
        is_own: Whether a path is that.
        kind: In words.
    """
    if not os.path.lexists(output) or (output.is_dir() and all(one.name == LOCK for one in output.iterdir())):
        return
    if not is_own(output):
        fix = f"choose another `--output`; `--overwrite` replaces {kind} only"
        raise DataError("a new folder to write", "something else there already", fix, output)
    if not overwrite:
        raise DataError("a new folder to write", kind, "choose another or add `--overwrite`", output)
