"""How a run was trained, in words."""

import json

import pytest
from card_pages import Page, build_card_run
from hf_urbanseg.reports.run_files import write_json, write_yaml

from hf_urbanseg.hub.cards.model_card import build_model_card
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.hub.cards.training import describe_training

SCALES = "scales 187x621, 281x931, 375x1242, 469x1552, 562x1863, 656x2173"


def read_rows(run) -> dict[str, str]:
    return dict(describe_training(RunSummary.read(run)))


def test_describe_training__the_rows_of_a_usual_run(tmp_path):
    """All of them, word for word: the recipe is the package's for B0 on KITTI, the run build_card_run's."""
    assert read_rows(build_card_run(tmp_path / "run")) == {
        "start": "nvidia/segformer-b0-finetuned-cityscapes-768-768",
        "loss": "OHEM cross-entropy (largest losses, at least 100,000 pixels an image), divided by labelled pixels",
        "class weights": "inverse_log, from the pixels of kitti, train, 30 images",
        "optimiser": "AdamW, learning rate 1e-05, x10 outside the encoder, weight decay 0.01",
        "schedule": "polynomial of power 1, 10000 steps, warm-up 1500",
        "batch": "8 crops x 2 processes = 16",
        "augmentation": f"{SCALES}; crops 368x368; flip 0.5; photometric distortion on",
        "dropout": "drop path 0.1, before the classifier 0.1",
        "precision": "fp32",
        "seed": "0",
        "wall time": "67 min for 1000 steps, measuring included",
        "machine": "CPU, 2 cores, 2 processes",
        "versions": "hf_urbanseg 0.0.7, torch 2.13.0",
    }


@pytest.mark.parametrize(
    ("options", "row", "expected"),
    [
        ({"init": "random"}, "start", "random weights, nothing pre-trained"),
        ({"model_revision": "abc"}, "start", "nvidia/segformer-b0-finetuned-cityscapes-768-768 at revision abc"),
        ({"model_name_or_path": None}, "start", "not recorded"),
        ({"model_name_or_path": "/home/me/runs/base"}, "start", "base"),
        ({"loss": "cross_entropy"}, "loss", "cross-entropy, divided by labelled pixels"),
        ({"loss": "ohem", "ohem_threshold": 0.5, "ohem_min_kept": 10_000}, "loss",
         "OHEM cross-entropy (probability below 0.5, at least 10,000 pixels an image), divided by labelled pixels"),
        ({"loss": "ohem", "ohem_threshold": 0.0}, "loss", "OHEM cross-entropy (probability below 0.0, at least 100,000 "
         "pixels an image), divided by labelled pixels"),
        ({"loss": "focal", "focal_gamma": 1.5, "add_losses": ["dice=0.5", "lovasz=1"], "normalizer": "weight_sum"},
         "loss", "focal (gamma 1.5) + dice=0.5 + lovasz=1, divided by summed weights"),
        ({"class_weights": "none"}, "class weights", "none"),
        ({"class_weights": "/home/me/my weights.json"}, "class weights",
         "my weights.json, from the pixels of kitti, train, 30 images"),
        ({"auxiliary_head": True}, "auxiliary head", "FCN on stage 3, weight 0.4; not in the published model"),
        ({"head_lr_multiplier": 1.0}, "optimiser", "AdamW, learning rate 1e-05, weight decay 0.01"),
        ({"lr_cycles": 4, "lr_power": 0.9}, "schedule", "polynomial of power 0.9, 10000 steps, warm-up 1500, 4 cycles"),
        ({"lr_scheduler_type": "cosine", "warmup_steps": 0.05}, "schedule", "cosine, 10000 steps, warm-up 0.05"),
        ({"gradient_accumulation_steps": 4}, "batch", "8 crops x 2 processes x 4 accumulated = 64"),
        ({"photometric": False, "flip": 0.0}, "augmentation",
         f"{SCALES}; crops 368x368; flip 0.0; photometric distortion off"),
        ({"bf16": True}, "precision", "bf16 in training, fp32 in measuring"),
        ({"fp16": True}, "precision", "fp16 in training, fp32 in measuring"),
        ({"ema_decay": 0.999, "export_ema": True}, "averaged weights", "decay 0.999, exported"),
        ({"ema_decay": 0.9}, "averaged weights", "decay 0.9, measured beside the raw weights, which are exported"),
        ({"seed": 7}, "seed", "7"),
    ],
)  # fmt: skip
def test_describe_training__options_in_effect(tmp_path, options, row, expected):
    assert read_rows(build_card_run(tmp_path / "run", **options))[row] == expected


def test_describe_training__only_what_is_in_effect(tmp_path):
    rows = read_rows(build_card_run(tmp_path / "run"))
    assert not {"auxiliary head", "averaged weights", "measured on"} & rows.keys()


def test_describe_training__defaults_where_a_recipe_by_hand_is_silent(tmp_path):
    run = build_card_run(tmp_path / "run")
    write_yaml(run / "recipe.yaml", {"data_dir": "kitti", "init": "random", "max_steps": 20})
    rows = read_rows(run)
    assert rows["schedule"] == "polynomial of power 1, 20 steps, warm-up 1500"
    assert rows["dropout"] == "drop path 0.1, before the classifier 0.1"
    (run / "recipe.yaml").unlink()
    assert read_rows(run) == {}
    assert "## Training" not in build_model_card(run)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(119.4, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (90_000, "25.0 h")]
)
def test_describe_training__wall_time(tmp_path, seconds, expected):
    run = build_card_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["training"] |= {"seconds": seconds, "processes": 1}
    write_json(run / "metrics.json", metrics)
    rows = read_rows(run)
    assert rows["wall time"] == f"{expected} for 1000 steps, measuring included"
    assert rows["machine"] == "CPU, 2 cores, 1 process"
    assert rows["batch"] == "8 crops"


def test_describe_training__a_resumed_run_was_not_so_fast(tmp_path):
    """Only the last process's time is known."""
    run = build_card_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["training"] |= {"seconds": 60, "steps": 1000, "resumed_from_step": 900}
    write_json(run / "metrics.json", metrics)
    assert read_rows(run)["wall time"] == "60 s for steps 901 to 1000, after a resume, measuring included"


def test_describe_training__a_machine_that_only_measured_is_not_called_the_training_one(tmp_path):
    """evaluate.py writes a metrics.json of its own, with its own environment."""
    run = build_card_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    write_json(run / "metrics.json", {key: metrics[key] for key in ("splits", "environment")})
    rows = read_rows(run)
    assert rows["measured on"] == "CPU, 2 cores"
    assert rows["measured with"] == "hf_urbanseg 0.0.7, torch 2.13.0"
    assert not {"machine", "versions", "wall time"} & rows.keys()
    assert "How the exported step was chosen is not recorded." in build_model_card(run)


def test_build_model_card__training_table_is_the_rows(tmp_path):
    run = build_card_run(tmp_path / "run", loss="ohem", auxiliary_head=True)
    cells = {row[0]: row[1] for row in Page(build_model_card(run)).cells if len(row) == 2}
    assert read_rows(run).items() <= cells.items()
