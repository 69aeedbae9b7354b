"""Classes: label ids in files, train ids in the model, names and colours."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.escaping import is_plain

IGNORE_INDEX = 255
"""Train id of pixels that are in no loss and no metric (void, padding)."""
_LONGEST_NAME = 100
_QUOTE = "correct it, and put numbers and words such as `null` in quotes"


@dataclass(frozen=True)
class LabelSpace:
    """Which classes a data set has and how its label files spell them.

    Args:
        name: Short name, used in messages and metadata.
        names: Class names in train-id order (train id 0 first): text of 1 to 100 characters on one line.
        colors: One (red, green, blue) triple of 0..255 per class, for pictures.
        label_ids: Raw value in a label file -> train id, or `IGNORE_INDEX` for void. A value that is not a key is an
            error in the data, never silently void.
        categories: The group each class belongs to (Cityscapes: flat, construction, ...), or none at all; scores are
            given per group, too.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    label_ids: Mapping[int, int] = field(hash=False)
    categories: tuple[str, ...] = ()

    def __post_init__(self):
        count, check = len(self.names), _build_check(self.name)
        check_class_names((*self.names, *self.categories), self.name)
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        check(not twice, "unique class names", f"{', '.join(twice)} twice", "rename one of them")
        check(1 <= count <= IGNORE_INDEX, f"1 to {IGNORE_INDEX} classes", count, "list the classes under `classes`")
        found = f"{len(self.categories)} of {count} with one"
        check(len(self.categories) in (0, count), "a `category` for every class or for none", found, "complete them")
        for label_id in self.label_ids:
            check(0 <= label_id <= 255, "label ids of 0..255", label_id, "label files are 8-bit")

    @property
    def num_labels(self) -> int:
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @property
    def label2id(self) -> dict[str, int]:
        return {name: train_id for train_id, name in enumerate(self.names)}

    @cached_property
    def train_id_table(self) -> np.ndarray:
        """(256,) uint8: train id of every raw label id. Unknown ids hold `IGNORE_INDEX`; see `known_ids`."""
        table = np.full(256, IGNORE_INDEX, np.uint8)
        for label_id, train_id in self.label_ids.items():
            table[label_id] = train_id
        return table

    @cached_property
    def known_ids(self) -> np.ndarray:
        """(256,) bool: True where a raw label id is in the mapping."""
        known = np.zeros(256, bool)
        known[list(self.label_ids)] = True
        return known

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8: colour of every train id; black for `IGNORE_INDEX` and unused ids."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_labels] = self.colors
        return palette

    def with_train_ids(self) -> "LabelSpace":
        """The same classes for label files that hold train ids already."""
        identity = {train_id: train_id for train_id in range(self.num_labels)} | {IGNORE_INDEX: IGNORE_INDEX}
        return LabelSpace(self.name, self.names, self.colors, identity, self.categories)

    def to_dict(self) -> dict:
        """A JSON- and YAML-ready description that `from_dict` reads back."""
        ids = {train_id: [] for train_id in (*range(self.num_labels), IGNORE_INDEX)}
        for label_id, train_id in sorted(self.label_ids.items()):
            ids[train_id].append(label_id)
        classes = [
            {"name": name, "color": list(color), "label_ids": ids[train_id]}
            for train_id, (name, color) in enumerate(zip(self.names, self.colors, strict=True))
        ]
        for entry, category in zip(classes, self.categories, strict=False):
            entry["category"] = category
        return {"name": self.name, "classes": classes, "void": ids[IGNORE_INDEX]}

    @classmethod
    def from_dict(cls, description: Mapping, source: str = "label space") -> "LabelSpace":
        """Reads `{name, classes: [{name, color, label_ids, category}], void: [ids]}`; `category` is optional.

        Raises:
            ConfigError: A key is missing or unknown, a value of another shape, or an id is mapped twice.
        """
        check, label_ids = _build_check(source), {}
        fix = "list each class with name, color, label_ids"
        check(isinstance(description, Mapping), "a mapping with `classes`", repr(description), fix)
        classes = description.get("classes")
        check(classes and isinstance(classes, (list, tuple)), "a list `classes`", repr(classes), fix)

        def assign(ids, train_id: int, owner: str) -> None:
            check(isinstance(ids, (list, tuple)), "a list of label ids", f"{ids!r} in {owner}", f"write [{ids}]")
            for label_id in ids:
                check(type(label_id) is int, "whole-number label ids", f"{label_id!r} in {owner}", "correct it")
                again = f"{label_id} again in {owner}"
                check(label_id not in label_ids, "each label id in one class", again, "keep it once")
                label_ids[label_id] = train_id

        for train_id, entry in enumerate(classes):
            check(isinstance(entry, Mapping) and "name" in entry, "a `name` for every class", repr(entry), "add it")
            unknown = ", ".join(map(str, entry.keys() - {"name", "color", "label_ids", "category"}))
            check(not unknown, "keys name, color, label_ids, category", unknown, "remove it")
            name, color = entry["name"], entry.get("color", ())
            check_class_names([name], source)
            triple = isinstance(color, (list, tuple)) and len(color) == 3
            right = triple and all(isinstance(c, int) and 0 <= c <= 255 for c in color)
            fix = "write [red, green, blue]"
            check(right, "`color` as three whole numbers of 0..255", f"{color!r} for {name}", fix)
            assign(entry.get("label_ids", [train_id]), train_id, name)
        void = description.get("void")
        assign([] if void is None else void, IGNORE_INDEX, "void")
        names = tuple(entry["name"] for entry in classes)
        colors = tuple(tuple(entry["color"]) for entry in classes)
        categories = tuple(entry["category"] for entry in classes if entry.get("category") is not None)
        name = description.get("name")
        check(name is None or (isinstance(name, str) and is_plain(name)), "a `name` on one line", repr(name), _QUOTE)
        return cls(source if name is None else name, names, colors, label_ids, categories)


