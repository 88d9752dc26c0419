"""Reading ahead and writing behind: the work in parallel with the network, which may change nothing but the time.

No test looks at the clock: if two things must happen at the same time, each waits for the other to begin.
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
from stubs import Smooth, Wrapper
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

TIMEOUT = 60.0  # seconds after which an expected event counts as missing


def wait_for(event: threading.Event) -> None:
    assert event.wait(TIMEOUT)


# --------------------------------------------------------------------------------------------------------- ReadAhead


def make_reader(
    items: list[int],
    read_items: list[int] | None = None,
    weight: float = 0.4,
    may_prefetch: Callable[[int], bool] = lambda n: True,
) -> ReadAhead[int, int]:
    def read(item: int) -> int:
        if read_items is not None:
            read_items.append(item)
        return 10 * item

    return ReadAhead(items, read, may_prefetch, lambda _: weight)


def test_what_is_read_comes_in_order_and_once() -> None:
    read_items: list[int] = []
    with make_reader([1, 2, 3, 4, 5, 6, 7], read_items) as reader:
        got = [reader.take()]
        assert not reader.is_next_ready
        for _ in range(6):
            reader.prefetch()
            got.append(reader.take())
    assert got == [10, 20, 30, 40, 50, 60, 70] and read_items == [1, 2, 3, 4, 5, 6, 7]


def test_no_more_is_read_ahead_than_is_worth_having() -> None:
    """Items are prefetched until their weights add up to 1: three of 0.4, or a single one of 1."""
    for weight, count in ((0.4, 3), (0.5, 2), (1.0, 1), (0.0, 9)):
        read_items: list[int] = []
        with make_reader(list(range(9)), read_items, weight) as reader:
            for _ in range(3):  # the waiting values count as well
                reader.prefetch()
                assert reader.is_next_ready
            assert len(read_items) == count


def test_what_may_not_be_read_ahead_is_read_in_its_turn_by_who_takes_it() -> None:
    """The items after it are not read before it."""
    threads: list[str] = []

    def read(item: int) -> int:
        threads.append(threading.current_thread().name.split("_")[0])
        return item

    with ReadAhead([1, 2, 3, 4], read, lambda item: item != 2, lambda _: 0.1) as reader:
        reader.prefetch()
        assert reader.take() == 1 and not reader.is_next_ready
        reader.prefetch()
        assert not reader.is_next_ready and reader.take() == 2
        reader.prefetch()
        assert reader.is_next_ready and [reader.take(), reader.take()] == [3, 4]
    assert threads == ["restorer-ahead", "MainThread", "restorer-ahead", "restorer-ahead"]


def test_what_cannot_be_read_ahead_fails_in_its_turn_or_not_at_all() -> None:
    """The item is read again when it is taken, because a lack of memory may be over by then."""
    tries: list[int] = []

    def read(item: int) -> int:
        tries.append(item)
        if item == 2 or (item == 3 and threading.current_thread() is not threading.main_thread()):
            raise MemoryError
        return item

    with ReadAhead([1, 2, 3], read, lambda _: True, lambda _: 0.1) as reader:
        reader.prefetch()
        assert reader.take() == 1
        with pytest.raises(MemoryError):
            reader.take()
        reader.prefetch()
        assert reader.take() == 3
    assert tries == [1, 2, 2, 3, 3]


def test_reading_goes_on_beside_something_else_and_ends_with_it() -> None:
    started, proceed, read_items = threading.Event(), threading.Event(), list[int]()

    def read(item: int) -> int:
        started.set()
        wait_for(proceed)
        read_items.append(item)
        return item

    with ReadAhead([1, 2, 3], read, lambda _: True, lambda _: 0.1) as reader:
        reader.prefetch()
        wait_for(started)
        reader._closed = True  # as on leaving the context, while this item is still being read
        proceed.set()
    assert read_items == [1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("restorer-")]


# ------------------------------------------------------------------------------------------------------- WriteBehind


def test_what_is_done_behind_is_done_in_order() -> None:
    done, proceed = list[str](), threading.Event()
    with WriteBehind() as behind:
        behind.run_or_submit(lambda: done.append("at once"))
        assert behind.is_idle and done == ["at once"]
        behind.submit(lambda: wait_for(proceed))
        behind.submit(lambda: done.append("first"))
        behind.run_or_submit(lambda: done.append("second"))
        assert not behind.is_idle and done == ["at once"]
        proceed.set()
        behind.wait()
        assert behind.is_idle and done == ["at once", "first", "second"]
        behind.submit(lambda: done.append("third"))
    assert done[-1] == "third"


def test_after_the_first_failure_nothing_is_done_and_it_is_told() -> None:
    done, proceed = list[int](), threading.Event()

    def fail() -> None:
        wait_for(proceed)
        raise SystemExit(7)

    with pytest.raises(SystemExit, match="7"), WriteBehind() as behind:
        behind.submit(fail)
        behind.submit(lambda: done.append(1))
        behind.run_or_submit(lambda: done.append(2))
        proceed.set()
    with pytest.raises(ValueError, match="not a number"), WriteBehind() as behind:
        behind.submit(lambda: int("not a number"))
        behind.wait()
    assert done == []


def test_an_interruption_ends_what_is_being_done_and_drops_what_waits() -> None:
    done, started, proceed = list[int](), threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        wait_for(proceed)
        done.append(1)

    with pytest.raises(KeyboardInterrupt), WriteBehind() as behind:
        behind.submit(slow)
        behind.submit(lambda: done.append(2))
        wait_for(started)
        waiting = behind._futures[1]
        waiting.add_done_callback(lambda _: proceed.set())  # the second task is dropped before the first one ends
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
    """Work in an empty folder, with a cheap prior in place of the embedded one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Smooth())
    return tmp_path


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every picture of 12x14 pixels a batch of its own."""
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


def results() -> list[str]:
    """Return the first characters of the names of the results."""
    return sorted(path.name[0] for path in Path("out").iterdir() if not path.name.startswith(MANIFEST))


def events() -> list[tuple[str, str]]:
    """Return (b for begun, o for ok or f for failed, picture) for each line of the log."""
    lines = [json.loads(line) for line in Path("out", MANIFEST).read_text().splitlines()]
    return [(str(line.get("status", "begun"))[0], line["output"][0]) for line in lines]


def messages(err: str) -> list[tuple[str, str]]:
    """Return (first word, picture) for each message except progress.

    Progress must not appear before the first message of its picture.
    """
    found: list[tuple[str, str]] = []
    for line in err.splitlines():
        if match := re.match(r"(?:(denoise|wrote|error:) (?:in/|out/)?)?(\d)(?:_denoised)?\.png", line):
            word, name = match.groups()
            assert word or found[-1] == ("denoise", name), err
            found += [(word, name)] if word else []
    return found


def before_each(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[..., None]) -> None:
    """Call `act` before every call of a function."""
    original = getattr(module, name)

    def called(*arguments: Any, **named: Any) -> Any:
        act(*arguments)
        return original(*arguments, **named)

    monkeypatch.setattr(module, name, called)


class Held(Wrapper):
    """A prior that calls `act` at evaluation number `at`, counted from 1."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        super().__init__(Smooth())
        self.at, self.act, self.count = at, act, 0

    def predict(self, x: Tensor, sigma: float | Tensor, condition: Tensor | None = None) -> Prediction:
        self.count += 1
        if self.count == self.at:
            self.act()
        return super().predict(x, sigma)


