"""Runs on several machines, with workers in this process in the place of a cluster: who gets what, deaths, the log."""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Smooth

from restorer import restore_folder
from restorer.cli.app import run
from restorer.cli.options import parse
from restorer.errors import DeviceError, ModelError, OutputError, PictureError, UsageError
from restorer.folders import cluster, ray_pool
from restorer.folders.briefing import Briefing, Glimpse, Probe, check_versions, on_node, versions
from restorer.folders.cluster import ClusterRun
from restorer.folders.events import Done, Event, Failed, Finished, Noted, Opened, Skipped, Working
from restorer.folders.manifest import MANIFEST
from restorer.folders.opening import open_log
from restorer.folders.pool import Arrived, Reply
from restorer.folders.verb_options import OPTIONS, Denoise
from restorer.folders.verbs import VERBS, denoising
from restorer.folders.worker import Answer, Piece, Worker
from restorer.images import partials
from restorer.images.find import search_all
from restorer.machine import memory
from restorer.models import load as models_load
from restorer.tasks import batching

COMMAND = ["denoise", "in", "-r", "-o", "out", "--sigma", "10", "--steps", "2"]
GIVEN: dict[str, Any] = {
    "inputs": ["in"], "recursive": True, "steps": 2, "sigma": "10", "cluster": "auto", "output": "out",
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    monkeypatch.setattr(partials, "_owner", "")
    monkeypatch.setattr(memory, "_sharers", 1)
    return tmp_path


class FakePool:
    """Workers in this process, which run one call after the other, and die as they are told.

    Args:
        room: Number of workers for which there is room.
        dies: Returns, for the method, the names of the pictures and the number of the worker, whether the worker dies
            before ("before"), in the middle of writing ("during") or after the call ("after").
    """

    kind, threads, concurrency = "cpu", None, 1

    def __init__(self, room: int = 3, dies: Callable[[str, list[str], int], str] = lambda *call: "") -> None:
        self._room, self._dies = room, dies
        self.briefing: Briefing | None = None
        self.workers: dict[int, tuple[str, Worker | None]] = {}
        self.calls: list[tuple[int, str, int, Sequence[Piece]]] = []
        self.held: dict[tuple[int, int], list[str]] = {}
        self.given: list[tuple[int, list[str]]] = []  # in order
        self.started = self.most_held = 0
        self.is_closed = False
        self.refuses: dict[int, Exception] = {}  # workers that cannot work for the run

    def room(self) -> int:
        return self._room

    def sharers(self) -> int:
        return 1

    def brief(self, briefing: Briefing) -> None:
        self.briefing = briefing

    def start(self, owner: str) -> int:
        self.started += 1
        self.workers[self.started] = (owner, None)
        self.calls.append((self.started, "start", 0, ()))
        return self.started

    def call(self, worker: int, method: str, key: int, pieces: Sequence[Piece] = ()) -> None:
        assert worker in self.workers
        if method == "begin":
            self.held[worker, key] = [piece.item.source.name for piece in pieces]
            self.given.append((worker, self.held[worker, key]))
        self.calls.append((worker, method, key, pieces))
        self.most_held = max(self.most_held, *Counter(call[0] for call in self.calls).values())

    def wait(self, seconds: float) -> list[Reply]:
        assert self.calls, "the driver waits for nothing"
        worker, method, key, pieces = self.calls.pop(0)
        owner, real = self.workers[worker]
        names = self.held.get((worker, key), [])
        when = self._dies(method, names, worker)
        if when == "during":
            assert real is not None
            for prepared in real._batches_begun[key]:
                prepared.item.target.with_name(f".{owner}00112233.partial").write_bytes(b"half")
        if when in ("before", "during"):
            return self._lose(worker)
        partials._owner = owner
        value = self._answer(worker, method, key, pieces)
        partials._owner = ""
        return self._lose(worker) if when == "after" else [Reply(worker, method, key, value)]

    def _answer(self, worker: int, method: str, key: int, pieces: Sequence[Piece]) -> Any:
        owner, real = self.workers[worker]
        if method == "start":
            assert self.briefing is not None
            if worker in self.refuses:
                return self.refuses[worker]
            self.workers[worker] = (owner, Worker(self.briefing, owner))
            return Arrived(f"host{worker} (10.0.0.{worker})", f"node {worker % 2}")
        assert real is not None
        return real.begin(key, pieces) if method == "begin" else real.finish(key)

    def _lose(self, worker: int) -> list[Reply]:
        mine = [call for call in self.calls if call[0] == worker]
        self.calls = [call for call in self.calls if call[0] != worker]
        return [Reply(worker, "", 0, lost="it was killed"), *(Reply(w, m, k, lost="dead") for w, m, k, _ in mine)]

    def stop(self, worker: int) -> None:
        del self.workers[worker]
        self.calls = [call for call in self.calls if call[0] != worker]

    def close(self) -> None:
        self.is_closed = True


def pictures(count: int, bad: Sequence[int] = (), side: int = 12) -> list[Path]:
    """Write pictures into a folder and its subfolder; some of them are damaged."""
    paths = [Path("in", "deep" if i % 3 == 1 else ".", f"{i:03}.png") for i in range(count)]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([i, side]).integers(0, 256, (side, side + i % 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if i in bad:
            path.write_bytes(b"no picture")
    return paths


def happening(pool: FakePool, **given: Any) -> Iterator[Event]:
    """Yield the events of a run with these workers."""
    chosen = parse(Denoise, **{**GIVEN, **given})
    verb = denoising(chosen)
    found = search_all(chosen.inputs, recursive=True)
    with open_log(chosen, found.pictures) as log:
        engine = ClusterRun(chosen, verb, log, open_pool=lambda address, device: pool)
        with closing(engine.events(found)) as events:
            yield from events


def plain(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in ("seconds", "peak_mem_mb", "schema")}


def log(place: str = "out") -> list[dict[str, Any]]:
    return [plain(json.loads(line)) for line in Path(place, MANIFEST).read_text().splitlines()]


def by_output(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [line for line in lines if line["output"] == name] for name in {line["output"] for line in lines}}


def results(place: str = "out") -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(Path(place).rglob("*.png"))}


def others(place: str = "out") -> list[str]:
    """Everything in a folder that is neither a result nor the log."""
    allowed = (MANIFEST, f"{MANIFEST}.lock")
    files = [path for path in Path(place).rglob("*") if path.is_file() and path.name not in allowed]
    return [str(path) for path in files if not path.name.endswith("_denoised.png")]


# ------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(("side", "count"), [(12, 40), (120, 7)], ids=["small", "three to a batch"])
def test_a_run_is_that_of_one_machine(side: int, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bytes, batches and lines of the log for every picture, and the same objects of JSON."""
    bad = (3, 4, 5) if count > 10 else ()
    pictures(count, bad, side)
    assert run([*COMMAND, "--json"]) == (3 if bad else 0)
    printed = [plain(json.loads(line)) for line in capsys.readouterr().out.splitlines()]
    expected, expected_log = results(), by_output(log())
    Path("out").rename("first")
    pool = FakePool()
    events = list(happening(pool))
    assert results() == expected and by_output(log()) == expected_log and others() == []
    ours = [plain(content) for event in events if (content := event.to_json()) is not None]
    order = lambda line: str(line.get("input"))  # noqa: E731
    assert sorted(ours, key=order) == sorted(printed, key=order)
    assert pool.is_closed and pool.started == 3
    working = [event for event in events if isinstance(event, Working)]
    assert (working[-1].done, working[-1].pictures, working[-1].workers) == (count, count, 3)
    assert max(event.nodes for event in working) == 2


def test_nothing_is_written_before_the_log_says_that_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Worker.finish

    def checking(worker: Worker, key: int) -> Answer:
        begun = {line["output"] for line in log() if line["event"] == "begun"}
        for prepared in worker._batches_begun[key]:
            assert prepared.item.target.relative_to("out").as_posix() in begun and not prepared.item.target.exists()
        return finish(worker, key)

    monkeypatch.setattr(Worker, "finish", checking)
    pictures(20, bad=[2])
    assert isinstance(list(happening(FakePool()))[-1], Finished)
    lines = by_output(log())
    assert [line["event"] for line in lines.pop("002_denoised.png")] == ["result"]  # a bad picture is never begun
    assert all([line["event"] for line in each] == ["begun", "result"] for each in lines.values()) and len(lines) == 19


def test_no_worker_holds_more_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures are read while others are restored; a large one has its worker for itself."""
    monkeypatch.setattr(batching, "MAX_PIXELS", {"cpu": 200})
    pictures(9)
    small = FakePool(room=2)
    list(happening(small))
    assert small.most_held == 2 and {len(names) for _, names in small.given} == {1}
    shutil.rmtree("out")
    monkeypatch.setattr(batching, "MAX_PIXELS", {"cpu": 100})
    large = FakePool(room=2)
    list(happening(large))
    assert large.most_held == 1 and len(results()) == 9


@pytest.mark.parametrize(("given", "expected"), [({}, 5), ({"workers": 2}, 2), ({"workers": 50}, 9)])
def test_workers_are_asked_for_while_there_is_work(given: dict[str, int], expected: int) -> None:
    """Their number is that of the option, even beyond the room, or else the room; never more than the pictures."""
    pictures(9)
    pool = FakePool(room=5)
    list(happening(pool, **given))
    assert pool.started == expected and len(results()) == 9


def test_nothing_is_started_if_everything_is_done() -> None:
    pictures(4)
    list(happening(FakePool()))
    pool = FakePool()
    events = list(happening(pool, resume=True))
    assert pool.started == 0 and not pool.is_closed
    assert sum(isinstance(event, Skipped) for event in events) == 4


def test_limit_and_fail_fast() -> None:
    pictures(30, bad=[0])
    list(happening(FakePool(), limit=7))
    assert len(results()) == 7
    shutil.rmtree("out")
    events = list(happening(FakePool(room=1), fail_fast=True, tile="64"))
    assert isinstance(events[-1], Finished) and events[-1].failed == 1 and len(results()) <= 3


# ----------------------------------------------------------------------------------------------------------- deaths


@pytest.mark.parametrize("when", ["before", "during", "after"])
@pytest.mark.parametrize("method", ["begin", "finish"])
def test_what_a_dead_worker_held_is_done_elsewhere(when: str, method: str) -> None:
    """Before, in the middle of and after a call, reported or not: every result is whole, with one line `ok`."""
    if method == "begin" and when == "during":
        pytest.skip("nothing is written yet")
    pictures(20)
    assert run([*COMMAND, "-q", "--tile", "64"]) == 0
    expected = results()
    shutil.rmtree("out")
    dead = list[int]()

    def dies(called: str, names: list[str], worker: int) -> str:
        if called == method and "007.png" in names and not dead:
            dead.append(worker)
            return when
        return ""

    pool = FakePool(dies=dies)
    events = list(happening(pool, tile="64"))
    assert results() == expected and others() == [] and len(dead) == 1 and pool.started == 4
    assert all(Counter(line.get("status") for line in each)["ok"] == 1 for each in by_output(log()).values())
    (note,) = [event.text for event in events if isinstance(event, Noted)]
    assert f"host{dead[0]}" in note and "it was killed" in note
    assert isinstance(events[-1], Finished) and (events[-1].ok, events[-1].exit_code) == (20, 0)


def test_a_picture_that_kills_workers_fails_alone() -> None:
    """It fails after the second death, with both machines and code 6; no picture beside it is blamed."""
    pictures(24)
    pool = FakePool(dies=lambda method, names, worker: "before" if method == "finish" and "005.png" in names else "")
    events = list(happening(pool))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.item.source.name == "005.png" and failed.to_json()["code"] == 6
    assert "2 workers" in str(failed.error) and str(failed.error).count("host") == 2
    assert sum(isinstance(event, Done) for event in events) == 23 and len(results()) == 23
    assert isinstance(events[-1], Finished) and events[-1].exit_code == 3
    retried = [names for _, names in pool.given if "005.png" in names]
    assert len(retried[0]) > 1 and retried[1:] == [["005.png"]]
    assert log()[-1]["output"] == "005_denoised.png" or any(
        line["output"] == "005_denoised.png" and line.get("code") == 6 for line in log()
    )
    assert run([*COMMAND, "--resume", "-q"]) == 0 and len(results()) == 24


def test_what_a_dead_worker_only_held_is_not_blamed() -> None:
    """One worker, which dies twice while another picture waits in it: that one has lost no chance."""
    pictures(6)
    pool = FakePool(
        room=1, dies=lambda method, names, worker: "before" if method == "finish" and "000.png" in names else ""
    )
    events = list(happening(pool, tile="64"))
    assert [event.item.source.name for event in events if isinstance(event, Failed)] == ["000.png"]
    assert Counter(name for _, names in pool.given for name in names) == {
        "000.png": 2, "002.png": 2, **{f"{i:03}.png": 1 for i in (1, 3, 4, 5)}
    }  # fmt: skip


def test_workers_that_die_as_they_start_end_the_run() -> None:
    pictures(5)
    pool = FakePool(room=2, dies=lambda method, names, worker: "before" if method == "start" else "")
    with pytest.raises(DeviceError, match="3 workers one after the other died as they started: it was killed"):
        list(happening(pool))
    assert pool.is_closed and results() == {} and others() == []


def test_workers_that_die_as_they_start_do_not_end_the_work_of_others() -> None:
    pictures(12)
    pool = FakePool(room=3, dies=lambda method, names, worker: "before" if method == "start" and worker > 1 else "")
    events = list(happening(pool, tile="64"))
    assert isinstance(events[-1], Finished) and events[-1].ok == 12 and pool.started <= 5


def test_a_machine_that_cannot_work_ends_the_run_and_is_named() -> None:
    """The results of the others are whole and in the log, and no probe stays."""
    pictures(30)
    dead = list[int]()

    def dies(method: str, names: list[str], worker: int) -> str:
        if method == "finish" and "008.png" in names and not dead:
            dead.append(worker)
            return "before"
        return ""

    pool = FakePool(room=2, dies=dies)
    pool.refuses[3] = on_node(PictureError("the folder out does not exist", "mount it"), "gpu7 (10.0.0.7)")
    with pytest.raises(PictureError, match=r"node gpu7 \(10\.0\.0\.7\): the folder out does not exist"):
        list(happening(pool, tile="64"))
    assert pool.is_closed and others() == [] and 0 < len(results()) < 30
    assert set(results()) == {line["output"] for line in log() if line.get("status") == "ok"}


def test_who_interrupts_a_run_leaves_nothing_incomplete() -> None:
    pictures(20)

    def dies(method: str, names: list[str], worker: int) -> str:
        if method == "finish" and "008.png" in names:
            Path("out", f".{pool.workers[worker][0]}99999999.partial").write_bytes(b"half")
            raise KeyboardInterrupt
        return ""

    pool = FakePool(dies=dies)
    Path("out").mkdir()
    Path("out", ".aaaaaaaabbbbbbbb.partial").write_bytes(b"of an earlier run")
    with pytest.raises(KeyboardInterrupt):
        list(happening(pool, tile="64"))
    assert others() == [] and pool.is_closed and 0 < len(results()) < 20
    assert run([*COMMAND, "--resume", "-q"]) == 0 and len(results()) == 20


@pytest.mark.parametrize("first", ["cluster", "one machine"])
def test_either_continues_what_the_other_has_begun(first: str) -> None:
    """Closed in the middle: what is done is not done again, and a result of the user is never replaced."""
    pictures(30, bad=[5])
    Path("out").mkdir()
    Path("out/006_denoised.png").write_bytes(b"of the user")
    if first == "cluster":
        events = happening(FakePool(), tile="64")
        for event in events:
            if isinstance(event, Done) and len(results()) > 8:
                break
        events.close()  # type: ignore[attr-defined]
        before = results()
        assert 1 < len(before) < 30
        assert run([*COMMAND, "--resume", "-q", "--tile", "64"]) == 3
    else:
        assert run([*COMMAND, "-q", "--tile", "64", "--limit", "9"]) == 3
        before = results()
        finished = list(happening(FakePool(), resume=True, tile="64"))[-1]
        assert isinstance(finished, Finished) and (finished.failed, finished.skipped) == (2, len(before) - 1)
    assert {name: results()[name] for name in before} == before and len(results()) == 29
    assert Path("out/006_denoised.png").read_bytes() == b"of the user"
    for name, lines in by_output(log()).items():
        expected = name not in ("005_denoised.png", "006_denoised.png")
        assert sum(line.get("status") == "ok" for line in lines) == expected


def test_what_is_replaced_in_place_is_not_done_twice() -> None:
    """The worker dies after it has replaced the picture, and nobody knows."""
    paths = pictures(5)
    dead = list[int]()

    def dies(method: str, names: list[str], worker: int) -> str:
        if method == "finish" and "002.png" in names and not dead:
            dead.append(worker)
            return "after"
        return ""

    shutil.copytree("in", "originals")
    events = list(happening(FakePool(dies=dies), output=None, in_place=True, backup=".orig"))
    assert isinstance(events[-1], Finished)
    assert (events[-1].ok + events[-1].skipped, events[-1].failed, len(dead)) == (5, 0, 1)
    once = [path.read_bytes() for path in paths]
    shutil.rmtree("in")
    shutil.copytree("originals", "in")
    assert run(["denoise", "in", "-r", "--in-place", "--sigma", "10", "--steps", "2", "-q"]) == 0
    assert [path.read_bytes() for path in paths] == once or dead  # a batch that was divided rounds otherwise


def test_every_verb_travels() -> None:
    """What a worker is told can be sent to another process, for each verb with options of its own."""
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    pictures(1)
    Path("m.png").write_bytes(Path("in/000.png").read_bytes())
    own: dict[str, dict[str, Any]] = {
        "denoise": {"strength": 1.2}, "dejpeg": {}, "deblur": {"gaussian": 1.0}, "upscale": {"scale": 2.0},
        "inpaint": {"mask": Path("m.png")}, "auto": {"scale": 2.0, "no_noise": True},
    }  # fmt: skip
    for task, options in own.items():
        common = {name: value for name, value in GIVEN.items() if name not in ("sigma", "steps")}
        chosen = parse(OPTIONS[task], **common, **options)
        sent = Briefing(chosen, VERBS[task](chosen), models_load.look_up, Path.cwd(), (), (), True, "")
        received = cloudpickle.loads(cloudpickle.dumps(sent))
        assert received.options == chosen and received.verb.tag == sent.verb.tag


# ----------------------------------------------------------------------------------------------- what workers check


def test_a_probe_tells_whether_the_folder_is_the_same(tmp_path: Path) -> None:
    probe = Probe(tmp_path / "a" / ".0011223344556677.partial", b"secret")
    with pytest.raises(PictureError, match="a does not exist as on the machine of the command"):
        probe.check(0)
    probe.path.parent.mkdir()
    with pytest.raises(PictureError, match="a is not the same folder as"):
        probe.check(0)
    probe.path.write_bytes(b"secret")
    probe.check(0)
    probe.path.write_bytes(b"another")
    with pytest.raises(PictureError, match="is not the same folder"):
        probe.check(0)


def test_a_glimpse_tells_whether_a_picture_is_the_same() -> None:
    (path,) = pictures(1)
    glimpse = Glimpse.of(path)
    glimpse.check()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(PictureError, match="not the same file"):
        glimpse.check()
    path.unlink()
    with pytest.raises(PictureError, match="No such file"):
        glimpse.check()


def test_different_versions_are_named() -> None:
    check_versions(versions(), versions())
    assert set(versions()) == {"Python", "restorer", "PyTorch"}
    with pytest.raises(DeviceError, match=r"restorer 0\.2 instead of 0\.1, PyTorch is missing instead of 2$"):
        check_versions({"Python": "3", "restorer": "0.2"}, {"Python": "3", "restorer": "0.1", "PyTorch": "2"})


@pytest.mark.parametrize("what", ["place", "model"])
def test_a_worker_refuses_another_place_and_another_model(what: str) -> None:
    pictures(1)
    chosen = parse(Denoise, **GIVEN)
    model = models_load.look_up("photo")
    briefing = Briefing(chosen, denoising(chosen), lambda options: model, Path.cwd(), (), (), True, model.sha256)
    briefing.enter()
    assert briefing.load() is model
    with pytest.raises((PictureError, ModelError), match=r"cannot be entered|is not the same"):
        Worker(replace(briefing, **{what: Path("nowhere") if what == "place" else "0" * 64}), "0123abcd")


def test_workers_of_one_machine_share_its_memory() -> None:
    whole = memory.available()
    memory.share_memory(4)
    assert whole is None or memory.available() < 0.3 * whole  # type: ignore[operator]


def test_the_files_of_one_owner_are_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="eight hexadecimal digits"):
        partials.set_owner("x")
    partials.set_owner(owner := partials.new_owner())
    mine, foreign = tmp_path / partials.partial_name(), tmp_path / f".{'0' * 16}.partial"
    assert mine.name.startswith(f".{owner}") and len(mine.name) == len(foreign.name)
    for path in (mine, foreign):
        path.write_bytes(b"")
    partials.remove_partials(owner, [tmp_path, tmp_path / "nowhere"])
    assert foreign.exists() and not mine.exists()


# ------------------------------------------------------------------------------------------------- options and errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "2"], "--workers needs --cluster"),
        (["--cluster", "host:6379"], "auto, local or ray://HOST:PORT"),
        (["--cluster", "ray://host"], "auto, local or ray://HOST:PORT"),
        (["--cluster", "auto", "--workers", "0"], "at least 1"),
        (["--cluster", "auto", "--show"], "--show"),
        (["--cluster", "auto", "--device", "cuda:1"], "--device cuda:1"),
        (["--cluster", "auto", "--device", "mps"], "--device mps"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(1)
    assert run(["denoise", "in", "-r", "-o", "out", *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.split()) and not Path("out").exists()


def test_pipes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    pictures(1)
    assert run(["denoise", "in/000.png", "-o", "-", "--cluster", "auto"]) == 2
    assert "a pipe is neither" in capsys.readouterr().err
    with pytest.raises(UsageError, match="workers"):
        restore_folder("in", "denoise", cluster="auto", workers="many")


def test_the_extra_is_named_if_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(1)
    monkeypatch.setattr(ray_pool, "find_spec", lambda name: None)
    assert run([*COMMAND, "--cluster", "local"]) == 2
    assert "pip install 'restorer[ray]'" in capsys.readouterr().err
    monkeypatch.setattr(ray_pool, "find_spec", lambda name: name == "ray" or None)
    assert run([*COMMAND, "--cluster", "ray://127.0.0.1:10001"]) == 2
    assert "grpcio" in capsys.readouterr().err


def test_an_address_where_nothing_listens_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(1)
    monkeypatch.setattr(ray_pool, "find_spec", lambda name: True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{free.getsockname()[1]}"
    assert run([*COMMAND, "--cluster", address]) == 6
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: the Ray cluster at {address} cannot be reached: ") and "10001" in hint
    assert others() == []


def test_a_folder_that_is_not_writable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(2)
    pool = FakePool()
    monkeypatch.setattr(Path, "write_bytes", lambda *arguments: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(OutputError, match="not writable: denied"):
        list(happening(pool))
    assert pool.is_closed and pool.started == 0


def test_who_waits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster without room: the run says once that no worker could begin, and goes on when one can."""
    pictures(2)
    monkeypatch.setattr(cluster, "PATIENCE", 0.0)
    pool = FakePool(room=1)
    wait, empty = pool.wait, [[], [], []]  # nothing arrives three times
    monkeypatch.setattr(pool, "wait", lambda seconds: empty.pop() if empty else wait(seconds))
    events = list(happening(pool))
    assert sum("no worker could begin" in event.text for event in events if isinstance(event, Noted)) == 1
    assert isinstance(events[-1], Finished) and events[-1].ok == 2
    assert sum(isinstance(event, Opened) for event in events) == 1
