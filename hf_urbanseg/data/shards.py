"""Rows that stay where they are: files, on disk or far away, of which a frame is read when it is asked for."""

import logging
import os
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from datasets import Image

from hf_urbanseg.data.columns import choose_columns, list_name_columns
from hf_urbanseg.data.pictures import readable
from hf_urbanseg.data.shard_files import name_file, try_again
from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.escaping import is_plain

logger = logging.getLogger(__name__)

_THREADS = 16
_MOST_OPEN = 256
"""Files: systems allow a process 1,024."""
_DECODER = Image()


class Shard(NamedTuple):
    """One file: where it is, how many rows it has, and the SHA-256 of what it says of itself."""

    url: str
    rows: int
    digest: str


class Described(NamedTuple):
    """What is known of a file at the start: its columns as `datasets` calls them, and those that hold nothing."""

    shard: Shard
    columns: Mapping
    empty: set[str]


@dataclass(frozen=True, eq=False)
class ShardedRows(ABC):
    """A split's rows in the order of its files, read one by one; what is used of `datasets.Dataset` is as there.

    Any process may read any row: nothing is downloaded, nothing is held but where the rows of a few files are. What
    can't be read is tried again, by a fresh connection, and is one line then.

    Args:
        shards: Those with rows.
        columns: Of the image, the label and, if there is one, the name.
        split: For names of frames without one.
        sample: Frames that a preflight reads.
        pixels: Of all rows, by class, under the `LabelSpace.mapping_digest` they were counted by; empty: not known.
        buffer: Rows that follow each other and are asked for in any order: it is held where those of their files are.
        decode: Pictures as such, else as files' bytes.
        indices: Of a selection; None has all.
    """

    shards: tuple[Shard, ...]
    columns: tuple[str, ...]
    split: str
    sample: int
    pixels: Mapping[str, Sequence[int]] = field(default_factory=dict)
    buffer: int = 0
    decode: bool = True
    indices: np.ndarray | None = None
    _opened: OrderedDict = field(default_factory=OrderedDict, init=False, repr=False)

    column_names = ("image", "label", "name")

    @staticmethod
    @abstractmethod
    def describe(url: str) -> Described:
        """Reads what a file says of itself, none of its pictures."""

    @classmethod
    def describe_files(cls, files: Mapping[str, Sequence[str]]) -> dict[str, list[Described]]:
        """Of every split, its files that have rows."""
        found = {}
        for split, urls in files.items():
            with ThreadPoolExecutor(_THREADS) as pool:
                every = list(pool.map(lambda url: try_again(lambda: cls.describe(url), url), urls))
            found[split] = [one for one in every if one.shard.rows]
            if empty := [one.shard.url for one in every if not one.shard.rows]:
                where = name_file(empty[0])
                logger.warning("%s: %d of %d files have no rows: %s", split, len(empty), len(urls), where)
        return found

    @abstractmethod
    def _open(self, shard: Shard):
        """An open file, for `_read_cells`; refused if it isn't the one that was described."""

    @abstractmethod
    def _read_cells(self, shard: Shard, opened, row: int) -> list:
        """A row's image and label as `datasets` stores them, and its name if there is a column of names."""

    @abstractmethod
    def _list_names(self, shard: Shard) -> Sequence[str]:
        """The names of a file's rows; refused as by `_open`."""

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
        return {"image": pictures[0], "label": pictures[1], "name": self._name(index, *row[2:])}

    def list_files(self) -> dict[str, list[str]]:
        """By file, what it is known by: twice, as frames have a digest of their image and of their label."""
        folder = os.path.commonpath([os.path.dirname(shard.url) for shard in self.shards])
        return {os.path.relpath(shard.url, folder): [shard.digest] * 2 for shard in self.shards}

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

    def _name(self, index: int, name: str | int | None = None) -> str:
        return str(name) if name not in (None, "") and is_plain(str(name)) else f"{self.split}_{index:06d}"

    def _read_names(self) -> list[str]:
        indices = np.arange(self._ends[-1]) if self.indices is None else self.indices
        if len(self.columns) < 3:
            return [*map(self._name, indices)]
        numbers = np.searchsorted(self._ends, indices, side="right")
        needed = np.unique(numbers).tolist()
        shards = [self.shards[number] for number in needed]
        with ThreadPoolExecutor(_THREADS) as pool:
            names = pool.map(lambda shard: try_again(lambda: self._list_names(shard), shard.url), shards)
            found = dict(zip(needed, names, strict=True))
        places = indices - self._ends[numbers] + [self.shards[number].rows for number in numbers]
        rows = zip(indices, numbers.tolist(), places.tolist(), strict=True)
        return [self._name(index, found[number][place]) for index, number, place in rows]

    def _get_picture(self, value, role: str, where: str):
        stored = value if isinstance(value, dict) else {"bytes": value, "path": None}
        if not self.decode:  # of the preflight, which has words of its own for nothing
            return {"bytes": stored["bytes"], "path": None}
        if not stored["bytes"]:
            found = "a path alone" if stored.get("path") else "none"
            fix = "leave the row out, or write the bytes of its file"
            raise DataError(f"the bytes of each picture, and so a {role} here", found, fix, where)
        with readable(f"{role} file", where):
            picture = _DECODER.decode_example({"bytes": stored["bytes"], "path": None})
            picture.load()
        return picture

    def _read(self, shard: Shard, row: int) -> list:
        if self._process != os.getpid():
            self._forget()

        def read() -> list:
            try:
                return self._read_cells(shard, self._get_opened(shard), row)
            except Exception:
                self._opened.pop(shard.url, None)
                raise

        with self._lock:
            return try_again(read, shard.url)

    def _get_opened(self, shard: Shard):
        if shard.url not in self._opened:
            self._opened[shard.url] = shard.rows, self._open(shard)
            rows = [count for count, _ in self._opened.values()]
            while len(rows) > _MOST_OPEN or (len(rows) > 2 and sum(rows[1:-1]) >= self.buffer):
                del rows[0]
                self._opened.popitem(last=False)
        self._opened.move_to_end(shard.url)
        return self._opened[shard.url][1]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_opened": OrderedDict(), "_lock": None, "_process": None}


