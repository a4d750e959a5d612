"""Lists of uploads, by what became of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog import totals
from upwell.catalog.paging import Order, Window, cut, rows_of
from upwell.catalog.schema import tasks
from upwell.catalog.tasks import OVERDUE, RUNNING, as_task, is_past
from upwell.catalog.totals import Total
from upwell.core.ports import Page
from upwell.model import TaskStatus, UploadTask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

_NEWEST = Order("tasks", (tasks.c.created_at, tasks.c.id), descending=True)


def page(
    conn: Connection, account_id: str, status: TaskStatus | None, now: datetime, window: Window
) -> Page[UploadTask]:
    """Those that have expired come from two places, merged: the sweeper has not been at some."""
    mine, asked = tasks.c.account_id == account_id, {"now": now}
    total = _total(conn, account_id, status, now)
    if status is TaskStatus.EXPIRED:
        found = _expired(conn, account_id, window, now)
        rows, cursor = cut(found, _NEWEST, window)
    else:
        query = sa.select(tasks).where(mine, _of_status(status))
        rows, cursor = rows_of(conn, query, _NEWEST, window, asked)
    return Page([_as_of(as_task(row), now) for row in rows], total, cursor)


def _expired(conn: Connection, account_id: str, window: Window, now: datetime) -> Sequence[Any]:
    whole = replace(window, offset=0, take=window.offset + window.take)
    swept = sa.and_(tasks.c.account_id == account_id, tasks.c.status == TaskStatus.EXPIRED)
    # An expression, so that the index of instants serves: few rows of it are overdue.
    overdue = sa.and_(tasks.c.account_id.concat("") == account_id, OVERDUE)
    found = [
        row
        for where in (swept, overdue)
        for row in conn.execute(whole.of(sa.select(tasks).where(where), _NEWEST), {"now": now})
    ]
    found.sort(key=lambda row: (row.created_at, row.id), reverse=True)
    return found[window.offset :]


def _of_status(status: TaskStatus | None) -> sa.ColumnElement[bool]:
    if status is None:
        return sa.true()
    return RUNNING if status is TaskStatus.IN_PROGRESS else tasks.c.status == status


def _total(conn: Connection, account_id: str, status: TaskStatus | None, now: datetime) -> int:
    def counted(status: TaskStatus) -> int:
        return totals.of(conn, Total.TASKS, totals.of_tasks(account_id, status))

    if status is None:
        return sum(map(counted, TaskStatus))
    if status not in {TaskStatus.IN_PROGRESS, TaskStatus.EXPIRED}:
        return counted(status)
    late = totals.late(conn, tasks.c.account_id, account_id, OVERDUE, now)
    return counted(status) + (late if status is TaskStatus.EXPIRED else -late)


def _as_of(task: UploadTask, now: datetime) -> UploadTask:
    """A task past its expiry has expired, whether or not the sweeper came by."""
    overdue = task.status is TaskStatus.IN_PROGRESS and is_past(task, now)
    return replace(task, status=TaskStatus.EXPIRED) if overdue else task
