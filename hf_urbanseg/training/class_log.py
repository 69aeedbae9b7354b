"""What training has seen of each class, where rare ones are shown more often than the data has them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

CLASS_COUNTS = ("drawn", "samples", "pixels", "pasted_pixels")
"""Of each class: samples drawn for it, samples that show it, its pixels in them, and those of them that are pasted."""


def count_classes(batch: Mapping[str, Tensor], num_labels: int) -> Tensor:
    """What a collated batch shows. Here and not in the workers, whose time is scarcer.

    Shape: returns (len(CLASS_COUNTS), num_labels) int64.
    """
    labels, drawn = batch["labels"].flatten(1).long(), batch["drawn"]
    places = labels + 256 * torch.arange(len(labels), device=labels.device)[:, None]
    pixels = torch.bincount(places.flatten(), minlength=256 * len(labels)).view(-1, 256)[:, :num_labels]
    by_class = torch.bincount(drawn[drawn >= 0], minlength=num_labels)
    return torch.stack([by_class, (pixels > 0).sum(0), pixels.sum(0), batch["pasted"].sum(0)])


class ClassLog:
    """Counts over all ranks from the run's first step on, through resumes; those of skipped steps, too.

    Args:
        names: Of the classes.

    Shape:
        counts, logged: (len(CLASS_COUNTS), num_labels) float64; of the counts, what log lines have said.
    """

    def __init__(self, names: Sequence[str], device: torch.device):
        self.names = list(names)
        self.counts = torch.zeros(len(CLASS_COUNTS), len(self.names), dtype=torch.float64, device=device)
        self.logged = self.counts

    def add(self, counts: Tensor) -> None:
        """Of one step, flat."""
        self.counts = self.counts + counts.view_as(self.counts)

    def drain(self) -> dict[str, int]:
        """`drawn_<class>` and `pixels_<class>` since the last log line, as far as they aren't 0."""
        found, self.logged = self._name(self.counts - self.logged), self.counts
        return {f"{key}_{name}": one[key] for key in ("drawn", "pixels") for name, one in found.items() if one[key]}

    def describe(self) -> dict[str, dict[str, int]]:
        return self._name(self.counts)

    def _name(self, counts: Tensor) -> dict[str, dict[str, int]]:
        return {
            name: {key: int(value) for key, value in zip(CLASS_COUNTS, column, strict=True)}
            for name, column in zip(self.names, counts.T.tolist(), strict=True)
        }

    def state(self) -> dict[str, list]:
        """For a checkpoint."""
        return {"counts": self.counts.tolist(), "logged": self.logged.tolist()}

    def load(self, state: dict[str, list]) -> None:
        """Goes on from what `state` gave."""
        for name, value in state.items():
            setattr(self, name, torch.tensor(value, dtype=torch.float64, device=self.counts.device))
