"""Runs a ladder, rung by rung and seed by seed; what is finished stays, what was stopped is resumed."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.files import check_place, write_json
from hf_urbanseg.ladder.checks import find_problems
from hf_urbanseg.ladder.notes import describe_measurement, describe_model, describe_options
from hf_urbanseg.ladder.plan import LadderRun, find_state, read_metrics, read_result
from hf_urbanseg.ladder.processes import describe_end, start_finetune
from hf_urbanseg.locks import locked
from hf_urbanseg.reports.formats import format_seconds
from hf_urbanseg.reports.ladder import build_ladder, describe_score, plot_ladder, write_ladder_table
from hf_urbanseg.runs.folder import RunFolder


def check_ladder(runs: Sequence[LadderRun], output: Path) -> dict[str, str]:
    """State of each run by its name; everything that is missing or in the way is named at once.

    Raises:
        UrbanSegError: The only problem, or how many were printed.
    """
    problems: list[UrbanSegError] = []
    if RunFolder(output).is_finished:
        problems.append(ConfigError("a folder for a ladder", "a single run", "name another `--output_dir`", output))
    states = {}
    for run in [] if problems else runs:
        try:
            # As after kill -9 of the ladder, when the process that trains goes on.
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


def run_ladder(
    runs: Sequence[LadderRun],
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
            seconds, times = time.time() - begin, _read_times(output)
            times[run.name] = [*times.get(run.name, []), round(seconds, 1)]
            write_json(output / "logs" / "seconds.json", times)
        report()
        if status != 0 or not RunFolder(run.folder).is_finished:
            found = f"exit status {status}{describe_end(log)}"
            fix = "read the log, mend it and start again: what is finished stays"
            raise ConfigError(f"{run.name} to finish", found, fix, log)
        print(f"{what}: finished after {format_seconds(seconds)}", flush=True)


def write_ladder_report(
    output: Path, plan: Mapping[tuple[int, int], LadderRun], seeds: Sequence[int], words: Sequence[str]
) -> str:
    """ladder.json, ladder.md and ladder.png from whatever is finished; returns what to print at the end."""
    left_out, finished, metrics = [], {}, {}
    for key, run in plan.items():
        try:
            if find_state(run) == "finished":
                metrics[key], finished[key] = read_metrics(run), run
        except UrbanSegError as error:  # of a rung that was not asked for
            left_out.append(f"Left out: {error}")
    split = "test" if all("test" in content["splits"] for content in metrics.values()) else "validation"
    times = _read_times(output)
    results = {key: read_result(metrics[key], split, sum(times.get(run.name, []))) for key, run in finished.items()}
    ladder = build_ladder(results, seeds)
    notes = [*describe_measurement(finished, metrics, split), *describe_options(plan, words), *left_out]
    data = next((content["data"]["name"] for content in metrics.values()), "no data yet")
    model = describe_model(next(iter(plan.values())))
    title = f"The ladder of tricks: {model} on {data}, {split} mIoU"
    content = {"model": model, "data": data, "split": split, "options": list(words), "notes": notes, "rungs": ladder}
    write_json(output / "ladder.json", content)
    write_ladder_table(ladder, output / "ladder.md", title, notes)
    plot_ladder(ladder, output / "ladder.png", title)
    lines = [f"{split} mIoU in %, beside the report's for B2:"]
    for entry in ladder:
        ours = describe_score(entry)
        lines.append(f"  {entry['number']} {entry['name']:<15}{ours:<18}{100 * entry['report_mean_iou']:.2f}")
    return "\n".join([*lines, f"Table, plot and numbers: {output}/ladder.md, .png, .json"])


def _read_times(output: Path) -> dict[str, list[float]]:
    path = output / "logs" / "seconds.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
