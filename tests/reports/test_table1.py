import json
from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Annotation
from PIL import Image

from hf_urbanseg.reports.seeds import RunResult
from hf_urbanseg.reports.systems import ROWS, SYSTEMS
from hf_urbanseg.reports.table1 import Network, build_table, plot_table, write_table

# UNet with two of three seeds, SegFormer-B2 with one, PSPNet R50, which the report doesn't have, tiny and from random
# weights.
RESULTS = {
    ("unet", 0): RunResult(0.40, {}, 100.0),
    ("unet", 2): RunResult(0.44, {}, 200.0),
    ("segformer_b2_cityscapes", 0): RunResult(0.75, {}, 30.0),
    ("pspnet_resnet50", 0): RunResult(0.20, {}, 4.2),
}
NETWORKS = {
    "unet": Network("s5-d16", "random", 346.204404, 28_987_795, 812.34),
    "segformer_b2_cityscapes": Network("b2", "pretrained", 114.403066, 27_361_235, None),
    "pspnet_resnet50": Network("tiny", "random", 3.17306, 400_139, 21.04),
}


@pytest.fixture
def table():
    return build_table(RESULTS, [0, 1, 2], NETWORKS)


def test_build_table__hand_computed(table):
    assert [entry["row"] for entry in table] == [system.word for system in SYSTEMS]
    rows = {entry["row"]: entry for entry in table}
    unet = rows["unet"]
    assert unet["mean_iou"]["mean"] == pytest.approx(0.42)
    assert unet["mean_iou"]["std"] == pytest.approx(0.0282842712)  # sample: 0.04 / sqrt(2)
    assert unet["seconds"] == {"mean": 150.0, "total": 300.0}
    assert (unet["status"], unet["seeds"], unet["instead"]) == ("partly run", [0, 2], [])
    assert (unet["gmac"], unet["parameters"], unet["latency_ms"]) == (346.204404, 28_987_795, 812.34)
    assert (unet["report_mean_iou"], unet["report_gmac"]) == (0.4555, 356)
    assert rows["segformer_b2_cityscapes"]["mean_iou"]["std"] is None
    assert rows["pspnet_resnet50"]["instead"] == ["tiny", "random weights"]
    assert rows["pspnet_resnet50"]["report_mean_iou"] is rows["pspnet_resnet50"]["report_gmac"] is None
    measured = ("mean_iou", "seconds", "size", "init", "gmac", "parameters", "latency_ms")
    for row in set(rows) - {row for row, _ in RESULTS}:
        assert rows[row]["status"] == "not run"
        assert [rows[row][key] for key in measured] == [None] * 7
    assert rows["cwd_pspnet_resnet18"]["report_mean_iou"] == 0.5449
    assert json.loads(json.dumps(table)) == table


def test_write_table__rows(tmp_path, table):
    path = tmp_path / "table.md"
    write_table(table, path, "A title", ["One note.", "Another."])
    lines = path.read_text().splitlines()
    assert lines[0] == "# A title"
    assert (
        "| UNet | none | 0, 2 (others not run) | 42.00 ± 2.83 | *45.55* | 346.2 | *356* | 28.99 | 812.3 | 0:02:30 |"
        in lines
    )
    assert (
        "| SegFormer-B2 | Cityscapes | 0 (others not run) | 75.00 | *78.45* | 114.4 | *50.633* | 27.36 | not measured "
        "| 30.0 s |"
    ) in lines
    assert (
        "| PSPNet R50 (ours: tiny, random weights) | ImageNet encoder | 0 (others not run) | 20.00 | - | 3.1731 | - "
        "| 0.40 | 21.0 | 4.2 s |"
    ) in lines
    assert "| CWD: PSPNet R18 | ImageNet encoder |  | not run | *54.49* |  | *99* |  |  |  |" in lines
    assert lines[-2:] == ["- One note.", "- Another."]
    body = [line for line in lines if line.startswith("|")]
    assert len(body) == 20
    assert {line.count("|") for line in body} == {11}


def test_plot_table__our_points_and_bars(tmp_path, table):
    (axes,) = plot_table(table, tmp_path / "table.png", "Ours (blue)").axes
    drawn = {}
    for container in axes.containers:
        marker, _, bars = container.lines
        ends = [end for one in bars for (segment,) in [one.get_segments()] for end in segment[:, 1]]
        drawn[round(marker.get_xdata()[0], 3)] = (marker.get_marker(), marker.get_ydata()[0], *ends)
    assert drawn == {
        346.204: ("x", pytest.approx(42), pytest.approx(42 - 2.82842712), pytest.approx(42 + 2.82842712)),
        114.403: ("o", pytest.approx(75)),  # one seed has no bar
        3.173: ("x", pytest.approx(20)),  # random weights, whatever the row says
    }
    with Image.open(tmp_path / "table.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.abs(pixels - (0x1F, 0x5F, 0xA8)).sum(2) < 20).sum() > 100
    assert (np.abs(pixels - 0x8A).sum(2) < 10).sum() > 200


@pytest.mark.parametrize("size", [None, "tiny"])
@pytest.mark.parametrize("rows", [ROWS, ROWS[2:12:3], ()])
def test_plot_table__labels_hide_nothing(tmp_path, rows, size):
    noise = np.random.default_rng(0)
    results, networks = {}, {}
    for system in SYSTEMS:
        for seed in range(3) if system.word in rows else ():
            score = (system.mean_iou or 0.6) * (0.2 if size else 1) + noise.normal(-0.02, 0.012)
            results[system.word, seed] = RunResult(score, {}, 1.0)
            gmac = {"segf": 3.9, "base": 3.5, "unet": 5.7, "deep": 3.2, "swin": 2.1, "psp": 3.2}
            cost = next((cost for word, cost in gmac.items() if system.word.startswith(word)), 3.2)
            networks[system.word] = Network(
                size or system.size, "random", cost if size else system.gmac or 320, 1, None
            )
    figure = plot_table(build_table(results, range(3), networks), tmp_path / "table.png", "Ours (blue)")
    (axes,) = figure.axes
    texts = [text for text in axes.texts if isinstance(text, Annotation) and text.get_text()]
    assert len(texts) == 17 + len(rows)
    boxes = [(text.get_text(), text.get_window_extent(figure.canvas.get_renderer())) for text in texts]
    for (text, box), (other, second) in combinations(boxes, 2):
        assert not box.overlaps(second), f"{text} and {other}"
    frame = axes.get_window_extent()
    for text, box in boxes:
        assert (box.min >= frame.min).all() & (box.max <= frame.max).all(), text
