"""Further data sets that join training: which, how often, and as which of the main data's classes."""

import logging
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset, DatasetDict

from hf_urbanseg.class_names import find_common_classes
from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.preflight.checks import Inspection, check_further_images, inspect_pairs
from hf_urbanseg.data.preflight.pair_files import PairInspection
from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError, join_faults
from hf_urbanseg.files import expand_home, explain_missing
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace

logger = logging.getLogger(__name__)

_REST = re.compile(
    r"\b(background|others?|rest|misc\w*|clutter|fallback|unlabel\w*|unknown|undefined|void|ignored?|none|static|"
    r"dynamic)\b"
)
"""In the names of classes that hold whatever a set has no other class for."""


@dataclass(frozen=True, eq=False)
class AddedData:
    """A further data set, whose frames are trained on and nothing else.

    Args:
        name: Before its frames' names, so that those of several sets differ.
        share: Of the samples that are trained on.
        rows: Its training frames, columns as in `LoadedData`.
        label_space: What its label files hold, in the main data's train ids; void is what that has no class for.
        pairs: What the preflight found, in the rows' order.
    """

    name: str
    share: float
    rows: Dataset
    label_space: LabelSpace
    pairs: tuple[PairInspection, ...]

    @property
    def frames(self) -> dict[str, list[str]]:
        """By name, the SHA-256 of the image's and of the label's file."""
        return {f"{self.name}/{pair.name}": list(pair.file_digests) for pair in self.pairs}

    @property
    def pixels(self) -> np.ndarray:
        """(num_labels,) int64: of each of the main data's classes."""
        return Inspection({"train": self.pairs}).train_id_counts("train", self.label_space).sum(0)

    def describe(self) -> dict:
        """For the run's folder: `classes` are those that it has pixels of."""
        names = [name for name, count in zip(self.label_space.names, self.pixels, strict=True) if count]
        content = {"name": self.name, "share": self.share, "images": len(self.pairs), "classes": names}
        return content | {"label_space": describe_label_space(self.label_space)}


def load_added_data(
    words: Sequence[str], main: str, data: LoadedData, inspection: Inspection, progress: bool = True
) -> tuple[AddedData, ...]:
    """Loads and checks the sets of `--add_data`.

    Of a set with splits of its own, train alone is used, and all of one without; nothing is cut off. Classes are the
    main data's by name, see `adapt_label_space`. Sets without a share have the same as the main data: what the others
    leave, in equal parts.

    Args:
        words: `source`, `source:label_space`, `source:share` or `source:label_space:share` each.
        main: Folder or Hub id of the main data.
        data: The main data. `inspection`: of it.

    Raises:
        DataError: A set that can't be used, or with images of the main data's validation or test.
        ConfigError: Shares, or a set twice, or no class in common.
    """
    wanted = [_parse(word) for word in words]
    _check_twice([main, *(source for source, _, _ in wanted)])
    shares = _complete_shares([share for _, _, share in wanted])
    added, names = [], {data.name}
    for word, (source, label_space, _), share in zip(words, wanted, shares, strict=True):
        try:
            one = _load(source, label_space, share, data, names, progress)
            check_further_images(one.name, one.pairs, inspection)
        except UrbanSegError as error:
            raise join_faults([error], "fault", f" (`--add_data {word}`)") from error
        names.add(one.name)
        added.append(one)
    return tuple(added)


def describe_shares(data: LoadedData, added: Sequence[AddedData]) -> str:
    """One line for the data's notes: what the samples of training are."""
    parts = [f"{1 - sum(one.share for one in added):.3g} {data.name}"]
    for one in added:
        labelled, pixels = one.pixels, sum(sum(pair.label_counts.values()) for pair in one.pairs)
        void = 1 - labelled.sum() / pixels
        has = f"{np.count_nonzero(labelled)} of {data.label_space.num_labels} classes, {void:.1%} void"
        parts.append(f"{one.share:.3g} {one.name} ({len(one.pairs)} images, {has})")
    return f"shares of the training samples: {', '.join(parts)}"


