"""Locks among the processes on one database file. A process that dies releases all of its locks;
one that is stopped (SIGSTOP) keeps them, so nobody waits for a lock without seeing progress."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STALL = 2.0  # seconds without any commit after which the holder of a turn counts as stopped
_PAUSE = 0.0001


class FileLock:
    """An advisory lock on a file of its own, opened at first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, seconds: float, mode: int = fcntl.LOCK_EX) -> bool:
        """Wait for the lock at most that long; whether it is held."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + seconds
        while not self._try(self._descriptor, mode):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None

    @staticmethod
    def _try(descriptor: int, mode: int) -> bool:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class Turns:
    """Lets processes write nearly in the order in which they ask.

    SQLite's own wait is a sleep and a try: a busy process starved another for 3.4 seconds
    (two processes, 8 threads each; 44 ms at most with this). Here a waiter holds ``next`` while it
    waits for ``now``, so whoever just wrote and asks again comes after it. Exclusion is still
    SQLite's: a process that cannot have its turn writes without one, and SQLite decides.

    A stopped process keeps its locks. A waiter gives up a lock whose holder lets ``STALL`` seconds
    pass in which nobody commits, and then only tries that lock until it is free again: a stopped
    process costs the others one wait, not one wait for every write.
    """

    def __init__(self, database: Path, seconds: float) -> None:
        self._next = FileLock(database.with_name(f"{database.name}.queue"))
        self._now = FileLock(database.with_name(f"{database.name}.lock"))
        self._seconds = seconds
        self._stuck: set[FileLock] = set()

    @contextmanager
    def turn(self, progress: Callable[[], object]) -> Iterator[bool]:
        """Wait for the turn to write; whether it was had. ``progress`` returns another value
        whenever any process has committed."""
        try:
            self._wait(self._next, progress)
            had = self._wait(self._now, progress)
            self._next.release()
            yield had
        finally:
            self._next.release()
            self._now.release()

    @contextmanager
    def migration(self, mode: int) -> Iterator[None]:
        """Wait for others that migrate: an upgrade commits once, at its end."""
        try:
            self._next.acquire(self._seconds)
            self._now.acquire(self._seconds, mode)
            self._next.release()
            yield
        finally:
            self._next.release()
            self._now.release()

    def _wait(self, lock: FileLock, progress: Callable[[], object]) -> bool:
        if lock.acquire(0):
            self._stuck.discard(lock)
            return True
        until = time.monotonic() + self._seconds
        while lock not in self._stuck and time.monotonic() < until:
            seen = progress()
            if lock.acquire(STALL):
                return True
            if progress() == seen:
                self._stuck.add(lock)
        return False

    def close(self) -> None:
        self._next.close()
        self._now.close()
