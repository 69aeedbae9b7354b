"""Folds for cross-validation: whole scenes, each class spread as evenly as they allow."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hf_urbanseg.data.splits import merge_groups
from hf_urbanseg.errors import DataError
from hf_urbanseg.json_yaml import read_mapping, write_yaml


def deal_folds(
    counts: Mapping[str, np.ndarray], scenes: Sequence[Sequence[str]], folds: int, seed: int = 0
) -> list[list[str]]:
    """Names of each fold, sorted; the same on every machine, whatever the order of the names.

    The class that the fewest scenes left have is dealt first, its scenes one by one, largest first, to the fold that
    lacks most of it; among equals to the one that lacks most frames. What is left has no class and evens out the sizes.

    Args:
        counts: By frame, the pixels of every class: (C,) integers.
        scenes: Frames that stay together; all others are a scene each.
        seed: Decides among scenes and folds that are alike.

    Raises:
        DataError: Fewer scenes than folds.

    Source: iterative stratification (Sechidis et al. 2011), with scenes in place of samples.
    """
    units = merge_groups(sorted(counts), scenes)
    if folds > len(units):
        found = f"{len(counts)} frames in {len(units)} scenes"
        raise DataError(f"at least {folds} scenes for {folds} folds", found, "ask for fewer, or give `--scenes none`")
    units.sort(key=lambda unit: hashlib.sha256(f"{seed}/{unit[0]}".encode()).digest())
    has = np.array([np.sum([counts[name] > 0 for name in unit], 0) for unit in units])  # frames with the class
    sizes = np.array([len(unit) for unit in units])
    lacking = np.repeat(has.sum(0)[None] / folds, folds, 0)
    room = np.full(folds, sizes.sum() / folds)
    fold_of, left = np.full(len(units), -1), np.ones(len(units), bool)
    while left.any():
        remaining = (has[left] > 0).sum(0)
        rarest = int(np.where(remaining > 0, remaining, len(units) + 1).argmin()) if remaining.any() else None
        amount = sizes if rarest is None else has[:, rarest]
        for unit in sorted(np.flatnonzero(left & (amount > 0)), key=lambda unit: -amount[unit]):
            empty = np.array([not (fold_of == fold).any() for fold in range(folds)])
            # As many scenes as empty folds: each gets one.
            open_folds = empty if left.sum() <= empty.sum() else np.ones(folds, bool)
            wanted = room if rarest is None else lacking[:, rarest]
            fold = max(np.flatnonzero(open_folds), key=lambda fold: (wanted[fold], room[fold], -fold))
            fold_of[unit], left[unit] = fold, False
            lacking[fold] -= has[unit]
            room[fold] -= sizes[unit]
    return [sorted(name for unit in np.flatnonzero(fold_of == fold) for name in units[unit]) for fold in range(folds)]


def find_lacking(
    counts: Mapping[str, np.ndarray], folds: Sequence[Sequence[str]], classes: Sequence[str]
) -> dict[str, list[int]]:
    """By class, the folds that have no pixel of it, of classes that some frame has."""
    has = np.array([np.sum([counts[name] for name in fold], 0) > 0 for fold in folds])
    return {
        name: [int(fold) for fold in np.flatnonzero(~has[:, train_id])]
        for train_id, name in enumerate(classes)
        if has[:, train_id].any() and not has[:, train_id].all()
    }


def write_folds(
    path: str | Path, folds: Sequence[Sequence[str]], scenes: Sequence[Sequence[str]], test: Sequence[str]
) -> None:
    """Writes what `--split_file` with `--fold` reads."""
    write_yaml(path, {"folds": [*map(list, folds)], "scenes": [*map(list, scenes)], "test": list(test)})


def read_folds(path: str | Path) -> tuple[list[list[str]], list[list[str]]]:
    """Folds and scenes of a file that `load_data` has accepted as `split_file`."""
    listed = read_mapping(path, "split", words=True)
    return listed["folds"], listed.get("scenes") or []
