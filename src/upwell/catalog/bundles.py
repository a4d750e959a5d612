"""Bundles, and what they do to the files in them: each transaction of ``BundleRows``.

Writers lock the bundle's row first, so no file enters it while they decide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from upwell.catalog import events, file_lists, totals
from upwell.catalog import files as file_rows
from upwell.catalog.batches import BATCH, repeat
from upwell.catalog.paging import Order, Window, rows_of
from upwell.catalog.schema import (
    Instant,
    bundles,
    files,
    in_progress,
    insert_new,
    pools,
    tasks,
)
from upwell.catalog.totals import Total
from upwell.core.ports import Page
from upwell.errors import SlugTaken
from upwell.model import Bundle, CloudFile, EventType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from upwell.catalog.sqlite import Sqlite

_FEW = 50  # each takes its files and uploads along
_NOW: sa.BindParameter[datetime] = sa.bindparam("now", type_=Instant)
_LIVE = sa.or_(bundles.c.expired_at.is_(None), bundles.c.expired_at > _NOW)
_LIVE_FILE = sa.and_(
    files.c.recycled_at.is_(None),
    sa.or_(files.c.expired_at.is_(None), files.c.expired_at > _NOW),
)
_NEWEST = Order("bundles", (bundles.c.created_at, bundles.c.id), descending=True)


def add(conn: Connection, bundle: Bundle) -> None:
    values = {
        "id": bundle.id,
        "account_id": bundle.account_id,
        "created_at": bundle.created_at,
        "updated_at": bundle.updated_at,
    }
    _free_slug(conn, bundle.slug, bundle.created_at)
    new = insert_new(conn.dialect.name, bundles)
    if not conn.execute(new, values | _changeable(bundle)).rowcount:
        raise _taken(bundle.slug)
    totals.add(conn, Total.BUNDLES, bundle.account_id, 1)


def _changeable(bundle: Bundle) -> dict[str, Any]:
    return {
        "slug": bundle.slug,
        "name": bundle.name,
        "description": bundle.description,
        "passcode_hash": bundle.passcode_hash,
        "expired_at": bundle.expired_at,
    }


def _free_slug(conn: Connection, slug: str, now: datetime) -> None:
    """An expired bundle is not found, so it does not keep its slug until it is swept."""
    overdue = sa.and_(bundles.c.slug == slug, bundles.c.expired_at <= now)
    for row in conn.execute(sa.select(bundles).where(overdue)).all():
        _expire(conn, row)


def _taken(slug: str) -> SlugTaken:
    return SlugTaken(f"There is a bundle at {slug!r} already: choose another slug.")


def find(conn: Connection, bundle_id: str, account_id: str, now: datetime) -> Bundle | None:
    mine = sa.and_(bundles.c.id == bundle_id, bundles.c.account_id == account_id)
    return _first(conn, sa.select(bundles).where(mine), now)


def by_slug(conn: Connection, slug: str, now: datetime) -> Bundle | None:
    return _first(conn, sa.select(bundles).where(bundles.c.slug == slug), now)


def of_file(conn: Connection, file_id: str, now: datetime) -> Bundle | None:
    query = sa.select(bundles).join(files, files.c.bundle_id == bundles.c.id)
    return _first(conn, query.where(files.c.id == file_id), now)


def _first(conn: Connection, query: sa.Select[Any], now: datetime) -> Bundle | None:
    row = conn.execute(query.where(_LIVE), {"now": now}).first()
    return None if row is None else _bundle(row)


def page(conn: Connection, account_id: str, now: datetime, window: Window) -> Page[Bundle]:
    mine = bundles.c.account_id == account_id
    ended = bundles.c.expired_at <= _NOW
    overdue = totals.late(conn, bundles.c.account_id, account_id, ended, now)
    total = totals.of(conn, Total.BUNDLES, account_id) - overdue
    query = sa.select(bundles).where(mine, _LIVE)
    rows, cursor = rows_of(conn, query, _NEWEST, window, {"now": now})
    return Page([_bundle(row) for row in rows], total, cursor)


def cut_some(
    conn: Connection,
    bundle_id: str,
    account_id: str,
    now: datetime,
    change: Callable[[Bundle], Bundle],
) -> int:
    """Cut the life of a bounded number of files to what the bundle's is going to be, when there
    are too many for the transaction that changes the bundle; how many."""
    old = _lock(conn, bundle_id, account_id, now)
    if old is None:
        return 0
    new = change(old)
    _require_slug(conn, old, new, now)
    some = _longer(conn, old, new, BATCH + 1)
    if len(some) <= BATCH:
        return 0
    _end_at(conn, account_id, some[:BATCH], new.expired_at, now)
    return BATCH


def update(
    conn: Connection,
    bundle_id: str,
    account_id: str,
    now: datetime,
    change: Callable[[Bundle], Bundle],
) -> tuple[Bundle, Bundle] | None:
    """A bundle as it was and is, its files cut to its life, but not yet extended to it. What
    ``change`` may change is taken from its answer; all else stays as it is."""
    old = _lock(conn, bundle_id, account_id, now)
    if old is None:
        return None
    values = _changeable(change(old)) | {"updated_at": now}
    new = replace(old, **values)
    _require_slug(conn, old, new, now)
    try:
        conn.execute(sa.update(bundles).where(bundles.c.id == bundle_id).values(values))
    except IntegrityError as error:
        raise _taken(new.slug) from error
    _end_at(conn, account_id, _longer(conn, old, new), new.expired_at, now)
    return old, new


def _require_slug(conn: Connection, old: Bundle, new: Bundle, now: datetime) -> None:
    if new.slug == old.slug:
        return
    _free_slug(conn, new.slug, now)
    if conn.execute(sa.select(bundles.c.id).where(bundles.c.slug == new.slug)).first():
        raise _taken(new.slug)


def _lock(
    conn: Connection, bundle_id: str, account_id: str, now: datetime, *, read: bool = False
) -> Bundle | None:
    found = _any(conn, bundle_id, account_id, read=read)
    return None if found is None or _is_over(found, now) else found


def _any(conn: Connection, bundle_id: str, account_id: str, *, read: bool = False) -> Bundle | None:
    """A bundle that may have expired, locked."""
    mine = sa.and_(bundles.c.id == bundle_id, bundles.c.account_id == account_id)
    row = conn.execute(sa.select(bundles).where(mine).with_for_update(read=read)).first()
    return None if row is None else _bundle(row)


def _is_over(bundle: Bundle, now: datetime) -> bool:
    return bundle.expired_at is not None and bundle.expired_at <= now


def _longer(conn: Connection, old: Bundle, new: Bundle, most: int | None = None) -> Sequence[str]:
    """Files of a bundle that would outlive it, when its end was changed."""
    if new.expired_at in (None, old.expired_at):
        return []
    longer = sa.or_(files.c.expired_at.is_(None), files.c.expired_at > new.expired_at)
    query = sa.select(files.c.id).where(files.c.bundle_id == new.id, longer)
    return conn.execute(query.limit(most)).scalars().all()


def _end_at(
    conn: Connection, account_id: str, ids: Sequence[str], end: datetime | None, now: datetime
) -> None:
    for start in range(0, len(ids), BATCH):
        some = sa.update(files).where(files.c.id.in_(ids[start : start + BATCH]))
        conn.execute(some.values(expired_at=end, updated_at=now))
    _note_updated(conn, account_id, ids, now)


def extend_some(conn: Connection, old: Bundle, now: datetime) -> int:
    """A bounded number of files that ended with the bundle as it was go on with it as it is now,
    as long as their pool lets a file live; how many."""
    was, bundle = old.expired_at, _lock(conn, old.id, old.account_id, now)
    if was is None or bundle is None:
        return 0
    end = bundle.expired_at
    if end is not None and end <= was:
        return 0
    lifetime = sa.select(pools.c.file_expiry).where(pools.c.id == files.c.pool_id)
    age = sa.type_coerce(files.c.created_at, sa.BigInteger)
    most = sa.type_coerce(age + lifetime.scalar_subquery() * 1_000_000, Instant)
    later = sa.and_(files.c.expired_at == was, sa.or_(most.is_(None), most > was))
    until = most if end is None else sa.case((most < end, most), else_=sa.literal(end, Instant))
    some = sa.select(files.c.id).where(files.c.bundle_id == old.id, later).limit(BATCH)
    change = sa.update(files).where(files.c.id.in_(some))
    extended = change.values(expired_at=until, updated_at=now).returning(files.c.id)
    ids = conn.execute(extended).scalars().all()
    _note_updated(conn, old.account_id, ids, now)
    return len(ids)


def _uploads_in(bundle_id: str) -> sa.ColumnElement[bool]:
    """Those in progress."""
    return sa.and_(in_progress, tasks.c.bundle_id == bundle_id)


def _note_updated(conn: Connection, account_id: str, ids: Sequence[str], now: datetime) -> None:
    for start in range(0, len(ids), BATCH):
        some = files.c.id.in_(ids[start : start + BATCH])
        found = file_rows.live_among(conn, some, now)
        data = [events.file_data(file) for file in found]
        events.note_many(conn, account_id, EventType.FILE_UPDATED, data, now)


def fit(conn: Connection, file: CloudFile, now: datetime) -> CloudFile:
    """A file as it can be in the bundle that it names: it lives no longer than that, and is in
    none when that one is gone, or not its account's."""
    if file.bundle_id is None:
        return file
    bundle = _any(conn, file.bundle_id, file.account_id, read=True)
    if bundle is None:
        return replace(file, bundle_id=None)
    ends = [each for each in (file.expired_at, bundle.expired_at) if each is not None]
    fitted = replace(file, expired_at=min(ends, default=None))
    return replace(fitted, bundle_id=None) if _is_over(bundle, now) else fitted


