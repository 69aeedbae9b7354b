"""Compares runs on the same images: scripts/compare.py RUN1 RUN2 ...; the first is what the others are compared to.

A run is a folder written by finetune.py, or by evaluate.py with --output.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import transformers

from hf_urbanseg.commands._recorded_data import recall_data_arguments
from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import DataArguments, check_device, option
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.errors import ConfigError, DataError, UrbanSegError
from hf_urbanseg.inference.predictor import Predictor, build_label_space
from hf_urbanseg.labels import IGNORE_INDEX
from hf_urbanseg.recipe import parse_arguments
from hf_urbanseg.reports.comparison import Comparison, compare_runs
from hf_urbanseg.reports.comparison_files import (
    ImagePictures,
    write_comparison_csv,
    write_comparison_page,
    write_comparison_table,
)
from hf_urbanseg.reports.comparison_plots import plot_miou_over_gmac
from hf_urbanseg.reports.measured_runs import load_measurement, name_runs

_ROUNDING = 1e-3
"""Share of an image's pixels that another device or version may predict otherwise."""


@dataclass
class CompareArguments:
    """Which runs, and what is shown of them."""

    runs: list[str] = field(metadata={"help": "Folders of two or more runs; may stand first, without --runs."})
    split: str | None = option(None, "Split to compare on; default: test if all were measured on it, else validation.")
    output: str = option("comparison", "Folder for the tables, the figure and comparison.html; made if missing.")
    num_images: int = option(5, "Images listed that got better, and as many that got worse.")
    show_images: int = option(
        3, "Of those, how many with pictures (the data is loaded and predicted again); 0 for none."
    )
    device: str | None = option(None, "`cpu`, `cuda`, ... for the pictures; default: the GPU if there is one.")

    def __post_init__(self):
        if len(self.runs) < 2:
            raise ConfigError("two runs or more", f"{len(self.runs)}", "name the folder of another run")
        if min(self.num_images, self.show_images) < 0:
            raise ConfigError("0 or more images", "less", "correct `--num_images`, `--show_images`")
        check_device(self.device)


def main() -> None:
    """Entry point of `urbanseg-compare` and scripts/compare.py."""
    run_command(_compare)


def _compare() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    transformers.utils.logging.disable_progress_bar()
    args, data_args = parse_arguments(
        (CompareArguments, DataArguments), _name_positionals(sys.argv[1:]), description=__doc__
    )
    split = args.split or _choose_split(args.runs)
    names = name_runs(args.runs)
    runs = [load_measurement(folder, split, name) for folder, name in zip(args.runs, names, strict=True)]
    comparison = compare_runs(runs, split)
    label_space = build_label_space(dict(enumerate(comparison.first.counts.classes)))
    pictures, note = {}, None
    if args.show_images:
        try:
            label_space, pictures = _draw_pictures(args, data_args, comparison)
        except UrbanSegError as error:  # the numbers stand without pictures
            note = str(error)
    output = Path(args.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        tradeoff = plot_miou_over_gmac(comparison, output / "miou_over_gmac.png")
        write_comparison_table(comparison, output / "comparison.md", args.num_images)
        write_comparison_csv(comparison, output / "comparison.csv")
    except OSError as error:
        raise ConfigError("a folder to write to", error.strerror or str(error), "name another", output) from error
    write_comparison_page(
        comparison, output / "comparison.html", label_space, tradeoff, args.num_images, pictures, note
    )
    _print_summary(comparison)
    if note:
        print(f"no pictures: {note}")
    print(f"Wrote {output / 'comparison.html'} and beside it comparison.md, comparison.csv, miou_over_gmac.png.")


def _name_positionals(words: Sequence[str]) -> list[str]:
    """Words in front of the first option are runs."""
    count = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    if count and "--runs" in words:
        raise ConfigError("the runs either first or behind `--runs`", "both", "name them in one place")
    return ["--runs", *words] if count else list(words)


def _choose_split(folders: Sequence[str]) -> str:
    for split in ("test", "validation"):
        if all((Path(folder) / f"per_image_{split}.json").is_file() for folder in folders):
            return split
    return "test"


def _draw_pictures(args: CompareArguments, data_args: DataArguments, comparison: Comparison):
    """What the runs predict on the images that changed most, predicted once more from the recorded data."""
    wanted = {
        (number, index)
        for number, change in enumerate(comparison.changes)
        for better in (True, False)
        for index in change.most_changed(min(args.show_images, args.num_images), better)
    }
    folders = [run.folder for run in comparison.runs]
    source = next((folder for folder in folders if (folder / "recipe.yaml").is_file()), folders[0])
    data = load_data(**asdict(recall_data_arguments(data_args, str(source))))
    space, names = data.label_space, comparison.first.counts.names
    if space.names != comparison.first.counts.classes:
        raise DataError("the classes that were measured", f"those of {data.name}", "say the data by its options")
    if comparison.split not in data.splits:
        raise DataError(f"a split {comparison.split}", ", ".join(data.splits), "say the data by its options")
    rows = data.splits[comparison.split]
    place = {name: row for row, name in enumerate(rows["name"])}
    predictors = {
        number: Predictor.from_pretrained(comparison.runs[number].folder, args.device)
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
        pictures[number, index] = ImagePictures(image, label, before, after, before_exact and after_exact)
    return space, pictures


def _is_measured(comparison: Comparison, run: int, index: int, prediction: np.ndarray, label: np.ndarray) -> bool:
    """Whether these pixels are those that were counted, rounding aside.

    Raises:
        DataError: The label is another one.
    """
    counts, valid = comparison.runs[run].counts, label != IGNORE_INDEX
    classes = len(counts.classes)
    if not np.array_equal(np.bincount(label[valid], minlength=classes), counts.labelled[index]):
        name = counts.names[index]
        raise DataError("the labels that were measured", f"others for {name}", "say the data by its options")
    again = np.bincount(prediction[valid], minlength=classes)
    return bool(np.abs(again - counts.predicted[index]).sum() <= _ROUNDING * max(valid.sum(), 1))


def _print_summary(comparison: Comparison) -> None:
    width = max(len(run.name) for run in comparison.runs)
    for number, (run, interval) in enumerate(zip(comparison.runs, comparison.intervals, strict=True)):
        line = f"{run.name:{width}}  mIoU {run.mean_iou:.2%} ({interval.low:.2%} to {interval.high:.2%})"
        if number:
            result = comparison.changes[number - 1].bootstrap
            line += f"  {100 * result.difference:+.2f} points, p {result.p_value:.4f}"
        print(f"{line}  {run.macs / 1e9:.1f} GMAC")
