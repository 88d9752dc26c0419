"""A picture, a session of the mask page, and a client that talks to its server as the page does."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from restorer.cli.mask_page.server import PageServer
from restorer.cli.mask_page.session import Session
from restorer.folders.paths import Item
from restorer.images.files import load

__all__ = ["BYTES", "HEIGHT", "SECONDS", "WIDTH", "Client", "hole", "noise", "save_picture", "session", "wait"]

HEIGHT, WIDTH = 21, 30
BYTES = (HEIGHT * WIDTH + 7) // 8
SECONDS = 60.0


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def hole() -> np.ndarray:
    fill = np.zeros((HEIGHT, WIDTH), dtype=bool)
    fill[3:9, 4:20] = True
    return fill


def save_picture() -> None:
    """Write a picture of noise to the current folder."""
    Image.fromarray(noise(HEIGHT, WIDTH, 3)).save("img.png", dpi=(240, 240))


def session(fill: np.ndarray | None = None, *, replaces: bool = False) -> Session:
    item = Item(Path("img.png"), Path("img_mask.png"))
    return Session(
        load(item.source), item, np.zeros((HEIGHT, WIDTH), bool) if fill is None else fill, replaces=replaces
    )


class Client:
    """A page that talks to the server."""

    def __init__(self, server: PageServer) -> None:
        self.server, self.session, self.base = server, server.session, urlsplit(server.address).path
        self.host = f"127.0.0.1:{server.server_port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str | None) -> tuple[int, Any]:
        """Send a request as the page does; a header that is None is left out. Return the status and the answer."""
        sent = {"Host": self.host, "Content-Length": str(len(body or b""))}
        sent |= {"Origin": f"http://{self.host}"} if method == "POST" else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}  # type: ignore[misc]
        connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=SECONDS)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        is_json = answer.getheader("Content-Type") == "application/json"
        return answer.status, json.loads(data) if is_json and data else data

    def get(self, name: str = "", **headers: str | None) -> tuple[int, Any]:
        return self.ask("GET", self.base + name, **headers)

    def post(self, name: str, body: bytes = b"", **headers: str | None) -> tuple[int, Any]:
        return self.ask("POST", self.base + name, body, **headers)

    def listen(self) -> socket.socket:
        """Open the stream of the progress, and leave it open."""
        connection = socket.create_connection(("127.0.0.1", self.server.server_port), timeout=SECONDS)
        connection.sendall(f"GET {self.base}events HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
        return connection


def wait(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
