"""Files that never end, and a clock for those who read them all the same."""

import os
import signal
from contextlib import contextmanager


@contextmanager
def no_waiting(seconds: int = 20):
    """Whoever waits for the other end of a FIFO gets a TimeoutError."""

    def stop(*_):
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make_fifo(path):
    os.mkfifo(path)


def link_to_device(path):
    path.symlink_to("/dev/zero")


def make_sparse(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


ENDLESS = [
    (make_fifo, "found a FIFO;"),
    (link_to_device, "found a device;"),
    (make_sparse, "found 1,099,511,627,776 bytes;"),
]
"""How to make one at a path, and what is said of it."""
