"""mIoU over GMAC beside the report's systems, and two runs image by image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from hf_urbanseg.reports.comparison import Change, Comparison
from hf_urbanseg.runs.measured import MeasuredRun

COLORS = ("#2f72b8", "#c4561c", "#2f8f5b", "#8a4fb0", "#b3405e", "#6b7d1e")
BETTER, WORSE = COLORS[:2]
_GREY, _FAINT = "#8a8a8a", "#b5b5b5"


@dataclass(frozen=True)
class ReportPoint:
    """A system of the report's Table 1: mIoU in [0, 1] and G, as printed there."""

    name: str
    pretraining: str
    mean_iou: float
    gmac: float


REPORT_POINTS = (
    ReportPoint("Baseline, 180 epochs", "none", 0.2760, 67.003),
    ReportPoint("Baseline, 1000 epochs", "none", 0.4271, 67.003),
    ReportPoint("UNet", "none", 0.4555, 356),
    ReportPoint("DeepLabV3+ R18", "imagenet", 0.5682, 97.193),
    ReportPoint("DeepLabV3+ R50", "imagenet", 0.6041, 316),
    ReportPoint("DeepLabV3+ R101", "imagenet", 0.6063, 455),
    ReportPoint("Swin-T", "imagenet", 0.5945, 79.472),
    ReportPoint("Swin-T", "cityscapes", 0.7628, 79.472),
    ReportPoint("SegFormer-B0", "imagenet", 0.5533, 15.579),
    ReportPoint("SegFormer-B2", "imagenet", 0.6141, 50.633),
    ReportPoint("SegFormer-B5", "imagenet", 0.6842, 150),
    ReportPoint("SegFormer-B0", "cityscapes", 0.7460, 15.579),
    ReportPoint("SegFormer-B2", "cityscapes", 0.7845, 50.633),
    ReportPoint("SegFormer-B5", "cityscapes", 0.8018, 150),
    ReportPoint("PSPNet R18", "imagenet", 0.5933, 97.213),
    ReportPoint("PSPNet R101", "imagenet", 0.6370, 459),
    ReportPoint("CWD: PSPNet R18", "imagenet", 0.5449, 99),
)
"""Source: Liu and Wang 2022 (arXiv:2206.12571), Table 1; its test split of 50 KITTI images."""

_PRETRAINING = {
    "none": ("x", _GREY, "report: from scratch"),
    "imagenet": ("o", "none", "report: ImageNet encoder"),
    "cityscapes": ("o", _GREY, "report: + Cityscapes"),
}


