"""Rows that stay where they are: parquet files, on disk or far away, of which a frame is read when it is asked for."""

import hashlib
import json
import logging
import os
import re
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image
from fsspec.core import url_to_fs

from hf_urbanseg.data.column_names import NAME_COLUMNS
from hf_urbanseg.data.columns import choose_columns
from hf_urbanseg.data.hub_errors import hub_errors_in_one_line
from hf_urbanseg.errors import DataError

logger = logging.getLogger(__name__)

NAMES_KEY = b"hf_urbanseg.names"
"""In a file's footer, the names of its frames as JSON: of row groups of one row, they would be a request each."""
_WAITS = (1.0, 4.0)
"""Seconds before a file is opened and read again; those that the Hub's client waits for itself come on top."""
_OPEN = 8
"""Files whose footers are held by a process: 4 kB a row group."""
_HELD = 64 << 20
"""Bytes of row groups of several rows that a process holds, because its next frames are probably in them, too."""
_THREADS = 16
_DECODER = Image()


class Shard(NamedTuple):
    """One parquet file: where it is, how many rows it has, and the SHA-256 of its footer, which lists its pages."""

    url: str
    rows: int
    digest: str


@dataclass(frozen=True, eq=False)
class ShardedRows:
    """A split's rows in the order of its files, read one by one; what is used of `datasets.Dataset` is as there.

    Any process may read any row, and reads the row group that it is in: nothing is downloaded, nothing is held but a
    few footers (and, of files with many rows a group, `_HELD` bytes). What can't be read is tried again, by a fresh
    connection, and is one line then.

    Args:
        shards: Those with rows.
        columns: Of the image, the label and, if there is one, the name.
        split: For names of frames without one.
        sample: Frames that a preflight reads.
        pixels: By class, of all rows, where the set says so.
        decode: Pictures as such, else as files' bytes.
        indices: Of a selection; None has all.
    """

    shards: tuple[Shard, ...]
    columns: tuple[str, ...]
    split: str
    sample: int
    pixels: Mapping[str, int] | None = None
    decode: bool = True
    indices: np.ndarray | None = None
    _opened: OrderedDict = field(default_factory=OrderedDict, init=False, repr=False)
    _groups: OrderedDict = field(default_factory=OrderedDict, init=False, repr=False)

    column_names = ("image", "label", "name")

    def __post_init__(self):
        object.__setattr__(self, "_ends", np.cumsum([shard.rows for shard in self.shards]))
        self._forget()

    def _forget(self) -> None:
        """Connections are not shared with other processes; nor is a lock, which a thread of theirs may hold."""
        self._opened.clear()
        object.__setattr__(self, "_lock", threading.Lock())
        object.__setattr__(self, "_process", os.getpid())

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.indices is None else len(self.indices)

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: int | str) -> dict | list[str]:
        if isinstance(key, str):
            return self._read_names()
        index = range(len(self))[key] if self.indices is None else int(self.indices[key])
        number = bisect_right(self._ends, index)
        start = int(self._ends[number - 1]) if number else 0
        row = self._read(self.shards[number], index - start)
        where = f"{name_file(self.shards[number].url)}, row {index - start}"
        pictures = [self._get_picture(value, role, where) for role, value in zip(("image", "label"), row, strict=False)]
        name = str(row[2]) if len(row) > 2 else self._make_name(index)
        return {"image": pictures[0], "label": pictures[1], "name": name}

    def list_files(self) -> dict[str, list[str]]:
        """By file, what it is known by: twice, as frames have a digest of their image and of their label."""
        return {os.path.basename(shard.url): [shard.digest] * 2 for shard in self.shards}

    def select(self, indices: Sequence[int]) -> "ShardedRows":
        """Some of the rows."""
        indices = np.asarray(indices, np.int64)
        return replace(self, indices=indices if self.indices is None else self.indices[indices])

    def choose_sample(self) -> "ShardedRows":
        """The frames that a preflight reads: all, or `sample` of them, evenly spread over the files."""
        if len(self) <= self.sample:
            return self
        return self.select(np.linspace(0, len(self) - 1, self.sample).round())

    def cast_column(self, _: str, feature: Image) -> "ShardedRows":
        """Both columns of pictures decoded, or as files."""
        return replace(self, decode=feature.decode)

    def _make_name(self, index: int) -> str:
        return f"{self.split}_{index:06d}"

    def _read_names(self) -> list[str]:
        indices = np.arange(self._ends[-1]) if self.indices is None else self.indices
        if len(self.columns) < 3:
            return [self._make_name(index) for index in indices]
        numbers = np.searchsorted(self._ends, indices, side="right")
        needed = np.unique(numbers).tolist()
        with ThreadPoolExecutor(_THREADS) as pool:
            found = dict(zip(needed, pool.map(lambda one: self._read_names_of(self.shards[one]), needed), strict=True))
        places = indices - self._ends[numbers] + [self.shards[number].rows for number in numbers]
        return [str(found[number][place]) for number, place in zip(numbers.tolist(), places.tolist(), strict=True)]

    def _read_names_of(self, shard: Shard) -> list[str]:
        def read() -> list[str]:
            with _open_url(shard.url) as file:
                opened = pq.ParquetFile(file)
                written = (opened.metadata.metadata or {}).get(NAMES_KEY)
                return json.loads(written) if written else opened.read([self.columns[2]])[0].to_pylist()

        return _try_again(read, shard.url)

    def _get_picture(self, value, role: str, where: str):
        stored = value if isinstance(value, dict) else {"bytes": value, "path": None}
        if not stored["bytes"]:
            found = "a path alone" if stored.get("path") else "none"
            fix = "leave the row out, or write the bytes of its file"
            raise BadFrameError(f"the bytes of each picture, and so a {role} here", found, fix, where)
        stored = {"bytes": stored["bytes"], "path": None}
        if not self.decode:
            return stored
        try:
            picture = _DECODER.decode_example(stored)
            picture.load()
        except Exception as error:  # decoders raise what they like
            fix = "fetch the file again or leave it out"
            raise BadFrameError(f"a readable {role} file", f"{type(error).__name__}: {error}", fix, where) from error
        return picture

    def _read(self, shard: Shard, row: int) -> list:
        """The cells of one row."""
        if self._process != os.getpid():
            self._forget()

        def read() -> pa.Table:
            try:
                file, starts = self._open(shard)
                group = bisect_right(starts, row) - 1
                found = self._groups.get((shard.url, group))
                if found is None:
                    found = file.read_row_group(group, [*self.columns], use_threads=False)
                    self._hold((shard.url, group), found)
                return found.slice(row - starts[group], 1)
            except Exception:
                self._opened.pop(shard.url, None)
                raise

        with self._lock:
            found = _try_again(read, shard.url)
        return [found.column(name)[0].as_py() for name in self.columns]

    def _hold(self, key: tuple[str, int], found: pa.Table) -> None:
        if len(found) == 1:
            return  # no other frame is in it
        self._groups[key] = found
        while len(self._groups) > 1 and sum(one.nbytes for one in self._groups.values()) > _HELD:
            self._groups.popitem(last=False)

    def _open(self, shard: Shard) -> tuple[pq.ParquetFile, list[int]]:
        """The file, and the first row of each of its row groups."""
        if shard.url not in self._opened:
            file = pq.ParquetFile(_open_url(shard.url), pre_buffer=True, page_checksum_verification=True)
            counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            if sum(counts) != shard.rows:
                fix = "start anew: the file is another than when the run began"
                raise DataError(f"{shard.rows} rows", f"{sum(counts)}", fix, name_file(shard.url))
            self._opened[shard.url] = file, [0, *np.cumsum(counts).tolist()[:-1]]
            while len(self._opened) > _OPEN:
                self._opened.popitem(last=False)
        self._opened.move_to_end(shard.url)
        return self._opened[shard.url]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": OrderedDict(), "_groups": OrderedDict(), "_lock": None, "_process": None}


