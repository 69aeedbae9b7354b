"""Runs of seconds on a set of 12 rendered frames, and what two of them must have in common."""

import hashlib
import json
import math
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from hf_urbanseg.errors import CheckpointError
from hf_urbanseg.training.checkpoints import list_checkpoints, verify_checkpoint
from robustness.warm import TORCHRUN, Command, Ended, call, run

OPTIONS = {
    "recipe": "segformer_b0_kitti", "init": "random", "size": "tiny", "decoder_hidden_size": 32, "crop_size": "64 64",
    "eval_size": "64 96", "train_scales": "0.75 1.0", "max_steps": 8, "warmup_steps": 1, "eval_steps": 2,
    "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3,
    "dataloader_num_workers": 0, "cpu_threads": 1, "num_overlays": 0, "save_total_limit": 100,
}  # fmt: skip
PARTS = {
    "plain": {},
    "EMA": {"ema_decay": 0.9, "export_ema": "true"},
    "auxiliary head": {"auxiliary_head": "true", "auxiliary_channels": 16},
    "global OHEM": {
        "loss": "ohem", "loss_scope": "global", "ohem_min_kept": 1000, "gradient_accumulation_steps": 2,
    },
    "all": {
        "ema_decay": 0.9, "auxiliary_head": "true", "auxiliary_channels": 16, "loss": "ohem", "loss_scope": "global",
        "ohem_min_kept": 1000,
    },
}  # fmt: skip


def write_words(options: Mapping) -> list[str]:
    """Texts are split into words, paths are not."""
    words = []
    for key, value in options.items():
        words += [f"--{key}", *(value.split() if isinstance(value, str) else [str(value)])]
    return words


_CLASSES = {"road": [7], "building": [11], "vegetation": [21], "sky": [23], "car": [26]}


def make_set(root: Path) -> Path:
    """A set saved by `urbanseg prepare-data`, of few classes: a run's plots take as long as its training."""
    return _prepare(root, root / "set", _render(root / "kitti", 12))


def make_shards(root: Path, data_dir: Path | None) -> Path:
    """The same of 24 frames or those of `data_dir`, to be streamed."""
    return _prepare(root, root / "shards", data_dir or _render(root / "more", 24), rows_per_shard=5)


def _render(folder: Path, count: int) -> Path:
    from rendered_kitti import write_kitti

    call(write_kitti, folder, range(count), (48, 96))
    return folder


def _prepare(root: Path, output: Path, data_dir: Path, **more) -> Path:
    classes = [
        {"name": name, "label_ids": ids, "color": [50 * number, 90, 90]}
        for number, (name, ids) in enumerate(_CLASSES.items())
    ]
    void = sorted(set(range(34)) - {one for ids in _CLASSES.values() for one in ids})
    (root / "classes.json").write_text(json.dumps({"name": "few", "classes": classes, "void": void}))
    words = {"data_dir": data_dir, "label_space": str(root / "classes.json"), "output": output, **more}
    ended = run(["prepare-data", *write_words(words)], root)
    if ended.status != 0:
        raise SystemExit(f"no data to begin with:\n{ended.err}")
    return output


class Training:
    """`urbanseg finetune` of one configuration into one folder, on one or two processes.

    Args:
        folder: The run's `output_dir`.
        options: Over `OPTIONS`.
        processes: 2 forks one process a rank, with the environment that torchrun would set.
        launcher: Start fresh interpreters by it, instead.
    """

    def __init__(self, folder: Path, options: Mapping, processes: int = 1, launcher=(), prepare=None):
        words = ["finetune", *write_words(OPTIONS | dict(options) | {"output_dir": folder})]
        environment = [{}]
        if processes == 2 and not launcher:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            environment = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
        self.folder = folder
        self.commands = [
            Command(words, folder.parent, own, launcher=launcher, prepare=prepare, limit=180) for own in environment
        ]

    @property
    def running(self) -> bool:
        return sum(command.running for command in self.commands) > 0  # asked of each, which empties its pipes

    def kill(self, number: int, group: bool = True) -> None:
        for command in self.commands:
            command.send(number, group)

    def wait_until(self, seconds: float) -> None:
        """Until so many seconds from now, or its end."""
        until = time.perf_counter() + seconds
        while self.running and time.perf_counter() < until:
            time.sleep(0.001)

    def wait(self, seconds: float | None = None) -> Ended:
        """All ranks as one: the first status that isn't 0, a rank that hangs before all, and what every rank said."""
        ended = [command.wait(seconds) for command in self.commands]
        worst = next((one for one in ended if one.status is None), next((one for one in ended if one.status), ended[0]))
        return replace(worst, err="".join(one.err for one in ended))


