"""How many requests go at once: as many as help; additive increase, halved on trouble.

The rule, over rounds that each measure how many bytes per second get through:

- It begins with two, and doubles the number while that makes a round faster by a tenth than the
  one before; from then on it adds one at a time, by the same measure.
- A round with more that was not faster was no help: back to fewer, and no further try for a while,
  which doubles with each try that did not help. So it comes to rest.
- A request that fails in a way that may pass (a broken connection, 429, 503 …) halves the number:
  whatever is in trouble gets less to do.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from upwell.client.errors import ClientError, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FIRST = 2
HELPS = 1.1  # times as fast: what one more connection must bring to be kept
ROUND_SECONDS = 0.25  # a round takes at least that long …
ROUND_REQUESTS = 2  # … and so many requests for each that may go at once
REST_ROUNDS = 4  # after a try that did not help; twice as many after the next
LONGEST_REST = 64


@dataclass(slots=True)
class _Round:
    began: float
    requests: int = 0
    size: int = 0


class Pace:
    """At most ``most`` requests at once, usually fewer; shared by all threads of a client."""

    def __init__(self, most: int, *, clock: Callable[[], float] = monotonic) -> None:
        self._most = most
        self._clock = clock
        self._free = threading.Condition()
        self._active = 0
        self._limit = min(FIRST, most)
        self._round = _Round(clock())
        self._step = 0  # how many more are being tried; 0 when none
        self._before = 0.0  # bytes per second without them
        self._doubling = True
        self._rest = 0
        self._next_rest = REST_ROUNDS

    @property
    def limit(self) -> int:
        """How many may go at once now."""
        return self._limit

    @contextmanager
    def request(self, size: int, stop: threading.Event) -> Iterator[None]:
        """Send one request with ``size`` bytes of content, once it may go.

        Raises:
            Interrupted: ``stop`` was set while it waited.
        """
        self._begin(stop)
        try:
            yield
        except ClientError as error:
            self._end(0, trouble=error.retryable)
            raise
        except BaseException:
            self._end(0, trouble=False)
            raise
        self._end(size, trouble=False)

    def _begin(self, stop: threading.Event) -> None:
        with self._free:
            while self._active >= self._limit:
                if stop.is_set():
                    raise Interrupted("Stopped.")
                self._free.wait(0.25)  # who sets ``stop`` does not notify
            if self._active == 0 and not self._round.requests:
                self._round = _Round(self._clock())  # a pause is nobody's fault
            self._active += 1

    def _end(self, size: int, *, trouble: bool) -> None:
        with self._free:
            self._active -= 1
            if trouble:
                self._halve()
            elif size:
                self._round.requests += 1
                self._round.size += size
                self._judge()
            self._free.notify_all()

    def _halve(self) -> None:
        self._limit = max(1, self._limit // 2)
        self._step, self._doubling = 0, False
        self._rest = REST_ROUNDS
        self._round = _Round(self._clock())

    def _judge(self) -> None:
        """End the round when it tells enough, and draw the conclusion."""
        now = self._clock()
        seconds = now - self._round.began
        if seconds < ROUND_SECONDS or self._round.requests < ROUND_REQUESTS * self._limit:
            return
        speed = self._round.size / seconds
        self._round = _Round(now)
        if self._step and speed < HELPS * self._before:
            self._limit -= self._step
            self._step, self._doubling = 0, False
            self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
        elif self._rest:
            self._rest -= 1
        else:
            self._try_more(speed)

    def _try_more(self, speed: float) -> None:
        if self._step:  # the last try helped
            self._next_rest = REST_ROUNDS
        wanted = self._limit if self._doubling else 1
        self._step = min(wanted, self._most - self._limit)
        self._before = speed
        self._limit += self._step
