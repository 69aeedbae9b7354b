"""Models and image processors from a folder or the Hub: completely, or one line that says what is wrong.

Nothing that comes with a model is ever run: the Auto classes and `from_pretrained` are called here alone, because their
default is to ask on the terminal, and a "y" there runs code of the model's author.
"""

import copy
import pickle
import re
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import transformers
from huggingface_hub.utils import HFValidationError, validate_repo_id
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSemanticSegmentation, PretrainedConfig, PreTrainedModel

# From its module, because `transformers.SegformerImageProcessor` and `AutoImageProcessor` mean another class where
# torchvision is installed (resized pixels differ by up to 0.02), and in transformers < 5.23 nothing at all where it is
# not. The PIL class gives the same pixels everywhere.
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from hf_urbanseg.errors import DataError, ModelError, UrbanSegError
from hf_urbanseg.files import explain_missing
from hf_urbanseg.json_yaml import read_json
from hf_urbanseg.manifest import MANIFEST, read_step, verify_checkpoint

PROCESSOR_FILE = "preprocessor_config.json"
_RECOMPUTED = ".relative_position_index"
"""End of the names of index tables that older versions of transformers saved with Swin and that newer ones compute."""
PRETRAINED = Path(str(resources.files("hf_urbanseg") / "models" / "pretrained"))
"""Folders of the models inside the package, called by their names: `tiny-streets`."""
_LARGEST = 1 << 15
"""Number in a configuration, or side of an input: no model here has a larger one, and memory has an end."""


