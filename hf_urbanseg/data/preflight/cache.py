"""The preflight's memory: what it found, kept as long as no file has changed."""

import hashlib
import json
import logging
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from datasets import DatasetDict

from hf_urbanseg.data.preflight.pair_files import PairInspection
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import written_whole
from hf_urbanseg.labels import LabelSpace

logger = logging.getLogger(__name__)

# Raise it when a check gets stricter or the arrays change: results of an older preflight then count for nothing.
_VERSION = 2


def compute_key(splits: DatasetDict, label_space: LabelSpace) -> str | None:
    """Names, files and label mapping as one hash; None where a file can't be vouched for (remote or missing)."""
    key = hashlib.sha256(f"{_VERSION} {json.dumps(label_space.to_dict())}".encode())
    for split, dataset in splits.items():
        for row in dataset:
            files = [_identify(row["image"]), _identify(row["label"])]
            if None in files:
                return None
            key.update(json.dumps([split, row["name"], *files]).encode())
    return key.hexdigest()


def _identify(stored: Mapping | None) -> list | None:
    if stored is None:
        return None
    if stored["bytes"] is not None:
        return [hashlib.sha256(stored["bytes"]).hexdigest()]
    path = stored["path"] or ""
    try:
        status = os.stat(path.rsplit("::", 1)[-1])  # the archive, for a member of one
    except (OSError, ValueError):
        return None
    return [path, status.st_size, status.st_mtime_ns]


def load_pairs(path: Path) -> dict[str, tuple[PairInspection, ...]] | None:
    """What an earlier preflight found, or None where there is nothing usable."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            pairs = {
                split: tuple(
                    PairInspection(str(row["name"]), tuple(row["size"].tolist()), row["counts"], str(row["digest"]))
                    for row in stored[split]
                )
                for split in stored.files
            }
    except (OSError, ValueError, KeyError, EOFError, TypeError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        logger.info("Preflight cache %s is damaged and ignored (%s).", path, error)
        return None
    logger.info("Preflight: no file has changed since the last one, whose results are taken from %s.", path)
    return pairs


def save_pairs(path: Path, pairs: Mapping[str, tuple[PairInspection, ...]]) -> None:
    """Writes the results whole or not at all; a folder that can't be written costs the cache, not the run."""
    arrays = {}
    for split, found in pairs.items():
        longest = max(len(pair.name) for pair in found)
        row = [("name", f"U{longest}"), ("size", np.int64, 2), ("counts", np.int64, 256), ("digest", "U64")]
        rows = [(pair.name, pair.size, pair.label_counts, pair.image_digest) for pair in found]
        arrays[split] = np.array(rows, row)
    try:
        with written_whole(path) as staged, open(staged, "wb") as file:
            np.savez_compressed(file, **arrays)
    except DataError as error:
        logger.info("Preflight results aren't kept: %s", error)