def place(
    conn: Connection, file_id: str, account_id: str, bundle_id: str | None, now: datetime
) -> CloudFile | None:
    file = file_rows.locked(conn, file_id, account_id, now)
    if file is None:
        return None
    placed = fit(conn, replace(file, bundle_id=bundle_id), now)
    if placed.bundle_id != bundle_id:
        return None
    if placed == file:
        return file
    values = {"bundle_id": bundle_id, "expired_at": placed.expired_at}
    return file_rows.rewrite(conn, file, values, now)


def delete_some(conn: Connection, bundle_id: str, account_id: str, now: datetime) -> bool | None:
    """Recycle or delete a bounded number of a bundle's files, and remove it when these were the
    last; whether they were, None when there is no such bundle."""
    if _lock(conn, bundle_id, account_id, now) is None:
        return None
    inside = sa.and_(files.c.bundle_id == bundle_id, _LIVE_FILE)
    query = sa.select(files.c.id, pools.c.enable_recycle)
    query = query.outerjoin(pools, pools.c.id == files.c.pool_id).where(inside)
    some = conn.execute(query.limit(_FEW), {"now": now}).all()
    for file_id, recycles in some:
        away = file_rows.recycle_one if recycles else file_rows.delete
        away(conn, file_id, account_id, now)
    if len(some) == _FEW:
        _empty(conn, files.c.id.in_([file_id for file_id, _ in some]))
        return False
    _remove(conn, bundle_id, account_id)
    return True


