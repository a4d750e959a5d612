"""Signed links, and guesses at secrets: each transaction of ``LinkRows``."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog import totals
from upwell.catalog.batches import BATCH, column_int, repeat
from upwell.catalog.paging import Order, Window, rows_of
from upwell.catalog.schema import Instant, guesses, insert, links
from upwell.catalog.totals import Total
from upwell.core.ports import Page
from upwell.model import Link

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from upwell.catalog.sqlite import Sqlite

_NEWEST = Order("links", (links.c.created_at, links.c.id), descending=True)
_NOW: sa.BindParameter[datetime] = sa.bindparam("now", type_=Instant)
_MICROSECOND = timedelta(microseconds=1)


def add(conn: Connection, link: Link) -> None:
    values = {
        "id": link.id,
        "account_id": link.account_id,
        "file_id": link.file_id,
        "created_at": link.created_at,
        "expires_at": link.expires_at,
        "max_downloads": link.max_downloads and column_int(link.max_downloads),
        "allowance": link.allowance and column_int(link.allowance),
    }
    conn.execute(sa.insert(links), values)
    totals.add(conn, Total.LINKS, link.file_id, 1)


def find(conn: Connection, link_id: str, now: datetime) -> Link | None:
    query = sa.select(links).where(links.c.id == link_id, links.c.expires_at > now)
    row = conn.execute(query).first()
    return None if row is None else _link(row)


def page(
    conn: Connection, account_id: str, file_id: str, now: datetime, window: Window
) -> Page[Link]:
    """A file's links are all its owner's."""
    about = links.c.file_id == file_id
    overdue = totals.late(conn, links.c.file_id, file_id, links.c.expires_at <= _NOW, now)
    total = totals.of(conn, Total.LINKS, file_id) - overdue
    query = sa.select(links).where(about, links.c.account_id == account_id)
    rows, cursor = rows_of(conn, query.where(links.c.expires_at > now), _NEWEST, window, {})
    return Page([_link(row) for row in rows], total, cursor)


def remove(conn: Connection, link_id: str, account_id: str) -> bool:
    mine = sa.and_(links.c.id == link_id, links.c.account_id == account_id)
    return _remove(conn, mine) > 0


def _remove(conn: Connection, where: sa.ColumnElement[bool]) -> int:
    gone = conn.execute(sa.delete(links).where(where).returning(links.c.file_id)).scalars().all()
    totals.add_each(conn, Total.LINKS, gone, -1)
    return len(gone)


def spend(conn: Connection, link_id: str, amount: int, now: datetime) -> bool:
    """One statement, so that two that spend at once cannot both see the same allowance. An
    allowance of NULL stays NULL."""
    enough = sa.or_(links.c.allowance.is_(None), links.c.allowance >= amount)
    live = sa.and_(links.c.id == link_id, links.c.expires_at > now)
    change = sa.update(links).where(live, enough).values(allowance=links.c.allowance - amount)
    return conn.execute(change).rowcount > 0


def refund(conn: Connection, link_id: str, amount: int) -> None:
    change = sa.update(links).where(links.c.id == link_id)
    conn.execute(change.values(allowance=links.c.allowance + amount))


def expire_some(conn: Connection, now: datetime) -> int:
    overdue = sa.select(links.c.id).where(links.c.expires_at <= now).limit(BATCH)
    return _remove(conn, links.c.id.in_(overdue))


def _link(row: sa.Row[Any]) -> Link:
    return Link(
        id=row.id,
        account_id=row.account_id,
        file_id=row.file_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        max_downloads=row.max_downloads,
        allowance=row.allowance,
    )


def guess(
    conn: Connection, subject: str, now: datetime, interval: timedelta, burst: int
) -> datetime | None:
    """GCRA: ``free_at`` is the theoretical arrival time of the next guess, and a guess may
    come ``burst - 1`` intervals before it. One statement decides and counts."""
    added = insert(conn.dialect.name, guesses).values(subject=subject, free_at=now + interval)
    later = sa.type_coerce(guesses.c.free_at, sa.BigInteger) + interval // _MICROSECOND
    counted = added.on_conflict_do_update(
        index_elements=["subject"],
        set_={"free_at": sa.case((guesses.c.free_at > now, later), else_=added.excluded.free_at)},
        where=guesses.c.free_at <= now + (burst - 1) * interval,
    )
    if conn.execute(counted.returning(guesses.c.subject)).first() is not None:
        return None
    return too_early(conn, subject, now, interval, burst)


def too_early(
    conn: Connection, subject: str, now: datetime, interval: timedelta, burst: int
) -> datetime | None:
    """The instant from which on a guess may be made, when that is not yet; counts nothing."""
    free_at = conn.execute(sa.select(guesses.c.free_at).where(guesses.c.subject == subject))
    allowed_at = free_at.scalar()
    if allowed_at is None:
        return None
    allowed_at -= (burst - 1) * interval
    return allowed_at if allowed_at > now else None


def forgive(conn: Connection, subject: str) -> None:
    conn.execute(sa.delete(guesses).where(guesses.c.subject == subject))


def forget_some_guesses(conn: Connection, now: datetime) -> int:
    free = sa.select(guesses.c.subject).where(guesses.c.free_at <= now).limit(BATCH)
    return conn.execute(sa.delete(guesses).where(guesses.c.subject.in_(free))).rowcount


class LinkMethods:
    """``core.rows.LinkRows``: each method one transaction, those that expire one for a batch."""

    _db: Sqlite

    def add_link(self, link: Link) -> None:
        self._db.write(lambda conn: add(conn, link))

    def link(self, link_id: str, now: datetime) -> Link | None:
        return self._db.read(lambda conn: find(conn, link_id, now))

    def links(
        self,
        account_id: str,
        file_id: str,
        now: datetime,
        offset: int,
        take: int,
        after: str | None = None,
    ) -> Page[Link]:
        window = Window(offset, take, after)
        return self._db.read_consistent(lambda conn: page(conn, account_id, file_id, now, window))

    def remove_link(self, link_id: str, account_id: str) -> bool:
        return self._db.write(lambda conn: remove(conn, link_id, account_id))

    def spend_link(self, link_id: str, amount: int, now: datetime) -> bool:
        return self._db.write(lambda conn: spend(conn, link_id, amount, now))

    def refund_link(self, link_id: str, amount: int) -> None:
        self._db.write(lambda conn: refund(conn, link_id, amount))

    def expire_links(self, now: datetime) -> int:
        return repeat(self._db, lambda conn: expire_some(conn, now))

    def guess(
        self, subject: str, now: datetime, interval: timedelta, burst: int
    ) -> datetime | None:
        """Somebody who tries for ever is refused by a read: that holds up no writer."""
        early = self._db.read(lambda conn: too_early(conn, subject, now, interval, burst))
        if early is not None:
            return early
        return self._db.write(
            lambda conn: guess(conn, subject, now, interval, burst), matters=False
        )

    def forgive(self, subject: str) -> None:
        self._db.write(lambda conn: forgive(conn, subject), matters=False)

    def expire_guesses(self, now: datetime) -> int:
        return repeat(self._db, lambda conn: forget_some_guesses(conn, now))
