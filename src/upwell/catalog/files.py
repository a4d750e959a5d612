"""Files, the blobs they share, and what is left over: what is done inside one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog.schema import (
    Instant,
    blobs,
    files,
    garbage,
    in_progress,
    insert,
    insert_new,
    leases,
    tasks,
)
from upwell.core.ports import Page
from upwell.model import Blob, CloudFile, Digest, Garbage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

_BATCH = 500
_NOW: sa.BindParameter[datetime] = sa.bindparam("now", type_=Instant)
_LIVE = sa.or_(files.c.expired_at.is_(None), files.c.expired_at > _NOW)
_NEWEST = (files.c.created_at.desc(), files.c.id.desc())
_BLOB_COLUMNS = [column.label(f"blob_{column.name}") for column in blobs.c]
_ALL = sa.select(*(c for c in files.c if c is not files.c.blob_id), *_BLOB_COLUMNS).join(
    blobs, blobs.c.id == files.c.blob_id
)
_BY_ID = _ALL.where(files.c.id == sa.bindparam("file_id"))
_MINE = _BY_ID.where(files.c.account_id == sa.bindparam("account_id"), _LIVE)

_RUNNING = sa.and_(in_progress, tasks.c.expires_at > _NOW)


def _only_expired() -> sa.Select[Any]:
    """Blobs that no live file names any more, found from the files that have expired."""
    others = files.alias()
    lives = sa.or_(others.c.expired_at.is_(None), others.c.expired_at > _NOW)
    live = sa.select(others.c.id).where(others.c.blob_id == blobs.c.id, lives)
    found = sa.select(blobs).join(files, files.c.blob_id == blobs.c.id)
    return found.where(files.c.expired_at <= _NOW, ~sa.exists(live.correlate(blobs)))


_ONLY_EXPIRED = _only_expired()


def add_with_blob(conn: Connection, blob: Blob, file: CloudFile) -> None:
    row = {
        "id": blob.id,
        "account_id": file.account_id,
        "pool_id": blob.pool_id,
        "key": blob.key,
        "size": blob.size,
        "created_at": blob.created_at,
    }
    known = {name: blob.digests.get(name) for name in Digest.ALGORITHMS}
    conn.execute(sa.insert(blobs), row | known)
    _add(conn, file)


def share_blob(conn: Connection, file: CloudFile) -> bool:
    """The blob's row is locked first: a delete of its last file comes wholly before or after."""
    mine = sa.and_(blobs.c.id == file.blob.id, blobs.c.account_id == file.account_id)
    if conn.execute(sa.select(blobs.c.id).where(mine).with_for_update()).first() is None:
        return False
    _add(conn, file)
    return True


def _add(conn: Connection, file: CloudFile) -> None:
    row = {
        "id": file.id,
        "account_id": file.account_id,
        "pool_id": file.pool_id,
        "bundle_id": file.bundle_id,
        "blob_id": file.blob.id,
        "hash_algorithm": file.digest.algorithm,
        "hash": file.digest.hex,
        "created_at": file.created_at,
        "updated_at": file.updated_at,
    }
    conn.execute(sa.insert(files), row | _changeable(file))


def _changeable(file: CloudFile) -> dict[str, Any]:
    return {
        "name": file.name,
        "mime_type": file.mime_type,
        "description": file.description,
        "user_meta": file.user_meta,
        "sensitive_marks": list(file.sensitive_marks),
        "expired_at": file.expired_at,
    }


def duplicates(
    conn: Connection, account_id: str, digest: Digest, size: int, now: datetime
) -> list[CloudFile]:
    # The blob's account is the file's, always. Asked of the blob alone, the digest's index
    # serves; asked of the file too, SQLite walks all files of the account.
    same = sa.and_(
        blobs.c.account_id == account_id,
        blobs.c[digest.algorithm] == digest.hex,
        blobs.c.size == size,
    )
    query = _ALL.where(same, _LIVE).order_by(*_NEWEST)
    return [_file(row) for row in conn.execute(query, {"now": now})]


def by_id(conn: Connection, file_id: str) -> CloudFile | None:
    row = conn.execute(_BY_ID, {"file_id": file_id}).first()
    return None if row is None else _file(row)


def of_blob(conn: Connection, blob_id: str) -> list[CloudFile]:
    query = _ALL.where(blobs.c.id == blob_id).order_by(*_NEWEST)
    return [_file(row) for row in conn.execute(query)]


def blobs_after(conn: Connection, after: str, take: int) -> list[Blob]:
    query = sa.select(*_BLOB_COLUMNS).where(blobs.c.id > after).order_by(blobs.c.id)
    return [_blob(row) for row in conn.execute(query.limit(take))]


def find(conn: Connection, file_id: str, now: datetime, account_id: str) -> CloudFile | None:
    asked = {"file_id": file_id, "now": now, "account_id": account_id}
    row = conn.execute(_MINE, asked).first()
    return None if row is None else _file(row)


def of_task(conn: Connection, account_id: str, task_id: str, now: datetime) -> CloudFile | None:
    mine = sa.and_(tasks.c.id == task_id, tasks.c.account_id == account_id)
    query = _ALL.join(tasks, tasks.c.file_id == files.c.id).where(mine, _LIVE)
    row = conn.execute(query, {"now": now}).first()
    return None if row is None else _file(row)


def page(
    conn: Connection, account_id: str, now: datetime, offset: int, take: int
) -> Page[CloudFile]:
    mine = sa.and_(files.c.account_id == account_id, _LIVE)
    count = sa.select(sa.func.count()).select_from(files).where(mine)
    rows = _ALL.where(mine).order_by(*_NEWEST).offset(offset).limit(take)
    total = conn.execute(count, {"now": now}).scalar_one()
    return Page([_file(row) for row in conn.execute(rows, {"now": now})], total)


