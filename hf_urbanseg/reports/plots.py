"""Curves and bar charts of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from hf_urbanseg.escaping import flatten
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.figures import BEST, FAINT, LINE, MOST, OURS, build_axes, save_figure
from hf_urbanseg.reports.formats import format_percent


def plot_training_curves(log_history: Sequence[dict], path: str | Path) -> None:
    """Draws training loss, learning rate and validation scores over steps, the best step of each mIoU marked.

    Scores have the range that they take, not 0 to 100: a gain of one point is to be seen.

    Args:
        log_history: `trainer.state.log_history`: dicts with `step` and some of `loss`, `learning_rate`,
            `eval_mean_iou`, `eval_ema_mean_iou`, `eval_overall_accuracy`. Any of them may be missing altogether.
    """
    rows = {"nrows": 4, "sharex": True, "height_ratios": (2.6, 1.2, 3, 1.4)}
    figure, (loss_axes, rate_axes, score_axes, accuracy_axes) = build_axes(9, 10, **rows)

    steps, losses = _series(log_history, "loss")
    _draw(loss_axes, steps, losses, alpha=0.3, label="logged")
    if len(losses) >= 5:
        loss_axes.plot(steps, _smooth(losses), color=OURS, linewidth=2, label="smoothed")
        loss_axes.legend(frameon=False)
    loss_axes.set_ylabel("training loss")
    if len(losses) and losses.min() >= 0:
        loss_axes.set_ylim(bottom=0)

    _draw(rate_axes, *_series(log_history, "learning_rate"))
    rate_axes.set_ylabel("learning rate")
    rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))

    for key, name, line in (("eval_mean_iou", "mIoU", ".-"), ("eval_ema_mean_iou", "mIoU of averaged weights", ".--")):
        steps, mean_iou = _series(log_history, key)
        if len(steps):
            best = int(mean_iou.argmax())
            label = f"{name}, best {format_percent(mean_iou[best])} % at step {steps[best]:.0f}"
            score_axes.axvline(steps[best], color=BEST, linewidth=1, linestyle=":")
            score_axes.plot(steps, 100 * mean_iou, line, color=OURS, linewidth=2, label=label)
            score_axes.plot(steps[best], 100 * mean_iou[best], "*", color=BEST, markersize=14)
    if score_axes.lines:
        score_axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))  # hides no curve
    _label_scores(score_axes, "validation mIoU")

    steps, accuracy = _series(log_history, "eval_overall_accuracy")
    if len(steps):
        accuracy_axes.plot(steps, 100 * accuracy, ".-", color=OURS)
    _label_scores(accuracy_axes, "overall\naccuracy")
    accuracy_axes.set_xlabel("step")
    save_figure(figure, path)


def plot_class_distribution(
    counts: Sequence[int],
    label_space: LabelSpace,
    path: str | Path,
    weights: Sequence[float] | None = None,
    title: str = "Labelled pixels per class",
) -> None:
    """Draws one bar per class on a log axis, with count and share of all labelled pixels, and its weight.

    Args:
        counts: (C,) labelled pixels per class; 0 is shown as "absent".
        weights: (C,) loss weights, *optional*.
    """
    counts = np.asarray(counts, dtype=np.int64)
    total = max(int(counts.sum()), 1)
    present = counts[counts > 0]
    # Bars begin a decade below the rarest class: a log axis has no zero to begin at.
    low = 10.0 ** (np.floor(np.log10(present.min())) - 1) if present.size else 1.0
    high = float(present.max()) if present.size else 10.0
    texts = [
        f"{count:,}  ({format_percent(count / total)} %)" if count >= 1e-4 * total else f"{count:,}  (< 0.01 %)"
        for count in counts.tolist()
    ]
    figure, axes = _draw_class_bars(np.maximum(counts, low), texts, counts > 0, label_space)
    axes.set_xscale("log")
    # Room for the text beside the longest bar, without ticks for numbers that don't occur.
    axes.set_xlim(low, high * (high / low) ** 0.45)
    decades = np.arange(np.log10(low), np.log10(high) + 1)
    axes.set_xticks(10.0 ** decades[:: -(-len(decades) // 9)])
    axes.minorticks_off()
    if weights is not None:
        across = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        axes.text(1.12, -0.9, "weight", weight="bold", **across)
        for row, weight in enumerate(weights):
            axes.text(1.12, row, f"{float(weight):.4f}", **across)
    axes.set_xlabel("pixels (log axis)")
    axes.set_title(flatten(title, 3 * MOST), loc="left", pad=8 if weights is None else 22, parse_math=False)
    save_figure(figure, path)


def plot_class_iou(iou: Sequence[float | None], label_space: LabelSpace, path: str | Path) -> None:
    """Draws one bar per class and the mean as a line.

    Args:
        iou: (C,) in [0, 1]; None for a class that does not occur, shown as "absent" and left out of the mean.
    """
    iou = np.array(iou, float)  # None becomes NaN
    present = ~np.isnan(iou)
    texts = [format_percent(value, 1) for value in iou]
    figure, axes = _draw_class_bars(100 * np.where(present, iou, 0), texts, present, label_space)
    title = "IoU per class"
    if present.any():
        mean = iou[present].mean()
        axes.axvline(100 * mean, color=BEST, linewidth=1.2, linestyle="--", zorder=0)
        title += f": mean {format_percent(mean)} % over {present.sum()} classes (dashed line)"
    axes.set(xlim=(0, 108), xticks=range(0, 101, 20), xlabel="IoU (%)")
    axes.set_title(title, loc="left")
    save_figure(figure, path)


def plot_reliability(calibration: Sequence[Mapping]) -> Figure:
    """Draws accuracy over confidence, a point for each bin that has pixels, and the share of the pixels in each.

    Args:
        calibration: `calibration` of `describe_scores`: at temperature 1, and at the fitted one where there is one.
    """
    figure, (axes, shares) = build_axes(5.4, 6.6, nrows=2, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 100], [0, 100], **LINE)
    edges = np.linspace(0, 100, len(calibration[0]["bins"]["pixels"]) + 1)
    for one, color in zip(calibration, (OURS,) if len(calibration) == 1 else (FAINT, OURS), strict=True):
        pixels, confidence, accuracy = (np.array(values, float) for values in one["bins"].values())
        label = f"temperature {one['temperature']:.4g}: ECE {format_percent(one['ece'])} %"
        axes.plot(100 * confidence, 100 * accuracy, ".-", color=color, label=label)
        shares.stairs(100 * pixels / max(pixels.sum(), 1), edges, color=color, linewidth=1.5)
    axes.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy (%)")
    axes.legend(frameon=False, loc="upper left")
    shares.set(xlabel="confidence (%)", ylabel="pixels (%)")
    return figure


def _draw_class_bars(
    widths: np.ndarray, texts: Sequence[str], present: np.ndarray, label_space: LabelSpace
) -> tuple[Figure, Axes]:
    """A bar per class with its text beside it, train id 0 on top."""
    classes = label_space.num_labels
    figure, axes = build_axes(10, 1.4 + 0.3 * classes, grid="x")
    colors = np.array(label_space.colors) / 255
    axes.barh(range(classes), widths, color=colors, edgecolor="#333333", linewidth=0.8)
    axes.set_yticks(range(classes), [flatten(name, MOST) for name in label_space.names], parse_math=False)
    axes.set_ylim(classes - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for row, (width, text, there) in enumerate(zip(widths, texts, present, strict=True)):
        style = {"path_effects": [withStroke(linewidth=3, foreground="white")]}  # on the line of the mean
        style |= {} if there else {"color": FAINT, "style": "italic"}
        axes.annotate(
            text if there else "absent", (width, row), (5, 0), textcoords="offset points", va="center", **style
        )
    return figure, axes


def _series(log_history: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one key, in order of steps; a step logged twice (after a resume) counts last."""
    logged = {
        entry["step"]: float(entry[key]) for entry in log_history if "step" in entry and entry.get(key) is not None
    }
    points = sorted((step, value) for step, value in logged.items() if np.isfinite(value))
    return tuple(np.array(points, float).reshape(-1, 2).T)


def _draw(axes: Axes, steps: np.ndarray, values: np.ndarray, **style) -> None:
    if not len(steps):
        _say_nothing_logged(axes, "nothing was logged")
    axes.plot(steps, values, marker="o" if len(steps) == 1 else None, color=OURS, **style)


def _label_scores(axes: Axes, name: str) -> None:
    """Names an axis in percent, and says where it doesn't begin at 0."""
    cut = ""
    if axes.lines:
        low, high = axes.get_ylim()
        axes.set_ylim(max(0, low), min(100, high))
        cut = "\naxis not from 0" if low > 0 else ""
    else:
        _say_nothing_logged(axes, "no evaluation was logged")
    axes.set_ylabel(f"{name} (%){cut}")


def _say_nothing_logged(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT)
    axes.set_yticks([])


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over about a twentieth of the run, centred on each step, so that it does not lag behind a falling loss."""
    window = np.hanning(2 * max(1, len(values) // 40) + 3)
    # Near the ends the window is cut, so it is divided by what is left of it.
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
