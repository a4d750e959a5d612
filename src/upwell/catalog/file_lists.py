"""Lists of files, and searches in their names: what a page of them is read by."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog import names, pools, totals
from upwell.catalog.files import ALL, IN_PLACE, LIVE, NOW, RECYCLED, as_file
from upwell.catalog.paging import Order, Window, cut, rows_of
from upwell.catalog.schema import NUMBERS, accounts, files
from upwell.catalog.totals import Total
from upwell.core.ports import Page
from upwell.model import FileOrder, folded

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

    from upwell.model import CloudFile, FileQuery

_OVERDUE = files.c.expired_at <= NOW
_BY_AGE, _BY_NAME = (files.c.created_at, files.c.id), (files.c.name_folded, files.c.id)
_BY_SIZE = (files.c.size, files.c.id)
_OLDEST = Order("oldest", _BY_AGE)
_ORDERS = {
    FileOrder.NEWEST: Order("newest", _BY_AGE, descending=True),
    FileOrder.OLDEST: _OLDEST,
    FileOrder.NAME: Order("name", _BY_NAME),
    FileOrder.NAME_REVERSED: Order("-name", _BY_NAME, descending=True),
    FileOrder.SMALLEST: Order("size", _BY_SIZE),
    FileOrder.LARGEST: Order("-size", _BY_SIZE, descending=True),
}
# What a search sorts by where a list sorts by age: the index of names has it in this order.
_RECORDED = {
    FileOrder.NEWEST: Order("recorded", (files.c.number,), descending=True),
    FileOrder.OLDEST: Order("-recorded", (files.c.number,)),
}
_FEW = 1000  # files that a search sorts and counts


def page(
    conn: Connection,
    account_id: str,
    now: datetime,
    window: Window,
    query: FileQuery,
    *,
    recycled: bool,
) -> Page[CloudFile]:
    mine = files.c.account_id == account_id
    sought = folded(query.search)
    if sought:
        return _Search(conn, account_id, sought, now, recycled=recycled).page(query.order, window)
    order = replace(_ORDERS[query.order], within=mine)
    count = _recycled_total if recycled else _in_place_total
    kept = RECYCLED if recycled else IN_PLACE
    return _page(conn, mine & kept, order, window, now, count(conn, account_id, now))


def page_in_bundle(
    conn: Connection, bundle_id: str, now: datetime, window: Window
) -> Page[CloudFile]:
    inside = sa.and_(files.c.bundle_id == bundle_id, IN_PLACE)
    overdue = totals.late(conn, files.c.bundle_id, bundle_id, IN_PLACE & _OVERDUE, now)
    total = totals.of(conn, Total.BUNDLED, bundle_id) - overdue
    return _page(conn, inside, _OLDEST, window, now, total)


def _in_place_total(conn: Connection, account_id: str, now: datetime) -> int:
    held = sum(usage.files for usage in pools.usage_of(conn, account_id).values())
    recycled = totals.of(conn, Total.RECYCLED, account_id)
    overdue = totals.late(conn, files.c.account_id, account_id, IN_PLACE & _OVERDUE, now)
    return held - recycled - overdue


def _recycled_total(conn: Connection, account_id: str, now: datetime) -> int:
    overdue = totals.late(conn, files.c.account_id, account_id, RECYCLED & _OVERDUE, now)
    return totals.of(conn, Total.RECYCLED, account_id) - overdue


def _page(
    conn: Connection,
    where: sa.ColumnElement[bool],
    order: Order,
    window: Window,
    now: datetime,
    total: int,
) -> Page[CloudFile]:
    """Live files. Those before an offset are passed over in the order's index, not in the
    tables."""
    these, asked = sa.and_(where, LIVE), {"now": now}
    if not window.offset:
        found, cursor = rows_of(conn, ALL.where(these), order, window, asked)
        return Page([as_file(row) for row in found], total, cursor)
    some = files.c.id.in_(window.of(sa.select(files.c.id).where(these), order))
    rows = conn.execute(ALL.where(some).order_by(*order.clauses()), asked).all()
    found, cursor = cut(rows, order, window)
    return Page([as_file(row) for row in found], total, cursor)


class _Search:
    """A search in the names of an account's files.

    Few files are sorted and counted. Many are read in the order asked for until the page is
    full: by age in the index of names, else in the index of that order. Their number is not
    told beyond the page: counting them would take longer the more there are.
    """

    def __init__(
        self, conn: Connection, account_id: str, sought: str, now: datetime, *, recycled: bool
    ) -> None:
        self._conn = conn
        self._account_id = account_id
        self._sought = sought
        self._now = now
        self._indexed = len(sought) >= names.SHORTEST and not recycled
        self._kept = RECYCLED if recycled else IN_PLACE

    def page(self, asked: FileOrder, window: Window) -> Page[CloudFile]:
        order = _RECORDED.get(asked) or replace(_ORDERS[asked], within=self._mine)
        numbers = self._conn.execute(self._numbers(_FEW + 1), {"now": self._now}).scalars().all()
        if len(numbers) <= _FEW:
            return self._few(order, window)
        found = self._many(order, window)
        more = window.offset + len(found.items) + (found.cursor is not None)
        return replace(found, total=max(more, _FEW + 1))

    def _few(self, order: Order, window: Window) -> Page[CloudFile]:
        # Not asked by account: the numbers are of one, and its own indexes would mislead SQLite.
        these = sa.and_(files.c.number.in_(self._numbers(_FEW)), self._kept)
        count = sa.select(sa.func.count()).select_from(files).where(these, LIVE)
        total = self._conn.execute(count, {"now": self._now}).scalar_one()
        return _page(self._conn, these, order, window, self._now, total)

    def _many(self, order: Order, window: Window) -> Page[CloudFile]:
        if not self._indexed or order.columns != (files.c.number,):
            return _page(self._conn, self._containing, order, window, self._now, 0)
        query = ALL.join(names.TABLE, files.c.number == names.NUMBER)
        query = query.where(names.matching(self._sought, *self._range()), self._kept, LIVE)
        by_number = replace(order, columns=(names.NUMBER,))
        found = self._conn.execute(window.of(query, by_number), {"now": self._now}).all()
        rows, cursor = cut(found, order, window)
        return Page([as_file(row) for row in rows], 0, cursor)

    def _numbers(self, most: int) -> sa.Select[Any]:
        """Those of files that match; some may have expired."""
        if self._indexed:
            matching = names.matching(self._sought, *self._range())
            return sa.select(names.NUMBER).where(matching).limit(most)
        query = sa.select(files.c.number).where(self._containing)
        # In the one order whose index has the names in it.
        return query.order_by(files.c.name_folded).limit(most)

    def _range(self) -> tuple[int, int]:
        mine = sa.select(accounts.c.number).where(accounts.c.id == self._account_id)
        start = (self._conn.execute(mine).scalar() or 0) * NUMBERS
        return start + 1, start + NUMBERS - 1

    @property
    def _mine(self) -> sa.ColumnElement[bool]:
        return files.c.account_id == self._account_id

    @property
    def _containing(self) -> sa.ColumnElement[bool]:
        named = files.c.name_folded.contains(self._sought, autoescape=True)
        return sa.and_(self._mine, self._kept, named)
