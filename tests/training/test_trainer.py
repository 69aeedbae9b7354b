"""The invariances that stock training silently breaks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from interruptions import Stop
from transformers import TrainerCallback

from hf_urbanseg.errors import CheckpointError
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.metrics.mean_iou import compute_scores
from hf_urbanseg.optim import compute_polynomial_factor

WORKERS = Path(__file__).parents[1] / "workers"


@pytest.mark.parametrize(
    ("loss", "num_workers", "stop_at", "more", "architecture"),
    [
        ("joined", 0, 5, {}, "segformer"),
        ("auxiliary_rare", 2, 8, {"ema_decay": 0.9}, "segformer"),
        ("ohem_top", 0, 5, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}, "segformer"),
        ("auxiliary_ohem", 0, 5, {"ema_decay": 0.9}, "deeplabv3plus"),
        ("distilled_features", 0, 5, {"freeze_stages": 2}, "segformer"),
        ("unlabelled", 2, 5, {"ema_decay": 0.9}, "segformer"),
        (
            "streamed_ohem",
            2,
            8,
            {"ema_decay": 0.9, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1},
            "segformer",
        ),
    ],
)
def test_resume__bit_identical(worker, tmp_path, monkeypatch, loss, num_workers, stop_at, more, architecture):
    """Dropout and stochastic depth on; 4 steps an epoch, saved every 3, so the resumes start in mid-epoch."""
    everything = {**worker.LOSSES["auxiliary"], **worker.LOSSES["ohem_top"]}
    monkeypatch.setitem(worker.LOSSES, "auxiliary_ohem", everything)
    monkeypatch.setitem(worker.LOSSES, "streamed_ohem", everything)
    monkeypatch.setitem(worker.LOSSES, "auxiliary_rare", {**worker.LOSSES["auxiliary"], "rare": True})
    options = {
        "max_steps": 10, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 3,
        "eval_strategy": "steps", "eval_steps": 3, "load_best_model_at_end": False, "logging_steps": 2,
        "dataloader_num_workers": num_workers,
        # Of a trainer that an error ended, torch waits 5 s for each persistent worker when it is collected.
        "dataloader_persistent_workers": False,
    } | more  # fmt: skip
    whole = worker.build_trainer(worker.build_arguments(tmp_path / "whole", **options), loss, architecture=architecture)
    trained = whole.train()

    cut = worker.build_trainer(worker.build_arguments(tmp_path / "cut", **options), loss, architecture=architecture)
    cut.add_callback(Stop(stop_at))
    with pytest.raises(RuntimeError, match="power cut"):
        cut.train()
    resumed = worker.build_trainer(worker.build_arguments(tmp_path / "cut", **options), loss, architecture=architecture)
    assert resumed.train(resume_from_checkpoint=True).training_loss == trained.training_loss

    assert resumed.state.global_step == 10
    expected, state = whole.model.state_dict(), resumed.model.state_dict()
    assert [key for key in expected if not torch.equal(expected[key], state[key])] == []
    if whole.ema is not None:
        averages = resumed.ema.state_dict()
        assert all(torch.equal(value, averages[key]) for key, value in whole.ema.state_dict().items())
    # Logged every second step, between the checkpoints: with all parts, and what was summed before the cut.
    history = [entry for entry in whole.state.log_history if "loss" in entry]
    assert len(history) == 5
    assert history == [entry for entry in resumed.state.log_history if "loss" in entry]
    if whole.class_log is not None:
        assert whole.class_log.describe() == resumed.class_log.describe()
        assert sum(entry.get("pixels_road", 0) for entry in history) == whole.class_log.describe()["road"]["pixels"]
    scores = [[e["eval_mean_iou"] for e in t.state.log_history if "eval_mean_iou" in e] for t in (whole, resumed)]
    assert scores[0] == scores[1]


def test_collect__leaves_no_trace(worker, tmp_path):
    """Looking at the whole step first changes neither dropout masks nor BatchNorm statistics."""
    states = []
    for name, loss in (("plain", "cross_entropy"), ("looked", "ohem_everything")):
        worker.LOSSES["ohem_everything"] = {"loss": "ohem", "ohem_min_kept": 10**6, "loss_scope": "global"}
        args = worker.build_arguments(
            tmp_path / name, max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=2
        )
        trainer = worker.build_trainer(args, loss)
        trainer.train()
        states.append(trainer.model.state_dict())
    del worker.LOSSES["ohem_everything"]
    for key, value in states[0].items():
        assert torch.allclose(value.double(), states[1][key].double(), rtol=1e-4, atol=1e-6), key


def test_evaluate__measures_averaged_weights_too(worker, tmp_path):
    args = worker.build_arguments(tmp_path, max_steps=3, per_device_train_batch_size=4, ema_decay=0.5)
    trainer = worker.build_trainer(args)
    trainer.train()
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    metrics = trainer.evaluate()
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())
    trainer.ema.use()
    averaged = trainer.measure(trainer.eval_dataset).matrix
    assert metrics["eval_ema_mean_iou"] == compute_scores(averaged)["mean_iou"]
    assert metrics["eval_ema_overall_accuracy"] != metrics["eval_overall_accuracy"]


def test_train__bf16_keeps_the_loss_in_fp32(worker, tmp_path):
    """Autocast changes the network's arithmetic, not that of the loss, and nothing becomes NaN."""
    losses = {}
    for bf16 in (False, True):
        args = worker.build_arguments(
            tmp_path / str(bf16), max_steps=2, per_device_train_batch_size=4, bf16=bf16, logging_steps=1
        )
        trainer = worker.build_trainer(args, "ohem_threshold")
        trainer.train()
        losses[bf16] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.03)


