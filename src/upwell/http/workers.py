"""Several server processes on one listening socket, and the process that supervises them.

uvicorn's own supervisor kills a worker that does not answer within five seconds, also while it
still starts, and its workers survive it. On a slow machine no worker ever came up.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import structlog
import uvicorn

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

TICK = 0.25  # seconds between two looks at the workers
PATIENCE = 120  # ticks without an answer after which a worker that was up counts as hung
STOP_SECONDS = 32.0  # for a worker to end after SIGTERM; it ends itself within shutdown.GRACE
START_FAILED = 3  # the exit code of a server that cannot start

_PR_SET_PDEATHSIG = 1
_spawn = multiprocessing.get_context("spawn")
_log = structlog.get_logger("upwell")


class Worker(Protocol):
    """One server process as the supervisor sees it."""

    @property
    def pid(self) -> int | None: ...

    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""

    def answer(self) -> bool | None:
        """Whether it serves requests, asked without waiting; None when it has not answered the
        previous question yet."""

    def end(self, number: signal.Signals) -> None: ...

    def join(self, seconds: float) -> None: ...


class Supervisor:
    """Keeps ``count`` workers running.

    It replaces a worker that ended, and one that was up and then left ``PATIENCE`` questions in a
    row unanswered: it is stopped or deadlocked, and may hold locks that all others wait for. A
    worker that is still starting has all the time it needs. Patience is counted in the
    supervisor's own ticks, so a pause of the whole server is not held against its workers.
    """

    def __init__(self, start: Callable[[], Worker], count: int) -> None:
        self._start = start
        self._workers = [start() for _ in range(count)]
        self._silent = [0] * count
        self._up = [False] * count
        self._ever_up = False
        self.stopping = False

    def run(self) -> int:
        """Supervise until ``stopping`` is set; the server's exit code."""
        code = 0
        while not self.stopping and code == 0:
            time.sleep(TICK)
            code = self.look()
        self._stop()
        return code

    def look(self) -> int:
        """Look at every worker once; ``START_FAILED`` when none can start, otherwise 0."""
        for at, worker in enumerate(self._workers):
            code = worker.exit_code()
            if code is None:
                self._ask(at, worker)
            elif self.stopping:
                break
            elif code > 0 and not self._ever_up:
                _log.error("the server cannot start", pid=worker.pid, exit_code=code)
                return START_FAILED
            else:
                self._replace(at, worker, code)
        return 0

    def _replace(self, at: int, worker: Worker, code: int) -> None:
        _log.warning("a worker ended and is replaced", pid=worker.pid, exit_code=code)
        try:
            self._workers[at] = self._start()
        except OSError as error:  # no memory, no descriptor: the others go on serving
            _log.error("a worker cannot be started yet", error=str(error))
        self._up[at], self._silent[at] = False, 0

    def _ask(self, at: int, worker: Worker) -> None:
        serves = worker.answer()
        if serves is None:
            self._silent[at] += self._up[at]
        else:
            self._silent[at], self._up[at] = 0, self._up[at] or serves
            self._ever_up = self._ever_up or serves
        if self._silent[at] >= PATIENCE:
            _log.error("a worker does not answer and is killed", pid=worker.pid)
            worker.end(signal.SIGKILL)  # the next look finds it ended
            self._silent[at] = 0

    def _stop(self) -> None:
        for worker in self._workers:
            worker.end(signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
            if worker.exit_code() is None:
                worker.end(signal.SIGKILL)
                worker.join(STOP_SECONDS)


class _Process:
    """A worker in a process of its own, with a pipe to ask it whether it serves."""

    def __init__(self, config: uvicorn.Config, sockets: Sequence[socket.socket]) -> None:
        self._pipe, theirs = _spawn.Pipe()
        self._process = _spawn.Process(target=_work, args=(config, list(sockets), theirs))
        self._process.start()
        theirs.close()  # otherwise the pipe would not tell when the worker is gone
        self._asked = False

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def exit_code(self) -> int | None:
        return self._process.exitcode

    def answer(self) -> bool | None:
        with suppress(OSError, EOFError):  # it ends just now: its exit code tells
            if not self._asked:
                self._pipe.send(None)
                self._asked = True
            if self._pipe.poll(0):
                self._asked = False
                return bool(self._pipe.recv())
        return None

    def end(self, number: signal.Signals) -> None:
        if self._process.exitcode is None and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def join(self, seconds: float) -> None:
        self._process.join(seconds)


def run_workers(config: uvicorn.Config, sockets: Sequence[socket.socket]) -> int:
    """Serve with ``config.workers`` processes until SIGINT or SIGTERM; the exit code.

    No worker outlives this process, however it ends.
    """
    supervisor = Supervisor(lambda: _Process(config, sockets), config.workers)

    def stop(_signal: int, _frame: object) -> None:
        supervisor.stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return supervisor.run()


def _work(config: uvicorn.Config, sockets: list[socket.socket], pipe: Connection) -> None:
    """Serve in a worker's process, until a signal stops it or its parent ends."""
    # The kernel ends this process with its parent, also while it is stopped or deadlocked. A
    # parent that ended before this call is noticed by the pipe.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    server = uvicorn.Server(config)
    threading.Thread(target=_answer, args=(server, pipe), daemon=True).start()
    with suppress(KeyboardInterrupt):
        server.run(sockets)


def _answer(server: uvicorn.Server, pipe: Connection) -> None:
    try:
        while True:
            pipe.recv()
            pipe.send(server.started)
    except (OSError, EOFError):
        os.kill(os.getpid(), signal.SIGKILL)