def plot_miou_over_gmac(comparison: Comparison, path: str | Path | None = None) -> Figure:
    """The report's figure with our runs in it: mIoU over multiply-accumulates, the report's systems in grey.

    Bars are the confidence intervals of our mIoU over images. Labels are placed where they hide nothing.

    Args:
        path: A picture to write as well.
    """
    figure = Figure(figsize=(8.2, 5.4), dpi=180, layout="constrained")
    FigureCanvasAgg(figure)
    axes, lines = figure.subplots(), []
    for kind, (marker, face, label) in _PRETRAINING.items():
        points = [point for point in REPORT_POINTS if point.pretraining == kind]
        x, y = [point.gmac for point in points], [100 * point.mean_iou for point in points]
        rim = {"edgecolors": _GREY} if marker == "o" else {}
        axes.scatter(x, y, s=26, marker=marker, c=face, linewidths=1.1, zorder=2, label=label, **rim)
        line = [(p.gmac, 100 * p.mean_iou) for p in points if p.name.startswith("SegFormer")]
        if line:
            axes.plot(*zip(*line, strict=True), color=_FAINT, linewidth=1, zorder=1)
            lines.append(line)
    places = _spread_equal([run.macs / 1e9 for run in comparison.runs])
    for number, (run, interval) in enumerate(zip(comparison.runs, comparison.intervals, strict=True)):
        y = 100 * run.mean_iou
        bars = [[y - 100 * interval.low], [100 * interval.high - y]]
        axes.errorbar(
            places[number],
            y,
            yerr=np.maximum(bars, 0),
            fmt="o",
            color=_color(number),
            markersize=7.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
            elinewidth=1.6,
            capsize=3.5,
            zorder=4,
        )
    _log_axis(axes, [point.gmac for point in REPORT_POINTS] + [run.macs / 1e9 for run in comparison.runs])
    values = [100 * bound for interval in comparison.intervals for bound in (interval.low, interval.high)]
    values += [100 * point.mean_iou for point in REPORT_POINTS]
    axes.set_ylim(max(0, min(values) - 6), min(100, max(values) + 7))
    axes.set_xlabel("multiply-accumulates of one pass at 375x1242 (G, log axis)")
    axes.set_ylabel("mIoU (%)")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    where = f"{comparison.split} of {comparison.first.data}, {len(comparison.first.counts)} images"
    title = f"Ours: {where}, {comparison.intervals[0].confidence:.0%} intervals"
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    axes.legend(
        frameon=False,
        fontsize=7.5,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=3,
        labelcolor="#777777",
        title="Grey: Liu and Wang 2022, Table 1, on their own 50 test images",
        title_fontsize=7.5,
    )
    ours = [
        _Label(places[number], 100 * run.mean_iou, run.name, _color(number), 9, "bold")
        for number, run in enumerate(comparison.runs)
    ]
    theirs = [_Label(p.gmac, 100 * p.mean_iou, p.name, "#777777", 7, "normal") for p in REPORT_POINTS]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels have their place in this layout
    to_pixels = axes.transData.transform
    obstacles = [box for line in lines for box in _boxes_along(to_pixels(line))]
    for x, interval in zip(places, comparison.intervals, strict=True):
        (left, bottom), (_, top) = to_pixels([(x, 100 * interval.low), (x, 100 * interval.high)])
        obstacles.append(Bbox.from_extents(left - 8, bottom - 2, left + 8, top + 2))
    _place_labels(axes, [*ours, *theirs], obstacles)
    if path is not None:
        figure.savefig(path)
    return figure


