"""Folders of image and label files: what is in them, and which image belongs to which label."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from hf_urbanseg.errors import DataError
from hf_urbanseg.files import check_name, explain_missing

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".tif", ".tiff", ".webp", ".heic", ".heif")
ARRAY_SUFFIX = ".npy"
"""Of images where a folder has no others: beside pictures, arrays are something else, such as depth."""
FEATURES = Features({"image": Image(), "label": Image(), "name": Value("string")})
"""The columns of every split. `Image()` has no mode: a mode would convert palette labels into colours' brightness."""
UNSPLIT = "all"
"""The name of the only split of data that has none of its own."""


def choose_images(paths: Iterable[Path], suffixes: Collection[str] = IMAGE_SUFFIXES) -> list[Path]:
    """Those of `suffixes`, or if there are none the arrays; hidden files are left out."""
    shown = [path for path in paths if not path.name.startswith(".")]
    pictures = [path for path in shown if path.suffix.lower() in suffixes]
    return pictures or [path for path in shown if path.suffix.lower() == ARRAY_SUFFIX]


def list_images(folder: Path, suffix: str = "") -> dict[str, Path]:
    """Image files directly inside `folder` by name: the stem without `suffix`. Files without `suffix` are left out.

    A `*` in the suffix is any part of the name: `_label_*` takes `a_label_1` for the frame `a_1`.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else f"no such folder{explain_missing(folder)}"
        raise DataError("a folder of images", found, "check the data folder and its layout", folder)
    inside = sorted(folder.iterdir())
    shape = re.compile(f"(.*){re.escape(suffix)}".replace(r"\*", "(.*)"), re.DOTALL)
    found: dict[str, Path] = {}
    for path in choose_images(path for path in inside if shape.fullmatch(path.stem)):
        name = "_".join(shape.fullmatch(path.stem).groups())
        if name in found:
            twice = f"{found[name].name} and {path.name}"
            raise DataError("one file per frame", twice, "remove or rename one of them", path)
        found[name] = check_name(path)
    if not found:
        wanted = f"image files ending in `{suffix}`" if suffix else f"image files ({' '.join(IMAGE_SUFFIXES)})"
        some = ", ".join(path.name for path in inside[:3]) + (" ..." if len(inside) > 3 else "") or "an empty folder"
        fix = "put the files directly into this folder or name another"
        if suffix and any(path.suffix.lower() in IMAGE_SUFFIXES for path in inside):
            fix = "get or make the files that end so, or correct the suffix"
        raise DataError(wanted, some, fix, folder)
    return found


def pair_folders(
    images_at: Path, labels_at: Path, image_suffix: str = "", label_suffix: str = "", unlabelled_images: bool = False
) -> dict[str, tuple[Path, Path]]:
    """Images and labels of the same name in a pair of folders, sorted by it; see `list_images` for the suffixes.

    Images without a label are an error, or else left out.
    """
    images, labels = list_images(images_at, image_suffix), list_images(labels_at, label_suffix)
    if images_at == labels_at and not image_suffix:  # labels are beside their images, and no images of their own
        images = {name: path for name, path in images.items() if not name.endswith(label_suffix)}
    if unlabelled_images:
        images = {name: path for name, path in images.items() if name in labels}
    ways = (images, labels, "a label", labels_at), (labels, images, "an image", images_at)
    for these, others, kind, where in ways:
        if alone := sorted(set(these) - set(others)):
            expected = f"{kind} named {alone[0]} in {where}"
            found = f"none for {len(alone)} of {len(these)} files"
            raise DataError(expected, found, "add what is missing or move files without one away", these[alone[0]])
    return {name: (images[name], labels[name]) for name in sorted(images)}


def pair_patterns(root: Path, images: str, labels: str, **options) -> list[dict[str, tuple[Path, Path]]]:
    """The pairs of every pair of folders that two patterns name, such as `rgb/*/train` and `gt/*/train`.

    What the stars stand for is the same on both sides. Names that are not unique get it in front.

    Args:
        root: What the patterns are relative to; they may have any number of `*`, each for a part of one folder's name.
        options: Of `pair_folders`.
    """
    of_images, of_labels = ({_match(folder, root, pattern): folder for folder in _glob(root, pattern)}
                            for pattern in (images, labels))  # fmt: skip
    keys = of_labels if options.get("unlabelled_images") else {**of_images, **of_labels}
    if not keys:
        raise DataError(f"folders `{images}` and `{labels}`", "none", "check the data folder and its layout", root)
    found = {key: pair_folders(
        of_images.get(key, root / _fill(images, key)), of_labels.get(key, root / _fill(labels, key)), **options
    ) for key in sorted(keys)}  # fmt: skip
    names = [name for pairs in found.values() for name in pairs]
    if len(set(names)) == len(names):
        return list(found.values())
    return [{"_".join((*key, name)): pair for name, pair in pairs.items()} for key, pairs in found.items()]


def _glob(root: Path, pattern: str) -> list[Path]:
    # Without a star also what doesn't exist, so that the error names it.
    return sorted(path for path in root.glob(pattern) if path.is_dir()) if "*" in pattern else [root / pattern]


def _match(folder: Path, root: Path, pattern: str) -> tuple[str, ...]:
    """What the stars of the pattern stand for in a folder."""
    expression = re.escape(pattern.strip("/")).replace(r"\*", "([^/]*)")
    return re.fullmatch(expression, folder.relative_to(root).as_posix()).groups()


def _fill(pattern: str, key: Sequence[str]) -> str:
    parts = pattern.split("*")
    return parts[0] + "".join(word + part for word, part in zip(key, parts[1:], strict=True))


def undecode(rows: Dataset) -> Dataset:
    """The rows with their pictures as files: decoding would apply EXIF rotation unasked, and hide what a file is."""
    for column in ("image", "label"):
        rows = rows.cast_column(column, Image(decode=False)) if column in rows.features else rows
    return rows.with_format(None)


def build_dataset(*pair_groups: Mapping[str, tuple[Path, Path]]) -> Dataset:
    """A dataset of paths to the files of `pair_folders`, which are read when a row is."""
    pairs = {name: pair for pairs in pair_groups for name, pair in pairs.items()}
    # Absolute, so that a later change of the working folder leaves them valid.
    images, labels = ([str(pair[which].absolute()) for pair in pairs.values()] for which in (0, 1))
    return Dataset.from_dict({"image": images, "label": labels, "name": list(pairs)}, features=FEATURES)
