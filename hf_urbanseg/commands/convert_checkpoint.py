"""Turns a SegFormer .pth file of MMSegmentation or NVlabs into a Hub folder, and a folder into such a file."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.data.label_space_files import describe_label_space, parse_label_space
from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.escaping import flatten
from hf_urbanseg.files import check_place
from hf_urbanseg.locks import locked
from hf_urbanseg.options.fields import Options, option, required
from hf_urbanseg.ranges import InputSize

logger = logging.getLogger(__name__)

_CITYSCAPES = (1024, 2048)


@dataclass
class ConvertArguments(Options):
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
    eval_size: InputSize | None = option(
        None,
        "Height and width to which the folder's image processor resizes, in multiples of 32. Default: the file's, if "
        "it was made of a folder; else 1024 2048, and a line says so.",
    )

    def __post_init__(self):
        super().__post_init__()
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
        check_place(output.parent, folder=True)
        converted = _to_hub(options, output) if options.to == "hub" else _from_hub(options, output)
    _print(converted, options)


def _to_hub(options: ConvertArguments, output: Path):
    from safetensors import SafetensorError

    from hf_urbanseg.data.label_space_files import read_label_space, write_label_space
    from hf_urbanseg.data.own_files import LABEL_SPACE_FILE
    from hf_urbanseg.files import written_whole
    from hf_urbanseg.models.build import build_image_processor
    from hf_urbanseg.models.convert.files import read_checkpoint_file
    from hf_urbanseg.models.convert.to_hub import build_converted_model, convert_to_hub
    from hf_urbanseg.models.loading import restore_image_processor

    processor = build_image_processor(tuple(options.eval_size or _CITYSCAPES))
    space = read_label_space(options.label_space)[0] if options.label_space else None
    file = read_checkpoint_file(options.checkpoint)
    said = file.said or {}
    if isinstance(said.get("image_processor"), dict):
        size = {"size": dict(processor.size)} if options.eval_size else {}
        processor = restore_image_processor(said["image_processor"] | size, file.path)
    elif options.eval_size is None:
        logger.warning("%s says no input size: taken as 1024 2048, Cityscapes' own; see `--eval_size`", file.path)
    if space is None and isinstance(said.get("label_space"), dict):
        space = parse_label_space(said["label_space"], str(file.path))
    converted = convert_to_hub(file, space and space.names, options.decoder)
    model = build_converted_model(converted)
    with written_whole(output, folder=True, also=(SafetensorError,)) as staged:
        model.save_pretrained(staged)
        processor.save_pretrained(staged)
        if space is not None and converted.has_decoder:
            write_label_space(staged / LABEL_SPACE_FILE, space)
    return converted


def _from_hub(options: ConvertArguments, output: Path):
    from hf_urbanseg.files import written_whole
    from hf_urbanseg.inference.predictor import build_label_space
    from hf_urbanseg.models.convert.from_hub import (
        convert_from_hub,
        describe_folder,
        load_hub_model,
        save_checkpoint_file,
    )
    from hf_urbanseg.runs.folder import RunFolder

    if output.suffix != ".pth":
        raise ConfigError(f"a .pth file as `--output` with `--to {options.to}`", f"`{output}`", "end its name in .pth")
    model = load_hub_model(options.checkpoint)
    converted = convert_from_hub(model, options.to, options.decoder or "keep", options.checkpoint)
    said, colors = describe_folder(model.config, options.checkpoint), ()
    if converted.has_decoder:
        space = RunFolder(options.checkpoint).read_label_space()
        if space is None or dict(enumerate(space.names)) != model.config.id2label:
            space = build_label_space(model.config.id2label, str(options.checkpoint))
        else:
            said["label_space"] = describe_label_space(space)
        colors = space.colors
    with written_whole(output, also=(RuntimeError,)) as staged:  # a full disk is a RuntimeError of torch's
        save_checkpoint_file(converted, staged, colors, said)
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
