"""Which frame is in which split: cuts that stay put when frames are added, and files that list them."""

import difflib
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_urbanseg.data.image_files import UNSPLIT
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import expand_home
from hf_urbanseg.json_yaml import read_mapping, write_yaml

SPLITS = ("train", "validation", "test")
SPLITS_FILE = "splits.yaml"
"""Beside a prepared set, and in a run's folder."""


def _cut_names(
    names: Sequence[str], fraction: float, seed: int, groups: Iterable[Sequence[str]], source: str
) -> set[str]:
    """The names that leave for another split: the nearest to `fraction` of them, at least one.

    Names are ranked by the SHA-256 of `<seed>/<name>` and the first ones leave. So the cut is the same on every
    machine and version, and adding a frame moves at most one other across it. Names of a group go together; the group
    counts by its first name, and is passed over if it would overshoot.
    """
    units = sorted(merge_groups(names, groups), key=lambda unit: hashlib.sha256(f"{seed}/{unit[0]}".encode()).digest())
    if len(units) < 2:
        found = f"{len(names)} frames in {len(units)} scene"
        fix = "add data, list the splits in `--split_file`, or set the fraction to 0"
        raise DataError("at least two frames or scenes to split", found, fix, source)
    # Not round(): it takes 2.5 frames to 2 but 3.5 to 4.
    missing = max(math.floor(fraction * len(names) + 0.5), 1)
    taken, left = [], []
    for unit in units:
        if len(unit) <= missing and len(taken) < len(units) - 1:
            taken.append(unit)
            missing -= len(unit)
        else:
            left.append(unit)
    nearest = min(left, key=lambda unit: abs(missing - len(unit)))
    if not taken or (len(left) > 1 and abs(missing - len(nearest)) < missing):
        taken.append(nearest)
    return {name for unit in taken for name in unit}


def merge_groups(names: Sequence[str], groups: Iterable[Sequence[str]]) -> list[list[str]]:
    """Sorted lists of names that go together, ungrouped names alone; groups that share a name become one."""
    unit_of = {name: {name} for name in names}
    for group in groups:
        merged = set().union(*(unit_of[name] for name in group if name in unit_of))
        unit_of.update(dict.fromkeys(merged, merged))
    return [sorted(unit) for unit in {id(unit): unit for unit in unit_of.values()}.values()]


def arrange_splits(
    found: Mapping[str, Dataset],
    split_file: str | None,
    keep_together: Sequence[str] | None,
    find_scenes: Callable[[Dataset], tuple[Iterable[Sequence[str]], str | None]],
    test_fraction: float,
    validation_fraction: float,
    seed: int,
    source: str,
    fold: int | None = None,
) -> tuple[DatasetDict, list[str]]:
    """Train, validation and test, each sorted by name, and a sentence on each cut.

    A split file comes first, then the data's own splits, then the cuts. Validation is always cut from train.

    Args:
        found: The data's own splits, or everything under `all`.
        find_scenes: Names that belong together in what is about to be cut, and a sentence on it.
        source: The data, named in errors.
        fold: Of a split file that lists `folds`, the one that is held out.
    """
    for split, rows in found.items():
        if not len(rows):
            raise DataError("frames in every split", f"none in {split}", "add some or leave the split out", source)
    every_name = [name for rows in found.values() for name in rows["name"]]
    together = parse_groups(keep_together, every_name, source)
    splits, notes = dict(found), []
    if fold is not None and split_file is None:
        raise DataError("a `split_file` of folds with `fold`", "none", "name it, or leave `--fold` out", source)
    if split_file is not None:
        pool = concatenate_datasets(list(found.values()))
        listed = _read_split_file(split_file, every_name, fold)
        splits = {split: _select(pool, names) for split, names in listed.items()}
        notes.append(f"splits: as listed in {Path(split_file).name}")
        if unlisted := len(every_name) - sum(map(len, listed.values())):
            notes.append(f"split file: {unlisted} of {len(every_name)} frames are not listed and not used")
    elif UNSPLIT in found:
        splits = {"train": found[UNSPLIT]}
    cuts_test = split_file is None and UNSPLIT in found and test_fraction > 0
    cuts_validation = "validation" not in splits and "train" in splits and validation_fraction > 0
    groups = together
    if cuts_test or cuts_validation:
        scenes, note = find_scenes(splits["train"])
        groups, notes = [*scenes, *together], [*notes, *([note] if note else [])]
    if cuts_test:
        names = _cut_names(every_name, test_fraction, seed, groups, source)
        splits = {"train": _select(found[UNSPLIT], {*every_name} - names), "test": _select(found[UNSPLIT], names)}
        notes.append(f"test: {len(names)} of {len(every_name)} frames, seed {seed}")
    if cuts_validation:
        train = splits["train"]["name"]
        names = _cut_names(train, validation_fraction, seed, groups, source)
        notes.append(f"validation: {len(names)} of {len(train)} training frames, seed {seed}")
        rows = splits["train"]
        splits |= {"train": _select(rows, {*train} - names), "validation": _select(rows, names)}
    notes += [f"{split}: none" for split in SPLITS if split not in splits]
    _check_groups(together, splits, source)
    named = {split: _select(splits[split], splits[split]["name"]) for split in SPLITS if split in splits}
    return DatasetDict(named), notes


