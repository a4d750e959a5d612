"""Upload tasks and their chunks: what is done inside one transaction.

Writers lock the task's row first (SQLite has one writer anyway), so each decision holds
until the transaction ends.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog import bundles, events, files, pools, totals
from upwell.catalog.batches import BATCH
from upwell.catalog.prepared import Prepared
from upwell.catalog.schema import (
    Instant,
    accounts,
    chunks,
    ended,
    in_progress,
    insert,
    insert_new,
    intents,
    task_identity,
    tasks,
)
from upwell.catalog.totals import Total
from upwell.errors import TaskClosed
from upwell.model import (
    Chunk,
    CloudFile,
    Digest,
    EventType,
    Layout,
    OpenUploads,
    Seal,
    TaskStatus,
    UploadTask,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from upwell.model import Allowance, Blob, NewJob

_BATCH = 10  # a task may have 40,000 chunk rows: 40 ms each, and others wait meanwhile
NOW: sa.BindParameter[datetime] = sa.bindparam("now", type_=Instant)
_ID: sa.BindParameter[str] = sa.bindparam("task")
_ACCOUNT: sa.BindParameter[str] = sa.bindparam("account_id")

# Idle for too long, or of a file that would be gone already.
PAST = sa.or_(
    tasks.c.expires_at <= NOW,
    sa.and_(tasks.c.expired_at.is_not(None), tasks.c.expired_at <= NOW),
)
RUNNING = sa.and_(in_progress, ~PAST)
OVERDUE = sa.and_(in_progress, tasks.c.due_at <= NOW, PAST)
_EXPIRED = sa.or_(tasks.c.status == TaskStatus.EXPIRED, OVERDUE)

_MINE = sa.select(tasks).where(tasks.c.id == _ID, tasks.c.account_id == _ACCOUNT, ~_EXPIRED)
_FIND = Prepared(_MINE)
_LOCK = sa.select(tasks).where(tasks.c.id == _ID).with_for_update()
_BY_IDENTITY = sa.select(tasks).where(
    in_progress, tasks.c.account_id == _ACCOUNT, tasks.c.identity == sa.bindparam("identity")
)

_THIS_CHUNK = sa.and_(chunks.c.task_id == _ID, chunks.c["index"] == sa.bindparam("at"))
_CHUNKS = sa.select(chunks.c["index"], chunks.c.size, chunks.c.etag, chunks.c.staged)
_CHUNK = Prepared(_CHUNKS.where(_THIS_CHUNK))
_INDEXES = sa.select(chunks.c["index"]).where(chunks.c.task_id == _ID).order_by(chunks.c["index"])
_STAGED = _CHUNKS.where(chunks.c.task_id == _ID, chunks.c.staged.is_not(None)).order_by(
    chunks.c["index"]
)
_STAGED_NAMES = (
    sa.select(chunks.c.staged)
    .join(tasks, tasks.c.id == chunks.c.task_id)
    .where(in_progress, tasks.c.key == sa.bindparam("key"), chunks.c.staged.is_not(None))
)
_AFTER = (
    _CHUNKS.where(chunks.c.task_id == _ID, chunks.c["index"] > sa.bindparam("after"))
    .order_by(chunks.c["index"])
    .limit(sa.bindparam("take"))
)
_COUNT_CHUNK = Prepared(
    sa.update(tasks)
    .where(tasks.c.id == _ID, in_progress)
    .values(
        received_count=tasks.c.received_count + sa.bindparam("more"),
        received_bytes=tasks.c.received_bytes + sa.bindparam("bytes"),
        revision=tasks.c.revision + sa.bindparam("replaced"),
        updated_at=NOW,
        expires_at=sa.bindparam("until", type_=Instant),
    )
    .returning(tasks)
)
_REPLACE_CHUNK = (
    sa.update(chunks)
    .where(_THIS_CHUNK)
    .values(
        size=sa.bindparam("new_size"),
        etag=sa.bindparam("new_etag"),
        staged=sa.bindparam("new_staged"),
    )
)
_FIGURES = sa.select(
    sa.func.count().label("count_"),
    sa.func.coalesce(sa.func.sum(chunks.c.size), 0).label("bytes_"),
).where(chunks.c.task_id == _ID)
_BESIDE = sa.select(sa.func.coalesce(sa.func.sum(chunks.c.size), 0)).where(
    chunks.c.task_id == _ID, chunks.c.staged.is_not(None)
)
_DROP_CHUNKS = sa.delete(chunks).where(chunks.c.task_id == _ID)

_STATUS = Prepared(sa.select(tasks.c.status).where(tasks.c.id == _ID).with_for_update())
_INTENT = Prepared(
    sa.select(intents.c.fingerprint).where(
        intents.c.task_id == _ID, intents.c["index"] == sa.bindparam("at")
    )
)
_FINGERPRINTS = (
    sa.select(intents.c.fingerprint).where(intents.c.task_id == _ID).order_by(intents.c["index"])
)
_DROP_INTENTS = sa.delete(intents).where(intents.c.task_id == _ID)


def add(
    conn: Connection,
    task: UploadTask,
    allowance: Allowance,
    check: Callable[[OpenUploads], None] | None = None,
) -> UploadTask:
    """The newcomer, or the one in progress. Where two processes can write at once, the unique
    index decides: the loser looks again, and finds the winner."""
    identity = task.identity()
    while True:
        held = _in_progress(conn, task.account_id, identity)
        if held is not None and not is_past(held, task.created_at):
            return _adopt(conn, held, task)
        if held is not None:
            _close(conn, held, TaskStatus.EXPIRED, task.created_at)
        pools.require(conn, task.pool_id)
        pools.require_room(conn, task.account_id, task.pool_id, task.layout.size, allowance)
        if check is not None:
            check(_locked_open_uploads(conn, task.account_id, task.created_at))
        row = _values(task) | {"identity": identity}
        if conn.execute(_insert_unless_held(conn.dialect.name), row).rowcount:
            pools.count(conn, task.account_id, task.pool_id, reserved=task.layout.size)
            _tally(conn, task.account_id, task.status, 1)
            _note(conn, EventType.UPLOAD_CREATED, task, task.created_at)
            return task


def _locked_open_uploads(conn: Connection, account_id: str, now: datetime) -> OpenUploads:
    """The account's row is locked first: where two transactions can write at once, the other
    one's task is then counted, or not yet begun."""
    conn.execute(sa.select(accounts.c.id).where(accounts.c.id == account_id).with_for_update())
    return open_uploads(conn, account_id, now)


