"""A run ends when its evaluations get no better, at the same step however often it was killed."""

from types import SimpleNamespace

import pytest
import torch
from interruptions import Stop
from noise import SMALL, Samples
from run_options import fails

from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.training.checkpoints import list_checkpoints
from hf_urbanseg.training.early_stopping import explain_stop
from hf_urbanseg.training.trainer import UrbanSegTrainer


@pytest.fixture
def build(worker, tmp_path):
    """A trainer whose evaluations have these scores, one after the other; 4 steps an epoch."""

    def make(scores, name="run", eval_dataset=None, **options):
        torch.manual_seed(0)
        options = {
            "max_steps": 9, "per_device_train_batch_size": 2, "eval_strategy": "steps", "eval_steps": 1,
            "save_strategy": options.get("eval_strategy", "steps"), "save_steps": 1, "save_total_limit": None,
            "ema_decay": 0.5,
        } | options  # fmt: skip
        model, args = (
            build_random_model("tiny", CITYSCAPES, **SMALL),
            worker.build_arguments(tmp_path / name, **options),
        )
        trainer = UrbanSegTrainer(model, args, CrossEntropyLoss(19), Samples(), eval_dataset or Samples())
        every = 4 if options["eval_strategy"] == "epoch" else options["eval_steps"]

        def score(dataset):
            now = scores[trainer.state.global_step // every - 1]
            return {"mean_iou": 0.5, "iou_road": 0.5} if now is None else {"mean_iou": now, "iou_sky": now}

        trainer._compute_metrics = score
        return trainer

    return make


@pytest.mark.parametrize(
    ("scores", "patience", "more", "stop"),
    [
        ([0.1, 0.2, 0.3], 1, {}, None),
        ([0.1, 0.1, 0.3], 1, {}, 2),  # as good is not better
        ([0.5, 0.4, 0.6, 0.5, 0.6, 0.5, 0.9], 3, {}, 6),
        ([0.5, 0.4, 0.6, 0.5, 0.6, 0.5, 0.9], 4, {}, None),
        ([0.5, 0.52, 0.55, 0.58, 0.7], 3, {"early_stopping_threshold": 0.1}, 4),  # each better than the best before
        ([0.5, 0.52, 0.55, 0.68, 0.7], 3, {"early_stopping_threshold": 0.1}, None),
        ([0.5, 0.4, 0.6], 1, {"greater_is_better": False}, 3),
        ([0.5, None, float("nan"), 0.4, 0.3], 2, {}, 5),  # no score, no verdict
        ([0.0, 0.0, 0.0], 2, {}, 3),
    ],
)
def test_explain_stop__when(scores, patience, more, stop):
    args = {"metric_for_best_model": "ema_iou_sky", "greater_is_better": True, "early_stopping_threshold": 0.0} | more
    args = SimpleNamespace(early_stopping_patience=patience, **args)
    log, stopped = [], None
    for step, score in enumerate(scores, 1):
        log += [{"step": step, "eval_ema_iou_sky": score, "eval_mean_iou": 1 - step / 10}, {"step": step, "loss": 1.0}]
        if explain_stop(args, SimpleNamespace(log_history=log, global_step=step, max_steps=99)):
            stopped = stopped or step
    assert stopped == stop


def test_explain_stop__says_why():
    args = SimpleNamespace(
        early_stopping_patience=2,
        early_stopping_threshold=0.1,
        greater_is_better=True,
        metric_for_best_model="mean_iou",
    )
    log = [{"step": 100 * i, "eval_mean_iou": score} for i, score in enumerate([0.2, 0.5, 0.55, 0.3], 1)]
    state = SimpleNamespace(log_history=log, global_step=400, max_steps=900)
    assert explain_stop(args, state) == (
        "stopped early, at step 400 of 900: no better mean_iou by more than 0.1 in 2 evaluations in a row; "
        "the best is 55.00%, of step 300"
    )
    state.max_steps = 400
    assert explain_stop(args, state) is None  # it is done anyway


@pytest.mark.parametrize(
    ("metric", "strategy", "scores", "stop"),
    [("ema_iou_sky", "steps", [1, 2, 3, 2, 1], 5), ("mean_iou", "epoch", [2, 1, 1, 9], 12)],
)
def test_train__stops_by_any_score(build, caplog, metric, strategy, scores, stop):
    caplog.set_level("INFO", "hf_urbanseg")
    scores = [score / 10 for score in scores] + [1.0] * 9
    options = {"eval_strategy": strategy, "max_steps": 30, "metric_for_best_model": metric}
    trainer = build(scores, early_stopping_patience=2, load_best_model_at_end=True, **options)
    trainer.train()
    assert trainer.state.global_step == stop
    assert trainer.state.best_metric == max(scores[:-9][:3])
    assert [line.partition(":")[0] for line in caplog.messages if "stopped" in line] == [
        f"stopped early, at step {stop} of 30"
    ]


@pytest.mark.parametrize("kill_at", [3, 6])
def test_train__a_killed_run_stops_where_the_whole_one_does(build, kill_at):
    """Checkpoints of steps 2, 4, 6 and of the end."""
    scores = [0.1, 0.3, 0.2, 0.2, 0.3, 0.3, 0.2, 0.9, 0.9]
    options = {"early_stopping_patience": 5, "save_steps": 2}
    whole = build(scores, "whole", **options)
    whole.train()
    killed = build(scores, **options)
    killed.add_callback(Stop(kill_at))
    with pytest.raises(RuntimeError, match="power cut"):
        killed.train()
    resumed = build(scores, **options)
    resumed.train(resume_from_checkpoint=True)
    assert (whole.state.global_step, resumed.state.global_step) == (7, 7)
    state = resumed.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.model.state_dict().items())
    assert list_checkpoints(killed.args.output_dir)[-1].name == "checkpoint-7"  # so that nothing is left to do


