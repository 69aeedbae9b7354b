"""The official layout of the KITTI semantic segmentation benchmark."""

from collections.abc import Sequence
from pathlib import Path

from hf_urbanseg.data.archive import extract_folders
from hf_urbanseg.data.image_files import UNSPLIT, build_dataset, pair_folders
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import read_bytes

IMAGES, LABELS = "image_2", "semantic"
_MAPPING = "train_mapping.txt"
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
    drives, notes = _read_drives((training.parent, request.path, request.path.parent), frames["name"])
    return FoundData({UNSPLIT: frames}, request.street_classes, "kitti", notes, drives)


def _read_drives(folders: Sequence[Path], names: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Names by drive and a sentence, if the benchmark's mapping file is there.

    It comes with the development kit of the stereo benchmark, which has the same frames: line n is frame n's date,
    drive and number in the raw data, or empty where that was not published.
    """
    kits = ("devkit_scene_flow", "devkit", ".")
    places = [folder / kit / "mapping" / _MAPPING for folder in folders for kit in kits]
    if (path := next((place for place in places if place.is_file()), None)) is None:
        return [], []
    lines = read_bytes(path, 10**6).decode("utf-8", "replace").splitlines()
    drives: dict[str, list[str]] = {}
    for name in names:
        number = name.partition("_")[0]
        words = lines[int(number)].split() if number.isdecimal() and int(number) < len(lines) else []
        if words and len(words) != 3:
            found = f"`{lines[int(number)]:.40}` in line {int(number) + 1}"
            raise DataError("date, drive and frame, or nothing, in every line", found, "restore or remove it", path)
        if words:
            drives.setdefault(words[1], []).append(name)
    scenes = [together for together in drives.values() if len(together) > 1]
    known = sum(map(len, drives.values()))
    return scenes, [f"scenes: {known} of {len(names)} frames are of {len(drives)} drives, as {_MAPPING} says"]


def _find_training(path: Path) -> Path | None:
    for folder in (path, path / "training", path / "data_semantics" / "training"):
        # One of the two is enough to know the layout; the other one missing is then reported by its full path.
        if (folder / LABELS).is_dir() or (folder.name == "training" and (folder / IMAGES).is_dir()):
            return folder
    return None


def _find_archive(path: Path) -> Path | None:
    return next((file for file in (path, path / "data_semantics.zip") if file.is_file()), None)
