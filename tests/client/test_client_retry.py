from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.client import (
    ApiError,
    Backoff,
    ConnectionFailed,
    Interrupted,
    PatienceOver,
    Refusal,
    Retry,
    Wait,
)
from upwell.client import retry as retry_module

QUICK = Backoff(first=0.01, longest=0.02)


@given(st.integers(0, 10_000))
def test_the_delay_grows_to_its_limit(attempt: int) -> None:
    delay = Backoff().delay(attempt, ConnectionFailed("x"))
    ceiling = 30.0 if attempt > 10 else min(30.0, 0.5 * 2**attempt)
    assert ceiling / 2 <= delay <= ceiling


def test_a_full_server_is_asked_slowly() -> None:
    full = ApiError(Refusal("STORAGE_FULL", "Full.", 507))
    assert full.retryable
    assert Backoff().delay(0, full) >= 15.0


@given(st.floats(0, 1e6))
def test_the_servers_wish_is_a_lower_bound(seconds: float) -> None:
    busy = ApiError(Refusal("BUSY", "Busy.", 429, retry_after=seconds))
    assert Backoff().delay(0, busy) >= seconds


@pytest.mark.parametrize(("successes", "ends"), [(True, False), (False, True)])
def test_a_success_renews_the_patience(
    successes: bool, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(retry_module, "time", SimpleNamespace(monotonic=lambda: now))
    retry = Retry(60.0, backoff=Backoff(first=0.0))
    gave_up = False

    def attempt() -> None:
        nonlocal now
        now += 10.0
        if not successes or now % 40:
            raise ConnectionFailed("x")

    for _ in range(4):
        try:
            retry.call(attempt)
        except PatienceOver:
            gave_up = True
    assert gave_up is ends


def test_waits_are_announced_and_so_is_their_end() -> None:
    waits: list[Wait | None] = []
    retry = Retry(1.0, backoff=QUICK, on_wait=waits.append)
    answers = iter([ConnectionFailed("x"), ConnectionFailed("y")])

    def attempt() -> int:
        for error in answers:
            raise error
        return 7

    assert retry.call(attempt) == 7
    assert [wait and wait.error.message for wait in waits] == ["x", "y", None]


def test_a_stop_ends_a_wait() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    retry = Retry(60.0, backoff=Backoff(first=30.0))

    def attempt() -> None:
        raise ConnectionFailed("x")

    with pytest.raises(Interrupted):
        retry.call(attempt, stop)


def test_giving_up_tells_why() -> None:
    def attempt() -> None:
        raise ConnectionFailed("The cable is out.")

    with pytest.raises(PatienceOver, match="The cable is out"):
        Retry(0.1, backoff=QUICK).call(attempt)
