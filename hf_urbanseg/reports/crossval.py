"""Cross-validation as numbers, a table and a plot: recipes by the frames of all folds, and whether one is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from markupsafe import Markup

from hf_urbanseg.escaping import escape_markdown, flatten
from hf_urbanseg.metrics.bootstrap import Interval, bootstrap_mean_iou, paired_bootstrap
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports.figures import LINE, MOST, OURS, build_axes, save_figure
from hf_urbanseg.reports.formats import format_p_value, format_percent, format_seconds
from hf_urbanseg.reports.seeds import describe_score
from hf_urbanseg.reports.tables import build_markdown_table

RARE = 0.005
"""Share of the labelled pixels below which a class counts as rare."""


@dataclass(frozen=True)
class Measured:
    """One recipe and seed, over all folds.

    Args:
        images: Counts of every frame, each by the model that didn't see it.
        matrix: (C, C) confusion matrix of all of them; row = label.
        seconds: Of training, over all folds.
    """

    images: ImageCounts
    matrix: np.ndarray
    seconds: float


def build_crossval(
    measured: Mapping[str, Mapping[int, Measured]],
    folds: Sequence[Sequence[str]],
    scenes: Sequence[Sequence[str]],
    against_first: bool = True,
) -> dict:
    """Everything that `crossval.json` has of recipes; what was not run is None, never a number.

    The score of a seed is the mIoU of the summed counts of all folds, so that a class is scored where it occurs.

    Args:
        measured: By recipe and seed, of seeds whose folds are all finished.
        folds: Names of their frames.
        scenes: Frames that the bootstrap draws together.
        against_first: Compare with the first recipe that was run, else with the one before.

    Returns:
        `recipes`, each with `recipe`, `seeds`, `mean_iou` (`mean`, `std` over seeds (None for one), `values`),
        `interval`, `fold_mean_iou` (mean over seeds), `iou` and `iou_std` by class, `rare_mean_iou`, `seconds` (one
        seed), `confusion_matrix` (sum over seeds), `change` (`against`, `seeds`, `difference`, `interval`, `p_value`,
        `iou`, `same_sign`), `shown`; `shares`, of labelled pixels by class.
    """
    built, before, shares = [], None, None
    for recipe, by_seed in measured.items():
        entry = {"recipe": recipe, "seeds": list(by_seed), "shown": "not run"}
        built.append(entry)
        if not by_seed:
            continue
        images = [one.images for one in by_seed.values()]
        classes, labelled = images[0].classes, images[0].labelled.sum(0)
        shares = dict(zip(classes, (labelled / labelled.sum()).tolist(), strict=True))
        pooled = {seed: one.images.total() for seed, one in by_seed.items()}
        values = {seed: float(one.mean_iou[0]) for seed, one in pooled.items()}
        by_class = np.concatenate([one.iou for one in pooled.values()])
        interval = bootstrap_mean_iou(images, scenes=scenes)
        spread = stdev(values.values()) if len(values) > 1 else None
        rare = [train_id for train_id, name in enumerate(classes) if 0 < shares[name] < RARE]
        entry |= {
            "mean_iou": {"mean": fmean(values.values()), "std": spread, "values": values},
            "interval": interval.to_dict(),
            "fold_mean_iou": [fmean(_score(one, fold) for one in images) for fold in folds],
            "iou": _by_class(classes, np.nanmean(by_class, 0) if len(by_class) else []),
            "iou_std": _by_class(classes, by_class.std(0, ddof=1)) if len(values) > 1 else None,
            "rare_mean_iou": float(np.nanmean(by_class[:, rare])) if rare else None,
            "seconds": fmean(one.seconds for one in by_seed.values()),
            "confusion_matrix": sum(one.matrix for one in by_seed.values()).tolist(),
            "change": _compare(before, (recipe, by_seed), scenes) if before else None,
        }
        entry["shown"] = _describe(entry, interval)
        before = before if before and against_first else (recipe, by_seed)
    return {"recipes": built, "shares": shares}


def _compare(before: tuple[str, Mapping], after: tuple[str, Mapping], scenes) -> dict | None:
    seeds = [seed for seed in after[1] if seed in before[1]]
    if not seeds:
        return None
    one, two = ([part[1][seed].images for seed in seeds] for part in (before, after))
    result = paired_bootstrap(one, two, scenes=scenes)
    changes = np.concatenate([b.total().iou - a.total().iou for a, b in zip(one, two, strict=True)])
    same = (np.abs(np.sign(changes).sum(0)) == len(seeds)) & (len(seeds) > 1)
    return {
        "against": before[0],
        "seeds": seeds,
        "difference": result.difference,
        "interval": result.interval.to_dict(),
        "p_value": result.p_value,
        "iou": _by_class(one[0].classes, changes.mean(0)),
        "same_sign": [name for name, equal in zip(one[0].classes, same, strict=True) if equal],
    }


def _score(images: ImageCounts, names: Sequence[str]) -> float:
    wanted = set(names)
    return float(images.select(i for i, name in enumerate(images.names) if name in wanted).total().mean_iou[0])


def _by_class(classes: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(classes, values, strict=True)}


def _describe(entry: Mapping, interval: Interval) -> str:
    shown = f"{describe_score(entry)} [{format_percent(interval.low)} .. {format_percent(interval.high)}]"
    if change := entry["change"]:
        shown += f"  {_describe_change(change)} against {change['against']}"
    return shown


def _describe_change(change: Mapping) -> str:
    low, high = (format_percent(change["interval"][end], sign="+") for end in ("low", "high"))
    return f"{format_percent(change['difference'], sign='+')} [{low} .. {high}], p {format_p_value(change['p_value'])}"


def describe_crossval(
    built: Mapping, folds: Sequence[Sequence[str]], scenes: Sequence[Sequence[str]], seeds: int
) -> list[str]:
    """Sentences on what the numbers are, and on what they can't tell."""
    frames = sum(map(len, folds))
    units = frames - sum(len(scene) - 1 for scene in scenes)
    notes = [
        f"Every one of {frames} frames ({units} scenes) is measured once a seed, by a model that was trained on the "
        f"other folds ({' + '.join(str(len(fold)) for fold in folds)} frames); mIoU is that of all counts together, "
        "at one scale, without flip.",
        "±: sample standard deviation over seeds. Intervals: 95 %, over scenes and seeds, both drawn with replacement; "
        "of a difference, of both recipes together.",
    ]
    for one in built["recipes"]:
        recipe = escape_markdown(one["recipe"])
        if missing := seeds - len(one["seeds"]):
            notes.append(f"{recipe}: {missing} of {seeds} seeds not finished, and left out.")
        change = one.get("change")
        if change and change["interval"]["low"] <= 0 <= change["interval"]["high"] and change["difference"]:
            half = (change["interval"]["high"] - change["interval"]["low"]) / 2
            times = (half / change["difference"]) ** 2
            needed = f"about {times:.1f}" if times < 50 else "more than 50"
            notes.append(
                f"{recipe}: the interval of its change holds 0. To tell a difference of "
                f"{format_percent(abs(change['difference']))} from none, {needed} times as many scenes and seeds would "
                "be needed."
            )
    return notes