def at_evaluation(monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> None:
    """Call `act` at evaluation number `at`, counted from 1."""
    monkeypatch.setattr(models_load, "load_prior", lambda *arguments: Held(at, act))


RUN = ("denoise", "in", "-r", "-o", "out", "--sigma", "10", "--steps", "2")


@pytest.mark.usefixtures("alone")
def test_the_next_picture_is_read_while_the_network_is_at_work(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network waits in its first evaluation until the second picture is read, which is not reported yet."""
    pictures(3)
    was_read, begun = threading.Event(), list[tuple[str, str]]()

    def on_prepared(item: Any, *_: Any) -> None:
        if item.source.name == "1.png":
            was_read.set()

    def act() -> None:
        wait_for(was_read)
        begun.extend(events())

    before_each(monkeypatch, picture_at_work, "PreparedPicture", on_prepared)
    at_evaluation(monkeypatch, 1, act)
    code, _, err = restore(*RUN)
    assert code == 0 and results() == ["0", "1", "2"]
    assert begun == [("b", "0")]
    assert messages(err) == [(word, name) for name in "012" for word in ("denoise", "wrote")]


@pytest.mark.usefixtures("alone")
def test_a_result_is_written_while_the_network_is_at_work(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first result is written only while the network processes the second picture.

    The messages and the log line of the second picture wait until then.
    """
    pictures(3)
    at_work = threading.Event()
    before_each(monkeypatch, writing, "_write", lambda data, target, _: wait_for(at_work))
    at_evaluation(monkeypatch, 3, at_work.set)  # each picture takes two evaluations
    code, out, err = restore(*RUN, "--json")
    assert code == 0 and results() == ["0", "1", "2"]
    assert events() == [(what, name) for name in "012" for what in "bo"]
    assert [json.loads(line)["output"][4] for line in out.splitlines()[:-1]] == ["0", "1", "2"]
    assert messages(err) == [(word, name) for name in "012" for word in ("denoise", "wrote")]


def test_batches_are_read_ahead_as_far_as_the_next_one_goes(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If sixteen pictures share a batch, the next sixteen are read during the first batch, and no more."""
    Path("in").mkdir()
    for i in range(50):
        Image.new("RGB", (9, 9), (i, 99, 99)).save(f"in/{i:02}.png")
    read, most = list[str](), list[int]()
    full = threading.Event()

    def on_prepared(item: Any, *_: Any) -> None:
        read.append(item.source.name)
        if len(read) == 32:
            full.set()

    before_each(monkeypatch, picture_at_work, "PreparedPicture", on_prepared)
    at_evaluation(monkeypatch, 1, lambda: (wait_for(full), most.append(len(read)))[0])
    assert restore(*RUN)[0] == 0
    assert most == [32] and read == [f"{i:02}.png" for i in range(50)]


@pytest.mark.parametrize("reason", ["large", "large file", "tiff", "memory"])
@pytest.mark.usefixtures("alone")
def test_what_is_not_read_beside_others(reason: str, restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pictures and TIFF files are read and written one at a time, and so is any picture if memory is short."""
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
    before_each(
        monkeypatch,
        picture_at_work,
        "PreparedPicture",
        lambda *_: done.append(results() if Path("out").exists() else []),
    )
    assert restore(*RUN)[0] == 0 and results() == ["0", "1", "2"]
    assert set(reading_in) == {threading.main_thread()}
    assert done == [[], ["0"], ["0", "1"]]
    assert reason != "large" or set(writing_in) == {threading.main_thread()}


def test_masks_are_looked_at_as_well(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a TIFF mask, nothing is read while other threads may write to standard error."""
    pictures(3)
    Image.fromarray(np.pad(np.full((3, 3), 255, np.uint8), ((4, 5), (4, 7)))).save("m.tif")
    threads: list[threading.Thread] = []
    before_each(monkeypatch, reading, "_decode", lambda *_: threads.append(threading.current_thread()))
    assert restore("inpaint", "in", "-r", "--mask", "m.tif", "-o", "out", "--steps", "2")[0] == 0
    assert set(threads) == {threading.main_thread()}


def test_a_single_picture_takes_no_threads(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(1)
    started: list[str] = []
    before_each(monkeypatch, threading.Thread, "start", lambda thread: started.append(thread.name))
    assert restore("denoise", "in/0.png", "-o", "out/", "--sigma", "10")[0] == 0
    assert not [name for name in started if name.startswith("restorer")]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("options", [["--fail-fast"], ["--limit", "2"]], ids=" ".join)
def test_what_is_read_ahead_and_not_wanted_leaves_no_trace(
    options: list[str], restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second picture cannot be written when the third is already in memory."""
    pictures(4)
    Path("out").mkdir()
    original, written = writing._write_synced, list[Path]()

    def refused(data: bytes, path: Path) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(data, path)

    monkeypatch.setattr(writing, "_write_synced", refused)
    code, out, err = restore(*RUN, "--json", *options)
    reported = [(line.get("status"), line.get("input")) for line in map(json.loads, out.splitlines())][:-1]
    first = [("ok", "in/0.png"), ("failed", "in/1.png")]
    assert code == 3
    if options == ["--fail-fast"]:
        assert reported == first and results() == ["0"] and "2.png" not in err
        assert events() == [("b", "0"), ("o", "0"), ("b", "1"), ("f", "1")]
    else:  # the failed picture does not count towards the limit of two
        assert reported == [*first, ("ok", "in/2.png")] and results() == ["0", "2"] and "3.png" not in err


def test_a_failure_of_a_batch_stops_before_the_picture_in_hand(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pictures of 168 pixels share a batch; the fourth, which is read already, is not begun after a failure."""
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
@pytest.mark.parametrize(
    ("module", "name"), [(batching, "batch_share"), (writing, "_write")], ids=["reading", "writing"]
)
def test_a_bug_in_a_thread_is_told_as_ever(
    module: Any, name: str, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bug concerns the second picture: the first result remains, and the third picture leaves no trace."""
    pictures(3)
    threads: list[str] = []

    def act(*_: Any) -> None:
        threads.append(threading.current_thread().name.split("_")[0])
        if len(threads) >= 2:
            raise ZeroDivisionError("a mistake")

    before_each(monkeypatch, module, name, act)
    code, _, err = restore(*RUN)
    assert code == 1 and "ZeroDivisionError: a mistake" in err and "a bug" in err
    assert results() == ["0"]
    if module is writing:
        assert threads == 2 * ["restorer-behind"] and events() == [("b", "0"), ("o", "0"), ("b", "1")]
    else:  # the picture is read again when its turn comes
        assert threads == ["MainThread", "restorer-ahead", "MainThread"] and events() == [("b", "0"), ("o", "0")]


@pytest.mark.usefixtures("alone")
def test_an_interruption_while_three_pictures_are_at_work(restore: Restore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture is being written, one sampled, one read: the first is completed, the others leave no trace."""
    pictures(5)
    read, stopped = threading.Event(), threading.Event()

    def on_prepared(item: Any, *_: Any) -> None:
        if item.source.name == "2.png":
            read.set()

    def interrupt() -> None:
        wait_for(read)
        stopped.set()
        raise KeyboardInterrupt

    before_each(monkeypatch, picture_at_work, "PreparedPicture", on_prepared)
    before_each(monkeypatch, writing, "_write", lambda data, target, _: wait_for(stopped))
    at_evaluation(monkeypatch, 3, interrupt)
    code, _, err = restore(*RUN)
    assert code == 130 and err.splitlines()[-1] == "interrupted" and "wrote out/0_denoised.png" in err
    assert results() == ["0"] and events() in ([("b", "0"), ("o", "0")], [("b", "0"), ("o", "0"), ("b", "1")])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("restorer-")]


@pytest.mark.usefixtures("alone")
def test_results_are_those_of_single_runs(restore: Restore) -> None:
    paths = pictures(3)
    assert restore(*RUN)[0] == 0
    for path in paths:
        assert restore("denoise", str(path), "-o", "one.png", *RUN[5:], "--overwrite")[0] == 0
        assert Path("one.png").read_bytes() == Path("out", f"{path.stem}_denoised.png").read_bytes()
