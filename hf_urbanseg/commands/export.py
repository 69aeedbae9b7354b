"""Writes a model as a file for ONNX Runtime, OpenVINO, TensorRT or torch.export, and checks it against PyTorch.

SegFormer's decode head is in the file as this package computes it, several times cheaper than transformers'. The file
is compared with the model on held-out frames of its data, or on --images; one that differs is not written.
`urbanseg evaluate`, `predict` and `profile-model` take it in place of the model's folder.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.files import check_place
from hf_urbanseg.locks import locked
from hf_urbanseg.options.config import DataArguments
from hf_urbanseg.options.fields import Options, option, required
from hf_urbanseg.ranges import InputSize, Range, Whole

logger = logging.getLogger(__name__)

_PRECISIONS = {
    "onnx": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "fp16", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "bf16", "int8"),
    "torch": ("fp32", "fp16", "bf16"),
}


@dataclass
class ExportArguments(Options):
    """Which model, for what, and how it is checked."""

    model: str = required("Folder written by training, or a Hub id; may stand first.")
    to: str = option("onnx", "Runtime: onnx, openvino, tensorrt (an ONNX file) or torch.", choices=[*_PRECISIONS])
    output: str | None = option(
        None,
        "File to write: .onnx, .xml (with a .bin) or .pt2, and a JSON file beside it. Default: model.* in --model.",
    )
    takes_bytes: bool = option(
        False, "Put resizing, normalising, upsampling and argmax in the file: an image's bytes in, train ids out."
    )
    precision: str = option("fp32", "Of the file: fp32, fp16, bf16 or int8.", choices=["fp32", "fp16", "bf16", "int8"])
    fixed_size: InputSize | None = option(
        None, "Height and width fixed in the file, for runtimes and networks that want it. Default: any."
    )
    opset: Annotated[int, Range(16, 23)] = option(17, "Version of ONNX's operators.")
    split: str | None = option(None, "Split to compare on; default: test if there is one, else validation.")
    frames: Whole = option(50, "Its images to compare on at most, the first ones.")
    images: list[str] | None = option(None, "Images or a folder to compare on instead, without labels.")
    calibration_data: str | None = option(
        None, "Folder of images to calibrate int8 on. Default: the data's training frames."
    )
    calibration_images: Whole = option(100, "Of them at most, evenly picked.")
    most_loss: Annotated[float, Range(0, 100)] = option(
        0.5, "Points of mIoU that lower precision may cost; without labels, percent of pixels with another class."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.precision not in (known := _PRECISIONS[self.to]):
            expected = f"`--precision` of {', '.join(known)} with `--to {self.to}`"
            raise ConfigError(expected, self.precision, "choose one of them, or another `--to`")
        self.kind = "onnx" if self.to == "tensorrt" else self.to


@command
def main(argv: list[str]) -> None:
    usage = "export RUN --to RUNTIME [--option VALUE ...]"
    args, data_args = parse_command_line((ExportArguments, DataArguments), argv, __doc__, usage, ("model",))
    from hf_urbanseg.models.exported import SUFFIXES, check_packages, is_exported

    if is_exported(args.model):
        raise ConfigError("a model's folder to export", "an exported file", "name the folder", args.model)
    output = Path(args.output or Path(args.model if Path(args.model).is_dir() else ".") / f"model{SUFFIXES[args.kind]}")
    if output.suffix != SUFFIXES[args.kind]:
        raise ConfigError(f"a {SUFFIXES[args.kind]} file as `--output`", f"{output.name}", "correct its suffix", output)
    check_place(output)
    check_packages(args.kind)
    with locked(output, inside=False):
        _export(args, data_args, output)


def _export(args: ExportArguments, data_args: DataArguments, output: Path) -> None:
    from hf_urbanseg.deployment.export import ExportPlan, export_model
    from hf_urbanseg.inference.predictor import Predictor
    from hf_urbanseg.models.exported import find_weights, name_description

    predictor = Predictor.from_pretrained(args.model, "cpu")
    data = _load_data(args, data_args)
    frames, what = _choose_frames(args, data, predictor)
    calibration = _choose_calibration(args, data) if args.precision == "int8" else ()
    precision = "fp32" if args.to == "tensorrt" and args.precision != "int8" else args.precision
    plan = ExportPlan(args.kind, precision, args.takes_bytes, args.fixed_size, args.opset, args.most_loss)
    found = export_model(predictor, args.model, output, plan, frames, what, calibration)
    size = sum(path.stat().st_size for path in {output, find_weights(output)}) / 1e6
    taken = "x".join(map(str, args.fixed_size or ())) or "any size"
    print(f"{output}: {size:.1f} MB, {precision}, inputs of {taken}; described in {name_description(output).name}")
    print(f"checked: {found}")
    if args.to == "tensorrt":
        height, width = args.fixed_size or predictor.base_size or (512, 1024)
        print(f"On the machine with the GPU (not run here): {_spell_trtexec(args, output, height, width)}")


def _spell_trtexec(args: ExportArguments, output: Path, height: int, width: int) -> str:
    """The line that builds an engine for up to 8 images of one size."""
    shape = f"{height}x{width}x3" if args.takes_bytes else f"3x{height}x{width}"
    name = "image" if args.takes_bytes else "pixel_values"
    shapes = " ".join(f"--{end}Shapes={name}:{count}x{shape}" for end, count in (("min", 1), ("opt", 1), ("max", 8)))
    flag = "" if args.precision == "fp32" else f" --{args.precision}"
    return f"trtexec --onnx={output} --saveEngine={output.with_suffix('.engine')} {shapes}{flag}"


def _load_data(args: ExportArguments, data_args: DataArguments):
    """The data that is named or that the run recorded, if it is still there; None without either."""
    from hf_urbanseg.runs.recorded_data import load_recorded_data

    if args.images and not (data_args.data_dir or data_args.dataset) and args.precision != "int8":
        return None
    try:
        return load_recorded_data(data_args, args.model)
    except UrbanSegError as error:
        if data_args.data_dir or data_args.dataset:
            raise
        logger.warning("The run's own data isn't at hand (%s)", error)
        return None


def _choose_frames(args: ExportArguments, data, predictor) -> tuple[list, str]:
    """Images, each with its train ids or None, and what they are."""
    from hf_urbanseg.data.label_pictures import read_train_ids
    from hf_urbanseg.deployment.check import build_noise
    from hf_urbanseg.inference.input_files import find_inputs, is_video
    from hf_urbanseg.runs.remeasured import check_classes

    if args.images:
        paths = [path for path in find_inputs(args.images) if not is_video(path)][: args.frames]
        return [(path, None) for path in paths], f"{len(paths)} images"
    if data is None:
        size = predictor.base_size or (384, 640)
        return [(image, None) for image in build_noise(4, size)], "4 images of noise, for want of data or `--images`"
    check_classes(predictor.label_space, data, args.model)
    split = args.split or ("test" if "test" in data.splits else "validation")
    rows = data.get_split(split)
    rows = rows.select(range(min(len(rows), args.frames)))
    return _Frames(rows, lambda row: (row["image"], read_train_ids(row["label"], data.label_space))), (
        f"{len(rows)} frames of {data.name}, {split}"
    )


def _choose_calibration(args: ExportArguments, data):
    from hf_urbanseg.inference.input_files import find_inputs, is_video

    if args.calibration_data:
        found = [path for path in find_inputs([args.calibration_data]) if not is_video(path)]
    elif data is not None and "train" in data.splits:
        found = data.splits["train"]
    else:
        fix = "name the data (`--data_dir`) or a folder of images (`--calibration_data`)"
        raise ConfigError("training frames to calibrate int8 on", "none", fix)
    count = min(len(found), args.calibration_images)
    places = [index * len(found) // count for index in range(count)]
    return (
        [found[place] for place in places]
        if args.calibration_data
        else _Frames(found.select(places), lambda row: row["image"])
    )


class _Frames:
    """Rows read one at a time."""

    def __init__(self, rows, read):
        self.rows, self.read = rows, read

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self):
        return map(self.read, self.rows)
