"""Networks -> files of ONNX, OpenVINO and torch.export, each with what it says of itself."""

import contextlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hf_urbanseg.deployment.network import KnownOperators
from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.exported import FACTS, check_packages
from hf_urbanseg.models.loading import explain


@contextlib.contextmanager
def staged_files(output: Path) -> Iterator[Path]:
    """Gives `output`'s name in a hidden folder; all files there move beside `output` if the block ends well."""
    # Always the same name, so that the next start clears what a killed one left.
    folder = output.with_name(f".{output.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder / output.name
        # What describes the others goes last.
        for path in sorted(folder.iterdir(), key=lambda path: path.suffix == ".json"):
            os.replace(path, output.parent / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_network(
    network: nn.Module, path: Path, kind: str, facts: Mapping, size: Sequence[int] | None = None, opset: int = 17
) -> None:
    """Writes a network for a runtime, in fp32 or the precision it has.

    Args:
        network: A `LogitsNetwork` or `LabelMapNetwork`.
        kind: Of `SUFFIXES`.
        size: (height, width) that is fixed in the file; None takes any. The number of images is free.
        opset: Version of ONNX's operators.
    """
    height, width = size or (64, 96)
    example = torch.zeros(2, 3, height, width)
    if facts["takes_bytes"]:
        example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    if kind == "torch":
        _write_torch(network, path, example, facts)
    elif kind == "onnx":
        _write_onnx(network, path, example, facts, opset)
    else:
        import openvino

        staged = path.with_suffix(".onnx")
        _write_onnx(network, staged, example, facts, opset)
        model = openvino.convert_model(staged)
        staged.unlink()
        save_openvino(model, path, facts)


def save_openvino(model, path: Path, facts: Mapping) -> None:
    import openvino

    model.set_rt_info(json.dumps(facts), [FACTS])
    openvino.save_model(model, path, compress_to_fp16=facts["precision"] == "fp16")


def save_onnx(model, path: Path, facts: Mapping) -> None:
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _list_free(shape: Sequence[int | str]) -> dict[int, str]:
    """Places of the sides that have a name and no length."""
    return {place: side for place, side in enumerate(shape) if isinstance(side, str)}


def _write_onnx(network, path: Path, example: Tensor, facts: Mapping, opset: int) -> None:
    check_packages("onnx", "onnx")
    import onnx

    name, output = facts["input"]["name"], facts["output"]["name"]
    dims, places = _list_free(facts["input"]["shape"]), _list_free(facts["output"]["shape"])
    # torch's newer exporter (`dynamo=True`) takes 20 times as long over free sizes (torch 2.13) and fixes some of them.
    options = {"dynamo": False, "opset_version": opset, "input_names": [name], "output_names": [output]}
    free = {name: dims, output: places if len(dims) > 1 else dims}  # of a fixed input the output's sides are, too
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad(), KnownOperators():
            warnings.simplefilter("ignore")
            torch.onnx.export(network, (example,), buffer, dynamic_axes=free, **options)
    except Exception as error:  # of an operator, at any depth of torch
        fix = "fix the input's size (`--fixed_size`) or take another `--opset`"
        raise ModelError("a network that ONNX can express", explain(error), fix) from error
    save_onnx(onnx.load_from_string(buffer.getvalue()), path, facts)


def _write_torch(network, path: Path, example: Tensor, facts: Mapping) -> None:
    try:
        free = dict.fromkeys(_list_free(facts["input"]["shape"]), torch.export.Dim.DYNAMIC)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, (example,), dynamic_shapes=(free,))
    except Exception as error:  # of an operator, at any depth of torch
        fix = "fix the input's size (`--fixed_size`)"
        raise ModelError("a network that torch.export can express", explain(error), fix) from error
    torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})
