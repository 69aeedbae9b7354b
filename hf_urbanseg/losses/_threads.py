"""One thread per block instead of all threads on each operation."""

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch


def run_in_threads(work: Callable, items: Iterable, consume: Callable) -> None:
    """`consume(work(item))` for every item: works on several items at a time, consumes one by one and in order.

    There are as many threads as torch uses for one operation, and each operation runs on one. Torch would split each
    among all threads and wait for the last. For many operations of a tenth of a millisecond that costs more than it
    saves, and where another process has a core (the workers of a data loader, say) every wait is as long as its turn.

    Args:
        work, consume: Called without a graph and, unless torch has one thread only, from other threads than the
            caller's: autocast and other contexts of the caller's do not reach them.
    """
    threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    def run(function, *args):
        with torch.inference_mode() if inference else torch.no_grad():
            return function(*args)

    def consume_all(results):
        for result in results:
            consume(result)

    if threads == 1:
        run(consume_all, map(work, items))
        return
    pool, turn = _build_pool(threads, os.getpid())
    with turn:
        # Consumed in a thread of the pool too: even one split operation would wait for the threads that are at work.
        pool.submit(lambda: run(consume_all, pool.map(functools.partial(run, work), items))).result()


@functools.cache
def _build_pool(threads: int, process: int) -> tuple[ThreadPoolExecutor, threading.Lock]:
    """Threads to work and one to consume, for one caller at a time; anew after a fork, which threads don't survive."""
    ready = threading.Barrier(threads + 2)

    def start():
        torch.get_num_threads()  # takes over the default now, not at the first operation
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads + 1, "losses", start)
    for _ in range(threads + 1):
        pool.submit(int)
    ready.wait()
    # What a thread sets for itself torch also takes as the default of threads to come: put that back.
    torch.set_num_threads(threads)
    return pool, threading.Lock()
