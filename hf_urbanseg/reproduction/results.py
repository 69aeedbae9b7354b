"""What the finished ones of several runs measured, how long they took, and whether they can be compared."""

import json
import shlex
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.errors import DataError, UrbanSegError
from hf_urbanseg.hub.cards.markdown import code_span
from hf_urbanseg.json_yaml import write_json
from hf_urbanseg.reports.seeds import RunResult
from hf_urbanseg.reproduction.plan import Plan, PlannedRun, find_state
from hf_urbanseg.runs.folder import METRICS, RunFolder


@dataclass(frozen=True)
class Finished:
    """Runs that are finished, by the keys of their plan."""

    runs: dict[Hashable, PlannedRun]
    metrics: dict[Hashable, dict]
    split: str  # of which they all have scores
    results: dict[Hashable, RunResult]
    left_out: list[str]  # what is in the way of others, as sentences

    @property
    def data(self) -> str:
        return next((content["data"]["name"] for content in self.metrics.values()), "no data yet")


def read_finished(output: Path, plan: Plan) -> Finished:
    left_out, runs, metrics = [], {}, {}
    for key, run in plan.items():
        try:
            if find_state(run) == "finished":
                metrics[key], runs[key] = _read_metrics(run), run
        except UrbanSegError as error:  # of a run that was not asked for
            left_out.append(f"Left out: {error}")
    split = "test" if all("test" in content["splits"] for content in metrics.values()) else "validation"
    times = _read_times(output)
    results = {key: _read_result(metrics[key], split, sum(times.get(run.name, []))) for key, run in runs.items()}
    return Finished(runs, metrics, split, results, left_out)


def describe_measurement(finished: Finished, report: str) -> list[str]:
    """What the numbers of finished runs are and whether they can be compared; `report` says it of the report's."""
    runs, metrics, split = finished.runs, finished.metrics, finished.split
    if not runs:
        return ["Nothing is finished yet."]
    first = next(iter(metrics.values()))
    selections = " / ".join(sorted({content["selection"]["by"] for content in metrics.values()}))
    notes = [
        f"Ours: mIoU of `{split}` ({first['splits'][split]['num_images']} images), one scale, no flip; exported "
        f"checkpoint by: {selections}. Seeds differ in random weights, order and augmentation, not in the split; std "
        "is the sample's.",
        report,
    ]
    if split != "test":
        notes.append("There is no test split: these are scores of `validation`, which also selected the checkpoints.")
    if len({str(RunFolder(run.folder).read_splits()) for run in runs.values()}) > 1:
        notes.append("The runs had different frames in their splits: they can't be compared.")
    processes = sorted({content["training"]["processes"] for content in metrics.values()})
    devices = sorted({str(content["environment"]["device"]) for content in metrics.values()})
    batches = " or ".join(f"{count} process{'es' if count > 1 else ''}" for count in processes)
    notes.append(f"Trained on {' / '.join(devices)}, {batches}.")
    if len(processes) > 1:
        notes.append("The number of processes multiplies the batch: these runs had different batches.")
    return notes


def describe_options(words: Sequence[str]) -> list[str]:
    """The options of all runs."""
    return [f"Options of every run: {code_span(shlex.join(words))}."] if words else []


def add_time(output: Path, name: str, seconds: float) -> None:
    """Of one start of a run; those of all its starts are added."""
    times = _read_times(output)
    times[name] = [*times.get(name, []), round(seconds, 1)]
    write_json(output / "logs" / "seconds.json", times)


def _read_metrics(run: PlannedRun) -> dict:
    """Metrics of a finished run; DataError where they are damaged, or not what training wrote."""
    metrics = RunFolder(run.folder).read_metrics() or {}
    missing = [key for key in ("splits", "selection", "training", "environment") if not metrics.get(key)]
    if missing:
        fix = "restore it, or delete the run's folder to train it again"
        raise DataError("the metrics of a training run", f"no {', '.join(missing)}", fix, run.folder / METRICS)
    return metrics


def _read_result(metrics: dict, split: str, seconds: float) -> RunResult:
    """What a finished run measured on `split`; `seconds` is its wall time, if that is known to be longer."""
    scores = metrics["splits"][split]
    # The run itself only knows the time since it was resumed.
    return RunResult(scores["mean_iou"], scores["iou"], max(seconds, metrics["training"]["seconds"]))


def _read_times(output: Path) -> dict[str, list[float]]:
    path = output / "logs" / "seconds.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
