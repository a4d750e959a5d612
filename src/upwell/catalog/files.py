"""Files, the blobs they share, and what is left over: what is done inside one transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog import events, jobs, pools, totals
from upwell.catalog.batches import BATCH
from upwell.catalog.prepared import Prepared
from upwell.catalog.schema import (
    NUMBERS,
    Instant,
    accounts,
    blobs,
    bundles,
    files,
    garbage,
    in_progress,
    insert,
    insert_new,
    leases,
    tasks,
)
from upwell.catalog.totals import Total
from upwell.model import (
    Allowance,
    Blob,
    CloudFile,
    Digest,
    EventType,
    Garbage,
    Sealed,
    folded,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from upwell.model import NewJob

_EXPIRED_AT_ONCE = 100  # files, each with an event and its deliveries: others wait meanwhile
NOW: sa.BindParameter[datetime] = sa.bindparam("now", type_=Instant)
LIVE = sa.or_(files.c.expired_at.is_(None), files.c.expired_at > NOW)
IN_PLACE = files.c.recycled_at.is_(None)
RECYCLED = files.c.recycled_at.is_not(None)
_NEWEST = (files.c.created_at.desc(), files.c.id.desc())
_BLOB_COLUMNS = [column.label(f"blob_{column.name}") for column in blobs.c]
ALL = sa.select(*(c for c in files.c if c is not files.c.blob_id), *_BLOB_COLUMNS).join(
    blobs, blobs.c.id == files.c.blob_id
)
_ADD_BLOB = Prepared(sa.insert(blobs))


def _add_statement() -> Prepared:
    """A file's number follows the last one in the range of its account."""
    row = {c: sa.bindparam(f"new_{c.name}", type_=c.type) for c in files.c}
    mine = accounts.c.id == row[files.c.account_id]
    start = sa.select(accounts.c.number * NUMBERS).where(mine).scalar_subquery()
    used = sa.select(files.c.number).where(files.c.number > start, files.c.number < start + NUMBERS)
    last = used.order_by(files.c.number.desc()).limit(1).scalar_subquery()
    return Prepared(
        sa.insert(files).values(row | {files.c.number: sa.func.coalesce(last, start) + 1})
    )


_ADD = _add_statement()
_BY_ID = ALL.where(files.c.id == sa.bindparam("file_id"))
_MINE = _BY_ID.where(files.c.account_id == sa.bindparam("account_id"), LIVE)
_FIND = _BY_ID.where(LIVE, IN_PLACE)
_FIND_MINE = _MINE.where(IN_PLACE)


def add_with_blob(
    conn: Connection, blob: Blob, file: CloudFile, allowance: Allowance, new_jobs: Sequence[NewJob]
) -> None:
    pools.require_room(conn, file.account_id, blob.pool_id, blob.size, allowance)
    record(conn, blob, file, new_jobs)


def record(conn: Connection, blob: Blob, file: CloudFile, new_jobs: Sequence[NewJob]) -> None:
    """A file with bytes of its own, for which there is room."""
    _add_blob(conn, blob, file.account_id)
    _add(conn, file)
    jobs.add(conn, new_jobs, file.created_at)


def _add_blob(conn: Connection, blob: Blob, account_id: str) -> None:
    pools.require(conn, blob.pool_id)
    sealed = blob.sealed
    row = {
        "id": blob.id,
        "account_id": account_id,
        "pool_id": blob.pool_id,
        "key": blob.key,
        "size": blob.size,
        "created_at": blob.created_at,
        "sealed_head": sealed and sealed.head,
        "sealed_chunk_size": sealed and sealed.chunk_size,
        "sealed_check": sealed and sealed.check,
        "facts": blob.facts,
        "thumbnail_key": blob.thumbnail_key,
        "preview_key": blob.preview_key,
        "crc32": blob.crc32,
    }
    known = {name: blob.digests.get(name) for name in Digest.ALGORITHMS}
    _ADD_BLOB.count(conn, row | known)
    pools.count(conn, account_id, blob.pool_id, stored=blob.size)


