import csv
import re

import numpy as np
import pytest

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import CITYSCAPES, LabelSpace
from hf_urbanseg.reports.tables import build_class_table, print_class_table, write_class_table
from hf_urbanseg.runs.scores import describe_scores

SPACE = LabelSpace("three", ("road", "a|b [red]", "train"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), {})


def by_name(*values):
    return dict(zip(SPACE.names, values, strict=True))


RESULT = {
    "mean_iou": 0.625,
    "mean_accuracy": 0.75,
    "overall_accuracy": 0.98765,
    "iou": by_name(1.0, 0.25, None),
    "accuracy": by_name(1.0, 0.5, None),
    "support": by_name(1234567, 3, 0),
}

FULL = RESULT | {
    "precision": by_name(0.5, 0.25, None),
    "dice": by_name(0.75, 0.125, None),
    "boundary_iou": by_name(0.375, 0.5, None),
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
    result = RESULT | {"iou": by_name(1.0, 0.25, 0.0)}
    assert build_class_table(result, SPACE)[2] == {"class": "train", "iou": 0.0, "accuracy": None, "pixels": 0}


def test_build_class_table__every_score_that_was_measured():
    rows = build_class_table(FULL, SPACE)
    assert list(rows[0]) == ["class", "iou", "accuracy", "precision", "dice", "boundary_iou", "pixels"]
    assert list(rows[1].values())[1:] == [0.25, 0.5, 0.25, 0.125, 0.5, 3]
    assert list(rows[2].values())[1:] == [None, None, None, None, None, 0]
    assert list(rows[3].values())[1:] == [0.625, 0.75, 0.375, 0.4375, 0.4375, None]


def test_build_class_table__in_order_of_classes_and_no_others():
    turned = RESULT | {"iou": dict(reversed(RESULT["iou"].items()))}
    assert build_class_table(turned, SPACE) == build_class_table(RESULT, SPACE)
    with pytest.raises(ConfigError, match="expected `support` of the classes of three; found road, x, train"):
        build_class_table(RESULT | {"support": {"road": 1, "x": 1, "train": 1}}, SPACE)


def test_print_class_table__percent_dashes_and_mean_last(capsys):
    print_class_table(RESULT, SPACE, "test [1]")
    out = capsys.readouterr().out
    assert read_rows(out) == [
        ["road", "100.00", "100.00", "1,234,567"],
        ["a|b [red]", "25.00", "50.00", "3"],
        ["train", "-", "-", "-"],
        ["mean", "62.50", "75.00"],
    ]
    lines = out.splitlines()
    assert lines[0].strip() == "test [1]"
    caption = " ".join(" ".join(lines).split("Scores in percent. ")[1].split())
    assert caption == "Overall accuracy 98.77 % of 1,234,570 labelled pixels"


def test_print_class_table__every_score_in_80_columns(capsys):
    print_class_table(FULL, SPACE, "")
    out = capsys.readouterr().out
    text = out
    assert max(map(len, text.splitlines())) <= 80
    assert read_rows(text)[0] == ["road", "100.00", "100.00", "50.00", "75.00", "37.50", "1,234,567"]
    assert read_rows(text)[-1] == ["mean", "62.50", "75.00", "37.50", "43.75", "43.75"]
    assert "frequency-weighted IoU 87.50 %" in " ".join(text.split())
    assert "category" not in text


def test_print_class_table__nineteen_cityscapes_classes_fit_80_columns(capsys):
    scores = describe_scores(np.full((19, 19), 12_345_678), CITYSCAPES, 0)
    result = scores | {"boundary_iou": scores["iou"], "mean_boundary_iou": 1.0}
    print_class_table(result, CITYSCAPES, "")
    out = capsys.readouterr().out
    assert [row[0] for row in read_rows(out)] == [*CITYSCAPES.names, "mean"]
    assert {len(row) for row in read_rows(out)[:-1]} == {7}


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
        r"| a&#124;b \[red\] | 25.00 | 50.00 | 3 |",
        "| train | - | - | - |",
        "| **mean** | **62.50** | **75.00** |  |",
        "",
        "Overall accuracy 98.77 % of 1,234,570 labelled pixels.",
    ]
