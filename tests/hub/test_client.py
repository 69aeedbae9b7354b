import errno
import json
import time
import traceback

import pytest
from huggingface_hub import HfApi, constants, get_session, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import _http

from hf_urbanseg.errors import ConfigError, DataError
from hf_urbanseg.hub import client
from hf_urbanseg.hub.client import bound_requests, clean_token, describe_failure, ensure_bounds

httpx = getattr(_http, "httpx2", None) or _http.httpx  # huggingface_hub 2 or 1
SECRET = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


@pytest.fixture(autouse=True)
def own_factory():
    """The library's own clients before and after."""
    set_client_factory(_http.default_client_factory)
    yield
    set_client_factory(_http.default_client_factory)
    bound_requests(30)


# ---- an end to every request ----


@pytest.mark.parametrize(
    "ask",
    [
        lambda api: api.create_repo("user/name"),
        lambda api: api.model_info("user/name"),  # hands on `timeout=None`, which wins over a client's own
    ],
    ids=["create_repo", "model_info"],
)
def test_bound_requests__ends_a_request_that_hangs(hub_here, waits, ask):
    bound_requests(0.2)
    hub_here.fail("hang", times=99)
    with pytest.raises(httpx.ReadTimeout) as raised:
        ask(HfApi())
    found, fix = describe_failure(raised.value)
    assert found.startswith(f"no answer from {hub_here.endpoint} within 0.2 s (ReadTimeout")
    assert "raise HF_URBANSEG_HUB_TIMEOUT" in fix


def test_bound_requests__keeps_what_a_caller_asks_for(hub_here):
    bound_requests(20)
    hub_here.fail("hang")
    start = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        HfApi().model_info("user/name", timeout=0.1)
    assert time.monotonic() - start < 10


def test_bound_requests__by_argument_environment_or_default(monkeypatch):
    for given, variable, expected in ((None, "", 30), (None, "7.5", 7.5), (3, "7.5", 3)):
        monkeypatch.setenv("HF_URBANSEG_HUB_TIMEOUT", variable)
        bound_requests(given)
        ensure_bounds()  # changes nothing where there are some
        assert client._installed == expected
    monkeypatch.setenv("HF_URBANSEG_HUB_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match="found `soon`; correct it or HF_URBANSEG_HUB_TIMEOUT"):
        bound_requests()
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="expected a timeout above 0 seconds"):
            bound_requests(wrong)


@pytest.mark.parametrize(("said", "disabled"), [(None, True), ("", True), ("0", False), ("1", True)])
def test_bound_requests__leaves_out_the_client_that_it_cannot_bound(monkeypatch, said, disabled):
    if said is None:
        monkeypatch.delenv("HF_HUB_DISABLE_XET", raising=False)
    else:
        monkeypatch.setenv("HF_HUB_DISABLE_XET", said)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", said == "1")  # as the library reads it
    bound_requests(5)
    assert constants.HF_HUB_DISABLE_XET is disabled


def test_bound_requests__keeps_the_users_own_client_and_open_connections():
    def factory():
        client = _http.default_client_factory()
        client.headers["x-company"] = "proxy"
        return client

    set_client_factory(factory)
    bound_requests(5)
    session = get_session()
    assert session.headers["x-company"] == "proxy"
    bound_requests(6)
    assert get_session() is session  # a new one would break what other threads have under way
    assert not session.is_closed


def test_bound_requests__logs_waits_without_addresses(hub_here, waits, caplog):
    bound_requests(5)
    api = HfApi()
    api.create_repo("user/name")
    hub_here.fail("refuse", matching="preupload", times=2)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x.json", repo_id="user/name")
    assert "Retrying in 1s" in caplog.text
    assert hub_here.endpoint not in caplog.text


# ---- what went wrong, and what to do ----