def open_uploads(conn: Connection, account_id: str, now: datetime) -> OpenUploads:
    unsent = sa.func.coalesce(sa.func.sum(tasks.c.size - tasks.c.received_bytes), 0)
    sums = sa.select(sa.func.count(), unsent).where(tasks.c.account_id == account_id, RUNNING)
    return OpenUploads(*map(int, conn.execute(sums, {"now": now}).one()))


def resume(conn: Connection, task: UploadTask) -> UploadTask | None:
    held = _in_progress(conn, task.account_id, task.identity())
    if held is None or is_past(held, task.created_at):
        return None
    return _adopt(conn, held, task)


@cache
def _insert_unless_held(dialect: str) -> sa.Insert:
    where = task_identity.dialect_options["sqlite"]["where"]
    columns = [tasks.c.account_id, tasks.c.identity]
    return insert(dialect, tasks).on_conflict_do_nothing(index_elements=columns, index_where=where)


def _in_progress(conn: Connection, account_id: str, identity: str | None) -> UploadTask | None:
    if identity is None:
        return None
    asked = {"account_id": account_id, "identity": identity}
    row = conn.execute(_BY_IDENTITY.with_for_update(), asked).first()
    return None if row is None else as_task(row)


def _adopt(conn: Connection, held: UploadTask, newcomer: UploadTask) -> UploadTask:
    """Asking again is use: the expiry slides, as it does with a chunk."""
    changes: dict[str, Any] = {
        "content_type": newcomer.content_type,
        "expired_at": newcomer.expired_at,
        "updated_at": newcomer.created_at,
        "expires_at": max(held.expires_at, newcomer.expires_at),
    }
    adopted = replace(held, **changes)
    row = changes | {"due_at": _due_at(adopted)}
    conn.execute(sa.update(tasks).where(tasks.c.id == held.id).values(row))
    return adopted


def change(conn: Connection, task: UploadTask) -> UploadTask | None:
    locked = conn.execute(_LOCK, {"task": task.id}).first()
    held = None if locked is None else as_task(locked)
    if held is None or held.status is not TaskStatus.IN_PROGRESS or is_past(held, task.updated_at):
        return None
    changes: dict[str, Any] = {
        "file_name": task.file_name,
        "content_type": task.content_type,
        "bundle_id": task.bundle_id,
        "expired_at": task.expired_at,
        "updated_at": task.updated_at,
        "expires_at": max(held.expires_at, task.expires_at),
    }
    changed = replace(held, **changes)
    identity = changed.identity()
    other = _in_progress(conn, held.account_id, identity)
    identity = identity if other is None or other.id == held.id else None
    row = changes | {"identity": identity, "due_at": _due_at(changed)}
    conn.execute(sa.update(tasks).where(tasks.c.id == held.id).values(row))
    return changed


