"""Where texts stand in a figure: beside their points, on nothing else."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Where a text may stand around its point, the best liked first, and how far from it in points.
_DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])
_GAPS = np.array((6, 10, 16, 24, 34, 46, 60, 76, 94, 114, 136))


def fix_layout(figure: Figure) -> None:
    """Labels are placed in pixels, so nothing may move any more."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def place_labels(axes: Axes, labels: Sequence[tuple[float, float, str, Mapping]], obstacles: np.ndarray) -> None:
    """Writes each label where it covers least: beside its point, or further off with a line to it. In order.

    Args:
        axes: In their final layout.
        labels: x and y of the point, text, and how `Axes.annotate` shall write it.
        obstacles: (B, 4) boxes in pixels to keep clear of, besides the labels' own points.
    """
    if not labels:
        return
    scale = axes.figure.dpi / 72
    points = axes.transData.transform([(x, y) for x, y, *_ in labels])
    taken = np.vstack([obstacles, boxes_around(points, 3 * scale)])
    reaches = _GAPS[:, None, None] * scale * np.where(_DIRECTIONS.all(1, keepdims=True), 0.7, 1)
    for index, (x, y, text, style) in enumerate(labels):
        place = {"textcoords": "offset points", "ha": "left", "va": "bottom", "zorder": 5}
        written = axes.annotate(text, (x, y), (0, 0), parse_math=False, **place, **style)
        point, size = points[index], written.get_window_extent().size
        spots = (_DIRECTIONS * reaches - size * (1 - _DIRECTIONS) / 2).reshape(-1, 2)
        low, high = point + spots, point + spots + size
        outside = size.prod() - _overlaps(low, high, axes.get_window_extent().extents[None])
        covered = (_overlaps(low, high, taken) + outside) / scale**2
        distance = _distances(low, high, point[None]) / scale
        # A label nearer to another point would be read as that one's.
        nearest = _distances(low, high, np.delete(points, index, axis=0)) / scale
        best = (100 * covered + 6 * np.maximum(0, distance + 4 - nearest) + distance).argmin()
        written.set_position(spots[best] / scale)
        taken = np.vstack([taken, [*low[best] - 1.5 * scale, *high[best] + 1.5 * scale]])
        if distance[best] > 11:
            line = {"arrowstyle": "-", "color": style["color"], "linewidth": 0.6, "alpha": 0.7, "shrinkB": 3}
            end = (np.clip(point, low[best], high[best]) - point) / scale
            axes.annotate("", (x, y), end, textcoords="offset points", arrowprops=line)


def points_along(corners: np.ndarray) -> np.ndarray:
    """(N, 2) points every 8 pixels of the line through (M, 2) corners."""
    parts = [np.linspace(start, end, max(2, int(np.hypot(*(end - start)) / 8)) + 1) for start, end in pairwise(corners)]
    return np.concatenate(parts)


def boxes_around(points: np.ndarray, reach: float) -> np.ndarray:
    """(N, 4) left, bottom, right, top of squares around (N, 2) points."""
    return np.hstack([np.subtract(points, reach), np.add(points, reach)])


def _distances(low: np.ndarray, high: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(S,) from each of S boxes to the nearest of P points."""
    nearest = np.clip(points, low[:, None], high[:, None])
    return np.linalg.norm(nearest - points, axis=-1).min(1, initial=np.inf)


def _overlaps(low: np.ndarray, high: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(S,) areas that S boxes share with B others, summed."""
    sides = np.minimum(high[:, None], boxes[:, 2:]) - np.maximum(low[:, None], boxes[:, :2])
    return np.maximum(sides, 0).prod(-1).sum(1)