def share_blob(conn: Connection, file: CloudFile, new_jobs: Sequence[NewJob]) -> bool:
    """The blob's row is locked first: a delete of its last file comes wholly before or after."""
    mine = sa.and_(blobs.c.id == file.blob.id, blobs.c.account_id == file.account_id)
    if conn.execute(sa.select(blobs.c.id).where(mine).with_for_update()).first() is None:
        return False
    pools.require(conn, file.pool_id)
    _add(conn, file)
    jobs.add(conn, new_jobs, file.created_at)
    return True


def _add(conn: Connection, file: CloudFile) -> None:
    row = {
        "id": file.id,
        "account_id": file.account_id,
        "pool_id": file.pool_id,
        "bundle_id": file.bundle_id,
        "blob_id": file.blob.id,
        "size": file.blob.size,
        "hash_algorithm": file.digest.algorithm,
        "hash": file.digest.hex,
        "created_at": file.created_at,
        "updated_at": file.updated_at,
        "recycled_at": file.recycled_at,
    }
    _ADD.count(conn, {f"new_{name}": value for name, value in (row | _changeable(file)).items()})
    pools.count(conn, file.account_id, file.pool_id, files=1)
    _tally(conn, file, 1)
    _note(conn, EventType.FILE_CREATED, file, file.created_at)


def _tally(conn: Connection, file: CloudFile, more: int) -> None:
    if file.recycled_at is not None:
        totals.add(conn, Total.RECYCLED, file.account_id, more)
    elif file.bundle_id is not None:
        totals.add(conn, Total.BUNDLED, file.bundle_id, more)


def _note(conn: Connection, type_: EventType, file: CloudFile, now: datetime) -> None:
    events.note(conn, file.account_id, type_, events.file_data(file), now)


def _changeable(file: CloudFile) -> dict[str, Any]:
    return {
        "name": file.name,
        "name_folded": folded(file.name),
        "mime_type": file.mime_type,
        "description": file.description,
        "user_meta": file.user_meta,
        "sensitive_marks": list(file.sensitive_marks),
        "expired_at": file.expired_at,
    }


def duplicates(
    conn: Connection, account_id: str, digest: Digest, size: int, now: datetime
) -> list[CloudFile]:
    asked = {"account": account_id, "digest": digest.hex, "size": size, "now": now}
    return [as_file(row) for row in _same_content(digest.algorithm).all(conn, asked)]


@cache
def _same_content(algorithm: str) -> Prepared:
    # The blob's account is the file's, always. Asked of the blob alone, the digest's index
    # serves; asked of the file too, SQLite walks all files of the account.
    same = sa.and_(
        blobs.c.account_id == sa.bindparam("account"),
        blobs.c[algorithm] == sa.bindparam("digest"),
        blobs.c.size == sa.bindparam("size"),
        blobs.c.sealed_check.is_(None),
    )
    return Prepared(ALL.where(same, LIVE, IN_PLACE).order_by(*_NEWEST))


def by_id(conn: Connection, file_id: str) -> CloudFile | None:
    row = conn.execute(_BY_ID, {"file_id": file_id}).first()
    return None if row is None else as_file(row)


def of_blob(conn: Connection, blob_id: str) -> list[CloudFile]:
    query = ALL.where(blobs.c.id == blob_id).order_by(*_NEWEST)
    return [as_file(row) for row in conn.execute(query)]


def ids_in_bundle(conn: Connection, bundle_id: str) -> list[str]:
    """Expired and recycled ones too."""
    return list(conn.execute(sa.select(files.c.id).where(files.c.bundle_id == bundle_id)).scalars())


def changed_in_bundle(conn: Connection, bundle_id: str, at: datetime) -> list[CloudFile]:
    query = ALL.where(files.c.bundle_id == bundle_id, files.c.updated_at == at)
    return [as_file(row) for row in conn.execute(query)]


