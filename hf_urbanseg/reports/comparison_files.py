"""A comparison as Markdown, as CSV and as a page."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.comparison import Change, Comparison
from hf_urbanseg.reports.comparison_plots import BETTER, COLORS, WORSE, plot_image_scores
from hf_urbanseg.reports.formats import format_percent
from hf_urbanseg.reports.overlays import FADED_VOID, error_map
from hf_urbanseg.reports.pages import (
    embed_drawing,
    embed_figure,
    embed_label_map,
    embed_photo,
    fit_pixels,
    write_page,
)

_PIXELS = 230_000
FEW_IMAGES = 30
"""Below so many images the pages say that the intervals and p-values are coarse."""

NOTES = (
    "mIoU: mean of the classes' IoU over all pixels of the split; its interval is what other images of the same kind "
    "would give (bootstrap over images).",
    "p: how often the difference of two equally good models would be as large as this one by the choice of images "
    "alone (paired bootstrap, two-sided). It speaks of these two trained models, not of their recipes: another seed "
    "gives another model.",
    "GMAC: multiply-accumulates of one pass over one 375x1242 image, by the report's convention; testing at several "
    "scales costs as many times more as it has passes.",
)


@dataclass(frozen=True, eq=False)
class ImagePictures:
    """An image that changed, with what both runs make of it.

    Args:
        exact: False where predicting again gave other pixels than were measured (another way of testing).

    Shape:
        label, before, after: (H, W) uint8 train ids; label with `IGNORE_INDEX`.
    """

    image: Image.Image
    label: np.ndarray
    before: np.ndarray
    after: np.ndarray
    exact: bool = True


def describe_sureness(comparison: Comparison) -> str:
    """How far the numbers can be trusted, by the number of images and of comparisons."""
    count = len(comparison.first.counts)
    words = []
    if count < FEW_IMAGES:
        words.append(
            f"With {count} images, intervals and p-values are coarse: they tend to be too narrow and too small, "
            "because rare classes hang on one or two images."
        )
    if len(comparison.changes) > 1:
        words.append(
            f"With {len(comparison.changes)} runs against the first, one of them looks better by luck more often than "
            f"its p says; p below {0.05 / len(comparison.changes):.3f} (0.05 shared among them) is the cautious line."
        )
    return " ".join(words)


def write_comparison_table(comparison: Comparison, path: str | Path, num_images: int = 5) -> None:
    """Writes Markdown: runs, classes, images that changed most.

    Args:
        num_images: Listed as better, and as many as worse, per run.
    """
    first, percent = comparison.first, format_percent
    lines = [
        f"# {', '.join(map(_cell, (run.name for run in comparison.runs)))}: {comparison.split} of {_cell(first.data)}",
        "",
        f"{len(first.counts)} images; the first run is what the others are compared to.",
        "",
        f"| run | mIoU (%) | {comparison.intervals[0].confidence:.0%} interval | difference | its interval | p | GMAC "
        "| parameters (M) | testing |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for number, (run, interval) in enumerate(zip(comparison.runs, comparison.intervals, strict=True)):
        cells = [_cell(run.name), percent(run.mean_iou), f"{percent(interval.low)} to {percent(interval.high)}"]
        if number:
            result = comparison.changes[number - 1].bootstrap
            low, high = result.interval.low, result.interval.high
            cells += [_signed(result.difference), f"{_signed(low)} to {_signed(high)}", _say_p(result.p_value)]
        else:
            cells += ["", "", ""]
        cells += [f"{run.macs / 1e9:.3f}", f"{run.parameters / 1e6:.2f}", _cell(run.protocol)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {note}" for note in NOTES)]
    lines += [f"- {sureness}"] if (sureness := describe_sureness(comparison)) else []
    lines += ["", "![mIoU over GMAC](miou_over_gmac.png)", "", "## IoU per class", ""]
    heads = [f"{_cell(run.name)} (%)" for run in comparison.runs] + [_cell(c.run.name) for c in comparison.changes]
    heads[len(comparison.runs) :] = [f"{head} - {_cell(first.name)}" for head in heads[len(comparison.runs) :]]
    lines += [f"| class | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for row in _class_rows(comparison):
        values = [percent(value) for value in row["iou"]] + [_signed(value) for value in row["differences"]]
        lines.append(f"| {_cell(row['name'])} | {' | '.join(values)} |")
    means = [percent(run.mean_iou) for run in comparison.runs]
    means += [_signed(change.bootstrap.difference) for change in comparison.changes]
    lines.append(f"| **mean** | {' | '.join(f'**{mean}**' for mean in means)} |")
    for change in comparison.changes:
        lines += ["", f"## Images: {_cell(change.run.name)} against {_cell(first.name)}", "", f"{_say_counts(change)}."]
        for better in (True, False):
            if chosen := change.most_changed(num_images, better):
                lines += ["", f"| {'better' if better else 'worse'} | before (%) | after (%) | difference |"]
                lines += ["|---|---:|---:|---:|"]
            for i in chosen:
                before, after = first.counts.mean_iou[i], change.run.counts.mean_iou[i]
                name = _cell(first.counts.names[i])
                lines.append(f"| {name} | {percent(before)} | {percent(after)} | {_signed(change.images[i])} |")
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_comparison_csv(comparison: Comparison, path: str | Path) -> None:
    """Writes one row per class and the mean last: fractions, empty where a class does not occur.

    Columns: class, labelled_pixels, labelled_images, `iou <run>` for every run, `difference <run>` for all but the
    first.
    """
    names = [f"iou {run.name}" for run in comparison.runs]
    names += [f"difference {change.run.name}" for change in comparison.changes]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "labelled_pixels", "labelled_images", *names])
        for row in _class_rows(comparison):
            writer.writerow([row["name"], row["pixels"], row["images"], *row["iou"], *row["differences"]])
        means = [run.mean_iou for run in comparison.runs] + [c.bootstrap.difference for c in comparison.changes]
        writer.writerow(["mean", "", "", *means])


def write_comparison_page(
    comparison: Comparison,
    path: str | Path,
    label_space: LabelSpace,
    tradeoff: Figure,
    num_images: int = 5,
    pictures: Mapping[tuple[int, int], ImagePictures] | None = None,
    picture_note: str | None = None,
) -> None:
    """Writes the page, complete in one file.

    Args:
        label_space: Class colours.
        tradeoff: From `plot_miou_over_gmac`.
        num_images: Listed as better, and as many as worse, per run.
        pictures: By number of the change and index of the image; images without any are only listed.
        picture_note: Why there are no pictures.
    """
    first = comparison.first
    rows = _class_rows(comparison)
    largest = max((abs(value) for row in rows for value in row["differences"] if value is not None), default=0) or 1.0
    write_page(
        path,
        "comparison.html.j2",
        title=" vs ".join(run.name for run in comparison.runs),
        subtitle=f"{comparison.split} of {first.data}, {len(first.counts):,} images",
        confidence=f"{comparison.intervals[0].confidence:.0%}",
        runs=[_run_row(comparison, number) for number in range(len(comparison.runs))],
        notes=NOTES,
        sureness=describe_sureness(comparison),
        tradeoff=embed_figure(tradeoff, "mIoU over multiply-accumulates: these runs, and the report's in grey"),
        classes=rows,
        colors=dict(zip(label_space.names, label_space.colors, strict=True)),
        largest=largest,
        good=BETTER,
        bad=WORSE,
        changes=[
            _change_section(comparison, number, label_space, num_images, pictures or {})
            for number in range(len(comparison.changes))
        ],
        first=first.name,
        picture_note=picture_note,
        void_color=FADED_VOID,
        protocols_differ=len({run.protocol for run in comparison.runs}) > 1,
    )


def _run_row(comparison: Comparison, number: int) -> dict:
    run, interval = comparison.runs[number], comparison.intervals[number]
    row = {
        "name": run.name,
        "color": COLORS[number % len(COLORS)],
        "mean_iou": run.mean_iou,
        "interval": f"{format_percent(interval.low)} to {format_percent(interval.high)}",
        "gmac": f"{run.macs / 1e9:.3f}",
        "parameters": f"{run.parameters / 1e6:.2f}",
        "protocol": run.protocol,
        "difference": None,
    }
    if number:
        result = comparison.changes[number - 1].bootstrap
        row |= {
            "difference": _signed(result.difference),
            "difference_interval": f"{_signed(result.interval.low)} to {_signed(result.interval.high)}",
            "p": _say_p(result.p_value),
        }
    return row


def _class_rows(comparison: Comparison) -> list[dict]:
    labelled = comparison.first.counts.labelled
    return [
        {
            "name": name,
            "pixels": int(labelled[:, c].sum()),
            "images": int((labelled[:, c] > 0).sum()),
            "iou": [_number(run.iou[c]) for run in comparison.runs],
            "differences": [_number(change.iou[c]) for change in comparison.changes],
        }
        for c, name in enumerate(comparison.first.counts.classes)
    ]


def _change_section(
    comparison: Comparison, number: int, label_space: LabelSpace, num_images: int, pictures: Mapping
) -> dict:
    change, first = comparison.changes[number], comparison.first
    groups = []
    for better in (True, False):
        images = [
            {
                "name": first.counts.names[i],
                "before": _number(first.counts.mean_iou[i]),
                "after": _number(change.run.counts.mean_iou[i]),
                "difference": _signed(change.images[i]),
                "classes": _changed_classes(change, first.counts.iou[i], i),
                "pictures": _embed(pictures[number, i], label_space) if (number, i) in pictures else None,
                "exact": pictures[number, i].exact if (number, i) in pictures else True,
            }
            for i in change.most_changed(num_images, better)
        ]
        groups.append({"better": better, "images": images})
    alt = f"per-image mIoU of {change.run.name} over that of {first.name}"
    return {
        "name": change.run.name,
        "counts": _say_counts(change),
        "scatter": embed_figure(plot_image_scores(first, change), alt),
        "groups": groups,
        "has_pictures": any(image["pictures"] for group in groups for image in group["images"]),
    }


def _changed_classes(change: Change, before: np.ndarray, index: int) -> str:
    """The three classes whose IoU in the image changed most, in words."""
    after = change.run.counts.iou[index]
    difference = np.nan_to_num(after - before)
    names = change.run.counts.classes
    order = [c for c in np.argsort(-np.abs(difference), kind="stable")[:3] if difference[c]]
    return ", ".join(f"{names[c]} {format_percent(before[c], 0)} to {format_percent(after[c], 0)}" for c in order)


def _embed(pictures: ImagePictures, label_space: LabelSpace) -> dict:
    size = fit_pixels(pictures.image.size, _PIXELS)
    image = pictures.image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    label, before, after = (
        np.asarray(Image.fromarray(one).resize(size, Image.Resampling.NEAREST))
        for one in (pictures.label, pictures.before, pictures.after)
    )
    return {
        "image": embed_photo(image, "the image"),
        "label": embed_label_map(label, label_space, "its label"),
        "before": embed_label_map(before, label_space, "prediction of the first run"),
        "after": embed_label_map(after, label_space, "prediction of the other run"),
        "before_errors": embed_drawing(error_map(image, before, label, label_space), "errors of the first run"),
        "after_errors": embed_drawing(error_map(image, after, label, label_space), "errors of the other run"),
        "legend": [
            {"name": label_space.names[c], "color": label_space.colors[c]}
            for c in np.unique(np.concatenate([label.ravel(), before.ravel(), after.ravel()]))
            if c < label_space.num_labels
        ],
    }


def _say_counts(change: Change) -> str:
    better, worse = int((change.images > 0).sum()), int((change.images < 0).sum())
    equal = int((change.images == 0).sum())
    words = f"{better} images got better, {worse} worse"
    return f"{words}, {equal} stayed equal" if equal else words


def _say_p(p: float) -> str:
    return f"{p:.4f}" if p < 0.0995 else f"{p:.2f}"


def _signed(value: float | None) -> str:
    if value is None or value != value:
        return "-"
    return f"{100 * value:+.2f}" if value else "0"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _cell(text: str) -> str:
    return str(text).replace("|", r"\|")
