"""Folders of images and of masks by their usual names, with the classes in a file beside them."""

from pathlib import Path

import numpy as np

from hf_urbanseg.data.class_files import CLASS_FILES, MissingClassesError, by_colors, find_class_file, read_class_file
from hf_urbanseg.data.columns import SPLIT_NAMES
from hf_urbanseg.data.image_files import UNSPLIT, build_dataset, choose_images, list_images, pair_folders
from hf_urbanseg.data.label_pictures import read_values
from hf_urbanseg.data.label_space_files import read_label_space
from hf_urbanseg.data.pictures import MOST_BYTES, open_picture
from hf_urbanseg.data.sources import described_folders
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import read_bytes
from hf_urbanseg.labels import LabelSpace

LOOKS_LIKE = "images/ and masks/ (or labels/, annotations/, SegmentationClass/)"
_IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "rgb")
_LABELS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "segmentationclass", "gt", "semantic",
    "ground_truth", "groundtruth",
)  # fmt: skip
_MASK_ENDS = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "_annotation", "_L", "-mask")
_IMAGE_ENDS = ("", "_image", "_img", "_rgb", "_sat")
_BESIDE = ("_labels", "_masks", "_label", "_mask", "annot", "_gt")
_LOOKED_AT = 20

Pair = tuple[Path, Path]
"""Folders of images and of labels, which may be one."""


def matches(request: DataRequest) -> bool:
    """Whether images and label pictures are found in a folder by their usual names."""
    return request.path is not None and request.path.is_dir() and bool(_find_pairs(request.path))


