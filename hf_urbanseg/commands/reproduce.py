"""Runs the report's ladder of tricks, rung by rung and seed by seed, and sets our numbers beside the report's.

Options behind `--` go to every run: `urbanseg reproduce ladder --data_dir data_semantics.zip --size b0 -- --bf16 true`.
"""

import re
import shlex
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from hf_urbanseg.command_line import command, help_if_asked
from hf_urbanseg.commands.crossval import FoldsArguments, run_folds
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import option
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.options.recipe import recipe_names
from hf_urbanseg.options.several_runs import SeveralRuns, launcher_option, spell_data, split_words
from hf_urbanseg.ranges import Range, Seed
from hf_urbanseg.reports.systems import ROWS

_RUNGS = "1 imagenet, 2 cityscapes, 3 schedule, 4 class_balanced, 5 ohem, 6 multi_scale, 7 auxiliary"
_TABLE = f"""Runs rows of the report's Table 1, seed by seed, and sets our numbers beside the report's.

Options behind `--` go to every run, and a `--size` there replaces every row's own:
`urbanseg reproduce table --data_dir data_semantics.zip --rows unet pspnet_resnet18 -- --size tiny`.

{textwrap.fill(f"Rows: {', '.join(ROWS)}.", 120)}"""


LEVERS = tuple(name.removeprefix("beyond/") for name in recipe_names() if re.match("beyond/[0-9]", name))
_BEYOND = f"""Cross-validates what goes beyond the report, lever by lever: each rung has one more than the one before.

Frames are dealt into folds of whole scenes, nothing is selected, and every change has an interval; docs/beyond.md.
`urbanseg reproduce beyond --size b0 --data_dir data_semantics.zip --final true -- --bf16 true`.

{textwrap.fill(f"Rungs: {', '.join(LEVERS)}.", 120)}"""


@dataclass
class LadderArguments(SeveralRuns):
    """Which part of the ladder, and how its runs are started."""

    size: str = option(
        "b0",
        "SegFormer's size; the report's ladder is B2's, and tiny is for a CPU.",
        choices=["tiny", "b0", "b2", "b5"],
    )
    rungs: list[Annotated[int, Range(1, 7)]] = option([1, 2, 3, 4, 5, 6, 7], f"Rungs to run: {_RUNGS}.")
    seeds: list[Seed] = option([0, 1, 2], "Each rung is run once with each.")
    output_dir: str | None = option(None, "Folder of all runs and of the table and plot. Default: runs/ladder_<size>.")
    launcher: str | None = launcher_option()

    def __post_init__(self):
        super().__post_init__()
        self.rungs = sorted(set(self.rungs))


@dataclass
class TableArguments(SeveralRuns):
    """Which part of the table, and how its runs are started."""

    rows: list[str] | None = option(
        None, "Rows to run, see above. Default: all; swin_cityscapes with `--swin_cityscapes`.", choices=ROWS
    )
    seeds: list[Seed] = option([0], "Each row is run once with each; the report has one.")
    swin_cityscapes: str | None = option(None, "Folder or Hub id that this row starts from: the Hub has none.")
    latency: bool = option(True, "Measure the latency of every row that was run, at the end, on this machine.")
    output_dir: str = option("runs/table", "Folder of all runs and of the table and plot.")
    launcher: str | None = launcher_option()

    def __post_init__(self):
        super().__post_init__()
        wanted = self.rows or [row for row in ROWS if row != "swin_cityscapes" or self.swin_cityscapes]
        self.rows = [row for row in ROWS if row in wanted]


@dataclass
class BeyondArguments(FoldsArguments):
    """Which levers, and how their runs are started."""

    size: str = option("b0", "SegFormer's size; tiny is for a CPU.", choices=["tiny", "b0", "b2", "b5"])
    rungs: list[str] | None = option(
        None, "Rungs to run, see above. Default: all whose data is named.", choices=list(LEVERS)
    )
    unlabelled: list[str] | None = option(None, "Folders of frames without labels, for rung 6_unlabelled and above.")
    add_data: list[str] | None = option(None, "Further data sets, for rung 7_more_data; as finetune's.")
    output_dir: str | None = option(None, "Folder of the folds, all runs, table and plot. Default: runs/beyond_<size>.")

    def __post_init__(self):
        super().__post_init__()
        further = {"6_unlabelled": ("unlabelled", self.unlabelled), "7_more_data": ("add_data", self.add_data)}
        for rung, (name, given) in further.items():
            if rung in (self.rungs or ()) and not given:
                raise ConfigError(f"`{name}` with rung {rung}", "none", "name it, or leave the rung out")
        wanted = self.rungs or [rung for rung in LEVERS if rung not in further or further[rung][1]]
        self.recipes = {}
        for rung in LEVERS:
            if rung in wanted:
                named = [(name, given) for least, (name, given) in further.items() if rung >= least and given]
                self.recipes[f"beyond/{rung}"] = [word for name, given in named for word in (f"--{name}", *given)]
        self.output_dir = self.output_dir or f"runs/beyond_{self.size}"


@command
def main(argv: list[str]) -> None:
    args, data, extra = _parse(argv)
    if isinstance(args, BeyondArguments):
        run_folds(args, args.recipes, data, extra, ladder=True)
        return
    words = spell_data(data) + extra
    from hf_urbanseg.reproduction.running import check_runs, run_all

    if isinstance(args, LadderArguments):
        from hf_urbanseg.reproduction.ladder import plan_ladder, write_ladder_report

        what, output = "ladder", Path(args.output_dir or f"runs/ladder_{args.size}")
        plan = plan_ladder(args.size, args.seeds, output, words)
        chosen = [plan[rung, seed] for rung in args.rungs for seed in args.seeds]
        report = last = partial(write_ladder_report, output, plan, args.seeds, words)
    else:
        from hf_urbanseg.reproduction.table1 import plan_table, write_table_report

        what, output = "table", Path(args.output_dir)
        plan = plan_table(args.rows, args.seeds, output, words, args.swin_cityscapes)
        chosen = [plan[row, seed] for row in args.rows for seed in args.seeds]
        report = partial(write_table_report, output, plan, args.seeds, words)
        last = partial(report, latency=args.latency)
    with locked(output):
        run_all(chosen, check_runs(chosen, output, what), output, shlex.split(args.launcher or ""), report)
        print(last())


def _parse(argv: list[str]) -> tuple[SeveralRuns, DataArguments, list[str]]:
    """Our options, the data, and further words that every run gets."""
    own, extra = split_words(argv)
    kinds = {
        "ladder": (LadderArguments, __doc__),
        "table": (TableArguments, _TABLE),
        "beyond": (BeyondArguments, _BEYOND),
    }
    kind = own[0] if own[:1] and own[0] in kinds else None
    types, said = (kinds[kind or "ladder"][0], DataArguments), kinds[kind or "ladder"][1]
    if kind is None:
        said += "\n`urbanseg reproduce table --help`: the systems of its Table 1 instead; `beyond`: what is better."
    usage = f"{kind or 'ladder|table|beyond'} [--option VALUE ...] [-- --option-of-finetune VALUE ...]"
    help_if_asked(own, types, said, f"reproduce {usage}")
    if kind is None:
        expected = "`ladder`, `table` or `beyond`, what to reproduce, as the first word"
        raise ConfigError(expected, f"`{' '.join(own[:1])}`", "add it")
    before = ["--test_fraction", "0"] if kind == "beyond" else []  # folds take its place
    args, data = parse_arguments(types, [*before, *own[1:]])
    return args, data, extra
