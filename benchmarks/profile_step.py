"""Where a training step's time goes, ours and stock's, by kind of operation; and where the host waits for the device.

    python benchmarks/profile_step.py --device cuda --precision bf16 --batch_size 16 --crop 512 1024
    python benchmarks/profile_step.py --size tiny --crop 64 64    # self CPU time, on a CPU

Time on the device on CUDA, else of the processor's operations themselves, over some steps behind a warm-up, as a share
of their sum. `idle` is the share of a step (without the profiler) in which the device does nothing: the host is too
slow, or waits. Backward passes count with what they are of. A wait is a call that returns when the device has ended all
its work: on CUDA torch's own warning of each, elsewhere reading one number of a tensor. `our trainer` is a step of
UrbanSegTrainer as its loop makes it (steps.py).
"""

import argparse
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from measuring import describe_environment, show_environment, show_table, write_report
from steps import build_step
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import SIZES

KINDS = ("stock", "ours", "our trainer")
GROUPS = {
    "attention": r"scaled_dot_product|_attention",
    "matrix products": r"::(mm|bmm|addmm|addmm_|baddbmm|linear|matmul)$|mkldnn_linear",
    "convolutions": r"conv",
    "LayerNorm, BatchNorm": r"layer_norm|batch_norm",
    "resizing": r"upsample",
    "layout copies": r"::(copy_|contiguous|clone|_to_copy|cat)$|^Memcpy",
    "GELU, dropout, adding": r"gelu|dropout|::(add_?|mul_?|div_?|bernoulli_?|relu|threshold_backward)$",
}
"""The first that an operation's own name fits to; loss and optimiser are told by what called it."""
LOSS = re.compile(r"^loss$|_PixelSumBackward|NllLoss|LogSoftmax|CrossEntropy")
NAMES = ("idle", "depthwise convolutions", *GROUPS, "casts", "loss", "optimiser", "rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="b0", choices=list(SIZES))
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 512), help="height and width")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="bf16: by autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--output", help="JSON file for the numbers")
    args = parser.parse_args()
    args.crop, args.task, args.seed = tuple(args.crop), "train", 0
    results = {kind: measure(args, kind) for kind in KINDS}
    environment, (height, width) = describe_environment(args.device), args.crop
    what = f"{args.size.upper()}, {args.batch_size} x {height}x{width}, {args.precision}"
    head = ["profile of a step, %", "", "ms", *NAMES, "waits"]
    rows = [
        [what, kind, f"{one['ms']:.1f}", *(f"{100 * one['shares'][name]:.0f}" for name in NAMES),
         sum(one["waits"].values())]
        for kind, one in results.items()
    ]  # fmt: skip
    print(f"{show_environment(environment)}\n{show_table(head, rows)}")
    for kind, one in results.items():
        print(f"{kind}: {one['launches']:.0f} kernels; attention {one['implementation']} by {one['attention']}; "
              f"waits {one['waits']}; of the rest {one['rest']}")  # fmt: skip
    write_report(args, environment, results=results, table={"head": head, "rows": rows})


def measure(args, kind: str) -> dict:
    step, on_gpu = build_step(args, kind), "cuda" in args.device
    if kind.endswith("trainer"):
        name_region(step.trainer.loss, "forward")
    else:
        name_region(step, "compute_loss")

    def run() -> float:
        start = time.perf_counter()
        for _ in range(args.steps):
            step.run()
        if on_gpu:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start) / args.steps

    run()
    milliseconds = min(run() for _ in range(3))
    with note_waits(on_gpu) as waits:
        step.run()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, record_shapes=True) as trace:
        run()
    times, rest, launches, attention = Counter(), Counter(), 0, Counter()
    for event in trace.events():
        if event.device_type != DeviceType.CPU:
            continue  # what a kernel took is with the operation that started it, too
        kernels = [one for one in event.kernels if one.name != event.name]  # a named region is one of its own
        launches += len(kernels)
        spent = sum(one.duration for one in kernels) if on_gpu else event.self_cpu_time_total
        spent /= 1000 * args.steps
        group = find_group(event)
        times[group] += spent
        rest[event.name] += spent if group == "rest" else 0
        if found := re.fullmatch(r"aten::_scaled_dot_product_(?!.*backward)(\w+)", event.name):
            attention[found[1]] += 1
    busy = sum(times.values())
    shares = {"idle": max(0.0, 1 - busy / milliseconds)} | {name: times[name] / busy for name in NAMES[1:]}
    return {
        "ms": milliseconds, "shares": shares, "rest": [name for name, _ in rest.most_common(5)], "waits": dict(waits),
        "launches": launches / args.steps, "implementation": step.model.config._attn_implementation,
        "attention": {name: count // args.steps for name, count in attention.items()},
    }  # fmt: skip


def name_region(owner, method: str) -> None:
    """What `owner.method` calls is of the loss."""
    call = getattr(owner, method)

    def called(*args, **kwargs):
        with record_function("loss"):
            return call(*args, **kwargs)

    setattr(owner, method, called)


def find_group(event) -> str:
    caller = event
    while caller is not None:
        if LOSS.search(caller.name):
            return "loss"
        if caller.name.startswith("Optimizer.") or "_foreach_" in caller.name or "_fused_adam" in caller.name:
            return "optimiser"
        caller = caller.cpu_parent
    shapes = [shape for shape in event.input_shapes or () if len(shape) == 4]
    name = next((name for name, pattern in GROUPS.items() if re.search(pattern, event.name)), "rest")
    if name == "resizing" and shapes and shapes[0][1] == CITYSCAPES.num_labels:  # of the stock model's own loss
        return "loss"
    if name == "convolutions" and any(shape[0] > 1 == shape[1] and shape[2] > 1 for shape in shapes):
        return "depthwise convolutions"
    is_cast = name == "layout copies" and event.cpu_parent is not None and event.cpu_parent.name == "aten::_to_copy"
    return "casts" if is_cast else name


@contextmanager
def note_waits(on_gpu: bool) -> Iterator[Counter]:
    """Counts the lines of Python that wait for the device inside the `with`."""
    if not on_gpu:
        with NumbersRead() as read:
            yield read.lines
        return
    lines = Counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield lines
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [one for one in said if "called a synchronizing" in str(one.message)]
    lines.update(f"{shorten(one.filename)}:{one.lineno}" for one in found)


class NumbersRead(TorchDispatchMode):
    """On a CPU: the lines that read one number of a tensor, which a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.lines = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            frame = sys._getframe(1)
            while "/torch/" in frame.f_code.co_filename:
                frame = frame.f_back
            self.lines[f"{shorten(frame.f_code.co_filename)}:{frame.f_lineno}"] += 1
        return func(*args, **(kwargs or {}))


def shorten(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


if __name__ == "__main__":
    main()
