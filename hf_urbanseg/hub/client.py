"""The connection to the Hub: no request without an end, and for each way it fails one line that says what to do."""

import json
import logging
import os
import threading

from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import _http

from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.hub.cleaning.secret_scan import hide_secrets

TIMEOUT_VARIABLE = "HF_URBANSEG_HUB_TIMEOUT"
DEFAULT_TIMEOUT = 30.0
_LOG_IN = "log in with `hf auth login`, or put a token with write permission into HF_TOKEN"
_installed: float | None = None
_build_unbounded = _http.default_client_factory
_silent_threads: set[int] = set()


def bound_requests(timeout: float | None = None) -> float:
    """Gives every request of `huggingface_hub` in this process an end.

    The library waits for ever by default, and its own variables bound downloads only: a Hub that accepts a connection
    and is silent would hold an upload, and with it a training run, without limit.

    Args:
        timeout: Seconds to connect, and of silence while sending or waiting for an answer. Default: the environment
            variable HF_URBANSEG_HUB_TIMEOUT, else 30.

    Returns:
        The seconds in force.

    Raises:
        ConfigError: Not a positive number.
    """
    global _installed, _build_unbounded
    seconds = _read_timeout() if timeout is None else timeout
    if not 0 < seconds < float("inf"):
        raise ConfigError("a timeout above 0 seconds", f"{seconds}", f"correct it or {TIMEOUT_VARIABLE}")
    # Installing closes open connections, those of other threads too, so once only.
    if _http._GLOBAL_CLIENT_FACTORY is not _build_client:
        _build_unbounded = _http._GLOBAL_CLIENT_FACTORY  # perhaps the user's own, with a proxy or certificates
        set_client_factory(_build_client)
        logging.getLogger(_http.__name__).addFilter(_is_worth_reading)
    if not os.environ.get("HF_HUB_DISABLE_XET"):
        constants.HF_HUB_DISABLE_XET = True
    _installed = seconds
    return seconds


def silence_retries() -> None:
    """Keeps `huggingface_hub`'s lines about its retries out of the log, for the calling thread."""
    _silent_threads.add(threading.get_ident())


def _is_worth_reading(record: logging.LogRecord) -> bool:
    # One of the two lines for every retry holds a signed address; the other says how long it waits.
    return record.thread not in _silent_threads and "thrown while requesting" not in record.getMessage()


def _read_timeout() -> float:
    value = os.environ.get(TIMEOUT_VARIABLE) or DEFAULT_TIMEOUT
    try:
        return float(value)
    except ValueError:
        raise ConfigError("a number of seconds", f"`{value}`", "correct it", TIMEOUT_VARIABLE) from None


def _build_client():
    client = _build_unbounded()
    # Not the client's own timeout: several calls of the library pass `timeout=None`, which wins over that.
    client.event_hooks["request"].append(_bound_request)
    return client