def load_complete(
    model_class,
    name_or_path: str | Path,
    *,
    new: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
    error_class: type[UrbanSegError] = ModelError,
    fix: str = "take an unaltered checkpoint, or save it again with `save_pretrained`",
    **options,
):
    """`model_class.from_pretrained`, in fp32 unless `dtype` says otherwise, with every tensor accounted for.

    Stock loading warns of tensors that are missing, left over or of another shape and goes on with random weights. The
    weights of a training checkpoint are verified first: a flipped bit makes a weight like any other. NaN and infinity
    are refused, too.

    Args:
        new: Prefixes of tensors that may be missing or of another shape, because the caller makes them anew.
        unused: Prefixes of tensors of the file that the model doesn't need.
        fix: What the user can do about tensors that don't fit.
        options: As of `from_pretrained`.
    """
    find_file(name_or_path, "config.json", options.get("revision"), error_class)
    name_or_path = locate(name_or_path)
    if read_step(Path(name_or_path)) is not None and (Path(name_or_path) / MANIFEST).exists():
        used = [SAFE_WEIGHTS_NAME, "config.json", PROCESSOR_FILE]
        verify_checkpoint(Path(name_or_path), [one for one in used if (Path(name_or_path) / one).exists()])
    if "config" not in options:
        options["config"] = load_config(name_or_path, options.get("revision"), error_class)
    options |= {"trust_remote_code": False}
    try:
        with quiet_transformers():
            # In fp32, because the default is the checkpoint's own type, and half-precision weights neither train nor
            # measure well. A wrong shape is let through here because the report names the tensor and the exception
            # doesn't.
            options = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True} | options
            model, report = model_class.from_pretrained(name_or_path, **options)
        if hasattr(model, "decode_head") and hasattr(model.config, "num_channels") and model.dtype == torch.float32:
            with torch.no_grad():  # strides and the like are in no tensor's shape, so that only a pass tells
                model(torch.zeros(1, model.config.num_channels, 64, 64)).logits  # noqa: B018
    except Exception as error:  # whatever torch, pickle, safetensors or a layer run into on values from elsewhere
        raise error_class("a readable model", explain(error), "copy or train it again", name_or_path) from error
    found = []
    for kind, entry, allowed in (
        ("missing", "missing_keys", new),
        ("unexpected", "unexpected_keys", unused),
        ("of another shape", "mismatched_keys", new),
    ):
        names = (key if isinstance(key, str) else key[0] for key in report[entry])
        names = sorted(name for name in names if not name.startswith(allowed) and not name.endswith(_RECOMPUTED))
        if names:
            found.append(f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    found += map(first_line, report["error_msgs"])
    if found:
        expected = "weights for every tensor of the model and no others"
        raise error_class(expected, "; ".join(found).replace(";", ","), fix, name_or_path)
    check_finite(model.state_dict().items(), name_or_path, error_class)
    return model


def is_built_in(name_or_path: str | Path) -> bool:
    """Whether this names a model inside the package; a folder here that is called the same goes first."""
    name = str(name_or_path)
    return not Path(name).exists() and Path(name).name == name and (PRETRAINED / name / "config.json").is_file()


def locate(name_or_path: str | Path) -> str | Path:
    """The folder of a model inside the package; any other name, folder or Hub id as it is."""
    return PRETRAINED / name_or_path if is_built_in(name_or_path) else name_or_path


def load_config(
    name_or_path: str | Path, revision: str | None = None, error_class: type[UrbanSegError] = ModelError
) -> PretrainedConfig:
    """The configuration of a model of transformers' own, or of ours."""
    path = find_file(name_or_path, "config.json", revision, error_class)
    try:
        content = read_json(path)
    except DataError as error:
        raise error_class("the configuration of a model", error.found, "copy it again", path) from error
    kind = content.get("model_type")
    if str(kind) not in CONFIG_MAPPING:
        own = " and comes with code, which is never run" if "auto_map" in content else ""
        found = f"model type `{kind}`, which transformers doesn't have{own}"
        raise error_class("the configuration of a model", found, "choose another model", path)
    depth, largest = _measure_numbers(content.get("depths")), _measure_numbers(content)
    if max(largest) > _LARGEST or sum(depth) > 1000:
        found = f"{max(largest)}" if max(largest) > _LARGEST else f"`depths` of {sum(depth)} blocks"
        raise error_class("the configuration of a model that fits into memory", found, "copy it again", path)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if not config.id2label or not isinstance(config.architectures, list | None):
            raise ValueError("no classes, or `architectures` that is no list")
    except Exception as error:  # transformers checks some values, and runs into the others
        raise error_class("the configuration of a model", explain(error), "copy it again", path) from error
    # Where the name is a repository of kernels, transformers would fetch its code and run it.
    config._attn_implementation = None
    return config


def build_from_config(config: PretrainedConfig, **options) -> PreTrainedModel:
    """A segmentation model with random weights; `options` are those of `from_config`."""
    return AutoModelForSemanticSegmentation.from_config(copy.deepcopy(config), trust_remote_code=False, **options)


def load_image_processor(name_or_path: str | Path, revision: str | None = None) -> SegformerImageProcessorPil:
    """The image processor saved with a model. It is shown images alone: that others' reduce labels changes nothing."""
    path = find_file(name_or_path, PROCESSOR_FILE, revision)
    try:
        options = read_json(path)
    except DataError as error:
        raise ModelError("an image processor's options", error.found, "save the processor again", path) from error
    return restore_image_processor(options, path)


def restore_image_processor(options: Mapping, path: str | Path) -> SegformerImageProcessorPil:
    """The image processor of saved options, tried; `path` is where they stood."""
    try:
        if max(_measure_numbers(options)) > _LARGEST:
            raise ValueError(f"{max(_measure_numbers(options))}, which is too large")
        processor = SegformerImageProcessorPil.from_dict(options)
        # Tried, because nothing else checks the values before the first image.
        with np.errstate(all="ignore"):
            channels = len(mean) if isinstance(mean := processor.image_mean, list | tuple) else 3
            pixels = processor(np.zeros((8, 8, channels), np.uint8), input_data_format="channels_last")
            pixels = pixels["pixel_values"][0]
        if not np.isfinite(pixels).all():
            raise ValueError("values that make pixels infinite")
    except Exception as error:  # transformers, numpy and Pillow run into whatever the values are
        raise ModelError("an image processor's options", explain(error), "save the processor again", path) from error
    return processor


def find_file(
    name_or_path: str | Path, filename: str, revision: str | None = None, error_class: type[UrbanSegError] = ModelError
) -> Path:
    """Path of one file of a local folder, a model inside the package or one of the Hub's (downloaded or cached)."""
    folder = Path(locate(name_or_path))
    if folder.is_dir():
        if not (folder / filename).is_file():
            expected, fix = f"{filename} in a model folder", "name a folder written by training"
            raise error_class(expected, "none", fix, folder / filename)
        return folder / filename
    fix = "train a model first, or correct the path or Hub id"
    if _is_path(folder):
        found = "a file" if folder.exists() else f"nothing there{explain_missing(folder)}"
        raise error_class("a model folder", found, fix, name_or_path)
    try:
        return Path(cached_file(str(name_or_path), filename, revision=revision))
    except OSError as error:
        found = f"no such folder, and no {filename} from the Hub ({first_line(error)})"
        raise error_class("a model folder or a Hub id", found, fix, name_or_path) from error


@contextmanager
def quiet_transformers():
    """Holds back the loading report and bar of transformers: what is wrong is said once, in our one line."""
    logging = transformers.utils.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def find_difference(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], prefix: str = "", same_precision: bool = False
) -> str | None:
    """In words, the first tensor by name that differs in presence, shape, or in being of whole numbers.

    With `same_precision`, or in the type of numbers.
    """
    for name in sorted(expected.keys() | found.keys()):
        here, there = expected.get(name), found.get(name)
        if there is None:
            return f"`{prefix}{name}` missing"
        if here is None:
            return f"`{prefix}{name}` left over"
        if here.shape != there.shape:
            return f"`{prefix}{name}` {tuple(there.shape)} instead of {tuple(here.shape)}"
        if here.dtype != there.dtype and (same_precision or here.is_floating_point() != there.is_floating_point()):
            return f"`{prefix}{name}` as {there.dtype} instead of {here.dtype}"
    return None


