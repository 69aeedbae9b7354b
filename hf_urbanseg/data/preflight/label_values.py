"""What a label file's pixels say: read as the label space has it, or refused in one line."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from hf_urbanseg.data.label_pictures import find_places, read_values
from hf_urbanseg.errors import DataError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace

_MOST_UNKNOWN = 20


def read_label(mask: Image.Image, bits: int, space: LabelSpace, where: str) -> np.ndarray:
    """What every pixel says, as `read_values` does it."""
    if mask.mode == "L" and bits in (2, 4):
        fix = "save the label ids as 8-bit PNG"
        raise DataError("a label of 1, 8, 16 or 32 bits", f"{bits}-bit grey (mode L)", fix, where)
    try:
        values = read_values(mask, space.encoding)
    except ValueError as error:
        fix = "export the label as PNG of ids, or say in the label space what it holds"
        found = f"{len(mask.getbands())} channels (mode {mask.mode})" if mask.mode != "F" else "fractions"
        raise DataError(f"a label of {error} (`encoding: {space.encoding}`)", found, fix, where) from error
    channels = mask.split()
    if space.encoding in ("ids", "instance") and mask.mode in ("LA", "RGBA") and channels[-1].getextrema()[0] < 255:
        found = f"transparent pixels (alpha down to {channels[-1].getextrema()[0]})"
        raise DataError("a label without transparent pixels", found, "flatten it, or leave the alpha out", where)
    if space.encoding == "ids" and mask.mode in ("RGB", "RGBA"):
        first, second, third = (channel.tobytes() for channel in channels[:3])
        if not first == second == third:
            fix = "use the file of label ids, or say `encoding: color` in the label space and list the colours there"
            raise DataError("a label of ids, in one channel or in equal ones", "colours", fix, where)
    return values


def count_values(values: np.ndarray, space: LabelSpace) -> dict[int, int]:
    """Pixels per value, as the label space has it if it knows it.

    Of unknown values the `_MOST_UNKNOWN` commonest are told apart; -1 has the pixels of others, and all of lossy files.
    """
    if values.dtype == np.uint8 and not space.lossy:
        histogram = np.array(Image.fromarray(values).histogram())
        places = space.value_table[:256]
        counts = np.bincount(places, histogram, minlength=len(space.label_ids) + 1).astype(int)
        unknown = np.flatnonzero(histogram * (places == 0))
        found = histogram[unknown]
    else:
        places = find_places(values, space)
        counts = np.bincount(places.ravel(), minlength=len(space.label_ids) + 1)
        unknown, found = np.unique(values[places == 0] if counts[0] and not space.lossy else [], return_counts=True)
    known = {value: int(n) for value, n in zip(space.label_ids, counts[1:], strict=True) if n}
    order = np.argsort(-found, kind="stable")
    common = {int(unknown[i]): int(found[i]) for i in order[:_MOST_UNKNOWN]}
    rest = int(counts[0]) - sum(common.values())
    return known | common | ({-1: rest} if rest else {})


def check_palette(mask: Image.Image, counts: Mapping[int, int], space: LabelSpace, where: str) -> None:
    """Refuses indices whose colours are those of other classes: a picture of colours, quantised in any order."""
    palette, names = mask.getpalette() or [], dict(zip(space.colors, space.names, strict=True))
    said = {}
    for value in counts:
        color, train_id = tuple(palette[3 * value : 3 * value + 3]), space.label_ids.get(value, IGNORE_INDEX)
        if train_id != IGNORE_INDEX and len(color) == 3:
            said[value] = names.get(color), space.names[train_id]
    wrong = {value: pair for value, pair in said.items() if pair[0] != pair[1]}
    if len(names) == space.num_labels and len(wrong) > 1 and all(color for color, _ in said.values()):
        value, (color, own) = next(iter(wrong.items()))
        found = f"{value}, which is {own}, in the colour of {color} ({len(wrong)} of {len(said)} indices like this)"
        fix = "say `encoding: color` in the label space to read it by its colours, or correct the palette"
        raise DataError("a palette with the classes' colours at their ids, or with others", found, fix, where)
