"""The ladder of tricks as data, table and plot: our runs beside the report's numbers."""

from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from hf_urbanseg.escaping import escape_markdown
from hf_urbanseg.reports.figures import FAINT, OURS, REPORT, build_axes, save_figure
from hf_urbanseg.reports.formats import format_percent, format_seconds
from hf_urbanseg.reports.seeds import RunResult, describe_score, describe_seeds, summarise_seeds
from hf_urbanseg.reports.tables import build_markdown_table

# `name` as in the names of the recipes, what it `adds` to the one before, and the mIoU in [0, 1] that the report gives
# for SegFormer-B2 with this and everything below.
Rung = namedtuple("Rung", "number name adds report")
RUNGS = (
    Rung(1, "imagenet", "encoder from ImageNet", 0.6141),
    Rung(2, "cityscapes", "trained on Cityscapes before", 0.6831),
    Rung(3, "schedule", "AdamW, polynomial schedule", 0.7234),
    Rung(4, "class_balanced", "class-balanced loss", 0.7467),
    Rung(5, "ohem", "OHEM", 0.7598),
    Rung(6, "multi_scale", "multi-scale training (report: and testing)", 0.7812),
    Rung(7, "auxiliary", "auxiliary loss", 0.7845),
)


def build_ladder(results: Mapping[tuple[int, int], RunResult], seeds: Sequence[int]) -> list[dict]:
    """One entry per rung, for `ladder.json`; what was not run is None, never a number.

    Results are by rung number and seed. A change is against the nearest lower rung that was run, over the seeds that
    both have, so that it is paired.

    Returns:
        Per rung `number`, `name`, `adds`, `report_mean_iou`; `status`, `seeds`, `mean_iou`, `seconds` as of
        `summarise_seeds`; `iou` (mean by class), `change` (`from`, `seeds`, `mean_iou`, `iou`, `same_sign`).
    """
    ladder = []
    for rung in RUNGS:
        finished = {seed: results[rung.number, seed] for seed in seeds if (rung.number, seed) in results}
        below = [lower["number"] for lower in ladder if lower["seeds"]]
        ladder.append({
            "number": rung.number,
            "name": rung.name,
            "adds": rung.adds,
            **summarise_seeds(finished, seeds),
            "report_mean_iou": rung.report,
            "iou": _mean_by_class(result.iou for result in finished.values()) if finished else None,
            "change": _change(results, below[-1], rung.number, seeds) if finished and below else None,
        })  # fmt: skip
    return ladder


