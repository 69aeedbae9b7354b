"""Training that leaves the finite numbers: what it would spoil stays as it was, and it ends before long."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_urbanseg.errors import DivergenceError
from hf_urbanseg.models.batch_norm import keep_batch_norm_statistics
from hf_urbanseg.models.loading import find_non_finite
from hf_urbanseg.options.training_options import TrainingOptions
from hf_urbanseg.training.checkpoints import list_checkpoints

if TYPE_CHECKING:
    from hf_urbanseg.training.trainer import UrbanSegTrainer

logger = logging.getLogger(__name__)

_SHOWN = 16  # images of a step that a line names


class DivergenceGuard:
    """Skips the optimiser steps of a trainer whose gradient holds NaN or infinity, and ends training after too many.

    A skipped step leaves no trace: no parameter moves, nor does the optimiser's state, and BatchNorm's statistics are
    put back. Steps that a gradient scaler (fp16) gives up while its scale is still above 1 are skipped likewise, but
    that is its way of finding the scale: they are no sign of a fault.
    """

    def __init__(self, trainer: "UrbanSegTrainer"):
        self.trainer = trainer
        self.limit = getattr(trainer.args, "max_skipped_steps", TrainingOptions.max_skipped_steps)
        self.in_a_row = 0
        """Steps skipped up to now without one between that was not."""
        self.skips = False
        """Whether the present step is one."""
        self._kept: list[Tensor] = []

    def begin_step(self) -> None:
        self.skips, self._kept = False, [tensor.clone() for tensor in self._list_spoilt()]
        self.trainer.loss_log.keep()

    def inspect(self, norm: Tensor | float) -> None:
        """Judges the present step by the norm of its gradient, which is of the sum over all ranks: they judge alike.

        Raises:
            DivergenceError: Weights that are not finite, or too many steps in a row.
        """
        if math.isfinite(norm):
            self.in_a_row = 0
            return
        trainer, step, self.skips = self.trainer, self.trainer.state.global_step + 1, True
        for parameter in trainer.model.parameters():
            parameter.grad = None  # optimisers pass over it: no weight decay, no momentum
        for tensor, kept in zip(self._list_spoilt(), self._kept, strict=True):
            tensor.copy_(kept)
        # Trainer will divide by all steps, this one among them, which so has the loss of the mean of the others.
        logged = trainer._globalstep_last_logged
        others = step - 1 - logged
        trainer._tr_loss += trainer._tr_loss / others if others else trainer._total_loss_scalar / max(logged, 1)
        trainer.loss_log.drop()
        self.check_weights()
        scaler = trainer.accelerator.scaler
        if scaler is not None and scaler.get_scale() > 1:
            return
        self.in_a_row += 1
        logger.warning("step %d is skipped, its gradient is not finite; its images: %s", step, self._name_images())
        if self.in_a_row == self.limit:
            found = f"NaN or infinity in each of the last {self.limit} steps, up to {step}"
            raise self._build_error("gradients that are finite numbers", found)

    def check_weights(self) -> None:
        """Refuses weights, statistics and averages that hold NaN or infinity, before they are kept or trained on.

        Raises:
            DivergenceError: One does, as an update can leave it whose gradient was finite.
        """
        trainer = self.trainer
        averages = {} if trainer.ema is None else trainer.ema.state_dict()
        if name := find_non_finite({**trainer.model.state_dict(), **averages}.items()):
            found = f"NaN or infinity in `{name}` at step {trainer.state.global_step}"
            raise self._build_error("weights that are finite numbers", found)

    def _list_spoilt(self) -> list[Tensor]:
        """What has taken in a step before its gradient is known: BatchNorm's statistics and Trainer's sum of losses."""
        return [*self.trainer.model.buffers(), self.trainer._tr_loss]

    def _build_error(self, expected: str, found: str) -> DivergenceError:
        args = self.trainer.args
        fix = "try a lower `--learning_rate`, more `--warmup_steps`, `--max_grad_norm 1`"
        fix += " or bf16 in place of fp16" if args.fp16 else ""
        if checkpoints := list_checkpoints(args.output_dir):
            fix += f"; `--resume --accept_changes` goes on from {checkpoints[-1].name}"
        return DivergenceError(expected, found, fix, args.output_dir)

    def _name_images(self) -> str:
        sampler, names = self.trainer.train_sampler, getattr(self.trainer.train_dataset, "names", None)
        if sampler is None:  # the loader is the user's own
            return "unknown"
        step = sampler.list_step(self.trainer.state.global_step)
        indices = dict.fromkeys(step)
        alone = {index: None for index, is_bad in zip(step, self._judge_alone(), strict=True) if is_bad}
        said = _list(names, indices)
        # If it is so of all of them, it is no picture's fault.
        return f"{said}; alone, too: {_list(names, alone)}" if 0 < len(alone) < len(indices) else said

    @torch.no_grad()
    def _judge_alone(self) -> list[bool]:
        """Of each sample of the step, over all ranks, whether its loss alone is not finite; leaves no trace."""
        trainer, args = self.trainer, self.trainer.args
        size, device = args.train_batch_size, args.device
        count = size * len(trainer.step_batches) * args.world_size
        found = torch.zeros(count, device=device)
        trainer.loss.release()  # what it knows of the step as a whole
        keep_batch_norm_statistics(trainer.model)
        with torch.random.fork_rng([] if device.type == "cpu" else [device]), trainer.compute_loss_context_manager():
            for number, batch in enumerate(trainer.step_batches):
                inputs = trainer._prepare_inputs(batch)
                for index in range(size):
                    one = {key: value[index : index + 1] for key, value in inputs.items() if isinstance(value, Tensor)}
                    outputs = trainer.model(pixel_values=one["pixel_values"])
                    parts = trainer.loss(trainer.add_teacher(outputs, one), one["labels"])
                    # Micro-batches go to the ranks in turn.
                    place = (number * args.world_size + args.process_index) * size + index
                    found[place] = not math.isfinite(sum(parts.values()))
        return trainer.sum_over_ranks(found).tolist()


def _list(names: Sequence[str] | None, indices: Mapping[int, None]) -> str:
    shown = [str(names[index] if names else index) for index in indices][:_SHOWN]
    return ", ".join(shown) + (f" and {len(indices) - _SHOWN} more" if len(indices) > _SHOWN else "")
