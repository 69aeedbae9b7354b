"""Pictures for a comparison: the images that changed most, as both runs predict them."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from datasets import Dataset

from hf_urbanseg.data.label_pictures import read_train_ids
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.rgb import to_array, to_rgb
from hf_urbanseg.errors import UrbanSegError
from hf_urbanseg.files import hash_file
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.models.loading import find_file
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.progress import show_progress
from hf_urbanseg.reports.comparison import Comparison
from hf_urbanseg.reports.overlays import find_classes
from hf_urbanseg.reports.pages import embed_frame
from hf_urbanseg.runs.folder import MEASURED, RECIPE, WEIGHTS, WEIGHTS_SHA256, RunFolder
from hf_urbanseg.runs.inputs import describe_frames
from hf_urbanseg.runs.measured import MeasuredRun
from hf_urbanseg.runs.recorded_data import load_recorded_data

_PIXELS = 230_000
_ROUNDING = 1e-3
"""Share of an image's pixels that another device or version may predict otherwise."""


class NoPictures(Exception):
    """Why a comparison has none, in words for its page; an error behind it, for the terminal, is its cause."""


@contextmanager
def _or_none(reason: str) -> Iterator[None]:
    try:
        yield
    except UrbanSegError as error:
        raise NoPictures(reason) from error


def draw_pictures(
    comparison: Comparison, data_args: DataArguments, count: int, device: str | None = None
) -> tuple[LabelSpace, dict[tuple[int, int], dict]]:
    """What the runs predict on the images that changed most, predicted once more from the recorded data.

    Args:
        data_args: Says where the data is now; without a data option, what the first run that recorded it did.
        count: Images to the better, and as many to the worse, of each run.

    Returns:
        The classes; and, by number of the change and index of the image, `pictures`, `classes` and `exact`, false where
        predicting again gave other pixels than were measured.

    Raises:
        NoPictures: The data or a model isn't there any more, or is another than was measured.
    """
    wanted = {
        (number, index)
        for number, change in enumerate(comparison.changes)
        for better in (True, False)
        for index in change.most_changed(count, better)
    }
    space, place, rows = _load_rows(comparison, data_args)
    names = comparison.first.counts.names
    predictors = {
        number: _load_predictor(comparison.runs[number], device)
        for number in sorted({0, *(number + 1 for number, _ in wanted)})
    }
    predicted, pictures = {}, {}
    with show_progress(len(wanted), "pictures", "image") as bar:
        for number, index in sorted(wanted):
            row = rows[place[names[index]]]
            image = to_rgb(row["image"])
            label = read_train_ids(row["label"], space)
            for run in (0, number + 1):
                if (run, index) not in predicted:
                    with _or_none(f"{comparison.runs[run].name} can't predict {names[index]} again"):
                        prediction = predictors[run].predict([to_array(row["image"])])[0]
                    predicted[run, index] = prediction, _is_measured(comparison, run, index, prediction, label)
            (before, before_exact), (after, after_exact) = predicted[0, index], predicted[number + 1, index]
            maps = {comparison.first.name: before, comparison.runs[number + 1].name: after}
            pictures[number, index] = {
                "pictures": embed_frame(names[index], image, label, maps, space, _PIXELS),
                "classes": find_classes(space, label, before, after),
                "exact": before_exact and after_exact,
            }
            bar.update()
    return space, pictures


def _load_rows(comparison: Comparison, data_args: DataArguments) -> tuple[LabelSpace, dict[str, int], Dataset]:
    """The classes, the place of each frame by name, and the frames: those that were measured, or none."""
    first, split = comparison.first, comparison.split
    recorded = (run for run in comparison.runs if any(map(RunFolder(run.folder).has, (RECIPE, MEASURED))))
    source = next(recorded, first)
    with _or_none(f"the data that {source.name} was measured on can't be read"):
        data = load_recorded_data(data_args, str(source.folder))
        inspection = inspect_pairs(data.splits, data.label_space, False, data.channels)  # from the cache, if trained on
    if data.label_space.names != first.counts.classes:
        raise NoPictures("the data has other classes than were measured")
    found = describe_frames(inspection).get(split, {})
    for run in comparison.runs:
        with _or_none(f"what {run.name} recorded of its frames can't be read"):
            digests = (RunFolder(run.folder).read_frames() or {}).get(split, {})
        changed = [
            name for name in first.counts.names if name not in found or digests.get(name, found[name]) != found[name]
        ]
        if changed:
            of = f"{len(changed)} of {len(first.counts)} frames"
            raise NoPictures(f"{of} are missing or others than {run.name} was measured on, first {changed[0]}")
    return data.label_space, {name: row for row, name in enumerate(data.splits[split]["name"])}, data.splits[split]


def _load_predictor(run: MeasuredRun, device: str | None) -> Predictor:
    """The run's model, which is the one that was measured, predicting as then."""
    with _or_none(f"the model of {run.name} can't be loaded"):
        source = RunFolder(run.folder).read_source() or {"model": str(run.folder), "revision": None}
        model, revision, measured = source["model"], source["revision"], source.get(WEIGHTS_SHA256)
        if measured and hash_file(find_file(model, WEIGHTS, revision)) != measured:
            raise NoPictures(f"the weights of {run.name} are others than were measured")
        return Predictor.from_pretrained(model, device, run.plan, revision)


def _is_measured(comparison: Comparison, run: int, index: int, prediction: np.ndarray, label: np.ndarray) -> bool:
    """Whether these pixels are those counted, rounding aside; NoPictures where the label is another one."""
    counts, valid = comparison.runs[run].counts, label != IGNORE_INDEX
    classes = len(counts.classes)
    if not np.array_equal(np.bincount(label[valid], minlength=classes), counts.labelled[index]):
        raise NoPictures(f"the label of {counts.names[index]} is another than was measured")
    again = np.bincount(prediction[valid], minlength=classes)
    return bool(np.abs(again - counts.predicted[index]).sum() <= _ROUNDING * max(valid.sum(), 1))