def _mean_by_class(values: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Over those that are known."""
    first, *rest = values
    known = {name: [one[name] for one in (first, *rest) if one.get(name) is not None] for name in first}
    return {name: fmean(several) if several else None for name, several in known.items()}


def _change(results: Mapping[tuple[int, int], RunResult], lower: int, upper: int, seeds: Sequence[int]) -> dict | None:
    both = [seed for seed in seeds if (lower, seed) in results and (upper, seed) in results]
    if not both:
        return None
    pairs = [(results[lower, seed], results[upper, seed]) for seed in both]
    differences = [
        {name: _minus(value, before.iou.get(name)) for name, value in after.iou.items()} for before, after in pairs
    ]
    signs = {name: [np.sign(one[name]) for one in differences if one.get(name) is not None] for name in differences[0]}
    return {
        "from": lower,
        "seeds": both,
        "mean_iou": fmean(after.mean_iou - before.mean_iou for before, after in pairs),
        "iou": _mean_by_class(differences),
        "same_sign": [name for name, found in signs.items() if len(found) > 1 and abs(sum(found)) == len(found)],
    }


def _minus(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def write_ladder_table(ladder: Sequence[dict], path: str | Path, title: str, notes: Sequence[str] = ()) -> None:
    """Writes the ladder as Markdown: one table of rungs, `notes` below it, one of classes."""
    heads = ["rung", "adds", "seeds", "our mIoU (%): mean ± std", "min .. max", "change", Markup("*report, B2 (%)*")]
    rows, before = [], None
    for entry in ladder:
        score, change, report = entry["mean_iou"], entry["change"], entry["report_mean_iou"]
        skipped = f" against {change['from']}" if change and change["from"] != entry["number"] - 1 else ""
        spread = f"{format_percent(score['min'])} .. {format_percent(score['max'])}" if score else ""
        rows.append([
            f"{entry['number']} {entry['name']}",
            entry["adds"],
            describe_seeds(entry),
            describe_score(entry),
            "one seed" if len(entry["seeds"]) == 1 else spread,
            format_percent(change["mean_iou"], sign="+") + skipped if change else "",
            f"*{format_percent(report)}*",
            f"*{format_percent(report - before, sign='+')}*" if before else "",
            format_seconds(entry["seconds"]["mean"]) if score else "",
        ])  # fmt: skip
        before = report
    table = build_markdown_table([*heads, Markup("*its change*"), "time per run"], rows, words=range(3))
    lines = [f"# {escape_markdown(title)}", "", *table, "", *(f"- {note}" for note in notes), *_class_lines(ladder)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _class_lines(ladder: Sequence[dict]) -> list[str]:
    run = [entry for entry in ladder if entry["iou"]]
    if not run:
        return []
    first, rest = run[0], [entry for entry in run[1:] if entry["change"]]
    rows = []
    for name, value in first["iou"].items():
        cells = [format_percent(value)]
        for change in (entry["change"] for entry in rest):
            text = format_percent(change["iou"].get(name), sign="+")
            cells.append(f"**{text}**" if name in change["same_sign"] else text)
        rows.append([name, *cells])
    return [
        "",
        "## IoU per class",
        "",
        f"In %: rung {first['number']} itself, then each rung's change against the one before that was run (mean over "
        'the seeds of both). Bold: the same sign in every one of several seeds. "-": the class does not occur.',
        "",
        *build_markdown_table(["class", *(f"{entry['number']} {entry['name']}" for entry in (first, *rest))], rows),
    ]


def plot_ladder(ladder: Sequence[dict], path: str | Path, title: str) -> None:
    """Draws our mean with its standard deviation and every seed, and the report's numbers in grey.

    Where ours lie farther below the report's than the report climbs, on one axis neither could be read: then each has
    a panel of its own.
    """
    numbers, run = [entry["number"] for entry in ladder], [entry for entry in ladder if entry["mean_iou"]]
    report = [100 * entry["report_mean_iou"] for entry in ladder]
    best = max((100 * entry["mean_iou"]["max"] for entry in run), default=report[0])
    apart = min(report) - best > max(report) - min(report)
    panels = {"nrows": 2, "sharex": True, "height_ratios": (2, 3)} if apart else {}
    figure, drawn = build_axes(10, 7.4 if apart else 5.6, grid="y", **panels)
    upper, axes = drawn if apart else (drawn, drawn)
    upper.plot(
        numbers, report, "s--", color=REPORT, linewidth=1.2, markersize=5, zorder=1,
        label="the report's (SegFormer-B2, its own split and testing)",
    )  # fmt: skip
    if apart:
        for number, value in zip(numbers, report, strict=True):
            _write_score(upper, number, value, value, FAINT, above=True)
    if run:
        x = [entry["number"] for entry in run]
        mean = [100 * entry["mean_iou"]["mean"] for entry in run]
        std = [100 * (entry["mean_iou"]["std"] or 0) for entry in run]
        axes.errorbar(
            x, mean, yerr=std if any(std) else None, fmt="o", color=OURS, linewidth=2, capsize=5, zorder=3,
            label="ours: mean and sample standard deviation; dots are seeds" if any(std) else "ours: one seed",
        )  # fmt: skip
        # The line is broken where a rung was not run.
        by_number = dict(zip(x, mean, strict=True))
        axes.plot(numbers, [by_number.get(n, np.nan) for n in numbers], color=OURS, linewidth=2, zorder=3)
        for entry, middle, spread in zip(run, mean, std, strict=True):
            values = [100 * value for value in entry["mean_iou"]["values"].values()]
            if len(values) > 1:
                # Beside the mean, where its error bar doesn't hide them.
                axes.plot([entry["number"] + 0.13] * len(values), values, ".", color=OURS, alpha=0.5, zorder=2)
            above = apart or 100 * entry["report_mean_iou"] <= middle  # away from the report's line
            end = max(*values, middle + spread) if above else min(*values, middle - spread)
            _write_score(axes, entry["number"], end, middle, OURS, above)
    labels = []
    for entry in ladder:
        words = [str(entry["number"]), *entry["name"].split("_"), *([] if entry["mean_iou"] else ["(not run)"])]
        labels.append("\n".join(words))
    axes.set_xticks(numbers, labels)
    axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    for panel in figure.axes:
        panel.margins(y=0.2 if apart else 0.14)
    if apart:
        upper.set_ylabel("the report's mIoU (%)")
    axes.set_ylabel("our mIoU (%), on another axis" if apart else "mIoU (%)")
    upper.set_title(title, loc="left", parse_math=False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    save_figure(figure, path)


def _write_score(axes: Axes, x: float, y: float, value: float, color: str, above: bool) -> None:
    offset, side = ((0, 9), "bottom") if above else ((0, -9), "top")
    axes.annotate(f"{value:.2f}", (x, y), offset, textcoords="offset points", ha="center", va=side, color=color)
