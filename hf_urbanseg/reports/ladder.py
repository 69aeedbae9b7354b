"""The ladder of tricks as data, table and plot: our runs beside the report's numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    Args:
        number: From 1.
        name: As in the names of the recipes.
        adds: What it has beyond the one before.
        report: mIoU in [0, 1] that the report gives for SegFormer-B2 with this and everything below.
    """

    number: int
    name: str
    adds: str
    report: float


RUNGS = (
    Rung(1, "imagenet", "encoder from ImageNet", 0.6141),
    Rung(2, "cityscapes", "trained on Cityscapes before", 0.6831),
    Rung(3, "schedule", "AdamW, polynomial schedule", 0.7234),
    Rung(4, "class_balanced", "class-balanced loss", 0.7467),
    Rung(5, "ohem", "OHEM", 0.7598),
    Rung(6, "multi_scale", "multi-scale training (report: and testing)", 0.7812),
    Rung(7, "auxiliary", "auxiliary loss", 0.7845),
)
_OURS, _REPORT = "#1f5fa8", "#8a8a8a"


@dataclass(frozen=True)
class RunResult:
    """What one finished run measured.

    Args:
        mean_iou: In [0, 1].
        iou: By class name; None where a class does not occur.
        seconds: Wall time.
    """

    mean_iou: float
    iou: Mapping[str, float | None]
    seconds: float


def build_ladder(results: Mapping[tuple[int, int], RunResult], seeds: Sequence[int]) -> list[dict]:
    """One entry per rung, for `ladder.json`; what was not run is None, never a number.

    A change is against the nearest lower rung that was run, over the seeds that both have, so that it is paired.

    Args:
        results: By rung number and seed.
        seeds: Those asked for.

    Returns:
        Per rung `number`, `name`, `adds`, `status` (`run`, `partly run`, `not run`), `seeds` (finished),
        `report_mean_iou`; `mean_iou` (`mean`, `std` (sample, None for one seed), `min`, `max`, `values`), `iou` (mean
        by class), `seconds` (`mean`, `total`), `change` (`from`, `seeds`, `mean_iou`, `iou`, `same_sign`).
    """
    ladder = []
    for rung in RUNGS:
        finished = {seed: results[rung.number, seed] for seed in seeds if (rung.number, seed) in results}
        entry = {
            "number": rung.number,
            "name": rung.name,
            "adds": rung.adds,
            "status": "run" if len(finished) == len(seeds) else "partly run" if finished else "not run",
            "seeds": list(finished),
            "report_mean_iou": rung.report,
            **dict.fromkeys(("mean_iou", "iou", "seconds", "change")),
        }
        if finished:
            values = {seed: result.mean_iou for seed, result in finished.items()}
            entry["mean_iou"] = {
                "mean": fmean(values.values()),
                "std": stdev(values.values()) if len(values) > 1 else None,
                "min": min(values.values()),
                "max": max(values.values()),
                "values": {str(seed): value for seed, value in values.items()},
            }
            entry["iou"] = _mean_by_class([result.iou for result in finished.values()])
            seconds = [result.seconds for result in finished.values()]
            entry["seconds"] = {"mean": fmean(seconds), "total": sum(seconds)}
            below = [lower["number"] for lower in ladder if lower["seeds"]]
            if below:
                entry["change"] = _change(results, below[-1], rung.number, seeds)
        ladder.append(entry)
    return ladder


