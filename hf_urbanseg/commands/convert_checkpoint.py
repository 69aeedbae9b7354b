"""Turns a SegFormer .pth file of MMSegmentation or NVlabs into a Hub folder, and a folder into such a file."""

import os
from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.config import option, required
from hf_urbanseg.errors import ConfigError, ModelError, check_size
from hf_urbanseg.escaping import flatten
from hf_urbanseg.locks import locked


@dataclass
class ConvertArguments:
    """What to convert, into what."""

    checkpoint: str = required("The .pth file, or with --to nvlabs|mmsegmentation the Hub folder; may stand first.")
    output: str = required("New folder, or with --to nvlabs|mmsegmentation new .pth file.")
    to: str = option("hub", "`hub`, `nvlabs` or `mmsegmentation`.", choices=["hub", "nvlabs", "mmsegmentation"])
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
        check_size(eval_size=self.eval_size)
        if self.to != "hub" and self.label_space:
            raise ConfigError("`--label_space` with `--to hub` only", f"`--to {self.to}`", "remove one")


@command
def main(argv: list[str]) -> None:
    usage = "convert-checkpoint MODEL.pth --output FOLDER [--option VALUE ...]"
    (options,) = parse_command_line((ConvertArguments,), argv, __doc__, usage, ("checkpoint",))
    import transformers

    transformers.utils.logging.disable_progress_bar()
    output = Path(options.output)
    with locked(output, inside=False):
        if os.path.lexists(output):
            raise ModelError("a new path to write to", "something there already", "choose another `--output`", output)
        converted = _to_hub(options, output) if options.to == "hub" else _from_hub(options, output)
    _print(converted, options)


def _to_hub(options: ConvertArguments, output: Path):
    from safetensors import SafetensorError

    from hf_urbanseg.data.label_space_files import read_label_space
    from hf_urbanseg.files import written_whole
    from hf_urbanseg.models.build import build_image_processor
    from hf_urbanseg.models.convert.files import read_checkpoint_file
    from hf_urbanseg.models.convert.to_hub import build_converted_model, convert_to_hub

    processor = build_image_processor(tuple(options.eval_size))
    names = read_label_space(options.label_space)[0].names if options.label_space else None
    converted = convert_to_hub(read_checkpoint_file(options.checkpoint), names, options.decoder)
    model = build_converted_model(converted)
    with written_whole(output, folder=True, also=(SafetensorError,)) as staged:
        model.save_pretrained(staged)
        processor.save_pretrained(staged)
    return converted


def _from_hub(options: ConvertArguments, output: Path):
    from hf_urbanseg.files import written_whole
    from hf_urbanseg.inference.predictor import build_label_space
    from hf_urbanseg.models.convert.from_hub import convert_from_hub, load_hub_model, save_checkpoint_file

    if output.suffix != ".pth":
        raise ConfigError(f"a .pth file as `--output` with `--to {options.to}`", f"`{output}`", "end its name in .pth")
    model = load_hub_model(options.checkpoint)
    converted = convert_from_hub(model, options.to, options.decoder or "keep", options.checkpoint)
    colors = build_label_space(model.config.id2label, str(options.checkpoint)).colors if converted.has_decoder else ()
    with written_whole(output, also=(RuntimeError,)) as staged:  # a full disk is a RuntimeError of torch's
        save_checkpoint_file(converted, staged, colors)
    return converted


def _print(converted, options: ConvertArguments) -> None:
    from hf_urbanseg.models.convert.keys import LAYOUTS

    what = f"SegFormer-{converted.size}"
    if converted.has_decoder:
        what += f", {converted.config.num_labels} classes, decoder of width {converted.config.decoder_hidden_size}"
    else:
        what += ", encoder alone"
    print(f"{what}: {converted.used} tensors used, each once ({LAYOUTS[converted.layout]} layout)")
    for part, count in converted.dropped.items():
        print(f"dropped: {flatten(part)}, {count} tensors")
    if options.to == "hub" and converted.has_conv_decoder:
        print("The decoder is MMSegmentation's: hf_urbanseg loads it, plain transformers refuses the folder.")
    if options.to == "mmsegmentation" and converted.has_decoder and not converted.has_conv_decoder:
        print("The decoder is equal at inference; to train on in MMSegmentation, start from --decoder drop.")
    print(f"{options.output}: {len(converted.tensors)} tensors written")
