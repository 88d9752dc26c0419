"""The server of the mask page over loopback: who may talk to it, what it takes and writes, and when it stops."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from stubs import Broken, Smooth

from restorer.cli.commands.mask import format_share
from restorer.cli.mask_page import access, running
from restorer.cli.mask_page import session as sessions
from restorer.cli.mask_page.display import encode
from restorer.cli.mask_page.filling import Filler
from restorer.cli.mask_page.server import PageServer, page
from restorer.cli.mask_page.session import Session
from restorer.cli.options import parse
from restorer.cli.terminal.reporter import Reporter
from restorer.diffusion.prior import Prior
from restorer.errors import DeviceError
from restorer.folders.paths import Item
from restorer.folders.provenance import parse_record
from restorer.images.files import load
from restorer.images.picture import RECORD
from restorer.models import load as models_load

HEIGHT, WIDTH = 21, 30
BYTES = (HEIGHT * WIDTH + 7) // 8
SECONDS = 60.0


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def hole() -> np.ndarray:
    fill = np.zeros((HEIGHT, WIDTH), dtype=bool)
    fill[3:9, 4:20] = True
    return fill


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a picture."""
    monkeypatch.chdir(tmp_path)
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


@pytest.fixture
def client() -> Iterator[Client]:
    with PageServer(session(hole())) as server:
        yield Client(server)


def wait(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


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
    assert client.ask("POST", client.base + "state", b"")[0] == (403 if method == "" else 405)
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


# ----------------------------------------------------------------------------------------------------------- the mask


def test_a_mask_makes_the_round_trip_bit_for_bit(client: Client) -> None:
    status, data = client.get("mask")
    assert status == 200 and data == np.packbits(hole()).tobytes()
    fill = noise(HEIGHT, WIDTH, seed=1) > 127
    assert client.post("save", np.packbits(fill).tobytes()) == (200, {"path": "img_mask.png"})
    with Image.open("img_mask.png") as image:
        assert image.mode == "L" and (np.asarray(image) == np.where(fill, 255, 0)).all()
    assert client.get("mask")[1] == np.packbits(fill).tobytes()
    assert client.get("state")[1]["is_saved"] and not client.session.is_over
    assert client.post("save", np.packbits(~fill).tobytes())[0] == 200  # its own mask is replaced
    assert (np.asarray(Image.open("img_mask.png")) == np.where(fill, 0, 255)).all()


def test_a_file_that_has_appeared_is_not_replaced(client: Client) -> None:
    Path("img_mask.png").write_bytes(b"mine")
    for name in ("save", "done"):
        status, answer = client.post(name, b"\0" * BYTES)
        assert status == 409 and "img_mask.png already exists" in answer["error"]
    assert Path("img_mask.png").read_bytes() == b"mine" and not client.session.is_over


def test_done_ends_the_session(client: Client) -> None:
    assert client.post("done", np.packbits(hole()).tobytes())[0] == 200
    wait(lambda: client.session.is_over)
    assert client.session.next_request() is None and client.session.is_saved


# -------------------------------------------------------------------------------------------------------- how it ends


def test_it_stops_when_the_page_is_closed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "GOODBYE_SECONDS", 0.0)
    stream = client.listen()
    assert stream.recv(12) == b"HTTP/1.1 200"
    assert not client.session.is_over
    assert client.post("goodbye")[0] == 200
    stream.close()
    wait(lambda: client.session.is_over)
    assert client.session.next_request() is None and not client.session.is_saved


def test_it_goes_on_when_the_page_is_loaded_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "GOODBYE_SECONDS", 0.0)
    monkeypatch.setattr(sessions, "CLOSED_SECONDS", SECONDS)
    first = client.listen()
    first.recv(12)
    client.post("goodbye")
    second = client.listen()  # which takes the goodbye back
    second.recv(12)
    first.close()
    wait(lambda: client.session._streams == 1)
    second.close()
    wait(lambda: client.session._streams == 0)
    assert not client.session.is_over  # a line may break