def _mean_by_class(ious: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means = {}
    for name in ious[0]:
        present = [iou[name] for iou in ious if iou.get(name) is not None]
        means[name] = fmean(present) if present else None
    return means


def _change(results: Mapping[tuple[int, int], RunResult], lower: int, upper: int, seeds: Sequence[int]) -> dict | None:
    both = [seed for seed in seeds if (lower, seed) in results and (upper, seed) in results]
    if not both:
        return None
    pairs = [(results[lower, seed], results[upper, seed]) for seed in both]
    differences = {}
    for name in pairs[0][1].iou:
        ends = [(before.iou.get(name), after.iou.get(name)) for before, after in pairs]
        differences[name] = [b - a for a, b in ends if a is not None and b is not None]
    same_sign = [
        name for name, by_seed in differences.items()
        if len(by_seed) > 1 and (min(by_seed) > 0 or max(by_seed) < 0)
    ]  # fmt: skip
    return {
        "from": lower,
        "seeds": both,
        "mean_iou": fmean(after.mean_iou - before.mean_iou for before, after in pairs),
        "iou": {name: fmean(by_seed) if by_seed else None for name, by_seed in differences.items()},
        "same_sign": same_sign,
    }


def write_ladder_table(ladder: Sequence[dict], path: str | Path, title: str, notes: Sequence[str] = ()) -> None:
    """Writes the ladder as Markdown: one table of rungs, one of classes.

    Args:
        ladder: From `build_ladder`.
        title: Says what was measured on what.
        notes: Sentences below the first table.
    """
    lines = [
        f"# {title}", "",
        "| rung | adds | seeds | our mIoU (%): mean ± std | min .. max | change | *report, B2 (%)* | *its change* "
        "| time per run |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for index, entry in enumerate(ladder):
        score, change = entry["mean_iou"], entry["change"]
        report = entry["report_mean_iou"]
        step = f"*{100 * (report - ladder[index - 1]['report_mean_iou']):+.2f}*" if index else ""
        if score is None:
            ours = ["", describe_score(entry), "", "", f"*{100 * report:.2f}*", step, ""]
        else:
            several = len(entry["seeds"]) > 1
            ours = [
                ", ".join(map(str, entry["seeds"])) + (" (others not run)" if entry["status"] != "run" else ""),
                describe_score(entry),
                f"{100 * score['min']:.2f} .. {100 * score['max']:.2f}" if several else "one seed",
                _say_change(change, entry["number"]) if change else "",
                f"*{100 * report:.2f}*",
                step,
                format_seconds(entry["seconds"]["mean"]),
            ]
        lines.append(f"| {entry['number']} {entry['name']} | {entry['adds']} | {' | '.join(ours)} |")
    lines += ["", *(f"- {note}" for note in notes), *_class_table(ladder)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe_score(entry: dict) -> str:
    """`55.50 ± 1.25`, without spread for one seed, or `not run`."""
    score = entry["mean_iou"]
    if score is None:
        return "not run"
    return f"{100 * score['mean']:.2f}" + (f" ± {100 * score['std']:.2f}" if score["std"] is not None else "")


def _say_change(change: dict, number: int) -> str:
    skipped = f" against {change['from']}" if change["from"] != number - 1 else ""
    return f"{100 * change['mean_iou']:+.2f}{skipped}"


def _class_table(ladder: Sequence[dict]) -> list[str]:
    run = [entry for entry in ladder if entry["iou"]]
    if not run:
        return []
    first, rest = run[0], [entry for entry in run[1:] if entry["change"]]
    lines = ["", "## IoU per class", ""]
    lines += [
        f"In %: rung {first['number']} itself, then each rung's change against the one before that was run (mean over "
        'the seeds of both). Bold: the same sign in every one of several seeds. "-": the class does not occur.',
        "",
        "| class | "
        + " | ".join([f"{first['number']} {first['name']}", *(f"{e['number']} {e['name']}" for e in rest)])
        + " |",
        "|---" + "|---:" * (1 + len(rest)) + "|",
    ]
    for name, value in first["iou"].items():
        cells = ["-" if value is None else f"{100 * value:.2f}"]
        for entry in rest:
            delta = entry["change"]["iou"].get(name)
            text = "-" if delta is None else f"{100 * delta:+.2f}"
            cells.append(f"**{text}**" if name in entry["change"]["same_sign"] else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def plot_ladder(ladder: Sequence[dict], path: str | Path, title: str) -> None:
    """Draws our mean with its standard deviation and every seed, and the report's numbers in grey.

    Args:
        ladder: From `build_ladder`.
        path: The picture to write.
        title: Says what was measured on what.
    """
    figure = Figure(figsize=(10, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    numbers = [entry["number"] for entry in ladder]
    report = [100 * entry["report_mean_iou"] for entry in ladder]
    axes.plot(
        numbers, report, "s--", color=_REPORT, linewidth=1.2, markersize=5, zorder=1,
        label="the report's (SegFormer-B2, its own split and testing)",
    )  # fmt: skip
    run = [entry for entry in ladder if entry["mean_iou"]]
    if run:
        x = [entry["number"] for entry in run]
        mean = [100 * entry["mean_iou"]["mean"] for entry in run]
        std = [100 * (entry["mean_iou"]["std"] or 0) for entry in run]
        axes.errorbar(
            x, mean, yerr=std if any(std) else None, fmt="o", color=_OURS, linewidth=2, capsize=5, zorder=3,
            label="ours: mean and sample standard deviation; dots are seeds" if any(std) else "ours: one seed",
        )  # fmt: skip
        # The line is broken where a rung was not run.
        by_number = dict(zip(x, mean, strict=True))
        axes.plot(numbers, [by_number.get(n, np.nan) for n in numbers], color=_OURS, linewidth=2, zorder=3)
        for entry, middle, spread in zip(run, mean, std, strict=True):
            values = [100 * value for value in entry["mean_iou"]["values"].values()]
            if len(values) > 1:
                # Beside the mean, where its error bar doesn't hide them.
                axes.plot([entry["number"] + 0.13] * len(values), values, ".", color=_OURS, alpha=0.5, zorder=2)
            high, low = max(*values, middle + spread), min(*values, middle - spread)
            above = 100 * entry["report_mean_iou"] <= middle  # away from the report's line
            axes.annotate(
                f"{middle:.2f}", (entry["number"], high if above else low),
                (0, 9 if above else -9), textcoords="offset points", ha="center", color=_OURS,
                va="bottom" if above else "top",
            )  # fmt: skip
    labels = []
    for entry in ladder:
        words = [str(entry["number"]), *entry["name"].split("_"), *([] if entry["mean_iou"] else ["(not run)"])]
        labels.append("\n".join(words))
    axes.set_xticks(numbers, labels)
    axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    axes.margins(y=0.14)
    axes.set_ylabel("mIoU (%)")
    axes.set_title(title, loc="left", parse_math=False)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    figure.savefig(path)


def format_seconds(seconds: float) -> str:
    """`1:02:03`, or `4.2 s` below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
