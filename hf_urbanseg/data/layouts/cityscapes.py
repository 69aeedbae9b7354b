"""The official layout of Cityscapes."""

from pathlib import Path

from datasets import Dataset

from hf_urbanseg.data.layouts.folders import build_dataset, list_images, pair_frames
from hf_urbanseg.errors import DataError

IMAGES, LABELS = "leftImg8bit", "gtFine"
NOTE = (
    "Cityscapes: the official val cities are our test, as in published results; the official test has no public "
    "labels and is left out"
)


def find_cityscapes(path: Path) -> Path | None:
    """`path` if it holds `leftImg8bit` or `gtFine`, else None."""
    return path if (path / IMAGES).is_dir() or (path / LABELS).is_dir() else None


def load_cityscapes(root: Path, label_suffix: str = "_gtFine_labelIds") -> dict[str, Dataset]:
    """The official train as `train` and the official val as `test`, whichever are there.

    Args:
        root: Folder of `leftImg8bit` and `gtFine`.
        label_suffix: End of the label files' stems; `_gtFine_labelTrainIds` where those were made.

    Raises:
        DataError: Neither train nor val, or an image and label without counterpart.
    """
    found = {}
    for official, ours in (("train", "train"), ("val", "test")):
        if (root / IMAGES / official).is_dir():
            found[ours] = build_dataset(_pair_cities(root, official, label_suffix))
    if not found:
        raise DataError(f"{IMAGES}/train or {IMAGES}/val", "neither", "unpack both official archives here", root)
    return found


def group_by_city(names: list[str]) -> list[list[str]]:
    """Frame names of each city: frames of one city follow each other in time and show the same streets."""
    cities: dict[str, list[str]] = {}
    for name in names:
        cities.setdefault(name.split("_")[0], []).append(name)
    return list(cities.values())


def _pair_cities(root: Path, split: str, label_suffix: str) -> list:
    images_at, labels_at = root / IMAGES / split, root / LABELS / split
    # Of both sides, so that a city without images is noticed as much as one without labels.
    cities = sorted(
        {entry.name for at in (images_at, labels_at) if at.is_dir() for entry in at.iterdir() if entry.is_dir()}
    )
    if not cities:
        raise DataError("one folder per city", "none", "unpack the official archive here", images_at)
    frames = []
    for city in cities:
        images, labels = list_images(images_at / city, "_leftImg8bit"), list_images(labels_at / city, label_suffix)
        frames += pair_frames(images, labels, images_at / city, labels_at / city)
    return frames
