"""Scores per class as rows, on the terminal, in Markdown and in CSV."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace

MEAN_ROW = "mean"


def build_class_table(result: Mapping, label_space: LabelSpace) -> list[dict]:
    """One row per class and the mean row last, fractions in [0, 1].

    Args:
        result: `mean_iou`, `mean_accuracy` (floats), `iou`, `accuracy`, `support` (C values each; None or NaN where a
            class does not occur).
        label_space: Names of the C classes.

    Returns:
        Rows `{"class", "iou", "accuracy", "pixels"}`; `pixels` counts labelled pixels. None for what can't be computed,
        and for the pixels of the mean.

    Raises:
        ConfigError: The number of values is not the number of classes.
    """
    for key in ("iou", "accuracy", "support"):
        if len(result[key]) != label_space.num_labels:
            raise ConfigError(
                f"{label_space.num_labels} values of `{key}`, one per class of {label_space.name}",
                f"{len(result[key])}",
                "use the classes the scores were computed with",
            )
    rows = [
        {"class": name, "iou": _number(iou), "accuracy": _number(accuracy), "pixels": int(pixels)}
        for name, iou, accuracy, pixels in zip(
            label_space.names, result["iou"], result["accuracy"], result["support"], strict=True
        )
    ]
    means = {"iou": _number(result["mean_iou"]), "accuracy": _number(result["mean_accuracy"])}
    return [*rows, {"class": MEAN_ROW, **means, "pixels": None}]


def print_class_table(
    result: Mapping, label_space: LabelSpace, title: str | None = None, console: Console | None = None
) -> None:
    """Prints the table in percent; a class that does not occur is "-"; overall accuracy stands below.

    Args:
        title: Above the table.
        console: Where to print; default the terminal.
    """
    table = Table(title=escape(title) if title else None, caption=_overall(result), caption_justify="left")
    table.add_column("class", overflow="fold")
    for heading in ("IoU (%)", "accuracy (%)", "labelled pixels"):
        table.add_column(heading, justify="right", no_wrap=True)
    *rows, mean = build_class_table(result, label_space)
    for row in rows:
        table.add_row(*_cells(row), style=None if row["pixels"] else "dim")
    table.add_section()
    table.add_row(*_cells(mean), style="bold")
    (console or Console()).print(table)


def write_class_table(result: Mapping, label_space: LabelSpace, path: str | Path) -> None:
    """Writes the table: `.md` for reading (percent) or `.csv` for programs (fractions, empty where absent).

    Raises:
        ConfigError: Another suffix.
    """
    path = Path(path)
    rows = build_class_table(result, label_space)
    match path.suffix:
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ("class", "iou", "accuracy", "pixels"), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        case ".md":
            lines = ["| class | IoU (%) | accuracy (%) | labelled pixels |", "|---|---:|---:|---:|"]
            for row in rows:
                cells = [cell.replace("|", r"\|") for cell in _cells(row, markup=False)]
                if row is rows[-1]:
                    cells = [f"**{cell}**" if cell else "" for cell in cells]
                lines.append(f"| {' | '.join(cells)} |")
            lines += ["", f"{_overall(result)}."]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        case suffix:
            raise ConfigError("a table named .md or .csv", f"`{suffix}`", "change the suffix", path)


def _cells(row: dict, markup: bool = True) -> list[str]:
    name = escape(row["class"]) if markup else row["class"]
    match row["pixels"]:
        case None:
            pixels = ""
        case 0:
            pixels = "-"
        case count:
            pixels = f"{count:,}"
    return [name, _percent(row["iou"]), _percent(row["accuracy"]), pixels]


def _overall(result: Mapping) -> str:
    pixels = sum(map(int, result["support"]))
    return f"Overall accuracy {_percent(_number(result['overall_accuracy']))} % of {pixels:,} labelled pixels"


def _number(value) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
