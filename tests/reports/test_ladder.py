import numpy as np
import pytest
from PIL import Image

from hf_urbanseg.options.recipe import recipe_names
from hf_urbanseg.reports import ladder as ladder_module
from hf_urbanseg.reports.figures import build_axes
from hf_urbanseg.reports.ladder import (
    RUNGS,
    build_ladder,
    plot_ladder,
    write_ladder_table,
)
from hf_urbanseg.reports.seeds import RunResult

# Rung 1 with seeds 0 and 1, rung 2 not run, rung 3 with seed 1 alone, rung 4 with both.
RESULTS = {
    (1, 0): RunResult(0.50, {"road": 0.9, "car": 0.1, "bus": None}, 10.0),
    (1, 1): RunResult(0.54, {"road": 0.8, "car": 0.3, "bus": None}, 30.0),
    (3, 1): RunResult(0.60, {"road": 0.9, "car": 0.3, "bus": 0.2}, 60.0),
    (4, 0): RunResult(0.70, {"road": 0.9, "car": 0.2, "bus": None}, 60.0),
    (4, 1): RunResult(0.62, {"road": 0.8, "car": 0.5, "bus": 0.1}, 60.0),
}


def test_rungs__are_the_shipped_recipes_and_the_reports_numbers():
    names = {f"ladder/{rung.number}_{rung.name}" for rung in RUNGS}
    assert names == {name for name in recipe_names() if name.startswith("ladder/")}
    assert [rung.number for rung in RUNGS] == [1, 2, 3, 4, 5, 6, 7]
    assert [rung.report for rung in RUNGS] == [0.6141, 0.6831, 0.7234, 0.7467, 0.7598, 0.7812, 0.7845]


def test_build_ladder__hand_computed():
    ladder = build_ladder(RESULTS, [0, 1])
    assert [entry["status"] for entry in ladder] == ["run", "not run", "partly run", "run"] + ["not run"] * 3
    assert ladder[0]["mean_iou"] == {
        "mean": pytest.approx(0.52),
        "std": pytest.approx(0.0282842712),  # sample: 0.04 / sqrt(2)
        "min": 0.50,
        "max": 0.54,
        "values": {"0": 0.50, "1": 0.54},
    }
    assert ladder[0]["iou"] == {"road": pytest.approx(0.85), "car": pytest.approx(0.2), "bus": None}
    assert ladder[0]["seconds"] == {"mean": 20.0, "total": 40.0}
    assert ladder[0]["change"] is None
    for key in ("mean_iou", "iou", "seconds", "change"):
        assert ladder[1][key] is None
    assert ladder[2]["mean_iou"]["std"] is None
    # Against rung 1, the nearest below that was run, and with seed 1 alone, which both have.
    assert ladder[2]["change"] == {
        "from": 1,
        "seeds": [1],
        "mean_iou": pytest.approx(0.06),
        "iou": {"road": pytest.approx(0.1), "car": pytest.approx(0.0), "bus": None},
        "same_sign": [],
    }
    assert ladder[3]["change"]["from"] == 3
    assert ladder[3]["change"]["mean_iou"] == pytest.approx(0.02)
    assert ladder[3]["change"]["iou"]["bus"] == pytest.approx(-0.1)


def test_build_ladder__same_sign_in_every_seed():
    results = {key: value for key, value in RESULTS.items() if key[0] != 3}
    change = build_ladder(results, [0, 1])[3]["change"]
    assert change["iou"] == {"road": pytest.approx(0.0), "car": pytest.approx(0.15), "bus": None}
    assert change["same_sign"] == ["car"]  # +0.1 and +0.2; road has no change in either


def test_build_ladder__no_common_seed():
    ladder = build_ladder({(1, 0): RESULTS[1, 0], (2, 1): RESULTS[3, 1]}, [0, 1])
    assert ladder[1]["change"] is None
    assert ladder[1]["mean_iou"]["mean"] == 0.60


