"""create · receive · status · complete · cancel: the verbs of an upload.

Every verb decides who may and what policy allows before its first side effect (I5), and
keeps the order bytes, row, answer (I2). All block; call them from worker threads.
"""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from upwell.core import hashing, policy
from upwell.core.buffers import Budget, Recent
from upwell.core.creating import HEAD, Creating, Limits, Senses, check_digest, sealed_of
from upwell.core.direct import Direct
from upwell.core.homes import home_of
from upwell.core.keys import new_id
from upwell.core.receiving import CHECKSUMS, Checksum, ChunkWriter, is_same, task_not_found
from upwell.core.sealed import (
    SealedReader,
    SealedSlot,
    SealedUpload,
    SealedUploadReader,
    fold,
)
from upwell.core.sealing import Sealing, stored_layout
from upwell.errors import (
    ChecksumUnsupported,
    ChunkIndexInvalid,
    ChunksMissing,
    HashMismatch,
    InternalError,
    NotReady,
    TaskClosed,
    TaskNotFound,
)
from upwell.model import (
    GENERIC_TYPE,
    Blob,
    CloudFile,
    Digest,
    Layout,
    Scope,
    Sealed,
    TaskStatus,
    UploadTask,
    is_generic,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from datetime import datetime

    from upwell.core.direct import Stored
    from upwell.core.homes import Home
    from upwell.core.keys import ServerKey
    from upwell.core.ports import BlobStore, Catalog, ChunkSlot, Clock, Page, UploadReader
    from upwell.errors import UpwellError
    from upwell.model import Allowance, Chunk, NewUpload, Principal, UploadOptions

_LAG = 8  # chunks the whole-file hash may be behind before senders are slowed down
_LAG_WAIT = 1.0  # seconds a sender is slowed down at the most, per chunk
_ROUNDS = 500  # looks at an upload that changes or is being completed elsewhere
_SEEMS_LOST = 5  # of those looks, when the bytes are not to be found
_INSPECTED = 10_000  # tasks that are remembered as looked through
_NAMED = 20  # missing chunks that a message names; ``meta`` has them all


@dataclass(frozen=True, slots=True)
class Status:
    """A task with its acknowledged and missing chunk indexes, both ascending."""

    task: UploadTask
    uploaded: list[int]
    missing: list[int]


class Uploads:
    """The verbs."""

    def __init__(
        self,
        catalog: Catalog,
        homes: Mapping[str, Home],
        clock: Clock,
        key: ServerKey,
        *,
        limits: Limits | None = None,
        senses: Senses | None = None,
    ) -> None:
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._key = key.derive("file keys")
        limits, self._senses = limits or Limits(), senses or Senses()
        self._idle, self._account_quota = limits.idle, limits.account_quota
        self._creating = Creating(
            catalog, homes, clock, self._key, limits=limits, senses=self._senses
        )
        self._direct = Direct(self._creating, catalog, clock, senses=self._senses)
        self._budget = Budget()
        self._recent = Recent()
        self._inspected: dict[str, int] = {}  # task → revision whose bytes were looked through
        self._followers = hashing.Followers(
            catalog, self._open_reader, limits.hash_threads, self._recent
        )

    def close(self) -> None:
        self._followers.close()

    # create

    def create(self, principal: Principal, new: NewUpload) -> UploadTask | CloudFile:
        """A task to send chunks to, or the file when the account already holds the content."""
        return self._creating.create(principal, new)

    def require_sender(self, principal: Principal) -> None:
        """Raises ScopeMissing when the caller may store nothing: asked before a body is read
        into memory. Does not block."""
        policy.require(principal, Scope.WRITE)

    def store_direct(self, principal: Principal, new: NewUpload, data: bytes) -> CloudFile:
        """A small file in one go."""
        return self._direct.store(principal, new, data)

    def store_many(
        self, principal: Principal, given: Sequence[tuple[NewUpload, bytes]]
    ) -> list[Stored | UpwellError]:
        """Small files in one go, each stored or refused for itself."""
        return self._direct.store_many(principal, given)

    def find_many(
        self, principal: Principal, asked: Sequence[NewUpload]
    ) -> list[Stored | UpwellError | None]:
        """What create would find to be there already; None for what is to be sent."""
        return self._direct.find_many(principal, asked)

    def resume(self, principal: Principal, task_id: str, asked: UploadOptions) -> Status:
        """Give an upload these options in place of its own; its status.

        Raises TaskClosed when it has ended, ValidationFailed for what cannot change any more.
        """
        policy.require(principal, Scope.WRITE)
        task = self._open_task(principal, task_id)
        self._require_bytes(task)
        return self._status(self._creating.change(principal, task, asked))

    # receive

    def open_chunk(
        self,
        principal: Principal,
        task_id: str,
        index: int,
        checksum: Checksum | None = None,
    ) -> ChunkWriter:
        """A writer for one chunk, not yet holding the right to write; see ``ChunkWriter``."""
        policy.require(principal, Scope.WRITE)
        task = self._open_task(principal, task_id)
        empty = task.layout.size == 0 and index == 0
        if not (0 <= index < task.layout.count or empty):
            raise ChunkIndexInvalid(
                f"Chunk {index} is not one of this upload's {task.layout.count} chunks; "
                "they are counted from 0.",
                meta={"chunks_count": task.layout.count},
            )
        if checksum and checksum.algorithm not in CHECKSUMS:
            known = ", ".join(CHECKSUMS)
            raise ChecksumUnsupported(f"Upload-Checksum takes one of {known}.")
        try:
            slot = self._slot(task, index)
        except FileNotFoundError:
            raise task_not_found() from None
        pool = home_of(self._homes, task.pool_id).pool
        allowance = policy.allowance(principal, pool, self._account_quota)
        return ChunkWriter(self, task, index, slot, checksum, allowance)

    def _slot(self, task: UploadTask, index: int) -> ChunkSlot:
        store, sealed = self._store_of(task.pool_id), self._sealed(task)
        if sealed is None:
            return store.slot(task.layout, index)
        slot = store.slot(sealed.stored, index)
        if task.layout.size == 0:
            return slot
        return SealedSlot(
            slot,
            sealed,
            index,
            budget=self._budget,
            recent=self._recent,
            intend=lambda fingerprint: self._catalog.intend_chunk(task.id, index, fingerprint),
            acknowledged=lambda: self.acknowledged(task, index),
        )

    def _sealed(self, task: UploadTask) -> SealedUpload | None:
        """How an open upload is sealed; None when it is not encrypted."""
        if task.seal is None:
            return None
        seal = task.seal
        sealing = Sealing.unwrap(seal.wrapped_key, self._key, task.id, seal.head)
        return SealedUpload(sealing, task.layout)

    def _open_reader(self, task: UploadTask) -> UploadReader:
        """Reads what was sent, however it is stored."""
        store, sealed = self._store_of(task.pool_id), self._sealed(task)
        if sealed is None:
            return store.reader(task.layout)
        return SealedUploadReader(store.reader(sealed.stored), sealed)

    def _open_task(self, principal: Principal, task_id: str) -> UploadTask:
        task = self._task(principal, task_id)
        if task.status is not TaskStatus.IN_PROGRESS:
            raise _closed(task)
        return task

    def _task(self, principal: Principal, task_id: str) -> UploadTask:
        task = self._catalog.task(principal.account.id, task_id, self._clock())
        if task is None or task.status is TaskStatus.EXPIRED:
            raise task_not_found()
        return task

    def require_open(self, task: UploadTask) -> None:
        """Raises TaskClosed or TaskNotFound when a task was closed since it was read."""
        now = self._catalog.task(task.account_id, task.id, self._clock())
        if now is None:
            raise task_not_found()
        if now.status is not TaskStatus.IN_PROGRESS:
            raise _closed(now)

    def acknowledged(self, task: UploadTask, index: int) -> Chunk | None:
        return self._catalog.chunk(task.id, index)

    def record(
        self, task: UploadTask, chunk: Chunk, before: Chunk | None, allowance: Allowance
    ) -> None:
        """Acknowledge a durable chunk (I1, I2), and let the digest follow. The side object that
        it replaces goes at once: nobody else would free it before the sweeper does."""
        now = self._clock()
        if task.seal:
            chunk = replace(chunk, size=task.layout.length(chunk.index))  # what was sent of it
        after = self._catalog.record_chunk(task.id, chunk, now, now + self._idle, allowance)
        replaced = before is not None and not is_same(before, chunk)
        if before is not None and replaced and before.staged is not None:
            with suppress(OSError):  # the sweeper comes by
                self._store_of(task.pool_id).unstage(task.layout.key, before.staged)
        follower = self._followers.note(after, chunk, replaced=replaced)
        follower.pace(_LAG, _LAG_WAIT)

    # status

    def status(self, principal: Principal, task_id: str) -> Status:
        """Where an upload stands."""
        policy.require(principal, Scope.READ)
        task = self._task(principal, task_id)
        if task.status is TaskStatus.IN_PROGRESS:
            self._require_bytes(task)
        return self._status(task)

    def _require_bytes(self, task: UploadTask) -> None:
        """Raises TaskNotFound when the bytes of an open upload are known to be gone: it can
        never be completed, and create begins it again."""
        with suppress(OSError, NotReady):
            try:
                self._store_of(task.pool_id).reader(stored_layout_of(task)).close()
            except FileNotFoundError:
                raise task_not_found() from None

    def _status(self, task: UploadTask) -> Status:
        count = task.layout.count
        if task.status is TaskStatus.COMPLETED:
            return Status(task, list(range(count)), [])
        uploaded = self._catalog.chunk_indexes(task.id)
        known = set(uploaded)
        return Status(task, uploaded, [i for i in range(count) if i not in known])

    def progress(self, principal: Principal, task_id: str) -> UploadTask:
        """The task alone: its figures cost the same for any number of chunks."""
        policy.require(principal, Scope.READ)
        return self._task(principal, task_id)

    def tasks(
        self,
        principal: Principal,
        status: TaskStatus | None,
        offset: int,
        take: int,
        after: str | None = None,
    ) -> Page[UploadTask]:
        """The caller's tasks, newest first."""
        policy.require(principal, Scope.READ)
        now, account = self._clock(), principal.account.id
        return self._catalog.tasks(account, status, now, offset, take, after)

    # complete

    def complete(self, principal: Principal, task_id: str) -> CloudFile:
        """Verify and publish, waiting for the digest in this thread."""
        answer = self.begin_complete(principal, task_id)
        while isinstance(answer, Verifying):
            answer.digests.exception()
            answer = self.finish_complete(principal, answer)
        return answer

    def begin_complete(self, principal: Principal, task_id: str) -> CloudFile | Verifying:
        """The file at once when the task became one already; otherwise what to wait for
        before ``finish_complete``. Raises ChunksMissing."""
        policy.require(principal, Scope.WRITE)
        task = self._task(principal, task_id)
        if task.status is TaskStatus.COMPLETED:
            return self._completed(principal, task)
        if task.status is not TaskStatus.IN_PROGRESS:
            raise _closed(task)
        self._require_life(principal, task)
        self._require_bytes(task)
        if task.received_count < task.layout.count:
            raise _chunks_missing(self._status(task))
        return Verifying(task, self._followers.digests(task))

    def _require_life(self, principal: Principal, task: UploadTask) -> None:
        """Raises TaskNotFound when the bundle that the file was to go into has expired."""
        now, account = self._clock(), principal.account.id
        if task.bundle_id and self._catalog.bundle(task.bundle_id, account, now) is None:
            self._catalog.expire_bundles(now)
            self._task(principal, task.id)

    def finish_complete(self, principal: Principal, verifying: Verifying) -> CloudFile | Verifying:
        """Publish a verified upload (I4); ``Verifying`` again when it changed meanwhile.

        Raises HashMismatch, or ChunksMissing when stored bytes turn out to be damaged; nothing
        else that was uploaded is lost by it. Raises OSError when they cannot be read, and then
        nothing has changed.
        """
        task, file = verifying.task, None
        try:
            digests = verifying.digests.result(timeout=0)
            check_digest(task.digest, digests)
            file = self._publish(task, digests)
        except HashMismatch:
            self._forget_damaged(task)
            raise
        except FileNotFoundError:  # completed or cancelled meanwhile, or lost
            if verifying.rounds == _SEEMS_LOST:
                with suppress(FileNotFoundError):
                    self._forget_damaged(task)
        except OSError:  # bytes that cannot be read now, or are not what was acknowledged
            self._forget_damaged(task)
            raise
        except (TaskClosed, CancelledError):
            pass  # completed, cancelled or changed meanwhile
        return file or self._look_again(principal, verifying)

    def _forget_damaged(self, task: UploadTask) -> None:
        """Look for chunks whose bytes are not those that were acknowledged. Raises
        ChunksMissing when there are any: the client sends them again. Raises OSError when one
        cannot be read: that tells nothing about its bytes, so no chunk is forgotten (I1).

        It reads the whole upload, so it is done once for each revision.
        """
        if self._inspected.get(task.id) == task.revision:
            return
        store = self._store_of(task.pool_id)
        chunks = self._catalog.chunks(task.id).all()
        damaged = [chunk for chunk in chunks if not is_whole(store, task, chunk)]
        if forget_chunks(self._catalog, store, task, damaged, self._clock()):
            raise _chunks_missing(self._status(task))
        if damaged:
            return  # another request completes this upload, or has replaced them
        if len(self._inspected) >= _INSPECTED:
            self._inspected.clear()
        self._inspected[task.id] = task.revision

    def _look_again(self, principal: Principal, before: Verifying) -> CloudFile | Verifying:
        if before.rounds >= _ROUNDS:
            raise InternalError("The bytes of this upload cannot be read; see the server's log.")
        time.sleep(0.01 * before.rounds)
        answer = self.begin_complete(principal, before.task.id)
        if isinstance(answer, Verifying):
            return replace(answer, rounds=before.rounds + 1)
        return answer

    def _publish(self, task: UploadTask, digests: dict[str, str]) -> CloudFile | None:
        """The file; None when another request is completing this upload right now."""
        store, layout = self._store_of(task.pool_id), stored_layout_of(task)
        with store.exclusive(layout, "complete") as free:
            if not free:
                return None
            current = self._catalog.task(task.account_id, task.id, self._clock())
            if current is None or not _unchanged(task, current):
                return None
            store.publish(layout, self._catalog.chunks(task.id))
            file = self._file_of(current, self._blob_of(current, digests))
            jobs = self._senses.jobs_for(file, home_of(self._homes, file.pool_id).pool.policy)
            file = self._catalog.complete(task.id, task.revision, file.blob, file, jobs)
            store.unstage(task.layout.key)
        self._followers.forget(task.id)
        return file

    def _blob_of(self, task: UploadTask, digests: dict[str, str]) -> Blob:
        return Blob(
            id=new_id(),
            pool_id=task.pool_id,
            key=task.layout.key,
            size=task.layout.size,
            digests=digests,
            created_at=self._clock(),
            sealed=self._how_sealed(task),
        )

    def _how_sealed(self, task: UploadTask) -> Sealed | None:
        if task.seal is None:
            return None
        head = len(task.seal.head)
        if task.layout.size == 0:
            return sealed_of(self._store_of(task.pool_id), task.layout, head)
        check = fold(self._catalog.fingerprints(task.id))
        return Sealed(head, task.layout.chunk_size, check)

    def _kind_of(self, task: UploadTask) -> str:
        """The type of a published upload's content."""
        if not is_generic(task.content_type):
            return task.content_type
        reader, sealed = self._store_of(task.pool_id).open(task.layout.key), self._sealed(task)
        with closing(SealedReader(reader, sealed.sealing) if sealed else reader) as content:
            return self._senses.type_of(GENERIC_TYPE, content.read_at(0, HEAD))

    def _completed(self, principal: Principal, task: UploadTask) -> CloudFile:
        file = self._catalog.file_of_task(principal.account.id, task.id, self._clock())
        if file is None:
            raise TaskNotFound("The file this upload became was deleted or has expired.")
        return file

    # cancel

    def cancel(self, principal: Principal, task_id: str) -> None:
        """Close a task; its bytes are freed. Raises TaskClosed when it became a file."""
        policy.require(principal, Scope.WRITE)
        task = self._task(principal, task_id)
        if task.status is TaskStatus.CANCELLED:
            return
        if not self._catalog.cancel(principal.account.id, task_id, self._clock()):
            raise _closed(self._task(principal, task_id))
        self._followers.forget(task_id)
        with suppress(OSError, NotReady):  # the sweeper comes back for what is left
            self._store_of(task.pool_id).delete(task.layout.key)

    # helpers

    def _store_of(self, pool_id: str) -> BlobStore:
        return home_of(self._homes, pool_id).store

    def _file_of(self, task: UploadTask, blob: Blob) -> CloudFile:
        now = self._clock()
        return CloudFile(
            id=new_id(),
            account_id=task.account_id,
            pool_id=task.pool_id,
            bundle_id=task.bundle_id,
            blob=blob,
            name=task.file_name,
            mime_type=self._kind_of(task),
            digest=task.digest or Digest("sha256", blob.digests["sha256"]),
            expired_at=task.expired_at,
            created_at=now,
            updated_at=now,
        )


def stored_layout_of(task: UploadTask) -> Layout:
    """How an upload's chunks lie in its store."""
    return stored_layout(task.layout, len(task.seal.head)) if task.seal else task.layout


def is_whole(store: BlobStore, task: UploadTask, chunk: Chunk) -> bool:
    """Whether the stored bytes of an acknowledged chunk are its own; False only after they were
    read. Raises FileNotFoundError when the upload is gone, another OSError when they cannot be
    read; see ``check_chunk``."""
    layout = stored_layout_of(task)
    if task.seal and 0 <= chunk.index < layout.count:
        chunk = replace(chunk, size=layout.length(chunk.index))
    return store.check_chunk(layout, chunk)


def forget_chunks(
    catalog: Catalog, store: BlobStore, task: UploadTask, damaged: Sequence[Chunk], now: datetime
) -> int:
    """Take back the acknowledgement of chunks whose bytes are damaged; how many were taken back.

    None is while another request completes the upload. Raises FileNotFoundError when the upload
    is gone, TaskClosed when it has ended.
    """
    # Completing copies side objects to their place. A chunk that is forgotten meanwhile could be
    # sent again into that place, and be overwritten there after its 200 (I1).
    with store.exclusive(stored_layout_of(task), "complete") as free:
        return sum(catalog.forget_chunk(task.id, chunk, now) for chunk in damaged) if free else 0


@dataclass(frozen=True, slots=True)
class Verifying:
    """A complete under way: wait for ``digests``, then ``finish_complete``."""

    task: UploadTask
    digests: Future[dict[str, str]]
    rounds: int = 0


def _unchanged(before: UploadTask, now: UploadTask) -> bool:
    return (now.status, now.revision) == (before.status, before.revision)


def _chunks_missing(status: Status) -> ChunksMissing:
    missing, count = status.missing, status.task.layout.count
    named = ", ".join(map(str, missing[:_NAMED])) + ("…" if len(missing) > _NAMED else "")
    verb = "is" if len(missing) == 1 else "are"
    return ChunksMissing(
        f"{len(missing)} of {count} chunks {verb} missing: {named}.",
        meta={"missing_chunks": missing},
    )


def _closed(task: UploadTask) -> TaskClosed:
    meta = {"status": str(task.status), "file_id": task.file_id}
    if task.status is TaskStatus.COMPLETED:
        return TaskClosed("This upload is complete; it takes no more chunks.", meta=meta)
    return TaskClosed("This upload was cancelled; create a new one.", meta=meta)
