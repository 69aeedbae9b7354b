"""What a run leaves on record beside its numbers: every argument, where it began, and a card that costs nothing."""

import json
import shutil
import sys

import pytest

from hf_urbanseg import finetuning
from hf_urbanseg.commands import finetune
from hf_urbanseg.finetuning import run_finetuning
from hf_urbanseg.hub import training
from hf_urbanseg.options.finetune_arguments import parse_finetuning


def test_records__every_training_argument_and_no_token(run):
    stored = json.loads((run / "training_arguments.json").read_text())
    # As given, of ours, and transformers' defaults, which a recipe leaves out.
    assert (stored["learning_rate"], stored["max_steps"], stored["per_device_train_batch_size"]) == (1e-3, 4, 2)
    assert (stored["adam_beta1"], stored["adam_beta2"], stored["adam_epsilon"]) == (0.9, 0.999, 1e-8)
    assert (stored["optim"], stored["gradient_accumulation_steps"], stored["bf16"]) == ("adamw_torch_fused", 1, False)
    assert stored["lr_power"] == 1.0
    assert not [name for name in stored if "token" in name]


def test_records__where_a_resumed_run_began(words, kitti, run, tmp_path, monkeypatch):
    assert "resumed_from_step" not in json.loads((run / "metrics.json").read_text())["training"]
    output = tmp_path / "run"
    shutil.copytree(run, output)
    (output / "metrics.json").unlink()
    shutil.rmtree(output / "checkpoint-4")
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words(data_dir=kitti, output_dir=output), "--resume"])
    finetune.main()
    training = json.loads((output / "metrics.json").read_text())["training"]
    assert (training["resumed_from_step"], training["steps"]) == (2, 4)


def test_records__what_the_first_process_can_not_write_ends_the_others(words, kitti, tmp_path, monkeypatch):
    """Here is another process: it writes nothing, and gets what the first one met."""

    def refuse(write):
        raise OSError(28, "No space left on device")

    def train(trainer, **_):
        (keeper,) = [one for one in trainer.callback_handler.callbacks if isinstance(one, finetuning.Keeper)]
        with monkeypatch.context() as patch:
            patch.setattr(type(trainer.args), "should_save", False)
            patch.setattr(finetuning, "by_first_process", refuse)
            keeper.on_train_begin(trainer.args, trainer.state, trainer.control)
        raise AssertionError("it goes on alone")

    monkeypatch.setattr(finetuning.UrbanSegTrainer, "train", train)
    with pytest.raises(OSError, match="No space left on device"):
        run_finetuning(parse_finetuning(words(data_dir=kitti, output_dir=tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_records__a_card_that_fails_costs_nothing(words, kitti, tmp_path, monkeypatch, caplog):
    def fail(*words):
        raise RuntimeError("odd\nand long")

    monkeypatch.setattr(training, "write_model_card", fail)
    output = tmp_path / "run"
    monkeypatch.setattr(sys, "argv", ["finetune.py", *words(data_dir=kitti, output_dir=output, max_steps=2)])
    finetune.main()
    assert (output / "metrics.json").exists()
    assert "the model card was not written: RuntimeError: odd" in caplog.messages
