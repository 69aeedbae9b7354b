import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.reports import plots
from hf_urbanseg.reports.figures import build_axes
from hf_urbanseg.reports.plots import plot_class_distribution, plot_class_iou, plot_training_curves

SPACE = LabelSpace("three", ("road", "$car$", "train"), ((128, 64, 128), (0, 0, 142), (0, 80, 100)), {})


@pytest.fixture
def drawn(monkeypatch):
    """The figures made, to look at what was drawn rather than at pixels."""
    figures = []

    def build(*size, **options):
        figure, axes = build_axes(*size, **options)
        figures.append(figure)
        return figure, axes

    monkeypatch.setattr(plots, "build_axes", build)
    return figures


def _texts(axes):
    return [text.get_text() for text in axes.texts]


def _assert_inside(figure: Figure):
    """Every text lies inside the picture and no two of one axes overlap."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    whole = figure.bbox
    for axes in figure.axes:
        texts = [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, *axes.get_yticklabels()]
        boxes = [text.get_window_extent(renderer) for text in texts if text.get_text() and text.get_visible()]
        for box in boxes:
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1
        for index, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def _history():
    history = [{"loss": 3.0 - 0.01 * step, "learning_rate": 1e-5, "step": step} for step in range(10, 210, 10)]
    scores = ((50, 0.2), (100, 0.5), (150, 0.4))
    history += [{"eval_mean_iou": m, "eval_overall_accuracy": 0.9, "eval_loss": 1.0, "step": s} for s, m in scores]
    return [*history, {"train_loss": 1.5, "train_runtime": 3.0, "step": 200}]


def test_plot_training_curves__marks_the_best_step(drawn, tmp_path):
    plot_training_curves(_history(), tmp_path / "curves.png")
    loss, rate, scores, accuracy = drawn[0].axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), 3.0 - 0.01 * np.arange(10, 210, 10))
    assert rate.lines[0].get_ydata().tolist() == [1e-5] * 20
    _, curve, star = scores.lines
    assert curve.get_label() == "mIoU, best 50.00 % at step 100"
    assert curve.get_xydata().tolist() == [[50, 20], [100, 50], [150, 40]]
    assert star.get_xydata().tolist() == [[100, 50]]
    assert accuracy.lines[0].get_ydata().tolist() == [90, 90, 90]
    assert Image.open(tmp_path / "curves.png").format == "PNG"
    _assert_inside(drawn[0])


@pytest.mark.parametrize(
    ("scores", "low", "high"),
    [
        ([0.18, 0.23], 15, 25),
        ([0.2], 15, 25),
        ([0.18, float("nan"), 0.23], 15, 25),
        ([0.0, 0.004], 0, 1),
        ([1.0], 90, 100),
    ],
)
def test_plot_training_curves__scores_fill_their_axis(drawn, tmp_path, scores, low, high):
    """Of averaged weights, too, whose curve is no other than the raw ones'; the range is said."""
    history = [{"eval_mean_iou": one, "eval_overall_accuracy": 0.9, "step": step} for step, one in enumerate(scores)]
    history += [{"eval_ema_mean_iou": one, "step": step} for step, one in enumerate(scores)]
    plot_training_curves(history, tmp_path / "curves.png")
    axes, accuracy = drawn[0].axes[2:]
    assert low <= axes.get_ylim()[0] < 100 * np.nanmin(scores) + 1e-9
    assert high >= axes.get_ylim()[1] > 100 * np.nanmax(scores) - 1e-9
    assert axes.get_ylabel() == "validation mIoU (%)" + ("\naxis not from 0" if low else "")
    assert accuracy.get_ylabel().endswith("axis not from 0")
    raw, averaged = axes.lines[1], axes.lines[4]
    assert raw.get_xydata().tolist() == averaged.get_xydata().tolist()
    assert averaged.get_label().startswith("mIoU of averaged weights, best ")
    _assert_inside(drawn[0])


def test_plot_training_curves__smoothing_keeps_level_and_does_not_lag():
    np.testing.assert_allclose(plots._smooth(np.full(50, 2.5)), 2.5)
    line = np.arange(200.0)
    np.testing.assert_allclose(plots._smooth(line)[20:-20], line[20:-20])
    noisy = np.random.default_rng(0).normal(size=400)
    assert plots._smooth(noisy).std() < 0.5 * noisy.std()


