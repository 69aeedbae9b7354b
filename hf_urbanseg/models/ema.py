"""An exponential moving average of a model's weights, evaluated beside the raw ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from hf_urbanseg.errors import CheckpointError
from hf_urbanseg.models.loading import check_finite, find_difference

EMA_WEIGHTS = "ema.safetensors"
_PARAMETERS, _BUFFERS, _STEP = "parameters.", "buffers.", "step"


class ExponentialMovingAverage:
    """Average of a model's parameters over its optimiser steps; its buffers (BatchNorm's statistics) are copied.

    `average = d * average + (1 - d) * parameter` with `d = min(decay, (1 + t) / (10 + t))`, so that early averages
    forget the start (d is 0.18 at step 1). Averages are kept in fp32, or in fp64 where the parameters are.

    Args:
        model: The model that trains, not wrapped by DDP; the average starts from it as it is now.
        decay: Share that is kept per step, in [0, 1).
        start: Step up to which the average is the model itself; t counts from there.

    Source: the warm-up is that of TensorFlow's `ExponentialMovingAverage(num_updates=...)`.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, start: int = 0):
        self.decay, self.start = decay, start
        self.step = 0
        """The step of the last update, as it was given."""
        self._model = model
        self._average = {name: tensor.clone() for name, tensor in _tensors(model).items()}
        for name, tensor in self._average.items():
            if not name.startswith(_BUFFERS):
                self._average[name] = tensor.to(torch.promote_types(tensor.dtype, torch.float32))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes the model's present weights into the average; `step` is t, optimiser steps done so far, from 1."""
        averaged = max(step - self.start, 0)
        weight = 1.0 - min(self.decay, (1 + averaged) / (10 + averaged)) if averaged else 1.0
        for name, tensor in _tensors(self._model).items():
            average = self._average[name]
            if average.device != tensor.device:  # the model moved since
                self._average[name] = average = average.to(tensor.device)
            if name.startswith(_BUFFERS):
                average.copy_(tensor)
            else:
                average.lerp_(tensor.to(average.dtype), weight)
        self.step = step

    @contextmanager
    def swap(self) -> Iterator[nn.Module]:
        """Inside the `with` the model has the averaged weights, afterwards its own again, bit for bit."""
        own = {name: tensor.clone() for name, tensor in _tensors(self._model).items()}
        try:
            _copy(self._average, _tensors(self._model))
            yield self._model
        finally:
            _copy(own, _tensors(self._model))

    @torch.no_grad()
    def predict(self, pixel_values: Tensor) -> Tensor:
        """Logits of the averaged weights in evaluation mode; the model itself stays as it is."""
        training = [module for module in self._model.modules() if module.training]
        self._model.eval()
        try:
            averages = {name.partition(".")[2]: tensor for name, tensor in self._average.items()}
            return functional_call(self._model, averages, kwargs={"pixel_values": pixel_values})["logits"]
        finally:
            for module in training:
                module.training = True

    def use(self) -> None:
        """Gives the model the averaged weights for good."""
        _copy(self._average, _tensors(self._model))

    def state_dict(self) -> dict[str, Tensor]:
        """The averages themselves, no copies, as `parameters.<name>` and `buffers.<name>`, and `step`."""
        return {**self._average, _STEP: torch.tensor(self.step)}

    def save(self, folder: str | Path) -> None:
        """Writes `folder/ema.safetensors`."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, Path(folder) / EMA_WEIGHTS, {"format": "pt"})

    def load(self, folder: str | Path) -> None:
        """Reads all of `folder/ema.safetensors`; CheckpointError, and no change, if missing or of another model."""
        path = Path(folder) / EMA_WEIGHTS
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            reason, fix = f"{type(error).__name__}: {error}", "resume from another or turn EMA off"
            raise CheckpointError("the saved averages", reason, fix, path) from error
        if different := find_difference(self.state_dict(), state, same_precision=True):
            fix = "resume with the options the run was started with"
            raise CheckpointError("averages of this very model", different, fix, path)
        check_finite(state.items(), path, CheckpointError)
        self.step = int(state.pop(_STEP))
        _copy(state, self._average)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, detached, each once, under names that can't collide."""
    parameters = {_PARAMETERS + name: parameter.detach() for name, parameter in model.named_parameters()}
    return parameters | {_BUFFERS + name: buffer.detach() for name, buffer in model.named_buffers()}


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in source.items():
        target[name].copy_(tensor)
