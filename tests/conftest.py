import gc
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Threads that wait for each other by spinning take the cores from whatever else runs; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Workers that each take all cores wait for each other; processes that they start inherit the share.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = max(1, cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

ROOT = Path(__file__).parents[1]
WORKERS = ROOT / "tests" / "workers"

# The loopback Hub and what several tests of a room share: plain modules, without a package.
_ROOMS = (
    "common",
    "loopback_hub",
    "hub",
    "hub/cards",
    "commands",
    "data",
    "models/convert",
    "models/baselines",
    "documentation",
)
sys.path[:0] = [str(ROOT / "tests" / room) for room in _ROOMS]
from loopback_fixtures import hub, hub_here, run_with_hub, waits  # noqa: E402, F401
from quick_runs import quicken_runs  # noqa: E402

_LONG = ("robustness", "training", "test_documentation.py", "commands", "test_notebooks.py", "reproduction")


def pytest_collection_modifyitems(items):
    """Long files and rooms first: workers take whole files in this order, and all of them wait for the last one."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    order = {ROOT / "tests" / name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: order.get(item.path, order.get(item.path.parent, len(order))))


@pytest.fixture(autouse=True, scope="session")
def _what_fails_is_tried_again_at_once():
    from hf_urbanseg.data import shard_files

    shard_files._WAITS = (0, 0)


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_stays():
    """The collector, which each training calls, passes over torch's half a million objects: 0.3 s a call."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def quick_runs():
    with pytest.MonkeyPatch.context() as patch:
        quicken_runs(patch)
        yield


@pytest.fixture(autouse=True)
def _same_number_of_threads():
    """Commands run in this process choose one for themselves, and with it the last bits of later tests' numbers."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def worker():
    """The module whose pieces the two-process workers are made of."""
    spec = importlib.util.spec_from_file_location("gradients", WORKERS / "gradients.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def launch(tmp_path_factory):
    """Runs a script on two processes through accelerate and the project's own configuration."""

    def run(script: Path, *words, processes: int = 2) -> subprocess.CompletedProcess:
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_config.yaml"),
            "--num_processes", str(processes), "--main_process_port", "0", str(script), *map(str, words),
        ]  # fmt: skip
        folder = tmp_path_factory.mktemp("launched")
        return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)

    return run


@pytest.fixture
def exact_convolutions(monkeypatch):
    """Of fp32 on a GPU, whose default is TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def fails(monkeypatch, capsys):
    """Runs a command that must refuse: status 2 and one line, which is returned."""

    def run(main, *argv) -> str:
        words = [str(word) for word in argv]
        monkeypatch.setattr(sys, "argv", ["command", *words])  # where misplaced tokens are looked for
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run
