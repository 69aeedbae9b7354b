"""Pushes while training: a checkpoint's model at every save, without waiting for it."""

from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from hf_urbanseg.hub.background import BackgroundPublisher
from hf_urbanseg.hub.repository import collect_checkpoint


class PublishCallback(TrainerCallback):
    """Hands each saved checkpoint to a `BackgroundPublisher`, on the process that saves.

    Args:
        publisher: Of the run.
        tensorboard: Push event files, too.
        token: A secret to look for in what is pushed.
    """

    def __init__(self, publisher: BackgroundPublisher, tensorboard: bool = False, token: str | None = None):
        self.publisher, self.tensorboard, self.token = publisher, tensorboard, token

    def on_save(self, args, state, control, **kwargs):
        run = Path(args.output_dir)
        step = f"step {state.global_step}"
        checkpoint = run / f"checkpoint-{state.global_step}"
        files = partial(collect_checkpoint, run, checkpoint, self.tensorboard, self.token)
        self.publisher.submit(files, f"Training, {step} of {state.max_steps}", step)
