"""What the core asks of the rooms around it: BlobStore, Catalog, Clock.

Every method here **blocks** and is called from worker threads, many at once, from
several processes on the same data. The clauses in the docstrings are the contract;
``tests/conformance`` holds every implementation to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from upwell.model import (
        Account,
        Blob,
        Chunk,
        CloudFile,
        Digest,
        Garbage,
        Layout,
        Principal,
        TaskStatus,
        Token,
        UploadTask,
    )


class Clock(Protocol):
    def __call__(self) -> datetime:
        """The present instant, timezone-aware, UTC."""
        ...


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Chunk sizes in bytes and the number of chunks a store can take for one upload."""

    min_chunk_size: int
    max_chunk_size: int
    max_chunks: int


class ChunkSlot(Protocol):
    """The right to write one chunk of one upload; at most one holder across all processes.

    Made without the right; ``acquire`` asks for it. A holder that dies loses it. ``close``
    gives it up, and drops whatever was written and not committed; it never raises.
    """

    def acquire(self) -> bool:
        """Try to become the holder, without waiting. Asking makes the present holder see
        ``contended``, until this slot is closed or acquires."""
        ...

    def contended(self) -> bool:
        """Whether somebody newer asks for the slot that this one holds or waits for."""
        ...

    def begin(self, *, replace: bool) -> None:
        """Start a fresh body. With ``replace`` the chunk is already acknowledged, and its
        bytes stay untouched until ``BlobStore.publish``.

        Raises StorageFull; FileNotFoundError when the upload was discarded.
        """
        ...

    def write(self, data: memoryview) -> None:
        """Append to the body. Raises StorageFull."""
        ...

    def commit(self) -> Chunk:
        """Make the body durable (I1). Only now may the catalog learn of it."""
        ...

    def keep(self) -> None:
        """The catalog knows the chunk: ``close`` must not drop it."""
        ...

    def close(self) -> None: ...


class UploadReader(Protocol):
    """Reads acknowledged chunks of an unpublished upload.

    One reader at a time may hold the claim on the upload, across all processes; who dies or
    closes loses it. What is remembered belongs to the upload, and may be lost at any time.
    """

    def read_into(self, index: int, staged: str | None, offset: int, buffer: memoryview) -> int:
        """Fill ``buffer`` from ``offset`` within the chunk; bytes read, 0 only at its end."""
        ...

    def claim(self) -> bool:
        """Try to become the one that follows the upload, without waiting."""
        ...

    def release(self) -> None: ...

    def remember(self, memo: bytes) -> None:
        """Leave a note of up to 1 KiB for the next one that claims."""
        ...

    def recall(self) -> bytes:
        """The last note, or nothing."""
        ...

    def close(self) -> None: ...


class BlobReader(Protocol):
    """Reads a published blob; stays valid when the blob is deleted meanwhile."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; empty only past the end."""
        ...

    def fileno(self) -> int | None:
        """A descriptor the kernel can send from, where there is one."""
        ...

    def close(self) -> None: ...


class Chunks(Protocol):
    """The acknowledged chunks of one upload, read when asked for."""

    def all(self, start: int = 0) -> Iterator[Chunk]:
        """From an index on, ascending."""
        ...

    def staged(self) -> Sequence[Chunk]: ...


