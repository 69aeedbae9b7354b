"""Disks that are full and files that are damaged: one line, nothing half-written, and the run goes on."""

import errno
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation, TrainerCallback

from hf_urbanseg.errors import CheckpointError
from hf_urbanseg.finetuning import _export
from hf_urbanseg.runs import first_process
from hf_urbanseg.training import checkpointing as trainer_module
from hf_urbanseg.training.checkpointing import CheckpointingTrainer
from hf_urbanseg.training.checkpoints import MANIFEST, commit_checkpoint, list_checkpoints, verify_checkpoint

WORKERS = Path(__file__).parents[1] / "workers"
OPTIONS = {
    "max_steps": 6, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 3,
    "ema_decay": 0.9,
}  # fmt: skip


class AtStep(TrainerCallback):
    def __init__(self, step: int, do):
        self.step, self.do = step, do

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.do()


@pytest.fixture(scope="module")
def whole(worker, tmp_path_factory):
    """A run that nothing disturbs: its folder, and its weights."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = worker.build_trainer(worker.build_arguments(folder, **OPTIONS))
    trainer.train()
    return folder, trainer.model.state_dict()


@pytest.fixture
def limit_files():
    """Limits the size of new files, of which each part of a checkpoint tells in its library's own way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check_end(worker, folder: Path, whole: dict, message: str) -> None:
    """The line says what is safe, and from there the run ends as the other did."""
    assert "checkpoint-4: expected room for it; found " in message
    assert "checkpoint-2 is complete: go on from it with `--resume`" in message
    assert "\n" not in message
    assert [path.name for path in list_checkpoints(folder)] == ["checkpoint-2"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    verify_checkpoint(folder / "checkpoint-2")
    resumed = worker.build_trainer(worker.build_arguments(folder, **OPTIONS))
    resumed.train(resume_from_checkpoint=True)
    assert all(torch.equal(value, whole[name]) for name, value in resumed.model.state_dict().items())


def refuse(number: int):
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_save_checkpoint__a_file_that_does_not_fit(worker, whole, limit_files, tmp_path, file):
    size = (whole[0] / "checkpoint-2" / file).stat().st_size
    trainer = worker.build_trainer(worker.build_arguments(tmp_path, **OPTIONS))
    trainer.add_callback(AtStep(4, lambda: limit_files(size - 1000)))
    with pytest.raises(CheckpointError) as caught:
        trainer.train()
    limit_files(resource.RLIM_INFINITY)
    check_end(worker, tmp_path, whole[1], str(caught.value))


@pytest.mark.parametrize(("name", "error"), [("save_branches", errno.EIO), ("commit_checkpoint", errno.EDQUOT)])
def test_save_checkpoint__a_disk_that_fails(worker, whole, tmp_path, monkeypatch, name, error):
    trainer = worker.build_trainer(worker.build_arguments(tmp_path, **OPTIONS))
    trainer.add_callback(AtStep(4, lambda: monkeypatch.setattr(trainer_module, name, lambda *args: refuse(error))))
    with pytest.raises(CheckpointError, match=os.strerror(error)) as caught:
        trainer.train()
    monkeypatch.undo()
    check_end(worker, tmp_path, whole[1], str(caught.value))


def test_save_checkpoint__the_first_one_does_not_fit(worker, limit_files, tmp_path):
    trainer = worker.build_trainer(worker.build_arguments(tmp_path, **OPTIONS))
    trainer.add_callback(AtStep(1, lambda: limit_files(100_000)))
    with pytest.raises(CheckpointError, match="none is complete yet: start again"):
        trainer.train()
    assert not list(tmp_path.iterdir())


def test_export__does_not_fit(worker, limit_files, tmp_path):
    """What safetensors raises is no OSError."""
    trainer = worker.build_trainer(worker.build_arguments(tmp_path, **OPTIONS))
    limit_files(10_000)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected room for it; found .*start again"):
        _export(trainer, tmp_path)
    assert not list(tmp_path.iterdir())


def test_export__one_that_reads_back_as_another_ends_all_processes(monkeypatch, tmp_path):
    """The first process alone reads it back, while the other waits for its word."""
    config = SegformerConfig(hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8)
    model, gathered, said = SegformerForSemanticSegmentation(config), [None, None], []

    def save(folder, _internal_call):
        model.save_pretrained(folder)
        tensors = load_file(Path(folder, "model.safetensors"))
        tensors["decode_head.classifier.bias"] += 1
        save_file(tensors, Path(folder, "model.safetensors"), {"format": "pt"})

    for rank in (0, 1):

        def gather(reason, rank=rank):
            gathered[rank] = reason
            return gathered

        monkeypatch.setattr(first_process, "gather_parts", gather)
        args = SimpleNamespace(world_size=2, should_save=rank == 0)
        trainer = SimpleNamespace(args=args, model=model, save_model=save if rank == 0 else lambda *_, **__: None)
        trainer.writing = lambda *words, trainer=trainer: CheckpointingTrainer.writing(trainer, *words)
        with pytest.raises(CheckpointError) as caught:
            _export(trainer, tmp_path)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "expected the exported model as it is in memory; found 1 tensors with other numbers" in said[0]
    assert not list(tmp_path.iterdir())


class Pickled:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def damage(name: str, how: str, folder: Path, marker: Path) -> Path:
    """A checkpoint with another file inside, whose manifest vouches for it."""
    staged = Path(shutil.copytree(folder / "checkpoint-4", marker.parent / "staged"))
    (staged / MANIFEST).unlink()
    if how == "pickled":
        torch.save({"state": Pickled(marker)}, staged / name)
    elif how == "other":
        torch.save({"something": 1}, staged / name)
    else:
        (staged / name).write_bytes(b"{")
    commit_checkpoint(staged, marker.parent / "checkpoint-4")
    return marker.parent / "checkpoint-4"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(
            (name, how)
            for name in ("optimizer.pt", "rng_state.pth", "scaler.pt")
            for how in ("pickled", "other", "garbage")
        ),
        ("scheduler.pt", "pickled"),  # transformers' schedules take whatever fields they are given
        ("trainer_state.json", "garbage"),
        ("trainer_state.json", "other"),
    ],
)
def test_train__a_hostile_state_is_one_line(worker, whole, tmp_path, name, how):
    checkpoint = damage(name, how, whole[0], tmp_path / "ran")
    trainer = worker.build_trainer(worker.build_arguments(tmp_path, **OPTIONS))
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")  # fp16's
    with pytest.raises(CheckpointError) as caught:
        trainer.train(resume_from_checkpoint=str(checkpoint))
    assert str(caught.value).startswith(f"{checkpoint}: expected the ")
    assert "\n" not in str(caught.value)
    assert how != "pickled" or "`posix.system` pickled in it" in str(caught.value)
    assert not (tmp_path / "ran").exists()
