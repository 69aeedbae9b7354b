import errno
import gc
import itertools
import multiprocessing.synchronize
import os
import sys

import pytest
from torch.utils.data import DataLoader

from hf_urbanseg.data.loader_start import explain_start
from hf_urbanseg.errors import OutOfMemoryError


def fail_from(monkeypatch, owner, name: str, call: int, number: int) -> None:
    """Lets a function raise the `OSError` of that number from that call on."""
    real, calls = getattr(owner, name), itertools.count()

    def refuse(*args, **options):
        if next(calls) >= call:
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    monkeypatch.setattr(owner, name, refuse)


SEMAPHORE = multiprocessing.synchronize.SemLock, "__init__"


@pytest.mark.parametrize(
    ("of", "call", "number", "line"),
    [
        (SEMAPHORE, 0, errno.EROFS, "shared memory .* found Read-only .*shm-size"),
        (SEMAPHORE, 4, errno.ENOSPC, "shared memory .* found No space .*shm-size"),
        (SEMAPHORE, 8, errno.ENOSPC, "shared memory .* found No space .*shm-size"),
        ((os, "pipe"), 0, errno.EMFILE, "open files .* found Too many open files; .*ulimit -n"),
        ((os, "fork"), 0, errno.EAGAIN, "processes and threads .* found Resource temporarily .*ulimit -u"),
        ((os, "fork"), 1, errno.EAGAIN, "processes and threads .* found Resource temporarily .*ulimit -u"),
    ],
)
def test_explain_start__says_what_workers_lack_and_nothing_else(monkeypatch, of, call, number, line):
    noise = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    loader = DataLoader(range(4), num_workers=2, multiprocessing_context="fork")
    explain_start(loader)
    with monkeypatch.context() as patch:
        fail_from(patch, *of, call, number)
        with pytest.raises(OutOfMemoryError, match=f"expected {line}") as found:
            next(iter(loader))
    assert "load with fewer `--dataloader_num_workers` (0: none), or " in str(found.value)
    del found
    gc.collect()
    assert not noise
    assert [*map(int, loader)] == [0, 1, 2, 3]


def test_explain_start__errors_of_samples_stay():
    loader = DataLoader([1], num_workers=1, collate_fn=[].index)
    explain_start(loader)
    with pytest.raises(ValueError, match="Caught ValueError in DataLoader worker"):
        next(iter(loader))
