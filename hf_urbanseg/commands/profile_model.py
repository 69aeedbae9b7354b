"""Prints what models cost: parameters, multiply-accumulates, memory, latency. Only configurations are read.

Sizes by architecture:
  segformer        tiny b0 b1 b2 b3 b4 b5
  encoder_decoder  tiny tiny_unpooling transposed unpooling
  unet             tiny s5-d16
  deeplabv3plus    tiny resnet18 resnet50 resnet101
  pspnet           tiny resnet18 resnet50 resnet101
  swin_segformer   tiny swin-tiny
"""

from dataclasses import MISSING, dataclass, fields

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.files import check_place
from hf_urbanseg.options.fields import Options, architecture_option, check_device, device_option, option
from hf_urbanseg.ranges import Batch, Seconds, Size, Whole, Width

_PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass
class ProfileArguments(Options):
    """Which models, at which input, and what is measured."""

    model: list[str] | None = option(None, "Folders or Hub ids, of which only config.json is read; exported files.")
    architecture: str = architecture_option()
    sizes: list[str] | None = option(
        None, "Named sizes of the architecture instead. Default without --model: b0 b2 b5, or all but tiny ones."
    )
    decoder_hidden_size: Width | None = option(
        None, "Width of the decode head for --sizes; the report's SegFormers have 256. Default: as on the Hub."
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
    table: bool = option(False, "Print the report's Table 1 beside our networks' operations, and nothing else.")

    def __post_init__(self):
        super().__post_init__()
        if self.model and self.sizes:
            raise ConfigError("either `--model` or `--sizes`", "both", "drop one")
        defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(self)}
        chosen = [name for name, default in defaults.items() if getattr(self, name) != default]
        for name in ("architecture", "decoder_hidden_size"):
            if self.model and name in chosen:
                raise ConfigError(f"`--{name}` with `--sizes`", "`--model`", "a model has its own; drop one")
        if self.table and (others := [name for name in chosen if name != "table"]):
            raise ConfigError("`--table` alone", f"`--{others[0]}`", "drop one")
        check_device(self.device)
        if self.output:
            check_place(self.output)


@command
def main(argv: list[str]) -> None:
    (args,) = parse_command_line((ProfileArguments,), argv, __doc__, "profile-model [--option VALUE ...]")
    import torch

    from hf_urbanseg.inference.profile import (
        build_named_configs,
        count_costs,
        describe_device,
        load_known_config,
        measure_costs,
    )
    from hf_urbanseg.json_yaml import write_json
    from hf_urbanseg.models.complexity import CONVENTIONS
    from hf_urbanseg.reports.cost_tables import print_costs, print_measured_costs, print_report_table
    from hf_urbanseg.runs.environment import describe_environment

    if args.table:
        return print_report_table()

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    overrides = {} if args.decoder_hidden_size is None else {"decoder_hidden_size": args.decoder_hidden_size}
    if args.model:
        models = {name: load_known_config(name) for name in args.model}
    else:
        models = build_named_configs(args.architecture, args.sizes, args.num_labels, **overrides)
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
