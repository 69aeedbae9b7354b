"""Runs the report's ladder of tricks, rung by rung and seed by seed, and sets our numbers beside the report's.

reproduce.py ladder --data_dir data_semantics.zip --size b0 [-- any option of finetune, for every run]
"""

import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import transformers

from hf_urbanseg.commands._ladder_runs import (
    LadderRun,
    describe_measurement,
    describe_model,
    describe_options,
    find_problems,
    find_state,
    plan_runs,
    read_metrics,
    read_result,
)
from hf_urbanseg.commands._run import run_command
from hf_urbanseg.commands._start import describe_end, start_finetune
from hf_urbanseg.config import DataArguments, option
from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.recipe import parse_arguments
from hf_urbanseg.reports.formats import format_seconds
from hf_urbanseg.reports.ladder import (
    RUNGS,
    build_ladder,
    describe_score,
    plot_ladder,
    write_ladder_table,
)
from hf_urbanseg.reports.run_files import write_json

_NUMBERS = [rung.number for rung in RUNGS]


@dataclass
class ReproduceArguments:
    """Which part of the ladder, and how its runs are started."""

    size: str = option(
        "b0",
        "SegFormer's size; the report's ladder is B2's, and tiny is for a CPU.",
        choices=["tiny", "b0", "b2", "b5"],
    )
    rungs: list[int] = option(_NUMBERS, f"Rungs to run: {', '.join(f'{r.number} {r.name}' for r in RUNGS)}.")
    seeds: list[int] = option([0, 1, 2], "Each rung is run once with each.")
    output_dir: str | None = option(None, "Folder of all runs and of the table and plot. Default: runs/ladder_<size>.")
    launcher: str | None = option(
        None, "What starts a module on several processes, such as `accelerate launch --num_processes 4`."
    )

    def __post_init__(self):
        self.rungs = sorted(set(self.rungs))
        self.seeds = list(dict.fromkeys(self.seeds))
        if unknown := [number for number in self.rungs if number not in _NUMBERS]:
            raise ConfigError(f"`--rungs` of 1..{len(RUNGS)}", f"{unknown[0]}", "correct it")
        if negative := [seed for seed in self.seeds if seed < 0]:
            raise ConfigError("`--seeds` of 0 or more", f"{negative[0]}", "correct it")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("one process that starts the others", "several", "name the launcher by `--launcher`")


def main() -> None:
    """Entry point of `urbanseg-reproduce` and scripts/reproduce.py."""
    run_command(_reproduce)


def _reproduce() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    transformers.utils.logging.disable_progress_bar()
    args, words = _parse(sys.argv[1:])
    output = Path(args.output_dir or f"runs/ladder_{args.size}")
    plan = plan_runs(args.size, args.seeds, output, words)
    chosen = [plan[rung, seed] for rung in args.rungs for seed in args.seeds]
    states = _check_everything(chosen, output)
    output.mkdir(parents=True, exist_ok=True)

    def report() -> str:
        return _write_report(output, args, plan, words)

    finished = sum(state == "finished" for state in states.values())
    print(f"{len(chosen)} runs, {finished} of them finished; everything goes to {output}/", flush=True)
    start = time.time()
    for index, run in enumerate(chosen, 1):
        if states[run.name] == "finished":
            continue
        what = f"[{index}/{len(chosen)}] {run.name}"
        log = output / "logs" / f"{run.name}.log"
        verb = "resumed" if states[run.name] == "started" else "started"
        elapsed = format_seconds(time.time() - start)
        print(f"{what}: {verb}, {elapsed} since the beginning; its log is {log}", flush=True)
        words_of_run = [*run.words, *(["--resume"] if states[run.name] == "started" else [])]
        with _stopwatch(output, run.name) as stopwatch:
            status = start_finetune(shlex.split(args.launcher or ""), words_of_run, log, what)
        took = format_seconds(stopwatch())
        report()
        if status != 0 or not (run.folder / "metrics.json").exists():
            raise ConfigError(
                f"{run.name} to finish",
                f"exit status {status}{describe_end(log)}",
                "read the log, mend it and start again: what is finished stays",
                log,
            )
        print(f"{what}: finished after {took}", flush=True)
    print(report())


