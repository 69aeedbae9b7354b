import errno
import os

import pytest
import torch
from noise import SMALL, Samples

from hf_urbanseg.errors import OutOfMemoryError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.training.memory import describe_step
from hf_urbanseg.training.trainer import UrbanSegTrainer


@pytest.fixture
def arguments(worker, tmp_path):
    return lambda **options: worker.build_arguments(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "what", "fixes"),
    [
        (
            {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
            "8 crops in fp32 on cpu, without",
            ["--gradient_checkpointing true", "--per_device_train_batch_size 4 --gradient_accumulation_steps 4"],
        ),
        (
            {"per_device_train_batch_size": 3, "bf16": True, "gradient_checkpointing": True},
            "3 crops in bf16 on cpu, with",
            ["--per_device_train_batch_size 1 --gradient_accumulation_steps 3"],
        ),
        ({"per_device_train_batch_size": 1, "gradient_checkpointing": True}, "1 crop in fp32 on cpu, with", []),
    ],
)
def test_describe_step__only_what_would_take_less(arguments, options, what, fixes):
    found, said, note = describe_step(arguments(**options), [])
    assert (found, note) == (f"a step of {what} gradient checkpointing", "")
    assert len(said) == len(fixes) + 1
    assert all(f"`{fix}`" in one for fix, one in zip([*fixes, "--crop_size"], said, strict=True))


def test_train__memory_that_runs_out_names_the_step(arguments, monkeypatch):
    torch.manual_seed(0)
    args = arguments(
        per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=4, save_strategy="steps", save_steps=1
    )
    trainer = UrbanSegTrainer(build_random_model("tiny", CITYSCAPES, **SMALL), args, CrossEntropyLoss(19), Samples())
    forward = trainer.loss.forward

    def fail(*words):
        if trainer.state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(*words)

    monkeypatch.setattr(trainer.loss, "forward", fail)
    with pytest.raises(OutOfMemoryError) as found:
        trainer.train()
    assert str(found.value) == (
        "expected memory for a step of 2 crops of 32x32 (height x width) in fp32 on cpu, without gradient "
        "checkpointing; found CUDA out of memory. Tried to allocate 2.00 GiB; add `--gradient_checkpointing true` (the "
        "same gradients), or `--per_device_train_batch_size 1 --gradient_accumulation_steps 4` (the same crops in each "
        "step), or a smaller `--crop_size`; `--resume` goes on from checkpoint-2."
    )
    monkeypatch.undo()
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4


def test_train__workers_that_cannot_begin(arguments, monkeypatch):
    args = arguments(dataloader_num_workers=2, max_steps=1)
    trainer = UrbanSegTrainer(build_random_model("tiny", CITYSCAPES, **SMALL), args, CrossEntropyLoss(19), Samples())

    def refuse():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(OutOfMemoryError, match="expected processes and threads for 2 processes that load"):
        trainer.train()
