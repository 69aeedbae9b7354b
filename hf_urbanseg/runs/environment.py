"""Where numbers come from: versions and machine."""

import os
import platform
from importlib.metadata import version

import torch

from hf_urbanseg import __version__

_LIBRARIES = ("transformers", "accelerate", "datasets", "albumentations", "huggingface_hub", "numpy")


def describe_environment() -> dict:
    """Versions and machine, without names or paths that belong to a person."""
    return {
        "hf_urbanseg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{library: version(library) for library in _LIBRARIES},
        **({"cuda": torch.version.cuda} if torch.version.cuda else {}),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores",
        "system": platform.system(),
    }
