"""What models cost, as tables on the terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from hf_urbanseg.escaping import build_console, flatten
from hf_urbanseg.labels import CITYSCAPES
from hf_urbanseg.models.build import build_config
from hf_urbanseg.models.complexity import CONVENTIONS, count_macs
from hf_urbanseg.reports.systems import REPORT_POINTS

_SHOWN = ("device", "threads", "fp32_matmul", "torch", "transformers", "python", "system")


def print_costs(rows: Sequence[Mapping], image_size: Sequence[int]) -> None:
    """Prints what `count_costs` counted on an image of (height, width)."""
    table = _start_table(
        f"One image of {image_size[0]}x{image_size[1]} (height x width)",
        ("head\nwidth", "params\nM", "head's\nM", *(f"{name}\nGMAC" for name in CONVENTIONS), "torch\nGFLOP"),
    )
    for row in rows:
        parameters = (row["parameters"][part] / 1e6 for part in ("total", "decode_head"))
        operations = (count / 1e9 for count in (*row["macs"].values(), row["torch_flops"]))
        numbers = (f"{number:.3f}" for number in (*parameters, *operations))
        table.add_row(flatten(row["name"]), str(row["decoder_hidden_size"] or "-"), *numbers)
    resize = sorted({f"{row['macs_by_part']['fvcore']['classifier_resize'] / 1e9:.3f}" for row in rows})
    notes = [f"{convention}: {meaning}." for convention, meaning in CONVENTIONS.items()]
    notes.append(f"The resize of the logits to the input size is {' or '.join(resize)} of fvcore and of report.")
    _print(table, notes)


def print_report_table() -> None:
    """Prints every row of the report's Table 1 with the operations of our network of it."""
    headings = ("start", "mIoU\n%", "report's\nG", "our\nGMAC", "difference\n%")
    table = _start_table("Table 1 of the report, and our networks counted in the same way", headings)
    counted: dict[tuple, float] = {}
    for point in REPORT_POINTS:
        network = point.architecture, point.size
        if network not in counted:
            head = {"decoder_hidden_size": 256} if point.architecture == "segformer" else {}  # the report's
            counted[network] = count_macs(build_config(point.size, CITYSCAPES, point.architecture, **head)) / 1e9
        ours = counted[network]
        percent = f"{100 * point.mean_iou:.2f}", f"{100 * (ours / point.gmac - 1):+.2f}"
        table.add_row(point.name, point.pretraining, percent[0], f"{point.gmac:g}", f"{ours:.3f}", percent[1])
    notes = [
        "UNet: less by its 1x1 convolutions, which here come before the upsampling that they commute with.",
        "Swin-T: less by the four BatchNorms of MMSegmentation's head, which transformers' doesn't have.",
        "CWD: the report prints 99 for its student and 97.213 for the same PSPNet R18 alone.",
    ]
    _print(table, notes)


def print_measured_costs(rows: Sequence[Mapping], precision: str, batch_size: int, environment: Mapping) -> None:
    """Prints what `measure_costs` measured beside it."""
    table = _start_table(
        f"{precision}, batches of {batch_size}, random weights; exported files as they are",
        ("peak\nMiB", "logits\nms", "label map\nms", "p10..p90\nms", "passes", "images/s"),
    )
    for row in rows:
        memory, (logits, label_map) = row["memory"], (row["latency"][stage] for stage in ("logits", "label_map"))
        table.add_row(
            flatten(row["name"]),
            f"{memory['peak_bytes'] / 2**20:.0f}" if memory else "-",
            _digits(logits["median_ms"]),
            _digits(label_map["median_ms"]),
            _describe_spread(label_map),
            str(label_map["passes"]),
            f"{label_map['images_per_second']:.2f}",
        )
    methods = sorted({row["memory"]["method"] for row in rows if row["memory"]})
    notes = [f"peak: weights, and {method}, up to the label map." for method in methods]
    notes.append(
        "logits, label map: median per batch, to logits at the network's own size and to classes at the input's."
    )
    unsteady = [row["name"] for row in rows if not row["latency"]["is_warm"]]
    if unsteady:
        notes.append(f"Not steady when measured: {', '.join(unsteady)}. The machine is busy, or --warmup is too short.")
    notes.append(", ".join(f"{name} {environment[name]}" for name in _SHOWN if name in environment) + ".")
    _print(table, notes)


def _describe_spread(timing: dict) -> str:
    if timing["p10_ms"] is None:  # too few passes
        return f"{_digits(timing['min_ms'])}..{_digits(timing['max_ms'])} (all)"
    return f"{_digits(timing['p10_ms'])}..{_digits(timing['p90_ms'])}"


def _digits(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 1000 else f"{milliseconds:.0f}"


def _start_table(title: str, headings: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("model", overflow="fold", min_width=5)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _print(table: Table, notes: list[str]) -> None:
    console = build_console()
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
