"""A small Hugging Face Hub on the loopback: what the real clients ask for, kept in memory.

It answers the calls that `huggingface_hub`, `transformers` and `datasets` make over HTTP: identity,
repositories, commits (NDJSON, LFS in one or several parts), branches, tags, listings and downloads with
resumption. A call that it does not speak is answered 501 with the call's name. Nothing in a client is
replaced; only `HF_ENDPOINT` (or `HfApi(endpoint=...)`) points here, with `HF_HUB_DISABLE_XET=1`.

This file holds the HTTP side: connections, the log of requests and the faults on demand. What is answered
stands in `hub_calls.py`, what is kept in `hub_repos.py`. None of them may import a Hugging Face library:
those read `HF_ENDPOINT` when they are imported, so the address has to be known before that.
"""

import base64
import re
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote

from tests.hub_calls import Calls, Hub
from tests.hub_repos import HubError, Repo

Status = int | Literal["cut", "lost"]


@dataclass
class Request:
    """What a client sent, and what it was answered: a status, or "cut" or "lost" for no whole answer."""

    method: str
    path: str  # with the query
    headers: dict[str, str]  # names in lower case
    body: bytes = field(default=b"", repr=False)
    status: Status = 0

    def content(self) -> bytes:
        """All bytes that could carry a secret: address, headers but the authorization, body, decoded files."""
        headers = [f"{k}: {v}" for k, v in self.headers.items() if k != "authorization"]
        text = "\n".join([unquote(self.path), *headers]).encode()
        encoded = re.findall(rb'"(?:content|sample)": ?"([A-Za-z0-9+/=]*)"', self.body)
        return b"\n".join([text, self.body, *map(base64.b64decode, encoded)])


@dataclass
class Fault:
    path: str
    status: Status
    method: str | None
    first: int
    last: float
    retry_after: int
    seen: int = 0

    def meets(self, method: str, path: str) -> bool:
        """Whether this request is one of those that are to fail. Counts it, so ask once per request."""
        if self.method not in (None, method) or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.first <= self.seen <= self.last


class HubServer:
    """The server; it runs from construction to `close`, or to the end of a `with`.

    Args:
        users: name to token. A user may write below the own name only.
        read_only: name to a further token of that user, which may only read.
        page_size: entries in one page of a tree listing.
        part_size: bytes above which an LFS object travels in several parts.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        read_only: Mapping[str, str] | None = None,
        page_size: int = 1000,
        part_size: int = 2**24,
    ) -> None:
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        tokens = {token: (name, "write") for name, token in (users or {}).items()}
        tokens |= {token: (name, "read") for name, token in (read_only or {}).items()}
        self.hub = Hub(self.endpoint, tokens, page_size, part_size)
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def reset(self) -> None:
        """Forget all repositories, requests and faults. Users stay."""
        with self.lock:
            for kept in (self.hub.repos, self.hub.uploads, self.requests, self.faults):
                kept.clear()

    def repo(self, id: str, type: str = "model") -> Repo:
        return self.hub.repos[type, id]

    def fail(
        self,
        path: str,
        status: Status,
        *,
        method: str | None = None,
        nth: int = 1,
        times: float = 1,
        retry_after: int = 0,
    ) -> None:
        """Let requests fail whose path matches the regex: the `nth` of them and the `times - 1` that follow.

        A number is answered with nothing done. "cut" ends the connection in the middle: of the body that
        the client sends if there is one (nothing done), else of the answer. "lost" does what was asked and
        ends the connection without an answer. `retry_after`, in seconds, goes with 429.
        """
        self.faults.append(Fault(path, status, method, nth, nth + times - 1, retry_after))

    def calls(self, path: str = "", method: str | None = None) -> list[Request]:
        """The logged requests whose path matches the regex."""
        return [r for r in self.requests if re.search(path, r.path) and method in (None, r.method)]

    def find(self, secret: str | bytes) -> list[str]:
        """The requests, as "METHOD path", that carried `secret` outside of the authorization header."""
        needle = secret.encode() if isinstance(secret, str) else secret
        return [f"{r.method} {r.path}" for r in self.requests if needle in r.content()]


class _Server(ThreadingHTTPServer):
    owner: HubServer
    request_queue_size = 64  # snapshots open many connections at once

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error; a mistake of this server is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"  # connections are kept, as the clients expect
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Keep requests out of the test output."""

    def _serve(self) -> None:
        owner, head = self.server.owner, self.command == "HEAD"
        request = Request(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        with owner.lock:
            owner.requests.append(request)
            # A list: each fault counts each request, also those that an earlier fault answers.
            fault = next(iter([f for f in owner.faults if f.meets(self.command, self.path)]), None)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.status == "cut" and (length or head):
            request.status, request.body = "cut", self.rfile.read(length // 2)
            return self._hang_up()
        request.body = self.rfile.read(length)
        try:
            if fault and isinstance(fault.status, int):
                raise HubError(fault.status, f"Fault on demand: {fault.status}")
            with owner.lock:
                method = "GET" if head else self.command
                reply = Calls(owner.hub, method, self.path, request.headers, request.body).answer()
        except HubError as error:
            reply = error.reply
            if reply.status == 429 and fault:
                reply.headers["Retry-After"] = str(fault.retry_after)
        request.status = fault.status if fault else reply.status
        if request.status == "lost":
            return self._hang_up()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if request.status == "cut":
            self.wfile.write(reply.body[: len(reply.body) // 2])
            return self._hang_up()
        if not head:
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
