"""Runs the report's ladder of tricks, rung by rung and seed by seed, and sets our numbers beside the report's.

Options behind `--` go to every run: `urbanseg reproduce ladder --data_dir data_semantics.zip --size b0 -- --bf16 true`.
"""

import os
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from hf_urbanseg.command_line import command, help_if_asked
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import DataArguments, Options, option
from hf_urbanseg.options.parsing import parse_arguments
from hf_urbanseg.ranges import Range, Seed

_RUNGS = "1 imagenet, 2 cityscapes, 3 schedule, 4 class_balanced, 5 ohem, 6 multi_scale, 7 auxiliary"


@dataclass
class ReproduceArguments(Options):
    """Which part of the ladder, and how its runs are started."""

    size: str = option(
        "b0",
        "SegFormer's size; the report's ladder is B2's, and tiny is for a CPU.",
        choices=["tiny", "b0", "b2", "b5"],
    )
    rungs: list[Annotated[int, Range(1, 7)]] = option([1, 2, 3, 4, 5, 6, 7], f"Rungs to run: {_RUNGS}.")
    seeds: list[Seed] = option([0, 1, 2], "Each rung is run once with each.")
    output_dir: str | None = option(None, "Folder of all runs and of the table and plot. Default: runs/ladder_<size>.")
    launcher: str | None = option(
        None, "What starts a module on several processes, such as `accelerate launch --num_processes 4`."
    )

    def __post_init__(self):
        super().__post_init__()
        self.rungs = sorted(set(self.rungs))
        self.seeds = list(dict.fromkeys(self.seeds))
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("one process that starts the others", "several", "name the launcher by `--launcher`")


@command
def main(argv: list[str]) -> None:
    args, words = _parse(argv)
    from hf_urbanseg.reproduction.ladder import plan_ladder, write_ladder_report
    from hf_urbanseg.reproduction.running import check_runs, run_all

    output = Path(args.output_dir or f"runs/ladder_{args.size}")
    plan = plan_ladder(args.size, args.seeds, output, words)
    chosen = [plan[rung, seed] for rung in args.rungs for seed in args.seeds]

    def report() -> str:
        return write_ladder_report(output, plan, args.seeds, words)

    with locked(output):
        run_all(chosen, check_runs(chosen, output, "ladder"), output, shlex.split(args.launcher or ""), report)
        print(report())


def _parse(argv: list[str]) -> tuple[ReproduceArguments, list[str]]:
    """Our options, and the words that every run gets."""
    own, extra = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    types = (ReproduceArguments, DataArguments)
    help_if_asked(own, types, __doc__, "reproduce ladder [--option VALUE ...] [-- --option-of-finetune VALUE ...]")
    if own[:1] != ["ladder"]:
        raise ConfigError("`ladder`, what to reproduce, as the first word", f"`{' '.join(own[:1])}`", "add it")
    args, data = parse_arguments(types, own[1:])
    words = []
    for f in fields(DataArguments):
        value = getattr(data, f.name)
        if value != f.default:
            words += [f"--{f.name}", *map(str, value if isinstance(value, list) else [value])]
    if any(word.partition("=")[0] == "--hub_token" for word in extra):
        # It would stand in the ladder's files and in the list of processes.
        raise ConfigError("options without a token", "`--hub_token`", "put it into HF_TOKEN, or use `hf auth login`")
    return args, words + extra
