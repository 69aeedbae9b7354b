"""Scores per class as rows, on the terminal, in Markdown and in CSV."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace

MEAN_ROW = "mean"
# Score per class, its heading and its mean; a table has those that were measured.
_COLUMNS = (
    ("iou", "IoU", "mean_iou"),
    ("accuracy", "accuracy", "mean_accuracy"),
    ("precision", "precision", "mean_precision"),
    ("dice", "Dice", "mean_dice"),
    ("boundary_iou", "boundary IoU", "mean_boundary_iou"),
)


def build_class_table(result: Mapping, label_space: LabelSpace) -> list[dict]:
    """One row per class and the mean row last, fractions in [0, 1].

    Args:
        result: Of `compute_scores` or `describe_scores`: `iou`, `accuracy`, `support` and, optionally, `precision`,
            `dice`, `boundary_iou`, each as C values in order or by class name (None or NaN where a class does not
            occur); `mean_<score>`.
        label_space: Names of the C classes.

    Returns:
        Rows `{"class", "iou", "accuracy", ..., "pixels"}`; `pixels` counts labelled pixels. None for what can't be
        computed, and for the pixels of the mean.

    Raises:
        ConfigError: The values are not one per class.
    """
    columns = _columns(result)
    values = {key: _values(result, key, label_space) for key in (*columns, "support")}
    rows = [
        {
            "class": name,
            **{key: _number(values[key][index]) for key in columns},
            "pixels": int(values["support"][index]),
        }
        for index, name in enumerate(label_space.names)
    ]
    means = {key: _number(result[mean]) for key, _, mean in _COLUMNS if key in columns}
    return [*rows, {"class": MEAN_ROW, **means, "pixels": None}]


def _columns(result: Mapping) -> dict[str, str]:
    """Key -> heading of the scores the result has; IoU and accuracy are required."""
    return {key: heading for key, heading, _ in _COLUMNS if key in result or key in ("iou", "accuracy")}


def _values(result: Mapping, key: str, label_space: LabelSpace) -> list:
    values = result[key]
    fits = len(values) == label_space.num_labels
    if isinstance(values, Mapping):
        fits = fits and set(values) == set(label_space.names)
    if not fits:
        raise ConfigError(
            f"{label_space.num_labels} values of `{key}`, one per class of {label_space.name}",
            f"{len(values)}" if len(values) != label_space.num_labels else f"{', '.join(values)}",
            "use the classes the scores were computed with",
        )
    return [values[name] for name in label_space.names] if isinstance(values, Mapping) else list(values)


def print_class_table(
    result: Mapping, label_space: LabelSpace, title: str | None = None, console: Console | None = None
) -> None:
    """Prints the table in percent, 80 columns wide; a class that does not occur is "-"; overall scores stand below.

    Args:
        title: Above the table.
        console: Where to print; default the terminal.
    """
    table = Table(
        title=escape(title) if title else None,
        caption=f"Scores in percent. {_overall(result)}",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("class", overflow="fold")
    for heading in (*_columns(result).values(), "labelled pixels"):
        # Two-word headings stand on two lines: numbers are narrower, and cells don't wrap.
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
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
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        case ".md":
            headings = [f"{heading} (%)" for heading in _columns(result).values()]
            lines = [f"| class | {' | '.join(headings)} | labelled pixels |", f"|---|{'---:|' * (len(headings) + 1)}"]
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
    return [name, *(_percent(row[key]) for key, *_ in _COLUMNS if key in row), pixels]


def _overall(result: Mapping) -> str:
    support = result["support"]
    pixels = sum(map(int, support.values() if isinstance(support, Mapping) else support))
    text = f"Overall accuracy {_percent(_number(result['overall_accuracy']))} % of {pixels:,} labelled pixels"
    for key, name in (("frequency_weighted_iou", "frequency-weighted IoU"), ("mean_category_iou", "category IoU")):
        if result.get(key) is not None:
            text += f"; {name} {_percent(_number(result[key]))} %"
    return text


def _number(value) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
