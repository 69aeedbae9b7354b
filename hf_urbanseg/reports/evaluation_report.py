"""The page of one evaluation: scores, confusions, the distribution over images, and failures to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.rgb import to_array, to_rgb
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.metrics.mean_iou import compute_scores
from hf_urbanseg.progress import show_progress
from hf_urbanseg.reports.failure_cases import choose_failure_cases, find_confusions
from hf_urbanseg.reports.formats import format_percent
from hf_urbanseg.reports.overlays import FADED_VOID, find_classes
from hf_urbanseg.reports.pages import embed_figure, embed_frame, write_page
from hf_urbanseg.reports.plots import plot_reliability
from hf_urbanseg.reports.tables import COLUMNS, build_class_table

_MATRIX_CLASSES, _STRIP_BARS, _LISTED_IMAGES, _BINS = 60, 200, 500, 20
_HEADLINES = (
    ("mean_accuracy", "mean accuracy", "over the classes"),
    ("overall_accuracy", "overall accuracy", "of all labelled pixels"),
    ("frequency_weighted_iou", "frequency-weighted IoU", "classes weighted by their pixels"),
    ("mean_category_iou", "category mIoU", "over groups of classes"),
    ("mean_boundary_iou", "boundary mIoU", "outlines only"),
)


def write_evaluation_report(
    path: str | Path,
    *,
    title: str,
    label_space: LabelSpace,
    scores: Mapping,
    images: ImageCounts,
    cases: Sequence[Mapping],
    data: str,
    **said,
) -> None:
    """Writes one self-contained HTML file, whole or not at all.

    Args:
        scores: As `describe_scores` gives them; `mean_iou`, `iou`, `support` and `confusion_matrix` are needed, of the
            others what is there is shown.
        images: Pixel counts of every image measured.
        cases: From `describe_failure`.
        data: What was measured on, in a sentence.
        said: `recipe`, YAML text or None for a model without; `protocol` (`PredictionPlan.describe`); `failure_rule`
            (`describe_rule`); `environment`, names and values for the end of the page.
    """
    matrix = np.array(scores["confusion_matrix"], np.int64)
    rows = build_class_table(scores, label_space)
    guess, interval = scores.get("constant_guess") or {}, scores.get("confidence_interval") or {}
    measured, classes = sum(row["iou"] is not None for row in rows[:-1]), label_space.num_labels
    write_page(
        path,
        "evaluation_report.html.j2",
        title=title,
        subtitle=data,
        space=label_space,
        scores={"category_iou": None, "absent_classes": None, "calibration": None} | dict(scores),
        reliability=scores.get("calibration")
        and embed_figure(
            plot_reliability(scores["calibration"]), "Accuracy over confidence, and pixels over confidence"
        ),
        images=images,
        scored_classes=f"{measured} of {classes}" if measured < classes else f"all {measured}",
        interval={} if interval.get("low") is None else interval,
        guess={key: value for key, value in guess.items() if value is not None},
        headlines=[headline for headline in _HEADLINES if scores.get(headline[0]) is not None],
        columns=[(key, *words) for key, words in COLUMNS.items() if key in rows[-1]],
        rows=rows[:-1],
        mean=rows[-1],
        pixels=sum(row["pixels"] for row in rows[:-1]),
        members={
            category: [c for c, own in enumerate(label_space.categories) if own == category]
            for category in label_space.categories
        },
        counts=matrix,
        matrices=_normalise(matrix) if classes <= _MATRIX_CLASSES else [],
        confusions=find_confusions(matrix, 12),
        wrong=int(matrix.sum() - np.trace(matrix)),
        **_describe_images(images, [case["name"] for case in cases]),
        cases=cases,
        void_color=FADED_VOID,
        **said,
    )


def _normalise(matrix: np.ndarray) -> list[dict]:
    """Both ways: the shares, and how strongly each is coloured."""
    kinds = (
        ("row", "of each labelled class", "Rows sum to 100 %: what the pixels labelled as a class were taken for."),
        ("column", "of each predicted class", "Columns sum to 100 %: what the pixels predicted as a class are."),
    )
    normalised = []
    for axis, (key, name, caption) in zip((1, 0), kinds, strict=True):
        shares = matrix / np.maximum(matrix.sum(axis, keepdims=True), 1)
        # The square root lets a confusion of 5 % be seen beside a diagonal of 95 %.
        strength = np.where(np.eye(len(matrix), dtype=bool), shares, np.sqrt(shares))
        normalised.append({"key": key, "name": name, "caption": caption, "shares": shares, "strength": strength})
    return normalised


def _describe_images(images: ImageCounts, shown: Sequence[str]) -> dict:
    """Histogram, sorted bars (groups of images where there are many), and what the list needs, worst first."""
    mean_iou, iou = images.mean_iou, images.iou
    order = [int(i) for i in np.argsort(mean_iou, kind="stable") if not np.isnan(mean_iou[i])]
    anchors = {name: f"case-{number}" for number, name in enumerate(shown, 1)}
    counts = np.histogram(mean_iou[order], _BINS, (0, 1))[0].tolist()
    bars = []
    for group in np.array_split(np.array(order, int), min(len(order), _STRIP_BARS) or 1):
        names = [f"{images.names[i]}: {format_percent(mean_iou[i], 1)} %" for i in group[:6]]
        bars.append({
            "value": mean_iou[group].mean() if len(group) else 0,
            "hint": ", ".join(names) + (f", and {len(group) - 6} more" if len(group) > 6 else ""),
            "anchor": next((anchors[images.names[i]] for i in group if images.names[i] in anchors), None),
        })  # fmt: skip
    return {
        "order": order,
        "mean_iou": mean_iou,
        "accuracy": images.overall_accuracy,
        "worst_class": np.where(np.isnan(iou), np.inf, iou).argmin(1),
        "quantiles": np.quantile(mean_iou[order], (0, 0.25, 0.5, 0.75, 1)) if order else None,
        "bins": [(100 * k // _BINS, count) for k, count in enumerate(counts)],
        "most": max(*counts, 1),
        "bars": bars,
        "anchors": anchors,
        "most_listed": _LISTED_IMAGES,
    }


def collect_failures(
    predictor: Predictor, data: LoadedData, split: str, images: ImageCounts, overall: int, per_class: int
) -> list[dict]:
    """What `choose_failure_cases` chooses of the split's images, predicted once more: to keep all would take memory."""
    cases = []
    chosen = choose_failure_cases(images, overall, per_class)
    with show_progress(len(chosen), "failure cases", "image") as bar:
        for index, reasons in chosen.items():
            row = data.splits[split][index]
            image = to_rgb(row["image"])
            label = read_train_ids(row["label"], data.label_space)
            prediction = predictor.predict([to_array(row["image"])])[0]
            cases.append(describe_failure(row["name"], reasons, image, prediction, label, data.label_space))
            bar.update()
    return cases


def describe_failure(
    name: str,
    reasons: Sequence[str],
    image: Image.Image,
    prediction: np.ndarray,
    label: np.ndarray,
    label_space: LabelSpace,
) -> dict:
    """What the page shows of one image; prediction and label are (H, W) uint8 train ids of its size."""
    maps = (torch.tensor(ids) for ids in (prediction, label))
    matrix = ConfusionMatrix(label_space.num_labels).update(*maps).numpy()
    shown, marked, predicted, errors = embed_frame(name, image, label, {"prediction": prediction}, label_space)
    return {
        "name": name,
        "reasons": reasons,
        "mean_iou": compute_scores(matrix)["mean_iou"],
        "wrong": int(matrix.sum() - np.trace(matrix)),
        "labelled": max(int(matrix.sum()), 1),
        "confusions": find_confusions(matrix, 6),
        "classes": find_classes(label_space, label, prediction),
        "pictures": [shown, errors, marked, predicted],
    }
