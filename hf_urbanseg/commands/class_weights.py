"""Counts the pixels of every class, draws their distribution and writes the weights of the loss."""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import DataArguments
from hf_urbanseg.data.class_weights import Scheme, compute_class_weights, save_class_weights
from hf_urbanseg.data.loading import load_data
from hf_urbanseg.data.preflight.checks import inspect_pairs
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.labels import LabelSpace
from hf_urbanseg.recipe import parse_arguments
from hf_urbanseg.reports.plots import plot_class_distribution

logger = logging.getLogger(__name__)


@dataclass
class ClassWeightsArguments:
    """Which pixels are counted, and what becomes of the counts."""

    split: str = field(default="train", metadata={"help": "Split whose pixels are counted."})
    scheme: Scheme = field(
        default="inverse_log", metadata={"help": "How counts become weights; inverse_log is the report's."}
    )
    beta: float = field(default=0.9999, metadata={"help": "Of effective_number: 1 - 1e-7 suits whole street scenes."})
    output: str = field(
        default="class_weights.json", metadata={"help": "JSON file to write; a bar chart (.png) goes beside it."}
    )

    def __post_init__(self):
        if Path(self.output).suffix != ".json":
            raise ConfigError("a .json file as `output`", f"`{self.output}`", "end its name in .json")
        if not 0 <= self.beta < 1:
            raise ConfigError("`beta` of at least 0 and below 1", f"{self.beta}", "use 0.9999 or nearer to 1")


def _print_table(label_space: LabelSpace, counts: np.ndarray, weights: np.ndarray, title: str) -> None:
    table = Table(title=escape(title))
    table.add_column("class")
    for column in ("pixels", "share", "weight"):
        table.add_column(column, justify="right")
    for name, count, weight in zip(label_space.names, counts, weights, strict=True):
        table.add_row(escape(name), f"{count:,}", f"{count / counts.sum():.3%}", f"{weight:.8f}")
    Console().print(table)


def _compute_and_write() -> None:
    data_args, args = parse_arguments((DataArguments, ClassWeightsArguments), description=__doc__)
    data = load_data(**asdict(data_args))
    if args.split not in data.splits:
        raise ConfigError(f"a split of {', '.join(data.splits)}", f"`{args.split}`", "choose one with `--split`")
    if args.split != "train":
        logger.warning(
            "Weights from the statistics of %s leak them into training; use them to compare only, and train with "
            "those of --split train.",
            args.split,
        )
    # All splits, so that an image in two of them is noticed.
    image_counts = inspect_pairs(data.splits, data.label_space).train_id_counts(args.split, data.label_space)
    options = {"beta": args.beta} if args.scheme == "effective_number" else {}
    weights = compute_class_weights(image_counts, args.scheme, **options)
    counts = image_counts.sum(0)
    source = f"{data.name}, {args.split}, {len(image_counts)} images"
    output = Path(args.output)
    save_class_weights(output, weights, data.label_space, scheme=args.scheme, counts=counts, source=source)
    chart = output.with_suffix(".png")
    plot_class_distribution(counts, data.label_space, chart, weights=weights, title=f"Labelled pixels: {source}")
    _print_table(data.label_space, counts, weights, f"{args.scheme} weights: {source}")
    print(f"Wrote {output} and {chart}.")


def main() -> None:
    """Entry point of `urbanseg-class-weights` and scripts/class_weights.py."""
    run_command(_compute_and_write)
