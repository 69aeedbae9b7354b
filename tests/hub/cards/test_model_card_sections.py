"""What a card says in words."""

import json
import re
import shlex

import pytest
from card_pages import Page, build_card_run, edit_metrics, read_block
from loopback_cards import read_front_matter

from hf_urbanseg.hub.cards.model_card import build_model_card, describe_failures, measure_command
from hf_urbanseg.hub.cards.run_summary import RunSummary
from hf_urbanseg.inference.plan import PredictionPlan
from hf_urbanseg.json_yaml import write_json, write_yaml
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.prediction import PlanArguments
from hf_urbanseg.reports.overlays import name_picture


@pytest.mark.parametrize(
    ("splits", "by", "said"),
    [
        (("test", "validation"), "mean_iou of validation", "test took no part in that and was measured once."),
        (("validation",), "mean_iou of validation", "the numbers on that split are too good by selection"),
        (("validation",), "last step", "no split was used to choose it."),
        (("test",), "mean_iou of test", "the numbers on that split are too good by selection."),
        (("test", "validation"), "mean_iou of test", "the numbers on that split are too good by selection."),
    ],
)
def test_build_model_card__selection(tmp_path, splits, by, said):
    run = build_card_run(tmp_path / "run", splits=splits)
    with edit_metrics(run) as metrics:
        metrics["selection"]["by"] = by
    assert said in build_model_card(run)


def test_build_model_card__command_names_what_the_recipe_had(tmp_path):
    card = build_model_card(build_card_run(tmp_path / "run", label_space="camvid as.yaml"), "user/name")
    words = shlex.split(read_block(card, "bash"))
    assert words == ["urbanseg", "evaluate", "--model", "user/name", "--split", "test", "--data_dir", "kitti",
                     "--label_space", "camvid as.yaml"]  # fmt: skip
    run = build_card_run(tmp_path / "two", data_dir=None, dataset="user/set", data="user/set")
    with edit_metrics(run) as metrics:
        metrics["splits"]["test"]["protocol"] = (
            "6 passes: ratios 0.5 1 1.5 of 64x192 (height x width), with and without flip"
        )
    card = build_model_card(run, "user/name")
    assert read_block(card, "bash").endswith("--model user/name --split test --ratios 0.5 1 1.5 --flip true")
    assert read_front_matter(card)["datasets"] == ["user/set"]


def read_limits(run, **scores) -> list[str]:
    """The limits of a run whose test scores are changed."""
    with edit_metrics(run) as metrics:
        metrics["splits"]["test"] |= scores
    return re.findall(r"^- (.*)$", build_model_card(run).partition("## Limits")[2].partition("##")[0], re.MULTILINE)


def test_build_model_card__limits_by_the_numbers(tmp_path):
    run = build_card_run(tmp_path / "run")
    iou = {"road": 0.0999, "sidewalk": 0.1, "building": None, "wall": 0.0}
    limits = read_limits(run, iou=iou, support={"road": 5, "sidewalk": 5, "building": 0, "wall": 0})
    assert limits[1:] == [
        "Never seen in training: road, sidewalk.",
        "Not learnt (IoU 0 % on test): wall.",
        "Hardly learnt (IoU below 10 %): road.",
        "Not measured (no labelled pixel on test): building.",
        "The interval speaks of the choice of images alone; another seed of training was not tried.",
        "Images are resized to 64 x 192 pixels (height x width) whatever their shape.",
    ]
    assert len(read_limits(run, confidence_interval=None)) == len(limits) - 1


@pytest.mark.parametrize(
    ("data", "train", "expected"),
    [
        ("synthetic", 64, ["Trained on 64 images only, measured on 5; the images were rendered by a program: the "
                           "numbers show that training works and say nothing about real streets."]),
        ("cityscapes", 2975, ["Trained on 2,975 images, measured on 5; Cityscapes' images were taken from one car in "
                              "cities of Germany and its neighbours, in daylight and good or medium weather."]),
        ("mine", 1000, ["Trained on 1,000 images, measured on 5; other places, night and bad weather were not "
                        "measured."]),
        ("mine", 999, ["Trained on 999 images only, measured on 5; other places, night and bad weather were not "
                       "measured."]),
    ],
)  # fmt: skip
def test_build_model_card__limits_by_the_data(tmp_path, data, train, expected):
    run = build_card_run(tmp_path / "run", data=data)
    with edit_metrics(run) as metrics:
        metrics["data"]["images"]["train"] = train
    assert read_limits(run)[: len(expected) + 1][:-1] == expected
    assert read_limits(run)[len(expected)].startswith("Never seen")


@pytest.mark.parametrize("ratios", [(1.0,), (0.5, 0.75, 1.0), (1e-05, 1 / 3)])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("window", "stride"), [(None, None), ((128, 256), None), ((128, 256), (64, 100))])
def test_measure_command__every_plan_comes_back(tmp_path, ratios, flip, window, stride):
    """What a plan says of itself on the card is, as options, that plan again."""
    plan = PredictionPlan(ratios=ratios, flip=flip, window=window, stride=stride)
    run = build_card_run(tmp_path / "run")
    with edit_metrics(run) as metrics:
        metrics["splits"]["test"]["protocol"] = plan.describe((64, 192))
    words = shlex.split(measure_command(RunSummary.read(run), "test", "user/name"))
    at = words.index("--data_dir") + 2
    (arguments,) = parse_arguments((PlanArguments,), words[at:])
    assert arguments.build_plan() == plan


