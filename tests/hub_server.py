"""A Hub on the loopback device, which answers huggingface_hub as the real one does, or badly on request.

The server has the endpoints that the client, in versions 1.20 to 2.x, uses for single files:
`/api/models/REPO[/revision/REV]` and `/REPO/resolve/REV/FILE`. Like the real Hub, the latter redirects to another
origin for large files.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["COMMIT", "Fault", "Hub", "loopback_only", "serving"]

COMMIT = "c0ffee" + "0" * 34
LOOPBACK = ("127.", "localhost", "::1")


@dataclass
class Fault:
    """One bad answer to the requests that match a pattern.

    Args:
        pattern: A regular expression that is searched for in "METHOD /path".
        status: The status of the answer; None for the right status.
        headers: Headers that are added to the right ones, or replace them.
        body: The body of the answer; None for the right body.
        drop: The number of bytes of the body after which the server closes the connection.
        stall: The number of bytes of the body after which the server sends nothing more.
        times: The number of requests that are answered badly; later ones get the right answer.
    """

    pattern: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    drop: int | None = None
    stall: int | None = None
    times: int = 1_000_000


class Hub:
    """The content of the server, its request log and its faults.

    Args:
        files: The names and bytes of the files of one repository, `org/model`.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.repo = "org/model"
        self.branches = {"main": COMMIT}
        self.tags: list[Any] = ["license:apache-2.0"]
        self.redirects = False
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.tokens: list[tuple[str, str | None]] = []
        self.released = threading.Event()
        self.endpoint = self.cdn = ""

    def fault(self, pattern: str, **answer: Any) -> None:
        """Add a fault; the arguments are those of `Fault`."""
        self.faults.append(Fault(pattern, **answer))

    def forget(self) -> list[str]:
        """Return the log so far and start a new one."""
        log, self.log = self.log, []
        return log

    def listing(self, commit: str) -> dict[str, Any]:
        """Return the answer to `/api/models/…?blobs=true`."""
        siblings = []
        for name, content in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": _sha1(content)}
            if not name.endswith(".json"):
                entry["lfs"] = {"size": len(content), "sha256": _sha256(content), "pointerSize": 134}
            siblings.append(entry)
        return {"id": self.repo, "sha": commit, "tags": self.tags, "siblings": siblings}


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Answer(BaseHTTPRequestHandler):
    hub: Hub
    is_cdn = False

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        request = f"{method} {'cdn ' if self.is_cdn else ''}{path}"
        request += f" {self.headers['Range']}" if "Range" in self.headers else ""
        self.hub.log.append(request)
        self.hub.tokens.append((request, self.headers.get("Authorization")))
        status, headers, body = self._right_answer(path)
        fault = next((f for f in self.hub.faults if f.times > 0 and re.search(f.pattern, request)), None)
        if fault is not None:
            fault.times -= 1
            status = fault.status or status
            body = body if fault.body is None else fault.body
            headers = {**headers, **fault.headers}
        if status == 206:
            begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            body = body[begin:]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if method == "HEAD":
            return
        cut = fault.drop if fault and fault.drop is not None else fault.stall if fault else None
        try:
            self.wfile.write(body if cut is None else body[:cut])
            if fault and fault.stall is not None:
                self.wfile.flush()
                self.hub.released.wait(20)
        except OSError:
            pass  # the client has closed the connection

    def _right_answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return the status, headers and body that a correct Hub answers with."""
        hub = self.hub
        if self.is_cdn:
            if (content := hub.files.get(path.removeprefix("/cdn/"))) is None:
                return 404, {}, b"no such file"
            return (206 if "Range" in self.headers else 200), {}, content
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            repo, revision, name = match[1], match[2] or "main", None
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, name = match[1], match[2], match[3]
        else:
            return 404, {}, b"no such page"
        commit = hub.branches.get(revision, revision)
        if repo != hub.repo:
            return 401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
        if commit not in hub.branches.values():
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if name is None:
            return 200, {"Content-Type": "application/json"}, json.dumps(hub.listing(commit)).encode()
        if name not in hub.files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = hub.files[name]
        if name.endswith(".json"):
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{_sha1(content)}"'}, content
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{_sha256(content)}"',
            "X-Linked-Size": str(len(content)),
        }
        if hub.redirects:
            return 302, {**headers, "Location": f"{hub.cdn}/cdn/{name}"}, b""
        return (206 if "Range" in self.headers else 200), headers, content


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a Hub on two ports of 127.0.0.1, which are two origins: one for the Hub and one for its large files."""
    handlers = (type("Front", (_Answer,), {"hub": hub}), type("Cdn", (_Answer,), {"hub": hub, "is_cdn": True}))
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in handlers]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        hub.released.set()
        for server in servers:
            server.shutdown()
            server.server_close()


def loopback_only(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Forbid all connections of this process except to this machine; any other attempt raises an AssertionError.

    Args:
        replace: Sets an attribute, such as `setattr` or `monkeypatch.setattr`.
    """
    real_getaddrinfo = socket.getaddrinfo

    def connect(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or str(address[0]).startswith(LOOPBACK), f"a connection to {address}"
        return socket.SocketType.connect(self, address)

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        assert host is None or str(host).startswith(LOOPBACK), f"a look-up of {host}"
        return real_getaddrinfo(host, *arguments, **options)

    replace(socket.socket, "connect", connect)
    replace(socket, "getaddrinfo", getaddrinfo)
