"""The server of the page: the routes of HTTP, and what every request must prove first.

Everything lies under a token, which is the first part of each path:

    GET   /TOKEN/           the page, in one piece
    GET   /TOKEN/state      names and sizes
    GET   /TOKEN/picture    the picture
    GET   /TOKEN/mask       the mask: one bit per pixel, row by row, without gaps
    GET   /TOKEN/events     a stream of the progress, which is open as long as the page is
    GET   /TOKEN/preview    the latest preview
    POST  /TOKEN/save       writes the mask that is sent
    POST  /TOKEN/done       the same, and ends the program
    POST  /TOKEN/fill       fills the mask that is sent
    POST  /TOKEN/stop       stops filling
    POST  /TOKEN/result     writes the result
    POST  /TOKEN/goodbye    the page is being closed
"""

from __future__ import annotations

import json
import os
import secrets
import select
import socketserver
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any, ClassVar, Self, cast
from urllib.parse import parse_qs, urlsplit

import numpy as np

from restorer.cli.mask_page.access import ADDRESS, is_foreign, is_local_name, is_same_origin, is_token
from restorer.cli.mask_page.display import encode
from restorer.cli.mask_page.session import Session
from restorer.errors import RestorerError, UsageError
from restorer.limits import check

__all__ = ["PageServer", "page"]

STYLE, SCRIPTS = "page.css", ("mask.js", "view.js", "tools.js", "program.js", "page.js")
KEEPALIVE_SECONDS = 0.5  # between two looks whether the stream of a page is still connected
IDLE_SECONDS = 60  # after which a connection that says nothing is closed
JSON, STREAM, HTML, BITS = (
    "application/json",
    "text/event-stream",
    "text/html; charset=utf-8",
    "application/octet-stream",
)
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(nonce: str) -> str:
    """Return the page with its style and its scripts in it.

    Args:
        nonce: A random text that the Content-Security-Policy names, so that nothing else runs.
    """

    def read(name: str) -> str:
        return (files("restorer.cli.mask_page") / name).read_text(encoding="utf-8")

    text = read("page.html").replace("NONCE", nonce)
    text = text.replace("/* the style */", read(STYLE))
    return text.replace("/* the scripts */", "\n".join(map(read, SCRIPTS)))


