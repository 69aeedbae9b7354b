"""One recipe over several seeds: what its finished runs measured, as numbers and words."""

from collections import namedtuple
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from hf_urbanseg.reports.formats import format_percent

# What a finished run measured: mIoU in [0, 1], `iou` by class name (None where it does not occur), wall time.
RunResult = namedtuple("RunResult", "mean_iou iou seconds")


def summarise_seeds(finished: Mapping[int, RunResult], seeds: Sequence[int]) -> dict:
    """Over the finished ones of the seeds asked for; what was not run is None, never a number.

    Returns:
        `status` (`run`, `partly run`, `not run`), `seeds` (finished); `mean_iou` (`mean`, `std` (sample, None for one
        seed), `min`, `max`, `values`), `seconds` (`mean`, `total`).
    """
    status = "run" if len(finished) == len(seeds) else "partly run" if finished else "not run"
    summary = {"status": status, "seeds": list(finished), "mean_iou": None, "seconds": None}
    if finished:
        values = [result.mean_iou for result in finished.values()]
        seconds = [result.seconds for result in finished.values()]
        summary["mean_iou"] = {
            "mean": fmean(values),
            "std": stdev(values) if len(values) > 1 else None,
            "min": min(values),
            "max": max(values),
            "values": {str(seed): result.mean_iou for seed, result in finished.items()},
        }
        summary["seconds"] = {"mean": fmean(seconds), "total": sum(seconds)}
    return summary


def describe_score(entry: Mapping) -> str:
    """`55.50 ± 1.25`, without spread for one seed, or `not run`."""
    score = entry["mean_iou"]
    if score is None:
        return "not run"
    return format_percent(score["mean"]) + ("" if score["std"] is None else f" ± {format_percent(score['std'])}")


def describe_seeds(entry: Mapping) -> str:
    """`0, 1`, and whether others are missing."""
    others = " (others not run)" if entry["status"] == "partly run" else ""
    return ", ".join(map(str, entry["seeds"])) + others