def expire_some(conn: Connection, now: datetime) -> int:
    """Its files have expired too, at the latest with it: the sweeper deletes those."""
    query = sa.select(bundles).where(bundles.c.expired_at <= now)
    overdue = conn.execute(query.limit(_FEW).with_for_update()).all()
    for row in overdue:
        _expire(conn, row)
    return len(overdue)


def _expire(conn: Connection, row: sa.Row[Any]) -> None:
    """Files that uploads in progress are going to be would have ended with it."""
    longer = sa.or_(tasks.c.expired_at.is_(None), tasks.c.expired_at > row.expired_at)
    uploads = sa.update(tasks).where(_uploads_in(row.id), longer)
    end = sa.literal(row.expired_at, Instant)
    due_at = sa.case((tasks.c.due_at < end, tasks.c.due_at), else_=end)
    conn.execute(uploads.values(expired_at=row.expired_at, due_at=due_at))
    _remove(conn, row.id, row.account_id)


def _remove(conn: Connection, bundle_id: str, account_id: str) -> None:
    """Remove the row; no file and no upload in progress names it any more."""
    conn.execute(sa.update(tasks).where(_uploads_in(bundle_id)).values(bundle_id=None))
    _empty(conn, files.c.bundle_id == bundle_id)
    conn.execute(sa.delete(bundles).where(bundles.c.id == bundle_id))
    totals.add(conn, Total.BUNDLES, account_id, -1)
    totals.forget(conn, Total.BUNDLED, bundle_id)