def test_load_best_model__restores_every_tensor(worker, tmp_path):
    args = worker.build_arguments(
        tmp_path, max_steps=6, per_device_train_batch_size=4, save_strategy="steps", save_steps=2,
        eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, save_total_limit=1,
    )  # fmt: skip
    trainer = worker.build_trainer(args)
    saved, score = {}, iter([0.1, 0.9, 0.2])

    def evaluate(*_, **__):  # the middle checkpoint wins
        saved[trainer.state.global_step] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        trainer.control.should_evaluate = False
        return {"eval_mean_iou": next(score)}

    trainer.evaluate = evaluate
    trainer.train()
    assert trainer.state.best_global_step == 4
    loaded = trainer.model.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in saved[4].items())
    assert not all(torch.equal(value, loaded[key]) for key, value in saved[6].items())
    # Rotation spares the best.
    assert "checkpoint-4" in [path.name for path in tmp_path.glob("checkpoint-*")]


def test_train__resume_without_checkpoint(worker, tmp_path):
    trainer = worker.build_trainer(worker.build_arguments(tmp_path))
    with pytest.raises(CheckpointError, match=r"expected a complete checkpoint-<step> folder; found none"):
        trainer.train(resume_from_checkpoint=True)


def test_train__void_batches_are_counted(worker, tmp_path):
    args = worker.build_arguments(tmp_path, max_steps=2, per_device_train_batch_size=4, logging_steps=2)
    trainer = worker.build_trainer(args)
    space = trainer.train_dataset.label_space
    trainer.train_dataset.label_space = replace(space, label_ids=dict.fromkeys(space.label_ids, IGNORE_INDEX))
    keep = worker.KeepGradients()
    trainer.add_callback(keep)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    (logged,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logged["loss"] == 0.0
    assert logged["loss_cross_entropy"] == 0.0
    assert logged["void_batches"] == 2
    assert len(keep.gradients) == len(before)
    assert all(float(gradient.abs().max()) == 0.0 for gradient in keep.gradients.values())
    # Weight decay alone has moved the weights: nothing is NaN.
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_train__logs_loss_parts_and_learning_rate(worker, tmp_path):
    args = worker.build_arguments(
        tmp_path, max_steps=6, warmup_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        logging_steps=1, learning_rate=2e-3,
    )  # fmt: skip
    trainer = worker.build_trainer(args)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 6
    for step, entry in enumerate(entries):
        assert entry["loss_cross_entropy"] == pytest.approx(entry["loss"], rel=1e-5)
        expected = 2e-3 * compute_polynomial_factor(step, 6, 3)
        assert entry["learning_rate"] == pytest.approx(expected, rel=1e-12)


def test_save__no_pickled_arguments(worker, tmp_path):
    args = worker.build_arguments(
        tmp_path, per_device_train_batch_size=4, save_strategy="steps", save_steps=1, hub_token="hf_canary"
    )
    worker.build_trainer(args).train()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "trainer_state.json" for path in files)
    assert [path for path in files if b"hf_canary" in path.read_bytes() or path.name == "training_args.bin"] == []
    manifest = json.loads((tmp_path / "checkpoint-1" / "manifest.json").read_text())["files"]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(manifest)


class Rates(TrainerCallback):
    """Keeps the learning rates that each step is taken with."""

    def __init__(self):
        self.rates = {}

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rates[state.global_step + 1] = [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("schedule", ["polynomial", "cosine"])
def test_resume__a_finished_run_made_longer_has_the_long_runs_rates(worker, tmp_path, schedule):
    """Its last rate is 0, which its checkpoint holds."""
    options = {
        "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 1, "warmup_steps": 0,
        "lr_scheduler_type": schedule,
    }  # fmt: skip

    def train(folder, steps: int, **how) -> dict[int, list[float]]:
        trainer = worker.build_trainer(worker.build_arguments(tmp_path / folder, max_steps=steps, **options))
        trainer.add_callback(watch := Rates())
        trainer.train(**how)
        return watch.rates

    expected = train("long", 5)
    assert [*train("short", 3)] == [1, 2, 3]
    resumed = train("short", 5, resume_from_checkpoint=True)
    assert [*resumed] == [4, 5]
    assert all(resumed[step] == expected[step] for step in resumed)
    assert min(resumed[4]) > 0


def test_resume__cadences_are_those_of_the_new_start(worker, tmp_path):
    """Stock's state brings back those of the start before."""
    options = {"max_steps": 5, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_total_limit": 9}
    cut = worker.build_trainer(worker.build_arguments(tmp_path, **options, save_steps=2))
    cut.add_callback(Stop(3))
    with pytest.raises(RuntimeError, match="power cut"):
        cut.train()
    resumed = worker.build_trainer(worker.build_arguments(tmp_path, **options, save_steps=1))
    resumed.train(resume_from_checkpoint=True)
    assert (tmp_path / "checkpoint-3").is_dir()