def load(request: DataRequest) -> FoundData:
    """The splits that the folders or VOC's lists (`ImageSets/Segmentation`) have.

    Labels in `masks`, `labels`, `annotations`, `SegmentationClass` and the like beside `images`, `JPEGImages`; in
    `train_labels` beside `train`; or beside their images as `x_mask.png`. Splits are folders around or inside these.
    Classes are those asked for, else of one of `CLASS_FILES` at the top.
    """
    root, notes, space, splits = request.path, [], request.label_space, {}
    file = None if space else find_class_file(root)
    if file and file.name.startswith("label_space."):
        space, where = read_label_space(str(file))
        if where:
            described = DataRequest(root, label_space_name=str(file), label_space=space, folders=where)
            return described_folders.load(described)
    folders = _find_pairs(root) if root.is_dir() else {}
    if not folders:
        fix = "check `--data_dir`, or describe the folders in a file for `--label_space`"
        raise DataError(f"folders of images and of masks, such as {LOOKS_LIKE}", "none", fix, root)
    for split, (images, labels) in folders.items():
        if split in splits:
            raise DataError(f"one {split} split", f"a second one at {images}", "remove or rename one", root)
        pairs, left_out = _pair(images, labels)
        splits[split] = pairs
        if left_out:
            notes.append(f"{split}: {left_out} images without a label are left out")
    if set(splits) == {UNSPLIT}:
        splits = _read_lists(root, splits[UNSPLIT], notes) or splits
    if space is None:
        if file is None:
            fix = f"see what the labels hold by `urbanseg label-space --data_dir {root}`, and write it with `--write`"
            files = ", ".join(CLASS_FILES[-6:])
            raise MissingClassesError(f"the classes, by `--classes` or in {files}", "none of them", fix, root)
        space, colors = read_class_file(file)
        paths = [label for pairs in splits.values() for _, label in pairs.values()]
        if colors and not _hold_ids(paths[:: max(1, len(paths) // _LOOKED_AT)], space):
            space = by_colors(space, colors)
        what = "colours" if space.encoding == "color" else "ids"
        notes.append(f"classes: of {file.name}, label files read as {what}")
    rows = {split: build_dataset(pairs) for split, pairs in splits.items()}
    return FoundData(rows, space, root.resolve().name, notes)


def _find_pairs(root: Path) -> dict[str, Pair]:
    """Folders of images and labels by split."""
    if pair := _both(root):
        inside = {folder.name: folder for folder in _folders(pair[0]) if _split_of(folder)}
        if not inside or _pictures(pair[0]):
            return {UNSPLIT: pair}
        return {_split_of(folder): (folder, pair[1] / name) for name, folder in inside.items()
                if _pictures(pair[1] / name)}  # fmt: skip
    around, found = [folder for folder in _folders(root) if _split_of(folder)], {}
    for folder in around:
        beside = (root / f"{folder.name}{end}" for end in _BESIDE)
        labels = next((one for one in beside if _pictures(one)), None)
        pair = _both(folder) or (labels and (folder, labels)) or (_is_beside(folder) and (folder, folder))
        if pair:
            found[_split_of(folder)] = pair
    if found:
        return found
    return next(({UNSPLIT: (folder, folder)} for folder in (root, root / "images") if _is_beside(folder)), {})


def _both(folder: Path) -> Pair | None:
    """The one folder of images and the one of labels in `folder`."""
    images, labels = ([one for name in names for one in _folders(folder) if one.name.lower() == name and _holds(one)]
                      for names in (_IMAGES, _LABELS))  # fmt: skip
    for found, kind in ((images, "images"), (labels, "labels")):
        if images and labels and len(found) > 1:
            names = " and ".join(one.name for one in found)
            fix = "keep one, or say which in a file for `--label_space`, as `images` and `labels`"
            raise DataError(f"one folder of {kind}", names, fix, folder)
    return (images[0], labels[0]) if images and labels else None


def _holds(folder: Path) -> bool:
    return any(_pictures(one) for one in (folder, *filter(_split_of, _folders(folder))))


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []


def _split_of(folder: Path) -> str | None:
    split = SPLIT_NAMES.get(folder.name.lower())
    return None if split == UNSPLIT else split


def _pictures(folder: Path) -> list[Path]:
    return choose_images(folder.iterdir()) if folder.is_dir() else []


def _is_beside(folder: Path) -> bool:
    """Whether some picture is the mask of another in the same folder."""
    stems = {path.stem for path in _pictures(folder)}
    return any(stem.endswith(end) and any(stem[: -len(end)] + mine in stems for mine in _IMAGE_ENDS)
               for stem in stems for end in _MASK_ENDS)  # fmt: skip


def _pair(images: Path, labels: Path) -> tuple[dict[str, tuple[Path, Path]], int]:
    """The pairs of two folders with whatever endings bring most together, and how many images VOC's have left."""
    stems = [{path.stem for path in _pictures(folder)} for folder in (images, labels)]

    def count(ends: tuple[str, str]) -> int:
        ours, theirs = ({stem.removesuffix(end) for stem in those if stem.endswith(end)}
                        for those, end in zip(stems, ends, strict=True))  # fmt: skip
        return len(ours & theirs)

    own = ("",) if images != labels else ()
    ends = max(((mine, end) for mine in _IMAGE_ENDS for end in (*own, *_MASK_ENDS)), key=count)
    partial = images.name.lower() == "jpegimages"  # most of VOC's have no mask
    pairs = pair_folders(images, labels, *ends, unlabelled_images=partial)
    return pairs, len(list_images(images, ends[0])) - len(pairs) if partial else 0


def _read_lists(root: Path, pairs: dict, notes: list[str]) -> dict[str, dict] | None:
    """The splits of VOC's lists of names."""
    lists = {SPLIT_NAMES.get(path.stem.lower()): path
             for path in sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))}  # fmt: skip
    lists.pop(None, None)
    if "train" not in lists:
        return None
    splits = {}
    for split, path in lists.items():
        names = read_bytes(path, 1 << 26).decode("utf-8-sig", "replace").split()
        if unknown := [name for name in names if name not in pairs]:
            found = f"`{unknown[0]}` and {len(unknown) - 1} others without"
            raise DataError("an image and a label for every name", found, "correct the list", path)
        splits[split] = {name: pairs[name] for name in sorted(set(names))}
    notes.append("splits: as listed in ImageSets/Segmentation")
    return {split: found for split, found in splits.items() if found}


def _hold_ids(paths: list[Path], space: LabelSpace) -> bool:
    """Whether these label files are grey and hold ids of the label space alone."""
    for path in paths:
        try:
            picture = open_picture(read_bytes(path, MOST_BYTES), path)
            if picture.mode not in ("1", "L", "I", "I;16"):
                return False
            values = np.unique(read_values(picture, "ids"))
        except Exception:  # whatever is wrong with it, the preflight tells
            continue
        if not space.label_ids.keys() >= set(values.tolist()):
            return False
    return True
