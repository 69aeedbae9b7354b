"""`CheckpointingTrainer`: a Trainer that can be ended at any point and goes on as if it had not been."""

import contextlib
import logging
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState, TrainerState
from transformers.trainer_utils import SaveStrategy

from hf_urbanseg.errors import CheckpointError, DataError
from hf_urbanseg.json_yaml import write_json
from hf_urbanseg.losses.log import LossLog
from hf_urbanseg.memory import explaining_shortage
from hf_urbanseg.models.ema import ExponentialMovingAverage
from hf_urbanseg.models.loading import first_line
from hf_urbanseg.models.lora import merge_state_dict
from hf_urbanseg.models.training_branch import save_branches
from hf_urbanseg.runs.first_process import find_first
from hf_urbanseg.training.checkpoints import (
    commit_checkpoint,
    explain_failed_save,
    find_best_checkpoint,
    find_newest_checkpoint,
    list_checkpoints,
    load_weights,
    reading_state,
    remove_staging,
    rotate_checkpoints,
    staging_folder,
)
from hf_urbanseg.training.class_log import ClassLog
from hf_urbanseg.training.divergence import DivergenceGuard
from hf_urbanseg.training.interruption import Interruption
from hf_urbanseg.training.memory import describe_step

logger = logging.getLogger(__name__)


