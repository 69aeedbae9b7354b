"""What goes beyond the report: recipes with one lever more each, and which of them are run."""

from itertools import pairwise

import pytest
from run_options import resolved

from hf_urbanseg.commands.reproduce import LEVERS, BeyondArguments
from hf_urbanseg.errors import ConfigError

CHANGES = {
    "2_averaged": {"ema_decay", "export_ema", "metric_for_best_model"},
    "3_rare_classes": {"rare_class_share", "rare_class_temperature"},
    "4_pasted": {"paste_share"},
    "5_stage_rates": {"stage_lr_decay"},
    "6_unlabelled": set(),  # its folders are the user's, and so are
    "7_more_data": set(),  # these
}


@pytest.mark.parametrize("size", ["tiny", "b0", "b2", "b5"])
def test_beyond__every_rung_adds_its_lever_alone(size):
    assert tuple(CHANGES) == LEVERS[1:]
    recipes = [resolved(f"beyond/{rung}", size) for rung in LEVERS]
    for rung, (before, after) in zip(LEVERS[1:], pairwise(recipes), strict=True):
        changed = {key for key in before | after if before.get(key) != after.get(key)}
        assert changed == CHANGES[rung], rung


@pytest.mark.parametrize("size", ["b0", "b2", "b5"])
def test_beyond__begins_as_the_report_ends_but_selects_nothing(size):
    report, ours = resolved(f"segformer_{size}_kitti"), resolved("beyond/1_report", size)
    changed = {key for key in report | ours if report.get(key) != ours.get(key)}
    assert changed == {"validation_fraction", "eval_strategy", "load_best_model_at_end"}


def test_beyond_arguments__rungs_whose_data_is_named():
    assert list(BeyondArguments().recipes) == [f"beyond/{rung}" for rung in LEVERS[:5]]
    chosen = BeyondArguments(unlabelled=["a", "b"], add_data=["c:0.5"]).recipes
    assert chosen["beyond/5_stage_rates"] == []
    assert chosen["beyond/6_unlabelled"] == ["--unlabelled", "a", "b"]
    assert chosen["beyond/7_more_data"] == ["--unlabelled", "a", "b", "--add_data", "c:0.5"]
    assert list(BeyondArguments(add_data=["c"], rungs=["7_more_data", "1_report"]).recipes) == [
        "beyond/1_report", "beyond/7_more_data",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="`unlabelled` with rung 6_unlabelled; found none"):
        BeyondArguments(rungs=["6_unlabelled"])
