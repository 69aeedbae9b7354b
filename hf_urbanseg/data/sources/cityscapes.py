"""The official layout of Cityscapes."""

from itertools import groupby
from pathlib import Path

from hf_urbanseg.data.image_files import build_dataset, pair_folders
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.errors import DataError

IMAGES, LABELS = "leftImg8bit", "gtFine"
LOOKS_LIKE = f"{IMAGES} and {LABELS} (Cityscapes)"
_NOTE = (
    "Cityscapes: the official val cities are our test, as in published results; the official test has no public "
    "labels and is left out"
)


def matches(request: DataRequest) -> bool:
    """Whether the path holds `leftImg8bit` or `gtFine`."""
    return request.path is not None and any((request.path / folder).is_dir() for folder in (IMAGES, LABELS))


def load(request: DataRequest) -> FoundData:
    """The official train as `train` and the official val as `test`, whichever are there.

    The label space `cityscapes_train_ids` reads the files `_gtFine_labelTrainIds` that some have made.
    """
    suffix = f"_gtFine_label{'Train' if request.label_space_name == 'cityscapes_train_ids' else ''}Ids"
    splits = {
        ours: build_dataset(_pair_cities(request.path, official, suffix))
        for official, ours in (("train", "train"), ("val", "test"))
        if (request.path / IMAGES / official).is_dir()
    }
    if not splits:
        fix = "unpack both official archives here"
        raise DataError(f"{IMAGES}/train or {IMAGES}/val", "neither", fix, request.path)
    # Frames of one city follow each other in time and show the same streets.
    names = splits["train"]["name"] if "train" in splits else ()
    scenes = [list(frames) for _, frames in groupby(names, lambda name: name.split("_")[0])]
    return FoundData(splits, request.street_classes, "cityscapes", (_NOTE,), scenes)


def _pair_cities(root: Path, split: str, label_suffix: str) -> dict[str, tuple[Path, Path]]:
    images_at, labels_at = root / IMAGES / split, root / LABELS / split
    # Of both sides, so that a city without images is noticed as much as one without labels.
    cities = sorted(
        {entry.name for at in (images_at, labels_at) if at.is_dir() for entry in at.iterdir() if entry.is_dir()}
    )
    if not cities:
        raise DataError("one folder per city", "none", "unpack the official archive here", images_at)
    of_cities = (pair_folders(images_at / city, labels_at / city, "_leftImg8bit", label_suffix) for city in cities)
    return dict(pair for pairs in of_cities for pair in pairs.items())
