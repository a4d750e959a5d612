"""Pages of a listing, by position: how far it was read says where the next page begins.

A page that is found by how many rows come before it shifts when rows come or go between two
pages. One that is found by the sort key of the last row that was seen does not, and costs the
same however far in it is.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog.batches import column_int
from upwell.catalog.schema import Instant, from_micros, to_micros
from upwell.errors import ValidationFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

_LONGEST = 4096  # characters of a cursor
_LAST = chr(0x10FFFF)  # comes after every other character
_PREFIX = 200  # characters of a text in a cursor: proxies bound the size of an answer's head


@dataclass(frozen=True, slots=True)
class Order:
    """A total order of rows. ``name`` is in the cursors of it, and no other order takes them;
    ``columns`` are the sort key, all ascending or all descending, the last one unique.

    A cursor has the beginning of a long text alone. The rest is looked up among the rows
    ``within``; when that row is gone or begins otherwise now, the next page repeats rows that
    begin alike rather than miss one.
    """

    name: str
    columns: tuple[sa.ColumnElement[Any], ...]
    descending: bool = False
    within: sa.ColumnElement[bool] | None = None

    def clauses(self) -> list[sa.ColumnElement[Any]]:
        """For ORDER BY."""
        return [c.desc() if self.descending else c.asc() for c in self.columns]

    def beyond(self, cursor: str) -> sa.ColumnElement[bool]:
        """Rows that come after a cursor's. Raises ValidationFailed when it is none of this
        order's."""
        key = self._read(cursor)
        values = [self._value(c, v, key[-1]) for c, v in zip(self.columns, key, strict=True)]
        if len(values) == 1:
            here, there = self.columns[0], values[0]
        else:
            here, there = sa.tuple_(*self.columns), sa.tuple_(*values)
        return here < there if self.descending else here > there

    def cursor(self, row: Any) -> str:
        """What is given to ``beyond`` to continue after a row."""
        key = [_plain(getattr(row, str(column.key))) for column in self.columns]
        text = json.dumps([self.name, *key], ensure_ascii=False, separators=(",", ":"))
        return urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _value(self, column: sa.ColumnElement[Any], value: Any, last: Any) -> sa.ColumnElement[Any]:
        if self.within is None or not isinstance(value, str) or len(value) < _PREFIX:
            return sa.literal(value, column.type)
        same = sa.func.substr(column, 1, len(value)) == value  # or it was renamed since
        row = sa.select(column).where(self.within, self.columns[-1] == last, same)
        beginning = sa.literal(value + _LAST if self.descending else value, column.type)
        return sa.func.coalesce(row.correlate(None).scalar_subquery(), beginning)

    def _read(self, cursor: str) -> list[Any]:
        try:
            padded = cursor[:_LONGEST] + "=" * (-len(cursor) % 4)
            name, *key = json.loads(urlsafe_b64decode(padded))
            if name != self.name:
                raise _invalid()
            return [_typed(value, c) for value, c in zip(key, self.columns, strict=True)]
        except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise _invalid() from error


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return to_micros(value)
    return value[:_PREFIX] if isinstance(value, str) else value


def _typed(value: Any, column: sa.ColumnElement[Any]) -> Any:
    """A value of a cursor as the column's. Raises TypeError when it cannot be one."""
    if isinstance(column.type, sa.Text):
        if isinstance(value, str):
            value.encode()  # no half of a surrogate pair, which no database takes
            return value
    elif type(value) is int and abs(value) < 1 << 63:
        return from_micros(value) if isinstance(column.type, Instant) else value
    raise TypeError


def _invalid() -> ValidationFailed:
    why = "is not a cursor of this list"
    return ValidationFailed(
        f"`after` {why}. Send the `X-Next-Cursor` of an earlier page with the same filters.",
        errors={"after": [why]},
    )


_MOST = 2**62


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows of a listing: ``take`` of them, after a cursor, or else after ``offset`` rows."""

    offset: int
    take: int
    after: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "offset", column_int(self.offset))
        object.__setattr__(self, "take", min(self.take, _MOST))

    def of(self, query: sa.Select[Any], order: Order) -> sa.Select[Any]:
        """The query for these rows and one more, which tells whether there is a next page."""
        if self.after is not None:
            query = query.where(order.beyond(self.after))
        return query.order_by(*order.clauses()).offset(self.offset).limit(self.take + 1)


def rows_of(
    conn: Connection,
    query: sa.Select[Any],
    order: Order,
    window: Window,
    values: Mapping[str, Any],
) -> tuple[Sequence[Any], str | None]:
    """The window's rows, and the cursor of the next page when there is one."""
    found = conn.execute(window.of(query, order), values).all()
    return cut(found, order, window)


def cut(found: Sequence[Any], order: Order, window: Window) -> tuple[Sequence[Any], str | None]:
    """The rows of a page, of those that ``Window.of`` found, and the cursor of the next one."""
    some = found[: window.take]
    more = len(found) > window.take and bool(some)
    return some, order.cursor(some[-1]) if more else None
