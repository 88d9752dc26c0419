"""Reading ahead and writing behind: what goes on beside the network, and that nothing but the time depends on it.

No test looks at the clock: where two things are to go on at once, each waits for the other to begin.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stubs import Wrapper, Smooth
from torch import Tensor

from restorer.cli.app import run
from restorer.diffusion.prior import Prediction
from restorer.folders import picture as picture_at_work
from restorer.folders.manifest import MANIFEST
from restorer.folders.overlap import ReadAhead, WriteBehind
from restorer.images import reading, writing
from restorer.machine import memory
from restorer.models import load as models_load
from restorer.tasks import batching

SOON = 60.0  # seconds after which what ought to happen is taken for lost


def met(event: threading.Event) -> None:
    assert event.wait(SOON)


# ------------------------------------------------------------------------------------------------------------- ReadAhead


def ahead(
    things: list[int], seen: list[int] | None = None, weight: float = 0.4, may: Callable[[int], bool] = lambda n: True
) -> ReadAhead[int, int]:
    def read(thing: int) -> int:
        if seen is not None:
            seen.append(thing)
        return 10 * thing

    return ReadAhead(things, read, may, lambda _: weight)


def test_what_is_read_comes_in_order_and_once() -> None:
    seen: list[int] = []
    with ahead([1, 2, 3, 4, 5, 6, 7], seen) as line:
        got = [line.take()]
        assert not line.is_next_ready
        for _ in range(6):
            line.prefetch()
            got.append(line.take())
    assert got == [10, 20, 30, 40, 50, 60, 70] and seen == [1, 2, 3, 4, 5, 6, 7]


def test_no_more_is_read_ahead_than_is_worth_having() -> None:
    """0.4 + 0.4 is less than a whole, with another 0.4 it is not; a whole is enough by itself."""
    for weight, count in ((0.4, 3), (0.5, 2), (1.0, 1), (0.0, 9)):
        seen: list[int] = []
        with ahead(list(range(9)), seen, weight) as line:
            for _ in range(3):  # what is there already counts
                line.prefetch()
                assert line.is_next_ready
            assert len(seen) == count


def test_what_may_not_be_read_ahead_is_read_in_its_turn_by_who_takes_it() -> None:
    """And what comes after it is not read before it."""
    threads: list[str] = []

    def read(thing: int) -> int:
        threads.append(threading.current_thread().name.split("_")[0])
        return thing

    with ReadAhead([1, 2, 3, 4], read, lambda thing: thing != 2, lambda _: 0.1) as line:
        line.prefetch()
        assert line.take() == 1 and not line.is_next_ready
        line.prefetch()
        assert not line.is_next_ready and line.take() == 2
        line.prefetch()
        assert line.is_next_ready and [line.take(), line.take()] == [3, 4]
    assert threads == ["restorer-ahead", "MainThread", "restorer-ahead", "restorer-ahead"]


def test_what_cannot_be_read_ahead_fails_in_its_turn_or_not_at_all() -> None:
    """A lack of memory may be over by then."""
    tries: list[int] = []

    def read(thing: int) -> int:
        tries.append(thing)
        if thing == 2 or (thing == 3 and threading.current_thread() is not threading.main_thread()):
            raise MemoryError
        return thing

    with ReadAhead([1, 2, 3], read, lambda _: True, lambda _: 0.1) as line:
        line.prefetch()
        assert line.take() == 1
        with pytest.raises(MemoryError):
            line.take()
        line.prefetch()
        assert line.take() == 3
    assert tries == [1, 2, 2, 3, 3]


def test_reading_goes_on_beside_something_else_and_ends_with_it() -> None:
    began, go_on, seen = threading.Event(), threading.Event(), list[int]()

    def read(thing: int) -> int:
        began.set()
        met(go_on)
        seen.append(thing)
        return thing

    with ReadAhead([1, 2, 3], read, lambda _: True, lambda _: 0.1) as line:
        line.prefetch()
        met(began)
        line._closed = True  # as on the way out, while this one is still being read
        go_on.set()
    assert seen == [1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("restorer-")]


# ------------------------------------------------------------------------------------------------------------ WriteBehind


def test_what_is_done_behind_is_done_in_order() -> None:
    done, go_on = list[str](), threading.Event()
    with WriteBehind() as behind:
        behind.run_or_submit(lambda: done.append("at once"))
        assert behind.is_idle and done == ["at once"]
        behind.submit(lambda: met(go_on))
        behind.submit(lambda: done.append("first"))
        behind.run_or_submit(lambda: done.append("second"))
        assert not behind.is_idle and done == ["at once"]
        go_on.set()
        behind.wait()
        assert behind.is_idle and done == ["at once", "first", "second"]
        behind.submit(lambda: done.append("third"))
    assert done[-1] == "third"


def test_after_the_first_failure_nothing_is_done_and_it_is_told() -> None:
    done, go_on = list[int](), threading.Event()

    def fail() -> None:
        met(go_on)
        raise SystemExit(7)

    with pytest.raises(SystemExit, match="7"), WriteBehind() as behind:
        behind.submit(fail)
        behind.submit(lambda: done.append(1))
        behind.run_or_submit(lambda: done.append(2))
        go_on.set()
    with pytest.raises(ValueError, match="told at once"), WriteBehind() as behind:
        behind.submit(lambda: int("told at once"))
        behind.wait()
    assert done == []


def test_an_interruption_ends_what_is_being_done_and_drops_what_waits() -> None:
    done, began, go_on = list[int](), threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        met(go_on)
        done.append(1)

    with pytest.raises(KeyboardInterrupt), WriteBehind() as behind:
        behind.submit(slow)
        behind.submit(lambda: done.append(2))
        met(began)
        waiting = behind._futures[1]
        waiting.add_done_callback(lambda _: go_on.set())  # it is dropped before the first one ends
        raise KeyboardInterrupt
    assert done == [1]
    with pytest.raises(CancelledError):
        waiting.result()


def test_without_a_thread() -> None:
    threads: list[threading.Thread] = []
    with WriteBehind(synchronous=True) as behind:
        behind.submit(lambda: threads.append(threading.current_thread()))
        behind.run_or_submit(lambda: threads.append(threading.current_thread()))
    assert threads == 2 * [threading.main_thread()]


# ----------------------------------------------------------------------------------------------------- whole commands


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    return tmp_path


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture of 12x14 pixels is a batch of its own."""
    monkeypatch.setattr("restorer.tasks.batching.MAX_PIXELS", {"cpu": 168})


