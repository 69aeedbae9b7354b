"""Whether training in half precision with our head and loss goes as stock's, or no farther from it than chance.

    OMP_NUM_THREADS=1 python benchmarks/loss_curves.py --data_dir kitti48 --figure curves.png --output curves.json
    python benchmarks/loss_curves.py --variants stock ours nudged stock_fp32     # controls, see below
    python benchmarks/loss_curves.py --device cuda --size b2 --batch_size 8 --crop 368 368 --scale 1.0
    python benchmarks/loss_curves.py --redraw curves.json --figure curves.png    # of an earlier run

Runs of `--steps` steps from random weights (or `--pretrained`), bf16 by autocast, AdamW with the package's parameter
groups and polynomial schedule, samples from the package's pipeline:

    stock       the model of transformers and its own loss: logits upsampled by F.interpolate, F.cross_entropy
    ours        the fast decode head and the loss in blocks
    nudged      stock from weights that are changed by a millionth: how far rounding alone drives runs apart
    stock_fp32  stock, ours_fp32 likewise, without autocast
    stock_fp16  stock, ours_fp16 likewise, in fp16 with a gradient scaler, as the Trainer uses it

All runs of a seed have the same weights, samples and dropout masks; another seed changes all of them. Curves are
smoothed by a trailing mean over a tenth of the run. The loss is a mean over labelled pixels, mIoU is of held-out frames
at native size, in fp32, by the variant's own head. With exact arithmetic, ours and stock would draw one curve; rounding
in bf16 differs, and training amplifies it. So their distance for one seed is set against that between seeds of stock.
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import describe_environment, show_environment
from torch.utils.data import DataLoader

from hf_urbanseg.data.collator import collate_train
from hf_urbanseg.data.decoded_cache import DecodedCache
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.normalization import normalize_batch
from hf_urbanseg.data.preprocessing import EvalDataset, TrainDataset
from hf_urbanseg.data.sampling import EpochSampler
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.inference.evaluation import build_eval_loader, measure
from hf_urbanseg.losses.build import build_loss
from hf_urbanseg.metrics.mean_iou import compute_scores
from hf_urbanseg.models.build import (
    SIZES,
    build_image_processor,
    build_random_model,
    load_pretrained_model,
)
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.sizes import choose_eval_size
from hf_urbanseg.optim import build_parameter_groups, build_polynomial_schedule

VARIANTS = ("stock", "ours", "nudged", "stock_fp32", "ours_fp32", "stock_fp16", "ours_fp16")
HUES = ("#c0392b", "#1f5fa8", "#e08e0b", "#7f7f7f", "#2a9d8f", "#8c564b", "#9467bd")
COLORS = dict(zip(VARIANTS, HUES, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="frames to train on; default: rendered streets")
    parser.add_argument("--keep_together", nargs="+", help="comma-separated frames that must not be split")
    parser.add_argument("--validation_fraction", type=float, default=0.25)
    parser.add_argument("--size", default="b0", choices=list(SIZES))
    parser.add_argument("--pretrained", help="Hub id or folder in place of random weights")
    parser.add_argument("--crop", type=int, nargs=2, default=(128, 256), help="height and width")
    parser.add_argument("--scale", default="0.5", help="of the frames, before the crop")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--warmup_steps", type=int, default=50)
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="of the encoder; the head's is ten times it")
    parser.add_argument("--weight_decay", type=float, default=0.01)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=["stock", "ours"], choices=VARIANTS)
    parser.add_argument("--reference", default="stock", choices=VARIANTS, help="that the others are compared with")
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", help="JSON file for the numbers, written after every run")
    parser.add_argument("--figure", help="picture of the curves")
    parser.add_argument("--redraw", help="print and draw this JSON file instead of training")
    args = parser.parse_args()
    args.crop = tuple(args.crop)

    if args.redraw:
        report = json.loads(Path(args.redraw).read_text(encoding="utf-8"))
    else:
        report = {"arguments": vars(args), "environment": describe_environment(args.device), "runs": []}
        train_all(args, report)
    reference = report["arguments"].get("reference", "stock")
    report["comparison"] = compare(report["runs"], reference)
    report["table"] = build_table(report, reference)
    print_tables(report)
    if args.output:
        write(report, args.output)
    if args.figure:
        draw(report, args.figure)


def write(report: dict, path: str) -> None:
    Path(path).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def train_all(args, report: dict) -> None:
    source = {"data_dir": args.data_dir} if args.data_dir else {"dataset": "synthetic"}
    data = load_data(
        **source,
        keep_together=args.keep_together,
        test_fraction=0.0,
        validation_fraction=args.validation_fraction,
    )
    train, validation = data.splits["train"], data.splits["validation"]
    sizes = [(row["image"].height, row["image"].width) for row in train]
    cache = DecodedCache(train, data.label_space, sizes)
    scaled = tuple(int(side * float(args.scale)) for side in sizes[0])
    processor = build_image_processor(choose_eval_size({scaled: 1}))
    report["data"] = f"{data.name}: {len(train)} frames to train on, {len(validation)} held out"
    held_out = EvalDataset(validation, data.label_space, processor)
    for seed, variant in itertools.product(args.seeds, args.variants):
        run = {"variant": variant, "seed": seed, **train_one(args, data, cache, variant, seed, held_out)}
        report["runs"].append(run)
        print(
            f"{variant:<11} seed {seed}: loss {run['losses'][0]:.3f} -> {run['final_loss']:.4f}, mIoU "
            f"{100 * run['mean_iou']:.2f} %, {run['seconds']:.0f} s",
            flush=True,
        )
        if args.output:
            write(report, args.output)


def train_one(args, data: LoadedData, cache: DecodedCache, variant: str, seed: int, held_out: EvalDataset) -> dict:
    device = args.device.split(":")[0]
    dtype = {"fp32": None, "fp16": torch.float16}.get(variant.partition("_")[2], torch.bfloat16)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    ours, classes = variant.startswith("ours"), data.label_space.num_labels
    model = build_model(args, data, variant, seed)
    if ours:
        apply_fast_decode_head(model)
    loss_function = build_loss("cross_entropy", classes)
    groups = build_parameter_groups(model, args.learning_rate, 10.0, args.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    schedule = build_polynomial_schedule(optimizer, args.steps, args.warmup_steps)
    losses, start = [], time.perf_counter()
    torch.manual_seed(seed)  # of dropout; samples have generators of their own
    for batch in itertools.islice(load_batches(args, data, cache, seed), args.steps):
        batch = normalize_batch({key: value.to(args.device) for key, value in batch.items()})
        pixel_values, labels = batch["pixel_values"], batch["labels"]
        optimizer.zero_grad()
        with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            if ours:
                loss = sum(loss_function(model(pixel_values=pixel_values), labels).values())
            else:
                loss = model(pixel_values=pixel_values, labels=labels).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scale = scaler.get_scale()
        scaler.update()
        if scaler.get_scale() >= scale:  # else it has skipped the step
            schedule.step()
        losses.append(loss.detach())
    losses = torch.stack(losses).tolist()
    seconds = time.perf_counter() - start
    loader = build_eval_loader(held_out, 4, device=args.device)
    matrix = measure(model, loader, held_out.names, data.label_space.names, device=args.device).matrix
    mean_iou = compute_scores(matrix)["mean_iou"]
    return {"losses": losses, "final_loss": float(smooth(losses)[-1]), "mean_iou": mean_iou, "seconds": seconds}


def build_model(args, data: LoadedData, variant: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    if args.pretrained:
        model = load_pretrained_model(args.pretrained, data.label_space)
    else:
        model = build_random_model(args.size, data.label_space)
    if variant == "nudged":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 1 + 1e-6 * torch.randn_like(parameter)
    return model.to(args.device).train()


def load_batches(args, data: LoadedData, cache: DecodedCache, seed: int):
    transforms = build_train_transforms(args.crop, [args.scale])
    dataset = TrainDataset(data.splits["train"], data.label_space, transforms, seed, cache)
    sampler = EpochSampler(len(dataset), args.batch_size, seed)
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from DataLoader(
            dataset, args.batch_size, sampler=sampler, num_workers=args.num_workers, collate_fn=collate_train,
            generator=torch.Generator().manual_seed(seed),  # starting must not draw from dropout's
        )  # fmt: skip


def smooth(losses: list[float]) -> np.ndarray:
    """Means over a tenth of the run: value i is of the steps i .. i + window - 1."""
    window = max(1, len(losses) // 10)
    sums = np.cumsum(np.concatenate([[0.0], losses]))
    return (sums[window:] - sums[:-window]) / window


def compare(runs: list[dict], reference: str) -> dict:
    """Distances of smoothed curves to the reference's of the same seed, and between the seeds of that."""
    curves = {(run["variant"], run["seed"]): smooth(run["losses"]) for run in runs}
    raw = {(run["variant"], run["seed"]): run for run in runs}
    seeds = sorted({seed for variant, seed in curves if variant == reference})
    couples = itertools.combinations(seeds, 2)
    pairs = {f"between seeds of {reference}": [((reference, a), (reference, b)) for a, b in couples]}
    for variant in dict.fromkeys(run["variant"] for run in runs if run["variant"] != reference):
        pairs[f"{variant} - {reference}"] = [((variant, s), (reference, s)) for s in seeds if (variant, s) in curves]
    found = {}
    for name, ones in pairs.items():
        gaps = [curves[own] - curves[other] for own, other in ones]
        if not gaps:
            continue
        found[name] = {
            "largest": [float(np.abs(gap).max()) for gap in gaps],
            "mean": [float(np.abs(gap).mean()) for gap in gaps],
            "final": [float(gap[-1]) for gap in gaps],
            "first_step": [raw[own]["losses"][0] - raw[other]["losses"][0] for own, other in ones],
            "mean_iou": [raw[own]["mean_iou"] - raw[other]["mean_iou"] for own, other in ones],
            "pairs": [[list(own), list(other)] for own, other in ones],
        }
    return found