def live_among(conn: Connection, where: sa.ColumnElement[bool], now: datetime) -> list[CloudFile]:
    """Files that are live and in place, of the few that ``where`` names."""
    query = ALL.where(where, IN_PLACE, LIVE).order_by(files.c.created_at, files.c.id)
    return [as_file(row) for row in conn.execute(query, {"now": now})]


def blobs_after(conn: Connection, after: str, take: int) -> list[Blob]:
    query = sa.select(*_BLOB_COLUMNS).where(blobs.c.id > after).order_by(blobs.c.id)
    return [_blob(row) for row in conn.execute(query.limit(take))]


def find(conn: Connection, file_id: str, now: datetime, account_id: str | None) -> CloudFile | None:
    query = _FIND if account_id is None else _FIND_MINE
    asked = {"file_id": file_id, "now": now, "account_id": account_id}
    row = conn.execute(query, asked).first()
    return None if row is None else as_file(row)


def of_task(conn: Connection, account_id: str, task_id: str, now: datetime) -> CloudFile | None:
    mine = sa.and_(tasks.c.id == task_id, tasks.c.account_id == account_id)
    query = ALL.join(tasks, tasks.c.file_id == files.c.id).where(mine, LIVE, IN_PLACE)
    row = conn.execute(query, {"now": now}).first()
    return None if row is None else as_file(row)


def locked(
    conn: Connection,
    file_id: str,
    account_id: str,
    now: datetime,
    where: sa.ColumnElement[bool] = IN_PLACE,
) -> CloudFile | None:
    """A file that nobody else changes until the transaction ends."""
    asked = {"file_id": file_id, "now": now, "account_id": account_id}
    row = conn.execute(_MINE.where(where).with_for_update(of=files), asked).first()
    return None if row is None else as_file(row)


def rewrite(
    conn: Connection,
    file: CloudFile,
    values: dict[str, Any],
    now: datetime,
    event: EventType = EventType.FILE_UPDATED,
) -> CloudFile:
    """Change columns of a file's row, which is locked, and note it; the file as changed."""
    change = sa.update(files).where(files.c.id == file.id)
    conn.execute(change.values(values | {"updated_at": now}))
    changed = as_file(conn.execute(_BY_ID, {"file_id": file.id}).one())
    if (file.bundle_id, file.recycled_at) != (changed.bundle_id, changed.recycled_at):
        _tally(conn, file, -1)
        _tally(conn, changed, 1)
    _note(conn, event, changed, now)
    return changed


def update(
    conn: Connection,
    file_id: str,
    account_id: str,
    now: datetime,
    change: Callable[[CloudFile], CloudFile],
) -> CloudFile | None:
    """What ``change`` may change is taken from its answer; all else stays as it is."""
    file = locked(conn, file_id, account_id, now)
    return None if file is None else rewrite(conn, file, _changeable(change(file)), now)


def recycle_one(conn: Connection, file_id: str, account_id: str, now: datetime) -> bool:
    file = locked(conn, file_id, account_id, now)
    if file is None:
        return False
    rewrite(conn, file, {"recycled_at": now}, now, EventType.FILE_RECYCLED)
    return True


def restore(conn: Connection, file_id: str, account_id: str, now: datetime) -> CloudFile | None:
    file = locked(conn, file_id, account_id, now, RECYCLED)
    if file is None:
        return None
    return rewrite(conn, file, {"recycled_at": None}, now, EventType.FILE_RESTORED)


def move(
    conn: Connection,
    file_id: str,
    account_id: str,
    blob: Blob,
    now: datetime,
    allowance: Allowance,
) -> CloudFile | None:
    file = locked(conn, file_id, account_id, now)
    if file is None or file.pool_id == file.blob.pool_id == blob.pool_id:
        return None
    if not _is_shared(conn, file):
        allowance = replace(allowance, account=None)
    pools.require_room(conn, account_id, blob.pool_id, blob.size, allowance)
    _add_blob(conn, blob, account_id)
    pools.count(conn, account_id, file.pool_id, files=-1)
    pools.count(conn, account_id, blob.pool_id, files=1)
    moved = rewrite(conn, file, {"blob_id": blob.id, "pool_id": blob.pool_id}, now)
    _release(conn, file.blob.id, now)
    return moved


