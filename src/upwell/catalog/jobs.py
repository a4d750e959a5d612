"""Jobs that wait, are done under a lease, or have ended: each transaction of ``JobRows``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog import totals
from upwell.catalog.batches import BATCH, column_int, write_some
from upwell.catalog.paging import Order, Window, rows_of
from upwell.catalog.schema import jobs
from upwell.catalog.totals import Total
from upwell.core.ports import Page
from upwell.model import Job, JobKind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from upwell.catalog.sqlite import Sqlite
    from upwell.model import NewJob

_NEWEST = Order("jobs", (jobs.c.id,), descending=True)
_WAITS = jobs.c.finished_at.is_(None)


def add(conn: Connection, new: Sequence[NewJob], now: datetime) -> None:
    """Record jobs, due at once, in the transaction that asks for them."""
    if new:
        conn.execute(sa.insert(jobs), [_values(job, now) for job in new])
        _tally(conn, ((job.kind, job.subject) for job in new), 1)


def _tally(conn: Connection, rows: Iterable[tuple[str, str]], sign: int) -> None:
    """Of all jobs, deliveries alone are many about one subject; the rest can be counted."""
    subjects = (subject for kind, subject in rows if kind == JobKind.DELIVER)
    totals.add_each(conn, Total.DELIVERIES, subjects, sign)


def _add_one(conn: Connection, new: NewJob, now: datetime, *, once: bool) -> Job:
    if once and (waiting := conn.execute(_same(new)).first()) is not None:
        return _job(waiting)
    _tally(conn, [(new.kind, new.subject)], 1)
    added = sa.insert(jobs).values(_values(new, now)).returning(jobs)
    return _job(conn.execute(added).one())


def _same(new: NewJob) -> sa.Select[Any]:
    about = sa.and_(jobs.c.kind == new.kind, jobs.c.subject == new.subject)
    same = sa.select(jobs).where(about, jobs.c.argument == new.argument, _WAITS)
    return same.order_by(jobs.c.id).limit(1)


def claim(
    conn: Connection,
    kinds: Collection[JobKind],
    holder: str,
    now: datetime,
    until: datetime,
    after: str | None,
) -> Job | None:
    """On a database with many writers, those that come at once skip each other's job."""
    for kind in _due_kinds(conn, kinds, now):
        wanted = _longest_due(kind, now) if after is None else _next_turn(conn, kind, now, after)
        row = conn.execute(wanted.with_for_update(skip_locked=True)).first()
        if row is not None:
            changes = {"holder": holder, "due_at": until, "attempts": jobs.c.attempts + 1}
            taken = sa.update(jobs).where(jobs.c.id == row.id).values(changes).returning(jobs)
            return _job(conn.execute(taken).one())
    return None


def is_due(conn: Connection, kinds: Collection[JobKind], now: datetime) -> bool:
    return bool(_due_kinds(conn, kinds, now))


def _due_kinds(conn: Connection, kinds: Collection[JobKind], now: datetime) -> list[JobKind]:
    """Those of which a job is due, that of the longest due first. A statement for each: asked
    at once, the database would sort all jobs of all kinds."""
    found = [(conn.execute(_longest_due(kind, now)).first(), kind) for kind in set(kinds)]
    return [kind for _, _, kind in sorted((*row, kind) for row, kind in found if row)]


def _longest_due(kind: JobKind, now: datetime) -> sa.Select[Any]:
    query = sa.select(jobs.c.due_at, jobs.c.id).where(_WAITS, jobs.c.kind == kind)
    return query.where(jobs.c.due_at <= now).order_by(jobs.c.due_at, jobs.c.id).limit(1)


def _next_turn(conn: Connection, kind: JobKind, now: datetime, after: str) -> sa.Select[Any]:
    """The longest due job of the account whose turn comes after that one's."""
    due = sa.select(jobs.c.id).where(_WAITS, jobs.c.kind == kind, jobs.c.due_at <= now)
    in_turn = due.order_by(jobs.c.account_id, jobs.c.due_at, jobs.c.id).limit(1)
    later = in_turn.where(jobs.c.account_id > after)
    return in_turn if conn.execute(later).first() is None else later


def change_held(conn: Connection, job_id: int, holder: str, changes: dict[str, Any]) -> bool:
    """Change a job, if that is still its holder; one that has ended has none."""
    held = sa.and_(jobs.c.id == column_int(job_id), jobs.c.holder == holder)
    return conn.execute(sa.update(jobs).where(held).values(changes)).rowcount > 0


def remove(conn: Connection, kind: JobKind, subject: str) -> None:
    """Remove all jobs about one subject, also those that somebody holds."""
    conn.execute(sa.delete(jobs).where(jobs.c.kind == kind, jobs.c.subject == subject))
    if kind is JobKind.DELIVER:
        totals.forget(conn, Total.DELIVERIES, subject)