def find(conn: Connection, account_id: str, task_id: str, now: datetime) -> UploadTask | None:
    row = _FIND.first(conn, {"account_id": account_id, "task": task_id, "now": now})
    return None if row is None else as_task(row)


def by_identity(
    conn: Connection, account_id: str, identity: str, now: datetime
) -> UploadTask | None:
    row = conn.execute(_BY_IDENTITY, {"account_id": account_id, "identity": identity}).first()
    return None if row is None or is_past(row, now) else as_task(row)


def _tally(conn: Connection, account_id: str, status: str, more: int) -> None:
    totals.add(conn, Total.TASKS, totals.of_tasks(account_id, status), more)


def _due_at(task: Any) -> datetime:
    """The instant from which on a task, or its row, is past if nobody uses it."""
    due_at: datetime = min(task.expires_at, task.expired_at or task.expires_at)
    return due_at


def _set_due_at(conn: Connection, row: Any) -> None:
    conn.execute(sa.update(tasks).where(tasks.c.id == row.id).values(due_at=_due_at(row)))


def is_past(task: Any, now: datetime) -> bool:
    """``PAST``, of a task or its row."""
    return task.expires_at <= now or (task.expired_at is not None and task.expired_at <= now)


def chunk(conn: Connection, task_id: str, index: int) -> Chunk | None:
    row = _CHUNK.first(conn, {"task": task_id, "at": index})
    return None if row is None else _chunk(row)


def chunk_indexes(conn: Connection, task_id: str) -> list[int]:
    return list(conn.execute(_INDEXES, {"task": task_id}).scalars())


def chunks_after(conn: Connection, task_id: str, after: int, take: int) -> list[Chunk]:
    asked = {"task": task_id, "after": after, "take": take}
    return [_chunk(row) for row in conn.execute(_AFTER, asked)]


def staged_chunks(conn: Connection, task_id: str) -> list[Chunk]:
    return [_chunk(row) for row in conn.execute(_STAGED, {"task": task_id})]


def staged_names(conn: Connection, key: str) -> set[str]:
    return set(conn.execute(_STAGED_NAMES, {"key": key}).scalars())


def record_chunk(
    conn: Connection,
    task_id: str,
    new: Chunk,
    now: datetime,
    expires_at: datetime,
    allowance: Allowance,
) -> UploadTask:
    """Counted as new first, which also locks the task; put right when it was a replacement."""
    slide = {"task": task_id, "now": now, "until": expires_at}
    row: Any = _COUNT_CHUNK.first(conn, slide | {"more": 1, "bytes": new.size, "replaced": 0})
    if row is None:
        raise _closed(conn, task_id)
    values = {
        "task_id": task_id,
        "index": new.index,
        "size": new.size,
        "etag": new.etag,
        "staged": new.staged,
    }
    old = None
    if not _insert_chunk(conn.dialect.name).count(conn, values):
        old = _replace_chunk(conn, task_id, new)
        same = (old.etag, old.staged) == (new.etag, new.staged)
        put_right = {"more": -1, "bytes": -old.size, "replaced": int(not same)}
        row = _COUNT_CHUNK.first(conn, slide | put_right)
    if row.expires_at < row.due_at:  # the server waits less for a chunk than it did
        _set_due_at(conn, row)
    task = as_task(row)
    if more := _beside(new) - _beside(old):
        pools.require_room(conn, task.account_id, task.pool_id, max(0, more), allowance)
        pools.count(conn, task.account_id, task.pool_id, reserved=more)
    return task


def _beside(chunk: Chunk | None) -> int:
    """Bytes that a chunk takes beside those that its upload has reserved."""
    return chunk.size if chunk is not None and chunk.staged is not None else 0


@cache
def _insert_chunk(dialect: str) -> Prepared:
    return Prepared(insert_new(dialect, chunks))


def _replace_chunk(conn: Connection, task_id: str, new: Chunk) -> Chunk:
    """Put ``new`` in the place of the chunk that is there; that one."""
    where = {"task": task_id, "at": new.index}
    old = _chunk(_CHUNK.first(conn, where))
    changes = {"new_size": new.size, "new_etag": new.etag, "new_staged": new.staged}
    conn.execute(_REPLACE_CHUNK, where | changes)
    return old


