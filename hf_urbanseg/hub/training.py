"""What training pushes to the Hub, and that nothing of it costs the run."""

import logging
from functools import partial
from pathlib import Path

from hf_urbanseg.hub.background import BackgroundPublisher
from hf_urbanseg.hub.callback import PublishCallback
from hf_urbanseg.hub.cards.model_card import write_model_card
from hf_urbanseg.hub.repository import collect_repository
from hf_urbanseg.trainer import UrbanSegTrainer

logger = logging.getLogger(__name__)


def start_publisher(trainer: UrbanSegTrainer, output: Path) -> BackgroundPublisher:
    """The publisher of a run, which gets each saved model if that is the strategy."""
    args = trainer.args
    publisher = BackgroundPublisher(
        output, args.hub_model_id,
        token=args.hub_token, private=args.hub_private_repo, revision=args.hub_revision,
        tensorboard=args.hub_tensorboard, pictures=args.hub_pictures,
    )  # fmt: skip
    if args.hub_strategy == "every_save":
        trainer.add_callback(PublishCallback(publisher, args.hub_tensorboard, args.hub_token))
    return publisher


def push_end(publisher: BackgroundPublisher, trainer: UrbanSegTrainer, output: Path) -> str:
    """Pushes the finished run, and says in a line where it is or what is owed."""
    args = trainer.args
    files = partial(collect_repository, output, args.hub_tensorboard, args.hub_token, args.hub_pictures)
    publisher.submit(files, f"The trained model, step {trainer.state.global_step}", "final")
    status = publisher.finish(args.hub_timeout)
    logger.log(logging.INFO if status.done else logging.WARNING, status.line)


def write_card(output: Path, repo_id: str | None, pictures: bool | None) -> None:
    """The last file of a run, and not worth its push: publish.py writes the card again."""
    try:
        write_model_card(output, repo_id, pictures)
    except Exception as error:
        logger.warning("the model card was not written: %s", f"{type(error).__name__}: {error}".splitlines()[0])
