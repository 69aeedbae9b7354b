"""Classes by `id: name` pairs, as `id2label.json` on the Hub has them."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace
from hf_urbanseg.palettes import choose_colors

logger = logging.getLogger(__name__)

_VOID = re.compile("unlabell?ed|void|ignore|n/a|unknown|don'?t care|out of roi|rectification border")
"""Names, in any case and with any of space, `-` and `_`, that stand for void wherever they are seen."""
_DOUBTFUL = re.compile("background|others?|none|undefined|ego vehicle|(void|unlabel|ignore|unknown).*")
"""Void in some sets and classes in others: `background` is class 0 of Pascal VOC, `void-ground` a class of
sidewalk-semantic. They are trained."""


def label_space_from_names(id2label: Mapping, name: str, source: Path, void: Sequence[int] | None = None) -> LabelSpace:
    """The label space of a set that only has an `id2label.json`: its files hold these ids.

    Train ids follow the order of the ids. Colours are of `choose_colors`.

    Void are -1 (which an 8-bit file stores as 255), 255 unless it has a name, and classes by `void` or else by their
    names: those that are void in every set, and `ego vehicle` beside one of Cityscapes' other void areas. A warning
    names these, and doubtful names, which are trained, with the way to overrule it.

    Args:
        id2label: Ids, as numbers or words, and names.
        name: Of the label space.
        source: The file, named in errors.
        void: Ids that are void; None goes by the names.

    Raises:
        DataError: A key that is not an id of 0..2^24-1, a name that is none or occurs twice, or nothing left to train.
    """
    names = _read_names(id2label, source)
    if void is None:
        void = _guess_void(names, source)
    elif not isinstance(void, list | tuple) or not all(type(label_id) is int for label_id in void):
        raise DataError("`void` as a list of label ids", f"{void!r}", "write [0] or []", source)
    kept = [label_id for label_id in sorted(names) if label_id not in {*void, -1}]
    if not kept:
        raise DataError("at least one class that isn't void", f"{len(names)} names", "add classes", source)
    colors = choose_colors([names[label_id] for label_id in kept])
    of_void = {*void, IGNORE_INDEX} - {-1, *kept}
    label_ids = {label_id: train_id for train_id, label_id in enumerate(kept)} | dict.fromkeys(of_void, IGNORE_INDEX)
    return LabelSpace(name, tuple(names[label_id] for label_id in kept), colors, label_ids)


def _read_names(id2label: Mapping, source: Path) -> dict[int, str]:
    def refuse(expected: str, found: str) -> DataError:
        return DataError(expected, found, "correct the file or give `--label_space`", source)

    if not isinstance(id2label, Mapping):
        raise refuse('"id": "name" pairs', f"{id2label!r}"[:80])
    names, spelt = {}, {}
    for key, class_name in id2label.items():
        if not re.fullmatch(r"-?\d{1,9}", str(key)):
            raise refuse('"id": "name" pairs', f"`{key}` as an id")
        label_id = int(key)
        if not -1 <= label_id < 1 << 24:
            raise refuse("ids of 0..16777215, or -1 for void", f"`{key}`")
        if not isinstance(class_name, str) or not class_name.strip():
            raise refuse("a name in words for every id", f"{class_name!r} for id {label_id}")
        if label_id in names:
            raise refuse("every id once", f"{label_id} again as `{key}`")
        if class_name in spelt:
            raise refuse("a name of its own for every id", f"`{class_name}` for ids {spelt[class_name]} and {label_id}")
        names[label_id], spelt[class_name] = class_name, label_id
    return names


def _guess_void(names: Mapping[int, str], source: Path) -> set[int]:
    """The ids that are void by name; a warning says which, and what else may be meant."""
    plain = {
        label_id: " ".join(re.split(r"[\s_-]+", name.casefold().replace("\u2019", "'"))).strip()
        for label_id, name in names.items()
    }
    void = {label_id for label_id, name in plain.items() if _VOID.fullmatch(name)}
    if {"out of roi", "rectification border"} & set(plain.values()):  # void in Cityscapes, a class of Mapillary Vistas
        void |= {label_id for label_id, name in plain.items() if name == "ego vehicle"}
    kept = {label_id: name for label_id, name in plain.items() if label_id not in {*void, -1}}
    guesses = {
        "void by name (or id -1), so in no loss and no score": (void - {IGNORE_INDEX}) | ({-1} & names.keys()),
        "trained as classes, though the names mean void in some sets": {
            label_id for label_id, name in kept.items() if _DOUBTFUL.fullmatch(name)
        },
    }
    lists = {what: ", ".join(f"`{names[i]}` (id {i})" for i in sorted(ids)) for what, ids in guesses.items()}
    if said := "; ".join(f"{what}: {ids}" for what, ids in lists.items() if ids):
        fix = "to change that, give `--label_space` a file with this `id2label` and, as a list `void`, the ids that are"
        logger.warning("%s: %s; %s", source, said, fix)
    official = {
        i: CITYSCAPES.names[train_id] for i, train_id in CITYSCAPES.label_ids.items() if train_id != IGNORE_INDEX
    }
    if len(kept) > len(official) and official.items() <= kept.items():
        line = "%s: these are the labelIds of Cityscapes, and %d of them would be trained; %s trains its 19 classes"
        logger.warning(line, source, len(kept), "`--label_space cityscapes`")
    return void
