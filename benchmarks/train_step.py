"""What a training step costs, ours and others', in turn: time, memory, share of what the machine could do.

    OMP_NUM_THREADS=2 python benchmarks/train_step.py                       # B2, batch 2 of 512x512, fp32
    python benchmarks/train_step.py --size b0 --batch_size 8 --crop 512 1024
    python benchmarks/train_step.py --size b0 --peers     # also trainers, transformers' example, MMSegmentation
    python benchmarks/train_step.py --task logits --crop 384 1280 --batch_size 1    # a forward pass instead
    python benchmarks/train_step.py --task classes --size b0 --peers                # pixels to classes at full size
    python benchmarks/train_step.py --device cuda --precision bf16 --batch_size 16 --crop 512 1024 \
      --levers fused channels_last "compiled fused" "compiled reduce-overhead fused"    # one by one; see steps.py

A step is forward, loss, backward and AdamW on one batch that is in memory already. `stock` upsamples the logits and
takes torch's cross-entropy; `fast head` is our decode head with that same loss; `ours` also has our loss; the trainers
are a step of transformers.Trainer on the model's own loss and of UrbanSegTrainer, with clipping; the others are named
in steps.py. All have the same random weights (MMSegmentation another decoder), and run in turn in every round, each
from the same seed; the first round warms up and is compared: the largest difference between logits and between
gradients, relative to the tensor's largest value (those that are zero by mathematics left out; in fp64 tests compare
them). On CUDA a round is of `--steps` steps, with one wait for the device at its end, and as many warm up.

Ratios are medians over rounds of stock's time over the variant's in the same round, with the range, and the ratio of
the fastest rounds, which other programs on the machine disturb least; `it / ours` likewise over ours. Peak memory is of
a process of its own for each variant on CPU (less what it holds before the step), and what the allocator handed out on
CUDA (replayed graphs keep theirs, so that they have none here). `roof` is the time that the variant's own operations
would take at the machine's measured rates (roofline.py), as a share of its time.
"""

import argparse
import copy
import statistics
import time

import torch
from measuring import describe_environment, in_own_process, measure_growth, show_environment, spread, write_report
from roofline import Roofline, measure_rates
from steps import GRAPHS, LOOPS, PEERS, build_step
from torch import Tensor

from hf_urbanseg.models.build import SIZES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="b2", choices=list(SIZES))
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 512), help="height and width")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="bf16: by autocast")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--task", default="train", choices=["train", "logits", "classes"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, help="of a round; default: 20 on CUDA, else 1")
    parser.add_argument("--peers", action="store_true", help="also trainers, the example, MMSegmentation")
    parser.add_argument("--levers", nargs="+", default=[], help="also stock and ours with each; see steps.py")
    parser.add_argument("--variants", nargs="+", help="only these beside `stock`")
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file for the numbers")
    args = parser.parse_args()
    args.crop, args.steps = tuple(args.crop), args.steps or (20 if "cuda" in args.device else 1)

    environment = describe_environment(args.device)
    kinds = choose_kinds(args)
    results = measure_times(args, kinds)
    if not args.no_memory and "cuda" not in args.device:
        for kind in kinds:
            results[kind]["peak_mb"] = in_own_process(measure_peak, args, kind)
    rates = measure_rates(args.device, torch.bfloat16 if args.precision == "bf16" else torch.float32)
    for kind in kinds:
        if "compiled" not in kind:
            results[kind] |= measure_roof(args, kind, rates)
    print_table(args, results, environment, rates)
    rates = dict(zip(("flops_per_second", "bytes_per_second"), rates, strict=True))
    table = build_table(args, results)
    write_report(args, environment, results=results, rates=rates, table=table)


def choose_kinds(args) -> list[str]:
    kinds = [kind for kind in LOOPS if args.task != "logits" or kind != "ours"]  # they differ in the loss alone
    own = "fast head" if args.task == "logits" else "ours"
    kinds += [f"{base} {lever}" for lever in args.levers for base in ("stock", own)]
    if args.peers and args.task != "logits":
        kinds += [kind for kind in PEERS if args.task == "train" or kind == "mmsegmentation"]
    if args.variants:
        kinds = ["stock", *(kind for kind in kinds if kind in args.variants and kind != "stock")]
    if "mmsegmentation" in kinds:
        try:
            build_step(args, "mmsegmentation")
        except ImportError as error:
            print(f"without MMSegmentation ({error}); see steps.py")
            kinds.remove("mmsegmentation")
    return kinds


def measure_times(args, kinds: list[str]) -> dict:
    steps = {kind: build_step(args, kind) for kind in kinds}
    results = {kind: {"seconds": [], "cpu_seconds": []} for kind in kinds}
    expected = None
    for turn in range(args.rounds + 1):  # the first warms up
        for kind in kinds[:: -1 if turn % 2 else 1] if turn else [*kinds]:
            torch.manual_seed(args.seed)
            if turn:
                start, cpu = time.perf_counter(), time.process_time()
                run(args, steps[kind], args.steps)
                results[kind]["seconds"].append((time.perf_counter() - start) / args.steps)
                results[kind]["cpu_seconds"].append((time.process_time() - cpu) / args.steps)
                continue
            try:
                found = run(args, steps[kind])
            except RuntimeError as error:  # out of memory, or what a compiler can't do
                if kind == "stock":
                    raise
                print(f"without {kind}: {str(error).splitlines()[0]}", flush=True)
                kinds.remove(kind)
                del steps[kind], results[kind]
                continue
            gradients = copy.deepcopy(read_gradients(steps[kind].model))
            expected = expected or (found, gradients)
            # MMSegmentation has another decoder and other weights; the others draw dropout in another order.
            if not {"mmsegmentation", "compiled", "channels_last"} & set(kind.split()):
                results[kind] |= compare(args, (found, gradients), expected)
            run(args, steps[kind], args.steps - 1)
    if "cuda" in args.device and not args.no_memory:
        for kind in kinds:
            if not GRAPHS & set(kind.split()):
                results[kind]["peak_mb"] = measure_growth(steps[kind].run, args.device)
    return results