def update(
    conn: Connection,
    file_id: str,
    account_id: str,
    now: datetime,
    change: Callable[[CloudFile], CloudFile],
) -> CloudFile | None:
    """What ``change`` may change is taken from its answer; all else stays as it is."""
    asked = {"file_id": file_id, "now": now, "account_id": account_id}
    row = conn.execute(_MINE.with_for_update(of=files), asked).first()
    if row is None:
        return None
    values = _changeable(change(_file(row)))
    change_row = sa.update(files).where(files.c.id == file_id)
    conn.execute(change_row.values(values | {"updated_at": now}))
    return by_id(conn, file_id)


def delete(conn: Connection, file_id: str, account_id: str, now: datetime) -> bool:
    mine = sa.and_(files.c.id == file_id, files.c.account_id == account_id, _LIVE)
    gone = sa.delete(files).where(mine).returning(files.c.blob_id)
    blob_id = conn.execute(gone, {"now": now}).scalar()
    if blob_id is None:
        return False
    _release(conn, blob_id, now)
    return True


def expire_some(conn: Connection, now: datetime) -> int:
    """Delete a bounded number of expired files, so that nobody waits long for the writer."""
    overdue = sa.select(files.c.id).where(files.c.expired_at <= now).limit(_BATCH)
    gone = sa.delete(files).where(files.c.id.in_(overdue)).returning(files.c.blob_id)
    released = list(conn.execute(gone).scalars())
    for blob_id in sorted(set(released)):
        _release(conn, blob_id, now)
    return len(released)


def _release(conn: Connection, blob_id: str, now: datetime) -> None:
    """Drop the blob when no file shares it; its bytes become garbage in the same breath (I8)."""
    held = conn.execute(sa.select(blobs).where(blobs.c.id == blob_id).with_for_update()).one()
    if conn.execute(sa.select(files.c.id).where(files.c.blob_id == blob_id).limit(1)).first():
        return
    conn.execute(sa.delete(blobs).where(blobs.c.id == blob_id))
    add_garbage(conn, held.pool_id, held.key, now)


def add_garbage(conn: Connection, pool_id: str, key: str, now: datetime) -> None:
    row = {"pool_id": pool_id, "key": key, "since": now}
    conn.execute(insert_new(conn.dialect.name, garbage), row)


def oldest_garbage(conn: Connection, limit: int) -> list[Garbage]:
    query = sa.select(garbage).order_by(garbage.c.since, garbage.c.key).limit(limit)
    return [Garbage(row.pool_id, row.key) for row in conn.execute(query)]


def forget_garbage(conn: Connection, items: Sequence[Garbage]) -> None:
    this = sa.and_(garbage.c.pool_id == sa.bindparam("pool"), garbage.c.key == sa.bindparam("at"))
    if items:
        conn.execute(
            sa.delete(garbage).where(this), [{"pool": i.pool_id, "at": i.key} for i in items]
        )


def unknown_keys(conn: Connection, pool_id: str, keys: Sequence[str]) -> set[str]:
    """One statement for the three places, so that a key on its way from one to the next
    (a task that completes, a file that is deleted) is seen in one of them."""
    places = [(tasks, in_progress), (blobs, sa.true()), (garbage, sa.true())]
    unknown = set(keys)
    for start in range(0, len(keys), _BATCH):
        some = keys[start : start + _BATCH]
        known = sa.union_all(
            *(
                sa.select(t.c.key).where(t.c.pool_id == pool_id, t.c.key.in_(some), live)
                for t, live in places
            )
        )
        unknown.difference_update(conn.execute(known).scalars())
    return unknown


def reserved_bytes(conn: Connection, pool_id: str, account_id: str | None, now: datetime) -> int:
    """Blobs that only expired files name are subtracted rather than looked for among all:
    the sum reads one index, and few files are expired and not yet swept. Whose those are is
    asked here, lest SQLite take the account's blobs as the way to them."""
    held = _sum(blobs, pool_id, account_id) + _sum(tasks, pool_id, account_id, _RUNNING)
    total: int = conn.execute(sa.select(held), {"now": now}).scalar_one()
    over: dict[str, int] = {
        row.id: row.size
        for row in conn.execute(_ONLY_EXPIRED, {"now": now})
        if row.pool_id == pool_id and account_id in {None, row.account_id}
    }
    return total - sum(over.values())


def _sum(
    table: sa.Table, pool_id: str, account_id: str | None, *where: sa.ColumnElement[bool]
) -> sa.ColumnElement[int]:
    query = sa.select(sa.func.coalesce(sa.func.sum(table.c.size), 0))
    query = query.where(table.c.pool_id == pool_id, *where)
    if account_id is not None:
        query = query.where(table.c.account_id == account_id)
    return query.scalar_subquery()


def lease(conn: Connection, name: str, holder: str, now: datetime, until: datetime) -> bool:
    row = insert(conn.dialect.name, leases).values(name=name, holder=holder, until=until)
    free = sa.or_(leases.c.holder == holder, leases.c.until <= now)
    changes = {"holder": holder, "until": until}
    taken = row.on_conflict_do_update(index_elements=["name"], set_=changes, where=free)
    return conn.execute(taken.returning(leases.c.name)).first() is not None


def _file(row: sa.Row[Any]) -> CloudFile:
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
    )


def _blob(row: sa.Row[Any]) -> Blob:
    columns = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for it
    digests = {name: columns[f"blob_{name}"] for name in Digest.ALGORITHMS}
    return Blob(
        id=row.blob_id,
        pool_id=row.blob_pool_id,
        key=row.blob_key,
        size=row.blob_size,
        digests={name: value for name, value in digests.items() if value is not None},
        created_at=row.blob_created_at,
    )