def check_finite(
    tensors: Iterable[tuple[str, Tensor]], path: str | Path | None, error_class: type[UrbanSegError] = ModelError
) -> None:
    """Refuses NaN and infinity among the weights and statistics from `path`, by the name of the first such tensor.

    Whatever is computed from them is neither right nor loud.
    """
    if name := find_non_finite(tensors):
        raise error_class("finite weights", f"inf or NaN in `{name}`", "take an earlier checkpoint", path)


def find_non_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first tensor by name that holds NaN or infinity."""
    # A sum has them, too, and takes a tenth of the time of looking at each number; in fp64 it doesn't overflow.
    sums = ((name, tensor.sum(dtype=torch.float64)) for name, tensor in tensors if tensor.is_floating_point())
    return next((name for name, total in sums if not total.isfinite()), None)


def first_line(error: object) -> str:
    """What an exception says, cut to its first line without a full stop."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given").rstrip(".")


def explain(error: Exception) -> str:
    """What a library says of a file that it can't read; of a pickle that names what isn't data, that name."""
    name = re.search(r"GLOBAL (\S+)|Unsupported class (\S+)", str(error))
    if name and isinstance(error, pickle.UnpicklingError):
        return f"`{(name[1] or name[2]).rstrip('.')}` pickled in it, which could run any code"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.') or 'no reason given'}"


def _measure_numbers(content: object) -> list[int]:
    """Sizes of the whole numbers in a JSON value, and 0."""
    found, left = [0], [content]
    while left:
        one = left.pop()
        left += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        found += [abs(one)] if isinstance(one, int) else ()
    return found


def _is_path(name: Path) -> bool:
    """True for what can't be a Hub id, or is more likely a mistyped path: its parent folder is here (`runs/dmeo`).

    Asking the Hub for the latter would take half a minute of retries without a network.
    """
    if name.exists() or (len(name.parts) == 2 and name.parent.is_dir()):
        return True
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        return True
    return False
