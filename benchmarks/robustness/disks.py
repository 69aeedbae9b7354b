"""Disks that are full or read-only, at the start and while a run writes."""

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path
from random import Random

from hf_urbanseg.training.checkpoints import list_checkpoints
from robustness.kills import wait_for_step
from robustness.tiny_runs import (
    PARTS,
    References,
    Training,
    complete_checkpoints,
    fresh_folder,
    judge_resumed,
    resume,
    train,
)

WAYS = ("full", "full", "file size limit", "full", "read-only while it runs", "file size limit", "read-only at start")


def check_disk(root: Path, data: Path, references: References, seed: int, rng: Random):
    options = PARTS["all"] | {"data_dir": data}
    reference, way = references.get(options), WAYS[seed % len(WAYS)]
    disk = fresh_folder(root / "disk")
    disk.mkdir()
    if way == "file size limit":
        return way, *_check_limit(disk / "run", options, reference, rng)
    if os.geteuid():
        return way, None, "not tried: needs root, to mount a tmpfs"
    size = sum(path.stat().st_size for path in reference["folder"].rglob("*"))
    _mount(disk, f"size={int(size * rng.uniform(0.02, 0.95)) if way == 'full' else 4 * size}")
    try:
        check = {"full": _check_full, "read-only at start": _check_read_only}.get(way, _check_remounted)
        return way, *check(disk, options, reference, rng, size)
    finally:
        time.sleep(0.2)  # for workers that were killed to let go of it
        subprocess.run(["umount", "--lazy", disk], check=True)
        shutil.rmtree(disk, ignore_errors=True)


def _check_full(disk: Path, options: dict, reference: dict, rng: Random, size: int):
    ended = train(disk / "run", options)
    faults = _judge_failed(ended, disk / "run")
    _mount(disk, f"remount,size={4 * size}")
    return _resume(disk / "run", options, reference, faults)


def _check_limit(folder: Path, options: dict, reference: dict, rng: Random):
    """No file may grow over some size from a random moment on: torch and safetensors meet it in the middle of one."""
    training = Training(folder, options)
    wait_for_step(training, rng, reference["seconds"])
    limit = int(10 ** rng.uniform(2.5, 6.5))
    try:
        resource.prlimit(training.commands[0].pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    except ProcessLookupError:
        return None, "had ended before"
    faults = _judge_failed(training.wait(), folder)
    return _resume(folder, options, reference, faults)


def _check_remounted(disk: Path, options: dict, reference: dict, rng: Random, size: int):
    training = Training(disk / "run", options)
    wait_for_step(training, rng, reference["seconds"])
    while training.running and _mount(disk, "remount,ro", check=False):  # busy while a file is open for writing
        time.sleep(0.002)
    faults = _judge_failed(training.wait(), disk / "run")
    _mount(disk, "remount,rw")
    return _resume(disk / "run", options, reference, faults)


def _check_read_only(disk: Path, options: dict, reference: dict, rng: Random, size: int):
    _mount(disk, "remount,ro")
    ended = train(disk / "run", options)
    fault = ended.describe_refusal()
    if fault is None and ended.seconds > reference["seconds"]:
        fault = f"said after {ended.seconds:.1f} s only"
    _mount(disk, "remount,rw")
    return fault or judge_resumed(resume(disk / "run", options), disk / "run", reference["run"]), None


def _judge_failed(ended, folder: Path) -> list[str]:
    if ended.status == 0:
        return []
    faults = [ended.describe_refusal()]
    half = [
        checkpoint.name for checkpoint in list_checkpoints(folder) if checkpoint not in complete_checkpoints(folder)
    ]
    faults += [f"half-written {', '.join(half)}"] if half else []
    faults += ["metrics of a run that isn't finished"] if (folder / "metrics.json").exists() else []
    return [fault for fault in faults if fault]


def _resume(folder: Path, options: dict, reference: dict, faults: list[str]):
    fault = judge_resumed(resume(folder, options), folder, reference["run"])
    return "; ".join([*faults, *([fault] if fault else [])]) or None, None


def _mount(disk: Path, options: str, check: bool = True) -> int:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk]
    return subprocess.run(command, check=check, stderr=subprocess.DEVNULL).returncode
