"""Curves and bar charts of a run, drawn without a display or global state."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace

_LINE, _BEST = "#1f5fa8", "#c0392b"
_EDGE = "#333333"
_RIGHT, _CONFUSED = (0.46, 0.66, 0.91), (0.94, 0.52, 0.33)


def plot_training_curves(log_history: Sequence[dict], path: str | Path) -> None:
    """Draws training loss, learning rate and validation scores over steps, the best step marked.

    Args:
        log_history: `trainer.state.log_history`: dicts with `step` and some of `loss`, `learning_rate`,
            `eval_mean_iou`, `eval_overall_accuracy`. Any of them may be missing altogether.
        path: The picture to write (.png, .svg, .pdf).
    """
    figure = _figure(9, 9)
    loss_axes, rate_axes, score_axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.4, 3))

    steps, losses = _series(log_history, "loss")
    _draw(loss_axes, steps, losses, color=_LINE, alpha=0.3, label="logged")
    if len(losses) >= 5:
        loss_axes.plot(steps, _smooth(losses), color=_LINE, linewidth=2, label="smoothed")
        loss_axes.legend(frameon=False)
    loss_axes.set_ylabel("training loss")
    if len(losses) and losses.min() >= 0:
        loss_axes.set_ylim(bottom=0)

    _draw(rate_axes, *_series(log_history, "learning_rate"), color=_LINE)
    rate_axes.set_ylabel("learning rate")
    rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))

    steps, accuracy = _series(log_history, "eval_overall_accuracy")
    if len(steps):
        score_axes.plot(steps, 100 * accuracy, ".--", color="#7f7f7f", label="overall accuracy")
    steps, mean_iou = _series(log_history, "eval_mean_iou")
    if len(steps):
        score_axes.plot(steps, 100 * mean_iou, ".-", color=_LINE, linewidth=2, label="mIoU")
        best = int(mean_iou.argmax())
        label = f"best mIoU: {100 * mean_iou[best]:.2f} % at step {steps[best]:.0f}"
        score_axes.axvline(steps[best], color=_BEST, linewidth=1, linestyle=":")
        score_axes.plot(steps[best], 100 * mean_iou[best], "*", color=_BEST, markersize=14, label=label)
    if score_axes.lines:
        score_axes.set_ylim(0, 100)
        # Below the axes, where no curve can be hidden.
        score_axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.22))
    else:
        _say_nothing_logged(score_axes, "no evaluation was logged")
    score_axes.set_ylabel("validation (%)")
    score_axes.set_xlabel("step")
    for axes in (loss_axes, rate_axes, score_axes):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


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

    Raises:
        ConfigError: The number of counts or weights is not the number of classes.
    """
    counts = np.asarray(counts, dtype=np.int64)
    _check_length("counts", counts, label_space)
    figure, axes = _class_bars(label_space)
    total = max(int(counts.sum()), 1)
    present = counts[counts > 0]
    # Bars begin a decade below the rarest class: a log axis has no zero to begin at.
    low = 10.0 ** (np.floor(np.log10(present.min())) - 1) if present.size else 1.0
    high = float(present.max()) if present.size else 10.0
    axes.barh(
        range(len(counts)), np.maximum(counts, low), color=_bar_colors(label_space), edgecolor=_EDGE, linewidth=0.8
    )
    axes.set_xscale("log")
    # Room for the text beside the longest bar, without ticks for numbers that don't occur.
    axes.set_xlim(low, high * (high / low) ** 0.45)
    decades = np.arange(np.log10(low), np.log10(high) + 1)
    axes.set_xticks(10.0 ** decades[:: -(-len(decades) // 9)])
    axes.minorticks_off()
    for row, count in enumerate(counts.tolist()):
        share = 100 * count / total
        text = f"{count:,}  ({share:.2f} %)" if share >= 0.01 else f"{count:,}  (< 0.01 %)"
        _write(axes, row, max(count, low), text if count else "absent", bool(count))
    if weights is not None:
        _check_length("weights", weights, label_space)
        across = axes.get_yaxis_transform()
        axes.text(1.12, -0.9, "weight", transform=across, ha="right", va="center", weight="bold")
        for row, weight in enumerate(weights):
            axes.text(1.12, row, f"{float(weight):.4f}", transform=across, ha="right", va="center")
    axes.set_xlabel("pixels (log axis)")
    axes.set_title(title, loc="left", pad=8 if weights is None else 22, parse_math=False)
    figure.savefig(path)


def plot_class_iou(iou: Sequence[float | None], label_space: LabelSpace, path: str | Path) -> None:
    """Draws one bar per class and the mean as a line.

    Args:
        iou: (C,) in [0, 1]; NaN or None for a class that does not occur, shown as "absent" and left out of the mean.

    Raises:
        ConfigError: The number of values is not the number of classes.
    """
    iou = np.array([np.nan if value is None else float(value) for value in iou])
    _check_length("iou", iou, label_space)
    figure, axes = _class_bars(label_space)
    present = ~np.isnan(iou)
    percent = 100 * np.where(present, iou, 0)
    axes.barh(range(len(iou)), percent, color=_bar_colors(label_space), edgecolor=_EDGE, linewidth=0.8)
    for row, value in enumerate(percent):
        _write(axes, row, value, f"{value:.1f}" if present[row] else "absent", bool(present[row]))
    title = "IoU per class"
    if present.any():
        mean = percent[present].mean()
        axes.axvline(mean, color=_BEST, linewidth=1.2, linestyle="--", zorder=0)
        title += f": mean {mean:.2f} % over {present.sum()} classes (dashed line)"
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("IoU (%)")
    axes.set_title(title, loc="left")
    figure.savefig(path)


def plot_confusion_matrix(
    matrix: np.ndarray, label_space: LabelSpace, path: str | Path, normalize: str = "label"
) -> None:
    """Draws a confusion matrix in percent, the diagonal in blue and the confusions in red.

    Args:
        matrix: (C, C) counts; row = label, column = prediction.
        normalize: "label": every row sums to 100 %; "prediction": every column. One without pixels stays empty.

    Raises:
        ConfigError: The matrix is not of the classes, or another `normalize`.
    """
    matrix = np.asarray(matrix, np.int64)
    classes = label_space.num_labels
    if matrix.shape != (classes, classes):
        found = "x".join(map(str, matrix.shape))
        raise ConfigError(f"a matrix of {classes}x{classes}", found, f"use the classes of {label_space.name}", path)
    if normalize not in ("label", "prediction"):
        raise ConfigError('`normalize` "label" or "prediction"', f"{normalize!r}", "choose one")
    shares = matrix / np.maximum(matrix.sum(1 if normalize == "label" else 0, keepdims=True), 1)
    own = np.eye(classes, dtype=bool)
    # The square root lets a confusion of 5 % be seen beside a diagonal of 95 %.
    strength = np.where(own, shares, np.sqrt(shares))[..., None]
    colors = 1 - strength * (1 - np.where(own[..., None], _RIGHT, _CONFUSED))
    size = 3 + 0.42 * classes
    figure = _figure(size, size)
    axes = figure.subplots()
    axes.imshow(colors, interpolation="nearest")
    axes.set_xticks(range(classes), label_space.names, rotation=90, parse_math=False)
    axes.set_yticks(range(classes), label_space.names, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e4e4e4", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    for row, column in np.argwhere(shares >= 0.005).tolist():
        axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    whole = "what each labelled class is taken for" if normalize == "label" else "what each predicted class is"
    axes.set_title(f"{whole} (%)", loc="left")
    figure.savefig(path)


def plot_image_iou(mean_iou: Sequence[float], path: str | Path) -> None:
    """Draws how many images have which mIoU, and the median.

    Args:
        mean_iou: (N,) in [0, 1]; NaN for an image without labelled pixels, which is left out.
    """
    values = 100 * np.asarray(mean_iou, float)
    values = values[~np.isnan(values)]
    figure = _figure(9, 4)
    axes = figure.subplots()
    axes.set_xlim(0, 100)
    axes.set_xlabel("mIoU of one image (%)")
    axes.set_ylabel("images")
    axes.spines[["top", "right"]].set_visible(False)
    if len(values):
        axes.hist(values, 20, (0, 100), color=_LINE, edgecolor="white")
        median = float(np.median(values))
        axes.axvline(median, color=_BEST, linewidth=1.2, linestyle="--")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_title(f"{len(values):,} images, median {median:.1f} % (dashed line)", loc="left")
    else:
        _say_nothing_logged(axes, "no image has a labelled pixel")
    figure.savefig(path)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    FigureCanvasAgg(figure)
    return figure


def _class_bars(label_space: LabelSpace):
    figure = _figure(10, 1.4 + 0.3 * label_space.num_labels)
    axes = figure.subplots()
    rows = range(label_space.num_labels)
    axes.set_yticks(rows, label_space.names, parse_math=False)
    axes.set_ylim(label_space.num_labels - 0.4, -0.6)  # train id 0 on top
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bar_colors(label_space: LabelSpace) -> np.ndarray:
    return np.array(label_space.colors) / 255


def _write(axes, row: int, x: float, text: str, strong: bool) -> None:
    axes.annotate(
        text, (x, row), (5, 0), textcoords="offset points", va="center",
        color="black" if strong else "#777777", style="normal" if strong else "italic",
    )  # fmt: skip


def _series(log_history: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one key, in order of steps; a step logged twice (after a resume) counts last."""
    logged = {
        entry["step"]: float(entry[key]) for entry in log_history if "step" in entry and entry.get(key) is not None
    }
    points = sorted((step, value) for step, value in logged.items() if np.isfinite(value))
    return np.array([step for step, _ in points], float), np.array([value for _, value in points], float)


def _draw(axes, steps: np.ndarray, values: np.ndarray, **style) -> None:
    if not len(steps):
        _say_nothing_logged(axes, "nothing was logged")
    axes.plot(steps, values, marker="o" if len(steps) == 1 else None, **style)


def _say_nothing_logged(axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#777777")
    axes.set_yticks([])


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over about a twentieth of the run, centred on each step, so that it does not lag behind a falling loss."""
    window = np.hanning(2 * max(1, len(values) // 40) + 3)
    # Near the ends the window is cut, so it is divided by what is left of it.
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _check_length(what: str, values: Sequence, label_space: LabelSpace) -> None:
    if len(values) != label_space.num_labels:
        raise ConfigError(
            f"{label_space.num_labels} {what}, one per class of {label_space.name}",
            f"{len(values)}",
            "use the classes the numbers were computed with",
        )
