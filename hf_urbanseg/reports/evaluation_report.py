"""The page of one evaluation: scores, confusions, the distribution over images, and failures to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.metrics.mean_iou import compute_scores
from hf_urbanseg.reports.failure_cases import FailureCase, count_confusions, describe_rule, find_confusions
from hf_urbanseg.reports.formats import format_percent
from hf_urbanseg.reports.overlays import FADED_VOID, error_map
from hf_urbanseg.reports.pages import (
    embed_drawing,
    embed_label_map,
    embed_photo,
    fit_pixels,
    write_page,
)

_MATRIX_CLASSES, _STRIP_BARS, _LISTED_IMAGES, _BINS = 60, 200, 500, 20
# Key of the scores by class, heading, hover text of the heading.
_CLASS_COLUMNS = (
    ("iou", "IoU", "hits / (labelled + predicted - hits)"),
    ("accuracy", "recall", "share of the labelled pixels that are found; also called accuracy"),
    ("precision", "precision", "share of the predicted pixels that are right"),
    ("dice", "Dice", "2 hits / (labelled + predicted)"),
    ("boundary_iou", "boundary IoU", "IoU within a band along the outlines"),
)
_HEADLINES = (
    ("mean_accuracy", "mean recall", "over the classes"),
    ("overall_accuracy", "pixels right", "of all labelled pixels"),
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
    failures: Sequence[FailureCase],
    recipe: str | None,
    protocol: str,
    data: str,
    environment: Mapping,
    failure_rule: str | None = None,
) -> None:
    """Writes one self-contained HTML file, whole or not at all.

    Args:
        path: The .html file.
        title: Which model on which data.
        label_space: The classes, with colours and categories.
        scores: As `describe_scores` gives them; `mean_iou`, `iou`, `support` and `confusion_matrix` are needed, of the
            others what is there is shown.
        images: Pixel counts of every image measured.
        failures: What to show, in order; see `choose_failure_cases`.
        recipe: YAML text, or None for a model without.
        protocol: How the images were shown to the model (`PredictionPlan.describe`).
        data: What was measured on, in a sentence.
        environment: Names and values for the end of the page.
        failure_rule: How the failures were chosen; None tells of the defaults of `choose_failure_cases`.

    Raises:
        ConfigError: Scores of other classes than the label space's, or a file that can't be written.
        DataError: A failure case with a train id that is no class.
    """
    matrix = np.array(scores["confusion_matrix"], np.int64)
    if list(scores["iou"]) != list(label_space.names) or matrix.shape != (label_space.num_labels,) * 2:
        raise ConfigError(
            f"scores of the {label_space.num_labels} classes of {label_space.name}",
            f"{len(scores['iou'])} classes and a matrix of {'x'.join(map(str, matrix.shape))}",
            "use the classes the scores were computed with",
            path,
        )
    write_page(
        path,
        "evaluation_report.html.j2",
        title=title,
        subtitle=data,
        protocol=protocol,
        num_images=len(images),
        headline=_headline(scores),
        table=_class_table(scores, label_space),
        absent_classes=scores.get("absent_classes") or [],
        categories=_categories(scores, label_space),
        classes=_legend(range(label_space.num_labels), label_space),
        matrices=_matrices(matrix, label_space) if label_space.num_labels <= _MATRIX_CLASSES else [],
        confusions=_confusions(matrix, label_space, 12),
        distribution=_distribution(images, [case.name for case in failures]),
        cases=[_case(case, label_space) for case in failures],
        failure_rule=failure_rule or describe_rule(),
        void_color=FADED_VOID,
        recipe=recipe,
        environment=dict(environment),
    )


def _headline(scores: Mapping) -> dict:
    guess = scores.get("constant_guess") or {}
    interval = scores.get("confidence_interval") or {}
    if interval.get("low") is None or interval.get("high") is None:
        interval = {}
    numbers = [
        {"name": name, "value": scores[key], "hint": hint, "guess": guess.get(key)}
        for key, name, hint in _HEADLINES
        if scores.get(key) is not None
    ]
    measured = sum(value is not None for value in scores["iou"].values())
    return {
        "mean_iou": scores["mean_iou"],
        "classes": f"{measured} of {len(scores['iou'])}" if measured < len(scores["iou"]) else f"all {measured}",
        "interval": interval,
        "guess_class": guess.get("class"),
        "guess": guess.get("mean_iou"),
        "numbers": numbers,
    }


def _class_table(scores: Mapping, label_space: LabelSpace) -> dict:
    columns = [column for column in _CLASS_COLUMNS if scores.get(column[0])]
    support = scores["support"]
    total = max(sum(support.values()), 1)
    rows = [
        {
            "name": name,
            "color": color,
            "values": [scores[key].get(name) for key, *_ in columns],
            "pixels": support[name],
            "share": support[name] / total,
        }
        for name, color in zip(label_space.names, label_space.colors, strict=True)
    ]
    return {
        "columns": [{"name": name, "hint": hint} for _, name, hint in columns],
        "rows": rows,
        "means": [scores.get(f"mean_{key}") for key, *_ in columns],
        "pixels": sum(support.values()),
    }


def _categories(scores: Mapping, label_space: LabelSpace) -> list[dict]:
    ious = scores.get("category_iou") or {}
    return [
        {
            "name": category,
            "value": value,
            "members": _legend([c for c, own in enumerate(label_space.categories) if own == category], label_space),
        }
        for category, value in ious.items()
    ]


def _matrices(matrix: np.ndarray, label_space: LabelSpace) -> list[dict]:
    """Both normalisations, cell by cell: text, share, and how strongly it is coloured."""
    names = label_space.names
    kinds = (
        ("row", "of each labelled class", "Rows sum to 100 %: what the pixels labelled as a class were taken for.", 1),
        ("column", "of each predicted class", "Columns sum to 100 %: what the pixels predicted as a class are.", 0),
    )  # fmt: skip
    built = []
    for key, name, caption, axis in kinds:
        totals = matrix.sum(axis, keepdims=True)
        shares = matrix / np.maximum(totals, 1)
        # The square root lets a confusion of 5 % be seen beside a diagonal of 95 %.
        strength = np.where(np.eye(len(matrix), dtype=bool), shares, np.sqrt(shares))
        rows = []
        for label, row_name in enumerate(names):
            cells = []
            for prediction, column_name in enumerate(names):
                pixels, share = int(matrix[label, prediction]), shares[label, prediction]
                of = f"the {row_name} labels" if axis else f"the {column_name} predictions"
                taken = "found" if label == prediction else f"taken for {column_name}"
                cells.append({
                    "text": ("·" if share < 0.005 else f"{100 * share:.0f}") if pixels else "",
                    "hint": f"{row_name} {taken}: {pixels:,} px, {format_percent(share)} % of {of}" if pixels else "",
                    "strength": f"{strength[label, prediction]:.2f}",
                    "right": label == prediction,
                })  # fmt: skip
            rows.append({"name": row_name, "color": label_space.colors[label], "cells": cells})
        built.append({"key": key, "name": name, "caption": caption, "rows": rows})
    return built


def _confusions(matrix: np.ndarray, label_space: LabelSpace, limit: int) -> list[dict]:
    wrong = max(int(matrix.sum() - np.trace(matrix)), 1)
    return [
        {
            "label": _class(found.label, label_space),
            "prediction": _class(found.prediction, label_space),
            "pixels": found.pixels,
            "share": found.share,
            "of_wrong": found.pixels / wrong,
        }
        for found in find_confusions(matrix, limit)
    ]


def _distribution(images: ImageCounts, shown: Sequence[str]) -> dict:
    """Histogram, sorted bars (groups of images where there are many), and the images by name, worst first."""
    mean_iou, accuracy, iou = images.mean_iou, images.overall_accuracy, images.iou
    order = [int(i) for i in np.argsort(mean_iou, kind="stable") if not np.isnan(mean_iou[i])]
    anchors = {name: f"case-{number}" for number, name in enumerate(shown, 1)}
    values = mean_iou[order]
    counts = np.histogram(values, _BINS, (0, 1))[0].tolist()
    groups = [group.tolist() for group in np.array_split(order, min(len(order), _STRIP_BARS))] if order else []
    bars = []
    for group in groups:
        names = [f"{images.names[i]}: {format_percent(mean_iou[i], 1)} %" for i in group[:6]]
        more = f", and {len(group) - 6} more" if len(group) > 6 else ""
        linked = [anchors[images.names[i]] for i in group if images.names[i] in anchors]
        bars.append({
            "value": float(mean_iou[group].mean()),
            "hint": ", ".join(names) + more,
            "anchor": linked[0] if linked else None,
        })  # fmt: skip
    listed = [
        {
            "name": images.names[i],
            "anchor": anchors.get(images.names[i]),
            "mean_iou": float(mean_iou[i]),
            "accuracy": float(accuracy[i]),
            "worst_class": images.classes[int(np.nanargmin(iou[i]))],
        }
        for i in order[:_LISTED_IMAGES]
    ]
    quantiles = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist() if order else None
    return {
        "bins": [
            {"from": 100 * k // _BINS, "to": 100 * (k + 1) // _BINS, "count": count, "height": count / max(*counts, 1)}
            for k, count in enumerate(counts)
        ],
        "most": max(counts),
        "bars": bars,
        "grouped": len(order) > len(groups),
        "listed": listed,
        "measured": len(order),
        "unlabelled": len(images) - len(order),
        "quantiles": quantiles,
    }


def _case(case: FailureCase, label_space: LabelSpace) -> dict:
    matrix = count_confusions(case, label_space)
    scores = compute_scores(matrix)
    wrong = int(matrix.sum() - np.trace(matrix))
    confusions = _confusions(matrix, label_space, 6)
    # Pictures are drawn at the size they are shown at, numbers are of the full size.
    size = fit_pixels(case.image.size)
    image = case.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    label, prediction = (
        np.asarray(Image.fromarray(np.asarray(m, np.uint8)).resize(size, Image.Resampling.NEAREST))
        for m in (case.label, case.prediction)
    )
    worst = "; ".join(f"{c['label']['name']} taken for {c['prediction']['name']}" for c in confusions[:3])
    occurring = np.union1d(case.label[case.label != IGNORE_INDEX], case.prediction)
    return {
        "name": case.name,
        "reasons": case.reasons,
        "mean_iou": scores["mean_iou"],
        "wrong": wrong,
        "wrong_share": wrong / max(int(matrix.sum()), 1),
        "confusions": confusions,
        "classes": _legend(occurring.tolist(), label_space),
        "pictures": [
            ("image", embed_photo(image, f"Photograph {case.name}")),
            ("errors", embed_drawing(error_map(image, prediction, label, label_space), f"Errors: {worst or 'none'}")),
            ("label", embed_label_map(label, label_space, f"Label of {case.name} in class colours")),
            ("prediction", embed_label_map(prediction, label_space, f"Prediction for {case.name} in class colours")),
        ],
    }


def _legend(train_ids: Sequence[int], label_space: LabelSpace) -> list[dict]:
    return [_class(train_id, label_space) for train_id in train_ids]


def _class(train_id: int, label_space: LabelSpace) -> dict:
    return {"name": label_space.names[train_id], "color": label_space.colors[train_id]}
