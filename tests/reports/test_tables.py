import csv
import io
import re

import numpy as np
import pytest
from rich.console import Console

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.metrics.mean_iou import compute_scores
from hf_urbanseg.reports.tables import build_class_table, print_class_table, write_class_table

SPACE = LabelSpace("three", ("road", "a|b [red]", "train"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), {})
RESULT = {
    "mean_iou": 0.625,
    "mean_accuracy": 0.75,
    "overall_accuracy": 0.98765,
    "iou": [1.0, 0.25, float("nan")],
    "accuracy": [1.0, 0.5, None],
    "support": [1234567, 3, 0],
}

FULL = RESULT | {
    "precision": [0.5, 0.25, None],
    "dice": [0.75, 0.125, None],
    "boundary_iou": [0.375, 0.5, None],
    "mean_precision": 0.375,
    "mean_dice": 0.4375,
    "mean_boundary_iou": 0.4375,
    "frequency_weighted_iou": 0.875,
    "mean_category_iou": None,
}


def read_rows(text):
    """Cells of the printed rows between the head's line and the caption."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if set(line.strip()) == {"─"})
    end = next(index for index, line in enumerate(lines) if line.startswith("Scores"))
    return [re.split(r"\s{2,}", line.strip()) for line in lines[start + 1 : end] if line.strip()]


def test_build_class_table__fractions_and_none_for_absent():
    assert build_class_table(RESULT, SPACE) == [
        {"class": "road", "iou": 1.0, "accuracy": 1.0, "pixels": 1234567},
        {"class": "a|b [red]", "iou": 0.25, "accuracy": 0.5, "pixels": 3},
        {"class": "train", "iou": None, "accuracy": None, "pixels": 0},
        {"class": "mean", "iou": 0.625, "accuracy": 0.75, "pixels": None},
    ]


def test_build_class_table__predicted_but_never_labelled():
    result = RESULT | {"iou": [1.0, 0.25, 0.0]}
    assert build_class_table(result, SPACE)[2] == {"class": "train", "iou": 0.0, "accuracy": None, "pixels": 0}


def test_build_class_table__every_score_that_was_measured():
    rows = build_class_table(FULL, SPACE)
    assert list(rows[0]) == ["class", "iou", "accuracy", "precision", "dice", "boundary_iou", "pixels"]
    assert list(rows[1].values())[1:] == [0.25, 0.5, 0.25, 0.125, 0.5, 3]
    assert list(rows[2].values())[1:] == [None, None, None, None, None, 0]
    assert list(rows[3].values())[1:] == [0.625, 0.75, 0.375, 0.4375, 0.4375, None]


def test_build_class_table__values_by_name_as_in_metrics_json():
    named = {key: dict(zip(SPACE.names, FULL[key], strict=True)) if isinstance(FULL[key], list) else FULL[key]
             for key in FULL}  # fmt: skip
    named["iou"] = dict(reversed(named["iou"].items()))
    assert build_class_table(named, SPACE) == build_class_table(FULL, SPACE)
    with pytest.raises(ConfigError, match="3 values of `iou`, one per class of three; found road, x, train"):
        build_class_table(named | {"iou": {"road": 1, "x": 1, "train": 1}}, SPACE)


@pytest.mark.parametrize("key", ["iou", "accuracy", "support"])
def test_build_class_table__refuses_another_number_of_classes(key):
    with pytest.raises(ConfigError, match=f"3 values of `{key}`, one per class of three; found 2"):
        build_class_table(RESULT | {key: [1, 1]}, SPACE)


def test_print_class_table__percent_dashes_and_mean_last():
    out = io.StringIO()
    print_class_table(RESULT, SPACE, title="test [1]", console=Console(file=out, width=80))
    assert read_rows(out.getvalue()) == [
        ["road", "100.00", "100.00", "1,234,567"],
        ["a|b [red]", "25.00", "50.00", "3"],
        ["train", "-", "-", "-"],
        ["mean", "62.50", "75.00"],
    ]
    lines = out.getvalue().splitlines()
    assert lines[0].strip() == "test [1]"
    caption = " ".join(" ".join(lines).split("Scores in percent. ")[1].split())
    assert caption == "Overall accuracy 98.77 % of 1,234,570 labelled pixels"


def test_print_class_table__every_score_in_80_columns():
    out = io.StringIO()
    print_class_table(FULL, SPACE, console=Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert read_rows(text)[0] == ["road", "100.00", "100.00", "50.00", "75.00", "37.50", "1,234,567"]
    assert read_rows(text)[-1] == ["mean", "62.50", "75.00", "37.50", "43.75", "43.75"]
    assert "frequency-weighted IoU 87.50 %" in " ".join(text.split())
    assert "category" not in text


def test_print_class_table__nineteen_cityscapes_classes_fit_80_columns():
    scores = compute_scores(np.full((19, 19), 12_345_678), CITYSCAPES.categories)
    out = io.StringIO()
    result = scores | {"boundary_iou": scores["iou"], "mean_boundary_iou": 1.0}
    print_class_table(result, CITYSCAPES, console=Console(file=out, width=80))
    assert [row[0] for row in read_rows(out.getvalue())] == [*CITYSCAPES.names, "mean"]
    assert {len(row) for row in read_rows(out.getvalue())[:-1]} == {7}


def test_write_class_table__csv_reads_back(tmp_path):
    write_class_table(RESULT, SPACE, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"class": "road", "iou": "1.0", "accuracy": "1.0", "pixels": "1234567"}
    assert rows[2] == {"class": "train", "iou": "", "accuracy": "", "pixels": "0"}
    assert rows[3] == {"class": "mean", "iou": "0.625", "accuracy": "0.75", "pixels": ""}


def test_write_class_table__all_columns(tmp_path):
    write_class_table(FULL, SPACE, tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().splitlines()[::2] == [
        "class,iou,accuracy,precision,dice,boundary_iou,pixels",
        "a|b [red],0.25,0.5,0.25,0.125,0.5,3",
        "mean,0.625,0.75,0.375,0.4375,0.4375,",
    ]
    write_class_table(FULL, SPACE, tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()[:3] == [
        "| class | IoU (%) | accuracy (%) | precision (%) | Dice (%) | boundary IoU (%) | labelled pixels |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| road | 100.00 | 100.00 | 50.00 | 75.00 | 37.50 | 1,234,567 |",
    ]


def test_write_class_table__markdown(tmp_path):
    write_class_table(RESULT, SPACE, tmp_path / "table.md")
    assert (tmp_path / "table.md").read_text(encoding="utf-8").splitlines() == [
        "| class | IoU (%) | accuracy (%) | labelled pixels |",
        "|---|---:|---:|---:|",
        "| road | 100.00 | 100.00 | 1,234,567 |",
        r"| a\|b [red] | 25.00 | 50.00 | 3 |",
        "| train | - | - | - |",
        "| **mean** | **62.50** | **75.00** |  |",
        "",
        "Overall accuracy 98.77 % of 1,234,570 labelled pixels.",
    ]


def test_write_class_table__refuses_another_suffix(tmp_path):
    with pytest.raises(ConfigError, match=r"table named \.md or \.csv; found `\.txt`"):
        write_class_table(RESULT, SPACE, tmp_path / "table.txt")
    assert not list(tmp_path.iterdir())
