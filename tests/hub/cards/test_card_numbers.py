"""Every number of a card, read back from the page, is the one in the run's files."""

import json

import pytest
from card_pages import Page, build_card_run, build_space, edit_metrics
from loopback_cards import read_front_matter

from hf_urbanseg.hub.cards.model_card import build_model_card
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports.failure_cases import choose_failure_cases

COLUMNS = {"IoU (%)": "iou", "accuracy (%)": "accuracy", "precision (%)": "precision",
           "boundary IoU (%)": "boundary_iou"}  # fmt: skip


def read_tables(card: str) -> dict[str, list[list[str]]]:
    """The tables of a page, by the first cell of their heading."""
    tables, width = {}, None
    for row in Page(card).cells:
        # A heading stands where the width changes, or where the first cell is one of the known words.
        if row[0] in ("split", "id", "what") or row[0].startswith("image of"):
            width = tables.setdefault(row[0].split(" of ")[0], [row])
        else:
            width.append(row)
    return tables


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


@pytest.fixture(params=[4, 150], ids=["4 classes", "150 classes"])
def run(request, tmp_path):
    names = None if request.param == 4 else [f"class {i}" for i in range(request.param)]
    return build_card_run(tmp_path / "run", names and build_space(names))


def test_build_model_card__every_table_is_the_files(run):
    with edit_metrics(run) as metrics:
        splits = metrics["splits"]
        splits["validation"]["num_images"] = 7
    tables = read_tables(build_model_card(run))
    for row, (name, found) in zip(tables["split"][1:], sorted(splits.items()), strict=True):
        bounds = found["confidence_interval"]
        assert row == [
            name, str(found["num_images"]), percent(found["mean_iou"]),
            f"{percent(bounds['low'])} to {percent(bounds['high'])}", percent(found["mean_accuracy"]),
            percent(found["overall_accuracy"]),
        ]  # fmt: skip
    found = splits["test"]
    head, *rows, mean = tables["id"]
    assert head == ["id", "class on test", *COLUMNS, "labelled pixels"]
    for index, (row, name) in enumerate(zip(rows, found["iou"], strict=True)):
        scores = [percent(found[key][name]) for key in COLUMNS.values()]
        assert row == [str(index), name, *scores, f"{found['support'][name]:,}"]
    assert mean == ["", "mean", *(percent(found[f"mean_{key}"]) for key in COLUMNS.values()), ""]


def test_build_model_card__failures_are_those_of_the_counts(run):
    images = ImageCounts.from_dict(json.loads((run / "per_image_test.json").read_text()))
    expected = [
        [images.names[index], percent(float(images.mean_iou[index])), "".join(reasons[:3])]
        for index, reasons in list(choose_failure_cases(images, 3, 1).items())[:5]
    ]
    assert expected
    assert read_tables(build_model_card(run))["image"][1:] == expected


def test_build_model_card__a_score_of_nan_is_a_dash(tmp_path):
    run = build_card_run(tmp_path / "run", splits=("test",))
    metrics = json.loads((run / "metrics.json").read_text())
    scores = metrics["splits"]["test"]
    for key in ("iou", "accuracy", "precision", "dice", "boundary_iou"):
        scores[key] = dict.fromkeys(scores[key], 0.5)
    (run / "metrics.json").write_text(json.dumps(metrics))
    for key in ("iou", "accuracy", "precision", "dice", "boundary_iou"):
        scores[key]["building"] = float("nan")
    scores["mean_accuracy"] = scores["mean_boundary_iou"] = None
    (run / "metrics.json").write_text(json.dumps(metrics))
    card = build_model_card(run)
    tables = read_tables(card)
    assert tables["id"][3][2:6] == ["–"] * 4
    assert "A dash is a score that doesn't exist" in card
    assert tables["id"][-1][5] == "–"
    assert tables["split"][1][4] == "–"
    assert "nan" not in card.lower().replace("anan", "")
    metrics["splits"]["test"] |= {"mean_iou": None, "iou": dict.fromkeys(scores["iou"])}
    (run / "metrics.json").write_text(json.dumps(metrics))
    card = build_model_card(run)
    assert "This model has not been measured on held-out images." in card
    assert "None" not in card.partition("<details>")[0]


def test_build_model_card__is_never_endless(tmp_path):
    """The Hub reads no card above 10 MB: long names and notes are cut."""
    names = [f"{i:03d}{'x' * 97}" for i in range(150)]
    run = build_card_run(tmp_path / "run", build_space(names), splits=("test",))
    with edit_metrics(run) as metrics:
        metrics["data"] |= {"name": "d" * 5_000_000, "notes": [f"note {i} {'y' * 30_000}" for i in range(1000)]}
    card = build_model_card(run, "user/name")
    assert len(card.encode()) < 2_000_000
    name = read_front_matter(card)["model-index"][0]["results"][0]["dataset"]["name"]
    assert name == f"{'d' * 498} ... {'d' * 497}"
