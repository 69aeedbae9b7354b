"""What the benchmarks share: the machine in words, spreads, reports, and memory from a process of its own."""

import json
import multiprocessing
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import transformers


def describe_machine(device: str = "cpu") -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def describe_environment(device: str = "cpu") -> dict:
    """For the JSON; `load` is the machine's at this moment, for a note on how quiet it was."""
    return {
        "machine": describe_machine(device), "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip


def show_environment(environment: dict) -> str:
    return "{machine}, {threads} threads, load {load}, torch {torch}, transformers {transformers}".format(**environment)


def spread(values: list[float], digits: int = 3) -> str:
    """Median and range."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}..{high})"


def show_table(head: list[str], rows: list[list]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, ["---"] * len(head), *rows))


def write_report(args, environment: dict, **numbers) -> None:
    """The JSON file of `--output`, if it is named. `table` in it is the head and rows for docs/speed.md (gpu.py)."""
    if args.output:
        report = {"environment": environment, "arguments": vars(args), **numbers}
        Path(args.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def read_status(key: str) -> float:
    """MB from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def measure_growth(work: Callable[[], object], device: str = "cpu") -> float:
    """MB that `work` takes at most beside what is held before it.

    On a CPU that is resident memory, to be called in a process of its own (`in_own_process`): one that has freed memory
    doesn't show what it takes again. On CUDA it is what the allocator handed out, and `work` is run once before.
    """
    if device.startswith("cuda"):
        work()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = read_status("VmRSS")
    # Forgets the peak of loading. (ru_maxrss can't, and a spawned process inherits its parent's.)
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return read_status("VmHWM") - before


def in_own_process(function: Callable, *arguments):
    """`function(*arguments)` from a fresh process with this one's number of threads."""
    context = multiprocessing.get_context("forkserver")
    # What takes longest to import: the server does so once, and every process is forked from it.
    context.set_forkserver_preload(["hf_urbanseg.training.trainer", "hf_urbanseg.models.build"])
    with context.Pool(1, torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        return pool.apply(function, arguments)
