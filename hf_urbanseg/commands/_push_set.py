"""Publishing a prepared set, for `prepare_data.py --push_to_hub` and for `publish.py` on its folder."""

from collections.abc import Callable
from pathlib import Path

from hf_urbanseg.errors import UrbanSegError
from hf_urbanseg.hub.dataset_repository import collect_dataset, is_data_file
from hf_urbanseg.hub.ledger import PushLedger
from hf_urbanseg.hub.publish import PublishResult, publish
from hf_urbanseg.hub.repository import Files

WHAT = "data set"


def push_prepared_set(
    folder: Path,
    ledger: PushLedger,
    token: str | None = None,
    license: str | None = None,
    show: Callable[[Files], None] | None = None,
    dry_run: bool = False,
    message: str | None = None,
    timeout: float | None = None,
) -> PublishResult | None:
    """Publishes a prepared set; until it has arrived whole, its push.json says that it is owed.

    Args:
        folder: Written by `write_prepared_set`, or any saved set with a label space.
        ledger: Names the repository, and how it is made.
        token: Default: HF_TOKEN, or what `hf auth login` saved.
        license: As for `collect_dataset`.
        show: Called with the files before they go.
        dry_run: Stop there, without a note and a connection; None is returned.
        message: First line of the commit.
        timeout: As for `publish`.

    Raises:
        UrbanSegError: As for `collect_dataset` and `publish`.
    """
    options = {"token": token, "private": ledger.private, "revision": ledger.revision}
    if not dry_run:
        ledger.owe(WHAT)
    try:
        with collect_dataset(folder, ledger.repo_id, license=license, **options) as files:
            if show is not None:
                show(files)
            if dry_run:
                return None
            result = publish(
                files, ledger.repo_id, kind="dataset", message=message or "Upload a data set", timeout=timeout,
                create_pr=ledger.create_pr, replaces=is_data_file, **options,
            )  # fmt: skip
    except UrbanSegError as error:
        if not dry_run:
            ledger.fail(error.found)
        raise
    ledger.settle(WHAT, result.commit, result.url)
    return result
