"""What label files hold whose classes nobody has listed: a label space to complete."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

import numpy as np
from datasets import Dataset
from PIL import Image

from hf_urbanseg.data.label_pictures import read_values
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace, pack_color, unpack_color
from hf_urbanseg.palettes import choose_colors
from hf_urbanseg.progress import show_progress

_UNNAMED = LabelSpace("unnamed", ("unnamed",), ((0, 0, 0),), {})
_LOOKED_AT, _MOST = 20, 255
_INSTANCES = 1000


def load_unnamed(**options) -> LoadedData:
    """`load_data` of data whose classes nobody lists: with those of `suggest_label_space`."""
    data = load_data(**options | {"label_space": _UNNAMED})
    return replace(data, label_space=suggest_label_space(data.splits, data.name))


def suggest_label_space(splits: Mapping[str, Dataset], name: str) -> LabelSpace:
    """A class for every value in the label files, with names to replace.

    Files of colours are told from files of ids by what they show, instances by numbers of 1000 and more. 255 beside
    other ids, and black beside colours, is void; colours of Cityscapes have its names. Colours count if they fill an
    area of 2x2 pixels somewhere, which those along edges drawn with anti-aliasing don't.

    Raises:
        DataError: More values than classes can be.
    """
    spread = ((rows, range(0, len(rows), max(1, len(rows) // _LOOKED_AT))) for rows in splits.values())
    encoding = _find_encoding(rows[index]["label"] for rows, indices in spread for index in indices)
    counts, flat = Counter(), Counter()
    with show_progress(sum(map(len, splits.values())), "reading", "label") as bar:
        for row in chain(*(rows.select_columns("label") for rows in splits.values())):
            values = read_values(row["label"], encoding)
            counts.update(_count(values))
            corner = values[:-1, :-1]
            is_flat = (corner == values[1:, :-1]) & (corner == values[:-1, 1:]) & (corner == values[1:, 1:])
            flat.update(_count(corner[is_flat]))
            bar.update()
            if len(counts) > 1 << 20:
                break
    found = sorted(counts if encoding != "color" and len(counts) <= _MOST else flat)
    if encoding == "color":  # which have no order of their own
        found.sort(key=lambda value: -counts[value])
    if len(found) > _MOST:
        fix = "JPEG masks need `lossy: true` and their classes in a label space; numbers of instances have no classes"
        raise DataError(f"label files of {_MOST} values at most", f"{len(found)}", fix, name)
    void = {0} if encoding == "color" else {IGNORE_INDEX}
    void = void & set(found) if len(found) > 2 else set()
    known = {pack_color(color): label for color, label in zip(CITYSCAPES.colors, CITYSCAPES.names, strict=True)}
    values = [value for value in found if value not in void]
    names = [(encoding == "color" and known.get(value)) or f"class {value if encoding != 'color' else place}"
             for place, value in enumerate(values)]  # fmt: skip
    colors = tuple(map(unpack_color, values)) if encoding == "color" else choose_colors(names)
    label_ids = {value: train_id for train_id, value in enumerate(values)} | dict.fromkeys(void, IGNORE_INDEX)
    space = LabelSpace(name, tuple(names), colors, label_ids, encoding=encoding)
    others = 1 - sum(counts[value] for value in found) / counts.total()
    return replace(space, edge_tolerance=min(0.5, round(4 * others + 0.01, 3))) if others else space


def _find_encoding(pictures: Iterable[Image.Image]) -> str:
    large = False
    for picture in pictures:
        if picture.mode in ("RGB", "RGBA"):
            first, second, third, *_ = (channel.tobytes() for channel in picture.split())
            if not first == second == third:
                return "color"
        elif picture.mode.startswith("I"):
            large = large or int(np.asarray(picture).max()) >= _INSTANCES
    return "instance" if large else "ids"


def _count(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
