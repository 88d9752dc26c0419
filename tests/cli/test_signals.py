"""Signals as exceptions: they are raised once, are never lost, and do no harm at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")

PREAMBLE = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from restorer.cli.terminal.signals import Terminated, ignore_signals, raise_on_signals
raise_on_signals()
"""


def run(program: str, preamble: str = PREAMBLE) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", preamble + program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("number", "name"), [(2, "KeyboardInterrupt"), (15, "Terminated")])
def test_the_second_signal_does_not_disturb_what_the_first_has_begun(number: int, name: str) -> None:
    result = run(f"""
try:
    os.kill(os.getpid(), {number})
    time.sleep(10)
except {name}:
    os.kill(os.getpid(), {number})
    time.sleep(0.1)
    print("cleaned up")
    time.sleep(1)
    try:
        os.kill(os.getpid(), {number})  # a later signal is raised again
        time.sleep(10)
    except {name}:
        print("asked again")
""")
    assert result.stdout == "cleaned up\nasked again\n" and result.stderr == ""


@pytest.mark.parametrize(("number", "name"), [(2, "KeyboardInterrupt"), (15, "Terminated")])
def test_a_signal_in_a_destructor_is_not_lost(number: int, name: str) -> None:
    result = run(f"""
class Thing:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0.01)
        print("not reached")
try:
    Thing()
    for _ in range(100):
        time.sleep(0.1)
except {name}:
    print("heard")
""")
    assert result.stdout == "heard\n" and result.stderr == ""


def test_nothing_changes_the_exit_code_at_the_end() -> None:
    result = run("""
import atexit
ignore_signals()
atexit.register(lambda: [os.kill(os.getpid(), number) for number in (2, 15)])
raise SystemExit(3)
""")
    assert result.returncode == 3 and result.stderr == ""


def test_what_was_ignored_stays_ignored() -> None:
    """A `restore … &` in a script is not stopped by a Ctrl-C that is meant for another command."""
    ignoring = PREAMBLE.replace("signal.default_int_handler", "signal.SIG_IGN")
    result = run("os.kill(os.getpid(), 2); time.sleep(0.1); print('goes on')", ignoring)
    assert result.stdout == "goes on\n"


def test_an_ordinary_error_in_a_destructor_is_told_as_ever() -> None:
    result = run("""
class Thing:
    def __del__(self):
        raise ValueError("in a destructor")
Thing()
""")
    assert "ValueError: in a destructor" in result.stderr
