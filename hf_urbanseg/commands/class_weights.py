"""Counts the pixels of every class, draws their distribution and writes the weights of the loss."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.escaping import build_console, flatten
from hf_urbanseg.files import check_place
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, option
from hf_urbanseg.ranges import ShareBelowOne

logger = logging.getLogger(__name__)


@dataclass
class ClassWeightsArguments(Options):
    """Which pixels are counted, and what becomes of the counts."""

    split: str = option("train", "Split whose pixels are counted.")
    scheme: str = option(
        "inverse_log",
        "How counts become weights; inverse_log is the report's.",
        choices=["inverse_log", "effective_number", "enet", "median_frequency", "none"],
    )
    beta: ShareBelowOne = option(0.9999, "Of effective_number: 1 - 1e-7 suits whole street scenes.")
    output: str = option(
        "class_weights/class_weights.json",
        "JSON file to write, its folder made if missing; a bar chart (.png) goes beside it.",
    )

    def __post_init__(self):
        super().__post_init__()
        if Path(self.output).suffix != ".json":
            raise ConfigError("a .json file as `output`", f"`{self.output}`", "end its name in .json")
        check_place(self.output)


@command
def main(argv: list[str]) -> None:
    usage = "class-weights --data_dir FOLDER [--option VALUE ...]"
    args, data_args = parse_command_line((ClassWeightsArguments, DataArguments), argv, __doc__, usage)
    from hf_urbanseg.data.class_weights import compute_class_weights, save_class_weights
    from hf_urbanseg.data.loading import load_data
    from hf_urbanseg.data.preflight.checks import inspect_pairs
    from hf_urbanseg.reports.plots import plot_class_distribution

    data = load_data(**asdict(data_args))
    rows = data.get_split(args.split)
    if args.split != "train":
        logger.warning(
            "Weights from the statistics of %s leak them into training; use them to compare only, and train with "
            "those of --split train.",
            args.split,
        )
    # All splits, so that an image in two of them is noticed.
    inspection = inspect_pairs(data.splits, data.label_space, channels=data.channels)
    image_counts = inspection.train_id_counts(args.split, data.label_space)
    options = {"beta": args.beta} if args.scheme == "effective_number" else {}
    weights, counts = compute_class_weights(image_counts, args.scheme, **options), image_counts.sum(0)
    source = f"{data.name}, {args.split}, {len(rows)} images"
    output = Path(args.output)
    save_class_weights(output, weights, data.label_space, scheme=args.scheme, counts=counts, source=source)
    chart = output.with_suffix(".png")
    plot_class_distribution(counts, data.label_space, chart, weights=weights, title=f"Labelled pixels: {source}")
    table = Table("class", title=flatten(f"{args.scheme} weights: {source}"))
    for column in ("pixels", "share", "weight"):
        table.add_column(column, justify="right")
    for name, count, weight in zip(data.label_space.names, counts, weights, strict=True):
        table.add_row(flatten(name), f"{count:,}", f"{count / counts.sum():.3%}", f"{weight:.8f}")
    build_console().print(table)
    print(f"Wrote {output} and {chart}.")
