"""Prints what models cost: parameters, multiply-accumulates, memory, latency. Only configurations are read."""

import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoConfig, AutoModelForSemanticSegmentation, SegformerConfig

from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import check_device, option
from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.inference.latency import DTYPES, measure_latency, measure_peak_memory
from hf_urbanseg.models.build import SIZES
from hf_urbanseg.models.complexity import CONVENTIONS, count_flops, count_operations, count_parameters
from hf_urbanseg.models.loading import find_file, first_line, quiet_transformers
from hf_urbanseg.recipe import parse_arguments
from hf_urbanseg.reports.run_files import describe_environment, write_json

_SHOWN = ("device", "threads", "fp32_matmul", "torch", "transformers", "python", "system")


@dataclass
class ProfileArguments:
    """Which models, at which input, and what is measured."""

    model: list[str] | None = option(None, "Folders or Hub ids; only their config.json is read.")
    sizes: list[str] | None = option(
        None, "Named sizes instead: tiny, b0 ... b5. Default without --model: b0 b2 b5, the report's.", choices=[*SIZES]
    )
    decoder_hidden_size: int | None = option(
        None, "Width of the decode head for --sizes; the report's have 256. Default: as on the Hub."
    )
    num_labels: int = option(19, "Classes for --sizes.")
    image_size: list[int] = option([375, 1242], "Height and width of the input (report: 375 1242).")
    batch_size: int = option(1, "Images per pass for latency and memory; operations are per image.")
    precision: str = option("fp32", "Of weights and activations.", choices=[*DTYPES])
    device: str | None = option(None, "`cpu`, `cuda`, ...; default: the GPU if there is one.")
    repeats: int = option(30, "Passes to time.")
    warmup: int = option(5, "Passes before, at least.")
    seconds: float = option(60.0, "Limit for the warm-up and for the timing of each model.")
    counts_only: bool = option(False, "Count, but neither time nor measure memory.")
    output: str | None = option(None, "JSON file for the numbers.")

    def __post_init__(self):
        if self.model and self.sizes:
            raise ConfigError("either `--model` or `--sizes`", "both", "drop one")
        if self.model and self.decoder_hidden_size is not None:
            raise ConfigError("`--decoder_hidden_size` with `--sizes`", "`--model`", "a model has its own; drop one")
        if len(self.image_size) != 2 or min(self.image_size) < 32:
            raise ConfigError("`--image_size` as height and width of 32 or more", f"{self.image_size}", "correct it")
        for name in ("num_labels", "batch_size", "repeats", "warmup", "decoder_hidden_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`--{name}` of at least 1", f"{value}", "correct it")
        if not self.seconds > 0:
            raise ConfigError("`--seconds` above 0", f"{self.seconds}", "correct it")
        if self.output and not Path(self.output).absolute().parent.is_dir():
            raise ConfigError("`--output` in a folder that exists", f"`{self.output}`", "make the folder first")
        check_device(self.device)


def main() -> None:
    """Entry point of `urbanseg-profile-model` and scripts/profile_model.py."""
    run_command(_profile)


def _profile() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    (args,) = parse_arguments((ProfileArguments,), description=__doc__)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    models = _collect_configs(args)
    rows = [_count(name, config, args) for name, config in models]
    _print_counts(rows, args)
    environment = {**describe_environment(), **_describe_device(device)}
    if not args.counts_only:
        for row, (_, config) in zip(rows, models, strict=True):
            row |= _measure(config, args, device)
        _print_measurements(rows, args, environment)
    if args.output:
        content = {
            "image_size": args.image_size,
            "conventions": CONVENTIONS,
            "models": rows,
            "environment": environment,
        }
        if not args.counts_only:
            content |= {"batch_size": args.batch_size, "precision": args.precision}
        write_json(args.output, content)


def _collect_configs(args: ProfileArguments) -> list[tuple[str, SegformerConfig]]:
    if args.model:
        return [(name, _load_config(name)) for name in args.model]
    overrides = {} if args.decoder_hidden_size is None else {"decoder_hidden_size": args.decoder_hidden_size}
    return [
        (size, SegformerConfig(**{**SIZES[size], "num_labels": args.num_labels, **overrides}))
        for size in args.sizes or ["b0", "b2", "b5"]
    ]


