"""Pushes while training: a checkpoint's model at every save, without waiting for it."""

from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from hf_urbanseg.hub.background import BackgroundPublisher
from hf_urbanseg.hub.cards.model_card import CARD, build_interim_card, read_edited_card
from hf_urbanseg.hub.repository import Files, collect_checkpoint


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
        files = partial(self._collect, Path(args.output_dir), state.global_step, state.max_steps)
        step = f"step {state.global_step}"
        self.publisher.submit(files, f"Training, {step} of {state.max_steps}", step)

    def _collect(self, run: Path, step: int, max_steps: int) -> Files:
        files = collect_checkpoint(run, run / f"checkpoint-{step}", self.tensorboard, self.token)
        return files | {CARD: read_edited_card(run) or build_interim_card(run, step, max_steps).encode()}
