"""The report's Table 1: its runs, and the table of them."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.inference.latency import build_model, measure_latency
from hf_urbanseg.inference.profile import describe_device
from hf_urbanseg.json_yaml import write_json
from hf_urbanseg.models.complexity import count_macs, count_parameters
from hf_urbanseg.models.loading import load_config
from hf_urbanseg.reports.seeds import describe_score
from hf_urbanseg.reports.systems import SYSTEMS
from hf_urbanseg.reports.table1 import Network, build_table, plot_table, write_table
from hf_urbanseg.reproduction.plan import Plan, check_words, plan_run, what_counts
from hf_urbanseg.reproduction.results import describe_measurement, describe_options, read_finished
from hf_urbanseg.runs.folder import RunFolder

_IMAGE_SIZE = (375, 1242)
_REPORT = (
    "*The report's* numbers (arXiv:2206.12571) are on a 150/50 split that is not published, with the checkpoint "
    "selected on test and, for its final entry at least, multi-scale testing: not the same measurement."
)
_COSTS = (
    "GMAC: multiply-accumulates of one pass at 375x1242, ours by the report's convention. Its SegFormers have a "
    "256-channel decoder, the Hub's B2 and B5 one of 768."
)


def plan_table(
    rows: Collection[str], seeds: Sequence[int], output: Path, words: Sequence[str], swin_cityscapes: str | None = None
) -> Plan:
    """Every row with every seed, by both, rows outside, in the report's order.

    Args:
        rows: Those to be run. Others, which the table shows if they were run before, are left out where they don't take
            the words.
        words: For every run; a `--size` among them replaces every row's own.
        swin_cityscapes: Model that the row of this name starts from.
    """
    check_words(words)
    plan = {}
    for system in SYSTEMS:
        if system.word in rows and system.teacher not in (None, *rows):
            for seed in seeds:
                if not RunFolder(folder := _folder(output, system.teacher, seed)).is_finished:
                    expected = f"the row {system.teacher}, which teaches {system.word}"
                    raise ConfigError(expected, "no finished run of it", "add it to `--rows`", folder)
        own = ["--model_name_or_path", swin_cityscapes] if system.word == "swin_cityscapes" and swin_cityscapes else []
        for seed in seeds:
            teacher = ["--teacher", str(_folder(output, system.teacher, seed))] if system.teacher else []
            own_words, folder = [*own, *teacher, *words], _folder(output, system.word, seed)
            try:
                plan[system.word, seed] = plan_run(folder, system.recipe, system.size, seed, own_words)
            except UrbanSegError:
                if system.word in rows:
                    raise
    return plan


def _folder(output: Path, row: str, seed: int) -> Path:
    return output / f"{row}_seed{seed}"


def write_table_report(
    output: Path, plan: Plan, seeds: Sequence[int], words: Sequence[str], latency: bool = False
) -> str:
    """table.json, table.md and table.png from whatever is finished; returns what to print at the end.

    To measure `latency` takes seconds a row.
    """
    finished = read_finished(output, plan)
    notes = [*describe_measurement(finished, _REPORT), _COSTS]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    networks, unsteady = {}, []
    for row, run in {row: run for (row, _), run in reversed(finished.runs.items())}.items():
        config, median = load_config(run.folder), None
        if latency:
            timing = measure_latency(build_model(config, "fp32").to(device), _IMAGE_SIZE, seconds=20)
            median = timing["label_map"]["median_ms"]
            unsteady += [] if timing["is_warm"] else [row]
        macs, parameters = count_macs(config, _IMAGE_SIZE), count_parameters(config)["total"]
        networks[row] = Network(run.model.size, run.model.init, macs / 1e9, parameters, median)
    if latency and networks:
        where = ", ".join(f"{name} {value}" for name, value in describe_device(device).items())
        notes.append(
            "Latency: median of one image at 375x1242 from pixels to label map, fp32, transformers' own layers; "
            f"{where}." + (f" Not steady when measured: {', '.join(sorted(unsteady))}." if unsteady else "")
        )
    table = build_table(finished.results, seeds, networks)
    notes += [*describe_options(words), *_describe_equal_rows(plan), *finished.left_out]
    data, split = finished.data, finished.split
    content = {"data": data, "split": split, "options": list(words), "notes": notes, "rows": table}
    write_json(output / "table.json", content)
    write_table(table, output / "table.md", f"The report's Table 1 on {data}, {split} mIoU", notes)
    bars = "; bars: standard deviation over seeds" if any((one["mean_iou"] or {}).get("std") for one in table) else ""
    ours = ", ".join(["blue", *sorted({word for entry in table for word in entry["instead"]})])
    plot_table(table, output / "table.png", f"Ours ({ours}): {split} of {data}{bars}")
    lines = [f"{split} mIoU in %, beside the report's:"]
    for entry in table:
        report = "-" if entry["report_mean_iou"] is None else f"{100 * entry['report_mean_iou']:.2f}"
        lines.append(f"  {entry['row']:<25}{describe_score(entry):<18}{report}")
    return "\n".join([*lines, f"Table, plot and numbers: {output}/table.md, .png, .json"])


def _describe_equal_rows(plan: Plan) -> list[str]:
    """Sentences on rows that the options of all runs make the same."""
    rows = {row: repr(what_counts(run)) for (row, _), run in plan.items()}
    groups = [", ".join(row for row in rows if rows[row] == one) for one in dict.fromkeys(rows.values())]
    return [f"With these options these rows are the same: {group}." for group in groups if "," in group]
