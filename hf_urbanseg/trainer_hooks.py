"""What `UrbanSegTrainer` does at points of the loop where `Trainer` only offers callbacks."""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from hf_urbanseg.checkpoints import list_checkpoints
from hf_urbanseg.errors import CheckpointError

if TYPE_CHECKING:
    from hf_urbanseg.trainer import UrbanSegTrainer


class TrainerHooks(TrainerCallback):
    """Calls back into the trainer it belongs to; added by the trainer itself."""

    def __init__(self, trainer: "UrbanSegTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.first_step = self.trainer.loss_log.step = state.global_step
        if args.load_best_model_at_end and state.best_model_checkpoint:
            # The run's folder may have been moved since the path was recorded; stock would then forget the best.
            best = Path(args.output_dir) / Path(state.best_model_checkpoint).name
            if best not in list_checkpoints(args.output_dir):
                expected = f"the best checkpoint of the run, {best.name}"
                raise CheckpointError(expected, "none", "put it back or start anew", args.output_dir)
            state.best_model_checkpoint = str(best)

    def on_step_begin(self, args, state, control, **kwargs):
        # Not when the batches are fetched: on resume, the random state is restored between the two.
        self.trainer.collect_step()

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.loss.release()
        if self.trainer.ema is not None:
            self.trainer.ema.update(state.global_step)
        if self.trainer.is_asked_to_stop():
            # The log loses no step: a resumed run begins its own line at the checkpoint.
            self.trainer.stopping = control.should_log = True

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Before the loader's iterator exists: accelerate doesn't reach the sampler through all its wrappers.
        sampler = self.trainer.train_sampler
        if sampler is not None:
            sampler.set_epoch(state.global_step // (len(sampler) // sampler.step_size))
