"""The official layout of the KITTI semantic segmentation benchmark."""

from pathlib import Path

from datasets import Dataset

from hf_urbanseg.data.layouts.archive import extract_folders
from hf_urbanseg.data.layouts.folders import build_dataset, pair_folders

IMAGES, LABELS = "image_2", "semantic"


def find_kitti(path: Path) -> Path | None:
    """The `training` folder, given itself, its parent or grandparent, or `data_semantics.zip`; None if there is none.

    An archive is unpacked into the cache.

    Raises:
        DataError: An archive that is damaged or has no such folders.
    """
    if path.is_file():
        return extract_folders(path, [f"training/{IMAGES}", f"training/{LABELS}"]) / "training"
    for folder in (path, path / "training", path / "data_semantics" / "training"):
        # One of the two is enough to know the layout; the other one missing is then reported by its full path.
        if (folder / LABELS).is_dir() or (folder.name == "training" and (folder / IMAGES).is_dir()):
            return folder
    archive = path / "data_semantics.zip"
    return find_kitti(archive) if archive.is_file() else None


def load_kitti(training: Path) -> Dataset:
    """The labelled frames, unsplit: the benchmark's test labels are not public and its training set has no split.

    Raises:
        DataError: An empty or missing folder, or an image and label without counterpart.
    """
    return build_dataset(pair_folders(training / IMAGES, training / LABELS))
