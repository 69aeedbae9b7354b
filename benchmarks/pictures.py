"""Seconds and bytes of a picture of a prediction, as PNG and as JPEG.

    python benchmarks/pictures.py --data_dir KITTI --images 6 --rounds 3

Frames of KITTI's folder, beside their labels and labels shifted by five pixels in place of a prediction; formats in
turn, medians and ranges.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import describe_environment, show_environment, spread

from hf_urbanseg.data.loading import load_data
from hf_urbanseg.reports.overlays import save_comparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    data = load_data(data_dir=args.data_dir, test_fraction=0, validation_fraction=0)
    frames = [
        (row["image"].convert("RGB"), data.label_space.train_id_table[np.asarray(row["label"])])
        for row in data.splits["train"].select(range(args.images))
    ]
    seconds, sizes = {".png": [], ".jpg": []}, {".png": [], ".jpg": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for suffix in seconds:
                for number, (image, label) in enumerate(frames):
                    path = Path(folder) / f"{number}{suffix}"
                    start = time.perf_counter()
                    save_comparison(path, image, np.roll(label, 5, 1), label, data.label_space, path.name)
                    seconds[suffix].append(time.perf_counter() - start)
                    sizes[suffix].append(path.stat().st_size / 1e3)
    print(show_environment(describe_environment()))
    for suffix in seconds:
        print(f"{suffix}: {spread(seconds[suffix])} s, {spread(sizes[suffix], 0)} kB")


if __name__ == "__main__":
    main()
