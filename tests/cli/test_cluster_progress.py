"""What a run on a cluster shows while it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from restorer.cli.restoring.listener import Listener
from restorer.cli.terminal.reporter import Reporter
from restorer.folders.events import Done, Opened, Working
from restorer.folders.paths import Item
from restorer.folders.verb_options import Denoise


def options() -> Denoise:
    return Denoise(inputs=["in"], output="out", recursive=True, cluster="auto")


def test_progress_names_machines_workers_and_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(verbose=True)
    with Listener(options(), reporter) as listener:
        listener.show(Opened("denoise", 20))
        listener.show(Working("denoise", 0, 20, 1, 1, 3, None))
        listener.show(Working("denoise", 5, 20, 2, 4, 0, 3.14159))
        listener.show(Working("denoise", 5, 20, 2, 4, 0, 3.1))  # nothing new to say
        listener.show(Working("denoise", 20, 20, 2, 4, 0, 3.1))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "pictures" in line]
    assert line.startswith("cluster: 5/20 pictures, 3.14 a second, 2 nodes, 4 workers, 25 %, ")


def test_workers_that_wait_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with Listener(options(), Reporter()) as listener:
        listener.show(Working("denoise", 1, 5, 1, 1, 2, None))
    assert "cluster: 1/5 pictures, 1 node, 1 worker (+2 waiting), 20 %" in capsys.readouterr().err


def test_a_result_says_what_was_found_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    said = (("say", "a.png: white noise of 20 levels"), ("detail", "in/a.png: node gpu7 (192.0.2.7)"))
    item = Item(Path("in/a.png"), Path("out/a_denoised.png"))
    done = Done("denoise", item, {}, ("a note",), (8, 8), None, 1.0, said=said)
    with Listener(options(), Reporter(verbose=True)) as listener:
        listener.show(done)
    printed = capsys.readouterr().err
    for text in (
        "a.png: white noise of 20 levels",
        "node gpu7 (192.0.2.7)",
        "note: a note",
        "wrote out/a_denoised.png",
    ):
        assert text in printed
