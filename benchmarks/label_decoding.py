"""Labels a second that one core reads, by the way in which their files spell the classes.

    OMP_NUM_THREADS=1 python benchmarks/label_decoding.py --data_dir data_semantics.zip

The same labels, encoded as PNG in memory in each way, are read to train ids in turns. Printed are medians and
quartiles by the time of the processor, and the rate at which Pillow alone decodes the files.
"""

import argparse
import io
import time
from dataclasses import replace

import numpy as np
from PIL import Image

from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.labels import IGNORE_INDEX, pack_color


def encode(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--labels", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    data = load_data(data_dir=args.data_dir)
    space, rows = data.label_space, data.splits["train"]
    labels = [np.asarray(rows[index]["label"]) for index in range(min(args.labels, len(rows)))]
    train_ids = [space.train_id_table[label] for label in labels]
    colored = [Image.fromarray(space.palette[one]) for one in train_ids]
    by_color = {pack_color(color): train_id for train_id, color in enumerate(space.colors)} | {0: IGNORE_INDEX}
    color = replace(space, label_ids=by_color, encoding="color")
    ways = {
        "ids": (space, [Image.fromarray(label) for label in labels]),
        "ids, 16 bits": (space, [Image.fromarray(label.astype(np.uint16)) for label in labels]),
        "instance": (
            replace(space, encoding="instance"),
            [Image.fromarray(label * np.uint16(1000) + np.uint16(3)) for label in labels],
        ),
        "color": (color, colored),
        "color, palette": (color, [picture.quantize(256) for picture in colored]),
    }
    files = {way: (space, [encode(picture) for picture in pictures]) for way, (space, pictures) in ways.items()}
    for way, (own, encoded) in files.items():
        for file, expected in zip(encoded, train_ids, strict=True):
            assert (read_train_ids(Image.open(io.BytesIO(file)), own) == expected).all(), way
    rates = {(way, what): [] for way in files for what in ("read", "decoded alone")}
    for _ in range(args.repeats):
        for way, what in rates:
            own, encoded = files[way]
            start = time.process_time()
            for file in encoded:
                picture = Image.open(io.BytesIO(file))
                read_train_ids(picture, own) if what == "read" else picture.load()
            rates[way, what].append(len(encoded) / (time.process_time() - start))
    height, width = labels[0].shape
    print(f"{len(labels)} labels, the first {width}x{height}; labels/s, median (quartiles)")
    for (way, what), found in rates.items():
        low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
        print(f"  {way:<16}{what:<15}{middle:7.0f} ({low:.0f} .. {high:.0f})")


if __name__ == "__main__":
    main()
