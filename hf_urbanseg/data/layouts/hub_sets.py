"""Data sets on the Hub: downloaded into the cache of `datasets`, or streamed into memory."""

import difflib
import errno
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import datasets
import huggingface_hub
import pyarrow as pa
from datasets.fingerprint import Hasher
from datasets.table import CastError, InMemoryTable, table_cast
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from hf_urbanseg.errors import DataError

logger = logging.getLogger(__name__)

_ASK_TIMEOUT = 30.0
_STREAMED_ROWS = 16
_NOT_FOUND = "no such data set, branch or commit, or a private one that the token can't see"
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_CHECK_ID = f"check the id; for a private or gated set, {_LOG_IN}"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class HubSet:
    """All splits of a data set, of one commit.

    Args:
        splits: As the set has them.
        commit: Hash of the commit; None for a local folder.
    """

    splits: datasets.DatasetDict
    commit: str | None = None


def load_hub_set(
    dataset: str,
    revision: str | None = None,
    streaming: bool = False,
    choose: Callable[[datasets.Features, str], list[str] | None] | None = None,
    config: str | None = None,
) -> HubSet:
    """Reads a data set of the Hub, or of a local folder that `datasets.load_dataset` reads.

    The Hub is asked for the set first, and everything then comes from the commit it names. So a Hub that is away or
    refuses is told at once, without the library's retries (25 s and more), which begin with the files.

    Args:
        dataset: `user/name`, or a folder.
        revision: Branch, tag or commit.
        streaming: Read the files over the network once and keep them, encoded as they are, in memory. Nothing of them
            is written to disk.
        choose: Features of a split and its name -> the columns to stream, None for a split that isn't wanted.
            Default: everything.
        config: Which configuration of a set that has several.

    Raises:
        DataError: Not found, not reachable, not readable or not complete.
    """
    if Path(dataset).is_dir():
        for name, given in (("streaming", streaming), ("dataset_revision", revision)):
            if given:
                fix = f"leave `--{name}` out: the files are here already"
                raise DataError(f"a Hub id `user/name` with `{name}`", "a local folder", fix, dataset)
        with _one_line(dataset):
            return HubSet(datasets.load_dataset(dataset, config))
    with _one_line(dataset, revision):
        commit = _ask(dataset, revision, streaming)
        if not streaming:
            splits = datasets.load_dataset(dataset, config, revision=commit or revision)
            cached = commit or _cached_commit(splits)
            if commit is None and revision not in (None, cached):  # offline, `datasets` takes the newest it has
                fix = "unset HF_HUB_OFFLINE, or name that commit if it is the one you want"
                raise DataError(f"revision {revision} in the cache", f"commit {cached}", fix, dataset)
            return HubSet(splits, cached)
        with _fewer_retries():
            streams = datasets.load_dataset(dataset, config, revision=commit, streaming=True)
            splits = {split: _stream(split, rows, choose, [dataset, commit, config]) for split, rows in streams.items()}
    splits = datasets.DatasetDict({split: rows for split, rows in splits.items() if rows is not None})
    size = sum(rows.data.nbytes for rows in splits.values())
    frames = sum(map(len, splits.values()))
    logger.info("%s: streamed %d frames, %.1f MB, held in memory by each process", dataset, frames, size / 1e6)
    return HubSet(splits, commit)


def find_own_file(dataset: str, name: str, commit: str | None = None) -> Path | None:
    """A small file beside the data, such as label_space.json; None if the set has none.

    Args:
        dataset: `user/name`, or a folder.
        commit: Of the Hub set.

    Raises:
        DataError: It can't be fetched.
    """
    if Path(dataset).is_dir():
        path = Path(dataset) / name
        return path if path.is_file() else None
    try:
        with _one_line(dataset):
            return Path(huggingface_hub.hf_hub_download(dataset, name, repo_type="dataset", revision=commit))
    except DataError as error:
        missing = error.__cause__
        if isinstance(missing, LocalEntryNotFoundError):
            # Offline and never downloaded: then `--label_space` is asked for. Otherwise the Hub didn't answer.
            missing = missing.__cause__ if isinstance(missing.__cause__, OfflineModeIsEnabled) else None
        if isinstance(missing, (EntryNotFoundError, OfflineModeIsEnabled)):
            return None
        raise


