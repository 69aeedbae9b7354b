"""Rows of WebDataset tars on disk: the headers in front of a tar's files say where each one is."""

import hashlib
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from datasets import Image, Value
from datasets.packaged_modules.webdataset.webdataset import WebDataset, base_plus_ext

from hf_urbanseg.data.shard_files import open_url
from hf_urbanseg.data.shards import Described, Shard, ShardedRows
from hf_urbanseg.errors import DataError
from hf_urbanseg.escaping import is_plain

_KEY = "__key__"
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "unzstd"}
"""Which program undoes what a file of these first bytes is packed with."""


class _Opened(NamedTuple):
    """A tar and its samples: their keys, and by field their files' (first byte, bytes), (-1, -1) of one without."""

    file: BinaryIO
    keys: list[str]
    places: dict[str, np.ndarray]
    digest: str


class TarRows(ShardedRows):
    """Rows of tars on disk, grouped and named as the WebDataset reader of `datasets` does.

    Files that follow each other and are called the same up to the first dot are a sample; what is behind the dot is
    their column. Headers are read, once at the start and whenever a process comes to a tar; of the files, only those
    that are asked for. So links, which have no bytes there, are refused, and compressed tars, which have no places.
    """

    @staticmethod
    def describe(url: str) -> Described:
        with open_url(url) as file:
            _, keys, places, digest = _read_headers(file, url)
        columns = {name: kind for name in places if (kind := _find_kind(name)) is not None}
        pictures = [places[name][:, 0] >= 0 for name, kind in columns.items() if isinstance(kind, Image)]
        if len(pictures) > 1 and sum(pictures).max() == 1:
            fix = "write an image and its label one after the other, as `a.jpg` and `a.png`"
            raise DataError("samples of pictures that are called the same", f"`{keys[0]}` of one picture", fix, url)
        return Described(Shard(url, len(keys), digest), {**columns, _KEY: Value("string")}, set())

    @classmethod
    def describe_files(cls, files: Mapping[str, Sequence[str]]) -> dict[str, list[Described]]:
        """As for all kinds; what no sample of a tar has is a column without values, if another of the set has it."""
        found = super().describe_files(files)
        every = {name: kind for of_split in found.values() for one in of_split for name, kind in one.columns.items()}
        return {
            split: [one._replace(columns=every, empty=every.keys() - one.columns.keys()) for one in of_split]
            for split, of_split in found.items()
        }

    def _open(self, shard: Shard) -> _Opened:
        return _check_headers(open_url(shard.url), shard)

    def _read_cells(self, shard: Shard, opened: _Opened, row: int) -> list:
        cells = []
        for name in self.columns[:2]:
            start, size = opened.places[name][row].tolist()
            opened.file.seek(max(start, 0))
            cells.append(opened.file.read(size) if size >= 0 else None)
        return [*cells, opened.keys[row]]

    def _list_names(self, shard: Shard) -> Sequence[str]:
        with open_url(shard.url) as file:
            return _check_headers(file, shard).keys


def _find_kind(field: str) -> Image | Value | None:
    """As `datasets` infers it of a name; None of what it decodes otherwise, such as JSON."""
    extension = field.rpartition(".")[2].lower()
    if extension in WebDataset.IMAGE_EXTENSIONS:
        return Image()
    return None if extension in WebDataset.DECODERS else Value("binary")


def _check_headers(file: BinaryIO, shard: Shard) -> _Opened:
    opened = _read_headers(file, shard.url)
    if opened.digest != shard.digest:
        fix = "start anew: the file is another than when the run began"
        raise DataError("the headers that were read at the start", "others", fix, shard.url)
    return opened


def _read_headers(file: BinaryIO, url: str) -> _Opened:
    digest, keys, seen, places = hashlib.sha256(), [], set(), {}
    for member in _list_members(file, url):
        digest.update(repr((member.name, member.offset_data, member.size, member.mtime)).encode())
        key, field = base_plus_ext(member.name)
        if key is None or member.isdir() or member.name.rpartition("/")[2].startswith((".", "__")):
            continue
        if not member.isreg() or member.issparse():
            kind = "a sparse file" if member.issparse() else "a link, or no file at all"
            fix = "write the tar anew by `tar --create --dereference --hard-dereference`"
            raise DataError("files with their bytes", f"{kind}: `{member.name}`", fix, url)
        if not is_plain(member.name):
            raise DataError("names in UTF-8 without control characters", f"`{member.name}`", "rename the file", url)
        if not keys or keys[-1] != key:
            if key in seen:
                fix = "sort the tar by name, so that the files of a sample follow each other"
                raise DataError(f"the files of `{key}` one after the other", "others between them", fix, url)
            keys.append(key)
            seen.add(key)
        rows = places.setdefault(field, {})
        if len(keys) - 1 in rows:
            raise DataError("every file in a sample once", f"`{member.name}` again", "keep one", url)
        rows[len(keys) - 1] = member.offset_data, member.size
    filled = {field: np.full((len(keys), 2), -1) for field in places}
    for field, rows in places.items():
        filled[field][list(rows)] = list(rows.values())
    return _Opened(file, keys, filled, digest.hexdigest())


def _list_members(file: BinaryIO, url: str) -> Iterator[tarfile.TarInfo]:
    """All of a tar's headers; nothing behind them is read, and the end is found, which `tarfile` doesn't insist on."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()
                yield member
            file.seek(tar.offset)
            end = file.read(tarfile.BLOCKSIZE + tarfile.RECORDSIZE)
    except tarfile.TarError as error:
        file.seek(0)
        program = _COMPRESSED.get(file.read(2))
        found = "a compressed one" if program else str(error)
        fix = f"undo that by `{program}`: no frame can be read alone" if program else "fetch the file again"
        raise DataError("a tar file", found, fix, url) from error
    if len(end) < tarfile.BLOCKSIZE or any(end):
        found = "something else" if any(end) else "none: the file was cut off"
        fix = "copy the file anew; of several tars that were joined into one, write one or keep them apart"
        raise DataError(f"an empty block as the tar's end at byte {tar.offset}", found, fix, url)