def test_it_waits_for_a_page_that_has_not_been_opened(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CLOSED_SECONDS", 0.0)
    assert not client.session.is_over


def test_a_bug_in_an_answer_ends_the_run(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "save_mask", lambda *arguments: 1 // 0)
    with pytest.raises(http.client.HTTPException):
        client.post("save", b"\0" * BYTES)
    with pytest.raises(ZeroDivisionError):
        client.session.next_request()


# ------------------------------------------------------------------------------------------------------------ filling


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    """Return a function that serves a page with a prior; it is served until the test ends."""
    threads: list[tuple[threading.Thread, Session]] = []

    def start(prior: Prior, **options: Any) -> Client:
        monkeypatch.setattr(models_load, "load_prior", lambda *arguments: prior)
        started = session(**options)
        names = {"sigma": "0", "model": "photo", "device": "auto", "precision": "auto", "tile": "auto"}
        names |= dict.fromkeys(["overwrite", "skip_existing", "recursive", "json", "quiet", "verbose"], False)
        run = parse("inpaint", inputs=[], output=None, steps=4, detail=None, method="auto", seed=0, **names)
        filler = Filler(started, run, Reporter(quiet=True))
        server = PageServer(started)

        def work() -> None:
            with server:
                while (request := started.next_request()) is not None:
                    filler.run(request)

        thread = threading.Thread(target=work)
        thread.start()
        threads.append((thread, started))
        return Client(server)

    yield start
    for thread, started in threads:
        started.finish()
        thread.join(SECONDS)
        assert not thread.is_alive()


def progress_of(client: Client) -> Iterator[dict[str, Any]]:
    """Yield what the stream of the progress says."""
    with client.listen() as connection, connection.makefile("rb") as lines:
        for line in lines:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def until(client: Client, *states: str) -> list[dict[str, Any]]:
    seen = []
    for progress in progress_of(client):
        seen.append(progress)
        if progress["state"] in states:
            return seen
    raise AssertionError(f"the stream ended: {seen}")


def test_the_holes_are_filled_and_the_result_is_saved(filled: Callable[..., Client]) -> None:
    client = filled(Smooth())
    assert client.post("result")[0] == 409  # nothing is there yet
    assert client.post("fill?seed=7", np.packbits(hole()).tobytes()) == (200, {"run": 1})
    last = until(client, "done", "failed")[-1]
    assert (last["state"], last["run"], last["seed"], last["total"], last["done"]) == ("done", 1, 7, 4, 4)
    assert last["window"] == [4, 3, 16, 6]
    Path("shown.png").write_bytes(client.get("preview")[1])
    assert client.post("result") == (200, {"path": "img_inpainted.png"})
    with Image.open("img_inpainted.png") as image:
        result = np.asarray(image)
        record = parse_record(image.text[RECORD])  # type: ignore[attr-defined]
        assert round(image.info["dpi"][0]) == 240
    before = noise(HEIGHT, WIDTH, 3)
    assert (result[~hole()] == before[~hole()]).all() and (result[hole()] != before[hole()]).any()
    assert (np.asarray(Image.open("shown.png")) == result[3:9, 4:20]).all()
    assert (np.asarray(Image.open("img_mask.png")) == np.where(hole(), 255, 0)).all()  # which the record names
    assert record is not None and record.command == "inpaint" and record.source == "img.png"
    assert record.options["seed"] == 7 and record.options["mask"] == "img_mask.png" and record.options["grow"] == 0
    assert record.options["steps"] == 4 and record.options["sigma"] == 0


def test_a_result_of_before_is_replaced_only_if_asked(filled: Callable[..., Client]) -> None:
    Path("img_inpainted.png").write_bytes(b"mine")
    client = filled(Smooth())
    client.post("fill?seed=0", np.packbits(hole()).tobytes())
    until(client, "done")
    assert client.post("result") == (409, {"error": "img_inpainted.png exists", "exists": True})
    assert Path("img_inpainted.png").read_bytes() == b"mine" and not Path("img_mask.png").exists()
    assert client.post("result?overwrite")[0] == 200
    assert Image.open("img_inpainted.png").size == (WIDTH, HEIGHT)
    assert client.post("result")[0] == 200  # its own result is replaced


def test_filling_is_the_same_as_the_verb(filled: Callable[..., Client]) -> None:
    from restorer.cli.app import run

    client = filled(Smooth())
    client.post("fill?seed=3", np.packbits(hole()).tobytes())
    until(client, "done")
    client.post("result")
    options = ["--mask", "img_mask.png", "--grow", "0", "--seed", "3", "--steps", "4"]
    assert run(["inpaint", "img.png", *options, "-o", "b.png", "-q"]) == 0
    assert Path("b.png").read_bytes() == Path("img_inpainted.png").read_bytes()


def test_a_failure_is_told_and_the_page_goes_on(filled: Callable[..., Client]) -> None:
    client = filled(Broken(DeviceError("no memory is left", "close other programs")))
    client.post("fill?seed=0", np.packbits(hole()).tobytes())
    assert until(client, "failed")[-1]["message"] == "no memory is left: close other programs"
    assert client.post("fill?seed=0", np.packbits(hole()).tobytes()) == (200, {"run": 2})  # it breaks once
    assert until(client, "done")[-1]["run"] == 2


class Waiting(Smooth):
    """A prior that waits in its second evaluation until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.reached, self.released = 0, threading.Event(), threading.Event()

    def predict(self, *arguments: Any) -> Any:
        self.count += 1
        if self.count == 2:
            self.reached.set()
            assert self.released.wait(SECONDS)
        return super().predict(*arguments)


def test_filling_is_stopped(filled: Callable[..., Client]) -> None:
    prior = Waiting()
    client = filled(prior)
    client.post("fill?seed=0", np.packbits(hole()).tobytes())
    assert prior.reached.wait(SECONDS)
    (running_now,) = until(client, "running")[-1:]
    assert (running_now["done"], running_now["total"], running_now["preview"]) == (1, 4, 1)
    assert client.post("stop")[0] == 200
    prior.released.set()
    assert until(client, "stopped", "done")[-1]["state"] == "stopped"
    assert prior.count == 2 and client.post("result")[0] == 409


def test_a_new_wish_replaces_the_one_in_progress(filled: Callable[..., Client]) -> None:
    prior = Waiting()
    client = filled(prior)
    client.post("fill?seed=0", np.packbits(hole()).tobytes())
    assert prior.reached.wait(SECONDS)
    assert client.post("fill?seed=1", np.packbits(hole()).tobytes()) == (200, {"run": 2})
    prior.released.set()
    last = until(client, "done")[-1]
    assert (last["run"], last["seed"], prior.count) == (2, 1, 2 + 4)


@pytest.mark.parametrize(
    "query", ["", "?seed=", "?seed=x", "?seed=-1", "?seed=1&seed=2", "?seed=%C2%B2", f"?seed={2**63}"]
)
def test_a_wish_that_makes_no_sense_is_refused(query: str, client: Client) -> None:
    assert client.post(f"fill{query}", np.packbits(hole()).tobytes())[0] in (400, 409)
    assert client.post("fill?seed=0", b"\0" * BYTES)[0] == 409  # nothing is marked
    client.session.finish()
    assert client.session.next_request() is None


# -------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SSH_CONNECTION": "10.0.0.2 50000 10.0.0.1 22", "DISPLAY": ":10"}, "ssh -L {0}:127.0.0.1:{0} 10.0.0.1"),
        ({"SSH_TTY": "/dev/pts/1"}, "ssh -L {0}:127.0.0.1:{0} HOST"),
        ({}, "open the address in a browser on this machine"),
    ],
)
def test_where_no_browser_can_appear_the_address_is_printed(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SSH_CONNECTION", "SSH_TTY", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(running, "has_display", lambda: "DISPLAY" in variables)
    monkeypatch.setattr(running.webbrowser, "open", lambda address: pytest.fail("a browser was opened"))
    ended = session()
    ended.finish()
    reporter = Reporter()
    running.serve(ended, Filler(ended, None, reporter), reporter, port=0, opens_browser=True)  # type: ignore[arg-type]
    err = capsys.readouterr().err
    (port,) = re.findall(r"page at http://127\.0\.0\.1:(\d+)/[\w-]{43}/$", err, re.MULTILINE)
    assert words.format(port) in err


def test_the_browser_is_opened(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    opened: list[str] = []
    called = threading.Event()
    monkeypatch.setattr(running, "has_display", lambda: True)
    monkeypatch.setattr(running, "is_remote", lambda: False)
    monkeypatch.setattr(running.webbrowser, "open", lambda address: opened.append(address) or called.set() or True)
    ended = session()
    ended.finish()
    running.serve(ended, Filler(ended, None, Reporter()), Reporter(), port=0, opens_browser=True)  # type: ignore[arg-type]
    assert called.wait(SECONDS)
    assert re.findall(r"page at (\S+)", capsys.readouterr().err) == opened


def start(*options: str) -> tuple[subprocess.Popen[str], str]:
    """Start the command, and return its process and the address of its page."""
    command = [sys.executable, "-m", "restorer", "mask", "img.png", "--no-browser", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NO_COLOR": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "page at http" in line, line + process.stderr.read()
    return process, line.split()[-1]


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_without_a_traceback(number: int, code: int) -> None:
    process, _ = start()
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == code and not out and "Traceback" not in err
    assert sorted(path.name for path in Path().iterdir()) == ["img.png"]


def test_done_prints_the_path_of_the_mask() -> None:
    Image.fromarray(np.where(hole(), 255, 0).astype(np.uint8)).save("img_mask.png")
    process, address = start("--edit", "--box", "0,0,2,1", "--json")
    split = urlsplit(address)
    connection = http.client.HTTPConnection(split.netloc, timeout=SECONDS)
    connection.request("GET", split.path + "mask")
    expected = hole()
    expected[0, :2] = True
    data = connection.getresponse().read()
    assert data == np.packbits(expected).tobytes()
    connection.request("POST", split.path + "done", data, {"Origin": f"http://{split.netloc}"})
    assert connection.getresponse().status == 200
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert (said["status"], said["output"], said["filled"]) == ("ok", "img_mask.png", None)
    assert said["share"] == round(expected.mean(), 6)
    assert (np.asarray(Image.open("img_mask.png")) == np.where(expected, 255, 0)).all()


def test_a_port_in_use_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    from restorer.cli.app import run

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["mask", "img.png", "--port", str(port)]) == 2
    err = capsys.readouterr().err
    assert f"port {port} cannot be used" in err and "--port" in err.splitlines()[-1]


def test_a_share_tells_a_pixel_from_none() -> None:
    assert [format_share(s) for s in (0, 1, 0.0314, 0.001, 1e-4, 1.2e-7)] == [
        *("0.0 %", "100.0 %", "3.1 %", "0.1 %", "0.01 %", "1.2e-05 %")
    ]