def test_measure_command__paths_are_cut_and_words_quoted(tmp_path):
    run = build_card_run(tmp_path / "run", label_space="/home/me/my classes.yaml", data="it's; rm -rf $HOME")
    words = shlex.split(measure_command(RunSummary.read(run), "test", "user/name"))
    assert words[6:] == ["--data_dir", "it's; rm -rf $HOME", "--label_space", "my classes.yaml"]


def test_describe_failures__a_picture_of_the_failure_before_an_overlay(tmp_path):
    run = build_card_run(tmp_path / "run")
    (run / "failures").mkdir()
    summary = RunSummary.read(run)
    cases = describe_failures(summary, "test", True)
    assert len(cases) <= 5
    shown = {case["name"]: case["picture"] for case in cases}
    assert shown["000000_10"] == "overlays/000000_10.png"
    (run / "failures" / "000000_10.jpg").write_bytes(b"x")
    assert describe_failures(summary, "test", True)[list(shown).index("000000_10")]["picture"] == (
        "failures/000000_10.jpg")  # fmt: skip
    assert {case["picture"] for case in describe_failures(summary, "test", False)} == {None}
    assert describe_failures(summary, "train", True) == []


def test_describe_failures__a_frame_whose_name_cannot_name_a_file(tmp_path):
    run = build_card_run(tmp_path / "run")
    counts = json.loads((run / "per_image_test.json").read_text().replace("000000_10", "train/seq 1/.x"))
    write_json(run / "per_image_test.json", counts)
    (run / "failures").mkdir()
    (run / "failures" / f"{name_picture('train/seq 1/.x')}.png").write_bytes(b"x")
    shown = {case["name"]: case["picture"] for case in describe_failures(RunSummary.read(run), "test", True)}
    assert shown["train/seq 1/.x"] == f"failures/{name_picture('train/seq 1/.x')}.png"


def test_describe_failures__no_more_than_a_reader_looks_at(tmp_path, monkeypatch):
    summary = RunSummary.read(build_card_run(tmp_path / "run"))
    every = describe_failures(summary, "test", False)
    assert len(every) > 2
    monkeypatch.setattr("hf_urbanseg.hub.cards.model_card._MOST_FAILURES", 2)
    assert describe_failures(summary, "test", False) == every[:2]


# ---- how it was trained ----


def read_rows(run) -> dict[str, str]:
    section = build_model_card(run).partition("## Training")[2].partition("\n\nEvery")[0]
    return dict(Page(f"\n---\n{section}").cells[1:])


def test_build_model_card__training_the_rows_of_a_usual_run(tmp_path):
    """All of them, word for word: the recipe is the package's for B0 on KITTI, the run build_card_run's."""
    run = build_card_run(tmp_path / "run")
    expected = {
        "start": "nvidia/segformer-b0-finetuned-cityscapes-768-768",
        "loss": "ohem; class weights inverse_log",
        "optimiser": "AdamW, learning rate 1e-05, x10 outside the encoder",
        "steps": "10000, polynomial, warm-up 1500",
        "batch": "8 crops of 368x368 x 2 processes",
        "augmentation": "scales 187x621, 281x931, 375x1242, 469x1552, 562x1863, 656x2173",
        "wall time": "67 min, measuring included, on CPU, 2 cores",
        "versions": "hf_urbanseg 0.0.7, torch 2.13.0",
    }
    assert read_rows(run) == expected


@pytest.mark.parametrize(
    ("options", "row", "expected"),
    [
        ({"init": "random"}, "start", "random weights"),
        ({"model_name_or_path": "/home/me/runs/base"}, "start", "base"),
        ({"loss": "cross_entropy", "add_losses": ["dice=0.5"]}, "loss",
         "cross-entropy + dice=0.5; class weights inverse_log"),
        ({"lr_cycles": 4, "warmup_steps": 0.05}, "steps", "10000, polynomial, warm-up 0.05, 4 cycles"),
        ({"lr_scheduler_type": "cosine"}, "steps", "10000, cosine, warm-up 1500"),
        ({"gradient_accumulation_steps": 4}, "batch", "8 crops of 368x368 x 2 processes x 4 accumulated"),
        ({"train_scales": [1.0], "flip": 0.5, "photometric": True}, "augmentation",
         "scales 1.0, flip 0.5, photometric distortion"),
        ({"ema_decay": 0.999, "export_ema": True}, "averaged weights", "decay 0.999, exported"),
        ({"ema_decay": 0.9}, "averaged weights", "decay 0.9, measured beside the raw weights, which are exported"),
    ],
)  # fmt: skip
def test_build_model_card__training_options_in_effect(tmp_path, options, row, expected):
    assert read_rows(build_card_run(tmp_path / "run", **options))[row] == expected


def test_build_model_card__training_says_no_more_than_is_recorded(tmp_path):
    """A resumed run was not so fast, and a machine that only measured is not called the training one."""
    run = build_card_run(tmp_path / "run")
    metrics = json.loads((run / "metrics.json").read_text())
    write_json(run / "metrics.json", metrics | {"training": {"seconds": 60, "resumed_from_step": 900}})
    assert read_rows(run)["wall time"] == "60 s from step 901 on, measuring included, on CPU, 2 cores"
    write_json(run / "metrics.json", {key: metrics[key] for key in ("splits", "environment")})
    rows = read_rows(run)
    assert rows["measured with"] == "hf_urbanseg 0.0.7, torch 2.13.0"
    assert not {"versions", "wall time"} & rows.keys()
    write_yaml(run / "recipe.yaml", {"data_dir": "kitti", "init": "random", "max_steps": 20})
    assert "## Training" not in build_model_card(run)
