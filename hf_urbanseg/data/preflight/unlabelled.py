"""The preflight of frames without labels: each is readable, and none of them is there to be measured."""

import logging
from collections import Counter, defaultdict

from datasets import Dataset, Image

from hf_urbanseg.data.preflight.cache import find_place, load_pairs, save_pairs
from hf_urbanseg.data.preflight.checks import Inspection, read_all, refuse_all
from hf_urbanseg.data.preflight.pair_files import PairInspection, inspect_image
from hf_urbanseg.data.preflight.set_values import first_few
from hf_urbanseg.errors import DataError

logger = logging.getLogger(__name__)

_SPLIT = "unlabelled"


def inspect_unlabelled(
    rows: Dataset, labelled: Inspection, progress: bool = True, channels: int = 3
) -> tuple[PairInspection, ...]:
    """Reads every picture, and refuses those whose pixels are in validation or test.

    Those of train are allowed, for what they teach is true; the log says how many there are. What was found is kept as
    that of pairs is.

    Args:
        rows: Columns `image` and `name`.
        labelled: What the preflight found in the labelled data.
        channels: Of every image; 3 are RGB.

    Raises:
        DataError: The first bad picture, with the number of others, which have been logged.
    """
    rows = {_SPLIT: rows.cast_column("image", Image(decode=False))}
    file = find_place(rows, None, channels)
    found = load_pairs(file) if file else None
    if found is None:
        results = read_all(
            rows, lambda split, row: inspect_image(split, row["name"], row["image"], channels), "picture", progress
        )
        refuse_all([one for one in results[_SPLIT] if isinstance(one, DataError)], "bad picture")
        found = {_SPLIT: tuple(results[_SPLIT])}
        if file:
            save_pairs(file, found)
    _check_leaks(found[_SPLIT], labelled)
    _log_oddities(found[_SPLIT], labelled)
    return found[_SPLIT]


def _check_leaks(frames: tuple[PairInspection, ...], labelled: Inspection) -> None:
    measured = {
        pair.image_digest: f"{split}/{pair.name}"
        for split, pairs in labelled.pairs.items()
        if split != "train"
        for pair in pairs
    }
    expected, fix = "unlabelled frames that are in no other split than train", "take it out: it is there to be measured"
    errors = [
        DataError(expected, f"the pixels of {measured[one.image_digest]}", fix, one.name)
        for one in frames
        if one.image_digest in measured
    ]
    refuse_all(errors, "frame")


def _log_oddities(frames: tuple[PairInspection, ...], labelled: Inspection) -> None:
    digests = Counter(one.image_digest for one in frames)
    trained = {pair.image_digest for pair in labelled.pairs["train"]}
    if known := [one.name for one in frames if one.image_digest in trained]:
        logger.warning("unlabelled: %d frames are in train, too, with labels: %s.", len(known), first_few(known))
    if twice := [one.name for one in frames if digests[one.image_digest] > 1]:
        logger.warning("unlabelled: the same picture more than once: %s.", first_few(twice))
    noted = defaultdict(list)
    for one in frames:
        noted[one.note].append(one.name)
    for note, names in noted.items():
        if note:
            logger.warning("unlabelled: %s, in %d of %d: %s.", note, len(names), len(frames), first_few(names))
