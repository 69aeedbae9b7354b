"""The preflight: every pair is read and judged before the first training step."""

import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from datasets import Dataset, DatasetDict, Image

from hf_urbanseg.data.archive import cache_folder
from hf_urbanseg.data.preflight.cache import compute_key, load_pairs, save_pairs
from hf_urbanseg.data.preflight.pair_files import PairInspection, inspect_pair, strict_pillow, where_is
from hf_urbanseg.errors import DataError, join_faults, log_faults
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.progress import show_progress

logger = logging.getLogger(__name__)

_THREADS = min(2 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1), 32)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the preflight found in a sound data set.

    Args:
        pairs: Per split, one entry per row in the rows' order.
        warnings: Oddities that don't forbid training, one sentence each.
    """

    pairs: dict[str, tuple[PairInspection, ...]]
    warnings: tuple[str, ...] = ()

    def train_id_counts(self, split: str, label_space: LabelSpace) -> np.ndarray:
        """(num_images, num_labels) int64: pixels per image and class; void is left out."""
        return self._label_counts(split) @ _membership(label_space)

    def void_share(self, split: str, label_space: LabelSpace) -> float:
        """Share of the split's pixels, 0..1, that are in no class."""
        all_pixels = self._label_counts(split).sum()
        return float(1 - self.train_id_counts(split, label_space).sum() / all_pixels)

    def sizes(self, split: str) -> Counter:
        """How many pairs have each (height, width)."""
        return Counter(pair.size for pair in self.pairs[split])

    def _label_counts(self, split: str) -> np.ndarray:
        return np.stack([pair.label_counts for pair in self.pairs[split]])


def inspect_pairs(splits: DatasetDict, label_space: LabelSpace, progress: bool = True) -> Inspection:
    """Reads every image and label, and refuses what would train silently on the wrong thing.

    Threads do the reading: Pillow's decoders release the GIL, and worker processes were no faster. Memory stays flat,
    as a few pairs per thread are in flight and only counts and digests are kept. Those of a clean set stay in
    `preflight` of `cache_folder()`, until a path, size, time, byte or the mapping changes.

    Args:
        splits: Columns `image` and `label` (`datasets.Image`, path-based or embedded) and `name`.
        label_space: Which raw label ids may occur.
        progress: Shows a progress bar.

    Returns:
        `Inspection`; its warnings have been logged.

    Raises:
        DataError: The first bad pair in the order of splits and rows, with the number of others, which have been
            logged; or a fault of the whole set: an empty or entirely void split, a name twice, an
            image in two splits, train ids for label ids.
    """
    splits = DatasetDict({split: _undecoded(dataset) for split, dataset in splits.items()})
    _check_names(splits)
    key = compute_key(splits, label_space)
    try:
        file = key and cache_folder() / "preflight" / f"{key}.json.gz"
    except DataError:  # no home
        file = None
    cached = load_pairs(file) if file else None
    pairs = cached or _read_all(splits, label_space, progress)
    inspection = Inspection(pairs)
    _check_void(inspection, label_space)
    _check_leaks(pairs)
    inspection = Inspection(pairs, tuple(_find_oddities(inspection, label_space)))
    for warning in inspection.warnings:
        logger.warning(warning)
    if file and not cached:
        save_pairs(file, pairs)
    return inspection


def _undecoded(dataset: Dataset) -> Dataset:
    # Decoding by datasets would apply EXIF rotation unasked, and hide what the file is.
    columns = dataset.with_format(None).select_columns(["image", "label", "name"])
    return columns.cast_column("image", Image(decode=False)).cast_column("label", Image(decode=False))


def _membership(label_space: LabelSpace) -> np.ndarray:
    """(256, num_labels) int64: 1 where a raw label id belongs to a class."""
    return (label_space.train_id_table[:, None] == np.arange(label_space.num_labels)).astype(np.int64)


def _check_names(splits: DatasetDict) -> None:
    if not splits:
        raise DataError("at least one split", "none", "check `--data_dir` or `--dataset`")
    for split, dataset in splits.items():
        if not len(dataset):
            raise DataError("at least one pair in every split", f"none in `{split}`", "fill it or leave it out", split)
        twice = [(name, times) for name, times in Counter(dataset["name"]).most_common() if times > 1]
        expected = "every frame name once in a split"
        errors = [
            DataError(expected, f"{n} pairs called `{name}`", "rename them", f"{split}/{name}") for name, n in twice
        ]
        _refuse_all(errors, "name")


def _read_all(splits: DatasetDict, label_space: LabelSpace, progress: bool) -> dict[str, tuple[PairInspection, ...]]:
    def inspect(split: str, row: dict) -> tuple[str, PairInspection | DataError]:
        try:
            return split, inspect_pair(split, row["name"], row["image"], row["label"])
        except DataError as error:
            return split, error

    results: dict[str, list] = {split: [] for split in splits}
    with (
        strict_pillow(),
        ThreadPoolExecutor(_THREADS) as pool,
        show_progress(sum(map(len, splits.values())), "checking", "pair", hidden=not progress) as bar,
    ):
        # Few at a time: executor.map would read every embedded image ahead.
        jobs = (pool.submit(inspect, split, row) for split, rows in splits.items() for row in rows)
        pending = deque(islice(jobs, 2 * _THREADS))
        while pending:
            split, result = pending.popleft().result()
            results[split].append(result)
            pending.extend(islice(jobs, 1))
            bar.update()
    _check_pairs(results, splits, label_space)
    return {split: tuple(found) for split, found in results.items()}


