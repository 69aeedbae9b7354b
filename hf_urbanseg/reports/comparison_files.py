"""A comparison as Markdown, as CSV and as a page."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hf_urbanseg.escaping import escape_markdown
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.comparison import Change, Comparison
from hf_urbanseg.reports.comparison_plots import BETTER, COLORS, WORSE, plot_image_scores
from hf_urbanseg.reports.formats import format_change, format_p_value, format_percent
from hf_urbanseg.reports.overlays import FADED_VOID
from hf_urbanseg.reports.pages import embed_figure, write_page
from hf_urbanseg.reports.tables import MEAN_ROW, build_markdown_table, embolden, write_csv
from hf_urbanseg.runs.measured import MeasuredRun

FEW_IMAGES = 30
"""Below so many images the pages say that the intervals and p-values are coarse."""

NOTES = (
    "mIoU: mean of the classes' IoU over all pixels of the split; its interval is what other images of the same kind "
    "would give (bootstrap over images).",
    "p: how often the difference of two equally good models would be as large as this one by the choice of images "
    "alone (paired bootstrap, two-sided). It speaks of these two trained models, not of their recipes: another seed "
    "gives another model.",
    "GMAC: multiply-accumulates per image of what was run, by the report's convention: every scale, mirrored copy and "
    "window, each at its own size.",
)


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
    """Writes Markdown: runs, classes, and per run the images that got better most and as many that got worse."""
    first, sureness = comparison.first, describe_sureness(comparison)
    runs = build_markdown_table(_run_heads(comparison), _run_rows(comparison), words=(0, 8))
    heads = [f"{run.name} (%)" for run in comparison.runs]
    heads += [f"{change.run.name} - {first.name}" for change in comparison.changes]
    rows = []
    for row in _class_rows(comparison):
        scores = (format_percent(row[f"iou {run.name}"]) for run in comparison.runs)
        differences = (format_change(row[f"difference {change.run.name}"]) for change in comparison.changes)
        rows.append([row["class"], *scores, *differences])
    rows[-1] = list(map(embolden, rows[-1]))
    classes = build_markdown_table(["class", *heads], rows)
    title = escape_markdown(f"{', '.join(run.name for run in comparison.runs)}: {comparison.split} of {first.data}")
    about = f"{len(first.counts)} images; the first run is what the others are compared to."
    lines = [f"# {title}", "", about, "", *runs, ""]
    lines += [*(f"- {note}" for note in (*NOTES, sureness) if note), "", "![mIoU over GMAC](miou_over_gmac.png)", ""]
    lines += ["## IoU per class", "", *classes]
    for change in comparison.changes:
        heading = escape_markdown(f"Images: {change.run.name} against {first.name}")
        lines += ["", f"## {heading}", "", f"{_say_counts(change)}."]
        before, after = first.counts.mean_iou, change.run.counts.mean_iou
        for better in (True, False):
            rows = [
                [first.counts.names[i], *map(format_percent, (before[i], after[i])), format_change(change.images[i])]
                for i in change.most_changed(num_images, better)
            ]
            heads = ["better" if better else "worse", "before (%)", "after (%)", "difference"]
            lines += ["", *build_markdown_table(heads, rows)] if rows else []
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_comparison_csv(comparison: Comparison, path: str | Path) -> None:
    """Writes one row per class and the mean last: fractions, empty where a class does not occur.

    Columns: class, labelled_pixels, labelled_images, `iou <run>` for every run, `difference <run>` for all but the
    first.
    """
    write_csv(path, _class_rows(comparison))


def write_comparison_page(
    comparison: Comparison,
    path: str | Path,
    label_space: LabelSpace,
    tradeoff: Figure,
    num_images: int = 5,
    pictures: Mapping[tuple[int, int], Mapping] | None = None,
    picture_note: str | None = None,
) -> None:
    """Writes the page, complete in one file.

    Args:
        tradeoff: From `plot_miou_over_gmac`.
        num_images: Listed as better, and as many as worse, per run.
        pictures: From `draw_pictures`; images without any are only listed.
        picture_note: Why there are no pictures, in words.
    """
    first = comparison.first
    *classes, mean = _class_rows(comparison)
    largest = max((abs(v) for row in classes for v in list(row.values())[-len(comparison.changes) :] if v), default=1.0)
    write_page(
        path,
        "comparison.html.j2",
        title=" vs ".join(run.name for run in comparison.runs),
        subtitle=f"{comparison.split} of {first.data}, {len(first.counts):,} images",
        comparison=comparison,
        first=first,
        space=label_space,
        confidence=f"{comparison.intervals[0].confidence:.0%}",
        heads=_run_heads(comparison),
        runs=_run_rows(comparison),
        colors=COLORS,
        notes=NOTES,
        sureness=describe_sureness(comparison),
        protocols_differ=len({run.protocol for run in comparison.runs}) > 1,
        tradeoff=embed_figure(tradeoff, "mIoU over multiply-accumulates per image"),
        classes=classes,
        mean=mean,
        largest=largest,
        good=BETTER,
        bad=WORSE,
        scatters=[
            embed_figure(
                plot_image_scores(first, change), f"per-image mIoU of {change.run.name} over that of {first.name}"
            )
            for change in comparison.changes
        ],
        num_images=num_images,
        say_counts=_say_counts,
        say_classes=_say_classes,
        pictures=pictures or {},
        picture_note=picture_note,
        void_color=FADED_VOID,
    )


def _run_heads(comparison: Comparison) -> list[str]:
    interval = f"{comparison.intervals[0].confidence:.0%} interval"
    changed = ["difference", "its interval", "p"]
    return ["run", "mIoU (%)", interval, *changed, "GMAC", "parameters (M)", "testing"]


def _run_rows(comparison: Comparison) -> list[list[str]]:
    rows = []
    results = [None, *(change.bootstrap for change in comparison.changes)]
    for run, interval, result in zip(comparison.runs, comparison.intervals, results, strict=True):
        changed = ["", "", ""]
        if result:
            between = f"{format_change(result.interval.low)} to {format_change(result.interval.high)}"
            changed = [format_change(result.difference), between, format_p_value(result.p_value)]
        between = f"{format_percent(interval.low)} to {format_percent(interval.high)}"
        cost = [f"{run.macs / 1e9:.3f}", f"{run.parameters / 1e6:.2f}"]
        rows.append([run.name, format_percent(run.mean_iou), between, *changed, *cost, run.protocol])
    return rows


def _class_rows(comparison: Comparison) -> list[dict]:
    """As in the CSV; None where a class does not occur."""
    labelled, runs, changes = comparison.first.counts.labelled, comparison.runs, comparison.changes
    rows = [
        {
            "class": name,
            "labelled_pixels": int(labelled[:, c].sum()),
            "labelled_images": int((labelled[:, c] > 0).sum()),
            **{f"iou {run.name}": run.iou[c] for run in runs},
            **{f"difference {change.run.name}": change.iou[c] for change in changes},
        }
        for c, name in enumerate(comparison.first.counts.classes)
    ]
    means = {f"iou {run.name}": run.mean_iou for run in runs}
    means |= {f"difference {change.run.name}": change.bootstrap.difference for change in changes}
    rows.append({"class": MEAN_ROW, "labelled_pixels": None, "labelled_images": None, **means})
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]


def _say_counts(change: Change) -> str:
    better, worse, equal = (int(which.sum()) for which in (change.images > 0, change.images < 0, change.images == 0))
    stayed = f", {equal} stayed equal" if equal else ""
    return f"{better} image{'' if better == 1 else 's'} got better, {worse} worse{stayed}"


def _say_classes(first: MeasuredRun, change: Change, index: int) -> str:
    """The three classes whose IoU in the image changed most, in words."""
    before, after = first.counts.iou[index], change.run.counts.iou[index]
    difference = np.nan_to_num(after - before)
    names = change.run.counts.classes
    order = [c for c in np.argsort(-np.abs(difference), kind="stable")[:3] if difference[c]]
    return ", ".join(f"{names[c]} {format_percent(before[c], 0)} to {format_percent(after[c], 0)}" for c in order)
