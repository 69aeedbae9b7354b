"""The preflight: every pair is read and judged before the first training step."""

import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
from datasets import Dataset, Image

from hf_urbanseg.data.image_files import undecode
from hf_urbanseg.data.preflight.cache import find_place, load_pairs, save_pairs
from hf_urbanseg.data.preflight.pair_files import PairInspection, inspect_pair, strict_pillow, where_is
from hf_urbanseg.data.preflight.set_values import (
    check_id_kind,
    count_all,
    find_odd_values,
    find_unknown,
    first_few,
    list_values,
    refuse_values,
)
from hf_urbanseg.data.shards import ShardedRows, refuse_streamed
from hf_urbanseg.errors import DataError, log_faults, refuse_all
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.limits import is_of_system
from hf_urbanseg.progress import show_progress

logger = logging.getLogger(__name__)

_THREADS = min(2 * (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1), 32)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the preflight found in a sound data set.

    Args:
        pairs: Per split, one entry per row in the rows' order.
            Of rows that are streamed, those of `ShardedRows.choose_sample`.
        warnings: Oddities that don't forbid training, one sentence each.
        streamed: The splits whose rows are.
    """

    pairs: dict[str, tuple[PairInspection, ...]]
    warnings: tuple[str, ...] = ()
    streamed: Mapping[str, ShardedRows] = field(default_factory=dict)

    def train_id_counts(self, split: str, label_space: LabelSpace) -> np.ndarray:
        """(num_images, num_labels) int64: pixels per image and class; void is left out."""
        counts = np.zeros((len(self.pairs[split]), label_space.num_labels), np.int64)
        for row, pair in zip(counts, self.pairs[split], strict=True):
            for value, count in pair.label_counts.items():
                if (train_id := label_space.label_ids.get(value, IGNORE_INDEX)) != IGNORE_INDEX:
                    row[train_id] += count
        return counts

    def void_share(self, split: str, label_space: LabelSpace) -> float:
        """Share of the split's pixels, 0..1, that are in no class."""
        all_pixels = sum(sum(pair.label_counts.values()) for pair in self.pairs[split])
        return float(1 - self.train_id_counts(split, label_space).sum() / all_pixels)

    def sizes(self, split: str) -> Counter:
        """How many pairs have each (height, width)."""
        return Counter(pair.size for pair in self.pairs[split])

    def values(self) -> Counter:
        """Pixels per value in all label files."""
        return count_all(pair for pairs in self.pairs.values() for pair in pairs)


def inspect_pairs(
    splits: Mapping[str, Dataset | ShardedRows],
    label_space: LabelSpace,
    progress: bool = True,
    channels: int = 3,
    sampled: bool = False,
    skip_bad: bool = False,
) -> Inspection:
    """Reads every image and label, and refuses what would train silently on the wrong thing.

    Threads do the reading: Pillow's decoders release the GIL, and worker processes were no faster. Memory stays flat,
    as a few pairs per thread are in flight and only counts and digests are kept. Those of a clean set stay in
    `preflight` of `cache_folder()`, until a path, size, time, byte or the mapping changes.

    Args:
        splits: Columns `image` and `label` (`datasets.Image`, path-based or embedded) and `name`.
        label_space: Which raw label ids may occur.
        sampled: Whether some frames will do; else a set that is streamed is refused.
        skip_bad: Leaves bad pairs of a streamed train out, which it skips, too, with a warning each.

    Returns:
        `Inspection`; its warnings have been logged.

    Raises:
        DataError: The first bad pair in the order of splits and rows, with the number of others, which have been
            logged; or a fault of the whole set: an empty or entirely void split, a name twice, an
            image in two splits, train ids for label ids.
    """
    if not sampled:
        refuse_streamed(splits)
    streamed = {split: rows for split, rows in splits.items() if isinstance(rows, ShardedRows)}
    # Measured frames are told apart by their names, all of which measuring reads, too.
    named = {split: rows for split, rows in streamed.items() if split != "train"}
    splits = {split: _undecoded(dataset) for split, dataset in splits.items()}
    check_names(splits | named)
    file = None if streamed else find_place(splits, label_space, channels)
    cached = load_pairs(file) if file else None
    skips = [split for split in streamed if split == "train" and skip_bad]
    pairs = cached or _read_pairs(splits, label_space, progress, channels, skips)
    inspection = Inspection(pairs, streamed=streamed)
    _check_void(inspection, label_space)
    _check_leaks(pairs)
    inspection = replace(inspection, warnings=tuple(_find_oddities(inspection, label_space)))
    for warning in inspection.warnings:
        logger.warning(warning)
    if file and not cached:
        save_pairs(file, pairs)
    return inspection