def _empty(conn: Connection, those: sa.ColumnElement[bool]) -> None:
    conn.execute(sa.update(files).where(those).values(bundle_id=None))


def _bundle(row: sa.Row[Any]) -> Bundle:
    return Bundle(
        id=row.id,
        account_id=row.account_id,
        slug=row.slug,
        name=row.name,
        description=row.description,
        passcode_hash=row.passcode_hash,
        expired_at=row.expired_at,
        created_at=row.created_at,
        updated_at=row.updated_at,
        revision=row.revision,
    )


class BundleMethods:
    """``core.rows.BundleRows``: each method one transaction, those that may meet any number of
    files or bundles one for a batch."""

    _db: Sqlite

    def add_bundle(self, bundle: Bundle) -> None:
        self._db.write(lambda conn: add(conn, bundle))

    def bundle(self, bundle_id: str, account_id: str, now: datetime) -> Bundle | None:
        return self._db.read(lambda conn: find(conn, bundle_id, account_id, now))

    def bundle_by_slug(self, slug: str, now: datetime) -> Bundle | None:
        return self._db.read(lambda conn: by_slug(conn, slug, now))

    def bundle_of_file(self, file_id: str, now: datetime) -> Bundle | None:
        return self._db.read(lambda conn: of_file(conn, file_id, now))

    def bundles(
        self, account_id: str, now: datetime, offset: int, take: int, after: str | None = None
    ) -> Page[Bundle]:
        window = Window(offset, take, after)
        return self._db.read_consistent(lambda conn: page(conn, account_id, now, window))

    def bundle_files(
        self, bundle_id: str, now: datetime, offset: int, take: int, after: str | None = None
    ) -> Page[CloudFile]:
        window = Window(offset, take, after)
        return self._db.read_consistent(
            lambda conn: file_lists.page_in_bundle(conn, bundle_id, now, window)
        )

    def update_bundle(
        self,
        bundle_id: str,
        account_id: str,
        now: datetime,
        change: Callable[[Bundle], Bundle],
    ) -> Bundle | None:
        """``change`` runs inside the transactions: it must be quick and must not call back.

        Files are cut before the bundle is, and extended after it, so that none outlives it at
        any instant; when that is cut short, some files end earlier than their bundle.
        """
        asked = (bundle_id, account_id, now, change)
        while self._db.write(lambda conn: cut_some(conn, *asked)):
            pass
        changed = self._db.write(lambda conn: update(conn, *asked))
        if changed is None:
            return None
        old, new = changed
        repeat(self._db, lambda conn: extend_some(conn, old, now))
        return new

    def set_bundle(
        self, file_id: str, account_id: str, bundle_id: str | None, now: datetime
    ) -> CloudFile | None:
        return self._db.write(lambda conn: place(conn, file_id, account_id, bundle_id, now))

    def delete_bundle(self, bundle_id: str, account_id: str, now: datetime) -> bool:
        """When it is cut short, the bundle is there with the files that are left."""

        def some(conn: Connection) -> bool | None:
            return delete_some(conn, bundle_id, account_id, now)

        gone = self._db.write(some)
        found = gone is not None
        while gone is False:
            gone = self._db.write(some)
        return found

    def expire_bundles(self, now: datetime) -> int:
        return repeat(self._db, lambda conn: expire_some(conn, now))