def find(conn: Connection, job_id: int) -> Job | None:
    row = conn.execute(sa.select(jobs).where(jobs.c.id == column_int(job_id))).first()
    return None if row is None else _job(row)


def page(conn: Connection, kind: JobKind, subject: str, window: Window) -> Page[Job]:
    about = sa.and_(jobs.c.kind == kind, jobs.c.subject == subject)
    if kind is JobKind.DELIVER:
        total = totals.of(conn, Total.DELIVERIES, subject)
    else:
        total = conn.execute(sa.select(sa.func.count()).where(about)).scalar_one()
    rows, cursor = rows_of(conn, sa.select(jobs).where(about), _NEWEST, window, {})
    return Page([_job(row) for row in rows], total, cursor)


def next_due(conn: Connection, kinds: Collection[JobKind]) -> datetime | None:
    first = sa.select(sa.func.min(jobs.c.due_at)).where(_WAITS)
    found = [conn.execute(first.where(jobs.c.kind == kind)).scalar() for kind in set(kinds)]
    return min((due_at for due_at in found if due_at is not None), default=None)


def forget_some(conn: Connection, before: datetime) -> int:
    old = sa.select(jobs.c.id).where(jobs.c.finished_at < before).limit(BATCH)
    gone = sa.delete(jobs).where(jobs.c.id.in_(old)).returning(jobs.c.kind, jobs.c.subject)
    rows = conn.execute(gone).all()
    _tally(conn, ((kind, subject) for kind, subject in rows), -1)
    return len(rows)


def _values(new: NewJob, now: datetime) -> dict[str, Any]:
    return {
        "kind": new.kind,
        "subject": new.subject,
        "argument": new.argument,
        "account_id": new.account_id,
        "attempts": 0,
        "due_at": now,
        "created_at": now,
    }


def _job(row: sa.Row[Any]) -> Job:
    return Job(
        id=row.id,
        kind=JobKind(row.kind),
        subject=row.subject,
        argument=row.argument,
        attempts=row.attempts,
        due_at=row.due_at,
        created_at=row.created_at,
        finished_at=row.finished_at,
        error=row.error,
        account_id=row.account_id,
    )


class JobMethods:
    """``core.rows.JobRows``. Leases do not matter to a snapshot: one restored from it finds the
    job due again."""

    _db: Sqlite

    def add_job(self, job: NewJob, now: datetime, *, once: bool = False) -> Job:
        return self._db.write(lambda conn: _add_one(conn, job, now, once=once))

    def claim_job(
        self,
        kinds: Collection[JobKind],
        holder: str,
        now: datetime,
        until: datetime,
        after: str | None = None,
    ) -> Job | None:
        """Runners ask all the time, mostly in vain: that takes no turn of the writer's."""
        if not self._db.read(lambda conn: is_due(conn, kinds, now)):
            return None
        return self._db.write(
            lambda conn: claim(conn, kinds, holder, now, until, after), matters=False
        )

    def renew_job(self, job_id: int, holder: str, until: datetime) -> bool:
        changes = {"due_at": until}
        return self._db.write(
            lambda conn: change_held(conn, job_id, holder, changes), matters=False
        )

    def finish_job(self, job_id: int, holder: str, now: datetime, error: str | None = None) -> bool:
        changes = {"finished_at": now, "holder": None, "error": error}
        return self._db.write(lambda conn: change_held(conn, job_id, holder, changes))

    def retry_job(self, job_id: int, holder: str, due_at: datetime, error: str) -> bool:
        changes = {"due_at": due_at, "holder": None, "error": error}
        return self._db.write(lambda conn: change_held(conn, job_id, holder, changes))

    def release_job(self, job_id: int, holder: str, due_at: datetime) -> bool:
        changes = {"due_at": due_at, "holder": None, "attempts": jobs.c.attempts - 1}
        return self._db.write(lambda conn: change_held(conn, job_id, holder, changes))

    def job(self, job_id: int) -> Job | None:
        return self._db.read(lambda conn: find(conn, job_id))

    def jobs(
        self, kind: JobKind, subject: str, offset: int, take: int, after: str | None = None
    ) -> Page[Job]:
        window = Window(offset, take, after)
        return self._db.read_consistent(lambda conn: page(conn, kind, subject, window))

    def next_due(self, kinds: Collection[JobKind]) -> datetime | None:
        return self._db.read(lambda conn: next_due(conn, kinds))

    def forget_jobs(self, before: datetime) -> int:
        return write_some(self._db, lambda conn: forget_some(conn, before))
