"""What evaluation costs beside the model: time on one split, and memory from few images to many.

    python benchmarks/evaluation.py                      # B0, 50 rendered frames of 375x1242
    python benchmarks/evaluation.py --data_dir kitti48   # your frames, repeated to 50
    python benchmarks/evaluation.py --device cuda --image_size 1024 2048 --num_workers 14 --images 200
    python benchmarks/evaluation.py --memory 50 5000     # resident memory; a model that costs nothing

Time: `reading` decodes, resizes and makes batches; `prediction` runs the model and brings its logits to label maps, on
batches that are in memory already (up to 50 images, again and again); `whole` is what evaluate.py does: reading,
prediction, confusion matrix, counts per image, boundary IoU. All in turn, several times; medians with their range, as
wall time and as time of the cores. What takes longer of the two parts bounds the whole. The confusion matrices of all
repeats must agree.
"""

import argparse
import itertools
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from frames import render_frames
from measuring import describe_environment, read_status, spread, write_report

from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preprocessing import EvalDataset
from hf_urbanseg.inference.evaluation import build_eval_loader, measure
from hf_urbanseg.inference.multi_scale import predict_views
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_image_processor, build_random_model
from hf_urbanseg.models.decode_head import apply_fast_decode_head
from hf_urbanseg.models.sizes import choose_eval_size


def build_rows(data_dir: str | None, count: int, folder: Path, size: tuple[int, int] = (375, 1242)) -> Dataset:
    """`count` rows, rendered into `folder` if no frames are given; too few are repeated under other names."""
    data_dir = data_dir or render_frames(folder, min(count, 50), size)
    splits = load_data(data_dir=data_dir, test_fraction=0.0, validation_fraction=0.0).splits
    frames = splits["train"].select([index % len(splits["train"]) for index in range(count)])
    return frames.remove_columns("name").add_column("name", [f"frame {index}" for index in range(count)])


def measure_time(args, rows: Dataset) -> dict:
    size = tuple(args.size)
    dataset = EvalDataset(rows, CITYSCAPES, build_image_processor(size))
    torch.manual_seed(0)
    model = build_random_model(args.model, CITYSCAPES).eval().to(args.device)
    if not args.stock_decode_head:
        apply_fast_decode_head(model)
    loader = build_eval_loader(dataset, args.batch_size, args.num_workers, device=args.device)
    batches = list(itertools.islice(loader, -(-50 // args.batch_size)))  # in memory of the kind that it gives
    synchronize = torch.cuda.synchronize if args.device.startswith("cuda") else lambda: None

    def read():
        for _ in loader:
            pass

    def predict():
        for batch in itertools.islice(itertools.cycle(batches), len(loader)):
            predict_views(model, batch["views"], [tuple(label.shape) for label in batch["labels"]])
        synchronize()

    def evaluate():
        return measure(model, loader, dataset.names, CITYSCAPES.names, device=args.device, boundary=True).matrix

    def clock(work):
        start, start_cpu = time.perf_counter(), processor_seconds()
        result = work()
        return time.perf_counter() - start, processor_seconds() - start_cpu, result

    clock(predict)
    parts = {"reading": read, "prediction": predict, "whole": evaluate}
    times, matrices = {name: {part: [] for part in parts} for name in ("wall", "processor")}, []
    for _ in range(args.repeats):
        for name, work in parts.items():
            wall, processor, result = clock(work)
            times["wall"][name].append(wall)
            times["processor"][name].append(processor)
        matrices.append(result)
    assert all(torch.equal(matrix, matrices[0]) for matrix in matrices)
    print(
        f"{args.model} at {size[0]}x{size[1]}, {len(rows)} images, batch {args.batch_size}, "
        f"{torch.get_num_threads()} threads, {'stock' if args.stock_decode_head else 'fast'} decode head"
    )
    result = {"time": {"seconds": times, "added": {}}}
    for clocked, both in times.items():
        ratios = [whole / own - 1 for own, whole in zip(both["prediction"], both["whole"], strict=True)]
        result["time"]["added"][clocked] = ratios
        said = ", ".join(f"{name} {spread(seconds, 2)} s" for name, seconds in both.items())
        print(f"  {clocked} time: {said}, added {spread([100 * ratio for ratio in ratios], 1)} %")
    rates = {name: len(rows) / statistics.median(seconds) for name, seconds in times["wall"].items()}
    bound = min(("reading", "prediction"), key=rates.get)
    print("  images/s: " + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()) + f"; {bound} bounds it")
    what = f"{args.model.upper()}, {size[0]}x{size[1]}, {args.num_workers} workers"
    result["table"] = {
        "head": ["evaluation, images/s", *rates, "bound by"],
        "rows": [[what, *(f"{rate:.1f}" for rate in rates.values()), bound]],
    }
    return result


def processor_seconds() -> float:
    """Seconds that cores have worked for this process and its ended workers: what other jobs don't disturb."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class Free(torch.nn.Module):
    """Logits that depend on the pixels and cost nothing beside reading and measuring."""

    def forward(self, pixel_values):
        few = torch.nn.functional.avg_pool2d(pixel_values, 4)
        logits = torch.cat([few * sign for sign in (1, -1, 0.5, -0.5, 2, -2)] + [few[:, :1]], 1)
        return argparse.Namespace(logits=logits)


def measure_memory(args, rows: Dataset) -> dict:
    """Resident memory of this process while the number of images grows."""
    found = {}
    dataset = EvalDataset(rows, CITYSCAPES, build_image_processor(tuple(args.size)))
    loader = build_eval_loader(dataset, args.batch_size, args.num_workers)
    done = itertools.count(1)
    peak = 0

    def note(_):
        nonlocal peak
        images = next(done) * args.batch_size
        peak = max(peak, read_status("VmRSS"))
        for limit in args.memory:
            if images >= limit and limit not in found:
                found[limit] = {"resident_mb": read_status("VmRSS"), "highest_mb": peak}
                print(f"  after {limit:>5} images: {found[limit]['resident_mb']:.0f} MB, highest so far {peak:.0f} MB")

    measure(Free(), loader, dataset.names, CITYSCAPES.names, boundary=True, on_batch=note)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="frames to use; default: rendered streets")
    parser.add_argument("--model", default="b0", help="size of the model: tiny, b0 ... b5, random weights")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--image_size", type=int, nargs=2, default=(375, 1242), help="of rendered streets")
    parser.add_argument("--size", type=int, nargs=2, help="input height and width; default: of the frames")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--num_workers", type=int, default=2, help="that read ahead of a GPU")
    parser.add_argument("--stock_decode_head", action="store_true", help="a slower model to compare with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory", type=int, nargs="+", help="measure memory after so many images instead of time")
    parser.add_argument("--output", help="JSON file for the figures")
    args = parser.parse_args()
    environment = describe_environment(args.device)
    with tempfile.TemporaryDirectory() as folder:
        count = max(args.memory) if args.memory else args.images
        rows = build_rows(args.data_dir, count, Path(folder), args.image_size)
        first = rows[0]["image"]
        args.size = args.size or list(choose_eval_size({(first.height, first.width): 1}))
        result = {"memory": measure_memory(args, rows)} if args.memory else measure_time(args, rows)
    write_report(args, environment, **result)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
