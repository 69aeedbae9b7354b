"""Turns a SegFormer .pth file of MMSegmentation or NVlabs into a Hub folder, and a folder into such a file."""

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from safetensors import SafetensorError

from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import option
from hf_urbanseg.data.label_space_files import read_label_space
from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.inference.predictor import build_label_space
from hf_urbanseg.models.build import build_image_processor
from hf_urbanseg.models.convert.files import read_checkpoint_file
from hf_urbanseg.models.convert.from_hub import convert_from_hub, load_hub_model, save_checkpoint_file
from hf_urbanseg.models.convert.keys import LAYOUTS
from hf_urbanseg.models.convert.to_hub import Converted, build_converted_model, convert_to_hub
from hf_urbanseg.recipe import parse_arguments


@dataclass
class ConvertArguments:
    """What to convert, into what."""

    checkpoint: str = field(metadata={"help": "The .pth file, or with --to nvlabs|mmsegmentation the Hub folder."})
    output: str = field(metadata={"help": "New folder, or with --to nvlabs|mmsegmentation new .pth file."})
    to: str = option("hub", "`hub`, `nvlabs` or `mmsegmentation`.", choices=["hub", *LAYOUTS])
    decoder: str | None = option(
        None,
        "`drop` converts the encoder alone. `keep` takes MMSegmentation's decoder, which the Hub's SegFormer can't "
        "compute, into a folder that only hf_urbanseg loads, to measure and predict. Default: a plain SegFormer, or an "
        "error where that is not possible.",
        choices=["keep", "drop"],
    )
    label_space: str | None = option(
        None, "Names of the classes, as in training. Default: the file's; for 19 without names those of Cityscapes."
    )
    eval_size: list[int] = option(
        [1024, 2048], "Height and width to which the folder's image processor resizes, in multiples of 32."
    )

    def __post_init__(self):
        if len(self.eval_size) != 2:
            raise ConfigError("`--eval_size` as height and width", f"{self.eval_size}", "give two whole numbers")
        if self.to != "hub" and self.label_space:
            raise ConfigError("`--label_space` with `--to hub` only", f"`--to {self.to}`", "remove one")


def main() -> None:
    """Entry point of `urbanseg-convert-checkpoint` and scripts/convert_checkpoint.py."""
    run_command(_convert)


def _convert() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    transformers.utils.logging.disable_progress_bar()
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        words = ["--checkpoint", *words]
    (options,) = parse_arguments([ConvertArguments], words, description=__doc__)
    output = Path(options.output)
    if os.path.lexists(output):
        raise ModelError("a new path to write to", "something there already", "choose another `--output`", output)
    _print(_to_hub(options, output) if options.to == "hub" else _from_hub(options, output), options)


def _to_hub(options: ConvertArguments, output: Path) -> Converted:
    processor = build_image_processor(tuple(options.eval_size))
    names = read_label_space(options.label_space)[0].names if options.label_space else None
    converted = convert_to_hub(read_checkpoint_file(options.checkpoint), names, options.decoder)
    model = build_converted_model(converted)
    with _staged(output) as staging:
        model.save_pretrained(staging)
        processor.save_pretrained(staging)
    return converted


def _from_hub(options: ConvertArguments, output: Path) -> Converted:
    if output.suffix != ".pth":
        raise ConfigError(f"a .pth file as `--output` with `--to {options.to}`", f"`{output}`", "end its name in .pth")
    model = load_hub_model(options.checkpoint)
    converted = convert_from_hub(model, options.to, options.decoder or "keep", options.checkpoint)
    colors = build_label_space(model.config.id2label, str(options.checkpoint)).colors if converted.has_decoder else ()
    with _staged(output) as staging:
        save_checkpoint_file(converted, staging, colors)
    return converted


@contextmanager
def _staged(output: Path) -> Iterator[Path]:
    """A path beside `output` that takes its name once everything is written."""
    staging = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        yield staging
        staging.rename(output)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk is a RuntimeError of torch's
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["no reason given"])[0]
        raise ModelError("a place to write to", reason, "check space and `--output`", output) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if staging.is_file():
            staging.unlink()


def _print(converted: Converted, options: ConvertArguments) -> None:
    what = f"SegFormer-{converted.size}"
    if converted.has_decoder:
        what += f", {converted.config.num_labels} classes, decoder of width {converted.config.decoder_hidden_size}"
    else:
        what += ", encoder alone"
    print(f"{what}: {converted.used} tensors used, each once ({LAYOUTS[converted.layout]} layout)")
    for part, count in converted.dropped.items():
        print(f"dropped: {part}, {count} tensors")
    if options.to == "hub" and converted.has_conv_decoder:
        print("The decoder is MMSegmentation's: hf_urbanseg loads it, plain transformers refuses the folder.")
    if options.to == "mmsegmentation" and converted.has_decoder and not converted.has_conv_decoder:
        print("The decoder is equal at inference; to train on in MMSegmentation, start from --decoder drop.")
    print(f"{options.output}: {len(converted.tensors)} tensors written")
