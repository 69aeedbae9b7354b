import csv
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hf_urbanseg.inference.plan import PLAIN
from hf_urbanseg.inference.predictor import build_label_space
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports.comparison import compare_runs
from hf_urbanseg.reports.comparison_files import (
    describe_sureness,
    write_comparison_csv,
    write_comparison_page,
    write_comparison_table,
)
from hf_urbanseg.reports.pages import embed_frame
from hf_urbanseg.runs.measured import MeasuredRun

CLASSES = ("road", "car", "train")
SPACE = build_label_space(dict(enumerate(CLASSES)))


def build_run(tmp_path, name, hits):
    """Two classes of 10 labelled pixels in each of two images; all wrong ones are of the other class."""
    hits = np.array([[*row, 0] for row in hits])
    labelled = np.array([[10, 10, 0]] * len(hits))
    predicted = hits + (labelled - hits)[:, [1, 0, 2]]
    counts = ImageCounts(tuple(f"<{i}>" for i in range(len(hits))), CLASSES, hits, labelled, predicted)
    return MeasuredRun(name, tmp_path / name, counts, "single scale", "kitti", PLAIN, 1_234_567, 15_579_000_000)


@pytest.fixture
def comparison(tmp_path):
    """Of 20 pixels a class: road 10 and car 10 right, then road 15 and car 10; image 0 gains, image 1 loses."""
    first = build_run(tmp_path, "a|b", [[4, 5], [6, 5]])
    return compare_runs([first, build_run(tmp_path, "c", [[10, 6], [5, 4]])], "test")


# hits / (labelled + predicted - hits)
ROAD = (10 / 30, 15 / (20 + 25 - 15))
CAR = (10 / 30, 10 / (20 + 15 - 10))


def test_write_comparison_csv__by_hand(comparison, tmp_path):
    write_comparison_csv(comparison, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["class", "labelled_pixels", "labelled_images", "iou a|b", "iou c", "difference c"]
    assert [row["class"] for row in rows] == [*CLASSES, "mean"]
    for row, (before, after) in zip(rows, (ROAD, CAR), strict=False):
        found = [float(row[key]) for key in ("iou a|b", "iou c", "difference c")]
        assert found == pytest.approx([before, after, after - before])
        assert (row["labelled_pixels"], row["labelled_images"]) == ("20", "2")
    assert [rows[2][key] for key in list(rows[2])[1:]] == ["0", "0", "", "", ""]
    means = (np.mean([ROAD[0], CAR[0]]), np.mean([ROAD[1], CAR[1]]))
    assert float(rows[3]["iou c"]) == pytest.approx(means[1])
    assert float(rows[3]["difference c"]) == pytest.approx(means[1] - means[0])


def test_write_comparison_table__by_hand(comparison, tmp_path):
    write_comparison_table(comparison, tmp_path / "out.md")
    text = (tmp_path / "out.md").read_text()
    result = comparison.changes[0].bootstrap
    assert "| road | 33.33 | 50.00 | +16.67 |\n| car | 33.33 | 40.00 | +6.67 |\n| train | - | - | - |" in text
    assert "| **mean** | **33.33** | **45.00** | **+11.67** |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| c | 45.00 |")]
    low, high = 100 * result.interval.low, 100 * result.interval.high
    assert f"| +11.67 | {low:+.2f} to {high:+.2f} | {result.p_value:.2f} | 15.579 | 1.23 | single scale |" in row
    assert "| a&#124;b | 33.33 |" in text
    assert "1 image got better, 1 worse." in text
    assert "With 2 images, intervals and p-values are coarse" in text
    gain = 100 * (np.mean([10 / 14, 6 / 10]) - np.mean([4 / 15, 5 / 16]))
    assert f"{gain:+.2f}" == f"{100 * comparison.changes[0].images[0]:+.2f}"
    assert re.search(rf"\| better .*\n\|.*\n\| &lt;0&gt; \| .* \| \{gain:+.2f} \|", text)


def test_describe_sureness__by_images_and_runs(tmp_path):
    def many(runs, images):
        return compare_runs([build_run(tmp_path, str(i), [[i + 1, 5]] * images) for i in range(runs)], "test")

    assert describe_sureness(many(2, 30)) == ""
    assert describe_sureness(many(2, 29)).startswith("With 29 images")
    assert "p below 0.017 (0.05 shared among them)" in describe_sureness(many(4, 30))


def test_write_comparison_page__complete_and_escaped(comparison, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    label = np.zeros((20, 30), np.uint8)
    label[:5], label[5:8] = 255, 1
    shown = embed_frame("<0>", image, label, {"a|b": label * 0, "c": label % 2}, SPACE)
    pictures = {(0, 0): {"pictures": shown, "classes": [0, 1], "exact": False}}
    write_comparison_page(comparison, tmp_path / "out.html", SPACE, Figure(), pictures=pictures)
    text = (tmp_path / "out.html").read_text()
    assert "&lt;0&gt;: " in text
    assert "<0>" not in text
    assert text.count("<article>") == 1
    assert len(re.findall(r'<img src="data:image/(?:png|jpeg);base64,', text)) == text.count("<img") == 6
    assert "some pixels differ from those measured" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert '<span class="number">+16.67</span>' in text
    assert re.findall(r'</span>(\w+)</span></th><td data-value="(\d)">', text) == [
        ("road", "2"),
        ("car", "2"),
        ("train", "0"),
    ]
    # road gained most: its bar fills its half; car's is 6.67 / 16.67 of it
    assert 'class="up" style="width: 50.00%"' in text
    assert 'class="up" style="width: 20.00%"' in text
    assert "There are no pictures" not in text


def test_write_comparison_page__says_why_there_are_no_pictures(comparison, tmp_path):
    write_comparison_page(comparison, tmp_path / "out.html", SPACE, Figure(), picture_note="the data is <gone>")
    text = (tmp_path / "out.html").read_text()
    assert "There are no pictures: the data is &lt;gone&gt;." in text
    assert "<article>" not in text
    assert "<img" not in text


def test_write_comparison_page__different_testing_is_said(comparison, tmp_path):
    first, second = comparison.runs
    write_comparison_page(comparison, tmp_path / "same.html", SPACE, Figure())
    other = compare_runs([first, replace(second, protocol="12 passes")], "test")
    write_comparison_page(other, tmp_path / "other.html", SPACE, Figure())
    assert "tested in different ways" not in (tmp_path / "same.html").read_text()
    assert "tested in different ways" in (tmp_path / "other.html").read_text()
