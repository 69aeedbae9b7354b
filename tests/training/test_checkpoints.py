import errno
import hashlib
import logging
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_urbanseg import manifest
from hf_urbanseg.errors import CheckpointError
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.manifest import MANIFEST, verify_checkpoint
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.loading import load_complete
from hf_urbanseg.training.checkpoints import (
    check_export,
    commit_checkpoint,
    find_best_checkpoint,
    find_newest_checkpoint,
    list_checkpoints,
    load_weights,
    reading_state,
    remove_staging,
    rotate_checkpoints,
    staging_folder,
)

FILES = {
    "model.safetensors": b"weights" * 999,
    "optimizer.pt": b"moments",
    "rng_state.pth": b"",
    "nested/state.json": b"{}",
}


def stage(output_dir: Path, step: int, content: bytes = b"") -> tuple[Path, Path]:
    checkpoint = output_dir / f"checkpoint-{step}"
    staged = staging_folder(checkpoint)
    for name, data in FILES.items():
        path = staged / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data + content)
    return staged, checkpoint


def save(output_dir: Path, step: int, content: bytes = b"") -> Path:
    staged, checkpoint = stage(output_dir, step, content)
    commit_checkpoint(staged, checkpoint)
    return checkpoint


def names(output_dir: Path) -> list[str]:
    return [path.name for path in list_checkpoints(output_dir)]


# Commit and verify


def test_commit_checkpoint__is_complete_and_nothing_else_is_left(tmp_path):
    checkpoint = save(tmp_path, 5)
    verify_checkpoint(checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]
    assert {p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file()} == {*FILES, MANIFEST}
    assert all((checkpoint / name).read_bytes() == data for name, data in FILES.items())


def test_commit_checkpoint__the_same_step_again_replaces_it(tmp_path):
    save(tmp_path, 5)
    checkpoint = save(tmp_path, 5, b"new")
    verify_checkpoint(checkpoint)
    assert (checkpoint / "optimizer.pt").read_bytes() == b"momentsnew"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_commit_checkpoint__manifest_is_written_last_and_the_rename_comes_after(tmp_path, monkeypatch):
    events = []
    write, rename = Path.write_text, Path.rename
    monkeypatch.setattr(Path, "write_text", lambda self, *a, **k: events.append(self.name) or write(self, *a, **k))
    monkeypatch.setattr(Path, "rename", lambda self, target: events.append("rename") or rename(self, target))
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("fsync") or fsync(descriptor))
    save(tmp_path, 1)
    assert events == ["fsync"] * len(FILES) + [MANIFEST, "fsync", "fsync", "rename", "fsync"]


def cut_to(size):
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def flip_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (Path.unlink, "{name} missing"),
        (cut_to(0), "{name} with 0 bytes instead of {size}"),
        (cut_to(-1), "{name} with {less} bytes instead of {size}"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "{name} with {more} bytes instead of {size}"),
        (flip_byte, "{name} with another content"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "nested/state.json"])
def test_verify_checkpoint__damage_is_named(tmp_path, damage, found, name):
    checkpoint = save(tmp_path, 3)
    size = len(FILES[name])
    damage(checkpoint / name)
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(checkpoint)
    found = found.format(name=name, size=size, less=size - 1, more=size + 1)
    assert str(caught.value) == (
        f"{checkpoint}: expected a checkpoint as it was saved; found {found}; delete the folder or take another."
    )


def test_verify_checkpoint__a_disk_that_cannot_be_read(tmp_path, monkeypatch):
    checkpoint = save(tmp_path, 3)

    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(manifest, "hash_file", fail)
    with pytest.raises(CheckpointError, match=r"found model\.safetensors, Input/output error"):
        verify_checkpoint(checkpoint)


def test_verify_checkpoint__that_of_another_step(tmp_path):
    save(tmp_path, 3).rename(tmp_path / "checkpoint-4")
    with pytest.raises(CheckpointError, match="found checkpoint-3 under this name"):
        verify_checkpoint(tmp_path / "checkpoint-4")
    (tmp_path / "checkpoint-4").rename(tmp_path / "kept")
    verify_checkpoint(tmp_path / "kept")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b'{"files": 3}', b'{"files": {"a": 3}}', b"\xff"])
def test_verify_checkpoint__without_a_readable_manifest(tmp_path, content):
    checkpoint = save(tmp_path, 3)
    (checkpoint / "a").write_bytes(b"")
    (checkpoint / MANIFEST).unlink()
    if content is not None:
        (checkpoint / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(checkpoint)
    assert MANIFEST in str(caught.value)
    assert str(checkpoint) in str(caught.value)


def test_verify_checkpoint__folder_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="expected a complete checkpoint; found none"):
        verify_checkpoint(tmp_path / "checkpoint-9")


# Which one


