"""Folders of image and label files: what is in them, and which image belongs to which label."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from hf_urbanseg.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp")
FEATURES = Features({"image": Image(), "label": Image(), "name": Value("string")})
"""The columns of every split. `Image()` has no mode: a mode would convert palette labels into colours' brightness."""
UNSPLIT = "all"
"""The name of the only split of data that has none of its own."""


@dataclass(frozen=True)
class Frame:
    """One image and its label file.

    Args:
        name: Unique within its split; what split files and messages call the frame.
    """

    name: str
    image: Path
    label: Path


def list_images(folder: Path, suffix: str = "") -> dict[str, Path]:
    """Image files directly inside `folder` by name: the stem without `suffix`. Files without `suffix` are left out.

    Raises:
        DataError: No such folder, no image in it, or two files of one name.
    """
    if not folder.is_dir():
        raise DataError("a folder of images", "no such folder", "check the data folder and its layout", folder)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES or not path.stem.endswith(suffix):
            continue
        name = path.stem.removesuffix(suffix)
        if name in found:
            raise DataError(
                "one file per frame", f"{found[name].name} and {path.name}", "remove or rename one of them", path
            )
        found[name] = path
    if not found:
        wanted = f"image files ending in `{suffix}`" if suffix else f"image files ({' '.join(IMAGE_SUFFIXES)})"
        inside = sorted(entry.name for entry in folder.iterdir())
        some = f"{', '.join(inside[:3])}{' ...' if len(inside) > 3 else ''}" if inside else "an empty folder"
        raise DataError(wanted, some, "put the files directly into this folder or name another", folder)
    return found


def pair_frames(
    images: Mapping[str, Path], labels: Mapping[str, Path], images_at: Path, labels_at: Path
) -> list[Frame]:
    """Images and labels of the same name, sorted by name.

    Raises:
        DataError: One has no counterpart, or a label is a JPEG.
    """
    for these, others, kind, where in ((images, labels, "label", labels_at), (labels, images, "image", images_at)):
        if alone := sorted(set(these) - set(others)):
            raise DataError(
                f"{'an' if kind == 'image' else 'a'} {kind} named {alone[0]} in {where}",
                f"none for {len(alone)} of {len(these)} files",
                f"add the missing {kind}s or move the files without one away",
                these[alone[0]],
            )
    for path in labels.values():
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise DataError("a lossless label file", "JPEG, which alters label ids", "use the PNG original", path)
    return [Frame(name, images[name], labels[name]) for name in sorted(images)]


def pair_folders(images: Path, labels: Path, image_suffix: str = "", label_suffix: str = "") -> list[Frame]:
    """The frames of a pair of folders; see `list_images` and `pair_frames`."""
    return pair_frames(list_images(images, image_suffix), list_images(labels, label_suffix), images, labels)


def build_dataset(frames: list[Frame]) -> Dataset:
    """A dataset of paths to the frames' own files, which are read when a row is."""
    columns = {
        # Absolute, so that a later change of the working folder leaves them valid.
        "image": [str(frame.image.absolute()) for frame in frames],
        "label": [str(frame.label.absolute()) for frame in frames],
        "name": [frame.name for frame in frames],
    }
    return Dataset.from_dict(columns, features=FEATURES)
