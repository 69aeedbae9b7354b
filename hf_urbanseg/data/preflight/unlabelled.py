"""The preflight of frames without labels: each is readable, and none of them is there to be measured."""

import logging
from functools import partial

from datasets import Dataset

from hf_urbanseg.data.image_files import undecode
from hf_urbanseg.data.preflight.cache import find_place, load_pairs, save_pairs
from hf_urbanseg.data.preflight.checks import Inspection, check_further_images, find_odd_images, read_all
from hf_urbanseg.data.preflight.pair_files import PairInspection, inspect_image
from hf_urbanseg.errors import DataError, refuse_all

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

    Raises:
        DataError: The first bad picture, with the number of others, which have been logged.
    """
    rows = {_SPLIT: undecode(rows)}
    file = find_place(rows, None, channels)
    found = load_pairs(file) if file else None
    if found is None:
        found = read_all(rows, partial(inspect_image, channels=channels), "picture", progress)
        refuse_all([one for one in found[_SPLIT] if isinstance(one, DataError)], "bad picture")
        if file:
            save_pairs(file, found)
    frames = tuple(found[_SPLIT])
    check_further_images(_SPLIT, frames, labelled)
    for warning in find_odd_images(_SPLIT, frames):
        logger.warning(warning)
    return frames
