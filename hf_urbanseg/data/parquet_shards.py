"""Rows of parquet files: a footer says where each row group is, which is read as a whole."""

import hashlib
import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from hf_urbanseg.data.shard_files import name_file, open_url
from hf_urbanseg.data.shards import Described, Shard, ShardedRows
from hf_urbanseg.errors import DataError

NAMES_KEY = b"hf_urbanseg.names"
"""In a file's footer, the names of its frames as JSON: of row groups of one row, they would be a request each."""
_HELD = 64 << 20
"""Bytes of row groups of several rows that a process holds, because its next frames are probably in them, too."""


@dataclass(frozen=True, eq=False)
class ParquetRows(ShardedRows):
    """Rows of parquet files, on disk or far away."""

    _groups: OrderedDict = field(default_factory=OrderedDict, init=False, repr=False)

    @staticmethod
    def describe(url: str) -> Described:
        with open_url(url) as file:
            metadata, digest = read_footer(file)
            empty, filled = set(), set()
            for group in map(metadata.row_group, range(metadata.num_row_groups)):
                for column in map(group.column, range(group.num_columns)):
                    known = column.statistics is not None and column.statistics.has_null_count
                    nothing = known and column.statistics.null_count == column.num_values
                    # A picture is there if its bytes are: other sets leave out the paths.
                    if not column.path_in_schema.endswith(".path"):
                        (empty if nothing else filled).add(column.path_in_schema.split(".")[0])
            features = Features.from_arrow_schema(metadata.schema.to_arrow_schema())
            return Described(Shard(url, metadata.num_rows, digest), features, empty - filled)

    def _open(self, shard: Shard) -> tuple[pq.ParquetFile, list[int]]:
        """The file, whose footer was read (4 kB a row group), and the first row of each of its row groups."""
        metadata = _check_footer(source := open_url(shard.url), shard)
        file = pq.ParquetFile(source, metadata=metadata, pre_buffer=True, page_checksum_verification=True)
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        return file, [0, *np.cumsum(counts).tolist()[:-1]]

    def _read_cells(self, shard: Shard, opened: tuple[pq.ParquetFile, list[int]], row: int) -> list:
        file, starts = opened
        group = bisect_right(starts, row) - 1
        found = self._groups.get((shard.url, group))
        if found is None:
            found = file.read_row_group(group, [*self.columns], use_threads=False)
            if len(found) > 1:  # other frames are in it
                self._groups[shard.url, group] = found
            while len(self._groups) > 1 and sum(one.nbytes for one in self._groups.values()) > _HELD:
                self._groups.popitem(last=False)
        found = found.slice(row - starts[group], 1)
        return [found.column(name)[0].as_py() for name in self.columns]

    def _list_names(self, shard: Shard) -> Sequence[str]:
        with open_url(shard.url) as file:
            metadata = _check_footer(file, shard)
            written = (metadata.metadata or {}).get(NAMES_KEY)
            opened = pq.ParquetFile(file, metadata=metadata)
            return json.loads(written) if written else opened.read([self.columns[2]])[0].to_pylist()

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"_groups": OrderedDict()}


def build_indexed(index: Mapping, folder: str, split: str, sample: int) -> ParquetRows:
    """The rows of a split as `shards.json` lists them; no file is opened."""
    listed = [one for one in index["shards"][split] if one["rows"]]
    if not listed:
        raise DataError("frames in every split", f"none in {split}", "add some or leave the split out", folder)
    shards = tuple(Shard(f"{folder}/{one['file']}", one["rows"], one["digest"]) for one in listed)
    pixels = np.sum([one["pixels"] for one in listed], 0).tolist()
    return ParquetRows(shards, ("image", "label", "name"), split, sample, {index["mapping"]: pixels})


def read_footer(file) -> tuple[pq.FileMetaData, str]:
    """The footer, and its SHA-256."""

    def read_end(size: int) -> bytes:
        file.seek(max(end - size, 0))
        return file.read(min(size, end))

    end = file.seek(0, os.SEEK_END)
    content = read_end(1 << 16)  # which has that of 100 frames, in one request
    size = int.from_bytes(content[-8:-4], "little") + 8
    content = content[-size:] if size <= len(content) else read_end(size)
    return pq.read_metadata(pa.BufferReader(content)), hashlib.sha256(content[:-8]).hexdigest()


def _check_footer(file, shard: Shard) -> pq.FileMetaData:
    """The footer, which says where everything is, if it is still the one that the set was listed with."""
    metadata, digest = read_footer(file)
    if (metadata.num_rows, digest) != (shard.rows, shard.digest):
        expected, fix = f"the file of {shard.rows} rows that the set lists", "restore it, or write the set anew"
        raise DataError(expected, f"another, of {metadata.num_rows}", fix, name_file(shard.url))
    return metadata