def _check_pairs(results: dict[str, list], splits: DatasetDict, label_space: LabelSpace) -> None:
    """Refuses the first bad pair; the results are `PairInspection`s, or the `DataError`s that refuse a pair."""
    sound = [one for found in results.values() for one in found if isinstance(one, PairInspection)]
    files_with = sum((one.label_counts > 0).astype(int) for one in sound)
    if len(sound) == sum(map(len, results.values())):
        _check_id_kind(files_with > 0, label_space)
    errors = []
    for split, found in results.items():
        for row, one in enumerate(found):
            if isinstance(one, DataError):
                errors.append(one)
            elif (unknown := (one.label_counts > 0) & ~label_space.known_ids).any():
                value = int(unknown.argmax())
                error = DataError(
                    f"only label values of `{label_space.name}` ({_ranges(label_space.known_ids)})",
                    f"{value} in {one.label_counts[value]} pixels; {files_with[value]} file(s) have this value",
                    "correct the label, list the value under its class or `void` in the `--label_space` file, or "
                    "choose the label space these files were made for",
                    where_is(splits[split][row]["label"], split, one.name),
                )
                errors.append(error)
    _refuse_all(errors, "bad pair")


def _refuse_all(errors: list[DataError], kind: str) -> None:
    if errors:
        log_faults(errors[1:])
        raise join_faults(errors, kind)


def _check_id_kind(seen: np.ndarray, label_space: LabelSpace) -> None:
    """Refuses files of train ids where label ids are expected: most classes would be read as others or as void.

    The sign: the mapping has ids above the number of classes, no pixel has such an id, and several smaller values
    occur, of which one at least is no class in the mapping. Values of neither kind are left to the next check.
    """
    is_class = _membership(label_space).any(1)
    count = label_space.num_labels
    small, large = seen[:count], seen[count:]
    if (
        not is_class[count:].any()
        or (large & is_class[count:]).any()
        or small.sum() < 2
        or not (small & ~is_class[:count]).any()
        or (seen & ~label_space.known_ids)[count:IGNORE_INDEX].any()
    ):
        return
    own = f"`--label_space {label_space.name}_train_ids`"
    raise DataError(
        f"label ids of `{label_space.name}` ({_ranges(is_class)})",
        f"no class above {count - 1} in any label ({_ranges(seen)}), which looks like train ids",
        f"use {own if label_space.name == 'cityscapes' else 'a label space'} that lists 0..{count - 1}, or, if they "
        "really are label ids, one that has only the classes which occur",
    )


def _ranges(ids: np.ndarray) -> str:
    """`0..3, 7` for a boolean array that is True at 0, 1, 2, 3 and 7."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ids, [False]]).astype(np.int8)))
    pairs = zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True)
    return ", ".join(f"{first}..{last}" if last > first else f"{first}" for first, last in pairs)


def _check_void(inspection: Inspection, label_space: LabelSpace) -> None:
    for split in inspection.pairs:
        if not inspection.train_id_counts(split, label_space).any():
            seen = np.sum([pair.label_counts for pair in inspection.pairs[split]], 0) > 0
            found = f"only void in `{split}` (values {_ranges(seen)})"
            fix = "check `--label_space`, or leave the split out if it has no labels"
            raise DataError(f"labelled pixels in every split, of `{label_space.name}`", found, fix, split)


def _check_leaks(pairs: Mapping[str, tuple[PairInspection, ...]]) -> None:
    first_at: dict[str, tuple[str, str]] = {}
    errors, fix = [], "remove one of them: results on images seen in training prove nothing"
    for split, found in pairs.items():
        for pair in found:
            other_split, other_name = first_at.setdefault(pair.image_digest, (split, pair.name))
            if other_split != split:
                found_at = f"the same pixels as {other_split}/{other_name}"
                errors.append(DataError("every image in one split", found_at, fix, f"{split}/{pair.name}"))
    _refuse_all(errors, "image")


def _find_oddities(inspection: Inspection, label_space: LabelSpace) -> Iterable[str]:
    for split, pairs in inspection.pairs.items():
        same = defaultdict(list)
        for pair in pairs:
            same[pair.image_digest].append(pair.name)
        if groups := [_first_few(names, 2, " = ") for names in same.values() if len(names) > 1]:
            yield f"{split}: the same image more than once: {_first_few(groups)}."
        counts = inspection.train_id_counts(split, label_space)
        if void := [pair.name for pair, count in zip(pairs, counts, strict=True) if not count.any()]:
            yield f"{split}: images without any labelled pixel: {_first_few(void)}."
        if split == "train" and (absent := [n for n, c in zip(label_space.names, counts.sum(0), strict=True) if not c]):
            yield f"train: no pixel of {', '.join(absent)}; the model can't learn them."


def _first_few(words: list[str], limit: int = 5, between: str = ", ") -> str:
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return between.join(words[:limit]) + more
