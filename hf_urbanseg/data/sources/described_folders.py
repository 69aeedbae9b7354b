"""Folders of images and labels that a label-space file describes."""

from collections.abc import Mapping

from hf_urbanseg.data.image_files import UNSPLIT, build_dataset, pair_folders
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.errors import DataError

LOOKS_LIKE = "folders that a `label_space` file with `splits` names"


def matches(request: DataRequest) -> bool:
    """Whether the path is a folder and the label space says where in it the images and labels are."""
    return bool(request.folders) and request.path is not None and request.path.is_dir()


def load(request: DataRequest) -> FoundData:
    """The splits as described; a single pair of folders is unsplit.

    The description has `splits` (split name -> `images`, `labels`) or one pair `images`, `labels`, relative to the
    path; optional `image_suffix` and `label_suffix` are taken off the stems before pairing.
    """
    folders, source = request.folders, request.label_space_name
    suffixes = [str(folders.get(key) or "") for key in ("image_suffix", "label_suffix")]
    if ("splits" in folders) == ("images" in folders or "labels" in folders):
        raise DataError("either `splits` or `images` and `labels`", "both or neither", "keep one form", source)
    pairs = folders.get("splits", {UNSPLIT: folders})
    if not isinstance(pairs, Mapping) or not pairs:
        raise DataError("`splits` with train, validation or test", f"{pairs!r}", "list the folders of each", source)
    splits = {}
    for split, pair in pairs.items():
        if "splits" in folders and split not in ("train", "validation", "test"):
            raise DataError("splits named train, validation, test", f"`{split}`", "rename it", source)
        if not isinstance(pair, Mapping) or not {"images", "labels"} <= set(pair):
            raise DataError("`images` and `labels`", f"{pair!r} for {split}", "name both folders", source)
        images, labels = (request.path / str(pair[role]) for role in ("images", "labels"))
        splits[split] = build_dataset(pair_folders(images, labels, *suffixes))
    return FoundData(splits, request.label_space, request.label_space.name)