def test_build_ladder__seeds_that_were_not_asked_for():
    assert build_ladder(RESULTS, [1])[3]["mean_iou"]["values"] == {"1": 0.62}


def test_write_ladder_table__rows_and_classes(tmp_path):
    path = tmp_path / "ladder.md"
    write_ladder_table(build_ladder(RESULTS, [0, 1]), path, "A title", ["One note.", "Another."])
    lines = path.read_text().splitlines()
    assert lines[0] == "# A title"
    assert (
        "| 1 imagenet | encoder from ImageNet | 0, 1 | 52.00 ± 2.83 | 50.00 .. 54.00 |  | *61.41* |  | 20.0 s |"
        in lines
    )
    assert "| 2 cityscapes | trained on Cityscapes before |  | not run |  |  | *68.31* | *+6.90* |  |" in lines
    assert (
        "| 3 schedule | AdamW, polynomial schedule | 1 (others not run) | 60.00 | one seed | +6.00 against 1 "
        "| *72.34* | *+4.03* | 0:01:00 |"
    ) in lines
    assert "- Another." in lines
    assert "| class | 1 imagenet | 3 schedule | 4 class_balanced |" in lines
    assert "| car | 20.00 | +0.00 | +20.00 |" in lines
    assert "| bus | - | - | -10.00 |" in lines
    assert len({line.count("|") for line in lines if line.startswith("| ") and "*" in line}) == 1


def test_write_ladder_table__bold_where_seeds_agree(tmp_path):
    path = tmp_path / "ladder.md"
    write_ladder_table(build_ladder({k: v for k, v in RESULTS.items() if k[0] != 3}, [0, 1]), path, "A title")
    assert "| car | 20.00 | **+15.00** |" in path.read_text()


def test_write_ladder_table__nothing_run(tmp_path):
    path = tmp_path / "ladder.md"
    write_ladder_table(build_ladder({}, [0]), path, "A title")
    assert path.read_text().count("not run") == 7
    assert "per class" not in path.read_text()


@pytest.mark.parametrize("results", [RESULTS, {}, {(7, 0): RESULTS[1, 0]}])
def test_plot_ladder__blue_for_ours_and_grey_for_the_report(tmp_path, results):
    path = tmp_path / "ladder.png"
    plot_ladder(build_ladder(results, [0, 1]), path, "A title with $ and _")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    blue = (np.abs(pixels - (0x1F, 0x5F, 0xA8)).sum(2) < 20).sum()
    grey = (np.abs(pixels - 0x8A).sum(2) < 10).sum()
    assert (blue > 100) == bool(results)
    assert grey > 200


@pytest.mark.parametrize(("lower", "panels"), [(0.05, 1), (0.55, 2)])
def test_plot_ladder__ours_can_be_read_however_far_below_the_report(tmp_path, monkeypatch, lower, panels):
    figures = []
    monkeypatch.setattr(
        ladder_module, "build_axes", lambda *size, **rows: figures.append(build_axes(*size, **rows)) or figures[0]
    )
    results = {(rung.number, 0): RunResult(rung.report - lower, {"road": 0.9}, 1.0) for rung in RUNGS}
    plot_ladder(build_ladder(results, [0]), tmp_path / "ladder.png", "A title")
    figure, _ = figures[0]
    assert len(figure.axes) == panels
    low, high = figure.axes[-1].get_ylim()  # ours climb 17 points, and have the half of their axis at least
    assert low < 100 * (RUNGS[0].report - lower) < 100 * (RUNGS[-1].report - lower) < high < low + 35
    scores = [text.get_text() for axes in figure.axes for text in axes.texts]
    ours, report = ([f"{100 * (rung.report - less):.2f}" for rung in RUNGS] for less in (lower, 0))
    assert scores == (ours if panels == 1 else report + ours)
    assert figure.axes[-1].get_ylabel() == ("mIoU (%)" if panels == 1 else "our mIoU (%), on another axis")
