"""create · receive · status · complete · cancel: the verbs of an upload.

Every verb decides who may and what policy allows before its first side effect (I5), and
keeps the order bytes, row, answer (I2). All block; call them from worker threads.
"""

from __future__ import annotations

import secrets
import time
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from upwell.core import hashing, policy
from upwell.core.receiving import CHECKSUMS, Checksum, ChunkWriter, task_not_found
from upwell.errors import (
    BundleNotFound,
    ChecksumUnsupported,
    ChunkIndexInvalid,
    ChunksMissing,
    HashMismatch,
    InternalError,
    PoolNotFound,
    TaskClosed,
    TaskNotFound,
    UpwellError,
)
from upwell.model import (
    DEFAULT_POOL_ID,
    GENERIC_TYPE,
    Blob,
    CloudFile,
    Digest,
    Layout,
    Pool,
    Scope,
    TaskStatus,
    UploadTask,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from upwell.core.ports import BlobStore, Catalog, Clock, Page
    from upwell.model import Chunk, NewUpload, Principal

_LAG = 8  # chunks the whole-file hash may be behind before senders are slowed down
_LAG_WAIT = 1.0  # seconds a sender is slowed down at the most, per chunk
_ROUNDS = 500  # looks at an upload that changes or is being completed elsewhere
_HEAD = 8192  # bytes that tell what a content is
_SEEMS_LOST = 5  # of those looks, when the bytes are not to be found
_INSPECTED = 10_000  # tasks that are remembered as looked through
_NAMED = 20  # missing chunks that a message names; ``meta`` has them all


@dataclass(frozen=True, slots=True)
class Status:
    """A task with its acknowledged and missing chunk indexes, both ascending."""

    task: UploadTask
    uploaded: list[int]
    missing: list[int]


@dataclass(frozen=True, slots=True)
class Home:
    """A pool and the store its bytes live in."""

    pool: Pool
    store: BlobStore


def new_id() -> str:
    """An unguessable id of 32 characters."""
    return secrets.token_hex(16)


class Uploads:
    """The verbs. ``idle`` is how long a task lives without a chunk; ``sniff`` tells a content's
    type by its first bytes, where the declared one says nothing."""

    def __init__(
        self,
        catalog: Catalog,
        homes: Mapping[str, Home],
        clock: Clock,
        *,
        idle: timedelta = timedelta(days=7),
        hash_threads: int = 4,
        sniff: Callable[[bytes], str | None] = lambda _: None,
    ) -> None:
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._idle = idle
        self._sniff = sniff
        self._inspected: dict[str, int] = {}  # task → revision whose bytes were looked through
        self._followers = hashing.Followers(catalog, self._store_of, hash_threads)

    def close(self) -> None:
        self._followers.close()

    # create

    def create(self, principal: Principal, new: NewUpload) -> UploadTask | CloudFile:
        """A task to send chunks to, or the file when the account already holds the content."""
        home = self._admit(principal, new)
        existing = self._existing(principal, new, home.pool)
        if existing:
            return existing
        size = policy.fit_chunk_size(new.file_size, new.chunk_size, home.store.limits)
        draft = self._draft(principal, new, home.pool, Layout("", new.file_size, size))
        return self._resumable(draft) or self._reserve(draft, home.store)

    def _admit(self, principal: Principal, new: NewUpload) -> Home:
        policy.require(principal, Scope.WRITE)
        home = self._homes.get(new.pool_id or DEFAULT_POOL_ID)
        if home is None:
            raise PoolNotFound("There is no such pool; leave pool_id out for the default one.")
        if new.bundle_id is not None:
            raise BundleNotFound("There is no such bundle of yours; leave bundle_id out.")
        policy.accept(new, home.pool.policy, self._clock())
        return home

    def _existing(self, principal: Principal, new: NewUpload, pool: Pool) -> CloudFile | None:
        """A file of the account's with this content, for this destination."""
        if new.digest is None:
            return None
        now = self._clock()
        account = principal.account.id
        files = self._catalog.duplicates(account, new.digest, new.file_size, now)
        for file in files:
            if _same_destination(file, new, pool):
                return file
        for file in files:
            shared = self._file(account, new, pool, file.blob, new.digest)
            if self._catalog.share_blob(shared):
                return shared
        return None

    def _draft(
        self, principal: Principal, new: NewUpload, pool: Pool, layout: Layout
    ) -> UploadTask:
        now = self._clock()
        return UploadTask(
            id=new_id(),
            account_id=principal.account.id,
            pool_id=pool.id,
            bundle_id=new.bundle_id,
            file_name=new.file_name,
            content_type=new.content_type,
            digest=new.digest,
            expired_at=new.expired_at,
            layout=layout,
            status=TaskStatus.IN_PROGRESS,
            created_at=now,
            updated_at=now,
            expires_at=now + self._idle,
        )

    def _resumable(self, draft: UploadTask) -> UploadTask | None:
        """The task in progress for the same content and destination; the newest ask's type
        and expiry count, and asking is use."""
        identity = draft.identity()
        if identity is None:
            return None
        if self._catalog.task_by_identity(draft.account_id, identity, draft.created_at) is None:
            return None
        return self._catalog.resume_task(draft)

    def _reserve(self, draft: UploadTask, store: BlobStore) -> UploadTask:
        key = store.reserve(draft.layout.size)
        try:
            task = self._catalog.add_task(replace(draft, layout=replace(draft.layout, key=key)))
        except UpwellError:
            store.delete(key)  # of any other failure the outcome is not known: the sweeper looks
            raise
        if task.layout.key != key:
            store.delete(key)  # another create of the same upload came first
        return task

    # direct

    def store_direct(self, principal: Principal, new: NewUpload, data: bytes) -> CloudFile:
        """A small file in one go."""
        home = self._admit(principal, new)
        _check_size(len(data), new.file_size)
        digests = hashing.digests_of(data, new.digest)
        _check_digest(new.digest, digests)
        existing = self._existing(principal, new, home.pool)
        if existing:
            return existing
        key = home.store.put(data)
        blob = Blob(new_id(), home.pool.id, key, len(data), digests, self._clock())
        declared = new.digest or Digest("sha256", digests["sha256"])
        new = replace(new, content_type=self._type_of(new.content_type, data[:_HEAD]))
        file = self._file(principal.account.id, new, home.pool, blob, declared)
        try:
            self._catalog.add_file(blob, file)
        except UpwellError:
            home.store.delete(key)
            raise
        return file

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
            slot = self._store_of(task.pool_id).slot(task.layout, index)
        except FileNotFoundError:
            raise task_not_found() from None
        return ChunkWriter(self, task, index, slot, checksum)

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

    def record(self, task: UploadTask, chunk: Chunk, before: Chunk | None) -> None:
        """Acknowledge a durable chunk (I1, I2), and let the digest follow."""
        now = self._clock()
        after = self._catalog.record_chunk(task.id, chunk, now, now + self._idle)
        replaced = before is not None and before.etag != chunk.etag
        follower = self._followers.note(after, chunk, replaced=replaced)
        follower.pace(_LAG, _LAG_WAIT)

    # status

    def status(self, principal: Principal, task_id: str) -> Status:
        """Where an upload stands."""
        policy.require(principal, Scope.READ)
        return self._status(self._task(principal, task_id))

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
        self, principal: Principal, status: TaskStatus | None, offset: int, take: int
    ) -> Page[UploadTask]:
        """The caller's tasks, newest first."""
        policy.require(principal, Scope.READ)
        return self._catalog.tasks(principal.account.id, status, self._clock(), offset, take)

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
        if task.received_count < task.layout.count:
            raise _chunks_missing(self._status(task))
        return Verifying(task, self._followers.digests(task))

    def finish_complete(self, principal: Principal, verifying: Verifying) -> CloudFile | Verifying:
        """Publish a verified upload (I4); ``Verifying`` again when it changed meanwhile.

        Raises HashMismatch, or ChunksMissing when stored bytes turn out to be damaged; nothing
        else that was uploaded is lost by it.
        """
        task, file = verifying.task, None
        try:
            digests = verifying.digests.result(timeout=0)
            _check_digest(task.digest, digests)
            file = self._publish(task, digests)
        except HashMismatch:
            self._forget_damaged(task)
            raise
        except FileNotFoundError:  # completed or cancelled meanwhile, or lost
            if verifying.rounds == _SEEMS_LOST:
                self._forget_damaged(task)
        except (TaskClosed, CancelledError):
            pass  # completed, cancelled or changed meanwhile
        return file or self._look_again(principal, verifying)

    def _forget_damaged(self, task: UploadTask) -> None:
        """Look for chunks whose bytes are not those that were acknowledged. Raises
        ChunksMissing when there are any: the client sends them again.

        It reads the whole upload, so it is done once for each revision.
        """
        if self._inspected.get(task.id) == task.revision:
            return
        store = self._store_of(task.pool_id)
        chunks = self._catalog.chunks(task.id).all()
        damaged = [chunk for chunk in chunks if not store.check_chunk(task.layout, chunk)]
        for chunk in damaged:
            self._catalog.forget_chunk(task.id, chunk.index, self._clock())
        if damaged:
            raise _chunks_missing(self._status(task))
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
        store = self._store_of(task.pool_id)
        with store.exclusive(task.layout, "complete") as free:
            if not free:
                return None
            current = self._catalog.task(task.account_id, task.id, self._clock())
            if current is None or not _unchanged(task, current):
                return None
            store.publish(task.layout, self._catalog.chunks(task.id))
            blob = Blob(
                id=new_id(),
                pool_id=task.pool_id,
                key=task.layout.key,
                size=task.layout.size,
                digests=digests,
                created_at=self._clock(),
            )
            with closing(store.open(blob.key)) as reader:
                kind = self._type_of(current.content_type, reader.read_at(0, _HEAD))
            file = self._file_of(replace(current, content_type=kind), blob)
            file = self._catalog.complete(task.id, task.revision, blob, file)
            store.unstage(task.layout.key)
        self._followers.forget(task.id)
        return file

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
        with suppress(OSError):  # the sweeper comes back for what is left
            self._store_of(task.pool_id).delete(task.layout.key)

    # helpers

    def _store_of(self, pool_id: str) -> BlobStore:
        return self._homes[pool_id].store

    def _type_of(self, declared: str, head: bytes) -> str:
        """What was declared, however odd; what the bytes tell when that says nothing."""
        return declared if declared != GENERIC_TYPE else self._sniff(head) or GENERIC_TYPE

    def _file(
        self, account_id: str, new: NewUpload, pool: Pool, blob: Blob, digest: Digest
    ) -> CloudFile:
        now = self._clock()
        return CloudFile(
            id=new_id(),
            account_id=account_id,
            pool_id=pool.id,
            bundle_id=new.bundle_id,
            blob=blob,
            name=new.file_name,
            mime_type=new.content_type,
            digest=digest,
            expired_at=new.expired_at,
            created_at=now,
            updated_at=now,
        )

    def _file_of(self, task: UploadTask, blob: Blob) -> CloudFile:
        now = self._clock()
        return CloudFile(
            id=new_id(),
            account_id=task.account_id,
            pool_id=task.pool_id,
            bundle_id=task.bundle_id,
            blob=blob,
            name=task.file_name,
            mime_type=task.content_type,
            digest=task.digest or Digest("sha256", blob.digests["sha256"]),
            expired_at=task.expired_at,
            created_at=now,
            updated_at=now,
        )


