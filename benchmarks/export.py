"""What an exported SegFormer gains on the stock model in the same runtime, and by lower precision.

    OMP_NUM_THREADS=2 python benchmarks/export.py --size b0 --rounds 41
    OMP_NUM_THREADS=2 python benchmarks/export.py --size b0 --rounds 41 --precisions bf16 int8

`stock` is transformers' own model written by the same exporter, `ours` what `urbanseg export` writes; both have random
weights. Pixels to logits, one image. All candidates take turns in every round, in changing order, so that other work on
the machine meets all of them alike; reported are medians with quartiles, and the ratio of stock's median to each.
"""

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measuring import describe_environment, show_environment

from hf_urbanseg.deployment.network import LogitsNetwork
from hf_urbanseg.deployment.quantisation import quantise
from hf_urbanseg.deployment.writing import write_network
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_random_model
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.exported import SUFFIXES, load_exported


class StockNetwork(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    def forward(self, pixel_values):
        return self.model(pixel_values=pixel_values).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="b0")
    parser.add_argument("--image_size", type=int, nargs=2, default=(384, 1280), help="height and width")
    parser.add_argument("--runtimes", nargs="+", default=("pytorch", "onnx", "openvino"))
    parser.add_argument("--precisions", nargs="*", default=(), help="of OpenVINO and ONNX Runtime, beside fp32")
    parser.add_argument("--fixed", action="store_true", help="write the size into the files")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--output", help="JSON file for the numbers")
    args = parser.parse_args()

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        candidates = dict(build_candidates(args, Path(folder)))
        times = measure_times(candidates, args)
    medians = {name: float(np.median(one)) for name, one in times.items()}
    print(f"{args.size}, {args.image_size[0]}x{args.image_size[1]}, {args.rounds} rounds, "
          f"{show_environment(describe_environment())}")  # fmt: skip
    print(f"{'':<24}{'ms (quartiles)':>22}{'stock / it':>12}{'its fp32 / it':>15}")
    for name, one in times.items():
        low, middle, high = (1000 * np.percentile(one, percent) for percent in (25, 50, 75))
        runtime = name.split()[0]
        to_stock, to_fp32 = (
            medians.get(f"{runtime} {kind}", np.nan) / medians[name] for kind in ("stock", "ours fp32")
        )
        print(f"{name:<24}{f'{middle:.0f} ({low:.0f}..{high:.0f})':>22}{to_stock:>12.2f}{to_fp32:>15.2f}")
    if args.output:
        content = {"arguments": vars(args), "environment": describe_environment(), "seconds": times}
        Path(args.output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def build_candidates(args, folder: Path):
    """Names, and what makes logits of pixels."""
    model = build_random_model(args.size, CITYSCAPES)
    ours, stock = LogitsNetwork(model), StockNetwork(model)
    size = tuple(args.image_size) if args.fixed else None
    calibration = [np.random.default_rng(seed).standard_normal((1, 3, *args.image_size), np.float32) for seed in (1, 2)]
    if "pytorch" in args.runtimes:
        yield "pytorch stock", lambda values: stock(torch.from_numpy(values))
        fast = build_random_model(args.size, CITYSCAPES).eval()
        apply_fast_decode_head(fast)
        yield "pytorch ours fp32", lambda values: fast(pixel_values=torch.from_numpy(values)).logits
    for runtime in (one for one in args.runtimes if one != "pytorch"):
        written = {}
        for name, network in (("stock", stock), ("ours fp32", ours)):
            written[name] = folder / f"{name}{SUFFIXES[runtime]}"
            write_network(network, written[name], runtime, describe(model, "fp32", size), size)
            yield f"{runtime} {name}", load_exported(written[name]).run
        for precision in args.precisions:
            path = folder / f"{precision}{SUFFIXES[runtime]}"
            if precision == "int8":
                quantise(written["ours fp32"], path, runtime, calibration, np.asarray, describe(model, precision, size))
            elif runtime == "openvino":
                write_network(ours, path, runtime, describe(model, precision, size), size)
            else:
                continue
            yield f"{runtime} ours {precision}", load_exported(path).run


def describe(model, precision: str, size: tuple[int, int] | None) -> dict:
    """As much of what `deployment.export` says of a file as loading asks for."""
    return {
        "input": {"name": "pixel_values", "shape": ["batch", 3, *(size or ("height", "width"))]},
        "output": {"name": "logits", "shape": ["batch", 19, "rows", "columns"]},
        "takes_bytes": False, "fixed_size": None, "precision": precision, "config": model.config.to_dict(),
    }  # fmt: skip


@torch.no_grad()
def measure_times(candidates: dict, args) -> dict[str, list[float]]:
    values = np.random.default_rng(0).standard_normal((1, 3, *args.image_size), np.float32)
    times, order, shuffle = {name: [] for name in candidates}, [*candidates], random.Random(0).shuffle
    for turn in range(args.rounds + 2):  # the first two warm up
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            candidates[name](values)
            if turn > 1:
                times[name].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
