"""Models and image processors from a folder or the Hub: completely, or one line that says what is wrong."""

import json
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from huggingface_hub.utils import HFValidationError, validate_repo_id
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

# From its module, because `transformers.SegformerImageProcessor` and `AutoImageProcessor` mean another class where
# torchvision is installed (resized pixels differ by up to 0.02), and in transformers < 5.23 nothing at all where it is
# not. The PIL class gives the same pixels everywhere.
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from hf_urbanseg.errors import ModelError, UrbanSegError
from hf_urbanseg.manifest import MANIFEST, read_step, verify_checkpoint
from hf_urbanseg.models import conv_decode_head  # noqa: F401  the Auto classes know its model once it is imported

PROCESSOR_FILE = "preprocessor_config.json"
_FAILURES = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


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
        error_class: What to raise.
        fix: What the user can do about tensors that don't fit.
        options: As of `from_pretrained`.
    """
    find_file(name_or_path, "config.json", options.get("revision"), error_class)
    if read_step(Path(name_or_path)) is not None and (Path(name_or_path) / MANIFEST).exists():
        verify_checkpoint(Path(name_or_path), [SAFE_WEIGHTS_NAME])
    try:
        with quiet_transformers():
            # In fp32, because the default is the checkpoint's own type, and half-precision weights neither train nor
            # measure well. A wrong shape is let through here because the report names the tensor and the exception
            # doesn't.
            options = {"dtype": torch.float32, "ignore_mismatched_sizes": True, "output_loading_info": True} | options
            model, report = model_class.from_pretrained(name_or_path, **options)
    except _FAILURES as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise error_class("a readable model", reason, "copy or train it again", name_or_path) from error
    found = []
    for kind, entry, allowed in (
        ("missing", "missing_keys", new),
        ("unexpected", "unexpected_keys", unused),
        ("of another shape", "mismatched_keys", new),
    ):
        names = (key if isinstance(key, str) else key[0] for key in report[entry])
        names = sorted(name for name in names if not name.startswith(allowed))
        if names:
            found.append(f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    found += map(first_line, report["error_msgs"])
    if found:
        expected = "weights for every tensor of the model and no others"
        raise error_class(expected, "; ".join(found).replace(";", ","), fix, name_or_path)
    check_finite(model.state_dict().items(), name_or_path, error_class)
    return model


def load_config(name_or_path: str | Path, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a model."""
    path = find_file(name_or_path, "config.json", revision)
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("the configuration of a model", first_line(error), "copy it again", path) from error


def load_image_processor(name_or_path: str | Path, revision: str | None = None) -> SegformerImageProcessorPil:
    """The image processor saved with a model; it must not reduce labels."""
    path = find_file(name_or_path, PROCESSOR_FILE, revision)
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
        for key in ("do_reduce_labels", "reduce_labels"):
            if options.get(key):
                found = "true, which shifts every class by one"
                raise ModelError(f"`{key}` false", found, f"set `{key}` to false", path)
        return SegformerImageProcessorPil.from_dict(options)
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError("an image processor's options", str(error), "save the processor again", path) from error


def find_file(
    name_or_path: str | Path, filename: str, revision: str | None = None, error_class: type[UrbanSegError] = ModelError
) -> Path:
    """Path of one file of a local folder or of a Hub model (downloaded, or from the cache)."""
    folder = Path(name_or_path)
    if folder.is_dir():
        if not (folder / filename).is_file():
            expected, fix = f"{filename} in a model folder", "name a folder written by training"
            raise error_class(expected, "none", fix, folder / filename)
        return folder / filename
    fix = "train a model first, or correct the path or Hub id"
    if _is_path(folder):
        found = "a file" if folder.exists() else "nothing there"
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
    tensors: Iterable[tuple[str, Tensor]],
    path: str | Path | None,
    error_class: type[UrbanSegError] = ModelError,
    fix: str = "take an earlier checkpoint",
) -> None:
    """Refuses NaN and infinity among weights and statistics: whatever is computed from them is neither right nor loud.

    Args:
        path: Where the tensors come from, for the error that names the first such tensor.
    """
    if name := find_non_finite(tensors):
        raise error_class("finite weights", f"inf or NaN in `{name}`", fix, path)


def find_non_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first tensor by name that holds NaN or infinity."""
    # A sum has them, too, and takes a tenth of the time of looking at each number; in fp64 it doesn't overflow.
    sums = ((name, tensor.sum(dtype=torch.float64)) for name, tensor in tensors if tensor.is_floating_point())
    return next((name for name, total in sums if not total.isfinite()), None)


def first_line(error: object) -> str:
    """What an exception says, cut to its first line without a full stop."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given").rstrip(".")


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
