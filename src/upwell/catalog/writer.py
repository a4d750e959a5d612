"""The group-commit writer: one connection, many writes to a commit.

A commit with ``synchronous=FULL`` costs a sync of the disk. While one is under way, new
writes queue up, and whichever of their callers comes to lead commits all of them: the disk
sets the pace, not the number of callers. A lone caller waits for nobody, and no thread is
woken for it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, cast

from upwell.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from upwell.catalog.turns import Turns

T = TypeVar("T")

MAX_BATCH = 64
OUT_OF_TURN = 8.0  # seconds to wait for SQLite's own lock without a turn
BLOCKED = 0.1  # the same, while the previous write waited for that lock in vain


def driver_connection(connection: Connection) -> sqlite3.Connection:
    """The driver's connection, for transactions: SQLAlchemy's is in autocommit and keeps out."""
    raw: Any = connection.connection.dbapi_connection
    return cast("sqlite3.Connection", raw)


class Job:
    """A write and its outcome."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False


class Writer:
    """Runs writes one after the other; each returns only when its commit is on disk."""

    def __init__(self, connect: Callable[[], Connection], turns: Turns, busy_seconds: int) -> None:
        """``busy_seconds`` is how long a connection waits for SQLite's own lock."""
        self._connect = connect
        self._turns = turns
        self._busy_seconds = busy_seconds
        self._queue: deque[Job] = deque()
        self._lead = threading.Lock()
        self._closed = False
        self._connection: Connection | None = None
        self._waits: float = busy_seconds  # seconds that the connection waits for SQLite's lock
        self._blocked = False

    def submit(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction. What it raises undoes it alone, and comes out here;
        a commit that fails undoes, and comes out of, every write that was in it."""
        job = Job(work)
        self._queue.append(job)
        with self._lead:
            while not job.done:
                self._commit(self._take())
        if job.error is not None:
            raise job.error
        result: T = job.result
        return result

    def submit_all(self, works: Sequence[Callable[[Connection], T]]) -> list[T | BaseException]:
        """``submit`` for many, each undone alone; what each returned, or raised."""
        jobs = [Job(work) for work in works]
        self._queue.extend(jobs)
        with self._lead:
            while not all(job.done for job in jobs):
                self._commit(self._take())
        return [job.result if job.error is None else job.error for job in jobs]

    def close(self) -> None:
        """Finish what is queued, then refuse."""
        with self._lead:
            while batch := self._take():
                self._commit(batch)
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _take(self) -> list[Job]:
        return [self._queue.popleft() for _ in range(min(MAX_BATCH, len(self._queue)))]

    def _commit(self, batch: list[Job]) -> None:
        try:
            if self._closed:
                _fail(batch, NotReady("The catalog is closed: the server is shutting down."))
                return
            self._connection = self._connection or self._connect()
            self._write(self._connection, batch)
        except BaseException as error:  # noqa: BLE001 - each caller of the batch gets it
            _fail(batch, error)
        finally:
            for job in batch:
                job.done = True

    def _write(self, connection: Connection, batch: list[Job]) -> None:
        """Run the batch when SQLite lets it.

        A write without a turn meets a process that is stopped, perhaps inside a transaction: then
        no other can write before it continues. Writes wait one after the other, so only the first
        one waits long.
        """
        raw = driver_connection(connection)
        with self._turns.turn(lambda: raw.execute("PRAGMA data_version").fetchone()) as had:
            patience = self._busy_seconds if had else OUT_OF_TURN
            self._wait_for_lock(raw, BLOCKED if self._blocked else patience)
            try:
                _Batch(connection, batch).run()
            except Exception as error:
                code = getattr(error, "sqlite_errorcode", 0)
                self._blocked = code & 0xFF == sqlite3.SQLITE_BUSY
                raise
        self._blocked = False

    def _wait_for_lock(self, raw: sqlite3.Connection, seconds: float) -> None:
        """Let ``BEGIN`` wait that long."""
        if seconds != self._waits:
            raw.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}")
            self._waits = seconds


def _fail(batch: list[Job], error: BaseException) -> None:
    for job in batch:
        job.result = None
        job.error = job.error or error


class _Batch:
    """One transaction."""

    def __init__(self, connection: Connection, jobs: list[Job]) -> None:
        self._raw = driver_connection(connection)
        self._connection = connection
        self._jobs = jobs

    def run(self) -> None:
        self._raw.execute("BEGIN IMMEDIATE")
        try:
            if len(self._jobs) == 1:
                self._jobs[0].result = self._jobs[0].work(self._connection)
            else:
                for job in self._jobs:
                    self._apply(job)
            self._raw.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _apply(self, job: Job) -> None:
        self._raw.execute("SAVEPOINT job")
        try:
            job.result = job.work(self._connection)
        except Exception as error:
            if not self._raw.in_transaction:
                raise  # a full disk makes SQLite undo the whole transaction by itself
            job.error = error
            self._raw.execute("ROLLBACK TO job")
        self._raw.execute("RELEASE job")

    def _rollback(self) -> None:
        if self._raw.in_transaction:
            self._raw.execute("ROLLBACK")
