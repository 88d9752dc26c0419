"""The mask page over loopback: what it writes, what it fills, when it stops, and how the command announces it."""

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from mask_client import BYTES, HEIGHT, SECONDS, WIDTH, Client, hole, noise, save_picture, session, wait
from PIL import Image
from stubs import Broken, Smooth

from restorer.cli.commands.mask import format_share
from restorer.cli.mask_page import running
from restorer.cli.mask_page import session as sessions
from restorer.cli.mask_page.filling import Filler
from restorer.cli.mask_page.server import PageServer
from restorer.cli.mask_page.session import Session
from restorer.cli.options import parse
from restorer.cli.terminal.reporter import Reporter
from restorer.diffusion.prior import Prior
from restorer.errors import DeviceError
from restorer.folders.provenance import parse_record
from restorer.folders.verb_options import Inpaint
from restorer.images.picture import RECORD
from restorer.models import load as models_load


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a picture."""
    monkeypatch.chdir(tmp_path)
    save_picture()


@pytest.fixture
def client() -> Iterator[Client]:
    with PageServer(session(hole())) as server:
        yield Client(server)


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
        run = parse(Inpaint, inputs=[], mask=started.item.target, grow=0, steps=4)
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
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if os.name == "posix":  # a shell makes programs in the background ignore interrupts
        pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, text=True, env=environment, **pipes)
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