def test_list_checkpoints__by_number_and_only_real_ones(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-", "checkpoint-3-old", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-77").write_text("a file")
    stage(tmp_path, 99)
    assert names(tmp_path) == ["checkpoint-9", "checkpoint-10"]
    assert list_checkpoints(tmp_path / "missing") == []


def test_find_newest_checkpoint__highest_step(tmp_path):
    for step in (9, 100, 20):
        save(tmp_path, step)
    assert find_newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_find_newest_checkpoint__passes_over_damaged_ones_and_says_so(tmp_path, caplog):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    (tmp_path / "checkpoint-3" / MANIFEST).unlink()
    with caplog.at_level(logging.WARNING):
        assert find_newest_checkpoint(str(tmp_path)) == tmp_path / "checkpoint-2"
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "optimizer.pt missing" in warnings[0]
    assert "checkpoint-3" in warnings[1]


def test_find_newest_checkpoint__a_staging_folder_is_never_taken(tmp_path):
    staged, _ = stage(tmp_path, 8)
    (staged / MANIFEST).write_text('{"files": {}}')  # complete but for the rename
    with pytest.raises(CheckpointError, match="found none"):
        find_newest_checkpoint(tmp_path)
    save(tmp_path, 2)
    assert find_newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_find_newest_checkpoint__none(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        find_newest_checkpoint(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: expected a complete checkpoint-<step> folder; found none; "
        "start anew with `--overwrite` in place of `--resume`, or correct `--output_dir`."
    )


@pytest.mark.parametrize(
    ("damaged", "greater", "found"),
    [
        ([], True, 3),
        ([3], True, 1),
        ([3, 1], True, 4),
        ([3, 1, 4], True, None),
        ([3], False, 4),
    ],
)
def test_find_best_checkpoint__the_recorded_one_else_by_score(tmp_path, caplog, damaged, greater, found):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    for step in damaged:
        flip_byte(tmp_path / f"checkpoint-{step}" / "model.safetensors")
    scores = {1: 0.5, 3: 0.7, 4: 0.2, 5: 0.9, 6: 0.1}  # 2 was not measured, 5 and 6 are gone
    assert find_best_checkpoint(tmp_path, 3, scores, greater) == found
    assert sum("passed over" in record.getMessage() for record in caplog.records) == len(damaged)


def test_find_best_checkpoint__the_earlier_of_equals_as_in_training(tmp_path):
    for step in (2, 4, 6):
        save(tmp_path, step)
    for greater in (True, False):
        assert find_best_checkpoint(tmp_path, 8, dict.fromkeys((2, 4, 6), 0.5), greater) == 2


@pytest.mark.parametrize("fails_at", [1, 2])
def test_find_newest_checkpoint__killed_while_a_step_was_replaced(tmp_path, monkeypatch, fails_at):
    """Two renames replace a checkpoint; between them neither name holds it."""
    save(tmp_path, 5, b"old")
    staged, checkpoint = stage(tmp_path, 5, b"new")
    rename, calls = Path.rename, []

    def die(self, target):
        calls.append(target)
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            commit_checkpoint(staged, checkpoint)
    assert find_newest_checkpoint(tmp_path) == checkpoint
    assert (checkpoint / "optimizer.pt").read_bytes() == b"momentsold"
    remove_staging(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


# Rotation


@pytest.mark.parametrize(
    ("limit", "keep", "left"),
    [
        (None, None, [1, 2, 3, 4]),
        (0, None, [1, 2, 3, 4]),
        (9, None, [1, 2, 3, 4]),
        (2, None, [3, 4]),
        (1, None, [4]),
        (2, 1, [1, 3, 4]),
        (2, 4, [3, 4]),
        (1, 2, [2, 4]),
        (2, 77, [3, 4]),
    ],
)
def test_rotate_checkpoints__spares_the_best_and_the_newest(tmp_path, limit, keep, left):
    for step in (4, 2, 1, 3):
        save(tmp_path, step)
    (tmp_path / "model.safetensors").write_bytes(b"exported")
    rotate_checkpoints(tmp_path / "checkpoint-4", limit, f"moved/checkpoint-{keep}" if keep else None)
    assert names(tmp_path) == [f"checkpoint-{step}" for step in left]
    assert (tmp_path / "model.safetensors").exists()


def test_remove_staging__leaves_checkpoints_alone(tmp_path):
    save(tmp_path, 1)
    stage(tmp_path, 2)
    remove_staging(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    remove_staging(tmp_path / "missing")


# kill -9


def _save_for_ever(output_dir: Path, start: int) -> None:
    for step in range(start, start + 10_000):
        staged, checkpoint = stage(output_dir, step, os.urandom(200_000))
        commit_checkpoint(staged, checkpoint)
        rotate_checkpoints(checkpoint, 2, None)


def test_commit_checkpoint__killed_at_any_moment_leaves_a_newest_one_that_verifies(tmp_path):
    rng = random.Random(0)
    step = 0
    save(tmp_path, step)
    left_staging = 0
    for kills in range(60):  # as many as it takes on a slow machine
        if kills >= 10 and step > 10 and left_staging > 3:
            break
        process = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(tmp_path, step + 1))
        process.start()
        time.sleep(rng.uniform(0.02, 0.2))
        process.kill()
        process.join()
        assert process.exitcode == -9
        left_staging += any(path.name.startswith(".staging-") for path in tmp_path.iterdir())
        newest = find_newest_checkpoint(tmp_path)
        verify_checkpoint(newest)
        # Not one that was there before the newest: every visible folder is whole, the rotated one aside.
        assert newest == list_checkpoints(tmp_path)[-1]
        step = int(newest.name.removeprefix("checkpoint-"))
        remove_staging(tmp_path)
    assert step > 10  # it did save between the kills
    assert left_staging > 3  # and some kills hit in the middle of a save


# Weights


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
    return build_random_model("tiny", CITYSCAPES, **sizes)


def copy_of(model, fill=0.5):
    other = type(model)(model.config)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.fill_(fill)
    return other


def save_model(model, output_dir: Path, change=None) -> Path:
    checkpoint = output_dir / "checkpoint-1"
    staged = staging_folder(checkpoint)
    model.save_pretrained(staged)
    if change is not None:
        tensors = load_file(staged / "model.safetensors")
        change(tensors)
        save_file(tensors, staged / "model.safetensors", {"format": "pt"})
    commit_checkpoint(staged, checkpoint)
    return checkpoint


def test_load_weights__every_tensor(model, tmp_path):
    other = copy_of(model)
    load_weights(other, save_model(model, tmp_path))
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in other.state_dict().items())


def test_load_weights__fills_the_very_tensors_the_optimiser_holds(model, tmp_path):
    other = copy_of(model)
    held = [(parameter, parameter.data_ptr()) for parameter in other.parameters()]
    load_weights(other, save_model(model, tmp_path))
    assert [(id(p), p.data_ptr()) for p in other.parameters()] == [(id(p), pointer) for p, pointer in held]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("decode_head.classifier.bias"), "1 missing (decode_head.classifier.bias)"),
        (lambda t: t.update(more=torch.zeros(1)), "1 unexpected (more)"),
        (lambda t: t.update({"decode_head.classifier.bias": torch.zeros(3)}), "1 of another shape (decode_head."),
    ],
)
def test_load_weights__another_set_of_tensors_is_an_error_and_changes_nothing(model, tmp_path, change, words):
    checkpoint, other = save_model(model, tmp_path, change), copy_of(model)
    with pytest.raises(CheckpointError) as caught:
        load_weights(other, checkpoint)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert all(
        bool((tensor == (0 if tensor.dtype == torch.int64 else 0.5)).all()) for tensor in other.state_dict().values()
    )


