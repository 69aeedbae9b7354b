"""Starts runs one after the other; what is finished stays, what was stopped is resumed."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.files import check_place
from hf_urbanseg.locks import locked
from hf_urbanseg.reports.formats import format_seconds
from hf_urbanseg.reproduction.checks import find_problems
from hf_urbanseg.reproduction.plan import PlannedRun, find_state
from hf_urbanseg.reproduction.processes import describe_end, start_finetune
from hf_urbanseg.reproduction.results import add_time
from hf_urbanseg.runs.folder import RunFolder


def check_runs(runs: Sequence[PlannedRun], output: Path, what: str) -> dict[str, str]:
    """State of each run of a ladder or table (`what`), by its name; else everything that is missing or in the way.

    Raises:
        UrbanSegError: The only problem, or how many were printed.
    """
    problems: list[UrbanSegError] = []
    if RunFolder(output).is_finished:
        problems.append(ConfigError(f"a folder for a {what}", "a single run", "name another `--output_dir`", output))
    states = {}
    for run in [] if problems else runs:
        try:
            # As after kill -9 of this process, when the process that trains goes on.
            with locked(run.folder) if run.folder.is_dir() else nullcontext():
                states[run.name] = find_state(run)
        except UrbanSegError as error:
            problems.append(error)
    try:
        check_place(output, folder=True)
    except UrbanSegError as error:
        problems.append(error)
    problems += find_problems(run for run in runs if states.get(run.name) != "finished")
    if len(problems) == 1:
        raise problems[0]
    if problems:
        for problem in problems:
            print(f"problem: {problem}", file=sys.stderr)
        found = f"the {len(problems)} problems above"
        raise ConfigError(f"everything that {len(runs)} runs need", found, "mend them; nothing was run")
    return states


def run_all(
    runs: Sequence[PlannedRun],
    states: Mapping[str, str],
    output: Path,
    launcher: Sequence[str],
    report: Callable[[], object],
) -> None:
    """Runs what is not finished, in turn, and calls `report` after each; ConfigError where one did not finish."""
    output.mkdir(parents=True, exist_ok=True)
    finished = sum(state == "finished" for state in states.values())
    print(f"{len(runs)} runs, {finished} of them finished; everything goes to {output}/", flush=True)
    start = time.time()
    for index, run in enumerate(runs, 1):
        if states[run.name] == "finished":
            continue
        resumed = states[run.name] == "started"
        what = f"[{index}/{len(runs)}] {run.name}"
        log = output / "logs" / f"{run.name}.log"
        elapsed = format_seconds(time.time() - start)
        verb = "resumed" if resumed else "started"
        print(f"{what}: {verb}, {elapsed} since the beginning; its log is {log}", flush=True)
        begin = time.time()
        try:
            status = start_finetune(launcher, [*run.words, *(["--resume"] if resumed else [])], log, what)
        finally:  # also when interrupted: the seconds of all starts are added
            seconds = time.time() - begin
            add_time(output, run.name, seconds)
        report()
        if status != 0 or not RunFolder(run.folder).is_finished:
            found = f"exit status {status}{describe_end(log)}"
            fix = "read the log, mend it and start again: what is finished stays"
            raise ConfigError(f"{run.name} to finish", found, fix, log)
        print(f"{what}: finished after {format_seconds(seconds)}", flush=True)