def _load_config(name: str) -> SegformerConfig:
    path = find_file(name, "config.json")
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("a readable configuration", first_line(error), "copy or save it again", path) from error
    if config.model_type != "segformer":
        raise ModelError("a SegFormer", f"model type `{config.model_type}`", "choose another model", name)
    return config


def _count(name: str, config: SegformerConfig, args: ProfileArguments) -> dict:
    operations = count_operations(config, args.image_size)
    return {
        "name": name,
        "decoder_hidden_size": config.decoder_hidden_size,
        "num_labels": config.num_labels,
        "parameters": count_parameters(config),
        "macs": {convention: operations.total(convention) for convention in CONVENTIONS},
        "macs_by_part": {convention: operations.by_part(convention) for convention in CONVENTIONS},
        "torch_flops": count_flops(config, args.image_size),
    }


def _measure(config: SegformerConfig, args: ProfileArguments, device: str) -> dict:
    memory = measure_peak_memory(config, args.image_size, args.batch_size, args.precision, device)
    model = AutoModelForSemanticSegmentation.from_config(config, dtype=DTYPES[args.precision]).to(device)
    latency = measure_latency(
        model, args.image_size, args.batch_size, args.precision, args.repeats, args.warmup, args.seconds
    )
    return {
        "memory": memory
        and {
            "weights_bytes": memory.weights,
            "working_bytes": memory.working,
            "peak_bytes": memory.total,
            "method": memory.method,
        },
        "latency": {
            "logits": latency.logits.to_dict(),
            "label_map": latency.label_map.to_dict(),
            "warmup_passes": latency.warmup_passes,
            "is_warm": latency.is_warm,
        },
    }


def _describe_device(device: str) -> dict:
    # describe_environment names the GPU of the machine even where the CPU was asked for.
    if torch.device(device).type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "fp32_matmul": torch.get_float32_matmul_precision()}
    return {"device": f"{device.upper()}, {os.cpu_count()} cores", "threads": torch.get_num_threads()}


def _print_counts(rows: list[dict], args: ProfileArguments) -> None:
    table = _start_table(
        f"One image of {args.image_size[0]}x{args.image_size[1]} (height x width)",
        ("head\nwidth", "params\nM", "head's\nM", *(f"{name}\nGMAC" for name in CONVENTIONS), "torch\nGFLOP"),
    )
    for row in rows:
        parameters = (row["parameters"][part] / 1e6 for part in ("total", "decode_head"))
        operations = (count / 1e9 for count in (*row["macs"].values(), row["torch_flops"]))
        numbers = (f"{number:.3f}" for number in (*parameters, *operations))
        table.add_row(escape(row["name"]), str(row["decoder_hidden_size"]), *numbers)
    resize = sorted({f"{row['macs_by_part']['fvcore']['classifier_resize'] / 1e9:.3f}" for row in rows})
    notes = [f"{convention}: {meaning}." for convention, meaning in CONVENTIONS.items()]
    notes.append(f"The resize of the logits to the input size is {' or '.join(resize)} of fvcore and of report.")
    _print(table, notes)


def _print_measurements(rows: list[dict], args: ProfileArguments, environment: dict) -> None:
    table = _start_table(
        f"{args.precision}, batches of {args.batch_size}, random weights",
        ("peak\nMiB", "logits\nms", "label map\nms", "p10..p90\nms", "passes", "images/s"),
    )
    for row in rows:
        memory, (logits, label_map) = row["memory"], (row["latency"][stage] for stage in ("logits", "label_map"))
        table.add_row(
            escape(row["name"]),
            f"{memory['peak_bytes'] / 2**20:.0f}" if memory else "-",
            _digits(logits["median_ms"]),
            _digits(label_map["median_ms"]),
            _describe_spread(label_map),
            str(label_map["passes"]),
            f"{label_map['images_per_second']:.2f}",
        )
    notes = [
        f"peak: weights, and {method}, up to the label map."
        for method in sorted({row["memory"]["method"] for row in rows if row["memory"]})
    ]
    notes.append(
        "logits, label map: median per batch, to logits at a quarter of the input's size and to its full size."
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
    table = Table(title=escape(title), title_justify="left")
    table.add_column("model", overflow="fold", min_width=5)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _print(table: Table, notes: list[str]) -> None:
    console = Console()
    console.print(table)
    for note in notes:
        console.print(escape(note), highlight=False)
