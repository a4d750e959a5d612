"""Threads that send chunks while the caller reads the next ones, on a bounded amount of memory."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

from upwell.client.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

# A thread that is stuck in a system call is left behind after this many seconds: it is a daemon.
ABANDON_AFTER = 2.0


class Senders:
    """``threads`` threads that call ``send(index, data, stop)``; a context manager.

    The reader borrows a buffer of ``size`` bytes, fills it and submits it; it blocks while all
    ``threads + 1`` buffers are on their way, which bounds the memory. The first failure stops
    everything and is raised to the reader; so does ``stop``.
    """

    def __init__(
        self,
        send: Callable[[int, memoryview, threading.Event], None],
        *,
        threads: int,
        size: int,
        stop: Stop | None = None,
    ) -> None:
        self._send = send
        self._size = size
        self._unmade = threads + 1
        self._free: SimpleQueue[bytearray] = SimpleQueue()
        self._jobs: SimpleQueue[tuple[int, bytearray, int] | None] = SimpleQueue()
        self._linked = (stop or Stop()).child()
        self._stop = Stop()
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"upwell-send-{number}", daemon=True)
            for number in range(threads)
        ]

    def __enter__(self) -> Self:
        self._stop = self._linked.__enter__()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stop.set()
            self._join(ABANDON_AFTER)
        self._linked.__exit__(kind, error, trace)

    def borrow(self) -> bytearray:
        """An unused buffer; waits for one. Raises what a sender failed with."""
        if self._free.empty() and self._unmade:
            self._unmade -= 1
            return bytearray(self._size)
        buffer = self._free.get()
        self._raise_failure()
        return buffer

    def give_back(self, buffer: bytearray) -> None:
        """Return a buffer that need not be sent."""
        self._free.put(buffer)

    def submit(self, index: int, buffer: bytearray, length: int) -> None:
        """Have the first ``length`` bytes sent as chunk ``index``; the buffer returns by itself."""
        self._jobs.put((index, buffer, length))

    def finish(self) -> None:
        """Wait until everything was sent. Raises what a sender failed with."""
        self._join(None)
        self._raise_failure()

    def _join(self, timeout: float | None) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        deadline = None if timeout is None else monotonic() + timeout
        for thread in self._threads:
            thread.join(deadline and max(0.0, deadline - monotonic()))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            index, buffer, length = job
            try:
                if not self._stop.is_set():
                    self._send(index, memoryview(buffer)[:length], self._stop)
            except BaseException as error:  # noqa: BLE001 - carried over to the reader's thread
                # Only the first counts: the others are stopped because of it.
                self._failure = self._failure or error
                self._stop.set()
            finally:
                self._free.put(buffer)
