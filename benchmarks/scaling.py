"""How costs grow: with processes, with the size of images, batch and classes, and with the images of an evaluation.

    OMP_NUM_THREADS=2 python benchmarks/scaling.py --figure scaling.png      # B0
    OMP_NUM_THREADS=2 python benchmarks/scaling.py --quick                   # tiny, small crops: about a minute
    python benchmarks/scaling.py --device cuda --precision bf16 --processes 1 2 4 --parts processes

Processes: steps of UrbanSegTrainer started by torchrun (gloo; NCCL on GPUs, one for each process). On a CPU each has an
equal share of this process's threads. `same batch` divides the batch of one process, `batch each` gives it to every
process. Speed-up is over one process with all threads or a share of them, whichever is faster; efficiency is over as
many processes as there are, each as fast as one that has its share of the cores and no others beside it, with the same
crops per process. The gradients of one step over the same samples are compared in fp64, without random masks and with
fixed BatchNorm statistics.

Steps: forward, loss, backward and AdamW, stock transformers and ours (steps.py); one of crop, batch and classes changes
at a time. Peak memory is what a step takes beside model and batch, from a process of its own. Fits are by least squares
of relative errors: a line, and an exponent, the slope of log(cost) over log(size), which is 1 without any fixed cost.
On a CPU they are of the cores' time.

Evaluation: what evaluate.py does with rendered frames, few and many; memory from a process of its own.

Everything timed is measured in turn, several rounds after one that warms up; medians with their range. Speed-ups,
efficiencies and fits are of the fastest, which other programs on the machine disturb least. (Where there are any, give
it fewer threads than cores: an operation that is split among threads waits for the last of them.)
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from evaluation import build_rows
from measuring import describe_environment, in_own_process, measure_growth, read_status, show_environment, spread
from scaling_figure import draw
from scaling_processes import measure_processes
from steps import Step

from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.inference.evaluation import build_eval_loader, measure
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX, LabelSpace
from hf_urbanseg.losses.build import build_loss
from hf_urbanseg.models.build import SIZES, build_image_processor, build_random_model
from hf_urbanseg.models.decode_head import apply_fast_decode_head

PARTS = ("processes", "steps", "evaluation")
VARIANTS = ("stock", "ours")
AXES = ("crop", "batch_size", "classes")
QUICK = {
    "size": "tiny", "rounds": 3, "crop": (128, 128), "crops": ["64x128", "128x128", "128x256", "256x256"],
    "batch_sizes": [1, 2, 4], "class_counts": [2, 19, 64], "images": [4, 8, 16], "eval_size": (96, 320),
    "train_batch_size": 4, "launches": 1,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--size", default="b0", choices=list(SIZES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="bf16: by autocast")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--train_batch_size", type=int, default=4, help="of one process, in the part `processes`")
    parser.add_argument("--crop", type=int, nargs=2, default=(256, 512), help="where another size changes")
    parser.add_argument("--batch_size", type=int, default=2, help="where another size changes")
    parser.add_argument("--crops", nargs="+", default=["256x256", "256x512", "512x512", "512x1024"])
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--class_counts", type=int, nargs="+", default=[2, 19, 64, 150])
    parser.add_argument("--images", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--eval_size", type=int, nargs=2, default=(384, 1248), help="what frames are resized to")
    parser.add_argument("--launches", type=int, default=3, help="of each number of processes, in turn")
    parser.add_argument("--steps", type=int, default=5, help="timed per launch and batch")
    parser.add_argument("--rounds", type=int, default=5, help="of the other parts")
    parser.add_argument("--no_memory", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a small model and sizes, three rounds")
    parser.add_argument("--output", help="JSON file for the numbers")
    parser.add_argument("--figure", help="picture of the numbers")
    if "--quick" in sys.argv:
        parser.set_defaults(**QUICK)
    args = parser.parse_args()
    args.crop, args.task, args.seed = tuple(args.crop), "train", 0

    report = {"arguments": vars(args), "environment": describe_environment(args.device)}
    print(f"{args.size}, {args.precision}, {args.rounds} rounds, {show_environment(report['environment'])}", flush=True)
    work = {"processes": measure_processes, "steps": measure_steps, "evaluation": measure_evaluation}
    for part in args.parts:
        report[part] = work[part](args)
        if args.output:
            Path(args.output).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.figure:
        draw(report, args.figure)


# Steps


class ScaledStep(Step):
    """`Step` with any number of classes."""

    def __init__(self, args, kind: str):
        self.args, self.own_loss = args, kind == "ours"
        torch.manual_seed(args.seed)
        names = tuple(f"class {number}" for number in range(args.classes))
        space = LabelSpace("any", names, ((0, 0, 0),) * args.classes, {n: n for n in range(args.classes)})
        self.model = build_random_model(args.size, space).train().to(args.device)
        torch.nn.init.normal_(self.model.decode_head.classifier.weight, std=0.3)
        if kind == "ours":
            apply_fast_decode_head(self.model)
        self.call, self.loss = self.model, build_loss("cross_entropy", args.classes)
        self.pixel_values = torch.randn(args.batch_size, 3, *args.crop).to(args.device)
        labels = torch.randint(0, args.classes, (args.batch_size, *(side // 8 for side in args.crop)))
        labels[:, :2] = IGNORE_INDEX
        self.labels = labels.repeat_interleave(8, 1).repeat_interleave(8, 2).to(args.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)


def measure_steps(args) -> dict:
    crops = [tuple(int(side) for side in text.split("x")) for text in args.crops]
    values = {"crop": crops, "batch_size": args.batch_sizes, "classes": args.class_counts}
    base = {"crop": args.crop, "batch_size": args.batch_size, "classes": CITYSCAPES.num_labels}
    cells = {axis: [base | {axis: value} for value in values[axis]] for axis in AXES}
    keys = {(kind, *cell.values()): cell for axis in AXES for cell in cells[axis] for kind in VARIANTS}
    steps = {key: ScaledStep(settle(args, cell), key[0]) for key, cell in keys.items()}
    found = {key: {"seconds": [], "cpu_seconds": []} for key in keys}
    for turn in range(args.rounds + 1):  # the first warms up
        for key in list(keys)[:: -1 if turn % 2 else 1]:
            start, cpu = time.perf_counter(), time.process_time()
            steps[key].run()
            if "cuda" in args.device:
                torch.cuda.synchronize()
            if turn:
                found[key]["seconds"].append(time.perf_counter() - start)
                found[key]["cpu_seconds"].append(time.process_time() - cpu)
    del steps
    for key, cell in keys.items():
        if not args.no_memory:
            work = (measure_peak, settle(args, cell), key[0])
            found[key]["peak_mb"] = work[0](*work[1:]) if "cuda" in args.device else in_own_process(*work)
    result = {}
    for axis in AXES:
        result[axis] = {kind: [{**cell, **found[(kind, *cell.values())]} for cell in cells[axis]] for kind in VARIANTS}
        result[axis]["fits"] = {kind: fit(args, axis, result[axis][kind]) for kind in VARIANTS}
        print_axis(axis, result[axis])
    return result


def settle(args, cell: dict) -> argparse.Namespace:
    return argparse.Namespace(**vars(args) | cell)


def measure_peak(args, kind: str) -> float:
    return measure_growth(ScaledStep(args, kind).run, args.device)


def size_of(axis: str, row: dict) -> float:
    return row["crop"][0] * row["crop"][1] if axis == "crop" else row[axis]


def fit(args, axis: str, rows: list[dict]) -> dict:
    """Of time and memory over pixels, batch or classes."""
    sizes = np.array([size_of(axis, row) for row in rows], float)
    clock = "seconds" if "cuda" in args.device else "cpu_seconds"
    costs = {"seconds": [min(row[clock]) for row in rows]}
    if "peak_mb" in rows[0]:
        costs["peak_mb"] = [row["peak_mb"] for row in rows]
    found = {}
    for name, cost in costs.items():
        line = np.polyfit(sizes, cost, 1, w=1 / np.array(cost))
        found[name] = {
            "slope": float(line[0]),
            "start": float(line[1]),
            "residual": float(np.abs(np.polyval(line, sizes) / cost - 1).max()),
            "exponent": float(np.polyfit(np.log(sizes), np.log(cost), 1)[0]),
        }
    return found


def print_axis(axis: str, found: dict) -> None:
    print(
        f"\n{axis.replace('_', ' '):<14}{'stock s':>22}{'ours s':>22}{'stock / ours':>20}{'stock MB':>10}"
        f"{'ours MB':>9}{'less':>6}{'cpu us/pixel: stock':>21}{'ours':>8}"
    )
    for stock, ours in zip(found["stock"], found["ours"], strict=True):
        ratios = [theirs / own for theirs, own in zip(stock["seconds"], ours["seconds"], strict=True)]
        value = "{}x{}".format(*stock["crop"]) if axis == "crop" else str(stock[axis])
        pixels = stock["batch_size"] * stock["crop"][0] * stock["crop"][1]
        each = [1e6 * min(row["cpu_seconds"]) / pixels for row in (stock, ours)]
        memory = [row.get("peak_mb", float("nan")) for row in (stock, ours)]
        print(
            f"{value:<14}{spread(stock['seconds']):>22}{spread(ours['seconds']):>22}{spread(ratios, 2):>20}"
            f"{memory[0]:>10.0f}{memory[1]:>9.0f}{memory[0] / memory[1]:>6.2f}{each[0]:>21.2f}{each[1]:>8.2f}"
        )
    unit = {"crop": "1000 pixels", "batch_size": "image", "classes": "class"}[axis]
    for kind in VARIANTS:
        for name, one in found["fits"][kind].items():
            what, scale, of = ("time", 1e3, "ms") if name == "seconds" else ("memory", 1, "MB")
            slope = scale * one["slope"] * (1000 if axis == "crop" else 1)
            print(
                f"  {kind}, {what}: {scale * one['start']:.0f} {of} + {slope:.3g} {of} per {unit}, off by "
                f"{one['residual']:.0%} at most" + (f"; exponent {one['exponent']:.2f}" if axis != "classes" else ""),
                flush=True,
            )


# Evaluation


def measure_evaluation(args) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        rows = build_rows(None, max(args.images), Path(folder))
        prepare_evaluation(args, rows, min(args.images))()
        times = {count: [] for count in args.images}
        for turn in range(args.rounds):
            for count in args.images[:: -1 if turn % 2 else 1]:
                evaluate = prepare_evaluation(args, rows, count)
                start = time.perf_counter()
                evaluate()
                times[count].append((time.perf_counter() - start) / count)
        memory = {} if args.no_memory else {n: in_own_process(measure_eval_memory, args, rows, n) for n in args.images}
    print(f"\n{'images':<10}{'s / image':>24}{'grows by MB':>14}{'resident MB':>14}")
    for count in args.images:
        grown, resident = memory.get(count, (float("nan"),) * 2)
        print(f"{count:<10}{spread(times[count], 4):>24}{grown:>14.0f}{resident:>14.0f}")
    sizes, medians = np.log(args.images), np.log([min(times[n]) * n for n in args.images])
    exponent = float(np.polyfit(sizes, medians, 1)[0])
    print(f"  time of a whole evaluation: exponent {exponent:.2f}", flush=True)
    rows = [{"images": n, "seconds_per_image": times[n], "memory_mb": memory.get(n)} for n in args.images]
    return {"rows": rows, "exponent": exponent}


def prepare_evaluation(args, rows, count: int) -> Callable[[], object]:
    dataset = EvalDataset(rows.select(range(count)), CITYSCAPES, build_image_processor(tuple(args.eval_size)))
    torch.manual_seed(0)
    model = build_random_model(args.size, CITYSCAPES).eval().to(args.device)
    apply_fast_decode_head(model)
    loader = build_eval_loader(dataset, 4, 2, device=args.device)
    return lambda: measure(model, loader, dataset.names, CITYSCAPES.names, device=args.device, boundary=True)


def measure_eval_memory(args, rows, count: int) -> tuple[float, float]:
    """MB that it grows by at most, and MB resident at the end."""
    return measure_growth(prepare_evaluation(args, rows, count), args.device), read_status("VmRSS")


if __name__ == "__main__":
    main()
