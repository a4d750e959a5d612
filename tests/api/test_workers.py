"""The process that supervises workers: which ones it replaces, and which ones it leaves alone."""

from __future__ import annotations

import signal

from upwell.http.workers import PATIENCE, START_FAILED, Supervisor


class Fake:
    """A worker whose answers the test sets."""

    pid: int | None = 1

    def __init__(self) -> None:
        self.code: int | None = None
        self.says: bool | None = None
        self.signals: list[signal.Signals] = []

    def exit_code(self) -> int | None:
        return self.code

    def answer(self) -> bool | None:
        return self.says

    def end(self, number: signal.Signals) -> None:
        self.signals.append(number)
        if number is signal.SIGKILL:
            self.code = -number

    def join(self, seconds: float) -> None:
        assert seconds >= 0


def supervised(count: int) -> tuple[Supervisor, list[Fake]]:
    started: list[Fake] = []

    def start() -> Fake:
        started.append(Fake())
        return started[-1]

    return Supervisor(start, count), started


def test_only_a_worker_that_was_up_and_falls_silent_is_killed_and_replaced() -> None:
    supervisor, started = supervised(2)
    slow, quick = started
    quick.says = True
    for _ in range(20 * PATIENCE):  # however slowly it starts
        assert supervisor.look() == 0
    assert not slow.signals
    slow.says = True
    supervisor.look()
    slow.says = None
    for _ in range(PATIENCE - 1):
        supervisor.look()
    assert not slow.signals
    supervisor.look()
    assert slow.signals == [signal.SIGKILL]
    supervisor.look()
    assert len(started) == 3, "it is replaced, once"
    assert not quick.signals


def test_a_server_that_cannot_start_ends_and_a_later_failure_is_tried_again() -> None:
    supervisor, (first, _) = supervised(2)
    first.code = 1
    assert supervisor.look() == START_FAILED
    supervisor, started = supervised(2)
    started[0].says = True
    supervisor.look()
    for code in (1, -9):
        started[-1].code = code
        assert supervisor.look() == 0
    assert len(started) == 4


def test_stopping_asks_every_worker_and_kills_what_does_not_end() -> None:
    supervisor, started = supervised(2)
    started[0].code = 0
    supervisor.stopping = True
    assert supervisor.run() == 0
    assert started[0].signals == [signal.SIGTERM]
    assert started[1].signals == [signal.SIGTERM, signal.SIGKILL]
