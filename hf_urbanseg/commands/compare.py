"""Compares runs on the same images: `urbanseg compare RUN1 RUN2 ...`; the first is what the others are compared to.

A run is a folder written by `urbanseg finetune`, or by `urbanseg evaluate` with --output.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.escaping import flatten
from hf_urbanseg.files import check_place
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, check_device, option, required
from hf_urbanseg.ranges import Count


@dataclass
class CompareArguments(Options):
    """Which runs, and what is shown of them."""

    runs: list[str] = required("Folders of two or more runs; may stand first, without --runs.")
    split: str | None = option(None, "Split to compare on; default: test if all were measured on it, else validation.")
    output: str = option("comparison", "Folder for the tables, the figure and comparison.html; made if missing.")
    num_images: Count = option(5, "Images listed that got better, and as many that got worse.")
    show_images: Count = option(
        3, "Of those, how many with pictures (the data is loaded and predicted again); 0 for none."
    )
    device: str | None = option(None, "`cpu`, `cuda`, ... for the pictures; default: the GPU if there is one.")

    def __post_init__(self):
        super().__post_init__()
        if len(self.runs) < 2:
            raise ConfigError("two runs or more", f"{len(self.runs)}", "name the folder of another run")
        check_device(self.device)
        check_place(self.output, folder=True)


@command
def main(argv: list[str]) -> None:
    usage = "compare RUN1 RUN2 ... [--option VALUE ...]"
    args, data_args = parse_command_line((CompareArguments, DataArguments), argv, __doc__, usage, ("runs",))
    with locked(args.output):
        _compare(args, data_args)


def _compare(args: CompareArguments, data_args: DataArguments) -> None:
    import transformers

    from hf_urbanseg.palettes import recolor
    from hf_urbanseg.reports.comparison import compare_runs
    from hf_urbanseg.reports.comparison_files import (
        write_comparison_csv,
        write_comparison_page,
        write_comparison_table,
    )
    from hf_urbanseg.reports.comparison_pictures import NoPictures, draw_pictures
    from hf_urbanseg.reports.comparison_plots import plot_miou_over_gmac
    from hf_urbanseg.runs.measured import choose_split, load_measurement, name_runs

    transformers.utils.logging.disable_progress_bar()
    split = args.split or choose_split(args.runs)
    names = name_runs(args.runs)
    runs = [load_measurement(folder, split, name) for folder, name in zip(args.runs, names, strict=True)]
    comparison = compare_runs(runs, split)
    label_space = _find_label_space(comparison)
    pictures, note = {}, None
    if args.show_images:
        try:
            label_space, pictures = draw_pictures(
                comparison, data_args, min(args.show_images, args.num_images), args.device
            )
        except NoPictures as reason:  # the numbers stand without
            note = str(reason)
            cause = f" ({reason.__cause__})" if reason.__cause__ else ""
            print(f"note: no pictures: {flatten(note)}{cause}")
    label_space = recolor(label_space, data_args.palette)
    output = Path(args.output)
    tradeoff = plot_miou_over_gmac(comparison, output / "miou_over_gmac.png")
    write_comparison_table(comparison, output / "comparison.md", args.num_images)
    write_comparison_csv(comparison, output / "comparison.csv")
    write_comparison_page(
        comparison, output / "comparison.html", label_space, tradeoff, args.num_images, pictures, note
    )
    _print_summary(comparison)
    print(f"Wrote {output / 'comparison.html'} and beside it comparison.md, comparison.csv, miou_over_gmac.png.")


def _find_label_space(comparison):
    """The classes measured, in the colours that a run's other pictures have."""
    from hf_urbanseg.inference.predictor import build_label_space
    from hf_urbanseg.runs.folder import RunFolder

    classes = comparison.first.counts.classes
    for run in comparison.runs:
        with suppress(UrbanSegError):
            space = RunFolder(run.folder).read_label_space()
            if space and space.names == classes:
                return space
    return build_label_space(dict(enumerate(classes)))


def _print_summary(comparison) -> None:
    names = [flatten(run.name) for run in comparison.runs]
    width = max(map(len, names))
    for number, (run, interval) in enumerate(zip(comparison.runs, comparison.intervals, strict=True)):
        line = f"{names[number]:{width}}  mIoU {run.mean_iou:.2%} ({interval.low:.2%} to {interval.high:.2%})"
        if number:
            result = comparison.changes[number - 1].bootstrap
            line += f"  {100 * result.difference:+.2f} points, p {result.p_value:.4f}"
        print(f"{line}  {run.macs / 1e9:.1f} GMAC")