def forget_chunk(conn: Connection, task_id: str, chunk: Chunk, now: datetime) -> bool:
    """Counted again rather than subtracted: a damaged catalog may have miscounted."""
    row = conn.execute(_LOCK, {"task": task_id}).first()
    if row is None or row.status != TaskStatus.IN_PROGRESS:
        raise _closed(conn, task_id)
    this = {"task": task_id, "at": chunk.index}
    there = _CHUNK.first(conn, this)
    if there is None or _chunk(there) != chunk:
        return False
    conn.execute(sa.delete(chunks).where(_THIS_CHUNK), this)
    if beside := _beside(chunk):
        pools.count(conn, row.account_id, row.pool_id, reserved=-beside)
    left = conn.execute(_FIGURES, {"task": task_id}).one()
    changes = {
        "received_count": left.count_,
        "received_bytes": left.bytes_,
        "revision": row.revision + 1,
        "updated_at": now,
    }
    conn.execute(sa.update(tasks).where(tasks.c.id == task_id).values(changes))
    return True


def intend_chunk(conn: Connection, task_id: str, index: int, fingerprint: str) -> str:
    row = _STATUS.first(conn, {"task": task_id})
    if row is None or row.status != TaskStatus.IN_PROGRESS:
        raise _closed(conn, task_id)
    values = {"task_id": task_id, "index": index, "fingerprint": fingerprint}
    if _insert_intent(conn.dialect.name).count(conn, values):
        return fingerprint
    row = _INTENT.first(conn, {"task": task_id, "at": index})
    return str(row and row.fingerprint)


@cache
def _insert_intent(dialect: str) -> Prepared:
    return Prepared(insert_new(dialect, intents))


def fingerprints(conn: Connection, task_id: str) -> list[str]:
    return list(conn.execute(_FINGERPRINTS, {"task": task_id}).scalars())


def in_progress_after(conn: Connection, after: str, take: int) -> list[UploadTask]:
    query = sa.select(tasks).where(in_progress, tasks.c.id > after).order_by(tasks.c.id)
    return [as_task(row) for row in conn.execute(query.limit(take))]


def complete(
    conn: Connection,
    task_id: str,
    revision: int,
    blob: Blob,
    file: CloudFile,
    new_jobs: Sequence[NewJob],
) -> CloudFile:
    row = conn.execute(_LOCK, {"task": task_id}).first()
    if row is not None and row.status == TaskStatus.COMPLETED:
        return _earlier(conn, row.file_id)
    if row is None or row.status != TaskStatus.IN_PROGRESS:
        raise _closed(conn, task_id)
    if row.revision != revision:
        raise TaskClosed(
            "A chunk was replaced while the upload was being completed: complete it again."
        )
    fitted = bundles.fit(conn, file, file.created_at)
    if fitted.expired_at is not None and fitted.expired_at <= file.created_at:
        raise TaskClosed(_WHY_CLOSED[TaskStatus.EXPIRED])
    _end(conn, as_task(row), TaskStatus.COMPLETED, file.created_at, file_id=file.id)
    files.record(conn, blob, fitted, new_jobs)
    return fitted


def _earlier(conn: Connection, file_id: str) -> CloudFile:
    file = files.by_id(conn, file_id)
    if file is None:
        raise TaskClosed(
            "This upload was completed, and its file has been deleted since: "
            "create a new upload to send it again."
        )
    return file


def cancel(conn: Connection, account_id: str, task_id: str, now: datetime) -> bool:
    asked = {"account_id": account_id, "task": task_id, "now": now}
    row = conn.execute(_MINE.where(in_progress).with_for_update(), asked).first()
    if row is None:
        return False
    _close(conn, as_task(row), TaskStatus.CANCELLED, now)
    return True


def expire_some(conn: Connection, now: datetime) -> tuple[int, int]:
    """Look at a bounded number of tasks that may be overdue, so that nobody waits long for the
    writer; how many these were, and how many of them were closed. Those that were used
    meanwhile are due later."""
    due = sa.and_(in_progress, tasks.c.due_at <= now)
    some = sa.select(tasks).where(due).order_by(tasks.c.due_at).limit(_BATCH).with_for_update()
    found, closed = conn.execute(some).all(), 0
    for row in found:
        if is_past(row, now):
            _close(conn, as_task(row), TaskStatus.EXPIRED, now)
            closed += 1
        else:
            _set_due_at(conn, row)
    return len(found), closed


