"""SQLite under the catalog: connections, durability, errors, snapshots.

WAL with ``synchronous=FULL``: a commit that returned survives a power cut (I1). One writer
per process, BEGIN IMMEDIATE, so that processes queue for the file instead of failing.
Readers never block and are never blocked.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sqlite3
import time
import uuid
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from upwell.catalog.turns import Turns
from upwell.catalog.writer import Writer, driver_connection
from upwell.errors import NotReady, StorageFailed, StorageFull, UpwellError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

T = TypeVar("T")

BUSY_SECONDS = 30
_PRAGMAS = (
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA wal_autocheckpoint=1000",  # pages of 4 KiB
    "PRAGMA journal_size_limit=67108864",
)
_LITTLE = 1 << 20
_STEP_PAGES = 256  # of 4 KiB, copied at once
_SYNCED_STEPS = 32
# A commit that was written and not synced is undone here, and there after a crash (I2).
_IN_DOUBT = {
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_WRITE,
}
_NO_ANSWER = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})


class Sqlite:
    """One database file: reads on as many connections as there are callers, one writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        url = sa.URL.create("sqlite+pysqlite", database=str(path))
        self.engine = sa.create_engine(
            url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
            hide_parameters=True,  # errors are logged: with names, digests, hashes (I9)
        )
        sa.event.listen(self.engine, "connect", _configure)
        self.turns = Turns(path, BUSY_SECONDS)
        self._writer = Writer(self._connect, self.turns, BUSY_SECONDS)
        self._idle: deque[Connection] = deque()
        self._closed = False
        self.written_at = 0.0  # when this process last wrote, seconds since the epoch

    def read(self, query: Callable[[Connection], T]) -> T:
        """Run ``query``; each of its statements sees what was committed when it began."""
        connection = self._borrow()
        try:
            return query(connection)
        except (DBAPIError, sqlite3.Error) as error:
            raise_explained(error, self.path)
        finally:
            self._give_back(connection)

    def read_consistent(self, query: Callable[[Connection], T]) -> T:
        """Run ``query``; all its statements see the same instant."""

        def at_once(connection: Connection) -> T:
            raw = driver_connection(connection)
            raw.execute("BEGIN")
            try:
                return query(connection)
            finally:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")

        return self.read(at_once)

    def write(self, work: Callable[[Connection], T], *, matters: bool = True) -> T:
        """Run ``work`` in a transaction of its own effect, durable on return. A write that
        does not matter calls for no new snapshot."""
        try:
            return self._writer.submit(work)
        except (DBAPIError, sqlite3.Error, OSError) as error:
            raise_explained(error, self.path)
        finally:
            if matters:
                self.written_at = time.time()

    def write_each(self, works: Sequence[Callable[[Connection], T]]) -> list[T | UpwellError]:
        """``write`` for many, each of its own effect, in few commits: what each returned, or
        the error of ours that it was refused with. Raises any other."""
        try:
            outcomes = self._writer.submit_all(works)
        finally:
            self.written_at = time.time()
        return [self._told(outcome) for outcome in outcomes]

    def _told(self, outcome: T | BaseException) -> T | UpwellError:
        if not isinstance(outcome, BaseException) or isinstance(outcome, UpwellError):
            return outcome
        if not isinstance(outcome, (DBAPIError, sqlite3.Error, OSError)):
            raise outcome
        try:
            raise_explained(outcome, self.path)
        except UpwellError as known:
            return known

    def close(self) -> None:
        self._closed = True
        self._writer.close()
        while self._idle:
            self._idle.pop().close()
        self.engine.dispose()
        self.turns.close()

    def snapshot(self, target: Path, pause: Callable[[], object] = lambda: None) -> None:
        """Put a consistent copy at ``target``, whole or not at all, while writes go on.

        ``pause`` is called after each mebibyte; what it raises ends the copy.
        """
        if target.resolve() == self.path.resolve():
            raise ValueError(f"A snapshot cannot replace the catalog itself ({target}).")
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
        connection = self._borrow()
        try:
            _copy(connection, partial, pause)
            sync(partial)
            partial.replace(target)
            sync(target.parent)
        except (sqlite3.Error, OSError) as error:
            raise_explained(error, target)
        finally:
            self._give_back(connection)
            partial.unlink(missing_ok=True)

    def _borrow(self) -> Connection:
        if self._closed:
            raise NotReady("The catalog is closed: the server is shutting down.")
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _connect(self) -> Connection:
        try:
            return self.engine.connect()
        except DBAPIError as error:
            raise_explained(error, self.path)

    def _give_back(self, connection: Connection) -> None:
        self._idle.append(connection)
        if self._closed:
            with contextlib.suppress(IndexError):
                self._idle.pop().close()


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
    except BaseException:
        connection.close()
        raise


