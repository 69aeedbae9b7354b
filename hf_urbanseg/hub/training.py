"""A run's push: in training at each save and at the end, at no cost to the run, or later from its folder."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from transformers import Trainer, TrainerCallback

from hf_urbanseg.hub.background import BackgroundPublisher
from hf_urbanseg.hub.cards.model_card import build_interim_card, read_edited_card, write_model_card
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.publish import PublishResult, publish_owed
from hf_urbanseg.hub.repository import Files, collect_checkpoint, collect_repository
from hf_urbanseg.runs.folder import CARD

logger = logging.getLogger(__name__)


class PublishCallback(TrainerCallback):
    """Hands each saved checkpoint to the publisher, without waiting, on the process that saves."""

    def __init__(self, publisher: BackgroundPublisher, tensorboard: bool = False):
        self.publisher, self.tensorboard = publisher, tensorboard

    def on_save(self, args, state, control, **kwargs):
        files = partial(self._collect, Path(args.output_dir), state.global_step, state.max_steps)
        step = f"step {state.global_step}"
        self.publisher.submit(files, f"Training, {step} of {state.max_steps}", step)

    def _collect(self, run: Path, step: int, max_steps: int) -> Files:
        files = collect_checkpoint(run, run / f"checkpoint-{step}", self.tensorboard)
        return files | {CARD: read_edited_card(run) or build_interim_card(run, step, max_steps).encode()}


def start_publisher(trainer: Trainer, output: Path) -> BackgroundPublisher:
    """The publisher of a run, which gets each saved model if that is the strategy."""
    args = trainer.args
    publisher = BackgroundPublisher(
        output, args.hub_model_id,
        token=args.hub_token, private=args.hub_private_repo, revision=args.hub_revision,
        tensorboard=args.hub_tensorboard, pictures=args.hub_pictures,
    )  # fmt: skip
    if args.hub_strategy == "every_save":
        trainer.add_callback(PublishCallback(publisher, args.hub_tensorboard))
    return publisher


def push_end(publisher: BackgroundPublisher, trainer: Trainer, output: Path) -> None:
    """Pushes the finished run, and logs in a line where it is or what is owed."""
    files = partial(collect_repository, output, trainer.args.hub_tensorboard, trainer.args.hub_pictures)
    publisher.submit(files, f"The trained model, step {trainer.state.global_step}", "final")
    line = publisher.finish(trainer.args.hub_timeout)
    logger.log(logging.WARNING if line.startswith("owed") else logging.INFO, line)


def write_card(output: Path, repo_id: str | None, pictures: bool | None) -> None:
    """The last file of a run, and not worth its push: `urbanseg publish` writes the card again."""
    try:
        write_model_card(output, repo_id, pictures)
    except Exception as error:
        logger.warning("the model card was not written: %s", f"{type(error).__name__}: {error}".splitlines()[0])


def publish_run(
    run: Path, ledger: PushLedger, show: Callable[[Files], None], dry_run: bool = False, message: str | None = None
) -> PublishResult | None:
    """Pushes a finished run's folder, after `show` has seen the files; a dry run stops there, without note and card.

    The card is written anew unless a person has changed it. Until the run has arrived, its push.json says that it is
    owed.
    """
    if not dry_run and run.is_dir():
        write_model_card(run, ledger.repo_id, ledger.pictures)
    files = collect_repository(run, ledger.tensorboard, ledger.pictures)
    show(files)
    if dry_run:
        return None
    with ledger.owing("final"):
        return publish_owed(files, ledger, "final", message or "Upload a trained model")