class CheckpointingTrainer(Trainer):
    """`transformers.Trainer` whose checkpoints are whole or absent, verified, complete and continued bit for bit.

    A subclass fills in what is kept beside weights and optimiser.
    """

    ema: ExponentialMovingAverage | None
    guard: DivergenceGuard
    loss_log: LossLog
    class_log: ClassLog | None
    step_batches: list[dict[str, Tensor]]
    interruption: Interruption | None = None
    """Ends training behind the step in which it receives a signal, on all ranks, with a checkpoint."""
    stopping = False
    _saved_step = -1

    def sum_over_ranks(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor, "sum")

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(find_newest_checkpoint(self.args.output_dir))
        if resume_from_checkpoint:
            with reading_state(resume_from_checkpoint, TRAINER_STATE_NAME):
                TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
        if self.args.should_save:
            remove_staging(self.args.output_dir)
        deferring = contextlib.nullcontext() if self.interruption is None else self.interruption.deferring()
        with deferring, explaining_shortage(lambda: describe_step(self.args, self.step_batches)):
            trained = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        return trained._replace(training_loss=trained.metrics["train_loss"])

    def _run_epoch(self, *args, **kwargs):
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            # Resumed behind its last step: stock would take one more.
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler=False):
        # With `eval_on_start` stock measures where a run is resumed, too: a score that the whole run doesn't have.
        at_start = skip_scheduler and self.state.global_step
        return {} if at_start else super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self.stopping:
            # From here and not by the loop's own end, which measures off the cadence and loads the best model.
            if self._saved_step != self.state.global_step and not self.guard.in_a_row:
                self._save_checkpoint(None, None)
            done = f"after step {self.state.global_step} of {self.state.max_steps}"
            kept = list_checkpoints(self.args.output_dir)
            fix = f"the same command with `--resume` goes on from {kept[-1].name}" if kept else "start it again"
            self.interruption.end(f"{done}; {fix}")

    def _save_checkpoint(self, model, trial) -> None:
        """Stock's parts of a checkpoint, written aside and moved into place when all ranks are done."""
        self.store_flos()
        self.state.stateful_callbacks["loss"] = self._describe_loss()
        if self.class_log is not None:
            self.state.stateful_callbacks["classes"] = self.class_log.state()
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        staged = staging_folder(checkpoint)
        if self.args.should_save:
            shutil.rmtree(staged, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self.writing(checkpoint, staged):
            self._stage_checkpoint(checkpoint, staged)
        with self.writing(checkpoint, staged):
            if self.args.should_save:
                commit_checkpoint(staged, checkpoint)
                rotate_checkpoints(checkpoint, self.args.save_total_limit, self.state.best_model_checkpoint)
        self._saved_step = self.state.global_step

    @contextmanager
    def writing(self, target: Path, staged: Path) -> Iterator[None]:
        """What one rank can't write ends all of them, with what is safe; also waits for all of them.

        Args:
            target: In the run's folder.
            staged: What was begun for it, which is deleted.
        """
        failure, reason = None, None
        try:
            yield
        # What torch raises on a full disk is a RuntimeError, and its errors of a device are such, too.
        except (OSError, SafetensorError, RuntimeError, DataError, CheckpointError) as error:
            if isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError):
                raise
            said = (getattr(error, name, None) for name in ("strerror", "found"))
            failure, reason = error, next(filter(None, said), first_line(error))
            if isinstance(error, CheckpointError):  # what was read back says more
                reason = error
        if (reason := find_first(reason)) is not None:
            if self.args.should_save:
                shutil.rmtree(staged, ignore_errors=True)
            if isinstance(reason, CheckpointError):
                raise reason
            raise explain_failed_save(target, reason) from failure

    def _stage_checkpoint(self, checkpoint: Path, staged: Path) -> None:
        self.save_model(str(staged), _internal_call=True)
        if self.state.best_global_step:
            best = checkpoint.with_name(f"checkpoint-{self.state.best_global_step}")
            if best == checkpoint or best.exists():
                self.state.best_model_checkpoint = str(best)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staged))
            self._save_scaler(str(staged))
            self._save_rng_state(str(staged))
        if self.args.should_save:
            save_branches(self.model, staged)
            if self.ema is not None:
                self.ema.save(staged)
            for callback in [*self.callback_handler.callbacks, self.control]:
                if isinstance(callback, ExportableState):
                    self.state.stateful_callbacks[type(callback).__name__] = callback.state()
            write_json(staged / TRAINER_STATE_NAME, asdict(self.state))  # stock's own way writes NaN, no JSON

    def _describe_loss(self) -> dict:
        """The loss so far, so that what a resumed run logs is as if it had never been interrupted."""

        def average(value: Tensor) -> Tensor:
            return self.sum_over_ranks(value.double()) / self.args.world_size

        return {
            "sum": self._total_loss_scalar,
            "since": float(average(self._tr_loss)),  # the last log line
            "logged": self._globalstep_last_logged,
            "log": self.loss_log.state(average),
        }

    def restore_logs(self) -> None:
        if self.class_log is not None and "classes" in self.state.stateful_callbacks:
            self.class_log.load(self.state.stateful_callbacks["classes"])
        saved = self.state.stateful_callbacks.get("loss")
        if saved is not None:
            self._total_loss_scalar, self._globalstep_last_logged = saved["sum"], saved["logged"]
            self._tr_loss += saved["since"]
            self.loss_log.load(saved["log"])

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.guard.check_weights()
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, merge_state_dict(self.model))
        # Stock pickles all arguments here, the Hub token among them.
        if self.args.should_save:
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        load_weights(self.model, resume_from_checkpoint, self.ema)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Moments and step of the checkpoint with the options of this start, such as a lower rate or more steps."""
        groups = [{key: group[key] for key in group.keys() - {"params", "lr"}} for group in self.optimizer.param_groups]
        with reading_state(checkpoint, "optimizer.pt and scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)
        for group, options in zip(self.optimizer.param_groups, groups, strict=True):
            if group.get("initial_lr"):
                group["lr"] *= options["initial_lr"] / group["initial_lr"]  # along the schedule
            group.update(options)
        schedule, groups = self.lr_scheduler, self.optimizer.param_groups
        if isinstance(schedule, LambdaLR):  # what was saved is of a schedule of the length before: 0 at its end
            for group, factor in zip(groups, schedule.lr_lambdas, strict=True):
                group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)
        if hasattr(schedule, "base_lrs"):
            schedule.base_lrs = [group["initial_lr"] for group in groups]
            schedule._last_lr = [group["lr"] for group in groups]

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self.accelerator.scaler is None:
            return  # saved in fp16, resumed without
        with reading_state(checkpoint, "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with reading_state(checkpoint, "random states"):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        settle_best(self.args, self.state)
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _determine_best_metric(self, metrics, trial) -> bool:
        # A better score of a step that isn't saved is of no use: stock would remember it, load another step in the
        # end, and let no saved one take its place.
        if not self.control.should_save and self.args.save_strategy != SaveStrategy.BEST:
            return False
        metric = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if metric.startswith("ema_") and not self.ema.step:
            return False  # a scaler gave up all steps so far
        if metric.removeprefix("ema_").startswith("iou_") and f"eval_{metric}" not in metrics:
            return False  # a class that is neither labelled nor predicted has no IoU this time
        return super()._determine_best_metric(metrics, trial)


def settle_best(args: TrainingArguments, state: TrainerState) -> None:
    """Makes the best checkpoint in `state` one that is complete, with a warning where that is another.

    Its path is that in the run's present folder, which may have been moved since.
    """
    recorded, score = state.best_global_step, state.best_metric
    if not recorded:
        return
    scores = list_scores(args, state)
    # The first process decides: ranks with other weights would measure what is not exported.
    (best,) = broadcast_object_list([find_best_checkpoint(args.output_dir, recorded, scores, args.greater_is_better)])
    state.best_model_checkpoint = best and str(Path(args.output_dir) / f"checkpoint-{best}")
    if best == recorded:
        return
    state.best_global_step, state.best_metric = best, scores.get(best)
    if best is None:
        logger.warning("no complete checkpoint with a score is left: a later one is the best, else the last step")
    else:
        key = args.metric_for_best_model
        logger.warning("the best is now checkpoint-%d, %s %.4f instead of %.4f", best, key, scores[best], score)


def list_scores(args: TrainingArguments, state: TrainerState) -> dict[int, float]:
    """What selects the best, by step, as far as the log has it as a finite number."""
    key = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
    scores = ((entry["step"], entry[key]) for entry in state.log_history if isinstance(entry.get(key), float))
    return {step: score for step, score in scores if math.isfinite(score)}
