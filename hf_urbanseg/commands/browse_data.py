"""Shows a data set: class distribution, sizes, frames with their labels, and what augmentation makes of them."""

import argparse
import logging
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import AugmentationArguments, DataArguments, option
from hf_urbanseg.data.loading import LoadedData, load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.data.preprocessing import TrainDataset
from hf_urbanseg.data.transforms import build_train_transforms, parse_scales
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.recipe import load_recipe, parse_arguments
from hf_urbanseg.reports.contact_sheet import Cell, save_contact_sheet
from hf_urbanseg.reports.data_pages import (
    ChosenFrame,
    Preview,
    choose_frames,
    describe_choice,
    describe_cover,
    draw_labels,
    label_legend,
    show_sample,
    stack,
    write_data_page,
)
from hf_urbanseg.reports.plots import plot_class_distribution
from hf_urbanseg.training_arguments import UrbanSegTrainingArguments


@dataclass
class BrowseArguments:
    """What to show."""

    recipe: str | None = option(
        None, "Recipe whose data, augmentation and seed are shown; options on the command line win."
    )
    split: str = option("train", "Split to show.")
    output: str = option("data_pages", "Folder for index.html and the pictures; made if missing.")
    num_samples: int = option(16, "Frames shown with their labels.")
    num_augmented: int = option(4, "Training frames shown augmented; 0 for none.")
    num_epochs: int = option(5, "Times each of them is augmented, as in so many epochs.")
    seed: int = option(UrbanSegTrainingArguments.seed, "Seed of the training whose augmentation is shown.")

    def __post_init__(self):
        for name, least in (("num_samples", 1), ("num_augmented", 0), ("num_epochs", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"`--{name}` of at least {least}", f"{getattr(self, name)}", "correct it")


def main() -> None:
    """Entry point of `urbanseg-browse-data` and scripts/browse_data.py."""
    run_command(_browse)


def _browse() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    args, data_args, augmentation = _parse()
    data = load_data(**asdict(data_args))
    if args.split not in data.splits:
        raise ConfigError(f"a split of {', '.join(data.splits)}", f"`{args.split}`", "choose one with `--split`")
    # All splits, so that an image in two of them is noticed.
    inspection = inspect_pairs(data.splits, data.label_space)
    image_counts = inspection.train_id_counts(args.split, data.label_space)
    output = Path(args.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("a folder for `--output`", error.strerror or str(error), "choose another", output) from error
    chart = output / "class_distribution.png"
    title = f"Labelled pixels: {data.name}, {args.split}, {len(image_counts)} images"
    plot_class_distribution(image_counts.sum(0), data.label_space, chart, title=title)
    frames = choose_frames(image_counts, args.num_samples)
    samples = _draw_samples(data, args.split, frames, image_counts, output)
    augmented = _draw_augmented(data, args, augmentation, image_counts, output)
    write_data_page(
        output / "index.html",
        data=data,
        split=args.split,
        inspection=inspection,
        image_counts=image_counts,
        frames=frames,
        samples=samples,
        augmented=augmented,
        augmentation=asdict(augmentation) | {"seed": args.seed},
        distribution=chart,
    )
    pictures = ["class_distribution.png", "samples.png", *(["augmentations.png"] if augmented else [])]
    print(f"Wrote {output / 'index.html'} and beside it {', '.join(pictures)}.")


def _parse() -> tuple[BrowseArguments, DataArguments, AugmentationArguments]:
    types = (BrowseArguments, DataArguments, AugmentationArguments)
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--recipe")
    name = chosen.parse_known_args()[0].recipe
    if name is None:
        return parse_arguments(types, description=__doc__)
    # The rest of the recipe is about training; finetune checks it.
    known = {f.name for f in fields(DataArguments) + fields(AugmentationArguments)} | {"seed"}
    recipe = {key: value for key, value in load_recipe(name).items() if key in known}
    return parse_arguments(types, recipe=recipe, recipe_path=name, description=__doc__)


def _draw_samples(
    data: LoadedData, split: str, frames: list[ChosenFrame], image_counts: np.ndarray, output: Path
) -> list[Preview]:
    rows, space = data.splits[split], data.label_space
    previews, cells = [], []
    for frame in frames:
        row = rows[frame.index]
        image = np.asarray(row["image"].convert("RGB"))
        labelled = draw_labels(image, space.train_id_table[np.asarray(row["label"])], space)
        caption = describe_choice(frame, space)
        previews.append(Preview(row["name"], caption, (image, labelled)))
        cells.append(Cell(stack((image, labelled)), f"{row['name']}: {caption}" if caption else row["name"]))
    title = f"{data.name}, {split}: {len(cells)} of {len(rows)} frames; {describe_cover(frames, image_counts, space)}"
    save_contact_sheet(output / "samples.png", cells, 4, title, label_legend(space, image_counts.sum(0)))
    return previews


def _draw_augmented(
    data: LoadedData, args: BrowseArguments, augmentation: AugmentationArguments, image_counts, output: Path
) -> list[Preview]:
    """Training frames only: others are never augmented."""
    sheet = output / "augmentations.png"
    if args.split != "train" or not args.num_augmented:
        sheet.unlink(missing_ok=True)  # of an earlier start, of other data perhaps
        return []
    transforms = build_train_transforms(
        tuple(augmentation.crop_size),
        parse_scales(augmentation.train_scales),
        augmentation.max_class_share,
        augmentation.flip,
        augmentation.photometric,
    )
    rows, space = data.splits["train"], data.label_space
    dataset = TrainDataset(rows, space, transforms, args.seed)
    previews, cells = [], []
    frames = choose_frames(image_counts, args.num_augmented)
    for frame in frames:
        name = rows[frame.index]["name"]
        for epoch in range(args.num_epochs):
            pictures = show_sample(dataset[epoch, frame.index], space)
            previews.append(Preview(name, f"epoch {epoch}", pictures))
            cells.append(Cell(stack(pictures), f"{name}, epoch {epoch}"))
    title = f"{data.name}: training samples as augmentation makes them, seed {args.seed}"
    legend = label_legend(space, image_counts[[frame.index for frame in frames]].sum(0), padding=True)
    save_contact_sheet(sheet, cells, args.num_epochs, title, legend, 280)
    return previews
