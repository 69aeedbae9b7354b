"""Pushes a run's folder to the Hub: scripts/publish.py RUN [USER/NAME]; completes what training still owes.

A folder that prepare_data wrote is pushed as a data set.

Goes: the model, its card, the recipe, numbers and pictures, by an allow-list. Stays: checkpoints, optimizer states,
secrets and the paths of this machine. Files on the Hub that such a push could have written and that the run no longer
has are removed; others' files stay.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hf_urbanseg.commands._run import run_command
from hf_urbanseg.config import option
from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.hub.cards.model_card import write_model_card
from hf_urbanseg.hub.client import bound_requests
from hf_urbanseg.hub.dataset_repository import is_prepared_set, push_prepared_set
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.publish import PublishResult, check_target, publish
from hf_urbanseg.hub.repository import Files, collect_repository
from hf_urbanseg.recipe import parse_arguments

logger = logging.getLogger(__name__)

_REMEMBERED = ("private", "revision", "create_pr", "tensorboard", "pictures")  # in push.json, for the next push


@dataclass
class PublishArguments:
    """What is pushed, and where."""

    run: str = field(metadata={"help": "Folder of a run; may stand first, without --run."})
    repo_id: str | None = option(
        None, "`user/name` on the Hub; may stand second. Default: where the run was pushed before (push.json)."
    )
    private: bool | None = option(
        None, "Make a new repository private; refuse a public one. Default: as before.", nargs="?", const=True
    )
    revision: str | None = option(None, "Branch, made if missing, or refs/pr/3. Default: as before, else main.")
    create_pr: bool | None = option(
        None, "Propose the files as a pull request. Default: as before.", nargs="?", const=True
    )
    message: str | None = option(None, "First line of the commit.")
    license: str | None = option(None, "Of a data set: Hub identifier such as cc-by-4.0. Default: as it was prepared.")
    tensorboard: bool | None = option(None, "Also TensorBoard's files. Default: as before.", nargs="?", const=True)
    pictures: bool | None = option(
        None, "Also what shows images of the data (overlays, failures, the report). Default: as before, else unless "
        "the data's licence is known to forbid it (Cityscapes).", nargs="?", const=True
    )  # fmt: skip
    dry_run: bool = option(False, "Show what would be pushed, and connect to nothing.")
    timeout: float | None = option(
        None, "Seconds without an answer after which a request is given up. Default: HF_URBANSEG_HUB_TIMEOUT, else 30."
    )


def main() -> None:
    """Entry point of `urbanseg-publish` and scripts/publish.py."""
    run_command(_publish)


def _publish() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    (args,) = parse_arguments([PublishArguments], _name_positionals(sys.argv[1:]), description=__doc__)
    ledger = PushLedger.read(args.run)
    options = _choose_target(args, ledger)
    if is_prepared_set(args.run):
        return _publish_set(args, ledger)
    if args.license is not None:
        raise ConfigError("`license` with a data set", "a run, whose card says it", "leave it out", args.run)
    chosen = {name: options.pop(name) for name in ("tensorboard", "pictures")}
    if not args.dry_run and Path(args.run).is_dir():
        write_model_card(args.run, options["repo_id"], chosen["pictures"])
    files = collect_repository(args.run, **chosen)
    _print_files(files, f"{args.run} -> {options['repo_id']}")
    if args.dry_run:
        print("dry run: nothing was pushed")
        return
    if not sys.stderr.isatty():
        disable_progress_bars()
    bound_requests(args.timeout)
    ledger.owe("final")  # until it has arrived, even if this process is killed
    try:
        result = publish(
            files, message=args.message or "Upload a trained model", beside=args.run, timeout=args.timeout, **options
        )
    except UrbanSegError as error:
        ledger.fail(error.found)
        raise
    ledger.settle("final", result.commit, result.url)
    _print_result(result)


def _publish_set(args: PublishArguments, ledger: PushLedger) -> None:
    if not sys.stderr.isatty():
        disable_progress_bars()
    bound_requests(args.timeout)
    result = push_prepared_set(
        Path(args.run), ledger, license=args.license, show=lambda files: _print_files(files, f"{args.run} -> "
        f"{ledger.repo_id} (data set)"), dry_run=args.dry_run, message=args.message, timeout=args.timeout,
    )  # fmt: skip
    if result is None:
        print("dry run: nothing was pushed")
    else:
        _print_result(result)


def _name_positionals(words: list[str]) -> list[str]:
    named = []
    for option_name in ("--run", "--repo_id"):
        if not words or words[0].startswith("-"):
            break
        named += [option_name, words[0]]
        words = words[1:]
    return [*named, *words]


def _choose_target(args: PublishArguments, ledger: PushLedger) -> dict:
    """What was asked for, else what the run was pushed with before; becomes the ledger's."""
    if args.repo_id is None and ledger.repo_id is None:
        raise ConfigError("a repository", "none", f"name it: `urbanseg publish {args.run} user/name`", args.run)
    if args.repo_id not in (None, ledger.repo_id):
        if ledger.owed:
            logger.warning("%s is still owed %s; push.json forgets it now", ledger.repo_id, ", ".join(ledger.owed))
        ledger.retarget(args.repo_id)
    for name in _REMEMBERED:
        if getattr(args, name) is not None:
            setattr(ledger, name, getattr(args, name))
    check_target(ledger.repo_id, ledger.revision, ledger.create_pr)
    return {name: getattr(ledger, name) for name in ("repo_id", *_REMEMBERED)}


def _print_files(files: Files, title: str) -> None:
    table = Table(title=escape(title))
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("changed on the way")
    total = 0
    for path, content in files.items():
        size = len(content) if isinstance(content, bytes) else Path(content).stat().st_size
        total += size
        # `collect_repository` gives content instead of a file where it took something out.
        table.add_row(escape(path), _format_size(size), "paths of this machine" if isinstance(content, bytes) else "")
    table.add_section()
    table.add_row(f"{len(files)} files", _format_size(total))
    Console().print(table)


def _format_size(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000 or unit == "GB":
            return f"{size:.1f} {unit}"


def _print_result(result: PublishResult) -> None:
    if not result.added and not result.deleted:
        print(f"nothing to push: {result.url} has these files already")
        return
    removed = f", {len(result.deleted)} removed" if result.deleted else ""
    print(f"pushed {len(result.added)} new or changed files{removed}: {result.url} (commit {result.commit[:8]})")