def _parse(argv: Sequence[str]) -> tuple[ReproduceArguments, list[str]]:
    """Our options, and the words that every run gets."""
    argv = list(argv)
    own, extra = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    help_wanted = {"-h", "--help"} & set(own)
    if not help_wanted and own[:1] != ["ladder"]:
        raise ConfigError("`ladder`, what to reproduce, as the first word", f"`{' '.join(own[:1])}`", "add it")
    own = [word for word in own if word != "ladder" or help_wanted] if help_wanted else own[1:]
    args, data = parse_arguments((ReproduceArguments, DataArguments), own, description=__doc__)
    words = []
    for f in fields(DataArguments):
        value = getattr(data, f.name)
        if value != f.default:
            words += [f"--{f.name}", *map(str, value if isinstance(value, list) else [value])]
    if any(word.partition("=")[0] == "--hub_token" for word in extra):
        # It would stand in the ladder's files and in the list of processes.
        raise ConfigError("options without a token", "`--hub_token`", "put it into HF_TOKEN, or use `hf auth login`")
    return args, words + extra


def _check_everything(runs: Sequence[LadderRun], output: Path) -> dict[str, str]:
    """State of each run by its name; everything that is missing or in the way is named at once.

    Raises:
        UrbanSegError: The only problem, or how many were printed.
    """
    problems: list[UrbanSegError] = []
    if (output.exists() and not output.is_dir()) or (output / "metrics.json").exists():
        kind = "a single run" if output.is_dir() else "a file"
        problems.append(ConfigError("a folder for a ladder", kind, "name another `--output_dir`", output))
    states = {}
    for run in [] if problems else runs:
        try:
            states[run.name] = find_state(run)
        except UrbanSegError as error:
            problems.append(error)
    parent = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK):
        problems.append(ConfigError("a folder that can be written", "no permission", "change `--output_dir`", parent))
    problems += find_problems(run for run in runs if states.get(run.name) != "finished")
    if len(problems) == 1:
        raise problems[0]
    if problems:
        for problem in problems:
            print(f"problem: {problem}", file=sys.stderr)
        raise ConfigError(
            f"everything that {len(runs)} runs need",
            f"the {len(problems)} problems above",
            "mend them; nothing was run",
        )
    return states


@contextmanager
def _stopwatch(output: Path, name: str):
    """Adds the seconds inside to those of the run's earlier starts, also when it is interrupted."""
    start = time.time()

    def elapsed() -> float:
        return time.time() - start

    try:
        yield elapsed
    finally:
        times = _read_times(output)
        times[name] = [*times.get(name, []), round(elapsed(), 1)]
        write_json(output / "logs" / "seconds.json", times)


def _read_times(output: Path) -> dict[str, list[float]]:
    path = output / "logs" / "seconds.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write_report(output: Path, args: ReproduceArguments, plan: Mapping, words: Sequence[str]) -> str:
    """ladder.json, ladder.md and ladder.png from whatever is finished; returns what to print at the end."""
    notes = []
    finished, metrics = {}, {}
    for key, run in plan.items():
        try:
            if find_state(run) == "finished":
                metrics[key], finished[key] = read_metrics(run), run
        except UrbanSegError as error:  # of a rung that was not asked for
            notes.append(f"Left out: {error}")
    split = "test" if all("test" in content["splits"] for content in metrics.values()) else "validation"
    times = _read_times(output)
    results = {key: read_result(run, split, sum(times.get(run.name, []))) for key, run in finished.items()}
    ladder = build_ladder(results, args.seeds)
    notes = [*describe_measurement(finished, metrics, split), *describe_options(plan, words), *notes]
    data = next((content["data"]["name"] for content in metrics.values()), "no data yet")
    model = describe_model(next(iter(plan.values())))
    title = f"The ladder of tricks: {model} on {data}, {split} mIoU"
    write_json(
        output / "ladder.json",
        {"model": model, "data": data, "split": split, "options": list(words), "notes": notes, "rungs": ladder},
    )
    write_ladder_table(ladder, output / "ladder.md", title, notes)
    plot_ladder(ladder, output / "ladder.png", title)
    lines = [f"{split} mIoU in %, beside the report's for B2:"]
    for entry in ladder:
        ours = describe_score(entry)
        lines.append(f"  {entry['number']} {entry['name']:<15}{ours:<18}{100 * entry['report_mean_iou']:.2f}")
    return "\n".join([*lines, f"Table, plot and numbers: {output}/ladder.md, .png, .json"])
