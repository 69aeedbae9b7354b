"""How long a forward pass takes and how much memory it needs, on this machine."""

import copy
import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSemanticSegmentation, PretrainedConfig

from hf_urbanseg.inference.upsampling import upsample_argmax

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of weights, input and activations alike (no autocast)."""

_WINDOW, _STABLE = 3, 0.05


@dataclass(frozen=True)
class Timings:
    """Seconds of the measured passes of one batch each."""

    seconds: tuple[float, ...]
    batch_size: int

    @property
    def median(self) -> float:
        """Seconds per batch."""
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        """At the median."""
        return self.batch_size / self.median

    def percentile(self, percent: float) -> float | None:
        """Seconds per batch, or None where there are too few passes: p10 and p90 take 10 of them, p99 takes 100."""
        tail = min(percent, 100 - percent) / 100
        return float(np.percentile(self.seconds, percent)) if round(tail * len(self.seconds), 6) >= 1 else None

    def to_dict(self) -> dict:
        """Milliseconds, for JSON; None for a percentile of too few passes."""
        values = {"median": self.median} | {f"p{percent}": self.percentile(percent) for percent in (10, 90, 99)}
        values |= {"min": min(self.seconds), "max": max(self.seconds)}
        values = {f"{name}_ms": None if value is None else 1000 * value for name, value in values.items()}
        return values | {"images_per_second": self.images_per_second, "passes": len(self.seconds)}


@dataclass(frozen=True)
class Latency:
    """Timings of the same passes up to two points.

    Args:
        logits: From pixel values on the device to logits at a quarter of the input's size.
        label_map: The same and on to train ids at the input's size (`upsample_argmax`), what a user waits for.
        warmup_passes: Passes before those, not among them.
        is_warm: Whether the last of these agreed within 5 %; False says that the machine was busy or the limit short.
    """

    logits: Timings
    label_map: Timings
    warmup_passes: int
    is_warm: bool


@dataclass(frozen=True)
class PeakMemory:
    """Bytes at the worst moment of one pass to the label map.

    Args:
        weights: Parameters and buffers.
        working: What the pass takes on top.
        method: How `working` was measured, in words.
    """

    weights: int
    working: int
    method: str

    @property
    def total(self) -> int:
        """Weights and what the pass takes on top; without the interpreter, the libraries and CUDA's context."""
        return self.weights + self.working


def measure_latency(
    model: torch.nn.Module,
    image_size: Sequence[int],
    batch_size: int = 1,
    precision: Precision = "fp32",
    repeats: int = 30,
    warmup: int = 5,
    seconds: float | None = None,
) -> Latency:
    """Times forward passes on the model's device, one after the other, synchronised at both ends.

    Reading, resizing and copying images to the device are left out. The model is put into evaluation mode for the
    time, and copied if it is of another precision.

    Args:
        model: `pixel_values` -> `.logits`.
        image_size: (height, width).
        batch_size: Images per pass.
        precision: Of weights, input and activations.
        repeats: Passes to measure.
        warmup: Passes before; more, up to four times as many, until two medians of 3 agree within 5 %.
        seconds: Limit for the warm-up and for the measurement, each; at least 1 and 3 passes are made all the same.
    """
    device = next(model.parameters()).device
    if next(model.parameters()).dtype != DTYPES[precision]:
        model = copy.deepcopy(model).to(DTYPES[precision])
    pixel_values = _build_input(model, image_size, batch_size)
    sizes = [tuple(image_size)] * batch_size
    was_training = model.training
    model.eval()

    def time_pass() -> tuple[float, float]:
        _synchronize(device)
        start = perf_counter()
        logits = model(pixel_values).logits
        _synchronize(device)
        middle = perf_counter()
        upsample_argmax(logits, sizes)
        _synchronize(device)
        return middle - start, perf_counter() - start

    try:
        with torch.no_grad():
            warmed, is_warm = _warm_up(time_pass, warmup, seconds)
            passes = []
            while len(passes) < repeats and (
                len(passes) < 3 or seconds is None or sum(end for _, end in passes) < seconds
            ):
                passes.append(time_pass())
    finally:
        model.train(was_training)
    to_logits, to_label_map = zip(*passes, strict=True)
    return Latency(Timings(to_logits, batch_size), Timings(to_label_map, batch_size), warmed, is_warm)


