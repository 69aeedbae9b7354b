"""Rows of parquet files: a footer says where each row group is, which is read as a whole."""

import hashlib
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from hf_urbanseg.data.shard_files import open_url
from hf_urbanseg.data.shards import Described, Shard, ShardedRows

NAMES_KEY = b"hf_urbanseg.names"
"""In a file's footer, the names of its frames as JSON: of row groups of one row, they would be a request each."""
_HELD = 64 << 20
"""Bytes of row groups of several rows that a process holds, because its next frames are probably in them, too."""


class _Opened(NamedTuple):
    """A file whose footer was read (4 kB a row group), the first row of each of its row groups, and its rows."""

    file: pq.ParquetFile
    starts: list[int]
    rows: int


@dataclass(frozen=True, eq=False)
class ParquetRows(ShardedRows):
    """Rows of parquet files, on disk or far away."""

    _groups: OrderedDict = field(default_factory=OrderedDict, init=False, repr=False)

    @staticmethod
    def describe(url: str) -> Described:
        with open_url(url) as file:
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
            features = Features.from_arrow_schema(opened.schema_arrow)
            return Described(Shard(url, metadata.num_rows, digest), features, empty - filled)

    def _open(self, shard: Shard) -> _Opened:
        file = pq.ParquetFile(open_url(shard.url), pre_buffer=True, page_checksum_verification=True)
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        return _Opened(file, [0, *np.cumsum(counts).tolist()[:-1]], sum(counts))

    def _read_cells(self, shard: Shard, opened: _Opened, row: int) -> list:
        group = bisect_right(opened.starts, row) - 1
        found = self._groups.get((shard.url, group))
        if found is None:
            found = opened.file.read_row_group(group, [*self.columns], use_threads=False)
            self._hold((shard.url, group), found)
        found = found.slice(row - opened.starts[group], 1)
        return [found.column(name)[0].as_py() for name in self.columns]

    def _hold(self, key: tuple[str, int], found: pa.Table) -> None:
        if len(found) == 1:
            return  # no other frame is in it
        self._groups[key] = found
        while len(self._groups) > 1 and sum(one.nbytes for one in self._groups.values()) > _HELD:
            self._groups.popitem(last=False)

    def _list_names(self, url: str) -> Sequence[str]:
        with open_url(url) as file:
            opened = pq.ParquetFile(file)
            written = (opened.metadata.metadata or {}).get(NAMES_KEY)
            return json.loads(written) if written else opened.read([self.columns[2]])[0].to_pylist()

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_groups": OrderedDict()}


def build_indexed(index: Mapping, folder: str, split: str, sample: int) -> ParquetRows:
    """The rows of a split as `shards.json` lists them; no file is opened."""
    listed = index["shards"][split]
    shards = tuple(Shard(f"{folder}/{one['file']}", one["rows"], one["digest"]) for one in listed)
    pixels = np.sum([one["pixels"] for one in listed], 0).tolist()
    counted = dict(zip(index["classes"], pixels, strict=True))
    return ParquetRows(shards, ("image", "label", "name"), split, sample, counted)


def describe_footer(path: Path) -> tuple[pq.FileMetaData, str]:
    """Of a local file: the footer, and its SHA-256."""
    with path.open("rb") as file:
        metadata = pq.ParquetFile(file).metadata
        return metadata, _digest_footer(file, metadata)


def _digest_footer(file, metadata: pq.FileMetaData) -> str:
    file.seek(-(metadata.serialized_size + 8), os.SEEK_END)
    return hashlib.sha256(file.read(metadata.serialized_size)).hexdigest()
