"""Times the metrics against `evaluate`'s mean_iou on the same masks, and says whether they agree.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py --output metrics.json

Every candidate measures the same list of images once per round, in an order drawn anew each round, on one thread; times
are per image. The time is the thread's own (CPU time): other programs on the machine hardly add to it, whatever they do
to the clock on the wall, whose median is in the JSON. Reported are the median and the range from the 10th to the 90th
percentile.

`evaluate.load("mean_iou")` needs the Hub, or a copy of the metric's folder given by `--evaluate_metric`. Where neither
is there, only its algorithm is timed, restated below on the arrays themselves: that leaves out the metric's storage of
every mask, so it is the harder opponent.
"""

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import evaluate
import numpy as np
import torch
from PIL import Image

from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.labels import CITYSCAPES, IGNORE_INDEX
from hf_urbanseg.metrics.boundary_iou import compute_boundary_counts
from hf_urbanseg.metrics.confusion_matrix import ConfusionMatrix
from hf_urbanseg.metrics.image_counts import ImageCountsBuilder

CLASSES = 19
SIZES = ((375, 1242), (1024, 2048))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31, help="measurements of every candidate")
    parser.add_argument("--images", type=int, default=6, help="images of the list")
    parser.add_argument("--seed", type=int, default=0, help="of the scene, the noise and the order")
    parser.add_argument("--labels", help="a folder of PNGs of Cityscapes label ids, used beside rendered scenes")
    parser.add_argument("--evaluate_metric", default="mean_iou", help="name or folder for `evaluate.load`")
    parser.add_argument("--output", help="JSON file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    random.seed(args.seed)
    metric = load_metric(args.evaluate_metric)
    results = []
    for size in SIZES:
        for kind, pairs in build_masks(size, args.seed, args.images, args.labels).items():
            results.append({"size": list(size), "masks": kind, **compare(pairs, metric, args.rounds)})
            print_result(results[-1])
    if args.output:
        content = {
            "environment": describe(),
            "rounds": args.rounds,
            "images": args.images,
            "seed": args.seed,
            "results": results,
        }
        Path(args.output).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_metric(name: str):
    try:
        return evaluate.load(name)
    except Exception as error:  # whatever a network or a missing file raises
        print(f"evaluate.load({name!r}) failed ({type(error).__name__}): only its algorithm is timed", file=sys.stderr)
        return None


Pairs = list[tuple[np.ndarray, np.ndarray]]


def build_masks(size: tuple[int, int], seed: int, images: int, folder: str | None) -> dict[str, Pairs]:
    """(prediction, label) uint8 pairs: street scenes shifted by some pixels, and noise without any runs."""
    rng = np.random.default_rng(seed)
    scenes = (CITYSCAPES.train_id_table[render_scene(seed + index, size)[1]] for index in range(images))
    pairs = {"rendered scenes": [(shift(label), label) for label in scenes]}
    if folder:
        paths = sorted(Path(folder).glob("*.png"))[:images]
        given = (Image.open(path).resize(size[::-1], Image.Resampling.NEAREST) for path in paths)
        labels = (CITYSCAPES.train_id_table[np.array(image)] for image in given)
        pairs["given labels"] = [(shift(label), label) for label in labels]
    pairs["noise"] = []
    for _ in range(images):
        prediction, label = rng.integers(0, CLASSES, (2, *size), np.uint8)
        label[rng.random(size) < 0.05] = IGNORE_INDEX
        pairs["noise"].append((prediction, label))
    return pairs


def shift(label: np.ndarray) -> np.ndarray:
    prediction = np.roll(label, (2, 3), (0, 1))
    return np.where(prediction == IGNORE_INDEX, 0, prediction).astype(np.uint8)


def measure_as_evaluate(prediction: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
    """Areas of intersection, prediction and label: the steps of `evaluate`'s mean_iou, copies included."""
    prediction, label = np.array(prediction), np.array(label)
    kept = label != IGNORE_INDEX
    kept = np.not_equal(label, IGNORE_INDEX)
    prediction, label = prediction[kept], np.array(label)[kept]
    common = prediction[prediction == label]
    return [np.histogram(x, bins=CLASSES, range=(0, CLASSES - 1))[0] for x in (common, prediction, label)]


def compare(pairs: Pairs, metric, rounds: int) -> dict:
    matrix = ConfusionMatrix(CLASSES)
    tensors = [tuple(map(torch.from_numpy, pair)) for pair in pairs]
    wide = [tuple(mask.astype(np.int64) for mask in pair) for pair in pairs]
    wide_tensors = [tuple(map(torch.from_numpy, pair)) for pair in wide]
    counts = [matrix.update(*pair) for pair in tensors]

    def add_rows() -> None:
        builder = ImageCountsBuilder(CITYSCAPES.names)
        for index, one in enumerate(counts):
            builder.add(str(index), one)

    candidates: dict[str, Callable] = {
        "evaluate's algorithm, uint8": lambda: [measure_as_evaluate(*pair) for pair in pairs],
        "ConfusionMatrix.update, uint8": lambda: [matrix.update(*pair) for pair in tensors],
        "evaluate's algorithm, int64": lambda: [measure_as_evaluate(*pair) for pair in wide],
        "ConfusionMatrix.update, int64": lambda: [matrix.update(*pair) for pair in wide_tensors],
        "rows of counts per image": add_rows,
        "compute_boundary_counts": lambda: [compute_boundary_counts(*pair, CLASSES) for pair in pairs],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name in random.sample(list(candidates), len(candidates)):
            times[name].append(measure(candidates[name])[0])

    differences = 0
    for pair, one in zip(pairs, counts, strict=True):
        mine = one.numpy().diagonal(), one.numpy().sum(0), one.numpy().sum(1)
        differences += int(sum(np.abs(a - b).sum() for a, b in zip(measure_as_evaluate(*pair), mine, strict=True)))
    if metric is not None:
        # Slow, with its own storing and reading back: a few rounds at the end.
        given = dict(zip(("predictions", "references"), map(list, zip(*pairs, strict=True)), strict=True))
        runs = [
            measure(lambda: metric.compute(**given, num_labels=CLASSES, ignore_index=IGNORE_INDEX))
            for _ in range(max(3, rounds // 10))
        ]
        times["evaluate.load('mean_iou').compute"] = [spent for spent, _ in runs]
        scores = runs[-1][1]
        total = sum(counts).numpy()
        expected = total.trace() / total.sum()
        differences += int(abs(scores["overall_accuracy"] - expected) > 1e-12)
    return {
        "integer_differences": differences,
        "milliseconds": {
            name: dict(zip(("p10", "median", "p90"), np.quantile(own, [0.1, 0.5, 0.9]).tolist(), strict=True))
            | {"wall_median": float(np.median(wall))}
            for name, (own, wall) in ((name, np.transpose(values) / len(pairs)) for name, values in times.items())
        },
    }


def measure(call: Callable) -> tuple[tuple[float, float], object]:
    """Milliseconds of the thread and on the wall, and what the call gave."""
    wall, own = time.perf_counter(), time.thread_time()
    result = call()
    return (1000 * (time.thread_time() - own), 1000 * (time.perf_counter() - wall)), result


def print_result(result: dict) -> None:
    height, width = result["size"]
    print(f"\n{width}x{height}, {result['masks']}: {result['integer_differences']} integer differences")
    median = {name: value["median"] for name, value in result["milliseconds"].items()}
    for name, value in result["milliseconds"].items():
        kind = "int64" if "int64" in name else "uint8"
        times = median[f"evaluate's algorithm, {kind}"] / value["median"]
        factor = f"{times:8.1f} x" if name.startswith("ConfusionMatrix") else ""
        span = f"{value['p10']:.3f} - {value['p90']:.3f}"
        print(f"  {name:36} {value['median']:10.3f} ms  ({span:>19}) {factor}")


def describe() -> dict:
    versions = {"numpy": np.__version__, "torch": torch.__version__, "cv2": cv2.__version__}
    return {
        "python": platform.python_version(),
        **versions,
        "evaluate": evaluate.__version__,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "threads": 1,
    }


if __name__ == "__main__":
    main()
