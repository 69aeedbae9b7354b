"""What the parts of a loss were, between two log lines."""

from collections.abc import Callable

import torch
from torch import Tensor


class LossLog:
    """Sums of loss parts and means of their diagnostics between two log lines, on the device until then."""

    def __init__(self, device: torch.device):
        self.device, self.step = device, 0
        self._start()

    def _start(self) -> None:
        self.parts: dict[str, Tensor] = {}
        self.diagnostics: dict[str, Tensor] = {}
        self.batches = self.void = torch.zeros((), dtype=torch.float64, device=self.device)

    def add(self, parts: dict[str, Tensor], diagnostics: dict[str, Tensor], void: Tensor) -> None:
        for sums, values in ((self.parts, parts), (self.diagnostics, diagnostics)):
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value.detach().double()
        self.batches, self.void = self.batches + 1, self.void + void

    def drain(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Per step: `loss_<part>`; per micro-batch: diagnostics; `void_batches` if there were any. Then starts anew."""
        values = [*self.parts.values(), *self.diagnostics.values(), self.batches, self.void]
        if step == self.step or not self.parts:
            return {}
        *values, batches, void = reduce(torch.stack(values)).tolist()
        logs = {f"loss_{name}": value / (step - self.step) for name, value in zip(self.parts, values, strict=False)}
        logs |= dict(zip(self.diagnostics, (v / batches for v in values[len(self.parts) :]), strict=True))
        if void:
            logs["void_batches"] = void
        self._start()
        self.step = step
        return logs