def plot_image_scores(first: MeasuredRun, change: Change) -> Figure:
    """Per-image mIoU of two runs against each other, a point per image; above the diagonal the second is better."""
    figure = Figure(figsize=(5.4, 5.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x, y = 100 * first.counts.mean_iou, 100 * change.run.counts.mean_iou
    known = ~np.isnan(x + y)
    both = np.concatenate([x[known], y[known]])
    low, high = (5 * np.floor(both.min() / 5), 5 * np.ceil(both.max() / 5 + 0.1)) if both.size else (0, 100)
    axes.plot([low, high], [low, high], color=_FAINT, linewidth=1, zorder=1)
    for mask, color, label in (
        (known & (y > x), BETTER, "better"),
        (known & (y < x), WORSE, "worse"),
        (known & (y == x), _GREY, "equal"),
    ):
        if mask.any():
            kind = f"{mask.sum()} {label}"
            axes.scatter(x[mask], y[mask], s=30, color=color, alpha=0.8, linewidths=0, zorder=2, label=kind)
    labels = [
        _Label(x[i], y[i], change.run.counts.names[i], color, 7.5, "normal")
        for better, color in ((True, BETTER), (False, WORSE))
        for i in change.most_changed(3, better)
    ]
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel(f"{first.name}: mIoU per image (%)", parse_math=False)
    axes.set_ylabel(f"{change.run.name}: mIoU per image (%)", parse_math=False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    around = [_box(*point, 4) for point in axes.transData.transform(np.stack([x[known], y[known]], 1))]
    _place_labels(axes, labels, [*around, axes.get_legend().get_window_extent()])
    return figure


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _log_axis(axes, values: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = min(values) / 1.35, max(values) * 1.45
    axes.set_xlim(low, high)
    ticks = [step * 10.0**decade for decade in range(-3, 5) for step in (1, 2, 5)]
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    text: str
    color: str
    size: float
    weight: str


def _spread_equal(values: Sequence[float]) -> list[float]:
    """Runs of one architecture cost the same; side by side, a twentieth apart, their bars don't hide each other."""
    spread = []
    for number, value in enumerate(values):
        same = [other for other, one in enumerate(values) if abs(np.log(one / value)) < 0.02]
        spread.append(value * 1.06 ** (same.index(number) - (len(same) - 1) / 2))
    return spread


def _boxes_along(points: np.ndarray) -> Iterator[Bbox]:
    for start, end in pairwise(points):
        steps = max(2, int(np.hypot(*(end - start)) / 8))
        yield from (_box(*(start + (end - start) * step / steps), 3) for step in range(steps + 1))


def _box(x: float, y: float, reach: float) -> Bbox:
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _place_labels(axes, labels: Sequence[_Label], obstacles: Sequence[Bbox]) -> None:
    """Writes each label where it covers least: beside its point, or further off with a line to it. In order.

    Args:
        obstacles: In pixels, besides the labels' own points.
    """
    renderer = axes.figure.canvas.get_renderer()
    points = axes.transData.transform([(label.x, label.y) for label in labels]) if labels else []
    taken = [*obstacles, *(_box(*point, 3 * axes.figure.dpi / 72) for point in points)]
    frame = axes.get_window_extent()
    for index, label in enumerate(labels):
        text = axes.annotate(
            label.text, (label.x, label.y), (0, 0), textcoords="offset points", color=label.color, fontsize=label.size,
            weight=label.weight, ha="left", va="bottom", parse_math=False, zorder=5,
        )  # fmt: skip
        extent = text.get_window_extent(renderer)
        scale = axes.figure.dpi / 72
        point, others = points[index], np.delete(points, index, axis=0)
        spots = np.array(list(_spots(extent.width, extent.height, scale)))
        costs = _costs(
            point + spots, extent.size, point, others, np.array([box.extents for box in taken]), frame, scale
        )
        best = spots[costs.argmin()]
        text.set_position((best[0] / scale, best[1] / scale))
        box = Bbox.from_bounds(*(point + best), extent.width, extent.height)
        taken.append(box.padded(1.5 * scale))
        nearest = np.clip(point, box.min, box.max)
        if np.hypot(*(nearest - point)) > 11 * scale:
            axes.annotate(
                "",
                (label.x, label.y),
                ((nearest - point) / scale),
                xycoords="data",
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": label.color, "linewidth": 0.6, "alpha": 0.7, "shrinkB": 3},
            )


def _spots(width: float, height: float, scale: float) -> Iterator[tuple[float, float]]:
    """Lower left corners of a text around its point, in pixels, the best liked first."""
    for gap in (6, 10, 16, 24, 34, 46, 60):
        g = gap * scale
        yield from (
            (g, -height / 2),
            (-g - width, -height / 2),
            (-width / 2, g),
            (-width / 2, -g - height),
            (g * 0.7, g * 0.7),
            (g * 0.7, -g * 0.7 - height),
            (-g * 0.7 - width, g * 0.7),
            (-g * 0.7 - width, -g * 0.7 - height),
        )


def _costs(
    corners: np.ndarray,
    size: np.ndarray,
    point: np.ndarray,
    others: np.ndarray,
    taken: np.ndarray,
    frame: Bbox,
    scale: float,
) -> np.ndarray:
    """How bad each place of a label is; all in pixels.

    Shape:
        corners: (S, 2) lower left ones; size, point: (2,); others: (P, 2) other labels' points; taken: (B, 4) left,
        bottom, right, top.
        returns: (S,)
    """
    low, high = corners, corners + size
    covered = _overlaps(low, high, taken).sum(1)
    outside = size.prod() - _overlaps(low, high, np.array([frame.extents]))[:, 0]
    distance = _distances(low, high, point[None])[:, 0] / scale
    # A label nearer to another point would be read as that one's.
    nearest = _distances(low, high, others).min(1, initial=np.inf) / scale
    return 100 * (covered + outside) / scale**2 + 6 * np.maximum(0, distance + 4 - nearest) + distance


def _distances(low: np.ndarray, high: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(S, P) from S boxes to P points."""
    nearest = np.clip(points[None], low[:, None], high[:, None])
    return np.linalg.norm(nearest - points, axis=-1)


def _overlaps(low: np.ndarray, high: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(S, B) areas that S boxes share with B others."""
    sides = np.minimum(high[:, None], boxes[:, 2:]) - np.maximum(low[:, None], boxes[:, :2])
    return np.maximum(sides, 0).prod(-1)
