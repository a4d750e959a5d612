"""The catalog on SQL: each method of the port as one transaction."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog import accounts, bundles, file_lists, files, task_lists, tasks
from upwell.catalog.batches import repeat, write_some
from upwell.catalog.bundles import BundleMethods
from upwell.catalog.events import EventMethods
from upwell.catalog.jobs import JobMethods
from upwell.catalog.links import LinkMethods
from upwell.catalog.migrate import HEAD, migrate, revision
from upwell.catalog.paging import Window
from upwell.catalog.pools import PoolMethods
from upwell.catalog.sqlite import Sqlite, make_private, raise_explained
from upwell.core.ports import NewFile
from upwell.errors import NotReady
from upwell.model import ALL_FILES, NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from upwell.core.ports import Page
    from upwell.errors import UpwellError
    from upwell.model import (
        Account,
        Allowance,
        Blob,
        Chunk,
        CloudFile,
        Digest,
        FileQuery,
        Garbage,
        NewJob,
        OpenUploads,
        Principal,
        TaskStatus,
        Token,
        UploadTask,
    )

_PAGE = 1000


class SqlCatalog(PoolMethods, BundleMethods, LinkMethods, EventMethods, JobMethods):
    """``core.ports.Catalog`` on a SQL database; its clauses are the contract.

    Reads run in the calling thread; writes are grouped by one writer (``catalog.writer``).
    """

    def __init__(self, database: Sqlite) -> None:
        self._db = database

    @property
    def database(self) -> Sqlite:
        return self._db

    @classmethod
    def open(cls, url_or_path: str | Path) -> SqlCatalog:
        """Open the catalog, created or upgraded when that is needed. Raises NotReady when it
        cannot be used, StorageFull when there is no space to create it."""
        database = Sqlite(_file_path(url_or_path))
        try:
            make_private(database.path, create=True)
            for beside in ("-wal", "-shm", "-journal"):
                make_private(database.path.with_name(f"{database.path.name}{beside}"))
            migrate(database)
        except BaseException as error:
            database.close()
            if isinstance(error, OSError):
                raise_explained(error, database.path)
            raise
        return cls(database)

    def close(self) -> None:
        """Finish the writes under way and close every connection."""
        self._db.close()

    def check(self) -> None:
        if self._db.read(revision) != HEAD:
            raise NotReady("The catalog has another schema than this version: restart the server.")

    def snapshot(self, path: Path | str) -> None:
        """Put a consistent copy at ``path``, durably, whole or not at all."""
        self._db.snapshot(Path(path))

    # accounts and credentials

    def add_account(self, account: Account) -> None:
        self._db.write(lambda conn: accounts.add(conn, account))

    def account(self, name: str) -> Account | None:
        return self._db.read(lambda conn: accounts.by_name(conn, name))

    def accounts(self) -> list[Account]:
        return self._db.read(accounts.everyone)

    def add_token(self, token: Token) -> None:
        self._db.write(lambda conn: accounts.add_token(conn, token))

    def tokens(self, account_id: str) -> list[Token]:
        return self._db.read(lambda conn: accounts.tokens_of(conn, account_id))

    def revoke_token(self, account_id: str, token_id: str, now: datetime) -> bool:
        return self._db.write(lambda conn: accounts.revoke(conn, account_id, token_id, now))

    def principal(self, digest: bytes, now: datetime) -> Principal | None:
        return self._db.read(lambda conn: accounts.principal(conn, digest, now))

    def add_login(self, digest: bytes, account_id: str, expires_at: datetime) -> None:
        self._db.write(lambda conn: accounts.add_login(conn, digest, account_id, expires_at))

    def take_login(self, digest: bytes, now: datetime) -> Account | None:
        return self._db.write(lambda conn: accounts.take_login(conn, digest, now))

    def set_quota(self, account_id: str, quota: int | None) -> None:
        self._set_quota(account_id, quota)

    def _set_quota(self, account_id: str, quota: int | None) -> Account | None:
        return self._db.write(lambda conn: accounts.set_quota(conn, account_id, quota))

    # uploads

    def add_task(
        self,
        task: UploadTask,
        allowance: Allowance,
        check: Callable[[OpenUploads], None] | None = None,
    ) -> UploadTask:
        """``check`` runs inside the transaction: it must be quick and must not call back."""
        return self._db.write(lambda conn: tasks.add(conn, task, allowance, check))

    def open_uploads(self, account_id: str, now: datetime) -> OpenUploads:
        return self._db.read(lambda conn: tasks.open_uploads(conn, account_id, now))

    def task(self, account_id: str, task_id: str, now: datetime) -> UploadTask | None:
        return self._db.read(lambda conn: tasks.find(conn, account_id, task_id, now))

    def resume_task(self, task: UploadTask) -> UploadTask | None:
        return self._db.write(lambda conn: tasks.resume(conn, task))

    def change_task(self, task: UploadTask) -> UploadTask | None:
        return self._db.write(lambda conn: tasks.change(conn, task))

    def task_by_identity(self, account_id: str, identity: str, now: datetime) -> UploadTask | None:
        return self._db.read(lambda conn: tasks.by_identity(conn, account_id, identity, now))

    def tasks(
        self,
        account_id: str,
        status: TaskStatus | None,
        now: datetime,
        offset: int,
        take: int,
        after: str | None = None,
    ) -> Page[UploadTask]:
        window = Window(offset, take, after)
        return self._db.read_consistent(
            lambda conn: task_lists.page(conn, account_id, status, now, window)
        )

    def chunk(self, task_id: str, index: int) -> Chunk | None:
        return self._db.read(lambda conn: tasks.chunk(conn, task_id, index))

    def chunks(self, task_id: str) -> TaskChunks:
        return TaskChunks(self._db, task_id)

    def chunk_indexes(self, task_id: str) -> list[int]:
        return self._db.read(lambda conn: tasks.chunk_indexes(conn, task_id))

    def record_chunk(
        self,
        task_id: str,
        chunk: Chunk,
        now: datetime,
        expires_at: datetime,
        allowance: Allowance = NO_LIMIT,
    ) -> UploadTask:
        return self._db.write(
            lambda conn: tasks.record_chunk(conn, task_id, chunk, now, expires_at, allowance)
        )

    def intend_chunk(self, task_id: str, index: int, fingerprint: str) -> str:
        return self._db.write(lambda conn: tasks.intend_chunk(conn, task_id, index, fingerprint))

    def fingerprints(self, task_id: str) -> list[str]:
        return self._db.read(lambda conn: tasks.fingerprints(conn, task_id))

    def complete(
        self,
        task_id: str,
        revision: int,
        blob: Blob,
        file: CloudFile,
        jobs: Sequence[NewJob] = (),
    ) -> CloudFile:
        return self._db.write(
            lambda conn: tasks.complete(conn, task_id, revision, blob, file, jobs)
        )

    def cancel(self, account_id: str, task_id: str, now: datetime) -> bool:
        return self._db.write(lambda conn: tasks.cancel(conn, account_id, task_id, now))

    def expire_tasks(self, now: datetime) -> int:
        expired, looked = 0, 1
        while looked:
            looked, closed = self._db.write(
                lambda conn: tasks.expire_some(conn, now), matters=False
            )
            expired += closed
        if expired:
            self._db.written_at = time.time()
        return expired

    # files

    def add_file(
        self, blob: Blob, file: CloudFile, allowance: Allowance, jobs: Sequence[NewJob] = ()
    ) -> None:
        self._db.write(partial(_add_file, NewFile(blob, file, allowance, jobs)))

    def add_files(self, new: Sequence[NewFile]) -> list[UpwellError | None]:
        return self._db.write_each([partial(_add_file, each) for each in new])

    def share_blob(self, file: CloudFile, jobs: Sequence[NewJob] = ()) -> bool:
        return self._db.write(lambda conn: files.share_blob(conn, _fit(conn, file), jobs))

    def duplicates(
        self, account_id: str, digest: Digest, size: int, now: datetime
    ) -> list[CloudFile]:
        return self._db.read(lambda conn: files.duplicates(conn, account_id, digest, size, now))

    def file(self, file_id: str, now: datetime, account_id: str | None) -> CloudFile | None:
        return self._db.read(lambda conn: files.find(conn, file_id, now, account_id))

    def file_of_task(self, account_id: str, task_id: str, now: datetime) -> CloudFile | None:
        return self._db.read(lambda conn: files.of_task(conn, account_id, task_id, now))

    def files(
        self,
        account_id: str,
        now: datetime,
        offset: int,
        take: int,
        query: FileQuery = ALL_FILES,
        *,
        recycled: bool = False,
        after: str | None = None,
    ) -> Page[CloudFile]:
        window = Window(offset, take, after)
        return self._db.read_consistent(
            lambda conn: file_lists.page(conn, account_id, now, window, query, recycled=recycled)
        )

    def update_file(
        self,
        file_id: str,
        account_id: str,
        now: datetime,
        change: Callable[[CloudFile], CloudFile],
    ) -> CloudFile | None:
        """``change`` runs inside the transaction: it must be quick and must not call back."""
        return self._db.write(lambda conn: files.update(conn, file_id, account_id, now, change))

    def delete_file(self, file_id: str, account_id: str, now: datetime) -> bool:
        return self._db.write(lambda conn: files.delete(conn, file_id, account_id, now))

    def recycle_file(self, file_id: str, account_id: str, now: datetime) -> bool:
        return self._db.write(lambda conn: files.recycle_one(conn, file_id, account_id, now))

    def restore_file(self, file_id: str, account_id: str, now: datetime) -> CloudFile | None:
        return self._db.write(lambda conn: files.restore(conn, file_id, account_id, now))

    def purge_recycled(self, before: datetime) -> int:
        return repeat(self._db, lambda conn: files.purge_some(conn, before))

    def move_file(
        self, file_id: str, account_id: str, blob: Blob, now: datetime, allowance: Allowance
    ) -> CloudFile | None:
        return self._db.write(
            lambda conn: files.move(conn, file_id, account_id, blob, now, allowance)
        )

    def describe_blob(
        self,
        blob_id: str,
        facts: dict[str, Any],
        thumbnail_key: str | None,
        preview_key: str | None,
    ) -> bool:
        return self._describe(blob_id, facts, thumbnail_key, preview_key) is not None

    def _describe(
        self,
        blob_id: str,
        facts: dict[str, Any],
        thumbnail_key: str | None,
        preview_key: str | None,
    ) -> list[CloudFile] | None:
        return self._db.write(
            lambda conn: files.describe(conn, blob_id, facts, thumbnail_key, preview_key)
        )

    def set_crc32(self, blob_id: str, crc32: int) -> None:
        self._db.write(lambda conn: files.set_crc32(conn, blob_id, crc32))

    def expire_files(self, now: datetime) -> int:
        return repeat(self._db, lambda conn: files.expire_some(conn, now))

    # the sweeper's side

    def garbage(self, limit: int) -> list[Garbage]:
        return self._db.read(lambda conn: files.oldest_garbage(conn, limit))

    def is_garbage(self, item: Garbage) -> bool:
        return self._db.read(lambda conn: files.is_garbage(conn, item))

    def forget_garbage(self, items: Sequence[Garbage]) -> None:
        self._db.write(lambda conn: files.forget_garbage(conn, items))

    def staged_names(self, key: str) -> set[str]:
        return self._db.read(lambda conn: tasks.staged_names(conn, key))

    def unknown_keys(self, pool_id: str, keys: Sequence[str]) -> set[str]:
        return self._db.read(lambda conn: files.unknown_keys(conn, pool_id, keys))

    def forget_tasks(self, before: datetime) -> int:
        return write_some(self._db, lambda conn: tasks.forget_some(conn, before))

    def lease(self, name: str, holder: str, now: datetime, until: datetime) -> bool:
        return self._db.write(
            lambda conn: files.lease(conn, name, holder, now, until), matters=False
        )

    # recovery's side

    def open_tasks(self) -> Iterator[UploadTask]:
        after = ""
        while page := self._tasks_after(after):
            yield from page
            after = page[-1].id

    def _tasks_after(self, after: str) -> list[UploadTask]:
        return self._db.read(lambda conn: tasks.in_progress_after(conn, after, _PAGE))

    def forget_chunk(self, task_id: str, chunk: Chunk, now: datetime) -> bool:
        return self._db.write(lambda conn: tasks.forget_chunk(conn, task_id, chunk, now))

    def blobs(self) -> Iterator[Blob]:
        after = ""
        while page := self._blobs_after(after):
            yield from page
            after = page[-1].id

    def _blobs_after(self, after: str) -> list[Blob]:
        return self._db.read(lambda conn: files.blobs_after(conn, after, _PAGE))

    def rekey_blob(self, blob_id: str, key: str, now: datetime) -> bool:
        return self._db.write(lambda conn: files.rekey(conn, blob_id, key, now))

    def any_file(self, file_id: str) -> CloudFile | None:
        return self._db.read(lambda conn: files.by_id(conn, file_id))

    def files_of_blob(self, blob_id: str) -> list[CloudFile]:
        return self._db.read(lambda conn: files.of_blob(conn, blob_id))


def _add_file(new: NewFile, conn: sa.Connection) -> None:
    file = _fit(conn, new.file)
    files.add_with_blob(conn, new.blob, file, new.allowance, new.jobs)


def _fit(conn: sa.Connection, file: CloudFile) -> CloudFile:
    return bundles.fit(conn, file, file.created_at)


class TaskChunks:
    """``core.ports.Chunks``: read in pages, so that no read transaction outlives a call."""

    def __init__(self, database: Sqlite, task_id: str) -> None:
        self._db = database
        self._task_id = task_id

    def all(self, start: int = 0) -> Iterator[Chunk]:
        after = start - 1
        while page := self._page(after):
            yield from page
            after = page[-1].index

    def staged(self) -> Sequence[Chunk]:
        return self._db.read(lambda conn: tasks.staged_chunks(conn, self._task_id))

    def _page(self, after: int) -> list[Chunk]:
        return self._db.read(lambda conn: tasks.chunks_after(conn, self._task_id, after, _PAGE))


def _file_path(url_or_path: str | Path) -> Path:
    if isinstance(url_or_path, str) and "://" in url_or_path:
        url = sa.make_url(url_or_path)
        if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
            raise NotReady(
                f"The catalog cannot be kept in {url.render_as_string()!r}: "
                "give the path of a SQLite file, or sqlite:///path."
            )
        url_or_path = str(url.database)
    return Path(url_or_path).absolute()