class BlobStore(Protocol):
    """Bytes under keys. Knows nothing of tasks, accounts or files.

    A method that raises OSError may have had its effect; each is safe to call again.
    """

    limits: StoreLimits

    def reserve(self, size: int) -> str:
        """Make room for an upload of ``size`` bytes; its new key, durable. Raises StorageFull."""
        ...

    def slot(self, layout: Layout, index: int) -> ChunkSlot:
        """Raises FileNotFoundError when the upload was discarded."""
        ...

    def reader(self, layout: Layout) -> UploadReader:
        """Raises FileNotFoundError when the upload was discarded."""
        ...

    def check_chunk(self, layout: Layout, chunk: Chunk) -> bool:
        """Whether the stored bytes of an acknowledged chunk are whole, and those of its etag.

        Reads them all. Raises FileNotFoundError when the upload itself is gone.
        """
        ...

    def publish(self, layout: Layout, chunks: Chunks) -> None:
        """Make the acknowledged chunks the content of ``key``, durably. Idempotent; every
        index is present in ``chunks``. The caller holds ``exclusive(layout, 'complete')``."""
        ...

    def put(self, data: bytes) -> str:
        """Store a small blob whole, durably and published; its new key. Raises StorageFull."""
        ...

    def open(self, key: str) -> BlobReader:
        """Raises FileNotFoundError."""
        ...

    def delete(self, key: str) -> None:
        """Remove a blob or an upload with all that belongs to it. Idempotent."""
        ...

    def exclusive(self, layout: Layout, role: str) -> AbstractContextManager[bool]:
        """Hold ``role`` (``complete``) for this upload, across processes. The value tells
        whether it was free; never waits. A process that dies lets go."""
        ...

    def list_keys(self) -> Iterable[tuple[str, datetime]]:
        """Every key with the instant of its last change, for the sweeper."""
        ...

    def list_staged(self) -> Iterable[tuple[str, str, datetime]]:
        """Every side object: its key, its name, the instant of its last change."""
        ...

    def unstage(self, key: str, name: str | None = None) -> None:
        """Remove one side object of ``key``, or all of them. Idempotent."""
        ...

    def check(self) -> None:
        """Raises OSError when the store cannot be written to."""
        ...


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Noted:
    """One line of a catalog's journal: what became of an account, a token or a file.

    ``deleted`` is a file's id, ``revoked`` a token's, both of ``account_id``.
    """

    account: Account | None = None
    token: Token | None = None
    file: CloudFile | None = None
    deleted: str | None = None
    revoked: str | None = None
    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing, and how many rows there are in all."""

    items: list[T]
    total: int


class Catalog(Protocol):
    """Rows, each method one transaction, durable when it returns.

    Lookups that name an account find only what is that account's, in one query that is
    the same for an unknown id and for a stranger's. Raises StorageFull when the disk
    under the catalog is full, and then nothing has changed.
    """

    # accounts and credentials

    def add_account(self, account: Account) -> None:
        """Raises AccountExists when the name is taken."""
        ...

    def account(self, name: str) -> Account | None: ...

    def accounts(self) -> list[Account]: ...

    def add_token(self, token: Token) -> None: ...

    def tokens(self, account_id: str) -> list[Token]: ...

    def revoke_token(self, account_id: str, token_id: str, now: datetime) -> bool:
        """Whether there was such a live token."""
        ...

    def principal(self, digest: bytes, now: datetime) -> Principal | None:
        """Whose live token this is the SHA-256 of."""
        ...

    def add_login(self, digest: bytes, account_id: str, expires_at: datetime) -> None: ...

    def take_login(self, digest: bytes, now: datetime) -> Account | None:
        """Spend a one-time login code: it works once."""
        ...

    # uploads

    def add_task(self, task: UploadTask) -> UploadTask:
        """Record a task, unless one of the same account and identity is in progress: then
        that one is returned, with the newcomer's ``content_type`` and ``expired_at``, and its
        expiry slides."""
        ...

    def task(self, account_id: str, task_id: str, now: datetime) -> UploadTask | None:
        """An expired task is not found."""
        ...

    def task_by_identity(self, account_id: str, identity: str, now: datetime) -> UploadTask | None:
        """The task in progress for this content and destination."""
        ...

    def resume_task(self, task: UploadTask) -> UploadTask | None:
        """What ``add_task`` does when there is such a task in progress; None, and nothing is
        recorded, when there is none."""
        ...

    def tasks(
        self,
        account_id: str,
        status: TaskStatus | None,
        now: datetime,
        offset: int,
        take: int,
    ) -> Page[UploadTask]:
        """Newest first."""
        ...

    def chunk(self, task_id: str, index: int) -> Chunk | None: ...

    def chunks(self, task_id: str) -> Chunks: ...

    def chunk_indexes(self, task_id: str) -> list[int]:
        """Acknowledged indexes, ascending."""
        ...

    def record_chunk(
        self, task_id: str, chunk: Chunk, now: datetime, expires_at: datetime
    ) -> UploadTask:
        """Acknowledge a chunk and slide the task's expiry; the task as it is then.

        Replacing a chunk by another etag adds one to ``revision``. Raises TaskClosed when
        the task is no longer in progress.
        """
        ...

    def complete(self, task_id: str, revision: int, blob: Blob, file: CloudFile) -> CloudFile:
        """Turn a task into a file (I4), once: the file it became, now or earlier.

        Raises TaskClosed when it was cancelled, or when ``revision`` is not the task's.
        """
        ...

    def cancel(self, account_id: str, task_id: str, now: datetime) -> bool:
        """Close a task in progress and mark its bytes as garbage, in one transaction."""
        ...

    def expire_tasks(self, now: datetime) -> int:
        """Close tasks past their expiry as ``cancel`` does; how many."""
        ...

    # files

    def add_file(self, blob: Blob, file: CloudFile) -> None:
        """Record a file with bytes of its own."""
        ...

    def share_blob(self, file: CloudFile) -> bool:
        """Record a file on the blob it names; False when that blob is gone."""
        ...

    def duplicates(
        self, account_id: str, digest: Digest, size: int, now: datetime
    ) -> list[CloudFile]:
        """The account's live files of this content, newest first."""
        ...

    def file(self, file_id: str, now: datetime, account_id: str) -> CloudFile | None:
        """A file past its ``expired_at`` is not found."""
        ...

    def file_of_task(self, account_id: str, task_id: str, now: datetime) -> CloudFile | None: ...

    def files(self, account_id: str, now: datetime, offset: int, take: int) -> Page[CloudFile]:
        """Newest first."""
        ...

    def update_file(
        self,
        file_id: str,
        account_id: str,
        now: datetime,
        change: Callable[[CloudFile], CloudFile],
    ) -> CloudFile | None:
        """Change name, meta, marks, type or expiry; the file as changed."""
        ...

    def delete_file(self, file_id: str, account_id: str, now: datetime) -> bool:
        """Remove the row, and mark the bytes as garbage when no other file shares them (I8)."""
        ...

    def expire_files(self, now: datetime) -> int:
        """Delete files past their expiry as ``delete_file`` does; how many."""
        ...

    # the sweeper's side

    def garbage(self, limit: int) -> list[Garbage]: ...

    def forget_garbage(self, items: Sequence[Garbage]) -> None: ...

    def staged_names(self, key: str) -> set[str]:
        """The side objects that chunks of the task in progress under ``key`` name."""
        ...

    def unknown_keys(self, pool_id: str, keys: Sequence[str]) -> set[str]:
        """Which of these keys no live task, blob or garbage row names."""
        ...

    def reserved_bytes(self, pool_id: str, account_id: str | None, now: datetime) -> int:
        """Bytes held by files and tasks in progress, of one account or of all."""
        ...

    def lease(self, name: str, holder: str, now: datetime, until: datetime) -> bool:
        """Take or renew a lease that is free, run out or one's own."""
        ...

    # recovery's side; each may be iterated while rows are changed

    def open_tasks(self) -> Iterator[UploadTask]:
        """Every task in progress, of all accounts."""
        ...

    def forget_chunk(self, task_id: str, index: int, now: datetime) -> None:
        """Take back an acknowledgement: the chunk is missing again, the figures are counted
        anew, and ``revision`` grows, so that no digest taken before counts. Raises TaskClosed
        when the task is no longer in progress."""
        ...

    def blobs(self) -> Iterator[Blob]: ...

    def files_of_blob(self, blob_id: str) -> list[CloudFile]:
        """Every file on the blob, expired ones too."""
        ...

    def check(self) -> None:
        """Raises when the catalog cannot answer."""
        ...

    def close(self) -> None: ...
