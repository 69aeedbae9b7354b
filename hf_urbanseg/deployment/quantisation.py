"""fp32 files -> int8, calibrated on images: by ONNX Runtime's quantiser and by NNCF."""

import contextlib
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hf_urbanseg.deployment.writing import save_onnx, save_openvino
from hf_urbanseg.errors import ModelError
from hf_urbanseg.models.exported import check_packages
from hf_urbanseg.models.loading import explain


def quantise(
    source: Path, path: Path, kind: str, images: Sequence, build_input: Callable[..., np.ndarray], facts: Mapping
) -> None:
    """Makes an fp32 file one of int8: static ranges, weights per channel.

    Args:
        source: The fp32 file; another name than `path`, because OpenVINO keeps what it read mapped into memory.
        images: What the network is shown to find the ranges of its activations; may be read several times.
        build_input: Makes an image the network's input, a batch of one.
    """
    check_packages(kind, *({"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino", "nncf")}[kind]))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            {"onnx": _quantise_onnx, "openvino": _quantise_openvino}[kind](source, path, images, build_input, facts)
    except (MemoryError, OSError):
        raise
    except Exception as error:  # of either package, at any operator
        raise ModelError("a network that can be quantised", explain(error), "take `--precision fp32`") from error


def _quantise_onnx(source: Path, path: Path, images: Sequence, build_input: Callable, facts: Mapping) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = map(build_input, images)

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {facts["input"]["name"]: batch}

    quant_pre_process(source, source, skip_symbolic_shape=True)
    quantize_static(
        source, path, Reader(), per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        extra_options={"MatMulConstBOnly": True},  # attention's own products are left alone
    )  # fmt: skip
    save_onnx(onnx.load(path), path, facts)


def _quantise_openvino(source: Path, path: Path, images: Sequence, build_input: Callable, facts: Mapping) -> None:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(source)
    # Of a channel each, OpenVINO 2026.4 loses them where tokens of an unknown number become maps.
    ranges = nncf.quantization.advanced_parameters.QuantizationParameters(per_channel=False)
    quantised = nncf.quantize(
        model, nncf.Dataset(images, build_input), subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED, model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(activations_quantization_params=ranges),
    )  # fmt: skip
    save_openvino(quantised, path, facts)