def test_load_weights__unreadable_or_missing(model, tmp_path):
    with pytest.raises(CheckpointError, match="expected a complete checkpoint"):
        load_weights(copy_of(model), tmp_path)
    checkpoint = save_model(model, tmp_path)
    cut_to(500)(checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"found model\.safetensors with 500 bytes"):
        load_weights(copy_of(model), checkpoint)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("lost", 999)])
def test_reading_state__the_devices_fault_is_not_the_files(error):
    """To delete the checkpoint, as is said of a damaged one, would help nobody."""
    with pytest.raises(type(error)), reading_state("checkpoint-1", "optimizer.pt"):
        raise error


def test_load_complete__a_checkpoint_as_a_model_is_verified(model, tmp_path):
    """To predict, to measure or to start from."""
    checkpoint = save_model(model, tmp_path)
    load_complete(type(model), checkpoint)
    config = (checkpoint / "config.json").read_text()
    (checkpoint / "config.json").write_text(config + "\n")
    with pytest.raises(CheckpointError, match=r"found config\.json with \d+ bytes instead of"):
        load_complete(type(model), checkpoint)
    (checkpoint / "config.json").write_text(config)
    flip_byte(checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"found model\.safetensors with another content"):
        load_complete(type(model), checkpoint)
    for name in ("kept", "checkpoint-2"):  # a model folder like any other, and one from elsewhere
        folder = tmp_path / name
        model.save_pretrained(folder)
    (tmp_path / "kept" / MANIFEST).write_text('{"name": "a web page"}')
    for name in ("kept", "checkpoint-2"):
        load_complete(type(model), tmp_path / name)


def test_check_export__another_model_than_in_memory(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert check_export(model, tmp_path) == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["decode_head.classifier.bias"][3] += 1e-7
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"found 1 tensors with other numbers \(decode_head\.classifier\.bias\)"):
        check_export(model, tmp_path)


def test_rotate_checkpoints__a_later_damaged_one_does_not_cost_the_newest(tmp_path):
    for step in (1, 2, 3, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
    rotate_checkpoints(tmp_path / "checkpoint-3", 1, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-9"]
