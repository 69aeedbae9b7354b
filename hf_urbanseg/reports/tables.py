"""Scores per class as rows, on the terminal, in Markdown and in CSV."""

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.table import Table

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.escaping import build_console, escape_cell, escape_markdown, flatten
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.formats import format_percent

MEAN_ROW = "mean"
# Score per class, its heading and what it is; a table has those that were measured.
COLUMNS = {
    "iou": ("IoU", "hits / (labelled + predicted - hits)"),
    "accuracy": ("accuracy", "share of the labelled pixels that are found"),
    "precision": ("precision", "share of the predicted pixels that are right"),
    "dice": ("Dice", "2 hits / (labelled + predicted)"),
    "boundary_iou": ("boundary IoU", "IoU within a band along the outlines"),
}


def build_class_table(result: Mapping, label_space: LabelSpace) -> list[dict]:
    """One row per class and the mean row last, fractions in [0, 1].

    Args:
        result: Of `describe_scores`: `support` and some of `iou`, `accuracy`, `precision`, `dice`, `boundary_iou` by
            class name (None where a class does not occur); `mean_<score>`.

    Returns:
        Rows `{"class", "iou", "accuracy", ..., "pixels"}`; `pixels` counts labelled pixels. None for what can't be
        computed, and for the pixels of the mean.

    Raises:
        ConfigError: The values are of other classes.
    """
    keys = [key for key in COLUMNS if result.get(key)]
    for key in (*keys, "support"):
        if set(result[key]) != set(label_space.names):
            fix = "use the classes the scores were computed with"
            raise ConfigError(f"`{key}` of the classes of {label_space.name}", ", ".join(result[key]), fix)
    rows = [
        {"class": name, **{key: result[key][name] for key in keys}, "pixels": result["support"][name]}
        for name in label_space.names
    ]
    means = {key: result.get(f"mean_{key}") for key in keys}
    return [*rows, {"class": MEAN_ROW, **means, "pixels": None}]


def print_class_table(result: Mapping, label_space: LabelSpace, title: str) -> None:
    """Prints the table in percent, 80 columns wide; a class that does not occur is "-"; overall scores stand below."""
    caption = f"Scores in percent. {_overall(result)}"
    table = Table(title=flatten(title), caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    *rows, mean = build_class_table(result, label_space)
    table.add_column("class", overflow="fold")
    for heading in (*_headings(mean), "labelled pixels"):
        # Two-word headings stand on two lines: numbers are narrower, and cells don't wrap.
        table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(flatten, _cells(row)), style=None if row["pixels"] else "dim")
    table.add_section()
    table.add_row(*_cells(mean), style="bold")
    build_console().print(table)


def write_class_table(result: Mapping, label_space: LabelSpace, path: str | Path) -> None:
    """Writes the table: `.csv` for programs (fractions, empty where absent), else Markdown for reading (percent)."""
    path = Path(path)
    rows = build_class_table(result, label_space)
    if path.suffix == ".csv":
        write_csv(path, rows)
        return
    heads = ["class", *(f"{heading} (%)" for heading in _headings(rows[0])), "labelled pixels"]
    *cells, mean = map(_cells, rows)
    lines = build_markdown_table(heads, [*cells, list(map(embolden, mean))])
    path.write_text("\n".join([*lines, "", f"{_overall(result)}."]) + "\n", encoding="utf-8")


def write_csv(path: str | Path, rows: Sequence[Mapping]) -> None:
    """Writes rows with the keys of the first one as head; None is an empty cell, and no text becomes a formula."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(map(escape_cell, row) for row in (rows[0], *(row.values() for row in rows)))


def build_markdown_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = (0,)
) -> list[str]:
    """Lines of a Markdown table; heads and words are escaped if they are no `Markup`.

    Args:
        words: Columns of words, to the left; the others are numbers as they are, to the right.
    """
    first = list(map(escape_markdown, heads))
    rest = [[escape_markdown(cell) if column in words else cell for column, cell in enumerate(row)] for row in rows]
    rule = "".join("---|" if column in words else "---:|" for column in range(len(heads)))
    return [f"| {' | '.join(first)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rest)]


def embolden(cell: str) -> Markup:
    """A word of ours or a number, in bold."""
    return Markup(f"**{cell}**" if cell else "")


def _headings(row: Mapping) -> list[str]:
    return [COLUMNS[key][0] for key in COLUMNS if key in row]


def _cells(row: Mapping) -> list[str]:
    pixels = row["pixels"]
    scores = [format_percent(row[key]) for key in COLUMNS if key in row]
    return [row["class"], *scores, "" if pixels is None else f"{pixels:,}" if pixels else "-"]


def _overall(result: Mapping) -> str:
    accuracy, pixels = format_percent(result["overall_accuracy"]), sum(result["support"].values())
    text = f"Overall accuracy {accuracy} % of {pixels:,} labelled pixels"
    for key, name in (("frequency_weighted_iou", "frequency-weighted IoU"), ("mean_category_iou", "category IoU")):
        if result.get(key) is not None:
            text += f"; {name} {format_percent(result[key])} %"
    return text
