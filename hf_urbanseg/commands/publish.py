"""Pushes a run's folder to the Hub: urbanseg publish RUN [USER/NAME]; completes what training still owes.

A folder that `urbanseg prepare-data` wrote is pushed as a data set. `--space USER/NAME` makes a Space instead: the page
of `urbanseg demo`, with the model and this package inside.

Goes: the model, its card, the recipe, numbers and pictures, by an allow-list. Stays: checkpoints, optimizer states,
secrets and the paths of this machine. Files on the Hub that such a push could have written and that the run no longer
has are removed; others' files stay.
"""

import logging
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table

from hf_urbanseg.command_line import command, parse_command_line
from hf_urbanseg.errors import ConfigError
from hf_urbanseg.escaping import build_console, flatten
from hf_urbanseg.files import check_place
from hf_urbanseg.locks import locked
from hf_urbanseg.options.fields import Options, option, required
from hf_urbanseg.ranges import Seconds

logger = logging.getLogger(__name__)

_REMEMBERED = ("private", "revision", "create_pr", "tensorboard", "pictures")  # in push.json, for the next push


@dataclass
class PublishArguments(Options):
    """What is pushed, and where."""

    run: str = required("Folder of a run; may stand first, without --run.")
    repo_id: str | None = option(
        None, "`user/name` on the Hub; may stand second. Default: where the run was pushed before (push.json)."
    )
    space: str | None = option(None, "`user/name` of a Space that gets the run's demo, in place of all else.")
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
        "the data's licence forbids it (Cityscapes) or may do so (the known street sets of docs/data.md).",
        nargs="?", const=True,
    )  # fmt: skip
    dry_run: bool = option(False, "Show what would be pushed, and connect to nothing.")
    timeout: Seconds | None = option(
        None, "Seconds without an answer after which a request is given up. Default: HF_URBANSEG_HUB_TIMEOUT, else 30."
    )


@command
def main(argv: list[str]) -> None:
    usage = "publish RUN [USER/NAME] [--option VALUE ...]"
    (args,) = parse_command_line((PublishArguments,), argv, __doc__, usage, ("run", "repo_id"))
    from hf_urbanseg.data.sources.saved_set import is_saved_set

    writes, is_set = Path(args.run).is_dir() and not args.dry_run, is_saved_set(Path(args.run))
    with locked(args.run, inside=not is_set) if writes else nullcontext():
        _publish(args, is_set)


def _publish(args: PublishArguments, is_set: bool) -> None:
    from hf_urbanseg.hub.client import bound_requests
    from hf_urbanseg.hub.dataset_repository import push_prepared_set
    from hf_urbanseg.hub.ledger import PushLedger
    from hf_urbanseg.hub.training import publish_run

    bound_requests(args.timeout)
    if args.space is not None:
        return _publish_space(args, is_set)
    if Path(args.run).is_dir() and not args.dry_run:
        check_place(args.run, folder=True)  # push.json says what the Hub is owed
    ledger = PushLedger.read(args.run)
    _choose_target(args, ledger)

    def show(files) -> None:
        _print_files(files, f"{args.run} -> {ledger.repo_id}{' (data set)' if is_set else ''}")

    if is_set:
        result = push_prepared_set(Path(args.run), ledger, None, args.license, show, args.dry_run, args.message)
    elif args.license is not None:
        raise ConfigError("`license` with a data set", "a run, whose card says it", "leave it out", args.run)
    else:
        result = publish_run(Path(args.run), ledger, show, args.dry_run, args.message)
    _print_result(result)


def _publish_space(args: PublishArguments, is_set: bool) -> None:
    """Notes nothing: a Space is owed nothing, and the run's own repository is what push.json is of."""
    from hf_urbanseg.hub.ledger import PushLedger
    from hf_urbanseg.hub.publish import check_target
    from hf_urbanseg.hub.space import publish_space

    others = ("repo_id", "revision", "create_pr", "tensorboard", "pictures", "license")
    if given := [name for name in others if getattr(args, name) is not None]:
        fix = "leave it out, or push the run by itself"
        raise ConfigError("`space` with `private`, `message`, `dry_run` and `timeout`", f"`{given[0]}`", fix)
    if is_set:
        raise ConfigError("a run for a `space`", "a data set", "name a trained model's folder", args.run)
    check_target(args.space)
    ledger = PushLedger.read(args.run)

    def show(files) -> None:
        own = {path: content for path, content in files.items() if not path.startswith("hf_urbanseg/")}
        _print_files(own, f"{args.run} -> {args.space} (Space)", ("app.py", "requirements.txt", "README.md"))
        print(f"and {len(files) - len(own)} files of this package, in hf_urbanseg/")

    options = args.private, args.dry_run, args.message
    _print_result(publish_space(Path(args.run), args.space, ledger, show, *options))


def _print_result(result) -> None:
    if result is None:
        print("dry run: nothing was pushed")
    elif not result.added and not result.deleted:
        print(f"nothing to push: {result.url} has these files already")
    else:
        removed = f", {len(result.deleted)} removed" if result.deleted else ""
        print(f"pushed {len(result.added)} new or changed files{removed}: {result.url} (commit {result.commit[:8]})")


def _choose_target(args: PublishArguments, ledger) -> None:
    """What was asked for, else what the run was pushed with before; becomes the ledger's."""
    from hf_urbanseg.hub.publish import check_target

    if args.repo_id is None and ledger.repo_id is None:
        raise ConfigError("a repository", "none", f"name it: urbanseg publish {args.run} user/name", args.run)
    if args.repo_id not in (None, ledger.repo_id):
        if ledger.owed:
            logger.warning("%s is still owed %s; push.json forgets it now", ledger.repo_id, ", ".join(ledger.owed))
        ledger.retarget(args.repo_id)
    for name in _REMEMBERED:
        if getattr(args, name) is not None:
            setattr(ledger, name, getattr(args, name))
    check_target(ledger.repo_id, ledger.revision, ledger.create_pr)


def _print_files(files: Mapping[str, Path | bytes], title: str, made: Collection[str] = ()) -> None:
    table = Table(title=flatten(title))
    table.add_column("file", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("changed on the way")
    total = 0
    for path, content in files.items():
        size = len(content) if isinstance(content, bytes) else Path(content).stat().st_size
        total += size
        # `collect_repository` gives content instead of a file where it took something out.
        cut = isinstance(content, bytes) and path not in made
        table.add_row(flatten(path), decimal(size), "paths of this machine" if cut else "")
    table.add_section()
    table.add_row(f"{len(files)} files", decimal(total))
    build_console().print(table)
