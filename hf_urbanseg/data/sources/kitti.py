"""The official layout of the KITTI semantic segmentation benchmark."""

from pathlib import Path

from hf_urbanseg.data.archive import extract_folders
from hf_urbanseg.data.image_files import UNSPLIT, build_dataset, pair_folders
from hf_urbanseg.data.sources.request import DataRequest, FoundData

IMAGES, LABELS = "image_2", "semantic"
LOOKS_LIKE = f"training/{IMAGES} and training/{LABELS} (KITTI)"


def matches(request: DataRequest) -> bool:
    """Whether the path is the folder `training`, its parent or grandparent, or `data_semantics.zip` or its folder."""
    return request.path is not None and (_find_archive(request.path) or _find_training(request.path)) is not None


def load(request: DataRequest) -> FoundData:
    """The labelled frames, unsplit: the benchmark's test labels are not public and its training set has no split."""
    training = _find_training(request.path)
    if training is None:
        archive = _find_archive(request.path)
        training = extract_folders(archive, [f"training/{IMAGES}", f"training/{LABELS}"]) / "training"
    frames = build_dataset(pair_folders(training / IMAGES, training / LABELS))
    return FoundData({UNSPLIT: frames}, request.street_classes, "kitti")


def _find_training(path: Path) -> Path | None:
    for folder in (path, path / "training", path / "data_semantics" / "training"):
        # One of the two is enough to know the layout; the other one missing is then reported by its full path.
        if (folder / LABELS).is_dir() or (folder.name == "training" and (folder / IMAGES).is_dir()):
            return folder
    return None


def _find_archive(path: Path) -> Path | None:
    return next((file for file in (path, path / "data_semantics.zip") if file.is_file()), None)
