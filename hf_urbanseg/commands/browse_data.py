"""Shows a data set: class distribution, sizes, frames with their labels, and what augmentation makes of them."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from hf_urbanseg.command_line import command, help_if_asked
from hf_urbanseg.files import check_place
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import AugmentationArguments, DataArguments
from hf_urbanseg.options.fields import Options, option
from hf_urbanseg.options.parsing import find_option, parse_arguments
from hf_urbanseg.options.recipe import load_recipe
from hf_urbanseg.options.training_options import TrainingOptions
from hf_urbanseg.ranges import Count, Seed, Whole


@dataclass
class BrowseArguments(Options):
    """What to show."""

    recipe: str | None = option(
        None, "Recipe whose data, augmentation and seed are shown; options on the command line win."
    )
    split: str = option("train", "Split to show.")
    output: str = option("data_pages", "Folder for index.html and the pictures; made if missing.")
    num_samples: Whole = option(16, "Frames shown with their labels.")
    num_augmented: Count = option(4, "Training frames shown augmented; 0 for none.")
    num_epochs: Whole = option(5, "Times each of them is augmented, as in so many epochs.")
    seed: Seed = option(TrainingOptions.seed, "Seed of the training whose augmentation is shown.")

    def __post_init__(self):
        super().__post_init__()
        check_place(self.output, folder=True)


@command
def main(argv: list[str]) -> None:
    args, data_args, augmentation = _parse(argv)
    with locked(args.output):
        _browse(args, data_args, augmentation)


def _browse(args: BrowseArguments, data_args: DataArguments, augmentation: AugmentationArguments) -> None:
    from hf_urbanseg.data.loading import load_data
    from hf_urbanseg.data.preflight.checks import inspect_pairs
    from hf_urbanseg.data.transforms import build_train_transforms
    from hf_urbanseg.reports.data_pages import choose_frames, draw_augmented, draw_samples, write_data_page
    from hf_urbanseg.reports.plots import plot_class_distribution

    data = load_data(**asdict(data_args))
    data.get_split(args.split)
    # All splits, so that an image in two of them is noticed.
    inspection = inspect_pairs(data.splits, data.label_space, channels=data.channels)
    image_counts = inspection.train_id_counts(args.split, data.label_space)
    output = Path(args.output)
    chart = output / "class_distribution.png"
    title = f"Labelled pixels: {data.name}, {args.split}, {len(image_counts)} images"
    plot_class_distribution(image_counts.sum(0), data.label_space, chart, title=title)
    frames, augmented = choose_frames(image_counts, args.num_samples), {}
    if args.split == "train" and args.num_augmented:  # others are never augmented
        augmentation = augmentation.fit(inspection.sizes("train"))
        transforms = build_train_transforms(**asdict(augmentation))
        numbers = args.seed, args.num_augmented, args.num_epochs
        augmented = draw_augmented(data, transforms, *numbers, image_counts, output)
    else:
        (output / "augmentations.png").unlink(missing_ok=True)  # of an earlier start, of other data perhaps
    write_data_page(
        output / "index.html",
        data,
        args.split,
        inspection,
        image_counts,
        frames,
        chart,
        samples=draw_samples(data, args.split, frames, image_counts, output),
        augmented=augmented,
        augmentation=asdict(augmentation) | {"num_epochs": args.num_epochs, "seed": args.seed},
    )
    pictures = ["class_distribution.png", "samples.png", *(["augmentations.png"] if augmented else [])]
    print(f"Wrote {output / 'index.html'} and beside it {', '.join(pictures)}.")


def _parse(argv: list[str]) -> tuple[BrowseArguments, DataArguments, AugmentationArguments]:
    types = (BrowseArguments, DataArguments, AugmentationArguments)
    help_if_asked(argv, types, __doc__, "browse-data --data_dir FOLDER [--option VALUE ...]")
    name = find_option(argv, "recipe")
    if name is None:
        return parse_arguments(types, argv)
    # The rest of the recipe is about training; finetune checks it.
    known = {f.name for f in fields(DataArguments) + fields(AugmentationArguments)} | {"seed"}
    content = load_recipe(name)
    recipe = {key: value for key, value in content.items() if key in known}
    if content.get("data_seed") is not None:
        recipe["seed"] = content["data_seed"]
    return parse_arguments(types, argv, recipe, name)
