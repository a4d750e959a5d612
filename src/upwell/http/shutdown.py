"""The end of a server process: no thread keeps one alive that was told to stop."""

from __future__ import annotations

import faulthandler
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

REQUESTS = 10  # seconds that requests under way are given after the signal
GRACE = 30  # seconds from the signal to the end of a process, whatever its threads do
LEFTOVERS = 2  # seconds from the moment that everything is closed


def end_within(seconds: float) -> None:
    """End this process in so many seconds if it has not ended by itself.

    A thread that hangs inside a C library can't be interrupted, and Python waits for it before
    it exits. So a watchdog that needs neither the thread nor the interpreter writes to standard
    error where every thread is, and exits with status 1. Nothing is lost: everything that was
    acknowledged is durable. A second call replaces the first.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)


def watch_signals() -> None:
    """From now on, a signal that stops the server also starts the watchdog."""
    for stop in (signal.SIGINT, signal.SIGTERM):
        _also_end(stop, signal.getsignal(stop))


def _also_end(stop: signal.Signals, before: object) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        end_within(GRACE)
        if callable(before):
            before(number, frame)

    signal.signal(stop, handle)
