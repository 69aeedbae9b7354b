"""The connection to the Hub: no request without an end, and for a failure one line that says what to do."""

import logging
import os
import threading

from huggingface_hub import constants, set_client_factory
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import _http

from hf_urbanseg.errors import ConfigError, UrbanSegError
from hf_urbanseg.hub.secrets import hide_secrets

TIMEOUT_VARIABLE = "HF_URBANSEG_HUB_TIMEOUT"
_LOG_IN = "log in with `hf auth login`, or put a token with write permission into HF_TOKEN"
_OWN = "name a repository in your own namespace, or use a token with write permission there"
_FIXES = {
    400: "correct what the Hub complains about",
    401: _LOG_IN,
    402: _OWN,
    403: _OWN,
    404: "check the name, and that the token belongs to its owner",
    413: "leave files out (`--tensorboard` adds the largest) and run it again",
}
_installed: float | None = None
_build_unbounded = _http.default_client_factory
_silent_threads: set[int] = set()


def bound_requests(timeout: float | None = None) -> None:
    """Gives every request of `huggingface_hub` in this process an end.

    The library waits for ever by default, and its own variables bound downloads only: a Hub that accepts a connection
    and is silent would hold an upload, and with it a training run, without limit.

    Args:
        timeout: Seconds to connect, and of silence while sending or waiting for an answer. Default: the environment
            variable HF_URBANSEG_HUB_TIMEOUT, else 30.
    """
    global _installed, _build_unbounded
    given = os.environ.get(TIMEOUT_VARIABLE) or 30.0 if timeout is None else timeout
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError("a timeout above 0 seconds", f"`{given}`", f"correct it or {TIMEOUT_VARIABLE}")
    # Installing closes open connections, those of other threads too, so once only.
    if _http._GLOBAL_CLIENT_FACTORY is not _build_client:
        _build_unbounded = _http._GLOBAL_CLIENT_FACTORY  # perhaps the user's own, with a proxy or certificates
        set_client_factory(_build_client)
        logging.getLogger(_http.__name__).addFilter(_is_worth_reading)
    if not os.environ.get("HF_HUB_DISABLE_XET"):
        constants.HF_HUB_DISABLE_XET = True  # hf_xet ignores every time-out
    _installed = seconds


def ensure_bounds() -> None:
    """`bound_requests` where nobody has called it yet."""
    if _http._GLOBAL_CLIENT_FACTORY is not _build_client:
        bound_requests()


def silence_retries() -> None:
    """Keeps `huggingface_hub`'s lines about its retries out of the log, for the calling thread."""
    _silent_threads.add(threading.get_ident())


def _is_worth_reading(record: logging.LogRecord) -> bool:
    # One of the two lines for every retry holds a signed address; the other says how long it waits.
    return record.thread not in _silent_threads and "thrown while requesting" not in record.getMessage()


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

    One that can't be a token is a ConfigError, which doesn't show it. (The HTTP library would, in its own error.)
    """
    if token is None:
        return None
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError("a token such as hf_...", "something empty or with other characters", "copy it again")
    return token


def describe_failure(error: BaseException, *tokens: str | None) -> tuple[str, str]:
    """`found` and `fix` as in `UrbanSegError` for what a call of `huggingface_hub` raised; each a line without a token.

    `tokens` are blotted out beside what this machine knows and what looks like one.
    """
    # A failed upload of a large file arrives wrapped in a RuntimeError that doesn't say why.
    if type(error) is RuntimeError and error.__cause__ is not None:
        return describe_failure(error.__cause__, *tokens)
    found, fix = _describe(error)
    found, fix = (" ".join(hide_secrets(text, *tokens).split()) for text in (found, fix))
    return found[:400], fix


def _describe(error: BaseException) -> tuple[str, str]:
    if isinstance(error, UrbanSegError):
        return error.found, error.fix
    status, again = getattr(getattr(error, "response", None), "status_code", None), "run it again later"
    if status is not None:
        said = getattr(error, "server_message", None) or error.response.headers.get("X-Error-Message") or ""
        return f"status {status} ({said.strip('. ')})" if said else f"status {status}", _FIXES.get(status, again)
    # By name: the HTTP library is httpx with huggingface_hub 1 and httpx2 with huggingface_hub 2.
    if "TransportError" in {kind.__name__ for kind in type(error).__mro__}:
        host, limit = _find_host(error), f" within {_installed:g} s" if "Timeout" in type(error).__name__ else ""
        found = f"no answer from {host}{limit} ({type(error).__name__}: {error})".replace(": )", ")")
        return found, f"check the network and {host}, then run it again, or raise {TIMEOUT_VARIABLE}"
    if isinstance(error, LocalTokenNotFoundError):
        return "no token", _LOG_IN
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode", "unset HF_HUB_OFFLINE and run it again"
    if isinstance(error, KeyError) and error.args == ("url",):
        return "status 409", again  # create_repo, where another operation on the repository is under way
    if isinstance(error, ValueError) and "Invalid metadata in README.md" in str(error):
        return str(error), "correct the front matter of README.md"
    return f"{type(error).__name__}: {error}", again


def _find_host(error: BaseException) -> str:
    """The server a request was for: the Hub, or the storage it sends large files to. No signed address."""
    try:
        url = error.request.url
        return f"{url.scheme}://{url.netloc.decode()}"
    except (AttributeError, RuntimeError):  # httpx raises the latter where there is no request
        return constants.ENDPOINT
