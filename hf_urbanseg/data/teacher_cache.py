"""What a teacher says of each frame: on disk, compact, and cut, scaled and mirrored as the frame's crops are."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hf_urbanseg.data.transforms import View
from hf_urbanseg.errors import DataError
from hf_urbanseg.files import hash_file, read_json, write_json, written_whole
from hf_urbanseg.labels import match_classes

TEACHER_FILE, SCORES_FILE = "teacher.json", "scores.arrow"
CELL = 4
"""Pixels of a crop along each side of a place with scores: the stride of SegFormer's logits."""
RANGE = 16.0
"""Below the best score others are kept to, e ** -16 = 1e-7 as a ratio of probabilities."""
_AGAIN = "run `urbanseg teach` on this data"
_SCHEMA = pa.schema(
    [("name", pa.string()), ("image_sha256", pa.string()), ("rows", pa.int32()), ("columns", pa.int32())]
    + [(name, pa.binary()) for name in ("best", "classes", "below")]
)


class Scores(NamedTuple):
    """Scores of an image's places: the best exactly (fp16), `top_k` classes and the mean of the others by how far
    below the best they are, in 8 or 16 bits.

    Shape:
        best: (h, w) float16. classes: (k, h, w) uint8. below: (k - 1 or k, h, w), the last that of the other classes.
    """

    best: np.ndarray
    classes: np.ndarray
    below: np.ndarray


def compress_scores(scores: Tensor, top_k: int, bits: int) -> Scores:
    """Shape: scores: (M, h, w) float, each place up to a constant that is kept."""
    top_k = min(top_k, len(scores))
    scores = scores.float()
    values, classes = scores.topk(top_k, dim=0)
    distances = [values[0] - values[1:]]
    if top_k < len(scores):
        others = scores.scatter(0, classes, -torch.inf).logsumexp(0) - np.log(len(scores) - top_k)
        distances.append((values[0] - others)[None])
    kind = {8: np.uint8, 16: np.uint16}[bits]
    most = np.iinfo(kind).max
    below = (torch.cat(distances) * (most / RANGE)).round().clamp(1, most)  # the best stays the best
    return Scores(
        values[0].cpu().numpy().astype(np.float16),
        classes.cpu().numpy().astype(np.uint8),
        below.cpu().numpy().astype(kind),
    )


def expand_scores(found: Scores, num_classes: int) -> np.ndarray:
    """Shape: returns (num_classes, h, w) float32."""
    best, kept = found.best.astype(np.float32), len(found.classes)
    below = found.below.astype(np.float32) * (RANGE / np.iinfo(found.below.dtype).max)
    scores = np.empty((num_classes, *best.shape), np.float32)
    if kept < num_classes:
        scores[:] = best - below[-1]
    ranked = np.concatenate([best[None], best - below[: kept - 1]])
    np.put_along_axis(scores, found.classes.astype(np.int64), ranked, 0)
    return scores


def write_teacher_cache(
    output: Path, frames: Iterable[tuple[str, str, Tensor]], description: Mapping, top_k: int, bits: int
) -> None:
    """Writes a cache; the folder appears complete or not at all.

    Args:
        frames: Name, SHA-256 of the image's file, scores (M, h, w).
        description: For `TEACHER_FILE`: `classes`, the M names, and what else is to be known.
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
    return (Path(path) / TEACHER_FILE).is_file()


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
        if len(below) != len(classes) - (len(classes) == len(self.names)):
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
    classes = content.get("classes")
    plausible = isinstance(classes, list) and all(isinstance(one, str) for one in classes)
    if not plausible or content.get("bits") not in (8, 16):
        raise DataError("the description of a teacher's scores", "something else", _AGAIN, path / TEACHER_FILE)
    if not file.is_file() or hash_file(file) != content.get("sha256"):
        found = "others" if file.is_file() else "none"
        raise DataError("the scores that were written with it", found, _AGAIN, file)
    return content
