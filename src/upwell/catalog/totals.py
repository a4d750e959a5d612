"""How many rows a listing has: counters, changed in the transactions that change the rows.

A listing shows what has not expired, and a row expires without a transaction. What the counters
still include then is counted when asked: the few rows that are overdue for the sweeper.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

import sqlalchemy as sa

from upwell.catalog.prepared import Prepared
from upwell.catalog.schema import bundles, files, insert, jobs, links, tasks, totals
from upwell.model import JobKind

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from sqlalchemy import Connection

Key = tuple[str, str]


class Total(StrEnum):
    """What is counted, and for each of which subject."""

    RECYCLED = "recycled"  # an account's files in the recycle bin
    BUNDLED = "bundled"  # a bundle's files that are not in the recycle bin
    BUNDLES = "bundles"  # an account's
    LINKS = "links"  # a file's
    DELIVERIES = "deliveries"  # a webhook's
    TASKS = "tasks"  # an account's and status: see ``of_tasks``


_FIND = Prepared(
    sa.select(totals.c.rows).where(
        totals.c.name == sa.bindparam("of"), totals.c.subject == sa.bindparam("whose")
    )
)


def add(conn: Connection, total: Total, subject: str, more: int) -> None:
    """Count ``more`` rows of a subject; fewer when it is negative."""
    values = {"name": total, "subject": subject, "rows": more}
    _add(conn.dialect.name).count(conn, values)


@cache
def _add(dialect: str) -> Prepared:
    new = insert(dialect, totals)
    sums = {"rows": totals.c.rows + new.excluded.rows}
    return Prepared(new.on_conflict_do_update(index_elements=["name", "subject"], set_=sums))


def add_each(conn: Connection, total: Total, subjects: Iterable[str], sign: int) -> None:
    """Count a row for each of ``subjects``, in which one may come many times."""
    for subject, rows in Counter(subjects).items():
        add(conn, total, subject, sign * rows)


def of(conn: Connection, total: Total, subject: str) -> int:
    """How many rows were counted."""
    row = _FIND.first(conn, {"of": total, "whose": subject})
    return 0 if row is None else int(row.rows)


def forget(conn: Connection, total: Total, subject: str) -> None:
    """Drop the counter of a subject that is gone, with all its rows."""
    gone = sa.and_(totals.c.name == total, totals.c.subject == subject)
    conn.execute(sa.delete(totals).where(gone))


def of_tasks(account_id: str, status: str) -> str:
    """The subject under which an account's tasks of one status are counted."""
    return f"{account_id} {status}"


def late(
    conn: Connection,
    subject: sa.Column[str],
    value: str,
    overdue: sa.ColumnElement[bool],
    now: datetime,
) -> int:
    """How many rows that name ``value`` are ``overdue``, as of the parameter ``now``: expired,
    and not yet swept."""
    # As an expression, so that the index of instants serves, which has few such rows in it. The
    # planner would take the one of the subject, and read all its rows.
    mine = subject.concat("") == value
    count = sa.select(sa.func.count()).select_from(subject.table).where(mine, overdue)
    return int(conn.execute(count, {"now": now}).scalar_one())


def repair(conn: Connection) -> int:
    """Count every row again; how many counters were wrong."""
    query = sa.select(totals)
    there = {(row.name, row.subject): row.rows for row in conn.execute(query)}
    real = _counted(conn)
    wrong = [key for key in there.keys() | real.keys() if there.get(key, 0) != real.get(key, 0)]
    for name, subject in wrong:
        forget(conn, Total(name), subject)
        add(conn, Total(name), subject, real.get((name, subject), 0))
    return len(wrong)


def _counted(conn: Connection) -> dict[Key, int]:
    in_place, delivers = files.c.recycled_at.is_(None), jobs.c.kind == JobKind.DELIVER
    task_subject = tasks.c.account_id + " " + tasks.c.status
    queries: list[tuple[Total, sa.ColumnElement[str], sa.ColumnElement[bool]]] = [
        (Total.RECYCLED, files.c.account_id, ~in_place),
        (Total.BUNDLED, files.c.bundle_id, files.c.bundle_id.is_not(None) & in_place),
        (Total.BUNDLES, bundles.c.account_id, sa.true()),
        (Total.LINKS, links.c.file_id, sa.true()),
        (Total.DELIVERIES, jobs.c.subject, delivers),
        (Total.TASKS, task_subject, sa.true()),
    ]
    found: dict[Key, int] = {}
    for total, subject, where in queries:
        query = sa.select(subject, sa.func.count()).where(where).group_by(subject)
        found |= {(str(total), name): int(rows) for name, rows in conn.execute(query)}
    return found
