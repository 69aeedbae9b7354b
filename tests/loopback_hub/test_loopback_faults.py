import hashlib
import math
from pathlib import Path

import pytest
from huggingface_hub import (
    hf_hub_download,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
)
from huggingface_hub.utils import _http

httpx = getattr(_http, "httpx2", None) or _http.httpx  # huggingface_hub 2 or 1
WEIGHTS = hashlib.sha512(b"weights").digest() * 4000  # 256 kB


def _root(error: BaseException) -> BaseException:
    """The client wraps a failed LFS upload in a RuntimeError; what matters is its cause."""
    return error.__cause__ if type(error) is RuntimeError else error


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("refuse", (httpx.RemoteProtocolError, httpx.ReadError)),
        ("reset", (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)),
        ("lost", (httpx.ReadError, httpx.RemoteProtocolError)),
        *[(status, HfHubHTTPError) for status in (401, 403, 409, 412, 413, 429, 500, 503)],
    ],
)
@pytest.mark.parametrize("place", ["create-repo", "preupload", "lfs-put", "commit"])
def test_fail__reaches_the_client_as_in_the_wild(hub, api, folder, push, waits, how, expected, place):
    if how in (403, 401, 409) and place == "create-repo":
        api.create_repo("user/name")  # otherwise the client finds out that the repository is missing and says so
    hub.fail(how, matching=place, times=math.inf)
    if how in (401, 403, 409) and place == "create-repo":
        return _create_repo_goes_on(hub, push, folder[0], how)
    with pytest.raises((*((expected,) if isinstance(expected, type) else expected), RuntimeError)) as raised:
        push(folder[0])

    error = _root(raised.value)
    assert isinstance(error, expected)
    if isinstance(how, int):
        assert error.response.status_code == how
    retried = place in ("preupload", "lfs-put") and (isinstance(how, str) or how in (429, 500, 503))
    assert hub.names().count(place) >= 6 if retried else hub.names().count(place) <= 2  # two LFS files at once
    assert set(waits) == ({1, 2, 4, 8} if retried else set())


def _create_repo_goes_on(hub, push, folder, how):
    """`exist_ok` makes the client go on after 401 and 403 when the repository is there, and after 409 in any case."""
    if how == 409:
        with pytest.raises(KeyError, match="url"):  # a 409 without an address breaks the client itself
            push(folder)
    else:
        push(folder)
        assert hub.names()[2:4] == ["info", "validate-yaml"]


def test_fail__at_and_times_count_matching_requests(hub, api):
    hub.fail(500, at=2, times=2, matching="whoami")
    answers = []
    for _ in range(5):
        try:
            answers.append(api.whoami()["name"])
        except HfHubHTTPError as error:
            answers.append(error.response.status_code)
    assert answers == ["user", 500, 500, "user", "user"]
    with pytest.raises(ValueError, match="`how` must be one of"):
        hub.fail("explode")


def test_outage__refuses_and_comes_back_with_everything(hub, api, folder, push, waits):
    push(folder[0])
    port = hub.port
    with hub.outage():
        with pytest.raises(httpx.ConnectError):
            api.model_info("user/name")
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download("user/name", "README.md")
    assert hub.port == port
    assert Path(hf_hub_download("user/name", "README.md")).read_bytes() == folder[1]["README.md"]
