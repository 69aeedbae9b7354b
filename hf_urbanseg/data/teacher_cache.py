"""What a teacher says of each frame: on disk, compact, and cut, scaled and mirrored as the frame's crops are."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hf_urbanseg.class_names import match_classes
from hf_urbanseg.data.transforms import View
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import hash_file, written_whole
from hf_urbanseg.json_yaml import read_json, write_json

TEACHER_FILE, SCORES_FILE = "taught.json", "scores.arrow"
CELL = 4
"""Pixels of a crop along each side of a place with scores: the stride of SegFormer's logits."""
RANGE = 64.0
"""Below the best score others are kept to."""
_AGAIN = "run `urbanseg teach` on this data"
_SCHEMA = pa.schema(
    [("name", pa.string()), ("image_sha256", pa.string()), ("rows", pa.int32()), ("columns", pa.int32())]
    + [(name, pa.binary()) for name in ("best", "classes", "below")]
)


class Scores(NamedTuple):
    """Scores of an image's places: the best as it is, others by how far below they are, the closer the finer.

    A distance is RANGE times the square of an 8 or 16 bit share; in 8 bits one of 1 is within 0.03, one of 16 within
    0.13.

    Shape:
        best: (h, w) float16. classes: (k, h, w) uint8, the best first; k is 0 where all are kept.
        below: (classes, h, w) if all are kept, else (k, h, w), the last of them the mean of the other classes.
    """

    best: np.ndarray
    classes: np.ndarray
    below: np.ndarray


def compress_scores(scores: Tensor, top_k: int | None, bits: int) -> Scores:
    """Shape: scores: (M, h, w) float, each place up to a constant that is kept."""
    scores = scores.float()
    best, first = scores.max(0)
    if top_k is None or top_k >= len(scores):
        classes, distances = scores.new_empty((0, *best.shape)), best - scores
    else:
        values, classes = scores.topk(top_k, dim=0)
        others = scores.scatter(0, classes, -torch.inf).logsumexp(0) - np.log(len(scores) - top_k)
        distances = best - torch.cat([values[1:], others[None]])
    kind = {8: np.uint8, 16: np.uint16}[bits]
    most = np.iinfo(kind).max
    below = ((distances / RANGE).sqrt() * most).round().clamp(1, most)  # the best stays the best
    if not len(classes):
        below.scatter_(0, first[None], 0)
    best, classes, below = (one.cpu().numpy() for one in (best, classes, below))
    return Scores(best.astype(np.float16), classes.astype(np.uint8), below.astype(kind))


def expand_scores(found: Scores, num_classes: int) -> np.ndarray:
    """Shape: returns (num_classes, h, w) float32."""
    best = found.best.astype(np.float32)
    below = np.square(found.below.astype(np.float32) / np.iinfo(found.below.dtype).max) * RANGE
    if not len(found.classes):
        return best - below
    scores = np.empty((num_classes, *best.shape), np.float32)
    scores[:] = best - below[-1]
    ranked = np.concatenate([best[None], best - below[:-1]])
    np.put_along_axis(scores, found.classes.astype(np.int64), ranked, 0)
    return scores