class BadFrameError(DataError):
    """A frame that can't be trained on, of a file that can be read."""


class NamesOnDemand(Sequence[str]):
    """The names of rows, each read when it is asked for."""

    def __init__(self, rows: ShardedRows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:
        return self.rows[index]["name"]


def build_indexed(index: Mapping, folder: str, split: str, sample: int) -> ShardedRows:
    """The rows of a split as `shards.json` lists them; no file is opened."""
    listed = index["shards"][split]
    shards = tuple(Shard(f"{folder}/{one['file']}", one["rows"], one["digest"]) for one in listed)
    pixels = np.sum([one["pixels"] for one in listed], 0).tolist()
    counted = dict(zip(index["classes"], pixels, strict=True))
    return ShardedRows(shards, ("image", "label", "name"), split, sample, counted)


def read_shards(
    urls: Sequence[str], split: str, image_column: str | None, label_column: str | None, source: str, sample: int
) -> ShardedRows | None:
    """The rows of a split's files, whose footers are read now; None if nothing in them is labelled.

    Raises:
        DataError: No rows, files of different columns, or one without labels.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda url: _try_again(lambda: _read_footer(url), url), urls))
    if empty := [url for url, (shard, *_) in zip(urls, found, strict=True) if not shard.rows]:
        logger.warning("%s: %d of %d files have no rows: %s", split, len(empty), len(urls), name_file(empty[0]))
    found = [one for one in found if one[0].rows]
    if not found:
        raise DataError("frames in every split", f"none in {split}", "add some or leave the split out", source)
    features = found[0][1]
    columns = choose_columns(features, image_column, label_column, source)
    columns += tuple(name for name in NAME_COLUMNS if name in features and name not in columns)[:1]
    if all(columns[1] in unlabelled for *_, unlabelled in found):
        return None
    for shard, kinds, unlabelled in found:
        for name in columns:
            if kinds.get(name) != features[name]:
                expected = f"`{name}` {_spell(features[name])} in every file, as in {name_file(found[0][0].url)}"
                fix = "write the files with the same columns"
                raise DataError(expected, _spell(kinds.get(name)), fix, name_file(shard.url))
        if columns[1] in unlabelled:
            fix = "leave the file out, or give it labels"
            raise DataError("a label in every row", "none in the whole file", fix, name_file(shard.url))
    return ShardedRows(tuple(one[0] for one in found), columns, split, sample)


def _spell(feature) -> str:
    return "missing" if feature is None else " ".join(repr(feature).split())


def _read_footer(url: str) -> tuple[Shard, Features, set[str]]:
    """The file, its columns, and those that hold nothing."""
    with _open_url(url) as file:
        opened = pq.ParquetFile(file)
        metadata, digest = opened.metadata, _digest_footer(file, opened.metadata)
        empty, filled = set(), set()
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                known = column.statistics is not None and column.statistics.has_null_count
                nothing = known and column.statistics.null_count == column.num_values
                # A picture is there if its bytes are: other sets leave out the paths.
                if not column.path_in_schema.endswith(".path"):
                    (empty if nothing else filled).add(column.path_in_schema.split(".")[0])
        return Shard(url, metadata.num_rows, digest), Features.from_arrow_schema(opened.schema_arrow), empty - filled


def describe_footer(path: Path) -> tuple[pq.FileMetaData, str]:
    """Of a local file: the footer, and its SHA-256."""
    with path.open("rb") as file:
        metadata = pq.ParquetFile(file).metadata
        return metadata, _digest_footer(file, metadata)


def _digest_footer(file, metadata: pq.FileMetaData) -> str:
    file.seek(-(metadata.serialized_size + 8), os.SEEK_END)
    return hashlib.sha256(file.read(metadata.serialized_size)).hexdigest()


def name_file(url: str) -> str:
    """As errors call it: a path, or `user/set/data/train-00000-of-00001.parquet`."""
    return re.sub(r"^hf://datasets/([^/]+/[^/@]+)(@[^/]+)?", r"\1", url)


def _open_url(url: str):
    """A file that is read by ranges, exactly those which are asked for."""
    system, path = url_to_fs(url)
    return system.open(path, "rb", **({} if os.path.isabs(url) else {"cache_type": "none"}))


def _try_again(read, url: str):
    """What `read` returns, at the third attempt at the latest."""
    for wait in (*_WAITS, None):
        try:
            return read()
        except DataError:
            raise
        except Exception as error:  # of pyarrow, fsspec, the Hub's client and its HTTP library
            if wait is None:
                with hub_errors_in_one_line(name_file(url)):
                    raise
            logger.info("%s: %s; again in %g s", name_file(url), type(error).__name__, wait)
            time.sleep(wait)