def train(folder: Path, options: Mapping, processes: int = 1, launcher=()) -> Ended:
    return Training(folder, options, processes, TORCHRUN if launcher and processes == 2 else launcher).wait()


def read_run(folder: Path) -> dict[str, object]:
    """What a finished run has that doesn't depend on when and how often it was started."""
    found = {"model.safetensors": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()}
    checkpoint = list_checkpoints(folder)[-1]
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in (".pt", ".pth"):
            found[f"last {path.name}"] = _digest(torch.load(path, weights_only=False))
        elif path.suffix == ".safetensors":
            found[f"last {path.name}"] = digest_tensors(path)
    metrics = json.loads((folder / "metrics.json").read_text())
    found["scores"] = metrics["splits"]
    found["exported step"] = metrics["selection"]["exported_step"]
    history = json.loads((folder / "log_history.json").read_text())["log_history"]
    *steps, end = history
    found["log"] = [{key: value for key, value in entry.items() if not _is_time(key)} for entry in steps]
    found["train_loss"] = end.get("train_loss")
    return found


def compare_runs(found: Mapping, expected: Mapping, *, train_loss: bool = True) -> str | None:
    """What is different, or None. The mean loss of a resumed run is a sum of other parts: to 6 digits."""
    different = [key for key in expected if key != "train_loss" and found.get(key) != expected[key]]
    different += [f"{key} too much" for key in found.keys() - expected.keys()]
    if train_loss and not math.isclose(found["train_loss"] or 0, expected["train_loss"] or 0, rel_tol=1e-5):
        different.append(f"train_loss {found['train_loss']} in place of {expected['train_loss']}")
    return f"not identical: {', '.join(different)}" if different else None


def complete_checkpoints(folder: Path) -> list[Path]:
    found = []
    for checkpoint in list_checkpoints(folder):
        try:
            verify_checkpoint(checkpoint)
        except CheckpointError:
            continue
        found.append(checkpoint)
    return found


def count_step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def resume(folder: Path, options: Mapping, processes: int = 1, launcher=()) -> Ended:
    """As a user would: `--resume`, and without it if that says that there is nothing to resume from."""
    ended = train(folder, {**options, "resume": "true"}, processes, launcher)
    refused = 1 if launcher and processes == 2 else 2  # torchrun has a status of its own
    if ended.status == refused and not complete_checkpoints(folder):
        ended = train(folder, options, processes, launcher)
    return ended


def judge_resumed(ended: Ended, folder: Path, expected: Mapping) -> str | None:
    if ended.status != 0:
        last = (ended.err.strip() or "nothing said").splitlines()[-1]
        return f"resume ended with status {ended.status}: {last[:200]}"
    return compare_runs(read_run(folder), expected)


class References:
    """Uninterrupted runs, trained when first asked for."""

    def __init__(self, root: Path):
        self.root, self.known = root, {}

    def get(self, options: Mapping, processes: int = 1) -> dict:
        """`run` (see `read_run`), `seconds`, and the `folder`."""
        key = json.dumps([dict(options), processes], default=str)
        if key not in self.known:
            folder = self.root / f"reference-{len(self.known)}"
            ended = train(folder, options, processes)
            if ended.status != 0:
                raise SystemExit(f"the uninterrupted run failed: {options}\n{ended.err[-6000:]}")
            self.known[key] = {"run": read_run(folder), "seconds": ended.seconds, "folder": folder}
        return self.known[key]


def fresh_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    return path


def _is_time(key: str) -> bool:
    return key.endswith(("runtime", "_per_second"))


def digest_tensors(path: Path) -> str:
    from safetensors.torch import load_file

    return _digest(load_file(path))


def _digest(content) -> str:
    """Of values, whatever order a file has them in; tensors by their bytes."""
    if isinstance(content, torch.Tensor):
        text = f"{content.dtype}{tuple(content.shape)}".encode() + content.contiguous().view(-1).numpy().tobytes()
    elif isinstance(content, Mapping):
        text = repr(sorted((repr(key), _digest(value)) for key, value in content.items())).encode()
    elif isinstance(content, list | tuple):
        text = repr([_digest(value) for value in content]).encode()
    elif hasattr(content, "tobytes"):
        text = content.tobytes()
    else:
        text = repr(content).encode()
    return hashlib.sha256(text).hexdigest()
