"""The ladder of tricks: its runs, and the report on them."""

from collections.abc import Sequence
from pathlib import Path

from hf_urbanseg.json_yaml import write_json
from hf_urbanseg.reports.ladder import RUNGS, build_ladder, plot_ladder, write_ladder_table
from hf_urbanseg.reports.seeds import describe_score
from hf_urbanseg.reproduction.plan import Plan, check_words, plan_run, what_counts
from hf_urbanseg.reproduction.results import describe_measurement, describe_options, read_finished

_REPORT = (
    "*The report's* numbers (arXiv:2206.12571) are SegFormer-B2's, on a 150/50 split that is not published, with "
    "the checkpoint selected on test and, from rung 6 on, multi-scale testing: not the same measurement."
)


def plan_ladder(size: str, seeds: Sequence[int], output: Path, words: Sequence[str]) -> Plan:
    """Every rung with every seed, by both, rungs outside."""
    check_words(words)
    names = {rung.number: f"{rung.number}_{rung.name}" for rung in RUNGS}
    return {
        (number, seed): plan_run(output / f"{name}_seed{seed}", f"ladder/{name}", size, seed, words)
        for number, name in names.items()
        for seed in seeds
    }


def write_ladder_report(output: Path, plan: Plan, seeds: Sequence[int], words: Sequence[str]) -> str:
    """ladder.json, ladder.md and ladder.png from whatever is finished; returns what to print at the end."""
    finished = read_finished(output, plan)
    ladder = build_ladder(finished.results, seeds)
    notes = [*describe_measurement(finished, _REPORT), *describe_options(words), *describe_equal_rungs(plan)]
    notes += finished.left_out
    data, split, model = finished.data, finished.split, _describe_model(plan)
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


def _describe_model(plan: Plan) -> str:
    """`SegFormer-B2`, or what the options of all runs put in its place."""
    models = [run.model for run in plan.values()]
    size = models[0].size
    if all(model.init == "random" for model in models):  # of `tiny`, rung 1 alone is
        return f"SegFormer-{size}, random at the start,"
    return f"SegFormer-{size if size == 'tiny' else size.upper()}"


def describe_equal_rungs(plan: Plan) -> list[str]:
    """Sentences on rungs that add nothing under the options of all runs."""
    by_rung = {number: run for (number, _), run in reversed(plan.items())}
    return [
        f"With these options rung {number} is the same as rung {number - 1}: it adds nothing."
        for number, run in sorted(by_rung.items())
        if number - 1 in by_rung and what_counts(run) == what_counts(by_rung[number - 1])
    ]
