"""mIoU over GMAC beside the report's systems, and two runs image by image."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from hf_urbanseg.escaping import flatten
from hf_urbanseg.reports.comparison import Change, Comparison
from hf_urbanseg.reports.figures import FAINT, MOST, REPORT, build_axes
from hf_urbanseg.reports.table_1 import REPORT_POINTS
from hf_urbanseg.runs.measured import MeasuredRun

COLORS = ("#2f72b8", "#c4561c", "#2f8f5b", "#8a4fb0", "#b3405e", "#6b7d1e")
BETTER, WORSE = COLORS[:2]
# Where a text may stand around its point, the best liked first, and how far from it in points.
_DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])
_GAPS = np.array((6, 10, 16, 24, 34, 46, 60))
_LINE = {"color": "#b5b5b5", "linewidth": 1, "zorder": 1}

_PRETRAINING = {
    "none": ("x", REPORT, "report: from scratch"),
    "imagenet": ("o", "none", "report: ImageNet encoder"),
    "cityscapes": ("o", REPORT, "report: + Cityscapes"),
}


def plot_miou_over_gmac(comparison: Comparison, path: str | Path | None = None) -> Figure:
    """The report's figure with our runs in it: mIoU over multiply-accumulates, the report's systems in grey.

    Bars are the confidence intervals of our mIoU over images. Labels are placed where they hide nothing. `path` is a
    picture to write as well.
    """
    figure, axes = build_axes(8.2, 5.4, dpi=180)
    lines = []
    for kind, (marker, face, label) in _PRETRAINING.items():
        points = [point for point in REPORT_POINTS if point.pretraining == kind]
        x, y = [point.gmac for point in points], [100 * point.mean_iou for point in points]
        rim = {"edgecolors": REPORT} if marker == "o" else {}
        axes.scatter(x, y, s=26, marker=marker, c=face, linewidths=1.1, zorder=2, label=label, **rim)
        if line := [(p.gmac, 100 * p.mean_iou) for p in points if p.name.startswith("SegFormer")]:
            axes.plot(*zip(*line, strict=True), **_LINE)
            lines.append(line)
    costs = _spread_equal([run.macs / 1e9 for run in comparison.runs])
    labels, bars, values = [], [], [100 * point.mean_iou for point in REPORT_POINTS]
    for number, (x, run, interval) in enumerate(zip(costs, comparison.runs, comparison.intervals, strict=True)):
        y, low, high = 100 * run.mean_iou, 100 * interval.low, 100 * interval.high
        color = COLORS[number % len(COLORS)]
        axes.errorbar(
            x, y, yerr=np.maximum([[y - low], [high - y]], 0), fmt="o", color=color, markersize=7.5,
            markeredgecolor="white", markeredgewidth=0.8, elinewidth=1.6, capsize=3.5, zorder=4,
        )  # fmt: skip
        labels.append((x, y, flatten(run.name, MOST), {"color": color, "fontsize": 9, "weight": "bold"}))
        bars.append([(x, low), (x, high)])
        values += [low, high]
    labels += [(p.gmac, 100 * p.mean_iou, p.name, {"color": FAINT, "fontsize": 7}) for p in REPORT_POINTS]
    _log_axis(axes, [point.gmac for point in REPORT_POINTS] + [run.macs / 1e9 for run in comparison.runs])
    axes.set_ylim(max(0, min(values) - 6), min(100, max(values) + 7))
    axes.set(xlabel="multiply-accumulates of one pass at 375x1242 (G, log axis)", ylabel="mIoU (%)")
    where = f"{comparison.split} of {comparison.first.data}, {len(comparison.first.counts)} images"
    title = f"Ours: {where}, {comparison.intervals[0].confidence:.0%} intervals"
    axes.set_title(flatten(title, 3 * MOST), loc="left", fontsize=10, parse_math=False)
    axes.legend(
        title="Grey: Liu and Wang 2022, Table 1, on their own 50 test images", title_fontsize=7.5, frameon=False,
        fontsize=7.5, labelcolor=FAINT, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3,
    )  # fmt: skip
    _fix_layout(figure)
    to_pixels = axes.transData.transform
    obstacles = [_boxes_around(_points_along(to_pixels(line)), 3) for line in lines]
    obstacles += [np.add(to_pixels(ends), [(-8, -2), (8, 2)]).reshape(1, 4) for ends in bars]
    _place_labels(axes, labels, np.vstack(obstacles))
    if path is not None:
        figure.savefig(path)
    return figure


def plot_image_scores(first: MeasuredRun, change: Change) -> Figure:
    """Per-image mIoU of two runs against each other, a point per image; above the diagonal the second is better."""
    figure, axes = build_axes(5.4, 5.4)
    x, y = 100 * first.counts.mean_iou, 100 * change.run.counts.mean_iou
    known = ~np.isnan(x + y)
    both = np.concatenate([x[known], y[known]])
    low, high = (5 * np.floor(both.min() / 5), 5 * np.ceil(both.max() / 5 + 0.1)) if both.size else (0, 100)
    axes.plot([low, high], [low, high], **_LINE)
    for mask, color, label in ((y > x, BETTER, "better"), (y < x, WORSE, "worse"), (y == x, REPORT, "equal")):
        if mask.any():
            kind = f"{mask.sum()} {label}"
            axes.scatter(x[mask], y[mask], s=30, color=color, alpha=0.8, linewidths=0, zorder=2, label=kind)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"{flatten(first.name, MOST)}: mIoU per image (%)", parse_math=False)
    axes.set_ylabel(f"{flatten(change.run.name, MOST)}: mIoU per image (%)", parse_math=False)
    legend = axes.legend(frameon=False, loc="upper left")
    _fix_layout(figure)
    labels = [
        (x[i], y[i], flatten(change.run.counts.names[i], MOST), {"color": color, "fontsize": 7.5})
        for better, color in ((True, BETTER), (False, WORSE))
        for i in change.most_changed(3, better)
    ]
    points = axes.transData.transform(np.stack([x[known], y[known]], 1))
    _place_labels(axes, labels, np.vstack([_boxes_around(points, 4), legend.get_window_extent().extents]))
    return figure


def _fix_layout(figure: Figure) -> None:
    """Labels are placed in pixels, so nothing may move any more."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values) / 1.35, max(values) * 1.45
    ticks = [step * 10.0**decade for decade in range(-3, 5) for step in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set(xscale="log", xlim=(low, high))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _spread_equal(values: Sequence[float]) -> list[float]:
    """Runs of one architecture cost the same; side by side, a twentieth apart, their bars don't hide each other."""
    spread = []
    for number, value in enumerate(values):
        same = [other for other, one in enumerate(values) if abs(np.log(one / value)) < 0.02]
        spread.append(value * 1.06 ** (same.index(number) - (len(same) - 1) / 2))
    return spread


def _points_along(corners: np.ndarray) -> np.ndarray:
    """(N, 2) points every 8 pixels of the line through (M, 2) corners."""
    parts = [np.linspace(start, end, max(2, int(np.hypot(*(end - start)) / 8)) + 1) for start, end in pairwise(corners)]
    return np.concatenate(parts)


def _boxes_around(points: np.ndarray, reach: float) -> np.ndarray:
    """(N, 4) left, bottom, right, top of squares around (N, 2) points."""
    return np.hstack([np.subtract(points, reach), np.add(points, reach)])


def _place_labels(axes: Axes, labels: Sequence[tuple[float, float, str, Mapping]], obstacles: np.ndarray) -> None:
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
    taken = np.vstack([obstacles, _boxes_around(points, 3 * scale)])
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


def _distances(low: np.ndarray, high: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(S,) from each of S boxes to the nearest of P points."""
    nearest = np.clip(points, low[:, None], high[:, None])
    return np.linalg.norm(nearest - points, axis=-1).min(1, initial=np.inf)


def _overlaps(low: np.ndarray, high: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(S,) areas that S boxes share with B others, summed."""
    sides = np.minimum(high[:, None], boxes[:, 2:]) - np.maximum(low[:, None], boxes[:, :2])
    return np.maximum(sides, 0).prod(-1).sum(1)