def _is_shared(conn: Connection, file: CloudFile) -> bool:
    others = sa.and_(files.c.blob_id == file.blob.id, files.c.id != file.id)
    return conn.execute(sa.select(files.c.id).where(others).limit(1)).first() is not None


def delete(conn: Connection, file_id: str, account_id: str, now: datetime) -> bool:
    file = locked(conn, file_id, account_id, now, sa.true())
    if file is None:
        return False
    _discard(conn, file, now)
    return True


def _discard(
    conn: Connection, file: CloudFile, now: datetime, event: EventType = EventType.FILE_DELETED
) -> None:
    """Remove a file's row, which is locked, and let go of its bytes (I8)."""
    conn.execute(sa.delete(files).where(files.c.id == file.id))
    pools.count(conn, file.account_id, file.pool_id, files=-1)
    _tally(conn, file, -1)
    _release(conn, file.blob.id, now)
    _note(conn, event, file, now)


def expire_some(conn: Connection, now: datetime) -> int:
    """Delete a bounded number of expired files, so that nobody waits long for the writer."""
    return _discard_some(conn, files.c.expired_at <= now, now, EventType.FILE_EXPIRED)


def purge_some(conn: Connection, before: datetime) -> int:
    overdue = files.c.recycled_at < before
    return _discard_some(conn, overdue, datetime.now(UTC), EventType.FILE_DELETED)


def _discard_some(
    conn: Connection, where: sa.ColumnElement[bool], now: datetime, event: EventType
) -> int:
    query = ALL.where(where).limit(_EXPIRED_AT_ONCE).with_for_update(of=files)
    gone = [as_file(row) for row in conn.execute(query)]
    for file in gone:
        _discard(conn, file, now, event)
    return len(gone)


def _release(conn: Connection, blob_id: str, now: datetime) -> None:
    """Drop the blob when no file shares it; its bytes, and what was derived from them, become
    garbage in the same breath (I8)."""
    held = conn.execute(sa.select(blobs).where(blobs.c.id == blob_id).with_for_update()).one()
    if conn.execute(sa.select(files.c.id).where(files.c.blob_id == blob_id).limit(1)).first():
        return
    conn.execute(sa.delete(blobs).where(blobs.c.id == blob_id))
    pools.count(conn, held.account_id, held.pool_id, stored=-held.size)
    for key in (held.key, held.thumbnail_key, held.preview_key):
        if key is not None:
            add_garbage(conn, held.pool_id, key, now)


def describe(
    conn: Connection,
    blob_id: str,
    facts: dict[str, Any],
    thumbnail_key: str | None,
    preview_key: str | None,
) -> list[CloudFile] | None:
    """The files on the blob, as described; None when it is gone or was described before."""
    new = sa.and_(blobs.c.id == blob_id, blobs.c.facts.is_(None))
    values = {"facts": facts, "thumbnail_key": thumbnail_key, "preview_key": preview_key}
    if not conn.execute(sa.update(blobs).where(new).values(values)).rowcount:
        return None
    now, described = datetime.now(UTC), of_blob(conn, blob_id)
    for file in described:
        expired = file.expired_at is not None and file.expired_at <= now
        if file.recycled_at is None and not expired:
            _note(conn, EventType.FILE_UPDATED, file, now)
    return described


def rekey(conn: Connection, blob_id: str, key: str, now: datetime) -> bool:
    this = blobs.c.id == blob_id
    held = conn.execute(sa.select(blobs).where(this).with_for_update()).first()
    if held is not None and held.key != key:
        conn.execute(sa.update(blobs).where(this).values(key=key))
        add_garbage(conn, held.pool_id, held.key, now)
        # No trigger sees it, and the plan of an archive names the key.
        inside = sa.select(files.c.bundle_id).where(files.c.blob_id == blob_id)
        number = bundles.c.revision + 1
        conn.execute(sa.update(bundles).where(bundles.c.id.in_(inside)).values(revision=number))
    return held is not None