def forget_some(conn: Connection, before: datetime) -> int:
    """Asked by ``created_at`` too, which the index has: a chunk must not change an index, and
    what ended before that began before that."""
    over = sa.and_(ended, tasks.c.created_at < before, tasks.c.updated_at < before)
    some = sa.select(tasks.c.id).where(over).limit(BATCH)
    gone = sa.delete(tasks).where(tasks.c.id.in_(some))
    rows = conn.execute(gone.returning(tasks.c.account_id, tasks.c.status)).all()
    subjects = (totals.of_tasks(account_id, status) for account_id, status in rows)
    totals.add_each(conn, Total.TASKS, subjects, -1)
    return len(rows)


_CLOSED_BY = {
    TaskStatus.CANCELLED: EventType.UPLOAD_CANCELLED,
    TaskStatus.EXPIRED: EventType.UPLOAD_EXPIRED,
}


def _close(conn: Connection, task: UploadTask, status: TaskStatus, now: datetime) -> None:
    _end(conn, task, status, now)
    files.add_garbage(conn, task.pool_id, task.layout.key, now)
    _note(conn, _CLOSED_BY[status], replace(task, status=status), now)


def _end(
    conn: Connection,
    task: UploadTask,
    status: TaskStatus,
    now: datetime,
    file_id: str | None = None,
) -> None:
    """Of a seal nothing is kept, nor the identity, in which its check is: with the server's own
    key, passwords could be tried on it faster than on the file."""
    changes = {"status": status, "file_id": file_id, "updated_at": now}
    erased = dict.fromkeys(("identity", "seal_head", "seal_key", "seal_check"))
    conn.execute(sa.update(tasks).where(tasks.c.id == task.id).values(changes | erased))
    beside = int(conn.execute(_BESIDE, {"task": task.id}).scalar_one())
    conn.execute(_DROP_CHUNKS, {"task": task.id})
    conn.execute(_DROP_INTENTS, {"task": task.id})
    pools.count(conn, task.account_id, task.pool_id, reserved=-task.layout.size - beside)
    _tally(conn, task.account_id, TaskStatus.IN_PROGRESS, -1)
    _tally(conn, task.account_id, status, 1)


def _note(conn: Connection, type_: EventType, task: UploadTask, now: datetime) -> None:
    events.note(conn, task.account_id, type_, events.task_data(task), now)


_WHY_CLOSED = {
    TaskStatus.COMPLETED: "This upload is complete: nothing more can be sent to it.",
    TaskStatus.CANCELLED: "This upload was cancelled: create a new one to send the file again.",
    TaskStatus.EXPIRED: "This upload has expired: create a new one to send the file again.",
}


def _closed(conn: Connection, task_id: str) -> TaskClosed:
    row = conn.execute(sa.select(tasks.c.status).where(tasks.c.id == task_id)).first()
    unknown = "There is no such upload any more: create a new one to send the file again."
    return TaskClosed(unknown if row is None else _WHY_CLOSED[TaskStatus(row.status)])


def _values(task: UploadTask) -> dict[str, Any]:
    return {
        "id": task.id,
        "account_id": task.account_id,
        "pool_id": task.pool_id,
        "bundle_id": task.bundle_id,
        "file_name": task.file_name,
        "content_type": task.content_type,
        "hash_algorithm": task.digest and task.digest.algorithm,
        "hash": task.digest and task.digest.hex,
        "key": task.layout.key,
        "size": task.layout.size,
        "chunk_size": task.layout.chunk_size,
        "status": task.status,
        "revision": task.revision,
        "received_count": task.received_count,
        "received_bytes": task.received_bytes,
        "file_id": task.file_id,
        "expired_at": task.expired_at,
        "created_at": task.created_at,
        "updated_at": task.updated_at,
        "expires_at": task.expires_at,
        "due_at": _due_at(task),
        "seal_head": task.seal and task.seal.head,
        "seal_key": task.seal and task.seal.wrapped_key,
        "seal_check": task.seal and task.seal.check,
    }


def as_task(row: Any) -> UploadTask:
    return UploadTask(
        id=row.id,
        account_id=row.account_id,
        pool_id=row.pool_id,
        bundle_id=row.bundle_id,
        file_name=row.file_name,
        content_type=row.content_type,
        digest=None if row.hash is None else Digest(row.hash_algorithm, row.hash),
        expired_at=row.expired_at,
        layout=Layout(row.key, row.size, row.chunk_size),
        status=TaskStatus(row.status),
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
        revision=row.revision,
        received_count=row.received_count,
        received_bytes=row.received_bytes,
        file_id=row.file_id,
        seal=None if row.seal_key is None else Seal(row.seal_head, row.seal_key, row.seal_check),
    )


def _chunk(row: Any) -> Chunk:
    return Chunk(row[0], row[1], row[2], row[3])
