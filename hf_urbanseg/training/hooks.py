"""What `UrbanSegTrainer` does at points of the loop where `Trainer` only offers callbacks."""

from typing import TYPE_CHECKING

from transformers import TrainerCallback, TrainerControl

from hf_urbanseg.training.checkpointing import settle_best

if TYPE_CHECKING:
    from hf_urbanseg.training.trainer import UrbanSegTrainer


class TrainerHooks(TrainerCallback):
    """Calls back into the trainer it belongs to; added by the trainer itself."""

    def __init__(self, trainer: "UrbanSegTrainer"):
        self.trainer = trainer
        self.due = [False, False]  # evaluation and checkpoint that were put off

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)  # a checkpoint's state has those of the start before
        self.trainer.first_step = self.trainer.loss_log.step = state.global_step
        self.trainer.restore_logs()
        if args.load_best_model_at_end:
            settle_best(args, state)  # now, and not after hours of training

    def on_step_begin(self, args, state, control, **kwargs):
        # Not when the batches are fetched: on resume, the random state is restored between the two.
        self.trainer.guard.begin_step()
        self.trainer.collect_step()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.loss.release()
        self.trainer.step_batches = []
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
