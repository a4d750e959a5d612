"""What a transfer tells whoever watches it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


class Watcher:
    """Follows one transfer; override what you care for.

    ``advance`` is called from several threads at once.
    """

    def begin(self, total: int, done: int) -> None:
        """The transfer is of ``total`` bytes, of which ``done`` need not be sent again."""

    def advance(self, count: int) -> None:
        """``count`` more bytes went over; negative when they must go again."""

    def note(self, text: str) -> None:
        """Something happened that a person should know."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is: ``done`` of ``total`` bytes, ``files`` of ``files_total`` files.

    ``done`` goes back when bytes must be sent again.
    """

    done: int
    total: int
    files: int = 0
    files_total: int = 1


OnProgress: TypeAlias = Callable[[Progress], None]


class Reporter(Watcher):
    """Calls a function with every step; one call at a time, from whichever thread it was."""

    def __init__(self, tell: OnProgress) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._total = self._done = 0

    def begin(self, total: int, done: int) -> None:
        with self._lock:
            self._total, self._done = total, done
            self._tell(Progress(done, total))

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._tell(Progress(self._done, self._total))


def watcher_of(progress: Watcher | OnProgress | None) -> Watcher:
    """Who watches: a function becomes a :class:`Reporter`, None somebody who does not look."""
    if isinstance(progress, Watcher):
        return progress
    return Watcher() if progress is None else Reporter(progress)


class Tally:
    """The progress of many files together, told by :class:`Share`, one for each."""

    def __init__(self, total: int, files_total: int, tell: OnProgress | None) -> None:
        self._tell = tell or (lambda _: None)
        self._lock = threading.Lock()
        self._total = total
        self._files_total = files_total
        self._done = self._files = 0

    def add(self, count: int) -> None:
        """``count`` more bytes are done; negative when they must go again."""
        with self._lock:
            self._done += count
            self._report()

    def file_ended(self, left: int) -> None:
        """A file is dealt with; so are the ``left`` bytes of it that were not sent."""
        with self._lock:
            self._done += left
            self._files += 1
            self._report()

    def _report(self) -> None:
        self._tell(Progress(self._done, self._total, self._files, self._files_total))


class Share(Watcher):
    """One file's part in a :class:`Tally`."""

    def __init__(self, tally: Tally, size: int, note: Callable[[str], None]) -> None:
        self._tally = tally
        self._size = size
        self._note = note
        self._lock = threading.Lock()
        self._done = 0

    def begin(self, total: int, done: int) -> None:
        del total
        self._move(lambda before: done - before)

    def advance(self, count: int) -> None:
        self._move(lambda _: count)

    def note(self, text: str) -> None:
        self._note(text)

    def end(self) -> None:
        """The file is dealt with, well or not."""
        self._tally.file_ended(self._size - self._done)

    def _move(self, by: Callable[[int], int]) -> None:
        with self._lock:
            count = by(self._done)
            self._done += count
        self._tally.add(count)
