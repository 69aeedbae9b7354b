"""Folders of images and labels that a label-space file describes, one of the user's or of a known set."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from hf_urbanseg.data.columns import SPLIT_NAMES
from hf_urbanseg.data.image_files import UNSPLIT, build_dataset, pair_patterns
from hf_urbanseg.data.label_space_files import read_label_space, shipped_label_spaces
from hf_urbanseg.data.sources.request import DataRequest, FoundData
from hf_urbanseg.errors import DataError

LOOKS_LIKE = "folders of a known set (docs/data.md), or that a `label_space` file with `splits` names"


def matches(request: DataRequest) -> bool:
    """Whether the path is a folder, and the label space or its being a known set says where images and labels are."""
    if request.path is None or not request.path.is_dir():
        return False
    return bool(request.folders) or recognise_set(request.path) is not None


def load(request: DataRequest) -> FoundData:
    """The splits as described; a single pair of folders is unsplit.

    The description has `splits` (split name -> `images`, `labels`) or one pair `images`, `labels`, relative to the
    path; a `*` in them stands for any part of a folder's name, the same on both sides, and frames of one folder are
    a scene. Optional `image_suffix` and `label_suffix` are taken off the stems before pairing. With
    `unlabelled_images` images without a label are left out. A split may have `names`, a regular expression of the
    frames that are its own. `note` is a sentence on the splits.
    """
    if not request.folders:
        return _load_known(request, recognise_set(request.path))
    folders, source = request.folders, request.label_space_name
    options = {key: str(folders.get(key) or "") for key in ("image_suffix", "label_suffix")}
    options["unlabelled_images"] = folders.get("unlabelled_images", False)
    if ("splits" in folders) == ("images" in folders or "labels" in folders):
        raise DataError("either `splits` or `images` and `labels`", "both or neither", "keep one form", source)
    described = folders.get("splits", {UNSPLIT: folders})
    if not isinstance(described, Mapping) or not described:
        raise DataError("`splits` with train, validation or test", f"{described!r}", "list the folders of each", source)
    splits, scenes = {}, []
    paired, used = set(), set()
    for their_name, pair in described.items():
        split = SPLIT_NAMES.get(str(their_name).lower())
        if split is None or split in splits or ("splits" in folders and split == UNSPLIT):
            fix = "rename it" if split is None or split == UNSPLIT else "keep one"
            raise DataError("splits named train, validation, test, each once", f"`{their_name}`", fix, source)
        if not isinstance(pair, Mapping) or not {"images", "labels"} <= set(pair):
            raise DataError("`images` and `labels`", f"{pair!r} for {their_name}", "name both folders", source)
        groups = pair_patterns(request.path, str(pair["images"]), str(pair["labels"]), **options)
        paired |= {files for group in groups for files in group.values()}
        groups = [_select(group, pair.get("names"), source) for group in groups]
        used |= {files for group in groups for files in group.values()}
        splits[split] = build_dataset(*groups)
        scenes += [list(group) for group in groups if len(groups) > 1]
    notes = [str(folders["note"])] if folders.get("note") else []
    notes += [f"{len(paired - used)} frames are left out: their names are in no split"] if paired - used else []
    return FoundData(splits, request.label_space, request.label_space.name, notes, scenes)


def _load_known(request: DataRequest, name: str) -> FoundData:
    """A known set in its own classes, or in those asked for."""
    space, folders = read_label_space(name)
    space = request.label_space or space
    found = load(replace(request, folders=folders, label_space=space, label_space_name=name))
    how = " and ".join(folders["recognised_by"])
    note = f"{name}: recognised by its {how}; `--label_space` names other classes or another layout"
    return replace(found, name=name, notes=(note, *found.notes))


def _select(group: Mapping[str, tuple], names: str | None, source: str) -> Mapping[str, tuple]:
    """The frames that a split's `names` matches."""
    if names is None:
        return group
    try:
        wanted = re.compile(names)
    except (re.error, TypeError) as error:
        fix = "correct it"
        raise DataError("a regular expression as `names`", f"{names!r} ({error})", fix, source) from error
    return {name: files for name, files in group.items() if wanted.fullmatch(name)}


def recognise_set(root: Path) -> str | None:
    """The name of the shipped label space that is `recognised_by` what is in a folder, or None.

    Raises:
        DataError: There are several.
    """
    names = [name for name, paths in _read_marks().items() if all(any(root.glob(path)) for path in paths)]
    if len(names) > 1:
        fix = f"say which by `--label_space`, for example `--label_space {names[0]}`"
        raise DataError("the files of one known set", f"those of {' and '.join(names)}", fix, root)
    return names[0] if names else None


@cache  # of files that are installed with the package
def _read_marks() -> dict[str, list[str]]:
    # That line alone: the whole files take a third of a second, at every start.
    lines = {
        name: re.search("^recognised_by: .*$", path.read_text("utf-8"), re.MULTILINE)
        for name, path in shipped_label_spaces().items()
    }
    return {name: yaml.safe_load(line[0])["recognised_by"] for name, line in lines.items() if line}