class PageServer(ThreadingHTTPServer):
    """A server on the loopback address, in a thread of its own while it is a context.

    Args:
        session: What the page shows and changes.
        port: The port; 0 for a free one.

    Raises:
        UsageError: The port is in use, or may not be used.
    """

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere it would let two programs share a port

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session, self.token = session, secrets.token_urlsafe(32)
        self.picture = encode(session.picture)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"port {port} cannot be used: {reason}", "name another with --port") from error

    def server_bind(self) -> None:
        """Bind the socket without asking the network for the name of this machine."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    @property
    def address(self) -> str:
        """The address of the page, with the token."""
        return f"http://{ADDRESS}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """End the session with a bug; a connection that breaks is none."""
        error = sys.exception()
        if error is not None and not isinstance(error, OSError):
            self.session.crash(error)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class _RefusedError(Exception):
    """A request that is refused.

    Args:
        status: The status of the answer.
        message: What is wrong with the request.
    """

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """One connection to the page."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    ROUTES: ClassVar[dict[tuple[str, str], str]] = {
        ("GET", ""): "_send_page",
        ("GET", "state"): "_send_state",
        ("GET", "picture"): "_send_picture",
        ("GET", "mask"): "_send_mask",
        ("GET", "events"): "_send_events",
        ("GET", "preview"): "_send_preview",
        ("POST", "save"): "_save",
        ("POST", "done"): "_finish",
        ("POST", "fill"): "_fill",
        ("POST", "stop"): "_stop",
        ("POST", "result"): "_save_result",
        ("POST", "goodbye"): "_part",
    }
    WITH_MASK = ("save", "done", "fill")

    @property
    def session(self) -> Session:
        """The session of the server."""
        return cast(PageServer, self.server).session

    def version_string(self) -> str:
        """Return what the header `Server` says, without the version of Python."""
        return "restorer"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal is for the user."""

    def _answer(self) -> None:
        """Answer one request of any method."""
        try:
            handler, body = self._checked()
            handler(body)
        except _RefusedError as error:
            self.close_connection = True  # what follows may be the rest of a body that was not read
            self._send_json({"error": str(error)}, error.status)
        except RestorerError as error:
            self._send_json({"error": str(error), "hint": error.hint}, HTTPStatus.CONFLICT)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _answer

    def _checked(self) -> tuple[Callable[[bytes], None], bytes]:
        """Return the function that answers the request, and the body of the request.

        Raises:
            _RefusedError: The request does not prove that it comes from the page, or is malformed.
        """
        server, headers = cast(PageServer, self.server), self.headers
        forbidden = HTTPStatus.FORBIDDEN
        if is_foreign(self.client_address, self.connection.getsockname()):
            raise _RefusedError(forbidden, "this page belongs to another user")
        if not is_local_name(headers.get("Host")) or len(headers.get_all("Host", [])) != 1:
            raise _RefusedError(forbidden, "the host is not this machine")
        given, _, name = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not is_token(given, server.token):
            raise _RefusedError(forbidden, "the token is missing or wrong: open the address that the terminal shows")
        if self.command == "POST" and not is_same_origin(cast(Any, headers)):
            raise _RefusedError(forbidden, "the request comes from another page")
        if name and headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise _RefusedError(forbidden, "the request comes from another page")
        if (handler := self.ROUTES.get((self.command, name))) is None:
            if any(known == name for _, known in self.ROUTES):
                raise _RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.command} is not a method of this address")
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is nothing at this address")
        return getattr(self, handler), self._read_body(name)

    def _read_body(self, name: str) -> bytes:
        """Return the body of the request, whose size is known beforehand.

        Raises:
            _RefusedError: The body has no size, or a wrong one.
        """
        size = self.headers.get("Content-Length", "0" if self.command == "GET" else "")
        if "Transfer-Encoding" in self.headers or not (size.isascii() and size.isdecimal()):
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "the request must have a length")
        expected = (self.session.fill.size + 7) // 8 if name in self.WITH_MASK else 0
        if int(size) > expected:
            raise _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has more than {expected} bytes")
        if int(size) < expected:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, f"a mask of this picture has {expected} bytes, not {size}")
        body = self.rfile.read(expected) if expected else b""
        if len(body) < expected:
            raise ConnectionAbortedError("the connection broke")  # the rest of the mask is not empty, but unknown
        return body

    # ----------------------------------------------------------------------------------------------------- answers

    def _send(self, data: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, policy: str = "") -> None:
        self.send_response(status)
        policies = {"Content-Security-Policy": policy} if policy else {}
        for key, value in {**HEADERS, **policies, "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _send_json(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(content).encode(), JSON, status)

    def _send_page(self, body: bytes) -> None:
        nonce = secrets.token_urlsafe(16)
        self._send(page(nonce).encode(), HTML, policy=POLICY.format(nonce))

    def _send_state(self, body: bytes) -> None:
        session = self.session
        height, width = session.fill.shape
        names = {"picture": session.item.source, "mask": session.item.target, "result": session.result_target}
        self._send_json(
            {
                **{key: path.name for key, path in names.items()},
                "width": width,
                "height": height,
                "is_saved": session.is_saved,
                "seed": session.seed,
            }
        )

    def _send_picture(self, body: bytes) -> None:
        shown = cast(PageServer, self.server).picture
        self._send(shown.data, shown.kind)

    def _send_mask(self, body: bytes) -> None:
        self._send(np.packbits(self.session.fill).tobytes(), BITS)

    def _send_preview(self, body: bytes) -> None:
        if (shown := self.session.preview) is None:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no preview yet")
        self._send(shown.data, shown.kind)

    def _send_events(self, body: bytes) -> None:
        """Send the progress whenever it changes, until the page closes the connection or the session is over."""
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        for key, value in {**HEADERS, "Content-Type": STREAM, "Connection": "close"}.items():
            self.send_header(key, value)
        self.end_headers()
        self.session.enter()
        try:
            revision = -1
            while not self.session.is_over and not self._is_hung_up():
                number, progress = self.session.wait_for_progress(revision, KEEPALIVE_SECONDS)
                if number != revision:
                    revision = number
                    self.wfile.write(f"data: {json.dumps(asdict(progress))}\n\n".encode())
        finally:
            self.session.leave()

    def _is_hung_up(self) -> bool:
        """Return whether the other side has closed the connection; it has nothing to say while it listens."""
        return bool(select.select([self.connection], [], [], 0)[0])

    # ----------------------------------------------------------------------------------------------------- actions

    def _mask_of(self, body: bytes) -> np.ndarray:
        """Return the mask that a request holds, bool (H, W)."""
        shape = self.session.fill.shape
        bits = np.unpackbits(np.frombuffer(body, np.uint8), count=shape[0] * shape[1])
        return bits.reshape(shape).astype(bool)

    def _save(self, body: bytes) -> None:
        self.session.save_mask(self._mask_of(body))
        self._send_json({"path": str(self.session.item.target)})

    def _finish(self, body: bytes) -> None:
        self._save(body)
        self.session.finish()

    def _fill(self, body: bytes) -> None:
        seeds = parse_qs(urlsplit(self.path).query).get("seed", [])
        if len(seeds) != 1 or not (seeds[0].isascii() and seeds[0].isdecimal()):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "the seed must be a whole number")
        check(seed=int(seeds[0]))
        fill = self._mask_of(body)
        if not fill.any():
            raise UsageError("nothing is marked", "mark what is to be filled")
        self._send_json({"run": self.session.request_fill(fill, int(seeds[0]))})

    def _stop(self, body: bytes) -> None:
        self.session.stop_fill()
        self._send_json({})

    def _save_result(self, body: bytes) -> None:
        overwrite = urlsplit(self.path).query == "overwrite"
        target = self.session.result_target
        if not overwrite and target.exists() and self.session.saved_result is None and not self.session.replaces:
            self._send_json({"error": f"{target.name} exists", "exists": True}, HTTPStatus.CONFLICT)
            return
        self.session.save_result(overwrite=overwrite)
        self._send_json({"path": str(target)})

    def _part(self, body: bytes) -> None:
        self.session.say_goodbye()
        self._send_json({})
