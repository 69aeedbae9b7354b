"""Folders of image and label files: what is in them, and which image belongs to which label."""

from collections.abc import Mapping
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp")
FEATURES = Features({"image": Image(), "label": Image(), "name": Value("string")})
"""The columns of every split. `Image()` has no mode: a mode would convert palette labels into colours' brightness."""
UNSPLIT = "all"
"""The name of the only split of data that has none of its own."""


def list_images(folder: Path, suffix: str = "") -> dict[str, Path]:
    """Image files directly inside `folder` by name: the stem without `suffix`. Files without `suffix` are left out."""
    if not folder.is_dir():
        raise DataError("a folder of images", "no such folder", "check the data folder and its layout", folder)
    inside = sorted(folder.iterdir())
    found: dict[str, Path] = {}
    for path in inside:
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES or not path.stem.endswith(suffix):
            continue
        name = path.stem.removesuffix(suffix)
        if name in found:
            twice = f"{found[name].name} and {path.name}"
            raise DataError("one file per frame", twice, "remove or rename one of them", path)
        found[name] = check_name(path)
    if not found:
        wanted = f"image files ending in `{suffix}`" if suffix else f"image files ({' '.join(IMAGE_SUFFIXES)})"
        some = ", ".join(path.name for path in inside[:3]) + (" ..." if len(inside) > 3 else "") or "an empty folder"
        raise DataError(wanted, some, "put the files directly into this folder or name another", folder)
    return found


def pair_folders(
    images_at: Path, labels_at: Path, image_suffix: str = "", label_suffix: str = ""
) -> dict[str, tuple[Path, Path]]:
    """Images and labels of the same name in a pair of folders, sorted by it; see `list_images` for the suffixes."""
    images, labels = list_images(images_at, image_suffix), list_images(labels_at, label_suffix)
    for these, others, kind, where in (
        (images, labels, "a label", labels_at),
        (labels, images, "an image", images_at),
    ):
        if alone := sorted(set(these) - set(others)):
            expected = f"{kind} named {alone[0]} in {where}"
            found = f"none for {len(alone)} of {len(these)} files"
            raise DataError(expected, found, "add what is missing or move files without one away", these[alone[0]])
    for path in labels.values():
        if path.suffix.lower() in (".jpg", ".jpeg"):
            raise DataError("a lossless label file", "JPEG, which alters label ids", "use the PNG original", path)
    return {name: (images[name], labels[name]) for name in sorted(images)}


def build_dataset(pairs: Mapping[str, tuple[Path, Path]]) -> Dataset:
    """A dataset of paths to the files of `pair_folders`, which are read when a row is."""
    # Absolute, so that a later change of the working folder leaves them valid.
    images, labels = ([str(pair[which].absolute()) for pair in pairs.values()] for which in (0, 1))
    return Dataset.from_dict({"image": images, "label": labels, "name": list(pairs)}, features=FEATURES)
