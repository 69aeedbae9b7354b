"""Exports of labelling tools that the tests write."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from hf_urbanseg.data.sources import labelling_export
from hf_urbanseg.data.sources.request import DataRequest

SIZE = 20, 30
SQUARE = [[4, 3], [14, 3], [14, 13], [4, 13]]
"""Columns 4..13 and rows 3..12, whose corners lie between pixels, so that every rule fills the same ones."""


def write_picture(path: Path, size=SIZE, value=100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path


def write_json(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def read(path: Path, **options):
    """What the source finds: splits, label space, notes."""
    return labelling_export.load(DataRequest(path, **options))


def labels(found, split="all") -> dict[str, np.ndarray]:
    return {row["name"]: np.asarray(row["label"]) for row in found.splits[split]}


def square(value=1, rest=0, size=SIZE) -> np.ndarray:
    label = np.full(size, rest, np.uint8)
    label[3:13, 4:14] = value
    return label


def flat(points) -> list:
    return [number for point in points for number in point]


def coco(annotations, images=("a.png",), categories=("car", "road"), size=SIZE) -> dict:
    """Every annotation a segmentation, or a mapping with other keys than those of a car in the first picture."""
    usual = {"image_id": 0, "category_id": 1, "iscrowd": 0}
    return {
        "images": [{"id": i, "file_name": name, "height": size[0], "width": size[1]} for i, name in enumerate(images)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(categories)],
        "annotations": [
            usual | {"id": i} | (one if isinstance(one, dict) and "counts" not in one else {"segmentation": one})
            for i, one in enumerate(annotations)
        ],
    }
