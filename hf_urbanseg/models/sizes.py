"""Sizes that suit a data set's pictures: to measure them at, and to train on."""

import math
from collections.abc import Mapping, Sequence

from hf_urbanseg.ranges import INPUT_SIDES

_MOST_PIXELS = 1 << 21
"""Of an input that nobody chose, 1024x2048: a telephone's picture has six times as many."""
_MOST_STRETCH, _MOST_GROWTH, _MOST_ZOOM = 1.05, 4.0, 1.5
_FACTORS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # the report's
_LARGEST_CROP = 368  # the report's


def choose_eval_size(sizes: Mapping[tuple[int, int], int]) -> tuple[int, int]:
    """The commonest (height, width) of a data set, each side brought to the nearest multiple of 32.

    Pictures of more than 2 million pixels are made smaller; small ones larger, where multiples of 32 would change their
    shape by more than 5 %.
    """
    height, width = find_commonest(sizes)
    shrink = min(1.0, math.sqrt(_MOST_PIXELS / (height * width)))
    nearest = _round((height * shrink, width * shrink))
    larger = (_round((tall, tall * width / height)) for tall in range(nearest[0], 4 * nearest[0], INPUT_SIDES.multiple))
    return next((one for one in (nearest, *larger) if _find_stretch(one, (height, width)) <= _MOST_STRETCH), nearest)


def choose_crop_size(sizes: Mapping[tuple[int, int], int]) -> list[int]:
    """The report's crop, or what the commonest picture has of it."""
    return [min(side, _LARGEST_CROP) for side in choose_eval_size(sizes)]


def choose_train_scales(sizes: Mapping[tuple[int, int], int]) -> list[str]:
    """The report's six scales around that at which pictures are measured, as boxes that keep their shape."""
    size = find_commonest(sizes)
    zoom = _find_zoom(choose_eval_size(sizes), size)
    boxes = ([max(1, round(side * zoom * factor)) for side in size] for factor in _FACTORS)
    return [_show(box) for box in boxes if max(box) <= INPUT_SIDES.most]


def explain_misfit(
    eval_size: tuple[int, int], ratios: Sequence[tuple[float, float]], sizes: Mapping[tuple[int, int], int]
) -> str | None:
    """In one sentence, that sizes which somebody set, in a recipe perhaps, are those of other pictures; else None.

    Args:
        eval_size: (height, width) that pictures are measured and exported at.
        ratios: Least and most, of the commonest picture's size, of each scale that it is trained at.
        sizes: How many pictures have each (height, width).
    """
    size, suited = find_commonest(sizes), choose_eval_size(sizes)
    problems, fixes = [], []
    stretch, growth = _find_stretch(eval_size, size), math.prod(eval_size) / math.prod(suited)
    if stretch > _MOST_STRETCH and stretch > _find_stretch(suited, size):
        problems.append(f"`eval_size` {_show(eval_size)} stretches them by {stretch - 1:.0%}")
    elif max(growth, 1 / growth) > _MOST_GROWTH:
        problems.append(f"`eval_size` {_show(eval_size)} has {growth:.2g} times the pixels of {_show(suited)}")
    if problems:
        fixes.append(f"`--eval_size {suited[0]} {suited[1]}`")
    zoom = _find_zoom(suited if problems else eval_size, size)
    least, most = min(low for low, _ in ratios), max(high for _, high in ratios)
    if not least / _MOST_ZOOM <= zoom <= most * _MOST_ZOOM:
        problems.append(f"`train_scales` show them at {least:.2g} to {most:.2g} of their size, not at {zoom:.2g}")
        fixes.append(f"`--train_scales {' '.join(f'{zoom * factor:.2g}' for factor in _FACTORS)}`")
    if not problems:
        return None
    what = f"most training pictures are {_show(size)} (height x width)"
    return f"{what}: {', and '.join(problems)}; for pictures like these say {' and '.join(fixes)}"


def find_commonest(sizes: Mapping[tuple[int, int], int]) -> tuple[int, int]:
    """The (height, width) that most pictures have."""
    return max(sorted(sizes), key=lambda size: sizes[size])


def _round(size: Sequence[float]) -> tuple[int, int]:
    return tuple(INPUT_SIDES.nearest(side) for side in size)


def _find_stretch(size: tuple[int, int], of: tuple[int, int]) -> float:
    """By how much a picture gets taller than wide or wider than tall, 1 or more."""
    stretch = size[0] * of[1] / (size[1] * of[0])
    return max(stretch, 1 / stretch)


def _find_zoom(size: tuple[int, int], of: tuple[int, int]) -> float:
    return math.sqrt(math.prod(size) / math.prod(of))


def _show(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
