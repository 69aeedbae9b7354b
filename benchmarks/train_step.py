"""What a training step costs: our decode head and block-wise loss against stock transformers, in turn.

    OMP_NUM_THREADS=2 python benchmarks/train_step.py                       # B2, batch 2 of 512x512, fp32
    python benchmarks/train_step.py --size b0 --batch_size 8 --crop 512 1024
    python benchmarks/train_step.py --device cuda --precision bf16 --batch_size 16 --crop 512 1024 --compile
    python benchmarks/train_step.py --forward --crop 384 1280 --batch_size 1   # predicting instead: pixels to logits

A step is forward, loss, backward on one batch that is in memory already; no optimiser. `stock` upsamples the logits and
takes torch's cross-entropy. `head` is our decode head with that same loss; `ours` also has our loss. All are copies of
one model with random weights, and run in turn in every round, each from the same seed; the first round warms up and is
compared: the largest difference between an image's logits, and between gradients, relative to the tensor's largest
value (those that are zero by mathematics left out). Ratios are medians over rounds of stock's time over the variant's
in the same round, with the range, and the ratio of the fastest rounds, which other programs on the machine disturb
least. Peak memory is of a process of its own for each variant on CPU (less what it holds before the step), and what the
allocator handed out on CUDA.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX
from hf_urbanseg.losses.cross_entropy import CrossEntropyLoss
from hf_urbanseg.models.build import SIZES, build_random_model
from hf_urbanseg.models.decode_head import apply_fast_decode_head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="b2", choices=list(SIZES))
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 512), help="height and width")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="bf16: by autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--forward", action="store_true", help="predict instead of train")
    parser.add_argument("--compile", action="store_true", help="also each variant with torch.compile (minutes)")
    parser.add_argument("--variants", nargs="+", help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the numbers")
    args = parser.parse_args()
    args.threads = torch.get_num_threads()

    kinds = ["stock", "head"] if args.forward else ["stock", "head", "ours"]
    kinds += [f"{kind} compiled" for kind in kinds] if args.compile else []
    kinds = [kind for kind in kinds if kind == "stock" or not args.variants or kind in args.variants]
    load = os.getloadavg()
    results = measure_times(args, kinds)
    context = multiprocessing.get_context("spawn")
    for kind in kinds:
        if args.device.startswith("cuda"):
            results[kind]["peak_mb"] = measure_peak(args, kind)
        elif Path("/proc/self/clear_refs").exists():
            # Processes of their own: a process that has freed memory doesn't show what it takes again.
            with context.Pool(1) as pool:
                results[kind]["peak_mb"] = pool.apply(measure_peak, (args, kind))
    environment = {
        "machine": describe_machine(args.device), "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "threads": args.threads,
        "load_average": {"before": load, "after": os.getloadavg()},
    }  # fmt: skip
    print_table(args, results, environment)
    if args.output:
        report = {"arguments": vars(args), "environment": environment, "results": results}
        Path(args.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


class Step:
    """One variant of the step with its own copy of the model."""

    def __init__(self, args, kind: str):
        self.args, self.kind = args, kind
        torch.manual_seed(args.seed)
        model = build_random_model(args.size, CITYSCAPES).train(not args.forward)
        # Away from the first BatchNorm statistics and small weights, with which logits are hardly more than zero.
        torch.nn.init.normal_(model.decode_head.classifier.weight, std=0.3)
        self.model = model.to(args.device)
        if not kind.startswith("stock"):
            apply_fast_decode_head(self.model)
        self.call = torch.compile(self.model) if kind.endswith("compiled") else self.model
        self.loss = CrossEntropyLoss(CITYSCAPES.num_labels)
        shape = (args.batch_size, 3, *args.crop)
        self.pixel_values = torch.randn(shape).to(args.device)
        labels = torch.randint(0, CITYSCAPES.num_labels, (args.batch_size, *(side // 8 for side in args.crop)))
        labels[:, :2] = IGNORE_INDEX
        self.labels = F.interpolate(labels[:, None].float(), args.crop)[:, 0].long().to(args.device)

    def run(self) -> Tensor:
        args = self.args
        torch.manual_seed(args.seed)
        self.model.zero_grad()
        cast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.precision == "bf16")
        with torch.set_grad_enabled(not args.forward), cast:
            logits = self.call(pixel_values=self.pixel_values).logits
        if not args.forward:
            self.compute_loss(logits).backward()
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        return logits.detach()

    def compute_loss(self, logits: Tensor) -> Tensor:
        if self.kind.startswith("ours"):
            return self.loss(logits, self.labels)
        logits = F.interpolate(logits.float(), self.labels.shape[1:], mode="bilinear", align_corners=False)
        return F.cross_entropy(logits, self.labels, ignore_index=IGNORE_INDEX)


def measure_times(args, kinds: list[str]) -> dict:
    steps = {kind: Step(args, kind) for kind in kinds}
    results = {kind: {"seconds": [], "cpu_seconds": []} for kind in kinds}
    expected = None
    for turn in range(args.rounds + 1):  # the first warms up
        for kind in kinds[:: -1 if turn % 2 else 1] if turn else kinds:
            start, cpu = time.perf_counter(), time.process_time()
            logits = steps[kind].run()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            if turn:
                results[kind]["seconds"].append(seconds)
                results[kind]["cpu_seconds"].append(cpu)
                continue
            gradients = {
                name: one.grad.clone() for name, one in steps[kind].model.named_parameters() if not args.forward
            }
            expected = expected or (logits, gradients)
            results[kind]["logit_difference"] = relative(logits, expected[0])
            results[kind]["gradient_difference"] = compare(gradients, expected[1])
    return results


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float | None:
    size = max((float(one.abs().max()) for one in expected.values()), default=0)
    return max(
        (relative(found[name], one) for name, one in expected.items() if one.abs().max() > 1e-5 * size), default=None
    )


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def measure_peak(args, kind: str) -> float:
    """MB that a step takes beside weights and input."""
    torch.set_num_threads(args.threads)
    step = Step(args, kind)
    if args.device.startswith("cuda"):
        step.run()
        step.model.zero_grad()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step.run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = read_status("VmRSS")
    # Forgets the peak of loading. (ru_maxrss can't, and a spawned process inherits its parent's.)
    Path("/proc/self/clear_refs").write_text("5")
    step.run()
    return read_status("VmHWM") - before


def read_status(key: str) -> float:
    """MB from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def describe_machine(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def print_table(args, results: dict, environment: dict) -> None:
    height, width = args.crop
    what = "forward pass" if args.forward else "training step"
    before, after = (load[0] for load in environment["load_average"].values())
    print(
        f"{what}, {args.size}, batch {args.batch_size} of {height}x{width}, {args.precision}, {args.rounds} rounds, "
        f"{environment['machine']}, {environment['threads']} threads, load {before:.1f}..{after:.1f}, "
        f"torch {environment['torch']}, transformers {environment['transformers']}"
    )
    heads = ("seconds (range)", "cpu s", "images/s", "stock / it (range)", "fastest", "peak MB", "logits", "gradients")
    print("{:<15}{:>23}{:>8}{:>10}{:>20}{:>9}{:>9}{:>10}{:>11}".format("", *heads))
    stock = results["stock"]
    for kind, result in results.items():
        wall = result["seconds"]
        ratios = [theirs / own for theirs, own in zip(stock["seconds"], wall, strict=True)]
        result["ratio"], result["ratio_of_fastest"] = ratios, min(stock["seconds"]) / min(wall)
        result["memory_ratio"] = stock["peak_mb"] / result["peak_mb"] if "peak_mb" in result else None
        speed, gradients = args.batch_size / statistics.median(wall), result["gradient_difference"]
        print(
            f"{kind:<15}{spread(wall):>23}{min(result['cpu_seconds']):>8.2f}"
            f"{speed:>10.2f}{spread(ratios, 2):>20}{result['ratio_of_fastest']:>9.2f}"
            f"{result.get('peak_mb', float('nan')):>9.0f}{result['logit_difference']:>10.1e}"
            + ("" if gradients is None else f"{gradients:>11.1e}")
        )


def spread(values: list[float], digits: int = 3) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}..{high})"


if __name__ == "__main__":
    main()