def _copy(connection: Connection, target: Path, pause: Callable[[], object]) -> None:
    raw, steps = driver_connection(connection), itertools.count(1)
    make_private(target, create=True)

    def step(*_: object) -> None:
        if next(steps) % _SYNCED_STEPS == 0:
            sync(target)  # in parts, so that the syncs of uploads never wait for all of it
        pause()

    with closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA synchronous=OFF")  # it is synced here, before it gets its name
        # One transaction over all steps: what is written meanwhile would start them over.
        raw.execute("BEGIN")
        try:
            raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
            raw.backup(copy, pages=_STEP_PAGES, progress=step)
        finally:
            raw.execute("ROLLBACK")
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, complete without a -wal


def make_private(path: Path, *, create: bool = False) -> None:
    """Let the owner alone read and write a file, where there is one.

    Names, digests and hashes are in it. SQLite gives the WAL and its index the mode of the
    database, so that one has to have it before it is opened.
    """
    if create:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        # By name: closing a descriptor of it would drop the locks of SQLite in this process.
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EROFS:  # a disk that is read-only now is served all the same
            raise


def sync(path: Path) -> None:
    """Make a closed file, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def raise_explained(error: Exception, path: Path) -> NoReturn:
    """Raise, in place of a driver's error, one that says what to do, where we know."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", 0)
    if code in _IN_DOUBT:
        raise StorageFailed(
            f"The disk that holds the catalog ({path}) failed ({cause}), and it is not known "
            "whether the change was made. Send the request again, and tell the server's operator "
            "if that does not help.",
            retry_after=5,
        ) from error
    code &= 0xFF
    if _is_about_space(cause, code, path.parent):
        raise StorageFull(
            f"The disk that holds the catalog ({path}) is full; nothing was changed. "
            "Free some space there, then send the request again.",
            retry_after=60,
        ) from error
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        raise NotReady(
            "Another process keeps the catalog locked; nothing was changed. "
            "Send the request again.",
            retry_after=5,
        ) from error
    if code in _NO_ANSWER or (isinstance(cause, OSError) and cause.errno == errno.EROFS):
        raise StorageFailed(
            f"The catalog ({path}) cannot be read or written now ({cause}); nothing was changed. "
            "Send the request again, and tell the server's operator if that does not help.",
            retry_after=5,
        ) from error
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        raise NotReady(
            f"The catalog ({path}) is damaged: {cause}. Stop the server and run `upwell recover`."
        ) from error
    raise error


def _is_about_space(cause: BaseException | None, code: int, folder: Path) -> bool:
    """SQLite says "full" itself; what it calls an I/O error may be a full disk as well."""
    if isinstance(cause, OSError):
        return cause.errno in {errno.ENOSPC, errno.EDQUOT}
    if code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
        return _is_full(folder)
    return code == sqlite3.SQLITE_FULL


def _is_full(folder: Path) -> bool:
    try:
        state = os.statvfs(folder)
    except OSError:
        return False
    return state.f_bavail * state.f_frsize < _LITTLE or (state.f_files > 0 and state.f_favail == 0)


def page_problem(path: Path, pause: Callable[[], object]) -> str | None:
    """What is wrong with the pages and rows of the catalog at ``path``, or None.

    Costs a tenth of ``integrity_problem``, since indexes are not compared with their tables.
    ``pause`` is called after each table; what it raises ends the check.
    """
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0"
    uri = f"{path.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            for (table,) in connection.execute(tables).fetchall():
                check = f'PRAGMA quick_check("{table}")'
                found = [str(row[0]) for row in connection.execute(check)]
                if found != ["ok"]:
                    return f"{path}: {'; '.join(found[:20])}"
                pause()
    except sqlite3.Error as error:
        return f"{path}: {error}"
    return None


def integrity_problem(path: Path | str) -> str | None:
    """What is wrong with the catalog at ``path``, or None; reads all of it, changes nothing."""
    if not Path(path).is_file():
        return f"{path}: no such file"
    uri = f"{Path(path).resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
            if found == ["ok"] and connection.execute("PRAGMA foreign_key_check").fetchone():
                found = ["rows refer to rows that are not there"]
    except sqlite3.Error as error:
        return f"{path}: {error}"
    return None if found == ["ok"] else f"{path}: {'; '.join(found)}"
