"""Pictures for a comparison: the images that changed most, as both runs predict them."""

from dataclasses import asdict

import numpy as np

from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.errors import DataError
from hf_urbanseg.inference.predictor import Predictor
from hf_urbanseg.labels import IGNORE_INDEX, LabelSpace
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.reports.comparison import Comparison
from hf_urbanseg.reports.overlays import find_classes
from hf_urbanseg.reports.pages import embed_frame
from hf_urbanseg.runs.folder import RECIPE, RunFolder
from hf_urbanseg.runs.recorded_data import recall_data_arguments

_PIXELS = 230_000
_ROUNDING = 1e-3
"""Share of an image's pixels that another device or version may predict otherwise."""


def draw_pictures(
    comparison: Comparison, data_args: DataArguments, count: int, device: str | None = None
) -> tuple[LabelSpace, dict[tuple[int, int], dict]]:
    """What the runs predict on the images that changed most, predicted once more from the recorded data.

    Args:
        data_args: Says where the data is now; without a data option, what the first run with a recipe recorded.
        count: Images to the better, and as many to the worse, of each run.

    Returns:
        The classes; and, by number of the change and index of the image, `pictures`, `classes` and `exact`, false where
        predicting again gave other pixels than were measured (another way of testing).

    Raises:
        DataError: Other data than was measured.
    """
    wanted = {
        (number, index)
        for number, change in enumerate(comparison.changes)
        for better in (True, False)
        for index in change.most_changed(count, better)
    }
    folders = [run.folder for run in comparison.runs]
    source = next((folder for folder in folders if RunFolder(folder).has(RECIPE)), folders[0])
    data = load_data(**asdict(recall_data_arguments(data_args, str(source))))
    space, names = data.label_space, comparison.first.counts.names
    if space.names != comparison.first.counts.classes:
        raise DataError("the classes that were measured", f"those of {data.name}", "say the data by its options")
    if comparison.split not in data.splits:
        raise DataError(f"a split {comparison.split}", ", ".join(data.splits), "say the data by its options")
    inspect_pairs(data.splits, data.label_space, progress=False)  # from the cache, where it was trained on
    rows = data.splits[comparison.split]
    place = {name: row for row, name in enumerate(rows["name"])}
    predictors = {
        number: Predictor.from_pretrained(comparison.runs[number].folder, device)
        for number in sorted({0, *(number + 1 for number, _ in wanted)})
    }
    predicted, pictures = {}, {}
    for number, index in sorted(wanted):
        if names[index] not in place:
            raise DataError("the images that were measured", f"no {names[index]}", "say the data by its options")
        row = rows[place[names[index]]]
        image = row["image"].convert("RGB")
        label = space.train_id_table[np.asarray(row["label"])]
        for run in (0, number + 1):
            if (run, index) not in predicted:
                prediction = predictors[run].predict([image])[0]
                predicted[run, index] = prediction, _is_measured(comparison, run, index, prediction, label)
        (before, before_exact), (after, after_exact) = predicted[0, index], predicted[number + 1, index]
        maps = {comparison.first.name: before, comparison.runs[number + 1].name: after}
        pictures[number, index] = {
            "pictures": embed_frame(names[index], image, label, maps, space, _PIXELS),
            "classes": find_classes(space, label, before, after),
            "exact": before_exact and after_exact,
        }
    return space, pictures


def _is_measured(comparison: Comparison, run: int, index: int, prediction: np.ndarray, label: np.ndarray) -> bool:
    """Whether these pixels are those counted, rounding aside; DataError where the label is another one."""
    counts, valid = comparison.runs[run].counts, label != IGNORE_INDEX
    classes = len(counts.classes)
    if not np.array_equal(np.bincount(label[valid], minlength=classes), counts.labelled[index]):
        name = counts.names[index]
        raise DataError("the labels that were measured", f"others for {name}", "say the data by its options")
    again = np.bincount(prediction[valid], minlength=classes)
    return bool(np.abs(again - counts.predicted[index]).sum() <= _ROUNDING * max(valid.sum(), 1))
