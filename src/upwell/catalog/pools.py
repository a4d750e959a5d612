"""Pools, and what every account holds in them: what is done inside one transaction.

The counters change in the transaction that changes what they count.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from upwell.catalog import totals
from upwell.catalog.prepared import Prepared
from upwell.catalog.schema import (
    accounts,
    blobs,
    chunks,
    files,
    garbage,
    in_progress,
    insert,
    insert_new,
    pools,
    tasks,
    usage,
)
from upwell.errors import PoolExists, PoolInUse, PoolNotFound, QuotaExceeded
from upwell.model import Policy, Pool, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy import Connection

    from upwell.catalog.sqlite import Sqlite
    from upwell.model import Allowance

_FIGURES = ("stored_bytes", "reserved_bytes", "files")
_SECOND = timedelta(seconds=1)
_LOCK_POOL = sa.select(pools.c.id).where(pools.c.id == sa.bindparam("pool")).with_for_update()
_KEEP_POOL = Prepared(
    sa.select(pools.c.id).where(pools.c.id == sa.bindparam("pool")).with_for_update(read=True)
)
_BESIDE = (  # what chunks take that were sent again with other bytes
    sa.select(tasks.c.account_id, tasks.c.pool_id, sa.func.sum(chunks.c.size).label("figure"))
    .join(chunks, chunks.c.task_id == tasks.c.id)
    .where(in_progress, chunks.c.staged.is_not(None))
    .group_by(tasks.c.account_id, tasks.c.pool_id)
)
_TOTAL = sa.func.coalesce(sa.func.sum(usage.c.stored_bytes + usage.c.reserved_bytes), 0)


def add(conn: Connection, pool: Pool, check: Callable[[list[Pool]], None]) -> None:
    check(everything(conn))
    values = {
        "id": pool.id,
        "account_id": pool.account_id,
        "path": pool.path,
        "created_at": pool.created_at,
        "updated_at": pool.updated_at,
    }
    new = insert_new(conn.dialect.name, pools)
    if not conn.execute(new, values | _changeable(pool)).rowcount:
        raise _exists(pool.name)


def find(conn: Connection, pool_id: str) -> Pool | None:
    row = conn.execute(sa.select(pools).where(pools.c.id == pool_id)).first()
    return None if row is None else _pool(row)


def everything(conn: Connection) -> list[Pool]:
    query = sa.select(pools).order_by(pools.c.created_at, pools.c.id)
    return [_pool(row) for row in conn.execute(query)]


def update(
    conn: Connection, pool_id: str, now: datetime, change: Callable[[Pool], Pool]
) -> Pool | None:
    """What ``change`` may change is taken from its answer; all else stays as it is."""
    this = pools.c.id == pool_id
    row = conn.execute(sa.select(pools).where(this).with_for_update()).first()
    if row is None:
        return None
    wanted = change(_pool(row))
    changed = sa.update(pools).where(this).values(_changeable(wanted) | {"updated_at": now})
    try:
        return _pool(conn.execute(changed.returning(pools)).one())
    except IntegrityError as error:
        raise _exists(wanted.name) from error


def remove(conn: Connection, pool_id: str) -> bool:
    this = pools.c.id == pool_id
    row = conn.execute(sa.select(pools.c.name).where(this).with_for_update()).first()
    if row is None:
        return False
    held = usage_in(conn, pool_id)
    uploads = sa.select(tasks.c.id).where(in_progress, tasks.c.pool_id == pool_id)
    stored = sa.select(blobs.c.id).where(blobs.c.pool_id == pool_id)
    if held.files or any(conn.execute(q.limit(1)).first() for q in (uploads, stored)):
        raise PoolInUse(
            f"The pool {row.name!r} is in use: move or delete its {held.files} files, and cancel "
            "its uploads, before you delete it."
        )
    for table in (usage, garbage):
        conn.execute(sa.delete(table).where(table.c.pool_id == pool_id))
    conn.execute(sa.delete(pools).where(this))
    return True


def require(conn: Connection, pool_id: str) -> None:
    """Raises PoolNotFound when a pool was removed; else it stays until the transaction ends."""
    if _KEEP_POOL.first(conn, {"pool": pool_id}) is None:
        raise PoolNotFound("This pool was removed: choose another one.")


def _exists(name: str) -> PoolExists:
    return PoolExists(f"A pool named {name!r} exists already: choose another name.")


def _changeable(pool: Pool) -> dict[str, Any]:
    policy = pool.policy
    return {
        "name": pool.name,
        "max_file_size": policy.max_file_size,
        "accept_types": list(policy.accept_types),
        "allow_encryption": policy.allow_encryption,
        "allow_anonymous": policy.allow_anonymous,
        "public_usable": policy.public_usable,
        "no_metadata": policy.no_metadata,
        "no_optimization": policy.no_optimization,
        "enable_recycle": policy.enable_recycle,
        "quota": policy.quota,
        "file_expiry": policy.file_expiry and policy.file_expiry // _SECOND,
    }


def _pool(row: sa.Row[Any]) -> Pool:
    policy = Policy(
        max_file_size=row.max_file_size,
        accept_types=tuple(row.accept_types),
        allow_encryption=row.allow_encryption,
        allow_anonymous=row.allow_anonymous,
        public_usable=row.public_usable,
        no_metadata=row.no_metadata,
        no_optimization=row.no_optimization,
        enable_recycle=row.enable_recycle,
        quota=row.quota,
        file_expiry=None if row.file_expiry is None else row.file_expiry * _SECOND,
    )
    return Pool(row.id, row.name, policy, row.account_id, row.path, row.created_at, row.updated_at)


# what is held


def count(
    conn: Connection,
    account_id: str,
    pool_id: str,
    *,
    stored: int = 0,
    reserved: int = 0,
    files: int = 0,
) -> None:
    """Add to what an account holds in a pool; subtract what is negative."""
    values = {
        "account_id": account_id,
        "pool_id": pool_id,
        "stored_bytes": stored,
        "reserved_bytes": reserved,
        "files": files,
    }
    _count(conn.dialect.name).count(conn, values)


@cache
def _count(dialect: str) -> Prepared:
    new = insert(dialect, usage)
    sums = {name: usage.c[name] + new.excluded[name] for name in _FIGURES}
    return Prepared(new.on_conflict_do_update(index_elements=["account_id", "pool_id"], set_=sums))


def require_room(
    conn: Connection, account_id: str, pool_id: str, more: int, allowance: Allowance
) -> None:
    """Raises QuotaExceeded when ``more`` bytes and what is held already are more than is
    allowed; its ``meta`` says how much is ``needed``. No bytes always fit: a quota may have
    been set below what was held.

    What carries the quota is locked before the bytes are summed: where two transactions can
    write at once, the other one's are then counted, or not yet begun. A counter that is still
    to be made could not be locked.
    """
    if not more:
        return
    if allowance.pool is not None:
        conn.execute(_LOCK_POOL, {"pool": pool_id})
        used = _total(conn, usage.c.pool_id == pool_id)
        if used + more > allowance.pool:
            told = allowance.told(used)
            raise QuotaExceeded.of("pool", quota=allowance.pool, used=told, needed=more)
    if allowance.account is not None:
        conn.execute(sa.select(accounts.c.id).where(accounts.c.id == account_id).with_for_update())
        used = _total(conn, usage.c.account_id == account_id)
        if used + more > allowance.account:
            raise QuotaExceeded.of("account", quota=allowance.account, used=used, needed=more)


def _total(conn: Connection, where: sa.ColumnElement[bool]) -> int:
    return int(conn.execute(sa.select(_TOTAL).where(where)).scalar_one())


def usage_of(conn: Connection, account_id: str) -> dict[str, Usage]:
    rows = conn.execute(sa.select(usage).where(usage.c.account_id == account_id))
    held = {row.pool_id: Usage(row.stored_bytes, row.reserved_bytes, row.files) for row in rows}
    return {pool_id: each for pool_id, each in held.items() if each != Usage()}


def usage_in(conn: Connection, pool_id: str) -> Usage:
    sums = (sa.func.coalesce(sa.func.sum(usage.c[name]), 0) for name in _FIGURES)
    return Usage(*map(int, conn.execute(sa.select(*sums).where(usage.c.pool_id == pool_id)).one()))


def repair(conn: Connection) -> int:
    """Add to each counter what it lacks; how many figures lacked something."""
    lacks = _counted(conn)
    for row in conn.execute(sa.select(usage)):
        there = lacks[row.account_id, row.pool_id]
        for name in _FIGURES:
            there[name] -= getattr(row, name)
    for (account_id, pool_id), figures in lacks.items():
        stored, reserved, files_ = (figures[name] for name in _FIGURES)
        if stored or reserved or files_:
            count(conn, account_id, pool_id, stored=stored, reserved=reserved, files=files_)
    wrong = sum(bool(figure) for figures in lacks.values() for figure in figures.values())
    return wrong + totals.repair(conn)


def _counted(conn: Connection) -> dict[tuple[str, str], dict[str, int]]:
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys(_FIGURES, 0))
    counts = (
        ("stored_bytes", blobs, sa.func.sum(blobs.c.size), sa.true()),
        ("reserved_bytes", tasks, sa.func.sum(tasks.c.size), in_progress),
        ("files", files, sa.func.count(), sa.true()),
    )
    for name, table, figure, where in counts:
        owner = (table.c.account_id, table.c.pool_id)
        query = sa.select(*owner, figure.label("figure")).where(where).group_by(*owner)
        for row in conn.execute(query):
            found[row.account_id, row.pool_id][name] = int(row.figure)
    for row in conn.execute(_BESIDE):
        found[row.account_id, row.pool_id]["reserved_bytes"] += int(row.figure)
    return found


class PoolMethods:
    """``core.rows.PoolRows``, and the repair of its counters: each method one transaction."""

    _db: Sqlite

    def add_pool(self, pool: Pool, check: Callable[[list[Pool]], None] = lambda _: None) -> None:
        """``check`` runs inside the transaction: it must be quick and must not call back."""
        self._db.write(lambda conn: add(conn, pool, check))

    def pool(self, pool_id: str) -> Pool | None:
        return self._db.read(lambda conn: find(conn, pool_id))

    def pools(self) -> list[Pool]:
        return self._db.read(everything)

    def update_pool(
        self, pool_id: str, now: datetime, change: Callable[[Pool], Pool]
    ) -> Pool | None:
        """``change`` runs inside the transaction: it must be quick and must not call back."""
        return self._db.write(lambda conn: update(conn, pool_id, now, change))

    def delete_pool(self, pool_id: str) -> bool:
        return self._db.write(lambda conn: remove(conn, pool_id))

    def pool_usage(self, pool_id: str) -> Usage:
        return self._db.read(lambda conn: usage_in(conn, pool_id))

    def usage(self, account_id: str) -> Mapping[str, Usage]:
        return self._db.read(lambda conn: usage_of(conn, account_id))

    def repair_usage(self) -> int:
        return self._db.write(repair)
