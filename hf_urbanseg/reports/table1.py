"""The report's Table 1 as data, table and figure: our runs beside its numbers."""

from collections import namedtuple
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from hf_urbanseg.escaping import escape_markdown
from hf_urbanseg.reports.figures import OURS
from hf_urbanseg.reports.formats import format_percent, format_seconds
from hf_urbanseg.reports.miou_over_gmac import OurPoint, draw_miou_over_gmac
from hf_urbanseg.reports.seeds import RunResult, describe_score, describe_seeds, summarise_seeds
from hf_urbanseg.reports.systems import SYSTEMS
from hf_urbanseg.reports.tables import build_markdown_table

# What a row's runs trained: `size` and `init` as of finetune's options, `parameters` in all, `latency_ms` of one image
# (None: not measured).
Network = namedtuple("Network", "size init gmac parameters latency_ms")
_PRETRAINING = {"none": "none", "imagenet": "ImageNet encoder", "cityscapes": "Cityscapes"}


def build_table(
    results: Mapping[tuple[str, int], RunResult], seeds: Sequence[int], networks: Mapping[str, Network]
) -> list[dict]:
    """One entry per system of the report, for `table.json`; what was not run or measured is None, never a number.

    Results are by row and seed, networks by row, of those that were run.

    Returns:
        Per system `row`, `system`, `pretraining`, `recipe`, `report_mean_iou`, `report_gmac`; `instead`, what ours has
        in place of the report's size and pre-training, in words; `status`, `seeds`, `mean_iou`, `seconds` as of
        `summarise_seeds`; `size`, `init`, `gmac`, `parameters`, `latency_ms`.
    """
    table = []
    for system in SYSTEMS:
        finished = {seed: results[system.word, seed] for seed in seeds if (system.word, seed) in results}
        network = networks[system.word] if finished else Network(*[None] * 5)
        instead = []
        if finished and network.size != system.size:
            instead.append(network.size)
        if network.init == "random" and system.pretraining != "none":
            instead.append("random weights")
        table.append({
            "row": system.word,
            "system": system.name,
            "pretraining": system.pretraining,
            "recipe": system.recipe,
            "instead": instead,
            **summarise_seeds(finished, seeds),
            "report_mean_iou": system.mean_iou,
            **network._asdict(),
            "report_gmac": system.gmac,
        })  # fmt: skip
    return table


def write_table(table: Sequence[dict], path: str | Path, title: str, notes: Sequence[str] = ()) -> None:
    """Writes the table as Markdown, with `notes` below it."""
    heads = ["system", "pre-training", "seeds", "our mIoU (%): mean ± std", Markup("*report (%)*"), "our GMAC"]
    heads += [Markup("*report*"), "parameters (M)", "latency (ms)", "time per run"]
    rows = []
    for entry in table:
        ours = [""] * 4
        if entry["mean_iou"]:
            latency = "not measured" if entry["latency_ms"] is None else f"{entry['latency_ms']:.1f}"
            ours = [f"{entry['gmac']:.5g}", f"{entry['parameters'] / 1e6:.2f}", latency]
            ours.append(format_seconds(entry["seconds"]["mean"]))
        report = "-" if entry["report_gmac"] is None else f"*{entry['report_gmac']:g}*"
        rows.append([
            entry["system"] + (f" (ours: {', '.join(entry['instead'])})" if entry["instead"] else ""),
            _PRETRAINING[entry["pretraining"]],
            describe_seeds(entry),
            describe_score(entry),
            "-" if entry["report_mean_iou"] is None else f"*{format_percent(entry['report_mean_iou'])}*",
            ours[0],
            report,
            *ours[1:],
        ])  # fmt: skip
    lines = [f"# {escape_markdown(title)}", "", *build_markdown_table(heads, rows, words=range(3))]
    Path(path).write_text("\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n", encoding="utf-8")


def plot_table(table: Sequence[dict], path: str | Path, title: str) -> Figure:
    """Draws mIoU over GMAC, ours in blue with the standard deviation over several seeds, the report's in grey.

    Labels name the systems only: `title` has to say what ours were in place of them.
    """
    points = []
    for entry in table:
        if score := entry["mean_iou"]:
            mean, std = score["mean"], score["std"] or 0
            kind = "none" if entry["init"] == "random" else entry["pretraining"]
            points.append(OurPoint(entry["system"], entry["gmac"], mean, mean - std, mean + std, OURS, kind))
    return draw_miou_over_gmac(points, title, path)
