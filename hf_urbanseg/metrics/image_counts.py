"""Pixel counts image by image: small, and enough for every score of any set of images."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from hf_urbanseg.errors import DataError
from hf_urbanseg.metrics.confusion_matrix import divide


@dataclass(frozen=True)
class ImageCounts:
    """Per image and class: pixels hit, labelled and predicted (void left out).

    Summed over images they give the scores of a split; resampled, a confidence interval; row by row, the best and the
    worst images. About 0.5 kB an image for 19 classes.

    Args:
        names: One per image, unique.
        classes: Class names in train-id order.
        hits, labelled, predicted: (N, C) int64 counts: label and prediction both the class; label; prediction.
        boundary: (N, 3, C) int64, *optional*: the same three counted within the boundary bands of boundary IoU.

    Raises:
        DataError: A name twice.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    hits: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray
    boundary: np.ndarray | None = None

    def __post_init__(self):
        if len(set(self.names)) != len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise DataError("each image once", f"{twice} twice", "measure again")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def iou(self) -> np.ndarray:
        """(N, C) float64: IoU of each class in each image, NaN where it is in neither label nor prediction."""
        return divide(self.hits, self.labelled + self.predicted - self.hits)

    @property
    def mean_iou(self) -> np.ndarray:
        """(N,) float64: mean over the classes that occur in the image; NaN for an image without labelled pixels."""
        return _nan_means(self.iou)

    @property
    def boundary_iou(self) -> np.ndarray | None:
        """(N, C) float64: IoU of the bands along the edges of each class, NaN as in `iou`; None if not measured."""
        if self.boundary is None:
            return None
        hits, labelled, predicted = np.moveaxis(self.boundary, 1, 0)
        return divide(hits, labelled + predicted - hits)

    @property
    def mean_boundary_iou(self) -> np.ndarray | None:
        """(N,) float64: mean of `boundary_iou` over the classes that occur in the image; None if not measured."""
        return None if self.boundary is None else _nan_means(self.boundary_iou)

    @property
    def overall_accuracy(self) -> np.ndarray:
        """(N,) float64: share of the labelled pixels that are right; NaN for an image without any."""
        return divide(self.hits.sum(1), self.labelled.sum(1))

    def total(self) -> "ImageCounts":
        """All images as one: its scores are those of the split (summed counts, not means of images)."""
        return self._map(("all images",), lambda counts: counts.sum(0, keepdims=True))

    @classmethod
    def concatenate(cls, parts: Iterable["ImageCounts"]) -> "ImageCounts":
        """Joins measurements of different images with the same classes (for example of several processes)."""
        parts = list(parts)
        return cls(
            tuple(name for part in parts for name in part.names),
            parts[0].classes,
            *(np.concatenate([getattr(part, key) for part in parts]) for key in ("hits", "labelled", "predicted")),
            None if parts[0].boundary is None else np.concatenate([part.boundary for part in parts]),
        )

    def select(self, indices: Iterable[int]) -> "ImageCounts":
        """These images, in this order."""
        indices = list(indices)
        return self._map(tuple(self.names[i] for i in indices), lambda counts: counts[indices])

    def _map(self, names: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray]) -> "ImageCounts":
        arrays = (self.hits, self.labelled, self.predicted, self.boundary)
        return ImageCounts(names, self.classes, *(None if array is None else change(array) for array in arrays))

    def to_dict(self) -> dict:
        """JSON-ready; `from_dict` reads it back."""
        keys = ("hits", "labelled", "predicted") + (("boundary",) if self.boundary is not None else ())
        lists = {key: getattr(self, key).tolist() for key in keys}
        return {"names": list(self.names), "classes": list(self.classes), **lists}

    @classmethod
    def from_dict(cls, description: Mapping, source: str = "image counts") -> "ImageCounts":
        """Reads what `to_dict` gave; a key that is missing or a value of another shape is a DataError."""
        try:
            names, classes = tuple(map(str, description["names"])), tuple(map(str, description["classes"]))
            shape = (len(names), len(classes))
            arrays = [np.array(description[key], np.int64).reshape(shape) for key in ("hits", "labelled", "predicted")]
            boundary = description.get("boundary")
            if boundary is not None:
                boundary = np.array(boundary, np.int64).reshape(shape[0], 3, shape[1])
            hits, labelled, predicted = arrays
            if (hits < 0).any() or (hits > np.minimum(labelled, predicted)).any():
                raise ValueError("hits of less than 0, or of more than were labelled or predicted")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            expected = "counts per image as `urbanseg evaluate` writes them"
            raise DataError(expected, reason, "measure again", source) from error
        return cls(names, classes, *arrays, boundary)


class ImageCountsBuilder:
    """Collects `ImageCounts` image by image: about 1 kB each, whatever the image's size."""

    def __init__(self, classes: Iterable[str]):
        self.classes = tuple(classes)
        self._names: list[str] = []
        self._rows: list[np.ndarray] = []
        self._bands: list[np.ndarray] = []

    def add(self, name: str, counts: np.ndarray, boundary: np.ndarray | None = None) -> None:
        """Adds one image.

        Shape:
            counts: (C, C) integers, array or tensor; row = label, as `ConfusionMatrix.update` returns them.
            boundary: (3, C) from `compute_boundary_counts`; for every image or for none.
        """
        # A tensor on a GPU is copied here: C x C numbers.
        counts = np.asarray(counts.cpu() if hasattr(counts, "cpu") else counts)
        self._names.append(name)
        self._rows.append(np.stack([np.diag(counts), counts.sum(1), counts.sum(0)]).astype(np.int64))
        if boundary is not None:
            self._bands.append(np.array(boundary, np.int64))

    def build(self) -> ImageCounts:
        """Everything added so far, in the order of adding."""
        rows = np.array(self._rows, np.int64).reshape(-1, 3, len(self.classes))
        bands = np.array(self._bands, np.int64) if self._bands else None
        return ImageCounts(tuple(self._names), self.classes, *np.moveaxis(rows, 1, 0), bands)


def _nan_means(values: np.ndarray) -> np.ndarray:
    present = ~np.isnan(values)
    return divide(np.where(present, values, 0).sum(1), present.sum(1))
