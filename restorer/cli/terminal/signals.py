"""Ctrl-C and SIGTERM as exceptions, each raised once, so that incomplete files are removed before the process ends."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import FrameType

__all__ = ["Terminated", "ignore_signals", "raise_on_signals"]

REPEAT_SECONDS = 1.0  # a signal that follows another one within this time is ignored
EXCEPTIONS: dict[int, type[BaseException]] = {}  # signal number -> exception


class Terminated(BaseException):
    """The exception that SIGTERM raises."""


class _RaiseOnce:
    """A signal handler that raises on the first signal, and ignores repeated ones, which would disturb the clean-up."""

    def __init__(self) -> None:
        self.last = -REPEAT_SECONDS

    def __call__(self, number: int, frame: FrameType | None) -> None:
        before, self.last = self.last, time.monotonic()
        if self.last - before >= REPEAT_SECONDS:
            raise EXCEPTIONS[number]


def raise_on_signals() -> None:
    """Make SIGINT raise KeyboardInterrupt and SIGTERM raise `Terminated` in the main thread.

    Python drops an exception that is raised in a destructor, so such an exception is raised again afterwards. A signal
    that is ignored when this function is called stays ignored.
    """
    EXCEPTIONS.update({signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated})
    handler = _RaiseOnce()
    for number in EXCEPTIONS:
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup, or in the background of a script
            signal.signal(number, handler)
    default_hook = sys.unraisablehook

    def raise_again(dropped: sys.UnraisableHookArgs) -> None:
        for number, exception in EXCEPTIONS.items():
            if dropped.exc_type is exception:
                handler.last = -REPEAT_SECONDS
                # The exception is raised later, because Python drops exceptions from this hook as well.
                threading.Timer(0.01, _thread.interrupt_main, [number]).start()
                return
        default_hook(dropped)

    sys.unraisablehook = raise_again


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM, so that they do not change the exit code while Python shuts down."""
    for number in EXCEPTIONS:
        signal.signal(number, signal.SIG_IGN)
