"""Folders of images and labels that a label-space file describes."""

from collections.abc import Mapping

from hf_urbanseg.data.columns import SPLIT_NAMES
from hf_urbanseg.data.image_files import UNSPLIT, build_dataset, pair_patterns
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.errors import DataError

LOOKS_LIKE = "folders that a `label_space` file with `splits` names"


def matches(request: DataRequest) -> bool:
    """Whether the path is a folder and the label space says where in it the images and labels are."""
    return bool(request.folders) and request.path is not None and request.path.is_dir()


def load(request: DataRequest) -> FoundData:
    """The splits as described; a single pair of folders is unsplit.

    The description has `splits` (split name -> `images`, `labels`) or one pair `images`, `labels`, relative to the
    path; a `*` in them stands for any part of a folder's name, the same on both sides, and frames of one folder are
    a scene. Optional `image_suffix` and `label_suffix` are taken off the stems before pairing. With
    `unlabelled_images` images without a label are left out.
    """
    folders, source = request.folders, request.label_space_name
    options = {key: str(folders.get(key) or "") for key in ("image_suffix", "label_suffix")}
    options["unlabelled_images"] = folders.get("unlabelled_images", False)
    if ("splits" in folders) == ("images" in folders or "labels" in folders):
        raise DataError("either `splits` or `images` and `labels`", "both or neither", "keep one form", source)
    described = folders.get("splits", {UNSPLIT: folders})
    if not isinstance(described, Mapping) or not described:
        raise DataError("`splits` with train, validation or test", f"{described!r}", "list the folders of each", source)
    splits, scenes = {}, []
    for their_name, pair in described.items():
        split = SPLIT_NAMES.get(str(their_name).lower())
        if split is None or split in splits or ("splits" in folders and split == UNSPLIT):
            fix = "rename it" if split is None or split == UNSPLIT else "keep one"
            raise DataError("splits named train, validation, test, each once", f"`{their_name}`", fix, source)
        if not isinstance(pair, Mapping) or not {"images", "labels"} <= set(pair):
            raise DataError("`images` and `labels`", f"{pair!r} for {their_name}", "name both folders", source)
        groups = pair_patterns(request.path, str(pair["images"]), str(pair["labels"]), **options)
        splits[split] = build_dataset(*groups)
        scenes += [list(group) for group in groups if len(groups) > 1]
    return FoundData(splits, request.label_space, request.label_space.name, scenes=scenes)
