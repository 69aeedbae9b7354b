"""Files that never end."""

import os
import threading
from contextlib import suppress


def make_fifo(path):
    """Whoever waits for its other end gets an empty file after a while, in whatever thread."""
    os.mkfifo(path)
    timer = threading.Timer(10, _release, [path])
    timer.daemon = True
    timer.start()


def _release(path):
    with suppress(OSError):  # nobody waits, or the test is over
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


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
