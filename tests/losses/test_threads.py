import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hf_urbanseg.losses._threads import _build_pool, run_in_threads


@pytest.fixture(autouse=True)
def _fresh_pool():
    before = torch.get_num_threads()
    _build_pool.cache_clear()
    yield
    torch.set_num_threads(before)


def run(work, items):
    results = []
    run_in_threads(work, items, results.append)
    return results


def test_run_in_threads__in_order_each_on_one_thread():
    torch.set_num_threads(3)
    meeting = threading.Barrier(3, timeout=20)

    def note(item):
        if item < 3:
            meeting.wait()  # passes only if three are at work at a time
        return item, threading.get_ident(), torch.get_num_threads()

    results = run(note, range(50))
    assert [item for item, _, _ in results] == list(range(50))
    assert len({thread for _, thread, _ in results}) == 3
    assert threading.get_ident() not in {thread for _, thread, _ in results}
    assert {threads for _, _, threads in results} == {1}


def test_run_in_threads__consumes_in_one_thread_that_splits_nothing():
    torch.set_num_threads(2)
    seen = []
    run_in_threads(abs, range(20), lambda _: seen.append((threading.get_ident(), torch.get_num_threads())))
    assert len(seen) == 20
    assert len(set(seen)) == 1
    assert seen[0][1] == 1


def test_run_in_threads__leaves_torchs_own_number_alone():
    torch.set_num_threads(2)
    run(abs, range(4))
    assert torch.get_num_threads() == 2
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [2]


def test_run_in_threads__one_thread_is_the_callers_own():
    torch.set_num_threads(1)
    assert set(run(lambda _: threading.get_ident(), range(3))) == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2])
def test_run_in_threads__no_graph_and_inference_mode_as_the_caller(threads):
    torch.set_num_threads(threads)

    def get_state(_):
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def collect():
        seen = set()
        run_in_threads(get_state, range(4), lambda result: seen.update([result, get_state(None)]))
        return seen

    assert collect() == {(False, False)}
    with torch.inference_mode():
        assert collect() == {(False, True)}


@pytest.mark.parametrize("threads", [1, 2])
def test_run_in_threads__an_error_arrives(threads):
    torch.set_num_threads(threads)
    with pytest.raises(ZeroDivisionError):
        run(lambda item: 1 / item, [1, 0, 1])
    with pytest.raises(KeyError):
        run_in_threads(abs, [1, 2], lambda item: {}[item])
    assert run(abs, [-1, 2]) == [1, 2]


def test_run_in_threads__many_callers_at_a_time():
    torch.set_num_threads(2)
    with ThreadPoolExecutor(8) as callers:
        results = [*callers.map(lambda start: run(abs, range(start, start + 9)), range(20), timeout=20)]
    assert results == [[*range(start, start + 9)] for start in range(20)]


def test_run_in_threads__after_a_fork():
    torch.set_num_threads(2)
    run(abs, range(4))
    child = os.fork()
    if child == 0:
        os._exit(0 if run(abs, [-3, 4]) == [3, 4] else 1)
    deadline = time.monotonic() + 20
    while (status := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if status == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that only its parent has")
    assert status == (child, 0)
