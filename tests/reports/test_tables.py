import csv
import io

import pytest
from rich.console import Console

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace
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


@pytest.mark.parametrize("key", ["iou", "accuracy", "support"])
def test_build_class_table__refuses_another_number_of_classes(key):
    with pytest.raises(ConfigError, match=f"3 values of `{key}`, one per class of three; found 2"):
        build_class_table(RESULT | {key: [1, 1]}, SPACE)


def test_print_class_table__percent_dashes_and_mean_last():
    out = io.StringIO()
    print_class_table(RESULT, SPACE, title="test [1]", console=Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert cells == [
        ["road", "100.00", "100.00", "1,234,567"],
        ["a|b [red]", "25.00", "50.00", "3"],
        ["train", "-", "-", "-"],
        ["mean", "62.50", "75.00", ""],
    ]
    assert lines[0].strip() == "test [1]"
    assert lines[-1].strip() == "Overall accuracy 98.77 % of 1,234,570 labelled pixels"


def test_write_class_table__csv_reads_back(tmp_path):
    write_class_table(RESULT, SPACE, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"class": "road", "iou": "1.0", "accuracy": "1.0", "pixels": "1234567"}
    assert rows[2] == {"class": "train", "iou": "", "accuracy": "", "pixels": "0"}
    assert rows[3] == {"class": "mean", "iou": "0.625", "accuracy": "0.75", "pixels": ""}


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