def _undecoded(dataset: Dataset | ShardedRows) -> Dataset | ShardedRows:
    if isinstance(dataset, ShardedRows):
        return dataset.choose_sample().cast_column("image", Image(decode=False))
    return undecode(dataset.select_columns(["image", "label", "name"]))


def check_names(splits: Mapping[str, Dataset]) -> None:
    """Refuses a split without frames, and a name that two of its frames have."""
    if not splits:
        raise DataError("at least one split", "none", "check `--data_dir` or `--dataset`")
    for split, dataset in splits.items():
        if not len(dataset):
            raise DataError("at least one pair in every split", f"none in `{split}`", "fill it or leave it out", split)
        twice = {name: times for name, times in Counter(dataset["name"]).most_common() if times > 1}
        found = [(f"{times} pairs called `{name}`", "rename them", f"{split}/{name}") for name, times in twice.items()]
        refuse_all([DataError("every frame name once in a split", *one) for one in found], "name")


def inspect_piece(split: str, rows: Dataset, label_space: LabelSpace) -> tuple[PairInspection, ...]:
    """The pairs of a part of a split, each judged for itself; what is judged by the whole set is left to the whole."""
    return _read_pairs({split: _undecoded(rows)}, label_space, progress=False, whole=False)[split]


def _read_pairs(
    splits: Mapping[str, Dataset],
    label_space: LabelSpace,
    progress: bool,
    channels: int = 3,
    skips: Collection[str] = (),
    whole: bool = True,
) -> dict[str, tuple[PairInspection, ...]]:
    """The sound pairs of each split; refuses the first bad one, unless its split is among `skips`.

    Args:
        whole: The values of all pairs together tell of which kind they are.
    """
    results = read_all(splits, partial(inspect_pair, label_space=label_space, channels=channels), "pair", progress)
    sound = [one for found in results.values() for one in found if isinstance(one, PairInspection)]
    if whole and len(sound) == sum(map(len, results.values())):
        check_id_kind(count_all(sound).keys(), label_space)
    files_with = Counter(value for one in sound for value in one.label_counts)
    errors: dict[tuple[str, int], DataError] = {}
    for split, found in results.items():
        for row, one in enumerate(found):
            if isinstance(one, DataError):
                errors[split, row] = one
            elif unknown := find_unknown(one, label_space):
                where = where_is(splits[split][row]["label"], split, one.name)
                pixels = sum(one.label_counts.values())
                errors[split, row] = refuse_values(unknown, pixels, files_with, label_space, where)
    refuse_all([error for (split, _), error in errors.items() if split not in skips or is_of_system(error)], "bad pair")
    log_faults([*errors.values()], logging.WARNING)
    return {
        split: tuple(one for row, one in enumerate(found) if (split, row) not in errors)
        for split, found in results.items()
    }


