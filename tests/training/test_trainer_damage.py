"""Checkpoints that disks, people and other programs have damaged: noticed before they are used, and said."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from interruptions import Stop
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import TrainerCallback

from hf_urbanseg.errors import CheckpointError
from hf_urbanseg.manifest import MANIFEST
from hf_urbanseg.training.checkpoints import find_best_checkpoint, find_newest_checkpoint, load_weights

SMALL = {
    "hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}  # fmt: skip
SCORES = {2: 0.3, 4: 0.5, 6: 0.2, 8: 0.4}


def build(worker, folder: Path, scores=SCORES, **options):
    """A tiny trainer with all that checkpoints can hold; saved every second step, with scores made up."""
    options = {
        "max_steps": 8, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
        "load_best_model_at_end": True, "save_total_limit": 4, "ema_decay": 0.5, "per_device_train_batch_size": 2,
    } | options  # fmt: skip
    trainer = worker.build_trainer(worker.build_arguments(folder, **options), "auxiliary", 4, 1, **SMALL)

    def evaluate(*_, **__):
        metrics = {"eval_mean_iou": scores[trainer.state.global_step]}
        trainer.log(metrics)
        return metrics

    trainer.evaluate = evaluate
    return trainer


@pytest.fixture(scope="module")
def cut(worker, tmp_path_factory):
    """Killed in step 7: the newest checkpoint is 6, the best 4."""
    folder = tmp_path_factory.mktemp("cut")
    trainer = build(worker, folder)
    trainer.add_callback(Stop(7))
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.train()
    return folder


@pytest.fixture
def copied(cut, tmp_path):
    return shutil.copytree(cut, tmp_path / "run")


def flip_bit(path: Path, other: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_link_to_nothing(path: Path, other: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = {
    "a bit flipped": flip_bit,
    "truncated": lambda path, other: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path, other: path.write_bytes(b""),
    "zeros": lambda path, other: path.write_bytes(bytes(path.stat().st_size)),
    "deleted": lambda path, other: path.unlink(),
    "a folder": replace_by_folder,
    "a link to nothing": replace_by_link_to_nothing,
    "another checkpoint's": lambda path, other: shutil.copyfile(other, path),
    "bytes too many": lambda path, other: path.write_bytes(path.read_bytes() + b"\n more"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("step", [4, 6])
def test_verify_checkpoint__every_file_in_every_way(copied, step, damage):
    """Nothing of a checkpoint is read once one of its files is damaged."""
    checkpoint, other = copied / f"checkpoint-{step}", copied / "checkpoint-2"
    names = sorted(path.name for path in checkpoint.iterdir())
    assert len(names) == 10  # weights, averages, head, two configurations, optimiser, schedule, state, random, manifest
    kept = shutil.copytree(checkpoint, copied / "kept")
    for name in names:
        if (
            damage is DAMAGES["another checkpoint's"]
            and (other / name).read_bytes() == (checkpoint / name).read_bytes()
        ):
            continue  # settings are the same in all
        damage(checkpoint / name, other / name)
        assert find_newest_checkpoint(copied) == copied / f"checkpoint-{4 if step == 6 else 6}"
        assert find_best_checkpoint(copied, step, SCORES) == {4: 2, 6: 4}[step]
        with pytest.raises(CheckpointError):
            load_weights(None, checkpoint)
        shutil.rmtree(checkpoint)
        shutil.copytree(kept, checkpoint)
    assert find_best_checkpoint(copied, step, SCORES) == step


@pytest.mark.parametrize("damage", ["a bit flipped", "zeros", "deleted"])
def test_train__the_best_was_damaged_before_the_resume(worker, copied, caplog, damage):
    expected = load_file(copied / "checkpoint-2" / "ema.safetensors")
    DAMAGES[damage](copied / "checkpoint-4" / "model.safetensors", None)
    trainer = build(worker, copied, {8: 0.25})
    said_before = []
    trainer.compute_loss = lambda *a, **k: (
        said_before.append(caplog.text) or type(trainer).compute_loss(trainer, *a, **k)
    )
    trainer.train(resume_from_checkpoint=True)
    # Before the first step, and not again.
    assert "the best is now checkpoint-2, mean_iou 0.3000 instead of 0.5000" in said_before[0]
    assert caplog.text.count("the best is now") == 1
    state = trainer.state
    assert (state.best_global_step, state.best_metric) == (2, 0.3)
    assert state.best_model_checkpoint == str(copied / "checkpoint-2")
    assert all(torch.equal(value, expected[key]) for key, value in trainer.ema.state_dict().items())


def test_train__a_later_step_is_the_best_once_the_best_is_gone(worker, copied, caplog):
    shutil.rmtree(copied / "checkpoint-4")
    trainer = build(worker, copied, {8: 0.45})  # below the lost 0.5
    trainer.train(resume_from_checkpoint=True)
    assert f"passed over: {copied / 'checkpoint-4'}: expected a complete checkpoint; found none" in caplog.text
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (8, 0.45)


class AfterStep(TrainerCallback):
    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def test_train__the_best_is_damaged_while_the_run_goes_on(worker, copied, caplog):
    trainer = build(worker, copied)
    file = copied / "checkpoint-4" / "auxiliary_head.safetensors"
    trainer.add_callback(AfterStep(7, lambda: flip_bit(file, None)))
    trainer.train(resume_from_checkpoint=True)
    assert "auxiliary_head.safetensors with another content" in caplog.text
    assert trainer.state.best_global_step == 8  # 0.4, the best of what is left
    saved = load_file(copied / "checkpoint-8" / "model.safetensors")["decode_head.classifier.weight"]
    assert torch.equal(trainer.model.state_dict()["decode_head.classifier.weight"], saved)


def test_train__no_measured_checkpoint_is_left(worker, copied, caplog):
    trainer = build(worker, copied)
    trainer.args.save_strategy = trainer.args.eval_strategy = "no"
    trainer.add_callback(AfterStep(8, lambda: [shutil.rmtree(path) for path in copied.glob("checkpoint-*")]))
    trainer.train(resume_from_checkpoint=True)
    assert "no complete checkpoint with a score is left" in caplog.text
    assert (trainer.state.best_global_step, trainer.state.best_model_checkpoint) == (None, None)
    assert trainer.state.global_step == 8


def test_train__a_moved_run_keeps_its_best(worker, cut, copied, caplog):
    trainer = build(worker, copied)
    state = copied / "checkpoint-6" / "trainer_state.json"
    assert json.loads(state.read_text())["best_model_checkpoint"] == str(cut / "checkpoint-4")
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.best_model_checkpoint == str(copied / "checkpoint-4")
    assert "the best is now" not in caplog.text


@pytest.mark.parametrize("best", [True, False])
def test_train__nothing_is_left_to_train(worker, tmp_path, best):
    """Killed after the last step, in the middle of an epoch."""
    scores = SCORES | {7: 0.1}
    whole = build(worker, tmp_path, scores, max_steps=7, load_best_model_at_end=best)
    trained = whole.train()
    resumed = build(worker, tmp_path, scores, max_steps=7, load_best_model_at_end=best)
    again = resumed.train(resume_from_checkpoint=True)
    assert (again.global_step, again.training_loss) == (7, trained.training_loss)
    assert trained.training_loss > 0
    expected, state = whole.model.state_dict(), resumed.model.state_dict()
    assert [key for key in expected if not torch.equal(expected[key], state[key])] == []


def test_train__the_best_is_one_that_was_saved(worker, tmp_path):
    """Measured every step and saved every second: the best score belongs to nothing that could be exported."""
    scores = {1: 0.1, 2: 0.2, 3: 0.9, 4: 0.3}
    trainer = build(worker, tmp_path, scores, max_steps=4)
    trainer.args.eval_steps = 1  # which our own arguments refuse and stock's do not
    trainer.train()
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (4, 0.3)


def test_save_checkpoint__files_follow_the_umask_and_have_no_bytes_of_chance(cut):
    paths = [path for path in cut.rglob("*") if path.is_file()]
    usual = (cut / "checkpoint-4" / MANIFEST).stat().st_mode
    assert [path for path in paths if path.stat().st_mode != usual] == []
    weights = [path for path in paths if path.suffix == ".safetensors"]
    assert len(weights) == 9
    for path in weights:
        with safe_open(path, framework="pt") as file:
            assert len(file.metadata()) == 1  # more would be written in an order that changes from run to run
