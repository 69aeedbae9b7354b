"""kill -9, or a power cut, at a random moment; half of them while a checkpoint is being written."""

import itertools
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random

from robustness.tiny_runs import PARTS, References, Training, fresh_folder, judge_resumed, resume
from robustness.warm import FRESH, TORCHRUN

VARIANTS = list(itertools.product(PARTS, (0, 2), (1, 2)))
STREAMED = list(itertools.product(["streamed"], (0, 2), (1, 2)))
_STREAMED = PARTS["all"] | {
    "streaming": "true", "shuffle_buffer": 8, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1,
    "max_steps": 12,  # of 4 or 8 an epoch
}  # fmt: skip


def check_kill(root: Path, data: Path, references: References, seed: int, rng: Random):
    variant = VARIANTS[seed % len(VARIANTS)]
    return _check(root, PARTS[variant[0]] | {"data_dir": data}, variant, references, rng)


def check_streamed_kill(root: Path, shards: Path, references: References, seed: int, rng: Random):
    return _check(root, _STREAMED | {"dataset": shards}, STREAMED[seed % len(STREAMED)], references, rng)


def _check(root: Path, options: Mapping, variant: tuple[str, int, int], references: References, rng: Random):
    part, workers, processes = variant
    reference = references.get(options, processes)  # without workers, which change nothing
    options = {**options, "dataloader_num_workers": workers}
    folder, fresh = fresh_folder(root / "cut"), rng.random() < 0.05
    launcher = (TORCHRUN if processes == 2 else FRESH) if fresh else ()
    training = Training(folder, options, processes, launcher)
    when = wait_for_moment(training, rng, reference["seconds"])
    if processes == 1 and workers and rng.random() < 0.3:
        training.kill(signal.SIGKILL, group=False)  # its workers have to notice
        when += ", main process alone"
    elif processes == 2 and not fresh and (folder / "recipe.yaml").exists() and rng.random() < 0.3:
        # Not before it trains: a rank that waits for the others' start waits long, and torchrun ends it.
        rng.choice(training.commands).send(signal.SIGKILL, group=True)
        when += ", one rank"
        if training.wait(60).status is None:
            return _name(part, workers, processes), "the other rank was still there after 60 s", when
    else:
        training.kill(signal.SIGKILL)
    training.wait()
    ended = resume(folder, options, processes, launcher)
    fault = judge_resumed(ended, folder, reference["run"])
    return _name(part, workers, processes), fault and f"killed {when}: {fault}", when


def wait_for_moment(training: Training, rng: Random, seconds: float) -> str:
    """Returns at a random moment of a run that takes `seconds`, and says what it hit; half of them are of a save."""
    saves, delay, was_saving = rng.randint(1, 4), rng.uniform(0, 0.03), False
    if rng.random() < 0.5:
        wait_for_step(training, rng, seconds)
        return _describe(training)
    while training.running and saves:
        saving = _is_saving(training.folder)
        saves -= saving and not was_saving
        was_saving = saving
        time.sleep(0.0005)
    time.sleep(delay)
    return _describe(training)


def wait_for_step(training: Training, rng: Random, seconds: float) -> None:
    """To a random moment after a random step, or after the start, of a run that takes `seconds`."""
    wanted = training.folder / f"checkpoint-{rng.choice((0, 2, 4, 6, 8))}"
    while training.running and not (wanted.name == "checkpoint-0" or wanted.exists()):
        time.sleep(0.001)
    training.wait_until(rng.uniform(0, seconds / 4))


def _describe(training: Training) -> str:
    if not training.running:
        return "when it had ended"
    return "in saving" if _is_saving(training.folder) else "elsewhere"


def _is_saving(folder: Path) -> bool:
    try:
        return any(name.startswith(".") and os.path.isdir(folder / name) for name in os.listdir(folder))
    except OSError:
        return False


def _name(part: str, workers: int, processes: int) -> str:
    return f"{part}, {workers} workers, {processes} process{'es' if processes > 1 else ''}"