def read_all(
    splits: Mapping[str, Dataset], inspect: Callable[[str, dict], PairInspection], unit: str, progress: bool
) -> dict[str, list[PairInspection | DataError]]:
    """What `inspect` finds in each row of each split, by threads, in order; or why it refuses it."""

    def try_one(split: str, row: dict) -> tuple[str, PairInspection | DataError]:
        try:
            return split, inspect(split, row)
        except DataError as error:
            return split, error

    results: dict[str, list] = {split: [] for split in splits}
    with (
        strict_pillow(),
        ThreadPoolExecutor(_THREADS) as pool,
        show_progress(sum(map(len, splits.values())), "checking", unit, hidden=not progress) as bar,
    ):
        # Few at a time: executor.map would read every embedded image ahead.
        jobs = (pool.submit(try_one, split, row) for split, rows in splits.items() for row in rows)
        pending = deque(islice(jobs, 2 * _THREADS))
        while pending:
            split, result = pending.popleft().result()
            results[split].append(result)
            pending.extend(islice(jobs, 1))
            bar.update()
    return results


def _check_void(inspection: Inspection, label_space: LabelSpace) -> None:
    for split in inspection.pairs:
        if not inspection.train_id_counts(split, label_space).any():
            seen = count_all(inspection.pairs[split])
            found = f"only void in `{split}` (values {list_values(seen, label_space)})"
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
    refuse_all(errors, "image")


def _find_oddities(inspection: Inspection, label_space: LabelSpace) -> Iterable[str]:
    yield from find_odd_values(inspection.values(), label_space)
    for split, pairs in inspection.pairs.items():
        yield from find_odd_images(split, pairs)
        counts = inspection.train_id_counts(split, label_space)
        if void := [pair.name for pair, count in zip(pairs, counts, strict=True) if not count.any()]:
            yield f"{split}: images without any labelled pixel: {first_few(void)}."
        if split == "train" and (absent := [n for n, c in zip(label_space.names, counts.sum(0), strict=True) if not c]):
            yield f"train: no pixel of {', '.join(absent)}; the model can't learn them from it."
    yield from _find_unmeasured(inspection, label_space)


def find_odd_images(split: str, frames: Collection[PairInspection]) -> Iterable[str]:
    """A sentence on each oddity of a split's images alone."""
    same, noted = defaultdict(list), defaultdict(list)
    for one in frames:
        same[one.image_digest].append(one.name)
        noted[one.note].append(one.name)
    if groups := [first_few(names, 2, " = ") for names in same.values() if len(names) > 1]:
        yield f"{split}: the same image more than once: {first_few(groups)}."
    for note, names in noted.items():
        if note:
            yield f"{split}: {note}, in {len(names)} of {len(frames)} images: {first_few(names)}."


def check_further_images(name: str, frames: Collection[PairInspection], main: Inspection) -> None:
    """Refuses images of the main data's validation and test among those that join training; warns of its train's."""
    places = {pair.image_digest: (split, pair.name) for split, pairs in main.pairs.items() for pair in pairs}
    same = [(one, *places[one.image_digest]) for one in frames if one.image_digest in places]
    expected = "none of the main data's held-out images"
    fix = "remove it from one of them: results on images seen in training prove nothing"
    held_out = [
        DataError(expected, f"the same pixels as {split}/{where}", fix, f"{name}/{one.name}")
        for one, split, where in same
        if split != "train"
    ]
    refuse_all(held_out, "image")
    if same:
        some = first_few([one.name for one, *_ in same])
        logger.warning("%s: %d of its images are in the main data's train, too: %s", name, len(same), some)


def _find_unmeasured(inspection: Inspection, label_space: LabelSpace) -> Iterable[str]:
    """Classes that no score says anything of, for there is nothing to find, or nothing else."""
    has = {split: inspection.train_id_counts(split, label_space).any(0) for split in inspection.pairs}
    trained = has.pop("train", np.zeros(label_space.num_labels, bool))
    for split, measured in has.items():
        if missing := [label_space.names[train_id] for train_id in np.flatnonzero(trained & ~measured)]:
            yield f"{split}: no pixel of {', '.join(missing)}; how well they are learnt isn't measured there."
    if trained.sum() == 1:
        only = label_space.names[trained.argmax()]
        yield (
            f"train: every labelled pixel is {only}: to answer it always is right, so that nothing is learnt and "
            "its scores are 100 %; list the rest as a class of its own, such as background, in place of void, in the "
            "`--label_space` file."
        )
