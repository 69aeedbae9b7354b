"""A run is killed at a step that isn't the best so far; one file of its newest or its best checkpoint is damaged."""

import json
import os
import shutil
import signal
from pathlib import Path
from random import Random

from hf_urbanseg.training.checkpoints import list_checkpoints
from robustness.tiny_runs import (
    PARTS,
    References,
    Training,
    complete_checkpoints,
    count_step,
    digest_tensors,
    fresh_folder,
    judge_resumed,
    train,
)


def flip_bit(path: Path, rng: Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _take_other_steps(path: Path, rng: Random) -> None:
    other = next(one for one in list_checkpoints(path.parents[1]) if one != path.parent)
    shutil.copy(other / path.name, path)


WAYS = {
    "a bit flipped": flip_bit,
    "zeroed": lambda path, rng: path.write_bytes(bytes(path.stat().st_size)),
    "noise": lambda path, rng: path.write_bytes(rng.randbytes(path.stat().st_size)),
    "half": lambda path, rng: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path, rng: os.truncate(path, 0),
    "longer": lambda path, rng: path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 99))),
    "deleted": lambda path, rng: path.unlink(),
    "another step's": _take_other_steps,
    "a folder": lambda path, rng: (path.unlink(), path.mkdir()),
}


def check_damage(root: Path, data: Path, references: References, seed: int, rng: Random):
    options, reference = _find_options(data, references)
    cut = _make_cut_run(root / "state", options, reference)
    newest = complete_checkpoints(cut)[-1]
    best = _best_step(reference, count_step(newest))
    names = sorted(path.name for path in newest.iterdir())
    number, which = divmod(seed, 2)
    number, way = divmod(number, len(WAYS))
    way, name = list(WAYS)[way], names[number % len(names)]
    folder = fresh_folder(root / "cut")
    shutil.copytree(cut, folder)
    checkpoint = folder / (newest.name if which == 0 else f"checkpoint-{best}")
    row = f"{'newest' if which == 0 else 'best'}, {name}"
    before = (checkpoint / name).read_bytes()
    WAYS[way](checkpoint / name, rng)
    if (checkpoint / name).is_file() and (checkpoint / name).read_bytes() == before:
        return row, None, "no damage: the other step's is the same"
    ended = train(folder, {**options, "resume": "true"})
    fault, note = _judge(ended, folder, checkpoint, reference, is_newest=which == 0)
    return row, fault and f"{way}: {fault}", note


def _judge(ended, folder: Path, checkpoint: Path, reference: dict, is_newest: bool) -> tuple[str | None, str]:
    """It ends as the uninterrupted run; without its best, it says so and exports the next best, or is refused."""
    told = [line for line in ended.err.splitlines() if checkpoint.name in line and "resuming from" not in line]
    note = "noticed" if told else "not noticed"
    if ended.status == 2 and not is_newest:
        return (None if told else ended.describe_refusal() or "refused without its name"), "refused"
    fault = judge_resumed(ended, folder, reference["run"])
    if fault is None or is_newest or ended.status != 0:
        return fault, note
    step = json.loads((folder / "metrics.json").read_text())["selection"]["exported_step"]
    measured = reference["folder"] / f"checkpoint-{step}" / "model.safetensors"
    if not told:
        return f"{fault}, and nothing said", note
    if digest_tensors(measured) != digest_tensors(folder / "model.safetensors"):
        return f"said to be step {step}, but that had other weights", note
    return None, "fell back"


def _find_options(data: Path, references: References) -> tuple[dict, dict]:
    """Of a run whose validation was better at some step than at one after it."""
    for seed in range(10):
        options = PARTS["all"] | {"data_dir": data, "seed": seed}
        reference = references.get(options)
        if any(_best_step(reference, step) < step for step in (4, 6)):
            return options, reference
    raise SystemExit("every step of every run was the best so far")


def _best_step(reference: dict, until: int) -> int:
    scores = {entry["step"]: entry["eval_mean_iou"] for entry in reference["run"]["log"] if "eval_mean_iou" in entry}
    return max((step for step in scores if step <= until), key=lambda step: (scores[step], -step))


def _make_cut_run(folder: Path, options: dict, reference: dict) -> Path:
    """Killed when the step after its best was saved."""
    wanted = next(step for step in (6, 4) if _best_step(reference, step) < step)
    while not folder.exists() or count_step(complete_checkpoints(folder)[-1]) != wanted:
        training = Training(fresh_folder(folder), options)
        while training.running and not (folder / f"checkpoint-{wanted}").exists():
            pass
        training.kill(signal.SIGKILL)
        training.wait()
    return folder