def test_plot_training_curves__no_evaluation(drawn, tmp_path):
    history = [entry for entry in _history() if "eval_mean_iou" not in entry]
    plot_training_curves(history, tmp_path / "curves.png")
    assert [_texts(axes) for axes in drawn[0].axes[2:]] == [["no evaluation was logged"]] * 2


@pytest.mark.parametrize("history", [[], _history()[:1], _history()[20:21], [{"loss": float("nan"), "step": 1}]])
def test_plot_training_curves__nothing_or_one_point(tmp_path, history):
    plot_training_curves(history, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size == (990, 1100)


def test_plot_training_curves__a_lone_point_is_visible(drawn, tmp_path):
    plot_training_curves(_history()[:1], tmp_path / "curves.png")
    assert drawn[0].axes[0].lines[0].get_marker() == "o"


def test_plot_training_curves__a_step_logged_twice_counts_once(drawn, tmp_path):
    plot_training_curves([{"loss": 2.0, "step": 5}, {"loss": 1.0, "step": 5}], tmp_path / "curves.png")
    assert drawn[0].axes[0].lines[0].get_xydata().tolist() == [[5, 1]]


def test_plot_class_distribution__counts_shares_and_weights(drawn, tmp_path):
    plot_class_distribution([99990, 10, 0], SPACE, tmp_path / "a.png", weights=[0.5, 1.25, 1.25], title="Train $x$")
    axes = drawn[0].axes[0]
    assert _texts(axes) == [
        "99,990  (99.99 %)", "10  (0.01 %)", "absent", "weight", "0.5000", "1.2500", "1.2500",
    ]  # fmt: skip
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["road", "$car$", "train"]
    widths = [bar.get_x() + bar.get_width() for bar in axes.patches]
    assert widths[:2] == [99990, 10]
    assert widths[2] == axes.get_xlim()[0]  # an absent class has no bar
    assert [tuple(round(255 * c) for c in bar.get_facecolor()[:3]) for bar in axes.patches] == list(SPACE.colors)
    assert all(bar.get_edgecolor()[3] == 1 and bar.get_linewidth() > 0 for bar in axes.patches)
    _assert_inside(drawn[0])


@pytest.mark.parametrize("counts", [[0] * 19, [1] * 19, [10**12, *range(18)], [7, *[0] * 18]])
@pytest.mark.parametrize("weights", [None, [123.4567] * 19])
def test_plot_class_distribution__text_fits(drawn, tmp_path, counts, weights):
    title = "Labelled pixels per class of the training split of a data set with a long name, 36 frames, void left out"
    plot_class_distribution(counts, CITYSCAPES, tmp_path / "a.png", weights, title)
    _assert_inside(drawn[0])


def test_plot_class_iou__absent_is_not_zero(drawn, tmp_path):
    plot_class_iou([0.5, 0.0, None], SPACE, tmp_path / "a.png")
    axes = drawn[0].axes[0]
    assert _texts(axes) == ["50.0", "0.0", "absent"]
    assert axes.get_title(loc="left") == "IoU per class: mean 25.00 % over 2 classes (dashed line)"
    assert [bar.get_width() for bar in axes.patches] == [50, 0, 0]
    _assert_inside(drawn[0])


def test_plot_class_iou__numbers_stand_out_from_the_line_of_the_mean(drawn, tmp_path):
    plot_class_iou([0.01, 0.02, 0.03], SPACE, tmp_path / "iou.png")
    (line,) = drawn[0].axes[0].lines
    red = np.array(to_rgb(line.get_color())) * 255
    picture = np.asarray(Image.open(tmp_path / "iou.png").convert("RGB")).astype(int)
    for text in drawn[0].axes[0].texts:
        box = text.get_window_extent()
        inside = picture[::-1][int(box.y0) + 4 : int(box.y1) - 4, int(box.x0) + 2 : int(box.x1) - 2]
        assert np.abs(inside - red).sum(-1).min() > 60


def test_plot_class_iou__none_present(drawn, tmp_path):
    plot_class_iou([None, None, None], SPACE, tmp_path / "a.png")
    assert _texts(drawn[0].axes[0]) == ["absent"] * 3
