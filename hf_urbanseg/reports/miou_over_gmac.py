"""mIoU over multiply-accumulates, ours beside the report's systems."""

from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from hf_urbanseg.escaping import flatten
from hf_urbanseg.reports.figures import FAINT, LINE, MOST, REPORT, build_axes, save_figure
from hf_urbanseg.reports.label_places import boxes_around, fix_layout, place_labels, points_along
from hf_urbanseg.reports.systems import REPORT_POINTS

# mIoU and the ends of its bar in [0, 1]; `pretraining` as of a system of the report chooses the same marker.
OurPoint = namedtuple("OurPoint", "name gmac mean_iou low high color pretraining", defaults=["cityscapes"])

_PRETRAINING = {
    "none": ("x", REPORT, "report: from scratch"),
    "imagenet": ("o", "none", "report: ImageNet encoder"),
    "cityscapes": ("o", REPORT, "report: + Cityscapes"),
}


def draw_miou_over_gmac(
    ours: Sequence[OurPoint],
    title: str,
    path: str | Path | None = None,
    report: bool = True,
    cost: str = "multiply-accumulates of one pass at 375x1242",
) -> Figure:
    """The report's figure with ours in it, labels where they hide nothing.

    Args:
        path: A picture to write as well.
        report: Draw the report's systems, which were measured on KITTI, each with one pass at 375x1242.
        cost: What our points' GMAC count.
    """
    figure, axes = build_axes(8.2, 5.4, dpi=180)
    theirs = REPORT_POINTS if report else ()
    lines = draw_report_points(axes) if report else []
    size = 9 if len(ours) <= 6 else 7.5  # a crowd of large labels would stand far from its points
    labels, bars, values = [], [], [100 * point.mean_iou for point in theirs]
    for x, point in zip(_spread_equal([point.gmac for point in ours]), ours, strict=True):
        y, low, high = 100 * point.mean_iou, 100 * point.low, 100 * point.high
        reach = np.maximum([[y - low], [high - y]], 0) if low < high else None
        open_ring = point.pretraining == "imagenet"
        axes.errorbar(
            x, y, yerr=reach, fmt=_PRETRAINING[point.pretraining][0],
            color=point.color, markersize=7.5, markerfacecolor="white" if open_ring else point.color,
            markeredgecolor="white" if point.pretraining == "cityscapes" else point.color,
            markeredgewidth=0.8 if point.pretraining == "cityscapes" else 1.6, elinewidth=1.6, capsize=3.5, zorder=4,
        )  # fmt: skip
        labels.append((x, y, flatten(point.name, MOST), {"color": point.color, "fontsize": size, "weight": "bold"}))
        bars.append([(x, low), (x, high)])
        values += [low, high]
    labels += [(p.gmac, 100 * p.mean_iou, p.name, {"color": FAINT, "fontsize": 7}) for p in theirs]
    _log_axis(axes, [point.gmac for point in (*theirs, *ours)])
    axes.set_ylim(max(0, min(values) - 6), min(100, max(values) + 7))
    axes.set(xlabel=f"{cost} (G, log axis)", ylabel="mIoU (%)")
    axes.set_title(flatten(title, 3 * MOST), loc="left", fontsize=10, parse_math=False)
    if report:
        axes.legend(
            title="Grey: Liu and Wang 2022, Table 1, one pass at 375x1242, on their own 50 test images",
            title_fontsize=7.5, frameon=False, fontsize=7.5, labelcolor=FAINT, loc="upper center",
            bbox_to_anchor=(0.5, -0.13), ncols=3,
        )  # fmt: skip
    fix_layout(figure)
    to_pixels = axes.transData.transform
    obstacles = [boxes_around(points_along(to_pixels(line)), 3) for line in lines]
    obstacles += [np.add(to_pixels(ends), [(-8, -2), (8, 2)]).reshape(1, 4) for ends in bars]
    place_labels(axes, labels, np.vstack(obstacles))
    if path is not None:
        save_figure(figure, path)
    return figure


def draw_report_points(axes: Axes) -> list[list[tuple[float, float]]]:
    """Marks the report's systems in grey, without labels; returns the lines between some, as GMAC and mIoU (%)."""
    lines = []
    for kind, (marker, face, label) in _PRETRAINING.items():
        points = [point for point in REPORT_POINTS if point.pretraining == kind]
        x, y = [point.gmac for point in points], [100 * point.mean_iou for point in points]
        rim = {"edgecolors": REPORT} if marker == "o" else {}
        axes.scatter(x, y, s=26, marker=marker, c=face, linewidths=1.1, zorder=2, label=label, **rim)
        if line := [(p.gmac, 100 * p.mean_iou) for p in points if p.name.startswith("SegFormer")]:
            axes.plot(*zip(*line, strict=True), **LINE)
            lines.append(line)
    return lines


def _log_axis(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values) / 1.6, max(values) * 1.7  # wider than from 2 to 5, so that a tick is within
    axes.set(xscale="log", xlim=(low, high))
    axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_locator=NullLocator())


def _spread_equal(values: Sequence[float]) -> list[float]:
    """Runs of one architecture cost the same; side by side, a twentieth apart, their bars don't hide each other."""
    spread = []
    for number, value in enumerate(values):
        same = [other for other, one in enumerate(values) if abs(np.log(one / value)) < 0.02]
        spread.append(value * 1.06 ** (same.index(number) - (len(same) - 1) / 2))
    return spread
