"""What a card says in words."""

import json
import shlex

import pytest
from card_pages import Page, build_card_run, read_block
from loopback_cards import read_front_matter

from hf_urbanseg.hub.model_card import build_model_card
from hf_urbanseg.metrics.image_counts import ImageCounts
from hf_urbanseg.reports.run_files import write_json


def test_build_model_card__limits_name_classes(tmp_path):
    card = build_model_card(build_card_run(tmp_path / "run"))
    assert "- Never seen in training (no pixel of the train split): road, sidewalk.\n" in card
    assert "- Not learnt (IoU 0 % on test): wall.\n" in card
    assert "- Trained on 30 images only, measured on 5; KITTI's images were taken from one car" in card
    assert "resized to 64 x 192 pixels" in card


def test_build_model_card__failures_are_listed_and_linked(tmp_path):
    run = build_card_run(tmp_path / "run")
    rows = [row for row in Page(build_model_card(run)).cells if row[0].endswith("_10")]
    images = ImageCounts.from_dict(json.loads((run / "per_image_test.json").read_text()))
    worst = int(images.mean_iou.argmin())
    assert rows[0][:2] == [images.names[worst], f"{100 * images.mean_iou[worst]:.2f}"]
    assert rows[0][2].startswith("lowest mIoU of 5 images")
    without = build_model_card(run, pictures=False)
    assert "overlays/" not in without
    assert "## Where it fails" in without
    assert "training_curves.png" in without


@pytest.mark.parametrize(
    ("splits", "by", "said"),
    [
        (("test", "validation"), "mean_iou of validation", "The test split took no part in that"),
        (("validation",), "mean_iou of validation", "the numbers on that split are too good by selection"),
        (("validation",), "last step", "no split was used to choose it, so the choice makes no number too good."),
        (("test",), "mean_iou of test", "too good by selection; no other split was measured."),
        (("test", "validation"), "mean_iou of test", "the numbers on that split are too good by selection."),
    ],
)
def test_build_model_card__selection(tmp_path, splits, by, said):
    run = build_card_run(tmp_path / "run", splits=splits)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["selection"]["by"] = by
    write_json(run / "metrics.json", metrics)
    assert said in build_model_card(run)


def test_build_model_card__command_names_what_the_recipe_had(tmp_path):
    card = build_model_card(build_card_run(tmp_path / "run", label_space="camvid as.yaml"), "user/name")
    words = shlex.split(read_block(card, "bash"))
    assert words == ["python", "scripts/evaluate.py", "--model", "user/name", "--split", "test", "--data_dir", "kitti",
                     "--label_space", "camvid as.yaml"]  # fmt: skip
    run = build_card_run(tmp_path / "two", data_dir=None, dataset="user/set", data="user/set")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["splits"]["test"]["protocol"] = (
        "6 passes: ratios 0.5 1 1.5 of 64x192 (height x width), with and without flip"
    )
    write_json(run / "metrics.json", metrics)
    card = build_model_card(run, "user/name")
    assert read_block(card, "bash").endswith("--model user/name --split test --ratios 0.5 1 1.5 --flip true")
    assert read_front_matter(card)["datasets"] == ["user/set"]
