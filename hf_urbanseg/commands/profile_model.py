"""Prints what models cost: parameters, multiply-accumulates, memory, latency. Only configurations are read."""

from dataclasses import dataclass

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.files import check_place
from hf_urbanseg.options.config import Options, check_device, device_option, option
from hf_urbanseg.ranges import Batch, Seconds, Size, Whole, Width

_SIZES = ("tiny", "b0", "b1", "b2", "b3", "b4", "b5")
_PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass
class ProfileArguments(Options):
    """Which models, at which input, and what is measured."""

    model: list[str] | None = option(None, "Folders or Hub ids; only their config.json is read.")
    sizes: list[str] | None = option(
        None, "Named sizes instead: tiny, b0 ... b5. Default without --model: b0 b2 b5, the report's.", choices=_SIZES
    )
    decoder_hidden_size: Width | None = option(
        None, "Width of the decode head for --sizes; the report's have 256. Default: as on the Hub."
    )
    num_labels: Width = option(19, "Classes for --sizes.")
    image_size: Size = option([375, 1242], "Height and width of the input (report: 375 1242).")
    batch_size: Batch = option(1, "Images per pass for latency and memory; operations are per image.")
    precision: str = option("fp32", "Of weights and activations.", choices=_PRECISIONS)
    device: str | None = device_option()
    repeats: Whole = option(30, "Passes to time.")
    warmup: Whole = option(5, "Passes before, at least.")
    seconds: Seconds = option(60.0, "Limit for the warm-up and for the timing of each model.")
    counts_only: bool = option(False, "Count, but neither time nor measure memory.")
    output: str | None = option(None, "JSON file for the numbers.")

    def __post_init__(self):
        super().__post_init__()
        if self.model and self.sizes:
            raise ConfigError("either `--model` or `--sizes`", "both", "drop one")
        if self.model and self.decoder_hidden_size is not None:
            raise ConfigError("`--decoder_hidden_size` with `--sizes`", "`--model`", "a model has its own; drop one")
        check_device(self.device)
        if self.output:
            check_place(self.output)


@command
def main(argv: list[str]) -> None:
    (args,) = parse_command_line((ProfileArguments,), argv, __doc__, "profile-model [--option VALUE ...]")
    import torch
    from transformers import SegformerConfig

    from hf_urbanseg.files import write_json
    from hf_urbanseg.inference.profile import count_costs, describe_device, load_segformer_config, measure_costs
    from hf_urbanseg.models.build import SIZES
    from hf_urbanseg.models.complexity import CONVENTIONS
    from hf_urbanseg.reports.cost_tables import print_costs, print_measured_costs
    from hf_urbanseg.runs.environment import describe_environment

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    overrides = {} if args.decoder_hidden_size is None else {"decoder_hidden_size": args.decoder_hidden_size}
    if args.model:
        models = {name: load_segformer_config(name) for name in args.model}
    else:
        models = {
            size: SegformerConfig(**{**SIZES[size], "num_labels": args.num_labels, **overrides})
            for size in args.sizes or ["b0", "b2", "b5"]
        }
    rows = [count_costs(name, config, args.image_size) for name, config in models.items()]
    print_costs(rows, args.image_size)
    environment = {**describe_environment(), **describe_device(device)}
    content = {"image_size": args.image_size, "conventions": CONVENTIONS, "models": rows, "environment": environment}
    if not args.counts_only:
        limits = {"repeats": args.repeats, "warmup": args.warmup, "seconds": args.seconds}
        for row, config in zip(rows, models.values(), strict=True):
            row |= measure_costs(config, args.image_size, args.batch_size, args.precision, device, **limits)
        print_measured_costs(rows, args.precision, args.batch_size, environment)
        content |= {"batch_size": args.batch_size, "precision": args.precision}
    if args.output:
        write_json(args.output, content)