Restore = Callable[..., tuple[int, str, str]]


@pytest.fixture
def restore(capsys: pytest.CaptureFixture[str]) -> Restore:
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return run(list(arguments)), *capsys.readouterr()

    return call


def pictures(count: int, side: int = 12, suffix: str = "png") -> list[Path]:
    Path("in").mkdir(exist_ok=True)
    paths = [Path("in", f"{i}.{suffix}") for i in range(count)]
    for i, path in enumerate(paths):
        pixels = np.random.default_rng(i).integers(60, 196, (side, side + 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def made() -> list[str]:
    return sorted(path.name[0] for path in Path("out").iterdir() if not path.name.startswith(MANIFEST))


def events() -> list[tuple[str, str]]:
    """(b for begun, o for ok or f for failed, picture) for each line of the log."""
    lines = [json.loads(line) for line in Path("out", MANIFEST).read_text().splitlines()]
    return [(str(line.get("status", "begun"))[0], line["output"][0]) for line in lines]


def about(err: str) -> list[tuple[str, str]]:
    """(first word, picture) for each message but the progress, which must not come before the picture's first."""
    found: list[tuple[str, str]] = []
    for line in err.splitlines():
        if match := re.match(r"(?:(denoise|wrote|error:) (?:in/|out/)?)?(\d)(?:_denoised)?\.png", line):
            word, name = match.groups()
            assert word or found[-1] == ("denoise", name), err
            found += [(word, name)] if word else []
    return found


def before_each(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[..., None]) -> None:
    """Something happens before every call of a function."""
    usual = getattr(module, name)

    def called(*arguments: Any, **named: Any) -> Any:
        act(*arguments)
        return usual(*arguments, **named)

    monkeypatch.setattr(module, name, called)


class Held(Wrapper):
    """At evaluation number `at`, from 1, calls `act`."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        super().__init__(Smooth())
        self.at, self.act, self.count = at, act, 0

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        self.count += 1
        if self.count == self.at:
            self.act()
        return super().predict(x, sigma)


def hold(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> None:
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Held(at, act))


RUN = ("denoise", "in", "-r", "-o", "out", "--sigma", "10", "--steps", "2")


@pytest.mark.usefixtures("alone")
def test_the_next_picture_is_read_while_the_network_is_at_work(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network waits in its first evaluation until the second picture is read, and nothing is said of that yet."""
    pictures(3)
    was_read, begun = threading.Event(), list[tuple[str, str]]()

    def decided(item: Any, *_: Any) -> None:
        if item.source.name == "1.png":
            was_read.set()

    def act() -> None:
        met(was_read)
        begun.extend(events())

    before_each(monkeypatch, picture_at_work, "PreparedPicture", decided)
    hold(monkeypatch, 1, act)
    code, _, err = restore(*RUN)
    assert code == 0 and made() == ["0", "1", "2"]
    assert begun == [("b", "0")]
    assert about(err) == [(word, name) for name in "012" for word in ("denoise", "wrote")]


@pytest.mark.usefixtures("alone")
def test_a_result_is_written_while_the_network_is_at_work(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first waits to be written until the network sees the second: whose messages, and whose line, wait for it."""
    pictures(3)
    at_work = threading.Event()
    before_each(monkeypatch, writing, "_write", lambda data, target, _: met(at_work))
    hold(monkeypatch, 3, at_work.set)  # of two evaluations each
    code, out, err = restore(*RUN, "--json")
    assert code == 0 and made() == ["0", "1", "2"]
    assert events() == [(what, name) for name in "012" for what in "bo"]
    assert [json.loads(line)["output"][4] for line in out.splitlines()[:-1]] == ["0", "1", "2"]
    assert about(err) == [(word, name) for name in "012" for word in ("denoise", "wrote")]


def test_batches_are_read_ahead_as_far_as_the_next_one_goes(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of pictures of which sixteen share a batch, sixteen and one in hand; beyond that none."""
    Path("in").mkdir()
    for i in range(50):
        Image.new("RGB", (9, 9), (i, 99, 99)).save(f"in/{i:02}.png")
    read, most = list[str](), list[int]()
    full = threading.Event()

    def decided(item: Any, *_: Any) -> None:
        read.append(item.source.name)
        if len(read) == 32:
            full.set()

    before_each(monkeypatch, picture_at_work, "PreparedPicture", decided)
    hold(monkeypatch, 1, lambda: (met(full), most.append(len(read)))[0])
    assert restore(*RUN)[0] == 0
    assert most == [32] and read == [f"{i:02}.png" for i in range(50)]


@pytest.mark.parametrize("reason", ["large", "large file", "tiff", "memory"])
@pytest.mark.usefixtures("alone")
def test_what_is_not_read_beside_others(reason: str, restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large picture, a TIFF, any where memory is short: read and written with nothing beside it, in one thread."""
    pictures(3, suffix="tif" if reason == "tiff" else "png")
    if reason == "large":
        monkeypatch.setattr("restorer.tasks.batching.MAX_PIXELS", {"cpu": 167})
    elif reason == "large file":
        monkeypatch.setattr(picture_at_work, "FILE_BYTES_PER_PIXEL", 1)
    elif reason == "memory":
        monkeypatch.setattr(memory, "available", lambda *_: memory.estimate_memory(12 * 14) - 1)
    reading_in, writing_in = list[threading.Thread](), list[threading.Thread]()
    before_each(monkeypatch, reading, "_decode", lambda *_: reading_in.append(threading.current_thread()))
    before_each(monkeypatch, writing, "_write", lambda *_: writing_in.append(threading.current_thread()))
    done: list[list[str]] = []
    before_each(monkeypatch, picture_at_work, "PreparedPicture", lambda *_: done.append(made() if Path("out").exists() else []))
    assert restore(*RUN)[0] == 0 and made() == ["0", "1", "2"]
    assert set(reading_in) == {threading.main_thread()}
    assert done == [[], ["0"], ["0", "1"]]
    assert reason != "large" or set(writing_in) == {threading.main_thread()}


def test_masks_are_looked_at_as_well(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that is a TIFF: nothing is read while others may talk to the standard error."""
    pictures(3)
    Image.fromarray(np.pad(np.full((3, 3), 255, np.uint8), ((4, 5), (4, 7)))).save("m.tif")
    threads: list[threading.Thread] = []
    before_each(monkeypatch, reading, "_decode", lambda *_: threads.append(threading.current_thread()))
    assert restore("inpaint", "in", "-r", "--mask", "m.tif", "-o", "out", "--steps", "2")[0] == 0
    assert set(threads) == {threading.main_thread()}


def test_a_single_picture_takes_no_threads(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(1)
    began: list[str] = []
    before_each(monkeypatch, threading.Thread, "start", lambda thread: began.append(thread.name))
    assert restore("denoise", "in/0.png", "-o", "out/", "--sigma", "10")[0] == 0
    assert not [name for name in began if name.startswith("restorer")]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("options", [["--fail-fast"], ["--limit", "2"]], ids=" ".join)
def test_what_is_read_ahead_and_not_wanted_leaves_no_trace(
    options: list[str], restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second picture cannot be written; the third lies in the memory by then."""
    pictures(4)
    Path("out").mkdir()
    usual, count = writing._write_synced, list[Path]()

    def refused(data: bytes, path: Path) -> None:
        count.append(path)
        if len(count) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        usual(data, path)

    monkeypatch.setattr(writing, "_write_synced", refused)
    code, out, err = restore(*RUN, "--json", *options)
    told = [(line.get("status"), line.get("input")) for line in map(json.loads, out.splitlines())][:-1]
    first = [("ok", "in/0.png"), ("failed", "in/1.png")]
    assert code == 3
    if options == ["--fail-fast"]:
        assert told == first and made() == ["0"] and "2.png" not in err
        assert events() == [("b", "0"), ("o", "0"), ("b", "1"), ("f", "1")]
    else:  # at most two, and one of them failed: the next makes up for it
        assert told == [*first, ("ok", "in/2.png")] and made() == ["0", "2"] and "3.png" not in err


def test_a_failure_of_a_batch_stops_before_the_picture_in_hand(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of 168 pixels share a batch; the fourth, which was read to see that, is not begun after a failure."""
    pictures(5)
    monkeypatch.setattr("restorer.tasks.batching.MAX_PIXELS", {"cpu": 588})
    monkeypatch.setattr(writing, "_write_synced", lambda data, path: Path("absent/x").write_bytes(data))
    code, _, err = restore(*RUN, "--fail-fast")
    assert code == 7 and err.count("error: ") == 1 and "3.png" not in err
    assert events() == [("b", "0"), ("b", "1"), ("b", "2"), ("f", "0")]


@pytest.mark.usefixtures("alone")
def test_a_failure_that_is_read_ahead_is_told_in_its_turn(restore: Restore) -> None:
    paths = pictures(4)
    paths[1].write_bytes(b"no picture")
    code, out, err = restore(*RUN, "--json")
    lines = [json.loads(line) for line in out.splitlines()][:-1]
    assert code == 3 and [(line["status"], line["input"][3]) for line in lines] == [
        ("ok", "0"), ("failed", "1"), ("ok", "2"), ("ok", "3")
    ]  # fmt: skip
    assert err.count("in/1.png") == 1
    assert events() == [("b", "0"), ("o", "0"), ("f", "1"), ("b", "2"), ("o", "2"), ("b", "3"), ("o", "3")]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("module", "name"), [(batching, "batch_share"), (writing, "_write")], ids=["reading", "writing"])
def test_a_bug_in_a_thread_is_told_as_ever(
    module: Any, name: str, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second picture; the first is done, of the third nothing is left."""
    pictures(3)
    threads: list[str] = []

    def act(*_: Any) -> None:
        threads.append(threading.current_thread().name.split("_")[0])
        if len(threads) >= 2:
            raise ZeroDivisionError("a mistake")

    before_each(monkeypatch, module, name, act)
    code, _, err = restore(*RUN)
    assert code == 1 and "ZeroDivisionError: a mistake" in err and "a bug" in err
    assert made() == ["0"]
    if module is writing:
        assert threads == 2 * ["restorer-behind"] and events() == [("b", "0"), ("o", "0"), ("b", "1")]
    else:  # once more in its turn
        assert threads == ["MainThread", "restorer-ahead", "MainThread"] and events() == [("b", "0"), ("o", "0")]


@pytest.mark.usefixtures("alone")
def test_an_interruption_while_three_pictures_are_at_work(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One being written, one being sampled, one being read: the first is ended, of the others nothing is left."""
    pictures(5)
    read, stopped = threading.Event(), threading.Event()

    def decided(item: Any, *_: Any) -> None:
        if item.source.name == "2.png":
            read.set()

    def interrupt() -> None:
        met(read)
        stopped.set()
        raise KeyboardInterrupt

    before_each(monkeypatch, picture_at_work, "PreparedPicture", decided)
    before_each(monkeypatch, writing, "_write", lambda data, target, _: met(stopped))
    hold(monkeypatch, 3, interrupt)
    code, _, err = restore(*RUN)
    assert code == 130 and err.splitlines()[-1] == "interrupted" and "wrote out/0_denoised.png" in err
    assert made() == ["0"] and events() in ([("b", "0"), ("o", "0")], [("b", "0"), ("o", "0"), ("b", "1")])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("restorer-")]


@pytest.mark.usefixtures("alone")
def test_results_are_those_of_single_runs(restore: Restore) -> None:
    paths = pictures(3)
    assert restore(*RUN)[0] == 0
    for path in paths:
        assert restore("denoise", str(path), "-o", "one.png", *RUN[5:], "--overwrite")[0] == 0
        assert Path("one.png").read_bytes() == Path("out", f"{path.stem}_denoised.png").read_bytes()
