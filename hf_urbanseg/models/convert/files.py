"""Reading the .pth files of mmcv, mmengine and NVlabs without running anything that is pickled in them."""

import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hf_urbanseg.errors import ModelError
from hf_urbanseg.files import check_regular
from hf_urbanseg.models.loading import check_finite, explain

_TENSORS = ("state_dict", "model")
"""Keys under which files hold their tensors; a file may also be nothing but them."""


SAID = "hf_urbanseg"
"""Key in the meta data of files written here; other readers pass it over."""


class _Ignored:
    """Stands where a file pickled something that is not needed: takes every argument and state, keeps none."""

    def __init__(self, *args):
        pass

    def __new__(cls, *args):
        return super().__new__(cls)

    __setstate__ = __init__


# What mmcv 1.x and mmengine put beside the tensors: numpy values in the meta data, and in an unpublished mmengine file
# the training's log, whose buffers name their own methods through `getattr`. Nothing of it is made: neither numpy's
# functions nor getattr are called, and mmengine isn't imported.
_HARMLESS = (
    *(f"numpy{core}.multiarray.{function}" for core in (".core", "._core") for function in ("scalar", "_reconstruct")),
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64", "Int32", "UInt8", "Bool")),
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    "__builtin__.getattr",
)


@dataclass
class CheckpointFile:
    """What a .pth file holds: tensors by its own names, and the classes' names if MMSegmentation recorded them.

    `said` is what `describe_folder` recorded of the folder it was made of, None in files of others.
    """

    path: Path
    tensors: dict[str, Tensor]
    class_names: tuple[str, ...] | None
    said: dict | None = None


def read_checkpoint_file(path: str | Path) -> CheckpointFile:
    """Reads a .pth file with `torch.load(weights_only=True)`.

    Raises:
        ModelError: No such file, not written by torch or damaged, something pickled that is none of the harmless
            things above, or no tensors by name.
    """
    path, fix = Path(path), "name a model's checkpoint"
    try:
        with torch.serialization.safe_globals([(_Ignored, name) for name in _HARMLESS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the protocol of pickles that are refused anyhow
            check_regular(path, error_class=ModelError)
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as bundle:
                    unpacked = sum(info.file_size for info in bundle.infolist())
                if unpacked > path.stat().st_size:  # torch stores as it is
                    raise ModelError("a file written by torch.save", f"{unpacked:,} bytes packed in it", fix, path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # on damaged bytes torch and pickle raise nearly anything
        if isinstance(error, pickle.UnpicklingError) and "could run any code" in explain(error):
            fix = "save its `state_dict` alone where you trust it: torch.save({'state_dict': ...})"
            raise ModelError("tensors, numbers and names", explain(error), fix, path) from error
        raise ModelError("a file written by torch.save", explain(error), "download or copy it again", path) from error
    wrapped = content if isinstance(content, dict) else {}
    tensors = next((wrapped[key] for key in _TENSORS if isinstance(wrapped.get(key), dict)), content)
    if not isinstance(tensors, dict) or not tensors:
        raise ModelError("tensors by name", f"{type(tensors).__name__}", fix, path)
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ModelError("tensors by name", f"`{name}`, {type(value).__name__}", fix, path)
        # A view of one number may have any shape; sparse ones and those without numbers, too.
        dense = value.layout == torch.strided and value.device.type == "cpu"
        if not dense or value.nbytes > value.untyped_storage().nbytes():
            found = f"`{name}` {tuple(value.shape)} with other numbers than the file holds"
            raise ModelError("tensors in full", found, fix, path)
    check_finite(tensors.items(), path)
    # `CLASSES` in mmcv 1.x, `dataset_meta` in mmengine.
    meta = wrapped["meta"] if isinstance(wrapped.get("meta"), dict) else {}
    meta = meta | (meta["dataset_meta"] if isinstance(meta.get("dataset_meta"), dict) else {})
    names = meta.get("CLASSES") or meta.get("classes")
    names = tuple(names) if names and isinstance(names, list | tuple) else None
    said = meta.get(SAID)
    return CheckpointFile(path, dict(tensors), names, said if isinstance(said, dict) else None)