def _bound_request(request) -> None:
    limits = request.extensions.get("timeout") or {}
    bounded = {key: limits.get(key) or _installed for key in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = bounded


def clean_token(token: str | None) -> str | None:
    """The token without the spaces and line ends that come with copying; None stays None.

    Raises:
        ConfigError: It can't be a token. The message doesn't show it. (The HTTP library would, in its own error.)
    """
    if token is None:
        return None
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError("a token such as hf_...", "something empty or with other characters", "copy it again")
    return token


def hide_tokens(text: str, *tokens: str | None) -> str:
    """`text` on one line, with each of `tokens`, what this machine knows and whatever looks like one blotted out."""
    return " ".join(hide_secrets(text, *tokens).split())


def describe_failure(error: BaseException, *tokens: str | None) -> tuple[str, str]:
    """What went wrong with the Hub and what to do, each on one line and without a token.

    Args:
        error: What a call of `huggingface_hub` raised.
        tokens: Secrets to blot out, beside what looks like one.

    Returns:
        `found` and `fix` as in `UrbanSegError`.
    """
    if isinstance(error, UrbanSegError):
        return hide_tokens(error.found, *tokens), hide_tokens(error.fix, *tokens)
    # A failed upload of a large file arrives wrapped in a RuntimeError that doesn't say why.
    if type(error) is RuntimeError and error.__cause__ is not None:
        return describe_failure(error.__cause__, *tokens)
    status = getattr(getattr(error, "response", None), "status_code", None)
    found, fix = _describe_status(error, status) if status else _describe_exception(error)
    return hide_tokens(found, *tokens)[:400], hide_tokens(fix, *tokens)


def _describe_status(error, status: int) -> tuple[str, str]:
    said = (getattr(error, "server_message", None) or error.response.headers.get("X-Error-Message") or "").strip(". ")
    found = f"status {status}" + (f" ({said})" if said else "")
    match status:
        case 401:
            return f"{found}: no token, or one the Hub doesn't accept", _LOG_IN
        case 402 | 403:
            return (
                f"{found}: the token may not do this",
                "use a token with write permission there, or name a repository in your own namespace",
            )
        case 404:
            return (
                f"{found}: no such repository or branch, or the token can't see it",
                "check the name, and that the token belongs to its owner",
            )
        case 409 | 412:
            return f"{found}: somebody else changed the repository meanwhile", "run it again"
        case 413:
            return (
                f"{found}: too large for the Hub",
                "leave files out (`--tensorboard` adds the largest) and run it again",
            )
        case 429:
            wait = error.response.headers.get("Retry-After", "")
            wait = f"{wait} seconds" if wait.isdigit() else "some minutes"
            return f"{found}: too many requests", f"wait {wait} and run it again"
        case _ if status >= 500:
            return f"{found}: trouble on the Hub's side", "look at status.huggingface.co and run it again later"
    return found, "correct what the Hub complains about"


def _describe_exception(error: BaseException) -> tuple[str, str]:
    # By name: the HTTP library is httpx with huggingface_hub 1 and httpx2 with huggingface_hub 2.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    host = _find_host(error)
    again = f"check the network and {host}, then run it again"
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode", "unset HF_HUB_OFFLINE and run it again"
    if isinstance(error, LocalTokenNotFoundError):
        return "no token", _LOG_IN
    if isinstance(error, HFValidationError):
        return str(error), "name the repository as user/name"
    if isinstance(error, KeyError) and error.args == ("url",):
        # huggingface_hub's create_repo, on a 409 that isn't about an existing repository.
        return "status 409: another operation on the repository is under way", "run it again"
    if "TimeoutException" in kinds:
        return f"no answer from {host} within {_installed:g} s", f"{again}, or raise {TIMEOUT_VARIABLE}"
    if kinds & {"ConnectError", "ProxyError"}:
        reason = str(error).removeprefix("[").replace("]", ":", 1)
        return f"no connection to {host} ({reason})", again
    if kinds & {"TransportError", "NetworkError", "ProtocolError"}:
        return f"the connection to {host} broke off ({type(error).__name__})", again
    if isinstance(error, json.JSONDecodeError):
        return "an answer that is not the Hub's", f"look for a proxy or login page between you and {host}"
    if isinstance(error, ValueError) and "Invalid metadata in README.md" in str(error):
        return str(error), "correct the front matter of README.md"
    if isinstance(error, OSError):
        return (
            f"{error.strerror or error} ({error.filename or 'local file'})",
            "check the run's folder and run it again",
        )
    return f"{type(error).__name__}: {error}", "run it again; if it stays, report it with this line"


def _find_host(error: BaseException) -> str:
    """The server a request was for: the Hub, or the storage it sends large files to."""
    try:
        url = error.request.url
        return f"{url.scheme}://{url.netloc.decode()}"
    except (AttributeError, RuntimeError):  # httpx raises the latter where there is no request
        return constants.ENDPOINT
