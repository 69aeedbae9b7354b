"""Models that `urbanseg export` wrote for another runtime, run as if they were still PyTorch's."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.modeling_outputs import SemanticSegmenterOutput

from hf_urbanseg.errors import ConfigError, ModelError
from hf_urbanseg.files import explain_missing
from hf_urbanseg.models.loading import explain

FACTS = "hf_urbanseg"
"""Key of a file's metadata under which the JSON stands that is also beside it."""
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""Of the files, by what runs them."""
_PACKAGES = {"onnx": ("onnxruntime",), "openvino": ("openvino",), "torch": ()}


def is_exported(name_or_path: str | Path) -> bool:
    """Whether this names an exported file and not a folder or a Hub id."""
    return Path(name_or_path).suffix in SUFFIXES.values() and not Path(name_or_path).is_dir()


def find_home(name_or_path: str | Path) -> str:
    """The folder in which an exported file is, the run's own by default; any other name as it is."""
    return str(Path(name_or_path).parent if is_exported(name_or_path) else name_or_path)


def name_description(path: str | Path) -> Path:
    """The JSON file beside an exported one."""
    return Path(f"{path}.json")


def find_weights(path: str | Path) -> Path:
    """Of the files of an exported model that with its weights."""
    path = Path(path)
    return path.with_suffix(".bin") if path.suffix == SUFFIXES["openvino"] else path


def check_packages(kind: str, *names: str) -> None:
    """Refuses (ConfigError) a runtime whose packages aren't installed; `kind` is the extra's name."""
    for name in names or _PACKAGES[kind]:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"the package `{name}`", "none", f'`pip install "hf-urbanseg[{kind}]"`')


class ExportedModel(nn.Module):
    """An exported file with what prediction asks of a model: `config`, and logits for pixel values.

    A file of label maps gives each class's share of a pixel, 0 or 1, as its logits, at the image's own size.

    Args:
        path: Of the file.
        facts: Its metadata.
        run: The one input -> the one output, as arrays.
    """

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, path: Path, facts: Mapping, run: Callable[[np.ndarray], np.ndarray]):
        super().__init__()
        self.path, self.facts, self.run = path, facts, run
        try:
            self.config = AutoConfig.for_model(**facts["config"])
            self.takes_bytes, self.fixed_size = bool(facts["takes_bytes"]), facts["fixed_size"]
        except Exception as error:  # whatever transformers runs into on values from elsewhere
            raise _refuse(explain(error), path) from error
        self.config.name_or_path = str(path)

    def forward(self, pixel_values: Tensor) -> SemanticSegmenterOutput:
        size = [*pixel_values.shape[2:]]
        if self.fixed_size and size != self.fixed_size:
            fix = "export it again without `--fixed_size`, or predict by one pass of the whole image"
            expected = "input of {} {}, as was fixed".format(*self.fixed_size)
            raise ModelError(expected, "{} {}".format(*size), fix, self.path)
        values = pixel_values.numpy()
        if self.takes_bytes:
            values = np.ascontiguousarray(values.astype(np.uint8).transpose(0, 2, 3, 1))
        try:
            found = torch.from_numpy(self.run(values))
        except Exception as error:  # of any runtime
            expected = f"an input that {self.path.name} can take"
            found = f"{tuple(values.shape)} ({explain(error)})"
            raise ModelError(expected, found, "take a larger image, or another model", self.path) from error
        if self.takes_bytes:
            found = nn.functional.one_hot(found.long(), self.config.num_labels).permute(0, 3, 1, 2).float()
        return SemanticSegmenterOutput(logits=found)


def load_exported(path: str | Path) -> ExportedModel:
    """A file that `urbanseg export` wrote, on the CPU with as many threads as torch has.

    torch's own format is for files of people one trusts: reading it may run code.

    Raises:
        ModelError: No such file, not one of ours, or damaged.
        ConfigError: Its runtime isn't installed.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError("an exported model", f"nothing there{explain_missing(path)}", "correct the path", path)
    kind = next(kind for kind, suffix in SUFFIXES.items() if suffix == path.suffix)
    check_packages(kind)
    try:
        facts, run = {"onnx": _load_onnx, "openvino": _load_openvino, "torch": _load_torch}[kind](path)
    except Exception as error:  # whatever a runtime runs into on bytes from elsewhere
        fix = "export it again"
        raise ModelError(f"a readable {path.suffix} file", explain(error), fix, path) from error
    if not facts:
        raise _refuse("one without its metadata", path)
    try:
        return ExportedModel(path, json.loads(facts), run)
    except ValueError as error:
        raise _refuse(str(error), path) from error


def _refuse(found: str, path: Path) -> ModelError:
    return ModelError("a file that `urbanseg export` wrote", found, "export the model's folder", path)


def _load_onnx(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    facts = session.get_modelmeta().custom_metadata_map.get(FACTS)
    return facts, lambda values: session.run(None, {name: values})[0]


def _load_openvino(path: Path):
    import openvino

    model = openvino.Core().read_model(path)
    facts = model.get_rt_info([FACTS]).astype(str) if model.has_rt_info([FACTS]) else None
    precision = json.loads(facts)["precision"] if facts else "fp32"
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY",
        # Left alone, a CPU that can would compute any model in bf16.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }  # fmt: skip
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    return facts, lambda values: request.infer({0: values})[0].copy()


def _load_torch(path: Path):
    files = {FACTS: ""}
    network = torch.export.load(path, extra_files=files).module()
    return files[FACTS], torch.no_grad()(lambda values: network(torch.from_numpy(values)).numpy())