class NamesOnDemand(Sequence[str]):
    """The names of rows, each read when it is asked for, of bad frames, too."""

    def __init__(self, rows: ShardedRows):
        self.rows = rows.cast_column("image", Image(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> str:
        return self.rows[index]["name"]


def refuse_streamed(splits: Mapping) -> None:
    """For what reads every frame."""
    if any(isinstance(rows, ShardedRows) for rows in splits.values()):
        fix = "leave `--streaming` out, which downloads the set"
        raise ConfigError("a local set here, all of whose frames are read first", "one that is streamed", fix)


def read_shards(
    kind: type[ShardedRows],
    files: Mapping[str, Sequence[str]],
    image_column: str | None,
    label_column: str | None,
    source: str,
    sample: int,
) -> dict[str, ShardedRows]:
    """The rows of each split's files, which are described now; without splits that have no labels.

    Raises:
        DataError: No rows, files of different columns, or one without images or labels.
    """
    splits = {}
    for split, found in kind.describe_files(files).items():
        if not found:
            raise DataError("frames in every split", f"none in {split}", "add some or leave the split out", source)
        features = found[0].columns
        columns = choose_columns(features, image_column, label_column, source)
        columns += tuple(list_name_columns(features))[:1]
        if not all(columns[1] in one.empty for one in found):
            _check_alike(found, columns)
            splits[split] = kind(tuple(one.shard for one in found), columns, split, sample)
    return splits


def _check_alike(found: Sequence[Described], columns: Sequence[str]) -> None:
    features = found[0].columns
    for shard, kinds, empty in found:
        for name in columns:
            if kinds.get(name) != features[name]:
                expected = f"`{name}` {_spell(features[name])} in every file, as in {name_file(found[0].shard.url)}"
                fix = "write the files with the same columns"
                raise DataError(expected, _spell(kinds.get(name)), fix, name_file(shard.url))
        for role, name in zip(("an image", "a label"), columns, strict=False):
            if name in empty:
                fix = f"leave the file out, or give it {role.split()[1]}s"
                raise DataError(f"{role} in every row", f"no `{name}` in the whole file", fix, name_file(shard.url))


def _spell(feature) -> str:
    return "missing" if feature is None else " ".join(repr(feature).split())
