"""Runs that are asked to stop, and runs that start in a folder where one lives."""

import os
import signal
import time
from pathlib import Path
from random import Random

import yaml

from robustness.tiny_runs import (
    References,
    Training,
    complete_checkpoints,
    count_step,
    fresh_folder,
    judge_resumed,
    resume,
)
from robustness.warm import FRESH

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PHASES = ("training", "evaluation", "two processes", "two processes, one told", "training, told twice")


def check_signal(root: Path, data: Path, references: References, seed: int, rng: Random):
    number, phase = SIGNALS[seed % len(SIGNALS)], PHASES[seed % len(PHASES)]
    processes = 2 if phase.startswith("two") else 1
    # Saved by itself at 5 and 10 alone: what else is there was saved because of the signal.
    options = {
        "data_dir": data, "max_steps": 12, "save_steps": 5, "eval_steps": 5, "ema_decay": 0.9,
        "dataloader_num_workers": rng.choice((0, 2)),
    }  # fmt: skip
    reference = references.get(options, processes)
    folder, events = fresh_folder(root / "stopped"), root / "events"
    events.unlink(missing_ok=True)
    training = Training(folder, options, processes, prepare=lambda: _record_events(events))
    wanted = "on_prediction_step" if phase == "evaluation" else "on_step_end"
    count, delay = rng.randint(1, 3 if phase == "evaluation" else 9), rng.uniform(0, 0.1)
    while training.running and _count(events, wanted) < count:
        time.sleep(0.001)
    time.sleep(delay if phase != "evaluation" else 0)
    steps, was_running = _count(events, "on_step_end"), training.running
    for command in rng.sample(training.commands, 1) if phase.endswith("one told") else training.commands:
        command.send(number)
    if phase.endswith("twice"):
        time.sleep(0.02)
        training.kill(number, group=False)
    ended = training.wait(60)
    row = f"{phase}, {number.name}"
    if not was_running:
        return row, None, "had ended before"
    faults = list(_judge_stop(ended, folder, number, steps, twice=phase.endswith("twice")))
    fault = judge_resumed(resume(folder, options, processes), folder, reference["run"])
    return row, "; ".join([*faults, *([fault] if fault else [])]) or None, None


def _judge_stop(ended, folder: Path, number: int, steps: int, twice: bool):
    if ended.status != 128 + number:
        yield f"status {ended.status} in place of {128 + number}"
    if "Traceback (most recent call last)" in ended.err:
        yield "a traceback"
    if twice:
        if ended.seconds > 30:
            yield f"{ended.seconds:.0f} s"
        return
    if not any("--resume" in line for line in ended.err.splitlines()):
        yield "nothing said on how to go on"
    newest = max(map(count_step, complete_checkpoints(folder)), default=0)
    if newest < steps:
        yield f"newest checkpoint is step {newest}, {steps} were done"
    if (folder / "metrics.json").exists():
        yield "measured as if it were finished"


def _record_events(path: Path) -> None:
    """Writes a line an event of Trainer's loop, by the first process."""
    if os.environ.get("RANK", "0") != "0":
        return
    from transformers.trainer_callback import CallbackHandler

    file, call_event = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY), CallbackHandler.call_event

    def record(self, event, *args, **kwargs):
        os.write(file, f"{event}\n".encode())
        return call_event(self, event, *args, **kwargs)

    CallbackHandler.call_event = record


def _count(path: Path, event: str) -> int:
    return path.read_text().split("\n").count(event) if path.exists() else 0


def check_lock(root: Path, data: Path, references: References, seed: int, rng: Random):
    """Several runs with seeds of their own: one gets the folder, and what is in it at the end is that one's alone."""
    count, folder = rng.randint(2, 4), fresh_folder(root / "shared")
    starts = [0, *sorted(rng.uniform(0, 3) for _ in range(count - 1))]
    ways = [{}, *({rng.choice(("overwrite", "resume", "max_steps")): "true"} for _ in range(count - 1))]
    fresh = [rng.random() < 0.1 for _ in ways]
    steps = 600 if any(fresh[1:]) else 120  # such an interpreter imports for seconds before it comes to the folder
    all_options, trainings, begun = [], [], time.perf_counter()
    for number, (start, way) in enumerate(zip(starts, ways, strict=True)):
        way = {} if "max_steps" in way else way  # started as the first was
        options = {"data_dir": data, "max_steps": steps, "save_steps": 30, "eval_steps": 30, "seed": number}
        all_options.append(options)
        while time.perf_counter() - begun < start:
            time.sleep(0.005)
        trainings.append(Training(folder, options | way, launcher=FRESH if fresh[number] else ()))
    ended = [training.wait() for training in trainings]
    row, won = f"{count} runs", [number for number, one in enumerate(ended) if one.status == 0]
    if len(won) != 1:
        return row, f"{len(won)} of {count} ended well ({', '.join(map(str, ways))})", None
    faults = [one.describe_refusal() for number, one in enumerate(ended) if number != won[0]]
    reference = references.get(all_options[won[0]])
    faults.append(judge_resumed(ended[won[0]], folder, reference["run"]))
    recorded = yaml.safe_load((folder / "recipe.yaml").read_text())["seed"]
    if recorded != won[0]:
        faults.append(f"the model of seed {won[0]} with the recipe of {recorded}")
    return row, "; ".join(filter(None, faults)) or None, f"won by number {won[0] + 1}"
