"""What the parts of a loss were, between two log lines."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


class LossLog:
    """Sums of loss parts and means of their diagnostics between two log lines, on the device until then."""

    def __init__(self, device: torch.device):
        self.device, self.step = device, 0
        self._start()
        self.keep()

    def _start(self) -> None:
        self.parts: dict[str, Tensor] = {}
        self.diagnostics: dict[str, Tensor] = {}  # and numbers of batches, under names that no part can give
        self.dropped = 0

    def add(self, parts: dict[str, Tensor], diagnostics: dict[str, Tensor], void: Tensor | None = None) -> None:
        """Parts and diagnostics of a micro-batch, and whether it was void; None is what comes beside micro-batches."""
        counts = {} if void is None else {"batches": torch.ones((), device=self.device), "void": void}
        for sums, values in ((self.parts, parts), (self.diagnostics, diagnostics | counts)):
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value.detach().double()

    def keep(self) -> None:
        """Begins a step that `drop` may take out again."""
        self._kept = dict(self.parts), dict(self.diagnostics)

    def drop(self) -> None:
        """Takes the present step out, as if it had not been."""
        self.parts, self.diagnostics = self._kept
        self.dropped += 1

    def drain(self, step: int, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Per step: `loss_<part>`; per micro-batch: diagnostics; `void_batches` if there were any. Then starts anew.

        Dropped steps don't count; if there were no others, the `loss` is NaN.
        """
        if step == self.step:
            return {}
        steps, self.step = step - self.step - self.dropped, step
        if not self.parts:
            logs = {"loss": math.nan} if self.dropped else {}
            self.dropped = 0
            return logs
        parts, diagnostics = _reduce(self.parts, reduce), _reduce(self.diagnostics, reduce)
        batches, void = diagnostics.pop("batches"), diagnostics.pop("void")
        logs = {f"loss_{name}": value / steps for name, value in parts.items()}
        logs |= {name: value / batches for name, value in diagnostics.items()}
        if void:
            logs["void_batches"] = void
        self._start()
        return logs

    def state(self, average: Callable[[Tensor], Tensor]) -> dict:
        """What was summed since the last log line, for a checkpoint: the same for all processes."""
        parts, diagnostics = _reduce(self.parts, average), _reduce(self.diagnostics, average)
        return {"step": self.step, "parts": parts, "diagnostics": diagnostics}

    def load(self, state: dict) -> None:
        """Goes on from what `state` gave."""
        self.step = state["step"]
        for sums, saved in ((self.parts, state["parts"]), (self.diagnostics, state["diagnostics"])):
            sums |= {
                name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in saved.items()
            }


def _reduce(sums: dict[str, Tensor], reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
    return dict(zip(sums, reduce(torch.stack([*sums.values()])).tolist(), strict=True)) if sums else {}
