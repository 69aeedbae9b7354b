from itertools import combinations

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.text import Annotation
from PIL import Image

from hf_urbanseg.inference.plan import PLAIN
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports.comparison import compare_runs
from hf_urbanseg.reports.comparison_plots import plot_image_scores, plot_miou_over_gmac
from hf_urbanseg.reports.systems import REPORT_POINTS
from hf_urbanseg.runs.measured import MeasuredRun


def build_comparison(tmp_path, *runs, images=8, data="kitti"):
    """Runs as (name, GMAC, share of hits of 100 pixels); one of two classes is labelled."""
    measured = []
    for number, (name, gmac, share) in enumerate(runs):
        hits = np.zeros((images, 2), np.int64)
        noise = np.random.default_rng(number).integers(-8, 9, images)
        hits[:, 0] = np.clip(round(100 * share) + noise, 0, 100)
        labelled = np.zeros_like(hits)
        labelled[:, 0] = 100
        counts = ImageCounts(tuple(f"frame{i}" for i in range(images)), ("x", "y"), hits, labelled, hits.copy())
        measured.append(MeasuredRun(name, tmp_path / name, counts, "single scale", data, PLAIN, 10**6, gmac * 1e9))
    return compare_runs(measured, "test")


def label_boxes(figure):
    """Text -> box in pixels, of the labels in the axes."""
    renderer = figure.canvas.get_renderer()
    (axes,) = figure.axes
    return [
        (text.get_text(), text.get_window_extent(renderer), axes.transData.transform(text.xy))
        for text in axes.texts
        if isinstance(text, Annotation) and text.get_text()
    ]


RUNS = [
    [("demo", 3.9, 0.15), ("other", 3.9, 0.16)],
    [("segformer_b0_kitti", 15.579, 0.55), ("segformer_b2_kitti", 50.633, 0.62), ("segformer_b5_kitti", 150, 0.8)],
    [("a_rather_long_name_of_a_run/seed0", 97.2, 0.59), ("a_rather_long_name_of_a_run/seed1", 97.2, 0.57)],
    [(f"run{i}", 50.6, 0.6 + i / 100) for i in range(6)],
]


@pytest.mark.parametrize("runs", RUNS, ids=["tiny", "one size each", "in the crowd", "six of one cost"])
def test_plot_miou_over_gmac__labels_hide_nothing(tmp_path, runs):
    figure = plot_miou_over_gmac(build_comparison(tmp_path, *runs))
    boxes = label_boxes(figure)
    assert sorted(text for text, _, _ in boxes) == sorted(
        [point.name for point in REPORT_POINTS] + [name for name, *_ in runs]
    )
    for (text, box, _), (other, second, _) in combinations(boxes, 2):
        width = min(box.x1, second.x1) - max(box.x0, second.x0)
        height = min(box.y1, second.y1) - max(box.y0, second.y0)
        assert width <= 0 or height <= 0, f"{text} and {other}"
    points = np.array([point for _, _, point in boxes])
    (axes,) = figure.axes
    frame = axes.get_window_extent()
    for text, box, _ in boxes:
        inside = (points >= box.min).all(1) & (points <= box.max).all(1)
        assert not inside.any(), text
        assert (box.min >= frame.min).all() & (box.max <= frame.max).all(), text


def test_plot_miou_over_gmac__every_point_at_its_place(tmp_path):
    path = tmp_path / "figure.png"
    comparison = build_comparison(tmp_path, ("b2", 50.633, 0.5), ("tiny", 4, 0.3))
    figure = plot_miou_over_gmac(comparison, path)
    (axes,) = figure.axes
    scatters = [drawn for drawn in axes.collections if isinstance(drawn, PathCollection)]
    drawn = {tuple(np.round(point, 6)) for scatter in scatters for point in np.asarray(scatter.get_offsets())}
    for point in REPORT_POINTS:
        assert (round(point.gmac, 6), round(100 * point.mean_iou, 6)) in drawn
    for container, run, interval in zip(axes.containers, comparison.runs, comparison.intervals, strict=True):
        marker, _, (bars,) = container.lines
        assert (marker.get_xdata()[0], marker.get_ydata()[0]) == pytest.approx((run.macs / 1e9, 100 * run.mean_iou))
        ((_, low), (_, high)) = bars.get_segments()[0]
        assert (low, high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert axes.get_xscale() == "log"
    with Image.open(path) as picture:
        assert picture.width > 1200
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize(
    ("data", "theirs"), [("kitti", 1), ("you/KITTI", 1), ("kitti-360", 0), ("camvid", 0), ("not recorded", 0)]
)
def test_plot_miou_over_gmac__the_reports_systems_on_its_data_alone(tmp_path, data, theirs):
    comparison = build_comparison(tmp_path, ("a", 3.2, 0.3), ("b", 3.2, 0.31), data=data)
    (axes,) = plot_miou_over_gmac(comparison).axes
    drawn = {text.get_text() for text in axes.texts if text.get_text()} - {"a", "b"}
    assert drawn == ({point.name for point in REPORT_POINTS} if theirs else set())
    assert bool(axes.collections[len(comparison.runs) :]) == (axes.get_legend() is not None) == bool(theirs)
    assert axes.get_xticks().size  # one cost alone lies between ticks at 2 and 5, too


def test_plot_miou_over_gmac__runs_of_one_cost_stand_side_by_side(tmp_path):
    figure = plot_miou_over_gmac(build_comparison(tmp_path, ("a", 4, 0.3), ("b", 4, 0.31), ("c", 40, 0.3)))
    x = [container.lines[0].get_xdata()[0] for container in figure.axes[0].containers]
    assert x == pytest.approx([4 / 1.06**0.5, 4 * 1.06**0.5, 40])


def test_plot_image_scores__a_point_per_image_on_its_side_of_the_diagonal(tmp_path):
    comparison = build_comparison(tmp_path, ("a", 4, 0.5), ("b", 4, 0.52), images=12)
    figure = plot_image_scores(comparison.first, comparison.changes[0])
    (axes,) = figure.axes
    x, y = 100 * comparison.first.counts.mean_iou, 100 * comparison.changes[0].run.counts.mean_iou
    groups = {text.get_text(): scatter for text, scatter in zip(axes.get_legend().get_texts(), axes.collections)}  # noqa: B905
    for kind, mask in (("better", y > x), ("worse", y < x), ("equal", y == x)):
        if mask.any():
            points = groups[f"{mask.sum()} {kind}"].get_offsets()
            np.testing.assert_allclose(points, np.stack([x[mask], y[mask]], 1))
    boxes = label_boxes(figure)
    assert 1 <= len(boxes) <= 6
    assert axes.get_xlim() == axes.get_ylim()
