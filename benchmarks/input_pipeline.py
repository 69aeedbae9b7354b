"""How fast training samples are made: of frames decoded each time, kept in memory or streamed; here or by workers.

    python benchmarks/input_pipeline.py   # 48 rendered frames of 375x1242, the report's augmentation
    python benchmarks/input_pipeline.py --data_dir kitti48 --num_workers 0 1 2
    python benchmarks/input_pipeline.py --data_dir kitti48 --frames kept --num_workers 0 --samples 100 --rounds 100 \\
        --rare_class_share 0.5 --paste_share 0.3   # what each of these costs, and both
    python benchmarks/input_pipeline.py --data_dir kitti48 --frames decoded streamed   # from shards, checked

Decoded, kept or streamed, every sample is the same (checked). Rounds are interleaved; medians with their quartiles. In
a round all make samples of the same frames at the same scales, some of them showing a class or a pasted object. With
`--rate` (images per second of a training step) it says how many workers keep a GPU of that rate busy.
"""

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from frames import render_frames
from torch.utils.data import DataLoader

from hf_urbanseg.data.checked_frames import CheckedFrames
from hf_urbanseg.data.decoded_cache import DecodedCache
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.pasting import ObjectPaste, choose_pasted, list_movable
from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.rare_classes import RareClasses
from hf_urbanseg.data.shard_writing import write_shards
from hf_urbanseg.data.transforms import build_train_transforms
from hf_urbanseg.labels import CITYSCAPES

SCALES = ["0.5", "0.75", "1.0", "1.25", "1.5", "1.75"]


def build_rows(data_dir: str, count: int) -> Dataset:
    rows = load_data(data_dir=data_dir, test_fraction=0.0, validation_fraction=0.0).splits["train"]
    return rows.select(range(min(count, len(rows))))


def build_streamed(rows: Dataset, folder: Path) -> CheckedFrames:
    """The same frames in the same order, from shards that are written into `folder`."""
    write_shards(LoadedData({"train": rows}, CITYSCAPES, "frames", ()), folder, 10, {}, progress=False)
    shards = load_data(dataset=str(folder), streaming=True).splits["train"]
    place = {name: number for number, name in enumerate(shards["name"])}
    return CheckedFrames(shards.select([place[name] for name in rows["name"]]), CITYSCAPES)


def build_sets(
    rows: Dataset, cache: DecodedCache, folder: Path, args: argparse.Namespace
) -> dict[tuple[str, str], TrainDataset]:
    """By where the frames are, and what is shown more often."""
    caches, ways = {"decoded": None, "kept": cache}, {"": {}}
    if "streamed" in args.frames:
        caches["streamed"] = build_streamed(rows, folder)
    if args.rare_class_share or args.paste_share:
        counts = np.stack([np.bincount(cache[index][1].ravel(), minlength=256)[:19] for index in range(len(rows))])
        rare = RareClasses(counts, args.rare_class_share)
        if args.rare_class_share:
            ways["by class"] = {"rare": rare}
        if args.paste_share:
            paste = ObjectPaste(rare, choose_pasted(None, rare, CITYSCAPES), list_movable(CITYSCAPES), args.paste_share)
            ways |= {f"{way} pasted".strip(): {"rare": rare, "paste": paste} for way in list(ways)}
    return {
        (frames, way): TrainDataset(
            rows, CITYSCAPES, build_train_transforms(tuple(args.crop_size), SCALES), 0, caches[frames], **options
        )
        for frames, (way, options) in product(args.frames, ways.items())
    }  # fmt: skip


def build_keys(sets: dict[tuple[str, str], TrainDataset], samples: int, number: int) -> dict[tuple[str, str], list]:
    """Of a round: for all sets the same frames and epochs, so that the scales are the same, too."""
    size, rare = len(next(iter(sets.values()))), next((one.rare for one in sets.values() if one.rare), None)
    drawn = rare.draw(samples, (number,)) if rare else [None] * samples
    keys = [(number * samples + place, *(one or (place % size,))) for place, one in enumerate(drawn)]
    return {key: keys if "by class" in key[1] else [one[:2] for one in keys] for key in sets}


def measure(dataset: TrainDataset, keys: list, workers: int) -> dict[str, float]:
    batches = iter(DataLoader(dataset, batch_size=8, sampler=keys, num_workers=workers))
    next(batches)  # workers are up
    start, own = time.perf_counter(), time.process_time()
    count = sum(len(batch["labels"]) for batch in batches)
    found = {"images_per_second": count / (time.perf_counter() - start)}
    return found if workers else found | {"processor_ms": 1000 * (time.process_time() - own) / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="frames to use; default: rendered streets")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--crop_size", type=int, nargs=2, default=(368, 368))
    parser.add_argument("--frames", nargs="+", choices=("decoded", "kept", "streamed"), default=("decoded", "kept"))
    parser.add_argument("--num_workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--samples", type=int, default=400, help="samples per round")
    parser.add_argument("--rare_class_share", type=float, default=0.0, help="also with this share drawn by class")
    parser.add_argument("--paste_share", type=float, default=0.0, help="also with objects pasted into this share")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, help="images per second the training step takes")
    parser.add_argument("--output", help="JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data_dir = args.data_dir or render_frames(Path(folder, "frames"), args.images, (375, 1242))
        rows = build_rows(data_dir, args.images)
        sizes = [(row["image"].height, row["image"].width) for row in rows]
        start = time.perf_counter()
        cache = DecodedCache(rows, CITYSCAPES, sizes)
        seconds, size = time.perf_counter() - start, cache.memory.nbytes / 1e6
        print(f"{len(rows)} frames decoded once: {seconds:.2f} s, {size:.0f} MB")
        sets = build_sets(rows, cache, Path(folder, "shards"), args)
        plain = [one for (_, way), one in sets.items() if not way]
        for index in range(len(rows)):
            first, *others = (dataset[0, index] for dataset in plain)
            assert all(torch.equal(value, other[key]) for other in others for key, value in first.items())
        found = {(*key, workers): [] for workers in args.num_workers for key in sets}
        for number in range(args.rounds + 1):
            keys = build_keys(sets, args.samples, number)
            turn = number % len(found)  # none is always first
            for *key, workers in [*found][turn:] + [*found][:turn]:
                one = measure(sets[*key], keys[*key], workers)
                if number:  # in the first one objects are cut out
                    found[*key, workers].append(one)
    for (frames, way, workers), values in found.items():
        line, plain = f"{frames:<8} {way:<15} {workers} workers:", found[frames, "", workers]
        for name, digits in {"images_per_second": 1, "processor_ms": 2}.items():
            if name in values[0]:
                before = statistics.median(one[name] for one in plain)
                low, middle, high = statistics.quantiles([one[name] for one in values], n=4)
                line += f" {name} {middle:.{digits}f} ({low:.{digits}f} .. {high:.{digits}f})"
                line += f" {middle / before - 1:+.1%}" if way else ""
        if args.rate and workers:
            rate = statistics.median(one["images_per_second"] for one in values)
            line += f"; {math.ceil(args.rate * workers / rate)} workers for {args.rate:g} images/s"
        print(line)
    if args.output:
        figures = [{"frames": key[0], "way": key[1], "workers": key[2], "rounds": one} for key, one in found.items()]
        versions = {"python": platform.python_version(), "torch": torch.__version__, "arguments": vars(args)}
        Path(args.output).write_text(json.dumps({"figures": figures, **versions}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
