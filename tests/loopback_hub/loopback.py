"""A Hugging Face Hub on 127.0.0.1 that speaks the real client's protocol, keeps what it gets, and fails on command.

The real `huggingface_hub`, `datasets` and `transformers` talk to it when `HF_ENDPOINT` names it (see
`Hub.environment`), by HTTP alone: a client that asks for a token of the Xet storage finds itself in `unknown`. It
stores models and data sets in memory with their history, checks what huggingface.co checks (hashes and sizes of LFS
files, cards, paths, tokens, revisions), and can refuse, break, withhold or forget any answer. LFS files live on
another host name (`localhost`), so that clients treat them as they treat the real storage.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, unquote_plus

import loopback_api
from loopback_requests import MESSAGES, Answer, Fault, Request, answer_refusal, planned
from loopback_store import Refusal, Repository


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


@dataclass
class Hub:
    """The server and everything it knows.

    Args:
        user (`str`): owner of the token and of every repository; other namespaces are forbidden.
    """

    user: str = "user"
    token: str = field(default_factory=lambda: "hf_" + secrets.token_hex(17))
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # requests that no route answers
    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self):
        self.port, self._server, self._secret = 0, None, secrets.token_bytes(16)
        self._lock, self._released = threading.RLock(), threading.Event()
        self._sockets: set[socket.socket] = set()

    # ---- life ----

    def start(self) -> "Hub":
        """Listens, on the same port as before if it did before."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._released.clear()
        self._server = _Server(("127.0.0.1", self.port), handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Disappears: open connections end, new ones are refused. What was stored stays."""
        self.release()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def outage(self):
        """Down inside the `with`, back on the same port after it."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage(self) -> str:
        """Where LFS files live: the same server under another name, as huggingface.co's storage is another host."""
        return f"http://localhost:{self.port}/storage"

    def sign(self, oid: str) -> str:
        return "Signature=" + hmac.new(self._secret, oid.encode(), hashlib.sha256).hexdigest()[:32]

    def environment(self, home, token: bool = True) -> dict[str, str]:
        """What a process needs in its environment to talk to this Hub and to keep its caches in the folder `home`."""
        known = {
            "HF_ENDPOINT": self.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home),
            "HF_HUB_CACHE": f"{home}/hub", "HF_DATASETS_CACHE": f"{home}/datasets",
            "HF_MODULES_CACHE": f"{home}/modules", "HF_EVALUATE_CACHE": f"{home}/evaluate",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_OFFLINE": "0", "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }  # fmt: skip
        return known | ({"HF_TOKEN": self.token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})

    # ---- what it holds ----

    def repository(self, name: str, kind: str = "model") -> Repository:
        if (kind, name) not in self.repositories:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return self.repositories[kind, name]

    def tree(self, name: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """Path and content of every file at a revision, without the .gitattributes that the Hub itself wrote."""
        repository = self.repository(name, kind)
        files = repository.resolve(revision).files
        own = {".gitattributes"} if files.get(".gitattributes") == repository.initial_attributes else set()
        return {path: blob.content for path, blob in sorted(files.items()) if path not in own}

    def names(self) -> list[str]:
        """The routes asked for, in order: ["create-repo", "preupload", "commit"]."""
        return [request.name for request in self.requests]

    def where(self, text: str) -> list[str]:
        """Every request and stored file that contains `text`; a request's authorization header doesn't count."""
        found, needle = [], text.encode()
        for number, request in enumerate(self.requests, 1):
            label = f"request {number}, {request.method} {request.path}"
            words = [request.url, unquote(request.url), unquote_plus(request.url)]
            words += [f"{key}: {value}" for key, value in request.headers.items() if key.lower() != "authorization"]
            if any(text in word for word in words):
                found.append(f"{label}: URL or header")
            if any(needle in body for body in request.texts):
                found.append(f"{label}: body")
        for repository in self.repositories.values():
            for oid, content in repository.objects.items():
                found += [f"{repository.url_path}: LFS object {oid[:8]}"] if needle in content else []
            for commit in repository.commits.values():
                words = f"{commit.title}\n{commit.message}\n" + "\n".join(commit.files)
                found += [f"{repository.url_path}: commit {commit.oid[:8]}"] if text in words else []
                for path, blob in commit.files.items():
                    if not blob.lfs and needle in blob.content:
                        found.append(f"{repository.url_path}@{commit.oid[:8]}: {path}")
        return found

    def seen(self, text: str) -> bool:
        """Whether `text` has reached the Hub in any form but the authorization header."""
        return bool(self.where(text))

    # ---- failures ----

    def fail(
        self, how: str | int, at: int = 1, matching: str | Callable[[Request], bool] = "", times: float = 1
    ) -> Fault:
        """Plans a failure; `loopback_requests.planned` says which there are. `heal` forgets them all."""
        fault = planned(how, at, matching, times)
        with self._lock:
            self.faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forgets all planned failures and answers the hanging requests with a closed connection."""
        with self._lock:
            self.faults.clear()
        self.release()
        self._released.clear()

    def release(self) -> None:
        """Ends every "hang" there is: the waiting requests are dropped."""
        self._released.set()

    def receive(self, request: Request) -> Fault | None:
        """Notes a request, and says which failure strikes it."""
        if loopback_api.NOISE.fullmatch(request.path):
            return None
        route, _ = loopback_api.find_route(request.method, request.path)
        request.name = route[0] if route else "?"
        with self._lock:
            self.requests.append(request)
            return next((fault for fault in list(self.faults) if fault.strikes(request)), None)


def _reset(connection: socket.socket) -> None:
    """Closes the calling thread's connection the hard way: the other side gets ECONNRESET, not an orderly end.

    The descriptor itself is closed: `socket.close` would wait for the files made from it, and send a FIN first.
    """
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = None

    def setup(self):
        super().setup()
        with self.hub._lock:
            self.hub._sockets.add(self.connection)

    def finish(self):
        with self.hub._lock:
            self.hub._sockets.discard(self.connection)
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_):
        """Silent: `hub.requests` is the log."""

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (OSError, ValueError):  # the client hung up, or `stop` closed the connection under us
            self.close_connection = True

    def serve(self):
        request = Request(self.command, self.path, {key.title(): value for key, value in self.headers.items()})
        fault = self.hub.receive(request)
        how = fault.how if fault else None
        if how == "refuse" or self.hub._server is None:  # stopped, and this connection has outlived it
            return self._break(request, "refuse")
        request.body = self._read_body(half=how in ("reset", "cut"))
        if how in ("reset", "cut") and request.body:
            return self._break(request, how)
        if how == "hang":
            self.hub._released.wait()
            return self._break(request, how)
        if isinstance(how, int):
            answer = answer_refusal(Refusal(how, MESSAGES.get(how, "Failure")))
        else:
            with self.hub._lock:
                answer = loopback_api.handle(self.hub, request)
        if how == "lost":
            return self._break(request, how)
        request.status = answer.status
        self._send(request, answer, half=how if how in ("reset", "cut") else None)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def _read_body(self, half: bool) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(self.headers.get("Content-Length") or 0)
            return self.rfile.read(-(-length // 2) if half else length)
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            if half:
                return self.rfile.read(-(-size // 2))
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, request: Request, answer: Answer, half: str | None = None) -> None:
        if half and (self.command == "HEAD" or not answer.body):
            return self._break(request, half)
        self.send_response(answer.status)
        for key, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(key, value.encode("latin-1", "replace").decode("latin-1"))
        self.end_headers()
        if half:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            return self._break(request, half)
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _break(self, request: Request, how: str) -> None:
        request.status = how
        self.close_connection = True
        if how != "cut":
            _reset(self.connection)