def check_class_names(names: Iterable[object], source: str) -> None:
    """Refuses names that aren't text of 1 to 100 characters on one line; `source` is named in errors."""
    check = _build_check(source)
    for name in names:
        # Here, because it would be too late when it stands in pictures and tables after hours of training.
        right = isinstance(name, str) and name.strip() and len(name) <= _LONGEST_NAME and is_plain(name)
        check(right, f"names as text of 1 to {_LONGEST_NAME} characters on one line", repr(name), _QUOTE)


def _build_check(source: str) -> Callable:
    def check(right, expected: str, found, fix: str) -> None:
        if not right:
            raise ConfigError(expected, f"{found}", fix, source)

    return check


# Cityscapes, as defined in cityscapesScripts (helpers/labels.py): name, colour, label id, category.
_CITYSCAPES = (
    ("road", (128, 64, 128), 7, "flat"),
    ("sidewalk", (244, 35, 232), 8, "flat"),
    ("building", (70, 70, 70), 11, "construction"),
    ("wall", (102, 102, 156), 12, "construction"),
    ("fence", (190, 153, 153), 13, "construction"),
    ("pole", (153, 153, 153), 17, "object"),
    ("traffic light", (250, 170, 30), 19, "object"),
    ("traffic sign", (220, 220, 0), 20, "object"),
    ("vegetation", (107, 142, 35), 21, "nature"),
    ("terrain", (152, 251, 152), 22, "nature"),
    ("sky", (70, 130, 180), 23, "sky"),
    ("person", (220, 20, 60), 24, "human"),
    ("rider", (255, 0, 0), 25, "human"),
    ("car", (0, 0, 142), 26, "vehicle"),
    ("truck", (0, 0, 70), 27, "vehicle"),
    ("bus", (0, 60, 100), 28, "vehicle"),
    ("train", (0, 80, 100), 31, "vehicle"),
    ("motorcycle", (0, 0, 230), 32, "vehicle"),
    ("bicycle", (119, 11, 32), 33, "vehicle"),
)
# Void ids 0..6, 9, 10, 14..16, 18, 29, 30; the license plate, -1, is 255 in an 8-bit file.
_CITYSCAPES_VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255)

CITYSCAPES = LabelSpace(
    "cityscapes",
    tuple(name for name, *_ in _CITYSCAPES),
    tuple(color for _, color, *_ in _CITYSCAPES),
    {label_id: train_id for train_id, (_, _, label_id, _) in enumerate(_CITYSCAPES)}
    | dict.fromkeys(_CITYSCAPES_VOID, IGNORE_INDEX),
    tuple(category for *_, category in _CITYSCAPES),
)
"""The 19 classes of Cityscapes and KITTI, for files of *labelIds* (0..33)."""


def find_common_classes(theirs: Sequence[str], ours: Sequence[str]) -> dict[int, list[int]]:
    """Our index -> their indices of the classes in common, in our order: by name, never by position.

    Case, underscores and the synonyms after a comma ("road, route") don't matter.
    """
    known: dict[str, list[int]] = {}
    for index, label in enumerate(theirs):
        for word in {_plain(word) for word in str(label).split(",")} | {_plain(label)}:
            known.setdefault(word, []).append(index)
    return {index: known[word] for index, label in enumerate(ours) if (word := _plain(label)) in known}


def match_classes(theirs: Sequence[str], ours: Sequence[str], name: str) -> list[tuple[int, int]]:
    """(their index, our index) of the classes that a teacher has in common with the data, by `find_common_classes`.

    Raises:
        ConfigError: None in common, or two of theirs for one of ours.
    """
    common = find_common_classes(theirs, ours)
    for train_id, found in common.items():
        if len(found) > 1:
            which = " and ".join(f"`{theirs[index]}`" for index in found)
            expected = f"one class of the teacher's for `{ours[train_id]}`"
            raise ConfigError(expected, which, "rename one in its config.json", name)
    if not common:
        some = ", ".join(map(str, theirs[:3]))
        expected = f"a teacher with classes of the data's ({', '.join(ours[:3])}, ...), by name"
        raise ConfigError(expected, f"{some}, ...", "choose another, or rename its classes in config.json", name)
    return [(found[0], train_id) for train_id, found in common.items()]


def _plain(label: object) -> str:
    return str(label).strip().lower().replace("_", " ")
