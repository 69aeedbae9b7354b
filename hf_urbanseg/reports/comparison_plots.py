"""mIoU over GMAC, and two runs image by image."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hf_urbanseg.escaping import flatten
from hf_urbanseg.reports.comparison import Change, Comparison
from hf_urbanseg.reports.figures import LINE, MOST, REPORT, build_axes
from hf_urbanseg.reports.label_places import boxes_around, fix_layout, place_labels
from hf_urbanseg.reports.miou_over_gmac import OurPoint, draw_miou_over_gmac
from hf_urbanseg.runs.measured import MeasuredRun

COLORS = ("#2f72b8", "#c4561c", "#2f8f5b", "#8a4fb0", "#b3405e", "#6b7d1e")
BETTER, WORSE = COLORS[:2]


def plot_miou_over_gmac(comparison: Comparison, path: str | Path | None = None) -> Figure:
    """Our runs, on KITTI among the report's systems; bars are the confidence intervals of our mIoU over images."""
    ours = [
        OurPoint(run.name, run.macs / 1e9, run.mean_iou, interval.low, interval.high, COLORS[number % len(COLORS)])
        for number, (run, interval) in enumerate(zip(comparison.runs, comparison.intervals, strict=True))
    ]
    where = f"{comparison.split} of {comparison.first.data}, {len(comparison.first.counts)} images"
    title = f"Ours: {where}, {comparison.intervals[0].confidence:.0%} intervals"
    cost = "multiply-accumulates per image, all passes"
    return draw_miou_over_gmac(ours, title, path, comparison.is_of_kitti, cost)


def plot_image_scores(first: MeasuredRun, change: Change) -> Figure:
    """Per-image mIoU of two runs against each other, a point per image; above the diagonal the second is better."""
    figure, axes = build_axes(5.4, 5.4)
    x, y = 100 * first.counts.mean_iou, 100 * change.run.counts.mean_iou
    known = ~np.isnan(x + y)
    both = np.concatenate([x[known], y[known]])
    low, high = (5 * np.floor(both.min() / 5), 5 * np.ceil(both.max() / 5 + 0.1)) if both.size else (0, 100)
    axes.plot([low, high], [low, high], **LINE)
    for mask, color, label in ((y > x, BETTER, "better"), (y < x, WORSE, "worse"), (y == x, REPORT, "equal")):
        if mask.any():
            kind = f"{mask.sum()} {label}"
            axes.scatter(x[mask], y[mask], s=30, color=color, alpha=0.8, linewidths=0, zorder=2, label=kind)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set_xlabel(f"{flatten(first.name, MOST)}: mIoU per image (%)", parse_math=False)
    axes.set_ylabel(f"{flatten(change.run.name, MOST)}: mIoU per image (%)", parse_math=False)
    legend = axes.legend(frameon=False, loc="upper left")
    fix_layout(figure)
    labels = [
        (x[i], y[i], flatten(change.run.counts.names[i], MOST), {"color": color, "fontsize": 7.5})
        for better, color in ((True, BETTER), (False, WORSE))
        for i in change.most_changed(3, better)
    ]
    points = axes.transData.transform(np.stack([x[known], y[known]], 1))
    place_labels(axes, labels, np.vstack([boxes_around(points, 4), legend.get_window_extent().extents]))
    return figure
