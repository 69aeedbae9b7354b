"""The ladder's recipes: each is the one below with its trick, and the top is the report's entry."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from run_options import ALL, resolved
from torch import nn

from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.recipe import load_recipe, recipe_names
from hf_urbanseg.training.trainer import UrbanSegTrainer

FOLDER = Path(__file__).parents[2] / "hf_urbanseg" / "recipes"
RUNGS = ("imagenet", "cityscapes", "schedule", "class_balanced", "ohem", "multi_scale", "auxiliary")
SIX_SCALES = ["187x621", "281x931", "375x1242", "469x1552", "562x1863", "656x2173"]


# What each rung may change; everything else must stay as it was.
CHANGES = {
    "cityscapes": {"model_name_or_path"},
    "schedule": {
        "optim", "optim_args", "learning_rate", "head_lr_multiplier", "weight_decay", "lr_scheduler_type",
        "warmup_steps",
    },
    "class_balanced": {"class_weights"},
    "ohem": {"loss"},
    "multi_scale": {"train_scales"},
    "auxiliary": {"auxiliary_head"},
}  # fmt: skip


@pytest.mark.parametrize("size", ["b0", "b2", "b5"])
def test_ladder__every_rung_changes_its_trick_alone(size):
    names = [f"ladder/{n}_{rung}" for n, rung in enumerate(RUNGS, 1)]
    recipes = [resolved(name, size) for name in names]
    for rung, (before, after) in zip(RUNGS[1:], pairwise(recipes), strict=True):
        assert {key for key in before | after if before.get(key) != after.get(key)} == CHANGES[rung]
    assert set(names) == {name for name in recipe_names() if name.startswith("ladder/")}
    for below, name in pairwise(names):
        assert yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["base"] == below


@pytest.mark.parametrize(
    ("size", "steps", "batch", "warmup"), [("b0", 10_000, 8, 1500), ("b2", 20_000, 8, 1500), ("b5", 20_000, 2, 5000)]
)
def test_ladder__values_of_the_report(size, steps, batch, warmup):
    first, third = resolved("ladder/1_imagenet", size), resolved("ladder/3_schedule", size)
    assert (first["max_steps"], first["per_device_train_batch_size"], first["crop_size"]) == (steps, batch, [368, 368])
    assert first["model_name_or_path"] == f"nvidia/mit-{size}"
    assert (first["optim"], first["optim_args"], first["lr_scheduler_type"]) == ("sgd", "momentum=0.9", "constant")
    assert (first["class_weights"], first["train_scales"]) == ("none", ["375x1242"])
    assert (third["learning_rate"], third["head_lr_multiplier"], third["weight_decay"]) == (1e-5, 10.0, 0.01)
    assert (third["lr_scheduler_type"], third["lr_power"], third["lr_end"]) == ("polynomial", 1.0, 0.0)
    assert (third["warmup_steps"], third["warmup_start"]) == (warmup, 1e-5)
    last = resolved("ladder/7_auxiliary", size)
    assert (last["loss"], last["ohem_min_kept"], last.get("ohem_threshold")) == ("ohem", 100_000, None)
    assert last["train_scales"] == SIX_SCALES
    assert [last[f"auxiliary_{key}"] for key in ("head", "stage", "channels", "weight")] == [True, 3, 256, 0.4]


@pytest.mark.parametrize(
    ("kitti", "rung"),
    [
        ("segformer_b0_kitti", "ladder/6_multi_scale"),  # only the code's B2 has an auxiliary head
        ("segformer_b2_kitti", "ladder/7_auxiliary"),
        ("segformer_b5_kitti", "ladder/6_multi_scale"),
    ],
)
def test_ladder__ends_at_the_reports_entry(kitti, rung):
    assert resolved(kitti) == resolved(rung, kitti.split("_")[1])


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("ladder/")])
def test_ladder__says_what_the_report_says(name):
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    number = int(re.search(r"/(\d)_", name)[1])
    assert text.startswith("# The ladder of tricks")
    assert f"rung {number} of 7" in text
    report = (61.41, 68.31, 72.34, 74.67, 75.98, 78.12, 78.45)
    assert f"{report[number - 1]:.2f}" in text.split("base:")[0]


def test_ladder__momentum_and_rate_reach_the_optimizer(tmp_path):
    # `optim_args` is read by stock transformers, the groups are ours.
    words = ["--output_dir", str(tmp_path / "run")]
    args = parse_arguments(ALL, words, load_recipe("ladder/2_cityscapes", "b2"))[-1]
    trainer = UrbanSegTrainer.__new__(UrbanSegTrainer)
    trainer.args, trainer.optimizer, trainer.lr_scheduler = args, None, None
    trainer.model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    assert {(group["lr"], group["momentum"]) for group in optimizer.param_groups} == {(0.01, 0.9)}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {5e-4, 0.0}  # not on the LayerNorm
    scheduler = trainer.create_scheduler(20_000, optimizer)
    rates = []
    for _ in range(3):
        optimizer.step()
        scheduler.step()
        rates += scheduler.get_last_lr()
    assert set(rates) == {0.01}