def write_teacher_cache(
    output: Path,
    frames: Iterable[tuple[str, str, Tensor]],
    description: Mapping,
    top_k: int | None = None,
    bits: int = 8,
) -> None:
    """Writes a cache; the folder appears complete or not at all.

    Args:
        frames: Name, SHA-256 of the image's file, scores (M, h, w).
        description: For `TEACHER_FILE`, as `Teacher.describe` gives it: `name`, `classes` (the M names), `parameters`.
        top_k: Classes kept at each place; None keeps all.
    """
    with written_whole(output, folder=True) as staged:
        with pa.OSFile(str(staged / SCORES_FILE), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            for name, digest, scores in frames:
                found = compress_scores(scores, top_k, bits)
                row = [name, digest, *found.best.shape, *(part.tobytes() for part in found)]
                columns = [pa.array([value], field.type) for value, field in zip(row, _SCHEMA, strict=True)]
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        content = {**description, "top_k": top_k, "bits": bits, "sha256": hash_file(staged / SCORES_FILE)}
        write_json(staged / TEACHER_FILE, content)


def is_teacher_cache(path: str | Path) -> bool:
    return all((Path(path) / name).is_file() for name in (TEACHER_FILE, SCORES_FILE))


class TeacherCache:
    """A folder that `urbanseg teach` wrote, for the frames of a training split.

    Args:
        path: The folder; verified whole.
        class_names: Of the run; `taught` are their train ids that the cache has, by name.
        frames: Name -> SHA-256 of the image's file, in the order of the split.

    Raises:
        DataError: Damaged, or of other frames.
        ConfigError: No class in common.
    """

    def __init__(self, path: str | Path, class_names: Sequence[str], frames: Mapping[str, str]):
        self.path = Path(path)
        self.description = _read_description(self.path)
        self.names = tuple(self.description["classes"])
        pairs = match_classes(self.names, class_names, str(path))
        self._columns, self.taught = [their for their, _ in pairs], tuple(own for _, own in pairs)
        kept = self.description["top_k"]
        self.is_whole = kept is None or kept >= len(self.names)
        """Whether it has the scores of all classes."""
        self._file: pa.ipc.RecordBatchFileReader | None = None
        self._batches = self._find(frames)
        try:
            expand_scores(self.read(0), len(self.names))
        except (IndexError, ValueError) as error:
            raise DataError("scores as it describes them", str(error), _AGAIN, self.path / TEACHER_FILE) from error

    def _find(self, frames: Mapping[str, str]) -> list[int]:
        try:
            file = self._open()
            batches = [file.get_batch(index) for index in range(file.num_record_batches)]
            known = {one["name"][0].as_py(): (i, one["image_sha256"][0].as_py()) for i, one in enumerate(batches)}
        except (pa.ArrowException, OSError, KeyError, IndexError) as error:
            raise DataError("scores of frames", str(error).splitlines()[0], _AGAIN, self.path / SCORES_FILE) from error
        missing = [name for name in frames if name not in known]
        if missing:
            found = f"none of `{missing[0]}`" + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
            raise DataError("scores of every training frame", found, _AGAIN, self.path)
        for name, digest in frames.items():
            if known[name][1] != digest:
                expected = f"scores of the image `{name}` with SHA-256 {digest:.12}..."
                raise DataError(expected, f"of another, {known[name][1]:.12}...", _AGAIN, self.path)
        return [known[name][0] for name in frames]

    def _open(self) -> pa.ipc.RecordBatchFileReader:
        if self._file is None:
            self._file = pa.ipc.open_file(pa.memory_map(str(self.path / SCORES_FILE)))
        return self._file

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": None}  # spawned workers open it themselves

    def read(self, index: int) -> Scores:
        """Of the `index`-th frame of the split."""
        row = {name: column[0] for name, column in self._open().get_batch(self._batches[index]).to_pydict().items()}
        size, kind = (row["rows"], row["columns"]), {8: np.uint8, 16: np.uint16}[self.description["bits"]]
        best = np.frombuffer(row["best"], np.float16).reshape(size)
        classes = np.frombuffer(row["classes"], np.uint8).reshape(-1, *size)
        below = np.frombuffer(row["below"], kind).reshape(-1, *size)
        if len(below) != (len(self.names) if self.is_whole else len(classes)) or self.is_whole == bool(len(classes)):
            raise ValueError(f"{len(below)} distances of {len(classes)} classes")
        return Scores(best, classes, below)

    def cut(self, index: int, view: View, crop_size: tuple[int, int]) -> Tensor:
        """Scores of what a crop shows, one place for `CELL` pixels a side; anything where it is padding.

        Shape: returns (len(taught), ceil(height / CELL), ceil(width / CELL)) float16.
        """
        found = self.read(index)
        axes = []
        for axis, (start, mirrored) in enumerate(((view.top, False), (view.left, view.mirrored))):
            places = -(-crop_size[axis] // CELL)
            pixels = (np.arange(places) + 0.5) * crop_size[axis] / places  # centres, from the crop's edge
            pixels = view.extent[axis] - pixels if mirrored else pixels
            count = found.best.shape[axis]
            axes.append(_Resampling((pixels + start) * count / view.size[axis] - 0.5, count))
        rows, columns = axes
        part = Scores(*(one[..., rows.used, columns.used] for one in found))
        scores = expand_scores(part, len(self.names))[self._columns]
        return torch.from_numpy(columns.mix(rows.mix(scores, 1), 2).astype(np.float16))


class _Resampling:
    """Linear interpolation at some places of an axis, the ends repeated: as torch's bilinear resize."""

    def __init__(self, places: np.ndarray, count: int):
        places = places.clip(0, count - 1)
        low = places.astype(int)
        high = np.minimum(low + 1, count - 1)
        self.used = slice(int(low.min()), int(high.max()) + 1)
        self.low, self.high = low - self.used.start, high - self.used.start
        self.share = (places - low).astype(np.float32)

    def mix(self, values: np.ndarray, axis: int) -> np.ndarray:
        share = self.share[:, None] if axis == 1 else self.share
        low = values.take(self.low, axis)
        return low + (values.take(self.high, axis) - low) * share


def _read_description(path: Path) -> dict:
    content, file = read_json(path / TEACHER_FILE), path / SCORES_FILE
    kinds = {"name": str, "classes": list, "parameters": int, "bits": int, "top_k": int | None, "sha256": str}
    plausible = all(name in content and isinstance(content[name], kind) for name, kind in kinds.items())
    if not plausible or content["bits"] not in (8, 16) or not all(isinstance(one, str) for one in content["classes"]):
        raise DataError("the description of a teacher's scores", "something else", _AGAIN, path / TEACHER_FILE)
    if hash_file(file) != content["sha256"]:
        raise DataError("the scores that were written with it", "others", _AGAIN, file)
    return content
