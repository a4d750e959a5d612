"""When to try again, and for how long.

A policy of its own, for three things that general retry libraries do not combine: one patience
shared by the threads of a transfer, waits that end when the transfer is stopped, and waits that
are announced to whoever shows the progress.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from upwell.client.errors import ApiError, ClientError, Interrupted, PatienceOver

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE = 900.0
OUT_OF_SPACE = 507


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause before the next attempt: ``delay`` in seconds, and the failure that causes it."""

    delay: float
    error: ClientError


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait, in seconds: doubling from ``first`` to ``longest``, with jitter.

    A server without space is asked no more often than every ``out_of_space`` seconds.
    """

    first: float = 0.5
    longest: float = 30.0
    out_of_space: float = 15.0

    def delay(self, attempt: int, error: ClientError) -> float:
        """Seconds to wait after the failure of attempt number ``attempt`` (from 0)."""
        ceiling = min(self.longest, self.first * 2.0 ** min(attempt, 30))
        delay = ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        if isinstance(error, ApiError):
            slowest = self.out_of_space if error.status == OUT_OF_SPACE else 0.0
            delay = max(delay, slowest, error.retry_after or 0.0)
        return delay


class Retry:
    """Tries a request again while its failures may pass.

    ``patience`` is how many seconds requests may keep failing without one that succeeds; 0 never
    tries again. It is shared: one success, by any thread, renews it for all. ``on_wait`` is told
    of every pause, and called with ``None`` when a request succeeds again.
    """

    def __init__(
        self,
        patience: float = PATIENCE,
        *,
        backoff: Backoff | None = None,
        on_wait: Callable[[Wait | None], None] | None = None,
    ) -> None:
        self._patience = patience
        self._backoff = backoff or Backoff()
        self._on_wait = on_wait or (lambda _: None)
        self._failing_since: float | None = None
        self._lock = threading.Lock()

    def call(self, attempt: Callable[[], T], stop: threading.Event | None = None) -> T:
        """What ``attempt`` returns, once it succeeds.

        Raises:
            PatienceOver: it failed, in ways that may pass, for too long.
            Interrupted: ``stop`` was set.
            ClientError: it failed in a way that does not pass.
        """
        stop = stop or threading.Event()
        for number in count():
            try:
                result = attempt()
            except ClientError as error:
                self._pause(number, error, stop)
            else:
                self._succeeded()
                return result
        raise AssertionError  # unreachable: count() never ends

    def _pause(self, number: int, error: ClientError, stop: threading.Event) -> None:
        if stop.is_set():
            raise Interrupted("Stopped.") from error
        if not error.retryable or self._patience <= 0:
            raise error
        delay = self._backoff.delay(number, error)
        if delay > self._left():
            raise PatienceOver(f"Gave up. {error.message}", error) from error
        self._on_wait(Wait(delay, error))
        if stop.wait(delay):
            raise Interrupted("Stopped.") from error

    def _left(self) -> float:
        now = time.monotonic()
        with self._lock:
            if self._failing_since is None:
                self._failing_since = now
            return self._failing_since + self._patience - now

    def _succeeded(self) -> None:
        with self._lock:
            recovered = self._failing_since is not None
            self._failing_since = None
        if recovered:
            self._on_wait(None)
