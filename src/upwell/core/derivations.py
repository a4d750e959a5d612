"""Key derivations (Argon2id, scrypt): slow and large on purpose, therefore few at a time.

No thread that serves other requests waits for one. A verb that turns out to need a derivation in
such a thread raises ``WrongThread``, before its first side effect. ``Derivers`` then runs the
verb again in a thread of its own, and bounds how many verbs an asker and all askers together have
in there.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, TypeVar

from upwell.errors import ServerBusy, TooManyDerivations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

T = TypeVar("T")

# Derivations at once in this process. Each takes 64 MiB and a core, and one core stays free.
AT_ONCE = min(2, max(1, (os.cpu_count() or 1) - 1))
WAIT = 30.0  # seconds for a turn
MOST = 64  # verbs of all askers that derive keys or wait for it; one thread each
EACH = 16  # of them of one account or address: as many as a download manager has connections

_turns = threading.BoundedSemaphore(AT_ONCE)
_this_thread = threading.local()


class WrongThread(Exception):
    """A key can't be derived in this thread; run the verb again with ``Derivers``."""


def keep_free() -> None:
    """Mark the current thread as one that never waits for a derivation."""
    _this_thread.is_kept_free = True


def require_here() -> None:
    """Raise WrongThread in a thread that ``keep_free`` marked.

    A verb calls this before its first side effect when it is going to need a derivation.
    """
    if getattr(_this_thread, "is_kept_free", False):
        raise WrongThread


@contextmanager
def turn() -> Iterator[None]:
    """The right to derive one key. Raises WrongThread; ServerBusy when others take too long."""
    require_here()
    if not _turns.acquire(timeout=WAIT):
        raise _all_busy()
    try:
        yield
    finally:
        _turns.release()


class Derivers:
    """Threads for verbs that derive keys: ``most`` in all, ``each`` for one asker."""

    def __init__(self, most: int = MOST, each: int = EACH) -> None:
        self._most = most
        self._each = each
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="upwell-derive")
        self._lock = threading.Lock()  # counting and deciding are one step
        self._admitted: Counter[str] = Counter()

    def submit(self, asker: str, verb: Callable[[], T]) -> Future[T]:
        """Run ``verb`` in a thread that may derive keys.

        Raises TooManyDerivations when this asker has too many under way, ServerBusy when all askers
        together do.
        """
        self._admit(asker)
        try:
            running = self._threads.submit(verb)
        except BaseException:
            self._dismiss(asker)
            raise
        running.add_done_callback(lambda _: self._dismiss(asker))
        return running

    def _admit(self, asker: str) -> None:
        with self._lock:
            if self._admitted[asker] >= self._each:
                raise TooManyDerivations(
                    f"You have {self._each} passwords being checked or set at once. Try again in "
                    "2 seconds.",
                    retry_after=2,
                )
            if self._admitted.total() >= self._most:
                raise _all_busy()
            self._admitted[asker] += 1

    def _dismiss(self, asker: str) -> None:
        with self._lock:
            self._admitted[asker] -= 1
            if not self._admitted[asker]:
                del self._admitted[asker]


def _all_busy() -> ServerBusy:
    return ServerBusy(
        "The server is checking too many passwords. Try again in 5 seconds.", retry_after=5
    )


class Memo(Generic[T]):
    """Remembers up to ``most`` results for so many seconds. Concurrent callers with the same name
    share one computation. Thread-safe."""

    def __init__(
        self,
        seconds: float = 300.0,
        most: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[float, T]] = OrderedDict()  # oldest first
        self._under_way: dict[bytes, threading.Event] = {}

    def get(self, name: bytes, derive: Callable[[], T]) -> T:
        """The result under a name; ``derive`` finds it out when it is not known.

        Raises what ``derive`` does, which is not remembered; WrongThread when it is not known and
        can't be found out here; ServerBusy when the caller that finds it out takes too long.
        """
        while True:
            found = self._look_up(name)
            if found is None:
                return self._derived(name, derive)
            if not isinstance(found, threading.Event):
                return found[1]
            if not found.wait(WAIT):
                raise _all_busy()

    def _derived(self, name: bytes, derive: Callable[[], T]) -> T:
        try:
            result = derive()
            self._remember(name, result)
        finally:
            with self._lock:
                self._under_way.pop(name).set()
        return result

    def _look_up(self, name: bytes) -> tuple[float, T] | threading.Event | None:
        """What is known, or what to wait for; None, and the caller is to find out."""
        now = self._clock()
        with self._lock:
            while self._known and next(iter(self._known.values()))[0] <= now:
                self._known.popitem(last=False)
            if name in self._known:
                return self._known[name]
            require_here()
            if name in self._under_way:
                return self._under_way[name]
            self._under_way[name] = threading.Event()
            return None

    def _remember(self, name: bytes, result: T) -> None:
        with self._lock:
            self._known[name] = (self._clock() + self._seconds, result)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
