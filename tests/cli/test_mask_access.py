"""Who may talk to the server of the mask page over loopback, and what it answers."""

from __future__ import annotations

import http.client
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mask_client import BYTES, HEIGHT, SECONDS, WIDTH, Client, hole, noise, save_picture, session
from PIL import Image

from restorer.cli.mask_page import access
from restorer.cli.mask_page.display import encode
from restorer.cli.mask_page.server import PageServer, page
from restorer.images.files import load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a picture."""
    monkeypatch.chdir(tmp_path)
    save_picture()


@pytest.fixture
def client() -> Iterator[Client]:
    with PageServer(session(hole())) as server:
        yield Client(server)


# ------------------------------------------------------------------------------------------------------------- access


def test_it_listens_on_the_loopback_address_only(client: Client) -> None:
    assert client.server.socket.getsockname()[0] == "127.0.0.1"
    assert client.server.address.startswith("http://127.0.0.1:")


def test_every_token_is_new_and_long() -> None:
    tokens = set()
    for _ in range(3):
        with PageServer(session()) as server:
            tokens.add(server.token)
    assert len(tokens) == 3 and all(len(token) >= 43 for token in tokens)  # 256 bits


NAMES = ["", "state", "picture", "mask", "events", "preview"]
ACTIONS = ["save", "done", "fill?seed=0", "stop", "result", "goodbye"]


@pytest.mark.parametrize("name", [*(("GET", n) for n in NAMES), *(("POST", n) for n in ACTIONS)])
def test_nothing_is_answered_without_the_token(name: tuple[str, str], client: Client) -> None:
    method, path = name
    token = client.server.token
    for wrong in ("", "x", token[:-1], token + "x", token.swapcase(), "%2e%2e", "%c3%bc", token.encode().hex()):
        for prefix in (f"/{wrong}/", f"/{wrong}/../{token}/"):
            target = prefix + path
            status, answer = client.ask(method, target, b"\xff" * BYTES if method == "POST" else None)
            assert status == 403, target
            assert set(answer) == {"error"} and token not in answer["error"]
    assert client.ask(method, f"/{path}")[0] == 403
    assert not client.session.is_over and not Path("img_mask.png").exists()


@pytest.mark.parametrize("path", [b"/\xc3\xbc/", b"/\xff/", b"*", b"http://127.0.0.1/x/", b"//x/"])
def test_odd_paths_are_refused(path: bytes, client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=SECONDS) as connection:
        connection.sendall(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (path, client.host.encode()))
        assert connection.recv(12) == b"HTTP/1.1 403"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "0.0.0.0", "[::1]", "", None]
)
def test_a_name_of_another_host_is_refused(host: str | None, client: Client) -> None:
    """A page on the web can let its own name point to 127.0.0.1 (DNS rebinding)."""
    assert client.get("state", Host=host)[0] == 403
    assert client.post("save", b"\0" * BYTES, Host=host, Origin=f"http://{host}")[0] == 403
    assert not Path("img_mask.png").exists()


def test_a_forwarded_port_is_served(client: Client) -> None:
    """With ssh -L 9000:127.0.0.1:PORT the browser names port 9000."""
    for host in ("localhost:9000", "127.0.0.1:9000", "localhost"):
        assert client.get("state", Host=host)[0] == 200
        assert client.post("stop", Host=host, Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "https://{}", "http://127.0.0.1", "http://127.0.0.1:1"]
)
def test_other_pages_cannot_send_anything(origin: str | None, client: Client) -> None:
    sent = origin and origin.format(client.host)
    for name in ("save", "done", "fill?seed=0", "result", "goodbye", "stop"):
        body = b"\0" * BYTES if name in ("save", "done", "fill?seed=0") else b""
        status, answer = client.post(name, body, Origin=sent)
        assert status == 403 and answer["error"] == "the request comes from another page"
    assert not client.session.is_over and not Path("img_mask.png").exists()


def test_other_pages_cannot_embed_anything(client: Client) -> None:
    for site in ("cross-site", "same-site"):
        assert client.get("picture", Sec_Fetch_Site=site)[0] == 403
        assert client.get("", Sec_Fetch_Site=site)[0] == 200  # a link to the page may be anywhere
    assert client.get("picture", Sec_Fetch_Site="same-origin")[0] == 200


def test_another_user_is_refused_even_with_the_token(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from restorer.cli.mask_page import server

    monkeypatch.setattr(server, "is_foreign", lambda *ends: True)
    assert client.get("") == (403, {"error": "this page belongs to another user"})


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1
   1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1001        0 12 1
   2: 0000000000000000FFFF00000100007F:C351 0000000000000000FFFF00000100007F:1F90 01 0:0 00:0 0  1002        0 13 1
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is that of a little-endian machine")
def test_the_owner_of_a_connection_is_read_from_the_table() -> None:
    server = ("127.0.0.1", 8080)
    assert access.owner_in(TABLE.splitlines(), ("127.0.0.1", 50000), server) == 1001
    assert access.owner_in(TABLE.splitlines(), ("127.0.0.1", 50001), server) == 1002  # a socket of IPv6
    assert access.owner_in(TABLE.splitlines(), ("127.0.0.1", 50002), server) is None


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="only Linux has the table")
def test_the_owner_of_a_real_connection_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        with Path("/proc/net/tcp").open() as table:
            assert access.owner_in(table, client.getsockname(), server.getsockname()) == os.geteuid()
        assert not access.is_foreign(client.getsockname(), server.getsockname())


# ----------------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_wrong_methods_change_nothing(method: str, client: Client) -> None:
    assert client.ask(method, client.base + "save")[0] in (405, 501)
    assert client.post("state")[0] == 405
    assert not Path("img_mask.png").exists()


@pytest.mark.parametrize(
    "path", ["../img.png", "..%2fimg.png", "page.css", "server.py", "/etc/passwd", "state/x", "%00"]
)
def test_there_are_no_files_to_reach(path: str, client: Client) -> None:
    assert client.get(path)[0] == 404


def test_a_body_has_the_size_of_the_mask(client: Client) -> None:
    assert client.post("save", b"\0" * (BYTES + 1))[0] == 413
    assert client.post("save", b"\0" * (BYTES - 1))[0] == 400
    assert client.post("save", b"")[0] == 400
    assert client.post("stop", b"x")[0] == 413
    for size in (None, "-1", "x", "1e3", "²"):
        assert client.post("save", b"", Content_Length=size and size.encode().decode("latin-1"))[0] == 411
    assert client.post("save", b"", Content_Length=None, Transfer_Encoding="chunked")[0] == 411
    assert client.post("save", b"", Content_Length="9" * 30)[0] == 413
    assert not Path("img_mask.png").exists()


def test_a_body_that_breaks_off_is_no_mask(client: Client) -> None:
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=SECONDS) as connection:
        lines = [f"POST {client.base}save HTTP/1.1", f"Host: {client.host}", f"Origin: http://{client.host}"]
        lines += [f"Content-Length: {BYTES}", "", ""]
        connection.sendall("\r\n".join(lines).encode() + b"\xff" * (BYTES // 2))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    assert not Path("img_mask.png").exists() and not client.session.is_over


def test_the_page_is_one_piece_and_loads_nothing_else(client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.server.server_port, timeout=SECONDS)
    connection.request("GET", client.base)
    answer = connection.getresponse()
    text = answer.read().decode()
    policy = answer.getheader("Content-Security-Policy", "")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
    assert text.count(f'nonce="{nonce}"') == 2 and page("x").count("<script") == page("x").count("</script>") == 1
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#|data:)""", text.split("<script")[0])
    assert "/* the" not in text
    for name, value in {
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "X-Frame-Options": "DENY",
    }.items():
        assert answer.getheader(name) == value
    assert answer.getheader("Server") == "restorer"
    connection.request("GET", client.base)
    assert nonce not in connection.getresponse().read().decode()  # each page has its own
    connection.close()


