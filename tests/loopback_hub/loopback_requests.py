"""A request as the loopback Hub sees it, the answer it gives, and the failures a test can plan."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from loopback_store import Refusal

MESSAGES = {
    401: "Invalid username or password.",
    403: "Forbidden: you don't have the required permissions to perform this action",
    409: "Cannot complete: another conflicting operation is in progress on this branch",
    412: "A commit has happened since. Please refresh and try again.",
    413: "Payload Too Large",
    429: "We had to rate limit you: too many requests",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
    503: "Service Unavailable",
}
KINDS = ("refuse", "reset", "cut", "lost", "hang")


@dataclass
class Request:
    """One request as it came in. `name` is the route's, such as "commit" or "lfs-put"; `status` what was answered."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes = b""
    name: str = "?"
    status: int | str | None = None

    @property
    def path(self) -> str:
        return self.url.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return {key: values[-1] for key, values in parse_qs(self.url.partition("?")[2]).items()}

    @property
    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    @property
    def is_json(self) -> bool:
        return "json" in self.headers.get("Content-Type", "")

    @property
    def token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    @property
    def texts(self) -> list[bytes]:
        """The body, and in clear the file contents and the samples of files that it carries in base64."""
        packed = re.findall(rb'"(?:content|sample)": ?"([A-Za-z0-9+/=]*)"', self.body)
        return [self.body, *(base64.b64decode(piece + b"==") for piece in packed)]

    def flag(self, key: str) -> bool:
        return self.query.get(key, "").lower() in ("true", "1")


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def answer_json(data, status: int = 200, **headers) -> Answer:
    return Answer(json.dumps(data).encode(), status, {"Content-Type": "application/json", **headers})


def answer_refusal(refusal: Refusal) -> Answer:
    headers = {"X-Error-Message": refusal.message.splitlines()[0], **refusal.headers}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    return answer_json({"error": refusal.message, **refusal.extra}, refusal.status, **headers)


@dataclass
class Fault:
    """A planned failure: at the `at`-th request that matches, counted from when it was planned, and for `times`."""

    how: str | int
    matching: Callable[[Request], bool]
    at: int
    times: float
    seen: int = 0
    used: int = 0

    def strikes(self, request: Request) -> bool:
        if not self.matching(request):
            return False
        self.seen += 1
        if self.seen < self.at or self.used >= self.times:
            return False
        self.used += 1
        return True


def planned(how: str | int, at: int, matching: str | Callable[[Request], bool], times: float) -> Fault:
    """A failure to come.

    Args:
        how: "refuse" (hangs up unread), "reset" (breaks the connection in mid-body: of the upload when there is one,
            else of the download), "cut" (the same with an orderly end), "lost" (does what was asked, then hangs up
            instead of answering), "hang" (never answers until the Hub is healed or stopped), or a status: 401, 403,
            409, 412, 413, 429, 500, 503, ...
        at: the first request to fail, from 1, among those that match, counted from now.
        matching: a route's name ("commit"), a regular expression on "METHOD /path?query", or a predicate; "" is all.
        times: how many requests fail; `math.inf` for that one and all that follow.
    """
    if how not in KINDS and not isinstance(how, int):
        raise ValueError(f"`how` must be one of {KINDS} or a status, found {how!r}")
    if not isinstance(matching, str):
        return Fault(how, matching, at, times)

    def matches(request: Request) -> bool:
        return request.name == matching or bool(re.search(matching, f"{request.method} {request.url}"))

    return Fault(how, matches, at, times)
