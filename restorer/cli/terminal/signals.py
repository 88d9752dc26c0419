"""Ctrl-C and SIGTERM as exceptions that arrive once, so that what is half written is removed on the way out."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import FrameType

__all__ = ["Terminated", "leave_in_peace", "raise_on_signals"]

AGAIN = 1.0  # seconds within which a second signal means the first
SIGNALS: dict[int, type[BaseException]] = {}


class Terminated(BaseException):
    """SIGTERM."""


class _Raise:
    """The handler: the first signal raises; what follows at once would only disturb the tidying up."""

    def __init__(self) -> None:
        self.last = -AGAIN

    def __call__(self, number: int, frame: FrameType | None) -> None:
        before, self.last = self.last, time.monotonic()
        if self.last - before >= AGAIN:
            raise SIGNALS[number]


def raise_on_signals() -> None:
    """From now on SIGINT raises KeyboardInterrupt and SIGTERM `Terminated`, in the main thread.

    An exception that falls into a destructor is lost by Python itself: it is raised again after it.
    """
    SIGNALS.update({signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated})
    handler = _Raise()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, or in the background of a script
            signal.signal(number, handler)
    usual = sys.unraisablehook

    def tell(lost: sys.UnraisableHookArgs) -> None:
        for number, raised in SIGNALS.items():
            if lost.exc_type is raised:
                handler.last = -AGAIN
                # not here: what is raised in this hook is lost as well
                threading.Timer(0.01, _thread.interrupt_main, [number]).start()
                return
        usual(lost)

    sys.unraisablehook = tell


def leave_in_peace() -> None:
    """Everything is done: no signal changes the exit code while Python takes itself apart."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