def _ask(dataset: str, revision: str | None, streaming: bool) -> str | None:
    """The commit a revision stands at, None in offline mode."""
    try:
        return huggingface_hub.HfApi().dataset_info(dataset, revision=revision, timeout=_ASK_TIMEOUT).sha
    except OfflineModeIsEnabled:
        if streaming:
            raise
        return None


def _cached_commit(splits: Mapping[str, datasets.Dataset]) -> str | None:
    """The commit that `datasets` names its cached files' folder after."""
    names = {Path(file["filename"]).parent.name for rows in splits.values() for file in rows.cache_files}
    commits = [name for name in names if re.fullmatch(r"[0-9a-f]{40}", name)]
    return commits[0] if len(names) == len(commits) == 1 else None


def _stream(split: str, rows: datasets.IterableDataset, choose, origin: list[str | None]) -> datasets.Dataset | None:
    """One split in memory, its pictures' files as they are; `origin` tells it from others."""
    if rows.features is None:
        rows = rows._resolve_features()  # what `IterableDataset.push_to_hub` does; reads the first rows
    columns = list(rows.features) if choose is None else choose(rows.features, split)
    if columns is None:
        return None
    features = datasets.Features({name: rows.features[name] for name in columns})
    schema = features.arrow_schema
    pieces = rows.select_columns(columns).with_format("arrow").iter(batch_size=_STREAMED_ROWS)
    tables = [table_cast(piece, schema) for piece in pieces]
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    # The library's own fingerprint pickles the whole table: a second and third copy of it for a moment.
    fingerprint = Hasher.hash([*origin, split, columns])
    info = datasets.DatasetInfo(features=features)
    found = datasets.Dataset(InMemoryTable(table), info=info, fingerprint=fingerprint)
    promised = (rows.info.splits or {}).get(split)
    if promised is not None and promised.num_examples not in (None, len(found)):
        raise DataError(f"{promised.num_examples} frames in {split}", f"{len(found)}", "push the set again")
    return found


@contextmanager
def _fewer_retries() -> Iterator[None]:
    """Leaves out the retries of `datasets` (20, 5 to 60 s apart) around those of `huggingface_hub` (5 in 23 s)."""
    limits = dict.fromkeys(("STREAMING_READ_MAX_RETRIES", "STREAMING_OPEN_MAX_RETRIES"), 1)
    waits = ("READ_RETRY", "READ_SERVER_UNAVAILABLE_RETRY", "READ_RATE_LIMIT_RETRY", "OPEN_RETRY")
    limits |= {f"STREAMING_{wait}_INTERVAL": 0 for wait in waits}
    before = {name: getattr(datasets.config, name) for name in limits if hasattr(datasets.config, name)}
    try:
        for name in before:
            setattr(datasets.config, name, limits[name])
        yield
    finally:
        for name, value in before.items():
            setattr(datasets.config, name, value)


@contextmanager
def _one_line(dataset: str, revision: str | None = None) -> Iterator[None]:
    """Whatever the libraries raise as one line, without signed addresses and tokens."""
    try:
        yield
    except DataError as error:
        raise error if error.path else DataError(error.expected, error.found, error.fix, dataset) from error
    except Exception as error:  # of huggingface_hub, its HTTP library, datasets, fsspec, pyarrow, Pillow
        found, fix = _describe(error, revision, Path(dataset).is_dir())
        raise DataError("a Hub data set that can be read", found, fix, dataset) from error


