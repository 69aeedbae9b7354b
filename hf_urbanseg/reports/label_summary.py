"""What the label files of a set hold, in a few lines and three pictures."""

from pathlib import Path

import numpy as np

from hf_urbanseg.data.loading import LoadedData
from hf_urbanseg.data.preflight.checks import Inspection
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.reports.data_pages import choose_frames, draw_samples

_SHOWN = 3


def draw_summary(data: LoadedData, inspection: Inspection, folder: Path) -> str:
    """Writes three frames of the first split with their labels, which together show its classes; returns the name."""
    split = next(iter(data.splits))
    counts = inspection.train_id_counts(split, data.label_space)
    draw_samples(data, split, choose_frames(counts, _SHOWN), counts, folder)
    return "samples.png"


def list_shares(data: LoadedData, inspection: Inspection) -> list[str]:
    """Of every class, and then of void, its share of all pixels and the frames with it."""
    space, pairs = data.label_space, [pair for pairs in inspection.pairs.values() for pair in pairs]
    counts = np.concatenate([inspection.train_id_counts(split, space) for split in data.splits])
    total = sum(pair.size[0] * pair.size[1] for pair in pairs)
    found = zip(counts.sum(0).tolist(), (counts > 0).sum(0).tolist(), strict=True)
    lines = [f"{pixels / total:7.2%} of the pixels, in {seen} frames" for pixels, seen in found]
    return [*lines, f"{1 - counts.sum() / total:7.2%} of the pixels"]


def list_values(space: LabelSpace) -> list[str]:
    """Of every class, and then of void, what label files hold for it."""
    values = [[] for _ in range(space.num_labels + 1)]
    for value, train_id in space.label_ids.items():
        values[min(train_id, space.num_labels)].append(space.spell(value))
    return [", ".join(one) for one in values]