def write_crossval_table(built: Mapping, path: str | Path, title: str, notes: Sequence[str] = ()) -> None:
    """Writes recipes, then `notes` (Markdown), then classes as Markdown."""
    heads = ["recipe", "seeds", "mIoU (%): mean ± std", "95 % interval", "folds", "rare classes", "change", "time"]
    rows = []
    for one in built["recipes"]:
        cells = [one["recipe"], ", ".join(map(str, one["seeds"])) or "-"]
        if one["seeds"]:
            interval, change = one["interval"], one["change"]
            cells += [
                describe_score(one),
                f"{format_percent(interval['low'])} .. {format_percent(interval['high'])}",
                " ".join(format_percent(value, 1) for value in one["fold_mean_iou"]),
                format_percent(one["rare_mean_iou"]),
                Markup(f"{_describe_change(change)} against {escape_markdown(change['against'])}") if change else "",
                format_seconds(one["seconds"]),
            ]
        else:
            cells += ["not run", *[""] * 5]
        rows.append(cells)
    lines = [f"# {escape_markdown(title)}", "", *build_markdown_table(heads, rows, words=(0, 6)), ""]
    lines += [f"Rare: under {RARE:.1%} of the labelled pixels. Time: one seed, all folds.", ""]
    lines += [*(f"- {note}" for note in notes), *_class_lines(built)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _class_lines(built: Mapping) -> list[str]:
    run = [one for one in built["recipes"] if one["seeds"]]
    if not run:
        return []
    rows = []
    for name, share in built["shares"].items():
        cells = [name, format_percent(share)]
        for one in run:
            change, text = one["change"], format_percent(one["iou"][name])
            if change:
                moved = format_percent(change["iou"][name], sign="+")
                text += f" (**{moved}**)" if name in change["same_sign"] else f" ({moved})"
            cells.append(text)
        rows.append(cells)
    return [
        "",
        "## IoU per class",
        "",
        "In %, pooled, mean over seeds; in brackets the change, bold where every one of several seeds has its sign.",
        "",
        *build_markdown_table(["class", "of the pixels", *(one["recipe"] for one in run)], rows),
    ]


def plot_crossval(built: Mapping, path: str | Path, title: str) -> None:
    """Draws scores with intervals and seeds, and below them what each recipe changes."""
    run = [one for one in built["recipes"] if one["seeds"]]
    changed = [one for one in run if one["change"]]
    panels = {"ncols": 2, "width_ratios": (1, 1)} if changed else {}
    figure, drawn = build_axes(10 if changed else 6.5, 1.6 + 0.5 * max(len(run), 1), grid="x", **panels)
    scores = np.ravel(drawn)[0]
    places = {one["recipe"]: -number for number, one in enumerate(run)}
    for one in run:
        place, interval = places[one["recipe"]], one["interval"]
        scores.plot([100 * interval["low"], 100 * interval["high"]], [place, place], color=OURS, linewidth=2, alpha=0.4)
        values = [100 * value for value in one["mean_iou"]["values"].values()]
        scores.plot(values, [place] * len(values), "|", color=OURS, markersize=11)
        scores.plot(100 * one["mean_iou"]["mean"], place, "o", color=OURS)
    scores.set_yticks(list(places.values()), [flatten(name, MOST) for name in places], parse_math=False)
    scores.set_xlabel("mIoU (%): mean, seeds, 95 % interval")
    scores.set_title(title, loc="left", parse_math=False)
    if changed:
        changes = drawn[1]
        changes.axvline(0, **LINE)
        for one in changed:
            change, place = one["change"], places[one["recipe"]]
            ends = [100 * change["interval"][end] for end in ("low", "high")]
            sure = ends[0] > 0 or ends[1] < 0
            changes.plot(ends, [place, place], color=OURS, linewidth=2, alpha=1 if sure else 0.35)
            changes.plot(100 * change["difference"], place, "o", color=OURS, markerfacecolor=OURS if sure else "white")
        changes.set_yticks(list(places.values()), [""] * len(places))
        changes.set_ylim(scores.get_ylim())
        changes.set_xlabel("change (points), 95 % interval; filled: it leaves out 0")
        firsts = {one["change"]["against"] for one in changed}
        changes.set_title(f"against {firsts.pop()}" if len(firsts) == 1 else "against the one above", loc="left")
    save_figure(figure, path)