def _describe(error: BaseException, revision: str | None, local: bool) -> tuple[str, str]:
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    # By name: the HTTP library is httpx with huggingface_hub 1 and httpx2 with huggingface_hub 2.
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    statuses = [getattr(getattr(one, "response", None), "status_code", None) for one in chain]
    status = next(filter(None, statuses), None)
    again = "check the network and run it again, or set HF_HUB_OFFLINE=1 to use an earlier download"
    numbers = {one.errno: one for one in chain if isinstance(one, OSError)}
    if full := next((numbers[number] for number in _NO_ROOM if number in numbers), None):
        fix = "free some, move the cache to a larger disk by HF_HOME, or add `--streaming true`"
        return f"no room for the cache in {datasets.config.HF_CACHE_HOME} ({full.strerror})", fix
    if refused := next((numbers[number] for number in _NOT_ALLOWED if number in numbers), None):
        where = f" at {refused.filename}" if refused.filename else ""
        return f"{refused.strerror}{where}", "correct the permissions, or move the cache by HF_HOME"
    if described := _describe_contents(chain):
        return described
    if "OfflineModeIsEnabled" in kinds or (huggingface_hub.constants.HF_HUB_OFFLINE and not local):
        return (
            "offline mode, and no earlier download",
            "unset HF_HUB_OFFLINE, and don't stream where there's no network",
        )
    # `datasets` drops the error of huggingface_hub, and with it the status.
    if "GatedRepoError" in kinds or "is a gated dataset" in str(error):
        found = "a gated set, whose terms have not been accepted, or nobody is logged in"
        return found, f"accept them on the set's page, and {_LOG_IN}"
    if "RevisionNotFoundError" in kinds:
        return f"no branch, tag or commit `{revision or 'main'}`", "correct `--dataset_revision`"
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError"} or status in (401, 403):
        return f"{f'status {status}: ' if status else ''}{_NOT_FOUND}", _CHECK_ID
    if status == 429:
        return "status 429: too many requests", "wait some minutes and run it again"
    if status is not None:
        return f"status {status} from the Hub", again
    if "TimeoutException" in kinds:
        return "no answer from the Hub in time", again
    if kinds & {"TransportError", "ConnectionError"}:
        lost = next((type(one).__name__ for one in chain if "TransportError" in str(type(one).__mro__)), "")
        where = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"no connection to {where}, or one that broke off{f' ({lost})' if lost else ''}", again
    if kinds & {"DatasetGenerationError", "ArrowException"}:
        fix = "push the set again, or delete the copy in the cache if the Hub's is whole"
        return f"a damaged or unsuitable file ({_shorten(chain[-1])})", fix
    if "Dataset scripts are no longer supported" in str(error):
        fix = "try `--dataset_revision refs/convert/parquet`, which the Hub makes of many sets"
        return "a loading script, which `datasets` doesn't run any more", fix
    return _shorten(error), "correct the folder" if local else _CHECK_ID


def _describe_contents(chain: list[BaseException]) -> tuple[str, str] | None:
    """What `datasets` says about configurations, empty splits and columns, none of which is a fault of the way here."""
    message = str(chain[0])
    if empty := re.search(r'Instruction "(.*?)" corresponds to no data', message):
        fix = "push the set with them or without the split, or read another revision"
        return f"no rows in the split {empty[1]}", fix
    if other := next((one for one in chain if isinstance(one, CastError)), None):
        columns, usual = _list_few(other.table_column_names), _list_few(other.requested_column_names)
        fix = "push them with the same columns, or choose files that have them by `--dataset_config`"
        return f"files of different columns, {columns} beside {usual}", fix
    choose = "choose one by `--dataset_config`"
    if several := re.search(r"Config name is missing.*?\[(.*?)\]", message, re.DOTALL):
        return f"several configurations, {_list_few(several[1].split(', '))}", choose
    if several := re.search(r"There are multiple '.*?' configurations in the cache: (.*?)\n", message):
        return f"several configurations in the cache, {_list_few(several[1].split(', '))}", choose
    if unknown := re.search(r"BuilderConfig '(.*?)' not found\. Available: \[(.*?)\]", message):
        there = _list_few(unknown[2].split(", "), unknown[1])
        return f"no configuration `{unknown[1]}` among {there}", "correct `--dataset_config`"
    if unknown := re.search(r"find cache for .*? for config '(.*?)'.*?in the cache: \[(.*?)\]", message, re.DOTALL):
        fix = "correct `--dataset_config`, or unset HF_HUB_OFFLINE to download it"
        there = _list_few(unknown[2].split(", "), unknown[1])
        return f"no configuration `{unknown[1]}` among those in the cache, {there}", fix
    return None


def _list_few(names: list[str], wanted: str | None = None, limit: int = 20) -> str:
    """The names, the ones most like `wanted` first where there are too many; some sets have hundreds."""
    names = [name.strip("'") for name in names]
    if len(names) <= limit:
        return ", ".join(names)
    near = difflib.get_close_matches(wanted, names) if wanted else []
    shown = list(dict.fromkeys([*near, *names]))[:limit]
    return f"{', '.join(shown)} and {len(names) - limit} more"


def _shorten(error: BaseException) -> str:
    text = re.sub(r"\S+://\S+", "<address>", " ".join(str(error).split()))
    text = re.sub(r"hf_\w{10,}", "<token>", text)
    return f"{type(error).__name__}: {text[:200]}"
