"""How fast training samples are made: decoded each time, or from frames kept in memory; in one process or by workers.

    python benchmarks/input_pipeline.py   # 40 rendered frames of 375x1242, the report's augmentation
    python benchmarks/input_pipeline.py --data_dir kitti48 --num_workers 0 1 2
    python benchmarks/input_pipeline.py --data_dir kitti48 --streamed   # also from shards on disk, checked as they come
    python benchmarks/input_pipeline.py --data_dir kitti48 --rare_class_share 0.5 --paste_share 0.3   # what these cost

Decoded, kept or streamed, every sample is the same (checked). Rounds are interleaved; medians with their range, and of
processor time, workers included, as other programs take less of it away. With `--rate` (images per second of a training
step) it says how many workers keep a GPU of that rate busy.
"""

import argparse
import json
import math
import platform
import resource
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch.utils.data import DataLoader

from hf_urbanseg.data.checked_frames import CheckedFrames
from hf_urbanseg.data.decoded_cache import DecodedCache
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.pasting import ObjectPaste, choose_pasted, list_movable
from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.rare_classes import RareClasses
from hf_urbanseg.data.shard_writing import write_shards
from hf_urbanseg.data.synthetic import render_scene
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.labels import CITYSCAPES

SCALES = ["0.5", "0.75", "1.0", "1.25", "1.5", "1.75"]


def build_rows(data_dir: str | None, count: int, folder: Path) -> Dataset:
    if data_dir:
        rows = load_data(data_dir=data_dir, test_fraction=0.0, validation_fraction=0.0).splits["train"]
        return rows.select(range(min(count, len(rows))))
    columns = {"image": [], "label": [], "name": [f"{number}" for number in range(count)]}
    for number in range(count):
        for kind, picture in zip(("image", "label"), render_scene(number, (375, 1242)), strict=True):
            PILImage.fromarray(picture).save(folder / f"{kind}_{number}.png")
            columns[kind].append(str(folder / f"{kind}_{number}.png"))
    return Dataset.from_dict(columns).cast_column("image", Image()).cast_column("label", Image())


def build_streamed(rows: Dataset, folder: Path, transforms) -> TrainDataset:
    """The same frames in the same order, from shards that are written into `folder`."""
    write_shards(LoadedData({"train": rows}, CITYSCAPES, "frames", ()), folder, 10, {}, progress=False)
    shards = load_data(dataset=str(folder), streaming=True).splits["train"]
    place = {name: number for number, name in enumerate(shards["name"])}
    shards = shards.select([place[name] for name in rows["name"]])
    return TrainDataset(shards, CITYSCAPES, transforms, 0, CheckedFrames(shards, CITYSCAPES))


def measure_processor() -> float:
    """Seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="frames to use; default: rendered streets")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--crop_size", type=int, nargs=2, default=(368, 368))
    parser.add_argument("--num_workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--samples", type=int, default=400, help="samples per round")
    parser.add_argument("--streamed", action="store_true", help="also from shards, each frame checked")
    parser.add_argument("--rare_class_share", type=float, default=0.0, help="also with this share drawn by class")
    parser.add_argument("--paste_share", type=float, default=0.0, help="also with objects pasted into this share")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, help="images per second the training step takes")
    parser.add_argument("--output", help="JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = build_rows(args.data_dir, args.images, Path(folder))
        sizes = [(row["image"].height, row["image"].width) for row in rows]
        start = time.perf_counter()
        cache = DecodedCache(rows, CITYSCAPES, sizes)
        seconds, size = time.perf_counter() - start, cache.memory.nbytes / 1e6
        print(f"{len(rows)} frames decoded once: {seconds:.2f} s, {size:.0f} MB")
        sets = {}
        for name, kept in (("decoded each time", None), ("kept in memory", cache)):
            transforms = build_train_transforms(tuple(args.crop_size), SCALES)
            sets[name] = TrainDataset(rows, CITYSCAPES, transforms, 0, kept)
        if args.streamed:
            transforms = build_train_transforms(tuple(args.crop_size), SCALES)
            sets["streamed"] = build_streamed(rows, Path(folder, "shards"), transforms)
        for index in range(len(rows)):
            one, *others = (dataset[0, index] for dataset in sets.values())
            for other in others:
                assert torch.equal(one["pixel_values"], other["pixel_values"])
                assert torch.equal(one["labels"], other["labels"])
        more = {}
        if args.rare_class_share or args.paste_share:
            counts = np.stack([np.bincount(cache[index][1].ravel(), minlength=256)[:19] for index in range(len(rows))])
            rare = RareClasses(counts, args.rare_class_share)
            more = {"by class": (rare, None)} if args.rare_class_share else {}
            if args.paste_share:
                pasted = choose_pasted(None, rare, CITYSCAPES), list_movable(CITYSCAPES)
                more["pasted"] = (rare, ObjectPaste(rare, *pasted, args.paste_share))
        for (name, (rare, paste)), (before, kept) in product(more.items(), {"decoded": None, "kept": cache}.items()):
            transforms = build_train_transforms(tuple(args.crop_size), SCALES)
            sets[f"{before}, {name}"] = TrainDataset(rows, CITYSCAPES, transforms, 0, kept, rare=rare, paste=paste)
        rates = {(name, workers): [] for workers in args.num_workers for name in sets}
        used = {key: [] for key in rates}
        for epoch in range(1, args.rounds + 1):
            for name, workers in rates:
                # Enough batches that those the workers had ready at the start don't matter.
                keys = [(100 * epoch + number // len(rows), number % len(rows)) for number in range(args.samples)]
                if name.endswith("by class"):
                    drawn = rare.draw(len(keys), (epoch,))
                    keys = [(key[0], *one) if one else key for key, one in zip(keys, drawn, strict=True)]
                before = measure_processor()
                batches = iter(DataLoader(sets[name], batch_size=8, sampler=keys, num_workers=workers))
                first = next(batches)  # workers are up
                start = time.perf_counter()
                count = sum(len(batch["labels"]) for batch in batches)
                rates[name, workers].append(count / (time.perf_counter() - start))
                del first, batches  # and with them the workers
                used[name, workers].append(1000 * (measure_processor() - before) / len(keys))
    for (name, workers), values in rates.items():
        median = statistics.median(values)
        line = f"{name:<18} {workers} workers: {median:6.1f} ({min(values):.1f} .. {max(values):.1f}) images/s"
        line += f", {statistics.median(used[name, workers]):5.1f} ms of a core an image"
        if args.rate and workers:
            line += f"; {math.ceil(args.rate * workers / median)} workers for {args.rate:g} images/s"
        print(line)
    if args.output:
        found = [
            {"set": key[0], "workers": key[1], "images_per_second": values, "core_ms_per_image": used[key]}
            for key, values in rates.items()
        ]
        versions = {"python": platform.python_version(), "torch": torch.__version__, "arguments": vars(args)}
        Path(args.output).write_text(json.dumps({"rates": found, **versions}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
