"""The preflight's memory: what it found, kept as long as no file has changed."""

import gzip
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import Dataset

from hf_urbanseg.data.archive import cache_folder
from hf_urbanseg.data.preflight.pair_files import PairInspection
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import read_bytes, written_whole
from hf_urbanseg.json_yaml import MOST_JSON
from hf_urbanseg.labels import LabelSpace

logger = logging.getLogger(__name__)

# Raise it when a check gets stricter or the arrays change: results of an older preflight then count for nothing.
_VERSION = 4


def find_place(splits: Mapping[str, Dataset], label_space: LabelSpace | None, channels: int = 3) -> Path | None:
    """The file of these names, files and label mapping; None where a file can't be vouched for (remote or missing)."""
    space, mapping = label_space, ""  # of images without labels
    if space is not None:
        how = space.encoding, space.edge_tolerance, space.lossy, space.colors
        mapping = json.dumps([space.names, sorted(space.label_ids.items()), *how])
    key = hashlib.sha256(f"{_VERSION} {channels} {mapping}".encode())
    try:
        for split, dataset in splits.items():
            for row in dataset:
                files = (row[role] for role in ("image", "label") if role in row)
                key.update(json.dumps([split, row["name"], *map(identify_file, files)]).encode())
        return cache_folder() / "preflight" / f"{key.hexdigest()}.json.gz"
    except (OSError, ValueError, DataError):  # the last of them without a home
        return None


def identify_file(stored: Mapping | None) -> list:
    """What changes when a stored picture does: its bytes' digest, or its file's path, size and time."""
    if stored and stored["bytes"] is not None:
        return [hashlib.sha256(stored["bytes"]).hexdigest()]
    path = (stored and stored["path"]) or ""
    status = os.stat(path.rsplit("::", 1)[-1])  # the archive, for a member of one
    return [path, status.st_size, status.st_mtime_ns]


def load_pairs(path: Path) -> dict[str, tuple[PairInspection, ...]] | None:
    """What an earlier preflight found, or None where there is nothing usable."""
    try:
        stored = json.loads(gzip.decompress(read_bytes(path, MOST_JSON)))  # the checksum tells what was damaged
        pairs = {split: tuple(_read_pair(*row) for row in rows) for split, rows in stored.items()}
    except FileNotFoundError:
        return None
    except Exception as error:  # unreadable or of any other content: it costs the cache, not the run
        logger.info("Preflight cache %s is damaged and ignored (%s).", path, error)
        return None
    logger.info("Preflight: no file has changed since the last one, whose results are taken from %s.", path)
    return pairs


def _read_pair(
    name: str, size: Sequence[int], counts: Mapping[str, int], digest: str, files: Sequence[str], note: str
) -> PairInspection:
    height, width = size
    counts = {int(value): int(count) for value, count in counts.items()}
    return PairInspection(name, (height, width), counts, digest, tuple(files), note)


def save_pairs(path: Path, pairs: Mapping[str, Sequence[PairInspection]]) -> None:
    """Writes the results whole or not at all; a folder that can't be written costs the cache, not the run."""
    content = {split: [[*vars(pair).values()] for pair in found] for split, found in pairs.items()}
    try:
        with written_whole(path) as staged:
            staged.write_bytes(gzip.compress(json.dumps(content).encode()))
    except DataError as error:
        logger.info("Preflight results aren't kept: %s", error)
