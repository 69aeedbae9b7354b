"""What `UrbanSegTrainer` does at points of the loop where `Trainer` only offers callbacks."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_urbanseg.checkpoints import find_best_checkpoint

if TYPE_CHECKING:
    from hf_urbanseg.trainer import UrbanSegTrainer


logger = logging.getLogger(__name__)


class TrainerHooks(TrainerCallback):
    """Calls back into the trainer it belongs to; added by the trainer itself."""

    def __init__(self, trainer: "UrbanSegTrainer"):
        self.trainer = trainer
        self.due = [False, False]  # evaluation and checkpoint that were put off

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.first_step = self.trainer.loss_log.step = state.global_step
        self.trainer.restore_loss()
        if args.load_best_model_at_end:
            settle_best(args, state)  # now, and not after hours of training

    def on_step_begin(self, args, state, control, **kwargs):
        # Not when the batches are fetched: on resume, the random state is restored between the two.
        self.trainer.guard.begin_step()
        self.trainer.collect_step()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.loss.release()
        if self.trainer.guard.skips:
            control.should_log = True  # so the log has every skipped step, a resumed run's too
        elif self.trainer.ema is not None:
            self.trainer.ema.update(state.global_step)
        if self.trainer.is_asked_to_stop():
            self.trainer.stopping = True
        return self._postpone(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        return self._postpone(control)

    def _postpone(self, control: TrainerControl) -> TrainerControl:
        """Measures and keeps nothing while steps are skipped, but after the next good one: they may be the first of
        those that end training, and then what is kept must be from before."""
        due = [control.should_evaluate or self.due[0], control.should_save or self.due[1]]
        wait = self.trainer.guard.in_a_row > 0
        control.should_evaluate, control.should_save = (one and not wait for one in due)
        self.due = due if wait else [False, False]
        return control

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Before the loader's iterator exists: accelerate doesn't reach the sampler through all its wrappers.
        sampler = self.trainer.train_sampler
        if sampler is not None:
            sampler.set_epoch(state.global_step // (len(sampler) // sampler.step_size))


def settle_best(args: TrainingArguments, state: TrainerState) -> None:
    """Makes the best checkpoint in `state` one that is complete, with a warning where that is another.

    Its path is that in the run's present folder, which may have been moved since.
    """
    recorded, score = state.best_global_step, state.best_metric
    if not recorded:
        return
    key = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
    scores = {entry["step"]: entry[key] for entry in state.log_history if isinstance(entry.get(key), float)}
    scores = {step: score for step, score in scores.items() if math.isfinite(score)}
    # The first process decides: ranks with other weights would measure what is not exported.
    (best,) = broadcast_object_list([find_best_checkpoint(args.output_dir, recorded, scores, args.greater_is_better)])
    state.best_model_checkpoint = best and str(Path(args.output_dir) / f"checkpoint-{best}")
    if best == recorded:
        return
    state.best_global_step, state.best_metric = best, scores.get(best)
    if best is None:
        logger.warning("no complete checkpoint with a score is left: a later one is the best, else the last step")
    else:
        logger.warning("the best is now checkpoint-%d, %s %.4f instead of %.4f", best, key, scores[best], score)