def print_tables(report: dict) -> None:
    arguments, runs = report["arguments"], report["runs"]
    height, width = arguments["crop"]
    print(
        f"{arguments['pretrained'] or arguments['size'] + ' from random weights'}, {arguments['steps']} steps, batch "
        f"{arguments['batch_size']} of {height}x{width}, {report['data']}, "
        f"{show_environment(report['environment'])}"
    )
    print(f"\n{'final loss':<12}" + header(report) + f"{'mIoU %':>16}" + header(report) + f"{'s / run':>12}")
    for variant in dict.fromkeys(run["variant"] for run in runs):
        own = [run for run in runs if run["variant"] == variant]
        losses, scores = [run["final_loss"] for run in own], [100 * run["mean_iou"] for run in own]
        seconds = statistics.median(run["seconds"] for run in own)
        print(f"{variant:<12}" + cells(losses, 4) + f"{'':>16}" + cells(scores, 2) + f"{seconds:>12.0f}")
    print(f"\n{'smoothed curves':<24}{'largest distance':>30}{'mean distance':>30}{'first step':>12}"
          f"{'final, signed':>24}{'mIoU, points':>20}")  # fmt: skip
    for name, found in report["comparison"].items():
        print(
            f"{name:<24}{several(found['largest']):>30}{several(found['mean']):>30}"
            f"{max(map(abs, found['first_step'])):>12.1e}{mean_and_deviation(found['final'], 4):>24}"
            f"{mean_and_deviation([100 * value for value in found['mean_iou']], 2):>20}"
        )
    between = next((found for name, found in report["comparison"].items() if name.startswith("between")), None)
    if between and between["largest"]:
        for name, found in report["comparison"].items():
            if found is not between:
                ratio = max(found["largest"]) / max(between["largest"])
                print(f"largest distance, {name} over between seeds: {ratio:.2f}")


