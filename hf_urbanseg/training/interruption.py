"""Ending a run politely when a scheduler or a person asks: what happens to SIGTERM, SIGINT and SIGUSR1."""

import mmap
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

from hf_urbanseg.launch import count_processes, is_first_of_machine

SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
_SAME_SECONDS = 3.0
_WORKER_SECONDS = 1.0


class Interrupted(KeyboardInterrupt):
    """A run that ended because it was asked to. The message says what is safe and how to go on.

    `status` is what a command exits with: 128 and the signal's number, so 143 for SIGTERM.
    """

    def __init__(self, number: int, line: str):
        super().__init__(line)
        self.status = 128 + number


class Interruption:
    """Inside `with`, a signal that asks the process to end raises `Interrupted`, or is noted while that is `deferring`.

    A second signal while one is noted stops at once, as if nobody had caught it. In a launch of several processes what
    comes within 3 seconds counts as the same: launchers pass on what schedulers also send to each process.
    """

    def __init__(self, situation: str):
        self.situation = situation
        """What is safe and how to go on, said of a run that ends now."""
        self.received: signal.Signals | None = None
        self._deferred, self._time, self._process = False, 0.0, os.getpid()
        self._shown_to_workers = mmap.mmap(-1, 1)
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python lets no other one have handlers
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        self._shown_to_workers[0] = 0
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None is one that isn't Python's

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """For training, which looks at `received` after each step."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.received is not None:  # after the last step
            self.end(self.situation)

    def end(self, situation: str) -> NoReturn:
        """Raises `Interrupted`, also where only another process has received the signal."""
        number = self.received or signal.SIGTERM
        raise Interrupted(number, f"stopped by {number.name}: {situation}")

    def guard_workers(self, loader) -> None:
        """Lets the workers of a `DataLoader` outlive a signal that was sent to all processes, for the step to end."""
        if multiprocessing.get_start_method() == "fork":
            loader.worker_init_fn = partial(self._start_worker, loader.worker_init_fn)

    def _start_worker(self, initialise: Callable[[int], None] | None, worker: int) -> None:
        if self._before:
            signal.signal(signal.SIGTERM, self._receive)  # torch has set its own, which ends the worker
        if initialise is not None:
            initialise(worker)

    def _receive(self, number: int, _) -> None:
        if os.getpid() != self._process:
            return self._receive_in_child(number)
        now = time.monotonic()
        if self.received is None:
            self.received, self._time = signal.Signals(number), now
            if not self._deferred:
                self.end(self.situation)
            self._shown_to_workers[0] = 1
            if is_first_of_machine():
                # Not by `print` or `logging`, in the middle of which this may be.
                line = f"\n{self.received.name}: a checkpoint follows this step; a second signal stops at once\n"
                os.write(2, line.encode())
        elif count_processes() == 1 or now - self._time > _SAME_SECONDS:
            before = self._before[signal.Signals(number)]
            if before is signal.SIG_IGN:  # as shells set it for SIGINT in what they start in the background
                before = None
            signal.signal(number, before or signal.SIG_DFL)
            signal.raise_signal(number)

    def _receive_in_child(self, number: int) -> None:
        """SIGTERM is also how Python ends children: it counts unless the parent has got one and goes on for now."""
        end = time.monotonic() + _WORKER_SECONDS
        while number == signal.SIGTERM and not self._shown_to_workers[0]:
            if time.monotonic() > end:
                os._exit(0)
            time.sleep(0.01)
