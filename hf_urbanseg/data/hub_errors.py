"""Whatever goes wrong with a Hub data set as one line: told by the error's type and status, else in its own words."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import huggingface_hub

from hf_urbanseg.errors import DataError

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_ACCEPT = f"accept the terms on the set's page, and {_LOG_IN}"


@contextmanager
def hub_errors_in_one_line(dataset: str, revision: str | None = None) -> Iterator[None]:
    """Turns whatever the libraries raise about a Hub set or folder into a `DataError`, without addresses and tokens."""
    try:
        yield
    except DataError as error:
        raise error if error.path else DataError(error.expected, error.found, error.fix, dataset) from error
    except Exception as error:  # of huggingface_hub, its HTTP library, datasets, fsspec, pyarrow, Pillow
        hub = not (os.path.isabs(dataset) or Path(dataset).exists() or "://" in dataset)
        found, fix = _describe(error, revision, hub)
        raise DataError(f"a {'Hub ' * hub}data set that can be read", found, fix, dataset) from error


def _describe(error: BaseException, revision: str | None, hub: bool) -> tuple[str, str]:
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    # By name: the HTTP library is httpx with huggingface_hub 1 and httpx2 with huggingface_hub 2.
    kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
    status = next(filter(None, (getattr(getattr(one, "response", None), "status_code", None) for one in chain)), None)
    offline = "OfflineModeIsEnabled" in kinds or (huggingface_hub.constants.HF_HUB_OFFLINE and hub)
    again = "check the network and run it again later"
    again += ", or set HF_HUB_OFFLINE=1 to use an earlier download" if hub else ""
    if one := next((one for one in chain if getattr(one, "errno", None) in _DISK), None):
        fix = "free some room, correct the permissions, move the cache by HF_HOME, or add `--streaming true`"
        return f"{one.strerror} at {one.filename or f'the cache, {datasets.config.HF_CACHE_HOME}'}", fix
    if offline and "ValueError" not in kinds:  # which is a configuration that the cache lacks
        fix = "unset HF_HUB_OFFLINE, and don't stream where there's no network"
        return "offline mode, and no earlier download", fix
    if "GatedRepoError" in kinds:
        return "a gated set, whose terms have not been accepted, or nobody is logged in", _ACCEPT
    if "RevisionNotFoundError" in kinds:
        return f"no branch, tag or commit `{revision or 'main'}`", "correct `--dataset_revision`"
    if "RepositoryNotFoundError" in kinds or status in (401, 403):
        found = "no such data set, branch or commit, or a private one that the token can't see"
        fix = f"check the id; for a private or gated set, {_LOG_IN}"
        return f"{f'status {status}: ' if status else ''}{found}", fix
    if "DatasetNotFoundError" in kinds:  # of `datasets`, about a set that the Hub has shown: gated, in most cases
        return _shorten(error), _ACCEPT
    if status is not None:
        return f"status {status} from the Hub", again
    if kinds & {"TransportError", "ConnectionError"}:
        where = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co") if hub else "it"
        return f"no connection to {where}, or one that broke off ({type(chain[-1]).__name__})", again
    if "CastError" in kinds:
        fix = "push them with the same columns, or choose files that have them by `--dataset_config`"
        return f"files of different columns ({_shorten(error)})", fix
    # pyarrow's own of a page that is another than was written has no number.
    damaged = type(chain[-1]) is OSError and chain[-1].errno is None
    if damaged or kinds & {"DatasetGenerationError", "ArrowException"}:
        fix = "push the set again, or delete the copy in the cache if the Hub's is whole"
        fix = fix if hub else "fetch the file again, or write the set anew"
        return f"a damaged or unsuitable file ({_shorten(chain[-1])})", fix
    if not hub and getattr(error, "errno", None):
        return error.strerror, "bring the file back, or correct the path"
    wrong = "the id, `--dataset_revision`" if hub else "the folder"
    return _shorten(error), f"correct {wrong} or `--dataset_config`, whichever it means"


def _shorten(error: BaseException) -> str:
    text = re.sub(r"\S+://\S+", "<address>", " ".join(str(error).split()))
    text = re.sub(r"hf_\w{10,}", "<token>", text)
    return f"{type(error).__name__}: {text[:200]}"