def _warm_up(time_pass: Callable[[], tuple[float, float]], warmup: int, seconds: float | None) -> tuple[int, bool]:
    """Passes made, and whether they had become steady."""
    times, steady = [], False
    while len(times) < warmup or (not steady and len(times) < 4 * warmup):
        if times and seconds is not None and sum(times) >= seconds:
            break
        times.append(time_pass()[1])
        if len(times) >= 2 * _WINDOW:
            before = statistics.median(times[-2 * _WINDOW : -_WINDOW])
            steady = abs(statistics.median(times[-_WINDOW:]) - before) <= _STABLE * before
    return len(times), steady


def measure_peak_memory(
    config: PretrainedConfig,
    image_size: Sequence[int],
    batch_size: int = 1,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
) -> PeakMemory | None:
    """Memory of one pass of a model of this configuration, pixel values and label map included.

    On CUDA it is what torch's allocator handed out (`max_memory_allocated`). On CPU it is the growth of the resident
    set of a fresh process, which also holds the scratch memory of its libraries: a process that has run passes before
    keeps freed memory and would show too little. It repeats within about 10 %. Linux only; elsewhere the answer on CPU
    is None.

    Args:
        config: Of the model, which gets random weights: memory doesn't depend on them.
        image_size: (height, width).
        batch_size: Images per pass.
        precision: Of weights, input and activations.
        device: Where.
    """
    device = torch.device(device)
    if device.type == "cuda":
        model = _build_model(config, precision).to(device)
        _run_pass(model, (64, 64), 1)  # handles and workspaces of cuBLAS and cuDNN are there before and after
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _run_pass(model, image_size, batch_size)
        torch.cuda.synchronize(device)
        working = torch.cuda.max_memory_allocated(device) - before
        return PeakMemory(_count_bytes(model), working, "torch.cuda.max_memory_allocated")
    if device.type != "cpu" or not Path("/proc/self/clear_refs").exists():
        return None
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    code = "from hf_urbanseg.inference.latency import _print_resident_growth as measure; measure()"
    words = [*map(str, image_size), str(batch_size), precision, str(torch.get_num_threads())]
    child = subprocess.run(
        [sys.executable, "-c", code, *words],
        input=config.to_json_string(use_diff=False),
        capture_output=True,
        text=True,
        env=environment,
    )
    if child.returncode:
        reason = child.stderr.strip().splitlines()[-1:] or [f"exit status {child.returncode}, as when memory is short"]
        logger.warning("Peak memory could not be measured: %s", reason[0])
        return None
    weights, working = map(int, child.stdout.split()[-2:])
    return PeakMemory(weights, working, "growth of the resident set of a fresh process (VmHWM)")


def _print_resident_growth() -> None:
    """In the fresh process: bytes of the weights, and by how much one pass raises the peak of the resident set."""
    height, width, batch_size, precision, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    options = AutoConfig.for_model(**json.load(sys.stdin))
    model = _build_model(options, precision)
    _run_pass(model, (64, 64), 1)  # threads and kernels are loaded before, not by, the pass
    before = _read_status("VmRSS")
    # Sets the peak back to the present. Not ru_maxrss: a child inherits its parent's on Linux.
    Path("/proc/self/clear_refs").write_text("5")
    _run_pass(model, (int(height), int(width)), int(batch_size))
    print(_count_bytes(model), max(0, _read_status("VmHWM") - before))


def _read_status(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return 1024 * int(line.split()[1])


def _build_model(config: PretrainedConfig, precision: str) -> torch.nn.Module:
    return AutoModelForSemanticSegmentation.from_config(copy.deepcopy(config), dtype=DTYPES[precision]).eval()


def _build_input(model: torch.nn.Module, image_size: Sequence[int], batch_size: int) -> torch.Tensor:
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, getattr(model.config, "num_channels", 3), *image_size)
    return torch.randn(shape, generator=generator).to(parameter.device, parameter.dtype)


@torch.no_grad()
def _run_pass(model: torch.nn.Module, image_size: Sequence[int], batch_size: int) -> None:
    logits = model(_build_input(model, image_size, batch_size)).logits
    upsample_argmax(logits, [tuple(image_size)] * batch_size)


def _count_bytes(model: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
