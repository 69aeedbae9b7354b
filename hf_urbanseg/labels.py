"""Classes: what label files hold for them, train ids in the model, names and colours."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

import numpy as np

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.escaping import is_plain

IGNORE_INDEX = 255
"""Train id of pixels that are in no loss and no metric (void, padding)."""
ENCODINGS = ("ids", "color", "instance", "red")
_LONGEST_NAME = 100
_MOST_VALUES = 1 << 24
_BLUR, _LEAST_BLUR = 24, 8
QUOTE = "correct it, and put numbers and words such as `null` in quotes"


@dataclass(frozen=True)
class LabelSpace:
    """Which classes a data set has and how its label files spell them.

    Args:
        name: Short name, used in messages and metadata.
        names: Class names in train-id order (train id 0 first): text of 1 to 100 characters on one line.
        colors: One (red, green, blue) triple of 0..255 per class, for pictures.
        label_ids: Value in a label file, 0..2^24-1 -> train id, or `IGNORE_INDEX` for void. A value that is not a key
            is an error in the data, never silently void. A colour is the value of `pack_color`.
        categories: The group each class belongs to (Cityscapes: flat, construction, ...), or none at all; scores are
            given per group, too.
        encoding: How a label file's pixels hold the values. `ids`: grey of 1, 8, 16 or 32 bits, the indices of a
            palette, or three equal channels. `color`: as seen, whatever the file's mode. `instance`: id or
            id * 1000 + number, grey (Cityscapes' instanceIds) or as red + 256 green + 256^2 blue (its panoptic
            files). `red`: the red channel, with numbers of instances in the others (KITTI-STEP).
        edge_tolerance: Largest share of a label's pixels that may have other values, as edges drawn with
            anti-aliasing do; they are void.
        lossy: Files are JPEG. A pixel has the value that it is within `blur` of in every channel, if the eight around
            have it, too; others count as of another value.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    label_ids: Mapping[int, int] = field(hash=False)
    categories: tuple[str, ...] = ()
    encoding: str = "ids"
    edge_tolerance: float = 0.0
    lossy: bool = False

    def __post_init__(self):
        count, check = len(self.names), build_check(self.name)
        check_class_names((*self.names, *self.categories), self.name)
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        check(not twice, "unique class names", f"{', '.join(twice)} twice", "rename one of them")
        check(1 <= count <= IGNORE_INDEX, f"1 to {IGNORE_INDEX} classes", count, "list the classes under `classes`")
        found = f"{len(self.categories)} of {count} with one"
        check(len(self.categories) in (0, count), "a `category` for every class or for none", found, "complete them")
        for label_id in self.label_ids:
            fix = "label files of ids have no other values"
            check(0 <= label_id < _MOST_VALUES, f"label ids of 0..{_MOST_VALUES - 1}", label_id, fix)
        known = f"`encoding` of {', '.join(ENCODINGS)}"
        check(self.encoding in ENCODINGS, known, f"`{self.encoding}`", "choose one of them")
        share, lossy = self.edge_tolerance, self.lossy
        is_share = type(share) in (int, float) and 0 <= share < 1
        check(is_share, "`edge_tolerance` as a share of 0 to below 1", f"{share!r}", "write for example 0.02")
        check(type(lossy) is bool, "`lossy` as true or false", f"{lossy!r}", "correct it")
        check(not lossy or self.encoding in ("ids", "color"), "`encoding` ids or color of lossy files", self.encoding,
              "get the files that were not compressed")  # fmt: skip
        if lossy:
            fix = "values this near can't be restored; get the files that were not compressed"
            check(self.blur >= _LEAST_BLUR, f"values at least {2 * _LEAST_BLUR + 1} apart in lossy files",
                  f"some {self._least_distance} apart", fix)  # fmt: skip

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
    def value_table(self) -> np.ndarray:
        """(size + 1,) uint8 or uint16: 1 + the place in `label_ids` of every value, 0 where it is unknown.

        The size, 2^8, 2^16 or 2^24, is above every known value; larger ones have the last place, which is unknown.
        """
        largest = max(self.label_ids, default=0)
        largest = {"color": _MOST_VALUES - 1, "instance": largest * 1000 + 999}.get(self.encoding, largest)
        size = next((1 << bits for bits in (8, 16) if largest < 1 << bits), _MOST_VALUES)
        table = np.zeros(size + 1, np.uint8 if len(self.label_ids) < 256 else np.uint16)
        for place, value in enumerate(self.label_ids, 1):
            if not self.lossy:
                table[value] = place
                if self.encoding == "instance" and value:
                    table[:size][value * 1000 : value * 1000 + 1000] = place
            elif self.encoding == "color":
                near = (slice(max(c - self.blur, 0), c + self.blur + 1) for c in reversed(unpack_color(value)))
                table[:size].reshape(256, 256, 256)[tuple(near)] = place
            else:
                table[:size][max(value - self.blur, 0) : value + self.blur + 1] = place
        return table

    @cached_property
    def train_id_table(self) -> np.ndarray:
        """(size + 1,) uint8: train id of every value, in the places of `value_table`; `IGNORE_INDEX` if unknown."""
        return np.array([IGNORE_INDEX, *self.label_ids.values()], np.uint8)[self.value_table]

    @property
    def mapping_digest(self) -> str:
        """SHA-256 of all that decides which class a pixel of a label file is in."""
        mapping = [self.names, sorted(self.label_ids.items()), self.encoding, self.edge_tolerance, self.lossy]
        return hashlib.sha256(json.dumps(mapping).encode()).hexdigest()

    @property
    def blur(self) -> int:
        """How far a pixel of a lossy file may be from a value, in every channel."""
        return min(_BLUR, (self._least_distance - 1) // 2)

    @property
    def _least_distance(self) -> int:
        """The least of the distances between known values: of colours, that of the channel which differs most."""
        split = unpack_color if self.encoding == "color" else lambda value: (value,)
        pairs = combinations(map(split, self.label_ids), 2)
        return min((max(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in pairs), default=256)

    @cached_property
    def label_id_table(self) -> np.ndarray:
        """What label files hold for every train id, the lowest id if a class has several; 0 of classes without one.

        (256,) of the smallest unsigned integers; (256, 3) uint8 for files of colours, the first of each class.
        """
        lowest = {train_id: label_id for label_id, train_id in sorted(self.label_ids.items(), reverse=True)}
        if self.encoding == "color":
            lowest = {train_id: label_id for label_id, train_id in reversed(self.label_ids.items())}
        values = [lowest.get(train_id, 0) for train_id in range(256)]
        return np.array([unpack_color(value) for value in values] if self.encoding == "color" else values,
                        np.uint8 if self.encoding == "color" else np.min_scalar_type(max(values)))  # fmt: skip

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8: colour of every train id; black for `IGNORE_INDEX` and unused ids."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_labels] = self.colors
        return palette

    def spell(self, value: int) -> str:
        """A value of a label file as people write it: a number, or a colour such as (128, 64, 128)."""
        return str(unpack_color(value)) if self.encoding == "color" else str(value)

    def with_train_ids(self) -> "LabelSpace":
        """The same classes for label files that hold train ids already."""
        identity = {train_id: train_id for train_id in range(self.num_labels)} | {IGNORE_INDEX: IGNORE_INDEX}
        return replace(self, label_ids=identity, encoding="ids", edge_tolerance=0.0, lossy=False)


def pack_color(color: Iterable[int]) -> int:
    """The value of a colour: red + 256 green + 256^2 blue."""
    red, green, blue = color
    return red | green << 8 | blue << 16


def unpack_color(value: int) -> tuple[int, ...]:
    """(red, green, blue) of a value, with the opacity behind where it isn't whole."""
    color = value & 255, value >> 8 & 255, value >> 16 & 255
    return color if value < _MOST_VALUES else (*color, 255 - (value >> 24))


def check_class_names(names: Iterable[object], source: str) -> None:
    """Refuses names that aren't text of 1 to 100 characters on one line; `source` is named in errors."""
    check = build_check(source)
    for name in names:
        # Here, because it would be too late when it stands in pictures and tables after hours of training.
        right = isinstance(name, str) and name.strip() and len(name) <= _LONGEST_NAME and is_plain(name)
        check(right, f"names as text of 1 to {_LONGEST_NAME} characters on one line", repr(name), QUOTE)


def build_check(source: str) -> Callable:
    """`check(right, expected, found, fix)`, which raises a ConfigError that names `source` unless `right`."""

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
