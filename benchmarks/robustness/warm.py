"""Starts commands as forks of this process, which has imported everything: 0.1 s in place of 5.

Such a process is what a user's is: its own session, standard input, output and working folder; only the imports were
done before. With `launcher` it is a fresh interpreter in place of a fork.
"""

import atexit
import gc
import importlib
import os
import pkgutil
import resource
import selectors
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
FRESH = (sys.executable, "-m", "hf_urbanseg")
TORCHRUN = (
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hf_urbanseg",
)  # fmt: skip


def import_everything() -> None:
    import hf_urbanseg

    for module in pkgutil.walk_packages(hf_urbanseg.__path__, "hf_urbanseg."):
        if module.name != "hf_urbanseg.demo.page":  # which needs the extra `demo`
            importlib.import_module(module.name)
    importlib.import_module("transformers.models.segformer.modeling_segformer")
    importlib.import_module("matplotlib.backends.backend_agg")
    gc.freeze()  # else each fork's collector goes through, and so copies, what is imported
    threads = [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in os.listdir("/proc/self/task")]
    if others := [name for name in threads[1:] if name != "jemalloc_bg_thd"]:  # Arrow's, which is prepared for forks
        sys.exit(f"this process has threads and can't be forked safely: {', '.join(others)}")


@dataclass(frozen=True)
class Ended:
    """How a command ended; `status` as a shell has it (128 + signal), None for one that had to be stopped."""

    status: int | None
    out: str
    err: str
    seconds: float
    megabytes: float

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def describe_refusal(self) -> str | None:
        """None for exit status 2 and one clear line; else what is wrong with it."""
        if self.status is None:
            return f"not ended after {self.seconds:.0f} s"
        if "Traceback (most recent call last)" in self.err:
            return f"traceback, status {self.status}: {self.err.strip().splitlines()[-1][:150]}"
        if self.status != 2:
            return f"status {self.status}: {' '.join((self.err.strip() or self.out.strip()).splitlines()[-1:])[:150]}"
        if len(self.errors) != 1:
            return f"{len(self.errors)} lines that start with `error: `"
        if len(self.errors[0]) > 2000:
            return f"a line of {len(self.errors[0])} characters"
        if any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in self.errors[0]):
            return f"control characters in {self.errors[0]!r:.150}"
        return None


class Command:
    """A command that runs; `wait` it, whatever else is done with it.

    Args:
        words: Of `urbanseg`.
        folder: Working folder.
        environment: Set beside this process's.
        prepare: Called in the new process before the command.
        stdin: What its standard input holds.
        launcher: Words before `words` of a fresh process; none is a fork.
        limit: Seconds after which `wait` gives up on it.
    """

    def __init__(
        self, words: Sequence, folder: Path, environment: Mapping[str, str] = {}, prepare: Callable | None = None,
        stdin: bytes = b"", launcher: Sequence[str] = (), limit: float = 120,
    ):  # fmt: skip
        self.words, self.limit = [str(word) for word in words], limit
        self._start, self._ended = time.perf_counter(), None
        self._text = {}
        ends = [os.pipe() for _ in range(3)]
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            status = 70
            try:
                os.setsid()
                for number, end in enumerate((ends[0][0], ends[1][1], ends[2][1])):
                    os.dup2(end, number)
                os.closerange(3, 256)
                os.chdir(folder)
                os.environ |= environment
                if prepare is not None:
                    prepare()
                if launcher:
                    os.environ["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
                    os.execv(launcher[0], [*launcher, *self.words])
                status = _call(self.words)
            finally:
                os._exit(status)
        os.close(ends[0][0])
        os.write(ends[0][1], stdin)
        os.close(ends[0][1])
        self._selector = selectors.PollSelector()  # has no file that a fork would close under another
        for read, write in ends[1:]:
            os.close(write)
            os.set_blocking(read, False)
            self._text[read] = b""
            self._selector.register(read, selectors.EVENT_READ)

    @property
    def running(self) -> bool:
        self._read(0)
        if self._ended is None:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._ended = 128 - code if code < 0 else code, usage.ru_maxrss / 1024
        return self._ended is None

    @property
    def out(self) -> str:
        return next(iter(self._text.values())).decode(errors="replace")

    def send(self, number: int, group: bool = False) -> None:
        below = []
        with suppress(psutil.NoSuchProcess):  # torchrun gives each rank a session of its own
            below = psutil.Process(self.pid).children(recursive=True) if group else []
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)
        for process in below:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def wait(self, seconds: float | None = None) -> Ended:
        """Until it ends, or for `seconds` (default: what is left of its limit) and then until it is killed."""
        until = time.perf_counter() + seconds if seconds is not None else self._start + self.limit
        given_up = False
        while self.running:
            if time.perf_counter() > until and not given_up:
                given_up = True
                self.send(signal.SIGKILL, group=True)
            self._read(0.01)
        self.send(signal.SIGKILL, group=True)  # workers that it left behind
        self._read(0)
        for end in self._text:
            with suppress(OSError):
                os.close(end)
        out, err = (text.decode(errors="replace") for text in self._text.values())
        status, megabytes = self._ended
        took = time.perf_counter() - self._start
        return Ended(None if given_up else status, out, err, took, megabytes)

    def _read(self, seconds: float) -> None:
        """Empties the pipes, so that nobody waits for them."""
        if not self._selector.get_map():
            time.sleep(seconds)
        for key, _ in self._selector.select(seconds) if self._selector.get_map() else ():
            piece = os.read(key.fd, 1 << 16)
            self._text[key.fd] += piece
            if not piece:
                self._selector.unregister(key.fd)


def run(words: Sequence, folder: Path, **options) -> Ended:
    return Command(words, folder, **options).wait()


def call(function: Callable, *arguments) -> None:
    """`function(*arguments)` in a fork, for what may start threads."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            function(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1]:
        sys.exit(f"{function.__name__} failed")


def limit_memory(megabytes: int) -> Callable:
    """A `prepare` that keeps a hostile case from taking the machine with it."""
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def _call(words: Sequence[str]) -> int:
    """What the interpreter does with a program: its exit status, traceback and farewells."""
    from hf_urbanseg.__main__ import main

    sys.argv = ["urbanseg", *words]
    # The parent's streams know of the files that were there, and would seek in the pipes that are there now.
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    try:
        main(list(words))
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    return status
