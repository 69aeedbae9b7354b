"""What stands in for the processes of `urbanseg reproduce`, and options that make its runs a second long."""

import contextlib
import json
from pathlib import Path

import pytest

from hf_urbanseg.commands import finetune, reproduce
from hf_urbanseg.reproduction import running

OPTIONS = {
    "init": "random", "size": "tiny", "crop_size": "64 64", "eval_size": "32 96", "train_scales": "1.0",
    "max_steps": 2, "warmup_steps": 0, "eval_steps": 1, "save_steps": 1, "logging_steps": 1,
    "per_device_train_batch_size": 2, "learning_rate": 1e-3, "ohem_min_kept": 10, "dataloader_num_workers": 0,
    "cpu_threads": 1, "num_overlays": 0,
}  # fmt: skip
TINY = [word for key, value in OPTIONS.items() for word in (f"--{key}", *str(value).split())]


class Starts:
    """In place of `start_finetune`: runs finetune in this process (a new one would take seconds to import torch) and
    remembers what was started."""

    def __init__(self):
        self.words = []

    def __call__(self, launcher, words, log, what):
        assert launcher == []
        self.words.append(list(words))
        log.parent.mkdir(exist_ok=True)
        with log.open("a") as file, contextlib.redirect_stderr(file), contextlib.redirect_stdout(file):
            try:
                finetune.main(words)
            except SystemExit as stop:
                return stop.code
        return 0

    @property
    def names(self):
        return [Path(words[words.index("--output_dir") + 1]).name for words in self.words]


def reproduce_here(monkeypatch, argv, extra=TINY, starts=None, command=reproduce) -> Starts:
    """`urbanseg reproduce`, or another command that starts runs, with these words, and `extra` behind `--`."""
    starts = starts or Starts()
    monkeypatch.setattr(running, "start_finetune", starts)
    command.main([str(word) for word in [*argv, "--", *extra]])
    return starts


def read_failure(capsys, call, status=2) -> tuple[str, list[str]]:
    """The last error line of a call that exits, and the problems listed before it."""
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == status
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0], [line for line in lines if line.startswith("problem: ")]


def metrics_of(output, name):
    return json.loads((output / name / "metrics.json").read_text())