@dataclass(frozen=True, slots=True)
class Verifying:
    """A complete under way: wait for ``digests``, then ``finish_complete``."""

    task: UploadTask
    digests: Future[dict[str, str]]
    rounds: int = 0


def _unchanged(before: UploadTask, now: UploadTask) -> bool:
    return (now.status, now.revision) == (before.status, before.revision)


def _same_destination(file: CloudFile, new: NewUpload, pool: Pool) -> bool:
    return (file.name, file.pool_id, file.bundle_id, file.expired_at) == (
        new.file_name,
        pool.id,
        new.bundle_id,
        new.expired_at,
    )


def _check_size(received: int, declared: int) -> None:
    if received != declared:
        raise HashMismatch(
            f"The file has {received} bytes, not the declared {declared}; check file_size.",
            meta={"expected_size": declared, "size": received},
        )


def _check_digest(declared: Digest | None, digests: dict[str, str]) -> None:
    if declared is None or digests[declared.algorithm] == declared.hex:
        return
    raise HashMismatch(
        "The received bytes do not have the declared hash. Send the chunks that differ again, "
        "or all of them, and complete again; nothing that was uploaded is lost.",
        meta={
            "expected": str(declared),
            "actual": f"{declared.algorithm}:{digests[declared.algorithm]}",
        },
    )


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