def test_it_tells_the_page_names_and_sizes(client: Client) -> None:
    names = {"picture": "img.png", "mask": "img_mask.png", "result": "img_inpainted.png"}
    assert client.get("state") == (200, {**names, "width": WIDTH, "height": HEIGHT, "is_saved": False, "seed": 0})
    assert client.get("preview")[0] == 404


def test_the_picture_is_shown_to_the_pixel(client: Client) -> None:
    status, data = client.get("picture")
    Path("shown.png").write_bytes(data)
    assert status == 200 and (np.asarray(Image.open("shown.png")) == noise(HEIGHT, WIDTH, 3)).all()


@pytest.mark.parametrize("kind", ["sixteen bits", "turned", "transparent", "profile", "large"])
def test_every_kind_of_picture_can_be_shown(kind: str) -> None:
    values = noise(HEIGHT, WIDTH, 3)
    if kind == "sixteen bits":
        deep = noise(HEIGHT, WIDTH).astype(np.uint16) * 257
        Image.fromarray(deep).save("p.png")
        expected = (deep // 257).astype(np.uint8)
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.rot90(values)).save("p.png", exif=exif)
        expected = values
    elif kind == "transparent":
        expected = noise(HEIGHT, WIDTH, 4)
        Image.fromarray(expected).save("p.png")
    else:
        Image.fromarray(values).save("p.png")
        expected = values
    shown = encode(load(Path("p.png")), HEIGHT * WIDTH if kind != "large" else HEIGHT * WIDTH // 4)
    Path("shown").write_bytes(shown.data)
    with Image.open("shown") as image:
        assert image.get_format_mimetype() == shown.kind == "image/png"
        if kind == "large":
            assert image.size == (10, 7)  # a third
        else:
            assert (np.asarray(image) == expected).all()