@pytest.mark.parametrize("strategy", ["steps", "epoch"])
def test_train__resumed_behind_its_stop(build, strategy):
    scores, options = [0.5, 0.4, 0.4, 0.6, *[0.1] * 12], {"eval_strategy": strategy, "max_steps": 16}
    whole = build(scores, "whole", early_stopping_patience=3, **options)
    whole.train()
    assert whole.state.global_step == (7 if strategy == "steps" else 16)
    stopped = build(scores, early_stopping_patience=2, **options)
    stopped.train()
    again = build(scores, early_stopping_patience=2, eval_on_start=True, **options)
    again.train(resume_from_checkpoint=True)
    assert again.first_step == again.state.global_step == (3 if strategy == "steps" else 12)
    assert again.state.log_history[:-1] == stopped.state.log_history[:-1]  # but for the seconds
    more = build(scores, early_stopping_patience=3, eval_on_start=True, **options)
    more.train(resume_from_checkpoint=True)
    assert more.state.global_step == whole.state.global_step
    state = more.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.model.state_dict().items())


def test_trainer__patience_needs_one_split(build, worker, tmp_path):
    args = worker.build_arguments(tmp_path, early_stopping_patience=1, eval_strategy="steps")
    model = build_random_model("tiny", CITYSCAPES, **SMALL)
    with pytest.raises(
        ConfigError, match=r"^expected one validation split with `early_stopping_patience`; found none; "
    ):
        UrbanSegTrainer(model, args, CrossEntropyLoss(19), Samples())
    with pytest.raises(ConfigError, match="; found several; "):
        build([], early_stopping_patience=1, eval_dataset={"day": Samples(), "night": Samples()})


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--early_stopping_patience", -1), "expected `early_stopping_patience` of 0..10,000; found -1; correct it."),
        (
            ("--early_stopping_threshold", 0.1),
            "expected `early_stopping_patience` with `early_stopping_threshold`; found none; "
            "add for example 5, or leave the other out.",
        ),
        (
            ("--early_stopping_patience", 3, "--eval_strategy", "no", "--load_best_model_at_end", "false"),
            "expected evaluations with `early_stopping_patience`; found `eval_strategy` no; "
            "choose another `eval_strategy`, or leave it out.",
        ),
    ],
)
def test_arguments__refused_in_a_line(words, line):
    assert fails(*words) == line