def run(args, step, times: int = 1):
    found = None
    for _ in range(times):
        found = step.run()
    if "cuda" in args.device:
        torch.cuda.synchronize()
    return found


def read_gradients(model) -> dict[str, Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def compare(args, found: tuple, expected: tuple) -> dict:
    result = {}
    if found[0] is not None:
        if args.task == "classes":
            result["other_classes"] = float((found[0] != expected[0]).double().mean())
        else:
            result["logit_difference"] = relative(found[0], expected[0])
    if found[1]:
        size = max(float(one.abs().max()) for one in expected[1].values())
        pairs = ((found[1][name], one) for name, one in expected[1].items() if one.abs().max() > 1e-5 * size)
        result["gradient_difference"] = max(relative(own, other) for own, other in pairs)
    return result


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def measure_peak(args, kind: str) -> float:
    step = build_step(args, kind)
    return measure_growth(step.run, args.device)


def measure_roof(args, kind: str, rates: tuple[float, float]) -> dict:
    step = build_step(args, kind)
    step.run()  # the optimiser's states
    with Roofline(*rates) as roof:
        step.run()
    return {"flops": roof.flops, "bytes": roof.bytes, "roof_seconds": roof.seconds}


def print_table(args, results: dict, environment: dict, rates) -> None:
    height, width = args.crop
    what = {"train": "training step", "logits": "forward to logits", "classes": "forward to classes"}[args.task]
    print(
        f"{what}, {args.size}, batch {args.batch_size} of {height}x{width}, {args.precision}, {args.rounds} rounds, "
        f"{show_environment(environment)}; {rates[0] / 1e9:.0f} GFLOP/s, {rates[1] / 1e9:.1f} GB/s"
    )
    columns = {
        "seconds (range)": 23, "cpu s": 8, "images/s": 10, "stock / it (range)": 20, "fastest": 9, "it / ours": 11,
        "peak MB": 9, "less memory": 13, "GFLOP": 8, "roof": 7,
    }  # fmt: skip
    indent = max(map(len, results)) + 2
    print(" " * indent + "".join(f"{head:>{width}}" for head, width in columns.items()) + "   differences")
    stock, ours = results["stock"], results.get("ours") or results.get("fast head") or results["stock"]
    for kind, result in results.items():
        wall = result["seconds"]
        ratios = [theirs / own for theirs, own in zip(stock["seconds"], wall, strict=True)]
        result["ratio"], result["ratio_of_fastest"] = ratios, min(stock["seconds"]) / min(wall)
        result["over_ours"] = statistics.median(own / best for own, best in zip(wall, ours["seconds"], strict=True))
        result["memory_ratio"] = stock["peak_mb"] / result["peak_mb"] if "peak_mb" in result else None
        result["roof_share"] = result["roof_seconds"] / statistics.median(wall) if "roof_seconds" in result else None
        cells = (
            spread(wall), f"{min(result['cpu_seconds']):.2f}", f"{args.batch_size / statistics.median(wall):.2f}",
            spread(ratios, 2), f"{result['ratio_of_fastest']:.2f}", f"{result['over_ours']:.2f}",
            show(result.get("peak_mb"), ".0f"),
            show(result["memory_ratio"], ".2f"), show(result.get("flops"), ".0f", 1e9),
            show(result["roof_share"], ".0%"),
        )  # fmt: skip
        differences = {key: value for key, value in result.items() if "difference" in key or key == "other_classes"}
        print(
            f"{kind:<{indent}}"
            + "".join(f"{cell:>{width}}" for cell, width in zip(cells, columns.values(), strict=True))
            + "   "
            + ", ".join(f"{key.split('_')[0]} {value:.1e}" for key, value in differences.items())
        )
    print("{0}: {1}, {4} times as fast".format(*build_table(args, results)["rows"][-1]))


def build_table(args, results: dict) -> dict:
    """For docs/speed.md; the last one sets the fastest of ours against the fastest of stock."""
    height, width = args.crop
    what = f"{args.size.upper()}, {args.batch_size} x {height}x{width}, {args.precision}"
    medians = {kind: statistics.median(result["seconds"]) for kind, result in results.items()}
    rows = [
        [what, kind, f"{1000 * medians[kind]:.1f}", f"{args.batch_size / medians[kind]:.0f}",
         f"{medians['stock'] / medians[kind]:.2f}", show(result.get("peak_mb"), ".1f", 1024)]
        for kind, result in results.items()
    ]  # fmt: skip
    loops = [kind for kind in results if kind not in PEERS]
    stock, ours = ([kind for kind in loops if kind.startswith("stock") == is_stock] for is_stock in (True, False))
    if ours:
        stock, ours = (min(kinds, key=medians.get) for kinds in (stock, ours))
        rows.append([what, f"{ours} against {stock}", "", "", f"{medians[stock] / medians[ours]:.2f}", ""])
    title = {"train": "training step", "logits": "pixels to logits", "classes": "pixels to classes"}[args.task]
    return {"head": [title, "", "ms", "images/s", "times stock", "peak GB"], "rows": rows}


def show(value: float | None, form: str, unit: float = 1) -> str:
    return "" if value is None else format(value / unit, form)


if __name__ == "__main__":
    main()
