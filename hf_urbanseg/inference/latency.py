"""How long a forward pass takes and how much memory it needs, on this machine."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from transformers import AutoConfig, PretrainedConfig

from hf_urbanseg.inference.upsampling import upsample_argmax
from hf_urbanseg.models.loading import build_from_config

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of weights, input and activations alike (no autocast)."""


def measure_latency(
    model: torch.nn.Module,
    image_size: Sequence[int],
    batch_size: int = 1,
    repeats: int = 30,
    warmup: int = 5,
    seconds: float = float("inf"),
) -> dict:
    """Times forward passes on the model's device, one after the other, synchronised at both ends.

    Reading, resizing and copying images to the device are left out. The model is left in evaluation mode.

    Args:
        repeats: Passes to measure.
        warmup: Passes before.
        seconds: Limit for the warm-up and for the measurement, each; at least 1 and 3 passes are made all the same.

    Returns:
        `logits` (to logits at the network's own size) and `label_map` (on to train ids at the input's size, what
        a user waits for), of the same passes: `median_ms` and other milliseconds per batch, None for a percentile of
        too few passes; `images_per_second` at the median; `passes`. `warmup_passes`. `is_warm`: whether the medians of
        the first and the second half of the passes agree within 5 %; False says that the machine was busy, or the
        warm-up short.
    """
    device = model.device
    pixel_values = _build_input(model.eval(), image_size, batch_size)
    sizes = [tuple(image_size)] * batch_size

    def time_pass() -> tuple[float, float]:
        _synchronize(device)
        start = perf_counter()
        logits = model(pixel_values).logits
        _synchronize(device)
        middle = perf_counter()
        upsample_argmax(logits, sizes)
        _synchronize(device)
        return middle - start, perf_counter() - start

    def time_passes(count: int, least: int) -> np.ndarray:
        passes = []
        while len(passes) < count and (len(passes) < least or sum(end for _, end in passes) < seconds):
            passes.append(time_pass())
        return np.array(passes)

    with torch.no_grad():
        warmed = len(time_passes(warmup, 1))
        to_logits, to_label_map = time_passes(repeats, 3).T
    middle = len(to_label_map) / 2
    first, second = np.median(to_label_map[: int(middle + 0.5)]), np.median(to_label_map[int(middle) :])
    passes = {"logits": _summarise(to_logits, batch_size), "label_map": _summarise(to_label_map, batch_size)}
    return passes | {"warmup_passes": warmed, "is_warm": bool(abs(first - second) <= 0.05 * second)}


def _summarise(seconds: np.ndarray, batch_size: int) -> dict:
    count, median = len(seconds), float(np.median(seconds))
    values = {"median": median, "min": seconds.min(), "max": seconds.max()}
    for percent in (10, 90, 99):  # each takes a pass in its tail
        enough = count * min(percent, 100 - percent) >= 100
        values[f"p{percent}"] = np.percentile(seconds, percent) if enough else None
    milliseconds = {f"{name}_ms": None if value is None else 1000 * float(value) for name, value in values.items()}
    return milliseconds | {"images_per_second": batch_size / median, "passes": count}


def measure_peak_memory(
    config: PretrainedConfig,
    image_size: Sequence[int],
    batch_size: int = 1,
    precision: str = "fp32",
    device: torch.device | str = "cpu",
) -> dict | None:
    """Memory of one pass of a model of this configuration, pixel values and label map included.

    On CUDA it is what torch's allocator handed out (`max_memory_allocated`). On CPU it is the growth of the resident
    set of a fresh process, which also holds the scratch memory of its libraries: a process that has run passes before
    keeps freed memory and would show too little. It repeats within about 10 %. Linux only; elsewhere the answer on CPU
    is None.

    Returns:
        `weights_bytes` (parameters and buffers), `working_bytes` (what the pass takes on top at its worst moment),
        `peak_bytes` (their sum; without the interpreter, the libraries and CUDA's context), `method` in words.
    """
    device = torch.device(device)
    if device.type == "cuda":
        model = build_model(config, precision).to(device)
        _run_pass(model, (64, 64), 1)  # handles and workspaces of cuBLAS and cuDNN are there before and after
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _run_pass(model, image_size, batch_size)
        torch.cuda.synchronize(device)
        working = torch.cuda.max_memory_allocated(device) - before
        return _describe_memory(model.get_memory_footprint(), working, "torch.cuda.max_memory_allocated")
    if device.type != "cpu" or not Path("/proc/self/clear_refs").exists():
        return None
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    code = "from hf_urbanseg.inference.latency import _print_resident_growth as measure; measure()"
    words = [*map(str, image_size), str(batch_size), precision, str(torch.get_num_threads())]
    child = subprocess.run(
        [sys.executable, "-c", code, *words], input=config.to_json_string(use_diff=False), capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    if child.returncode:
        reason = child.stderr.strip().splitlines()[-1:] or [f"exit status {child.returncode}, as when memory is short"]
        logger.warning("Peak memory could not be measured: %s", reason[0])
        return None
    sizes = map(int, child.stdout.split()[-2:])
    return _describe_memory(*sizes, "growth of the resident set of a fresh process (VmHWM)")


def _describe_memory(weights: int, working: int, method: str) -> dict:
    return {"weights_bytes": weights, "working_bytes": working, "peak_bytes": weights + working, "method": method}


def _print_resident_growth() -> None:
    """In the fresh process: bytes of the weights, and by how much one pass raises the peak of the resident set."""
    height, width, batch_size, precision, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = build_model(AutoConfig.for_model(**json.load(sys.stdin)), precision)
    _run_pass(model, (64, 64), 1)  # threads and kernels are loaded before, not by, the pass
    before = _read_status("VmRSS")
    # Sets the peak back to the present. Not ru_maxrss: a child inherits its parent's on Linux.
    Path("/proc/self/clear_refs").write_text("5")
    _run_pass(model, (int(height), int(width)), int(batch_size))
    print(model.get_memory_footprint(), max(0, _read_status("VmHWM") - before))


def _read_status(key: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:")]
    return 1024 * int(line.split()[1])


def build_model(config: PretrainedConfig, precision: str) -> torch.nn.Module:
    """With random weights, in evaluation mode."""
    return build_from_config(config, dtype=_DTYPES[precision]).eval()


def _build_input(model: torch.nn.Module, image_size: Sequence[int], batch_size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, model.config.num_channels, *image_size)
    return torch.randn(shape, generator=generator).to(model.device, model.dtype)


@torch.no_grad()
def _run_pass(model: torch.nn.Module, image_size: Sequence[int], batch_size: int) -> None:
    logits = model(_build_input(model, image_size, batch_size)).logits
    upsample_argmax(logits, [tuple(image_size)] * batch_size)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
