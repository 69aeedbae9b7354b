"""Finetune as processes of its own, whose output goes to a log."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from hf_urbanseg.errors import ConfigError


def start_finetune(launcher: Sequence[str], words: Sequence[str], log: Path, what: str) -> int:
    """Runs finetune as processes of its own until it ends, and returns its exit status.

    Args:
        launcher: Words in front, or none for one process.
        log: Output goes to its end.
        what: Shown beside the newest line of the log, on a terminal.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*(launcher or [sys.executable]), "-m", "hf_urbanseg", "finetune", *words]
    # Safe path: the working folder may hold files that would hide libraries, such as an evaluate.py.
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    with log.open("ab") as file, _termination_interrupts():
        begin = file.tell()
        try:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError("a `--launcher` that starts", f"{reason}: {command[0]}", "correct it") from error
        with tqdm(desc=what, bar_format="{desc}, {elapsed}  {postfix}", disable=None, leave=False) as bar:
            try:
                while process.poll() is None:
                    time.sleep(0.2)
                    bar.set_postfix_str(_last_line(log, begin)[:100])
            except BaseException:
                # Ctrl-C reaches the processes, too; a checkpoint they are writing may be completed.
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
    return process.returncode


@contextmanager
def _termination_interrupts():
    """SIGTERM ends this process like Ctrl-C, so that it doesn't leave its run behind."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_line(log: Path, begin: int = 0) -> str:
    with log.open("rb") as file:
        file.seek(max(begin, file.seek(0, os.SEEK_END) - 4000))
        lines = re.split(r"[\r\n]+", file.read().decode("utf-8", "replace"))
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def describe_end(log: Path) -> str:
    """` (...)` with the line that finetune ends with for a mistake in its input, otherwise the log's last."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    errors = [line.removeprefix("error: ") for line in lines[-100:] if line.startswith("error: ")]
    last = errors[-1] if errors else lines[-1].strip() if lines else ""
    return f" ({last})" if last else ""
