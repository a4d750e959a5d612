"""Memory for the chunks of encrypted uploads: while they are sealed, and right after."""

from __future__ import annotations

import ctypes
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BUDGET = 256 << 20  # bytes for the chunks that are being sealed
RECENT = 128 << 20  # bytes for the content of those, and of those just sealed
_IDLE = 48 << 20  # bytes that are kept for the next chunks
_SOON = 0.5  # seconds in which a chunk is hashed, if it is not behind a gap
LIFE = 60.0  # seconds after which nobody is waited for


class Budget:
    """Memory, shared by all who seal. Thread-safe."""

    def __init__(self, limit: int = BUDGET) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[bytearray] = []
        self.used = 0

    def take(self, size: int) -> bool:
        """Whether there is room, taken then. What is larger than all of it gets it alone."""
        with self._lock:
            if self.used and self.used + size > self._limit:
                return False
            self.used += size
            return True

    def give(self, size: int) -> None:
        with self._lock:
            self.used -= size

    def lend(self, size: int) -> bytearray:
        """Memory of that size, with whatever in it. Fresh memory costs as much as sealing."""
        with self._lock:
            for at in reversed(range(len(self._idle))):  # the last one is still in the caches
                if len(self._idle[at]) == size:
                    return self._idle.pop(at)
        return bytearray(size)

    def take_back(self, buffer: bytearray) -> None:
        """What was lent, and is no longer used; nothing in clear is in it."""
        with self._lock:
            self._idle.append(buffer)
            while sum(map(len, self._idle)) > min(_IDLE, self._limit):
                self._idle.pop(0)


class Recent:
    """The content of chunks that were sent a moment ago, for the digest that follows: opening
    what was just sealed would cost as much as sealing it did.

    It is a shortcut and no more: whoever does not find a chunk reads it where it lies. What
    is found is right, since a chunk never has two contents (``core.sealing``). What nobody comes
    for within ``life`` seconds is wiped: its upload may have been left, or hashed by another
    process. Thread-safe.
    """

    def __init__(
        self,
        limit: int = RECENT,
        clock: Callable[[], float] = time.monotonic,
        life: float = LIFE,
    ) -> None:
        self._room = Budget(limit)
        self._clock = clock
        self._life = life
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], tuple[float, bytearray]] = OrderedDict()

    @property
    def used(self) -> int:
        """Bytes that are lent or kept."""
        return self._room.used

    def lend(self, size: int) -> bytearray | None:
        """Memory for a chunk's content; None when all of it is wanted."""
        while not self._room.take(size):
            if not self._drop_oldest():
                return None
        return self._room.lend(size)

    def _drop_oldest(self) -> bool:
        """Whether there was a chunk that nobody came for in time."""
        with self._lock:
            since, plain = next(iter(self._kept.values()), (self._clock(), None))
            if plain is None or self._clock() - since < _SOON:
                return False
            self._kept.popitem(last=False)
        self.take_back(plain)
        return True

    def keep(self, key: str, index: int, plain: bytearray) -> None:
        """What was lent holds a chunk now, all of it, which is stored."""
        with self._lock:
            _, before = self._kept.pop((key, index), (0.0, None))
            self._kept[key, index] = self._clock(), plain
            self._watch()
        if before is not None:
            self.take_back(before)

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._life, self._wipe_old)
            self._timer.daemon = True
            self._timer.start()

    def _wipe_old(self) -> None:
        with self._lock:
            self._timer = None
            until = self._clock() - self._life
            names = [name for name, (since, _) in self._kept.items() if since <= until]
            unwanted = [self._kept.pop(name)[1] for name in names]
            if self._kept:
                self._watch()
        for plain in unwanted:
            self.take_back(plain)

    def forget(self, key: str) -> None:
        """Nobody is going to ask for a chunk of it."""
        with self._lock:
            names = [name for name in self._kept if name[0] == key]
            unwanted = [self._kept.pop(name)[1] for name in names]
        for plain in unwanted:
            self.take_back(plain)

    def take_back(self, plain: bytearray) -> None:
        """What was lent, and is no longer used. It is wiped."""
        ctypes.memset((ctypes.c_char * len(plain)).from_buffer(plain), 0, len(plain))
        self._room.take_back(plain)
        self._room.give(len(plain))

    @contextmanager
    def taken(self, key: str, index: int) -> Iterator[memoryview | None]:
        """A chunk's content, if it is here; it is wiped and forgotten afterwards."""
        with self._lock:
            _, plain = self._kept.pop((key, index), (0.0, None))
        try:
            yield None if plain is None else memoryview(plain)
        finally:
            if plain is not None:
                self.take_back(plain)
