"""What the core asks of the rooms around it: BlobStore, Catalog, Clock.

Every method here **blocks** and is called from worker threads, many at once, from
several processes on the same data. The clauses in the docstrings are the contract;
``tests/conformance`` holds every implementation to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from upwell.core.records import NewFile, Page
from upwell.core.rows import (
    AccountRows,
    BundleRows,
    EventRows,
    FileRows,
    JobRows,
    LinkRows,
    PoolRows,
    RecoveryRows,
    SweepRows,
    UploadRows,
)
from upwell.model import Noted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from upwell.model import Chunk, Layout

__all__ = ["NewFile", "Noted", "Page"]


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
    gives it up, and drops whatever was written and not committed; it never raises. Until then
    ``BlobStore.reclaim`` leaves the side object of this slot alone.
    """

    def acquire(self) -> bool:
        """Try to become the holder, without waiting. Asking makes the present holder see
        ``contended``, until this slot is closed or acquires."""
        ...

    def contended(self) -> bool:
        """Whether somebody newer asks for the slot that this one holds or waits for."""
        ...

    def begin(self, *, replace: bool, staged: str | None = None) -> None:
        """Start a fresh body. With ``replace`` the chunk is already acknowledged, with its
        bytes in place or in the side object ``staged``: they stay untouched until
        ``BlobStore.publish``. The body is compared with them, and takes space, in a side object
        of its own, only from the first difference on.

        Raises StorageFull; FileNotFoundError when the upload was discarded.
        """
        ...

    def write(self, data: memoryview) -> None:
        """Append to the body. Raises StorageFull."""
        ...

    def commit(self) -> Chunk:
        """Make the body durable (I1). Only now may the catalog learn of it. A body that was the
        same as the acknowledged bytes is named by their ``staged``."""
        ...

    def keep(self) -> None:
        """The catalog knows the chunk, or may know it: ``close`` must not drop it."""
        ...

    def drop(self) -> None:
        """The catalog has refused the chunk: ``close`` drops it after all."""
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


class Intake(Protocol):
    """The only way to store new bytes: ``BlobStore.reclaim`` leaves them alone until it ends.

    End it after the row that names them, or after the refusal of that row. Neither the clock
    nor a pause of this process may weaken it: use a lock that the system drops when the
    process dies, not a lease.
    """

    def reserve(self, size: int) -> str:
        """Make room for an upload of ``size`` bytes; its new key, durable. Raises StorageFull."""
        ...

    def put(self, data: bytes) -> str:
        """Store a small blob whole, durably and published; its new key. Raises StorageFull."""
        ...

    def put_many(self, contents: Sequence[bytes]) -> list[str]:
        """``put`` for many at once: all of them, or none."""
        ...


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

    def intake(self) -> AbstractContextManager[Intake]:
        """Store new bytes, protected from ``reclaim`` until the context ends."""
        ...

    def slot(self, layout: Layout, index: int) -> ChunkSlot:
        """Raises FileNotFoundError when the upload was discarded."""
        ...

    def reader(self, layout: Layout) -> UploadReader:
        """Raises FileNotFoundError when the upload was discarded."""
        ...

    def check_chunk(self, layout: Layout, chunk: Chunk) -> bool:
        """Whether the stored bytes of an acknowledged chunk are whole, and those of its etag.

        Reads them all. Raises FileNotFoundError when the upload itself is gone, another
        OSError when they cannot be read: False is said only of bytes that were.
        """
        ...

    def publish(self, layout: Layout, chunks: Chunks) -> None:
        """Make the acknowledged chunks the content of ``key``, durably. Idempotent; every
        index is present in ``chunks``. The caller holds ``exclusive(layout, 'complete')``."""
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

    def reclaim(self, key: str, name: str | None, is_stray: Callable[[], bool]) -> bool:
        """Remove a stray: ``key`` as ``delete`` does, or its side object ``name``; whether it
        was removed.

        Nothing happens while an ``Intake`` or ``ChunkSlot`` of any process protects it.
        ``is_stray`` asks the catalog. It is called when that protection is known to have
        ended, and no writer can regain it before the bytes are gone: the row of a writer that
        has finished is visible by then.
        """
        ...

    def check(self) -> None:
        """Raises OSError when the store cannot be written to."""
        ...


class Catalog(
    AccountRows,
    UploadRows,
    FileRows,
    PoolRows,
    BundleRows,
    LinkRows,
    EventRows,
    JobRows,
    SweepRows,
    RecoveryRows,
    Protocol,
):
    """Rows, each method one transaction, durable when it returns.

    Lookups that name an account find only what is that account's, in one query that is
    the same for an unknown id and for a stranger's. Raises StorageFull when the disk
    under the catalog is full, and then nothing has changed.

    A listing takes ``offset`` rows off its beginning, or continues ``after`` the cursor of an
    earlier page (``Page``); it raises ValidationFailed when that is no cursor of this listing in
    this order.

    A method that changes an upload or a file writes the event of it, and the deliveries to
    webhooks that want it, in its own transaction; and so it does with the jobs it is given.
    """

    def check(self) -> None:
        """Raises when the catalog cannot answer."""
        ...

    def close(self) -> None: ...
