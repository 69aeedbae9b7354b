"""A model -> a file for another runtime, written once it is known to predict the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hf_urbanseg import __version__
from hf_urbanseg.data.label_space_files import describe_label_space
from hf_urbanseg.data.preprocessing import build_views
from hf_urbanseg.deployment.check import Comparison, check_sizes, compare
from hf_urbanseg.deployment.network import LabelMapNetwork, LogitsNetwork
from hf_urbanseg.deployment.quantisation import quantise
from hf_urbanseg.deployment.writing import staged_files, write_network
from hf_urbanseg.errors import ModelError, UrbanSegError
from hf_urbanseg.inference.images import to_image
from hf_urbanseg.inference.predictor import Predictor, load_label_ids
from hf_urbanseg.json_yaml import write_json
from hf_urbanseg.models.exported import find_weights, name_description

_BILINEAR = 2
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ExportPlan:
    """How a model is written.

    Args:
        kind: Of `exported.SUFFIXES`.
        precision: fp32, fp16, bf16 or int8. OpenVINO's fp16 is of stored weights, its bf16 of the computing.
        takes_bytes: Resizing, normalising, upsampling and argmax are in the file, too.
        fixed_size: (height, width) of what goes in; None takes any.
        opset: Version of ONNX's operators.
        most_loss: In points; see `Comparison.check`.
    """

    kind: str
    precision: str = "fp32"
    takes_bytes: bool = False
    fixed_size: Sequence[int] | None = None
    opset: int = 17
    most_loss: float = 0.5


def export_model(
    predictor: Predictor,
    name_or_path: str,
    output: Path,
    plan: ExportPlan,
    frames: Sequence[tuple],
    what: str,
    calibration: Sequence = (),
) -> Comparison:
    """Writes `output` and a JSON file beside it, or nothing.

    Args:
        predictor: Of the model, on the CPU.
        name_or_path: Where the model is from.
        frames: Images, as `Predictor.predict` takes them, each with its train ids or None, to compare on.
        what: Those in words.
        calibration: Images to find the ranges of int8 on.

    Raises:
        ModelError: A network that the format can't express, or a file that predicts otherwise.
    """
    facts = _describe_model(predictor, name_or_path, plan)
    in_dtype = plan.kind != "openvino"  # which keeps its graph in fp32 and is told how to store and compute it
    dtype = _DTYPES.get(plan.precision, torch.float32) if in_dtype else torch.float32
    network = LogitsNetwork(predictor.model, dtype)
    if plan.takes_bytes:
        network = LabelMapNetwork(network, predictor.image_processor).eval()
    with staged_files(output) as staged:
        first = staged.with_stem("fp32") if plan.precision == "int8" else staged
        write_network(network, first, plan.kind, facts, plan.fixed_size, plan.opset)
        if first != staged:
            build = partial(_build_input, predictor, takes_bytes=plan.takes_bytes)
            quantise(first, staged, plan.kind, calibration, build, facts)
            for path in {first, find_weights(first)}:
                path.unlink()
        exported = Predictor.from_pretrained(staged)
        if plan.fixed_size is None and not plan.takes_bytes:
            check_sizes(predictor.model, exported.model)
        found = compare(predictor, exported, frames, len(frames), what)
        found.check(facts, plan.most_loss)
        described = {"compared_on": found.what, "same_class": found.same, "mean_iou": found.mean_iou}
        write_json(name_description(staged), facts | {"comparison": described})
    return found


def _build_input(predictor: Predictor, image, takes_bytes: bool) -> np.ndarray:
    """One image as the network takes it, a batch of one."""
    image = to_image(image)
    return np.asarray(image)[None] if takes_bytes else build_views(image, predictor.image_processor)[0][None].numpy()


def _describe_model(predictor: Predictor, name_or_path: str, plan: ExportPlan) -> dict:
    """Classes with their colours and label ids, input and output, and what loads the file again."""
    processor, config = predictor.image_processor, predictor.model.config
    if predictor.channels != 3:
        found = f"one of {predictor.channels} channels"
        raise ModelError("a model of RGB images to export", found, "predict with its folder", name_or_path)
    if plan.takes_bytes and processor.do_resize and int(processor.resample) != _BILINEAR:
        found = f"`resample` {int(processor.resample)} of Pillow"
        raise ModelError("bilinear resizing with `--takes_bytes`", found, "export it without", name_or_path)
    try:
        space = describe_label_space(load_label_ids(name_or_path, predictor.label_space.names))
    except UrbanSegError:  # trained elsewhere: its train ids are all that is known
        space = describe_label_space(predictor.label_space)
        for entry in space["classes"]:
            del entry["label_ids"]
    sides = [*(plan.fixed_size or ("height", "width"))]
    quarter = ["logits_height", "logits_width"]
    pixels = {"name": "pixel_values", "type": "float32", "shape": ["batch", 3, *sides],
              "meaning": "RGB, resized to `input_size`, scaled and normalised as `image_processor` says"}  # fmt: skip
    logits = {"name": "logits", "type": "float32", "shape": ["batch", config.num_labels, *quarter],
              "meaning": "scores of the classes; upsample them bilinearly, then take the best"}  # fmt: skip
    if plan.takes_bytes:
        pixels = {"name": "image", "type": "uint8", "shape": ["batch", *sides, 3], "meaning": "RGB, of any size"}
        logits = {"name": "train_ids", "type": "uint8", "shape": ["batch", *sides], "meaning": "places in `classes`"}
    return {
        "hf_urbanseg": __version__,
        "precision": plan.precision,
        "takes_bytes": plan.takes_bytes,
        "input": pixels,
        "output": logits,
        "input_size": predictor.base_size,
        "fixed_size": plan.fixed_size and [*plan.fixed_size],
        "label_space": space,
        "image_processor": {key: value for key, value in processor.to_dict().items() if key != "image_processor_type"},
        "config": config.to_dict(),
    }