def build_table(report: dict, reference: str) -> dict:
    """For docs/speed.md."""
    arguments, runs, rows = report["arguments"], report["runs"], []
    what = f"{arguments['size'].upper()}, {arguments['steps']} steps, {len(arguments['seeds'])} seeds"
    for name in dict.fromkeys(run["variant"] for run in runs):
        own = [run for run in runs if run["variant"] == name]
        distance = report["comparison"].get(f"{name} - {reference}", {}).get("largest", [])
        columns = [run["final_loss"] for run in own], [100 * run["mean_iou"] for run in own], distance
        rows.append([what, name, *(f"{statistics.mean(one):.4f}" if one else "" for one in columns)])
    between = report["comparison"].get(f"between seeds of {reference}", {}).get("largest", [])
    rows.append([what, "between seeds", "", "", f"{statistics.mean(between):.4f}" if between else ""])
    return {"head": ["loss curves", "", "final loss", "mIoU, %", f"largest distance to {reference}"], "rows": rows}


def header(report: dict) -> str:
    seeds = dict.fromkeys(run["seed"] for run in report["runs"])
    return "".join(f"{f'seed {seed}':>9}" for seed in seeds) + f"{'mean +- sd':>18}"


def cells(values: list[float], digits: int) -> str:
    return "".join(f"{value:>9.{digits}f}" for value in values) + f"{mean_and_deviation(values, digits):>18}"


def several(values: list[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def mean_and_deviation(values: list[float], digits: int) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} +- {deviation:.{digits}f}"


def draw(report: dict, path: str) -> None:
    figure = Figure(figsize=(12, 4.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    runs, arguments = report["runs"], report["arguments"]
    curves = {(run["variant"], run["seed"]): smooth(run["losses"]) for run in runs}
    window = arguments["steps"] - len(next(iter(curves.values()))) + 1
    labelled = set()
    for (variant, _), curve in curves.items():
        label = None if variant in labelled else variant.replace("_", ", ")
        labelled.add(variant)
        dashed = "-" if variant == "stock" else (0, (4, 2))
        steps = np.arange(window, window + len(curve))
        left.plot(steps, curve, color=COLORS[variant], linewidth=1.2, linestyle=dashed, label=label)
    left.set_ylabel(f"training loss, mean of {window} steps")
    left.set_title(f"training loss, {len({run['seed'] for run in runs})} seeds")
    for name, found in report["comparison"].items():
        color = COLORS.get(name.split(" - ")[0], "#b0b0b0")
        for number, (own, other) in enumerate(found["pairs"]):
            gap = np.abs(curves[tuple(own)] - curves[tuple(other)])
            steps = np.arange(window, window + len(gap))
            label = name.replace("_", ", ").replace(" - ", " and ") + ("" if "between" in name else ", same seed")
            right.plot(steps, gap, color=color, linewidth=1.2, label=None if number else label)
    right.set_ylabel("distance of smoothed curves")
    right.set_yscale("log")
    right.set_title("how far apart they are")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_xlim(0, arguments["steps"])
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        # Below, where no curve can be hidden.
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    height, width = arguments["crop"]
    figure.suptitle(
        f"{arguments['pretrained'] or arguments['size'].upper()}, batch {arguments['batch_size']} of "
        f"{height}x{width}; {report['data']}; in bf16 where nothing is said"
    )
    figure.savefig(path)


if __name__ == "__main__":
    main()
