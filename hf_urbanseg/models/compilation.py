"""What must be so before a model is compiled: a compiler that works, and a model that has run once."""

import torch
from accelerate.utils import TorchDynamoPlugin
from transformers import PreTrainedModel

from hf_urbanseg.errors import ConfigError


def check_compiler(device: torch.device | str, backend: str = "inductor", mode: str | None = None) -> None:
    """Compiles and runs one line, so that what is missing shows now and not in the first step of a long start.

    Takes seconds the first time, then the result is in the backend's cache. Inductor needs a C++ compiler for a CPU,
    and Triton for a GPU.

    Raises:
        ConfigError: Nothing that compiles, no such backend or no such mode.
    """
    try:
        options = TorchDynamoPlugin(backend=backend, mode=mode).to_kwargs()  # as Trainer goes about it
        torch.compile(lambda tensor: tensor + 1, **options)(torch.zeros(8, device=device))
    except (RuntimeError, ImportError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        fix = (
            "install what is missing (on a CPU `g++`, or name yours in CXX), correct `torch_compile_backend` or "
            "`torch_compile_mode`, or train without `--torch_compile`"
        )
        raise ConfigError(f"what `torch_compile` by `{backend}` needs on {device}", reason, fix) from error


@torch.no_grad()
def run_once(model: PreTrainedModel) -> None:
    """Lets a model do what it does in its first forward only, on an empty image and in evaluation mode.

    There transformers hangs a hook on every stage and attention. Compiled in that moment, the model falls into pieces:
    a lock and the hooks' counter can't be traced. Weights, statistics and random numbers stay.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        channels = getattr(model.config, "num_channels", 3)  # a UperNet's are its backbone's
        model(pixel_values=torch.zeros(1, channels, 64, 64, device=model.device, dtype=model.dtype))
    finally:
        for module in training:
            module.training = True