def set_crc32(conn: Connection, blob_id: str, crc32: int) -> None:
    conn.execute(sa.update(blobs).where(blobs.c.id == blob_id).values(crc32=crc32))


def add_garbage(conn: Connection, pool_id: str, key: str, now: datetime) -> None:
    row = {"pool_id": pool_id, "key": key, "since": now}
    conn.execute(insert_new(conn.dialect.name, garbage), row)


def oldest_garbage(conn: Connection, limit: int) -> list[Garbage]:
    query = sa.select(garbage).order_by(garbage.c.since, garbage.c.key).limit(limit)
    return [Garbage(row.pool_id, row.key) for row in conn.execute(query)]


def is_garbage(conn: Connection, item: Garbage) -> bool:
    this = sa.and_(garbage.c.pool_id == item.pool_id, garbage.c.key == item.key)
    return conn.execute(sa.select(garbage.c.key).where(this)).first() is not None


def forget_garbage(conn: Connection, items: Sequence[Garbage]) -> None:
    this = sa.and_(garbage.c.pool_id == sa.bindparam("pool"), garbage.c.key == sa.bindparam("at"))
    if items:
        conn.execute(
            sa.delete(garbage).where(this), [{"pool": i.pool_id, "at": i.key} for i in items]
        )


_KEYS = (
    (tasks.c.key, in_progress),
    (blobs.c.key, sa.true()),
    (blobs.c.thumbnail_key, sa.true()),
    (blobs.c.preview_key, sa.true()),
    (garbage.c.key, sa.true()),
)


def unknown_keys(conn: Connection, pool_id: str, keys: Sequence[str]) -> set[str]:
    """One statement for all places, so that a key on its way from one to the next
    (a task that completes, a file that is deleted) is seen in one of them."""
    unknown = set(keys)
    for start in range(0, len(keys), BATCH):
        some = keys[start : start + BATCH]
        known = sa.union_all(
            *(
                sa.select(key).where(key.table.c.pool_id == pool_id, key.in_(some), live)
                for key, live in _KEYS
            )
        )
        unknown.difference_update(conn.execute(known).scalars())
    return unknown


def lease(conn: Connection, name: str, holder: str, now: datetime, until: datetime) -> bool:
    row = insert(conn.dialect.name, leases).values(name=name, holder=holder, until=until)
    free = sa.or_(leases.c.holder == holder, leases.c.until <= now)
    changes = {"holder": holder, "until": until}
    taken = row.on_conflict_do_update(index_elements=["name"], set_=changes, where=free)
    return conn.execute(taken.returning(leases.c.name)).first() is not None


def as_file(row: Any) -> CloudFile:
    return CloudFile(
        id=row.id,
        account_id=row.account_id,
        pool_id=row.pool_id,
        bundle_id=row.bundle_id,
        blob=_blob(row),
        name=row.name,
        mime_type=row.mime_type,
        digest=Digest(row.hash_algorithm, row.hash),
        expired_at=row.expired_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        description=row.description,
        user_meta=row.user_meta,
        sensitive_marks=tuple(row.sensitive_marks),
        recycled_at=row.recycled_at,
    )


def _blob(row: Any) -> Blob:
    digests = {name: getattr(row, f"blob_{name}") for name in Digest.ALGORITHMS}
    return Blob(
        id=row.blob_id,
        pool_id=row.blob_pool_id,
        key=row.blob_key,
        size=row.blob_size,
        digests={name: value for name, value in digests.items() if value is not None},
        created_at=row.blob_created_at,
        sealed=_sealed(row),
        facts=row.blob_facts,
        thumbnail_key=row.blob_thumbnail_key,
        preview_key=row.blob_preview_key,
        crc32=row.blob_crc32,
    )


def _sealed(row: Any) -> Sealed | None:
    if row.blob_sealed_check is None:
        return None
    return Sealed(row.blob_sealed_head, row.blob_sealed_chunk_size, row.blob_sealed_check)
