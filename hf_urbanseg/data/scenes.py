"""Frames of one scene, which belong on one side of every cut: found by the likeness of the pictures."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image as Pictures
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from hf_urbanseg.data.archive import cache_folder
from hf_urbanseg.data.image_files import undecode
from hf_urbanseg.data.pictures import open_picture, read_stored
from hf_urbanseg.data.preflight.cache import identify_file
from hf_urbanseg.data.rgb import to_rgb
from hf_urbanseg.errors import DataError
from hf_urbanseg.json_yaml import read_json, read_mapping, write_json
from hf_urbanseg.progress import show_progress

ALIKE = 0.7
"""Correlation from which two frames show one scene.

On 48 KITTI frames every pair above it is of one street, seen by eye; on 468 of CamVid 4 of 1,703 pairs above it are of
different drives. Too much in one group costs little, what is missed is a leak.
"""
_THUMBNAIL = (32, 16)
_FLAT = 2.0
"""Grey levels: a picture whose thumbnail varies less shows nothing that another could be like."""
_PIECE = 1024
_VERSION = 1
"""Raise it when another group would be found."""


def find_alike(rows: Dataset) -> list[list[str]]:
    """Groups of frames whose pictures are alike, each of two or more names, sorted.

    Pictures become thumbnails of 32 x 16 in RGB, each of mean 0 and deviation 1; what all of them share (the road
    below, the sky above) is taken off as their mean, and two are alike if the rest correlates by more than `ALIKE`.
    Whoever is like a member belongs to the group. What was found stays in `scenes` of `cache_folder()`, until a
    path, size, time or byte changes.

    Args:
        rows: Columns `image` and `name`.
    """
    stored = undecode(rows.select_columns(["image", "name"]))
    try:
        key = [str((_VERSION, ALIKE)), *(json.dumps([row["name"], *identify_file(row["image"])]) for row in stored)]
        file = cache_folder() / "scenes" / f"{hashlib.sha256(chr(10).join(key).encode()).hexdigest()}.json"
    except (OSError, ValueError, DataError):  # a file that can't be vouched for, or no home
        file = None
    try:
        if file and (cached := read_json(file)):
            return cached["scenes"]
    except (DataError, KeyError):
        pass  # damaged: it costs the cache alone
    scenes = _find_alike(stored, not rows.features["image"].decode)
    if file:
        with suppress(DataError):
            write_json(file, {"scenes": scenes}, indent=None)
    return scenes


def _find_alike(rows: Dataset, many_channels: bool) -> list[list[str]]:
    with ThreadPoolExecutor(8) as pool, show_progress(len(rows), "looking for scenes", "frame") as bar:

        def shrink(index: int) -> np.ndarray:
            small = _shrink(rows[index]["image"], many_channels)
            bar.update()
            return small

        found = np.stack([*pool.map(shrink, range(len(rows)))])
    found -= found.mean(1, keepdims=True)
    deviations = found.std(1, keepdims=True)
    shown = deviations[:, 0] > _FLAT
    found /= np.maximum(deviations, _FLAT)
    found -= found[shown].mean(0) if shown.any() else 0
    found[~shown] = 0
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
    pairs = []
    for start in range(0, len(found), _PIECE):  # the whole matrix of 100,000 frames would take 40 GB
        first, second = np.nonzero(found[start : start + _PIECE] @ found.T > ALIKE)
        pairs.append(np.stack([first + start, second]))
    first, second = np.concatenate(pairs, 1)
    graph = coo_matrix((np.ones(len(first), bool), (first, second)), (len(rows), len(rows)))
    groups: dict[int, list[str]] = {}
    for name, group in zip(rows["name"], connected_components(graph, directed=False)[1], strict=True):
        groups.setdefault(int(group), []).append(name)
    return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def _shrink(stored: Mapping, many_channels: bool) -> np.ndarray:
    """(W * H * 3,) float32; zeros for a picture that can't be read, which the preflight will name."""
    try:
        # Not as `datasets` opens it, which would wait for ever at a pipe, of an image or of the label beside it.
        picture = to_rgb(stored if many_channels else open_picture(read_stored(stored), stored["path"]))
        return np.asarray(picture.resize(_THUMBNAIL, Pictures.Resampling.BOX), np.float32).ravel()
    except Exception:  # decoders raise what they like
        return np.zeros(_THUMBNAIL[0] * _THUMBNAIL[1] * 3, np.float32)


def read_scenes(path: str | Path, names: Sequence[str]) -> list[list[str]]:
    """Groups from a YAML list `scenes` of lists of frame names, such as `urbanseg crossval` writes."""
    scenes = read_mapping(path, "scenes", words=True).get("scenes")
    sound = isinstance(scenes, list) and all(isinstance(scene, list) for scene in scenes)
    if not sound or not all(isinstance(name, str) for scene in scenes for name in scene):
        raise DataError("a list `scenes` of lists of frame names", f"{scenes!r:.60}", "correct it", path)
    if unknown := sorted({name for scene in scenes for name in scene} - set(names)):
        raise DataError("names of frames in the data", f"`{unknown[0]}`", "correct or remove it", path)
    return scenes


def describe_scenes(scenes: Sequence[Sequence[str]], how: str) -> str:
    """A sentence on groups, which names the largest."""
    largest = sorted(scenes, key=len, reverse=True)[:12]
    shown = "; ".join(" ".join(scene[:6]) + (" ..." if len(scene) > 6 else "") for scene in largest)
    more = f"; {len(scenes) - len(largest)} more" if len(scenes) > len(largest) else ""
    frames = sum(map(len, scenes))
    return f"scenes: {frames} frames in {len(scenes)} groups stay together, {how}: {shown}{more}"