def _read_split_file(path: str | Path, known_names: Sequence[str], fold: int | None) -> dict[str, list[str]]:
    """Names by split from YAML lists `train`, `validation` (optional) and `test` (optional), or from `folds`."""
    path = expand_home(path)
    listed = read_mapping(path, "split", words=True)
    if "folds" in listed:
        listed = choose_fold(listed, fold, path)
    elif fold is not None:
        raise DataError("a list `folds` with `fold`", f"{', '.join(listed) or 'nothing'}", "leave `--fold` out", path)
    known, split_of = set(known_names), {}
    if len(known) < len(known_names):
        twice = next(name for name in sorted(known) if list(known_names).count(name) > 1)
        raise DataError("frame names that are unique in the whole data set", f"{twice} twice", "rename files", path)
    if unknown := sorted(set(listed) - set(SPLITS)):
        raise DataError(f"splits {', '.join(SPLITS)}", f"`{unknown[0]}`", "rename or remove it", path)
    if "train" not in listed:
        raise DataError("a list `train`", f"{', '.join(listed) or 'nothing'}", "add it", path)
    for split, names in listed.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError(f"a list of frame names under `{split}`", f"{names!r:.60}", "list at least one", path)
        for name in names:
            if name not in known:
                raise DataError("names of frames in the data", f"`{name}` in {split}", _guess(name, known), path)
            if name in split_of:
                where = f"both {split_of[name]} and {split}" if split_of[name] != split else f"{split} twice"
                raise DataError("each frame in one split", f"`{name}` in {where}", "remove one", path)
            split_of[name] = split
    return listed


def choose_fold(listed: Mapping, fold: int | None, path: Path) -> dict[str, list[str]]:
    """The splits of a file of `folds`: one is test and the others train; without `fold` all train, and the file's own
    `test`, which is in no fold, is the test."""
    folds, test = listed["folds"], listed.get("test") or []
    unknown = sorted(set(listed) - {"folds", "scenes", "test"})
    if unknown or not isinstance(folds, list) or not all(isinstance(names, list) and names for names in folds):
        found = f"`{unknown[0]}`" if unknown else f"{folds!r:.60}"
        expected = "`folds`, a list of lists of frame names, beside `scenes` and `test`"
        raise DataError(expected, found, "correct it", path)
    if fold is None:
        return {"train": [name for names in folds for name in names], **({"test": test} if test else {})}
    if fold >= len(folds):
        raise DataError(f"a `fold` of 0..{len(folds) - 1}", f"{fold}", "choose one of them", path)
    train = [name for number, names in enumerate(folds) if number != fold for name in names]
    return {"train": train, "test": folds[fold]}


def write_split_file(path: str | Path, splits: Mapping[str, Dataset | Sequence[str]]) -> None:
    """Writes the names of each split as `--split_file` takes them; `splits` are rows, or the names themselves."""
    named = {split: rows["name"] if isinstance(rows, Dataset) else rows for split, rows in splits.items()}
    write_yaml(path, {split: list(names) for split, names in named.items()})


def _select(rows: Dataset, names: Iterable[str]) -> Dataset:
    """The rows of these names, sorted by name."""
    wanted, have = set(names), list(rows["name"])
    order = sorted((name, index) for index, name in enumerate(have) if name in wanted)
    indices = [index for _, index in order]
    return rows if indices == list(range(len(rows))) else rows.select(indices)


def parse_groups(keep_together: Sequence[str] | None, names: Sequence[str], source: str) -> list[list[str]]:
    """Lists of frame names from `keep_together`'s words; DataError for a name that isn't in the data."""
    groups = [[name.strip() for name in words.split(",") if name.strip()] for words in keep_together or ()]
    if unknown := sorted({name for group in groups for name in group} - set(names)):
        raise DataError("names of frames in `keep_together`", f"`{unknown[0]}`", _guess(unknown[0], names), source)
    return groups


def _guess(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean `{near[0]}`" if near else "correct or remove it"


def _check_groups(together: Sequence[Sequence[str]], splits: Mapping[str, Dataset], source: str) -> None:
    # A cut obeys the groups; a split file or the data's own splits may not.
    split_of = {name: split for split, rows in splits.items() for name in rows["name"]}
    for group in together:
        where = {split_of[name]: name for name in group if name in split_of}
        if len(where) > 1:
            (split, name), (other, second), *_ = where.items()
            found, fix = f"{name} in {split} but {second} in {other}", "move them in the split file or drop the group"
            raise DataError("the frames of each `keep_together` group in one split", found, fix, source)