def adapt_label_space(theirs: LabelSpace, ours: LabelSpace, name: str) -> LabelSpace:
    """What the label files of a further set hold, in the main data's train ids.

    Classes are the same if their names are, by `find_common_classes` in either direction. What the main data has no
    class for is void, and so is a class for all the rest (`background`, `other ...`) of a set that doesn't label every
    other class of the main data: the missing ones are in it. `name` is the further set's.

    Raises:
        ConfigError: No class in common, or one that would be two of the main data's.
    """
    pairs = [(their, our) for our, found in find_common_classes(theirs.names, ours.names).items() for their in found]
    pairs += [(their, our) for their, found in find_common_classes(ours.names, theirs.names).items() for our in found]
    labelled = set(theirs.label_ids.values()) - {IGNORE_INDEX}
    meaning: dict[int, int] = {}
    for their, our in pairs:
        if meaning.setdefault(their, our) != our:
            expected, found = "one class of the main data for each", f"`{theirs.names[their]}`, which names several"
            raise ConfigError(expected, found, "rename it in the label space", name)
    meaning = {their: our for their, our in meaning.items() if their in labelled}
    plain = {their: re.sub(r"[\W_]+", " ", theirs.names[their].lower()) for their in labelled}
    rest = {their for their, name in plain.items() if _REST.search(name)}
    missing = [our for our in range(ours.num_labels) if our not in meaning.values()]
    if missing and rest & meaning.keys():
        swallowing = ", ".join(theirs.names[their] for their in sorted(rest & meaning.keys()))
        lacking = ", ".join(ours.names[our] for our in missing)
        logger.warning(
            "%s: %s counts as void, because %s may be in it, which it has no class for", name, swallowing, lacking
        )
        meaning = {their: our for their, our in meaning.items() if their not in rest}
    if not meaning:
        expected = f"a class of the main data's by name ({', '.join(ours.names[:3])}, ...)"
        found = ", ".join(theirs.names[:3]) + (", ..." if theirs.num_labels > 3 else "")
        fix = "name a label space with the main data's classes, such as `..._as_cityscapes`"
        raise ConfigError(expected, found, fix, name)
    if strange := [theirs.names[their] for their in sorted(labelled - meaning.keys() - rest)]:
        logger.warning("%s: void, for the main data has no class of that name: %s", name, ", ".join(strange))
    label_ids = {value: meaning.get(their, IGNORE_INDEX) for value, their in theirs.label_ids.items()}
    same = {"names": ours.names, "colors": ours.colors, "categories": ours.categories}
    return replace(theirs, label_ids=label_ids, **same)


def _parse(word: str) -> tuple[str, str | None, float | None]:
    """Folder or Hub id, label space and share.

    From the right, and by what is there: a folder's own colons, a drive's among them, belong to its name.
    """
    source, share = word, None
    head, _, tail = word.rpartition(":")
    if head and not os.path.exists(word):
        with suppress(ValueError):
            source, share = head, float(tail)
    heads = [source[: match.start()] for match in re.finditer(":", source)]
    for folder in (source, *reversed(heads)):
        is_dataset = folder == "synthetic" or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", folder)
        if is_dataset or (folder and os.path.exists(expand_home(folder))):
            return folder, source[len(folder) + 1 :] or None, share
    expected = "`add_data` as folder:label_space:share, the last two optional"
    raise ConfigError(expected, f"`{word}`, and no such folder{explain_missing(source)}", "correct it")


def _check_twice(sources: Sequence[str]) -> None:
    places = [os.path.realpath(expand_home(source)) for source in sources]
    for number, place in enumerate(places):
        if place in places[:number]:
            found = "the main data again" if places.index(place) == 0 else "one twice"
            raise ConfigError("each data set once in `add_data`", found, "leave it out", sources[number])


def _complete_shares(shares: Sequence[float | None]) -> list[float]:
    given = [share for share in shares if share is not None]
    for share in given:
        if not 0 < share < 1:  # also refuses NaN
            raise ConfigError("shares above 0 and below 1 in `add_data`", f"{share:g}", "write for example 0.5")
    if (left := 1 - math.fsum(given)) <= 1e-9:
        found = f"{' + '.join(f'{share:g}' for share in given)}, which leave none of the samples to the main data"
        raise ConfigError("shares in `add_data` of less than 1 together", found, "lower one")
    return [left / (len(shares) - len(given) + 1) if share is None else share for share in shares]


def _load(
    source: str, label_space: str | None, share: float, data: LoadedData, taken: set[str], progress: bool
) -> AddedData:
    kind = "data_dir" if os.path.exists(expand_home(source)) and not source.endswith(".parquet") else "dataset"
    found = load_data(
        **{kind: source}, label_space=label_space, test_fraction=0, validation_fraction=0, channels=data.channels
    )
    if "train" not in found.splits:
        raise DataError("a split `train`", ", ".join(found.splits), "leave the set out", source)
    name = _choose_name(found.name, taken, data)
    space = adapt_label_space(found.label_space, data.label_space, name)
    # By its own classes, so that what is said of its values is said in its words.
    splits = DatasetDict({name: found.splits["train"]})
    pairs = inspect_pairs(splits, found.label_space, progress, data.channels).pairs[name]
    one = AddedData(name, share, found.splits["train"], space, pairs)
    if not one.pixels.any():
        raise DataError("labelled pixels of the main data's classes", "only void", "choose another label space", source)
    return one


def _choose_name(name: str, taken: set[str], data: LoadedData) -> str:
    """The set's own, with a number behind where another set has it or the main data has frames in such a folder."""
    folders = {frame.split("/")[0] for rows in data.splits.values() for frame in rows["name"] if "/" in frame}
    choices = [name, *(f"{name}-{number}" for number in range(2, len(taken | folders) + 3))]
    return next(one for one in choices if one not in taken | folders)