def _status(status: int, message: str = "", **headers) -> Exception:
    request = httpx.Request("POST", "https://huggingface.co/api/repos/create")
    response = httpx.Response(status, request=request, headers={"X-Error-Message": message, **headers}, json={})
    try:
        _http.hf_raise_for_status(response)
    except Exception as error:
        return error
    raise AssertionError(status)


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (400, "correct what the Hub complains about"),
        (401, "log in with `hf auth login`, or put a token"),
        (403, "name a repository in your own namespace"),
        (404, "check the name"),
        (409, "run it again later"),
        (412, "run it again later"),
        (413, "leave files out"),
        (429, "run it again later"),
        (500, "run it again later"),
    ],
)
def test_describe_failure__status_with_the_servers_own_words(status, fix):
    lines = describe_failure(_status(status, "because"))
    assert lines[0] == f"status {status} (because)"
    assert fix in lines[1]


_REQUEST = httpx.Request("PUT", "https://storage.example/object?Signature=abc")


@pytest.mark.parametrize(
    ("error", "found", "fix"),
    [
        (
            httpx.ConnectError("[Errno 111] Connection refused", request=_REQUEST),
            "no answer from https://storage.example (ConnectError: [Errno 111] Connection refused)",
            "check the network and https://storage.example",
        ),
        (httpx.ReadError("", request=_REQUEST), "https://storage.example (ReadError)", "run it again"),
        (httpx.RemoteProtocolError("x", request=_REQUEST), "(RemoteProtocolError: x)", "run it again"),
        (httpx.ConnectTimeout("", request=_REQUEST), "no answer from https://storage.example", "check the network"),
        (httpx.WriteTimeout(""), f"no answer from {constants.ENDPOINT}", "check the network"),
        (KeyError("url"), "status 409", "run it again"),
        (OfflineModeIsEnabled("x"), "offline mode", "unset HF_HUB_OFFLINE"),
        (json.JSONDecodeError("x", "<html>", 0), "JSONDecodeError: x", "run it again"),
        (ValueError("Invalid metadata in README.md.\n- bad"), "README.md. - bad", "correct the front matter"),
        (FileNotFoundError(errno.ENOENT, "No such file", "run/x"), "No such file: 'run/x'", "run it again"),
        (DataError("a", "secrets", "remove them"), "secrets", "remove them"),
        (ZeroDivisionError("odd"), "ZeroDivisionError: odd", "run it again"),
    ],
)
def test_describe_failure__exception(error, found, fix):
    lines = describe_failure(error)
    assert found in lines[0]
    assert fix in lines[1]
    assert not any("\n" in line or "Signature" in line for line in lines)


def test_describe_failure__looks_behind_a_failed_upload():
    wrapped = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    wrapped.__cause__ = _status(500)
    assert describe_failure(wrapped)[0].startswith("status 500")
    assert describe_failure(RuntimeError("alone"))[0] == "RuntimeError: alone"


# ---- no token in any text ----


@pytest.mark.parametrize("token", [SECRET, "hf_oauth_" + SECRET[3:], "an-opaque-one"])
def test_describe_failure__hides_tokens(token):
    for error in (
        ValueError(f"Illegal header value b'Bearer {token}\\n'"),
        _status(403, f"token {token} may not"),
        httpx.ConnectError(f"https://user:{token}@host"),
        OSError(errno.ENOENT, "none", f"/home/{token}"),
    ):
        assert token not in " ".join(describe_failure(error, "an-opaque-one"))


def test_clean_token__takes_what_comes_with_copying_and_never_shows_it():
    assert clean_token(f" {SECRET}\n") == SECRET
    assert clean_token(None) is None
    for wrong in ("", "  ", f"{SECRET} {SECRET}", f"{SECRET}\nx", f"{SECRET}\u00e9"):
        with pytest.raises(ConfigError, match=r"expected a token such as hf_\.\.\.") as raised:
            clean_token(wrong)
        assert SECRET not in "".join(traceback.format_exception(raised.value))
