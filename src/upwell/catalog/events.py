"""Events and the webhooks that want them: what is done inside one transaction."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from upwell.catalog import jobs
from upwell.catalog.batches import BATCH, column_int, write_some
from upwell.catalog.prepared import Prepared
from upwell.catalog.schema import accounts, events, webhooks
from upwell.model import Event, EventType, JobKind, NewJob, Webhook

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from upwell.catalog.sqlite import Sqlite
    from upwell.model import CloudFile, UploadTask

_ENABLED = sa.and_(
    webhooks.c.account_id == sa.bindparam("account"), webhooks.c.disabled_at.is_(None)
)
# Every complete runs these two; the account that has a webhook goes the long way.
_ADD = Prepared(
    sa.insert(events)
    .values(
        {
            column.name: sa.bindparam(f"new_{column.name}", type_=column.type)
            for column in events.c
            if column is not events.c.seq
        }
    )
    .returning(events.c.seq)
)
_ANY_ENABLED = Prepared(sa.select(webhooks.c.id).where(_ENABLED).limit(1))
_WANTED = sa.select(webhooks.c.id, webhooks.c.events).where(_ENABLED).order_by(webhooks.c.id)


def note(
    conn: Connection, account_id: str, type_: EventType, data: dict[str, Any], now: datetime
) -> None:
    """Record an event, and a delivery of it for each enabled webhook that wants it, in the
    transaction of what happened. ``data`` is for others to read: nothing secret."""
    values = {"new_account_id": account_id, "new_type": type_, "new_data": data, "new_at": now}
    seq = _first(_ADD, conn, values).seq
    if _ANY_ENABLED.first(conn, {"account": account_id}) is not None:
        _deliver(conn, account_id, type_, [seq], now)


def note_many(
    conn: Connection,
    account_id: str,
    type_: EventType,
    data: Sequence[dict[str, Any]],
    now: datetime,
) -> None:
    """``note`` for many of one type, in a few statements."""
    if not data:
        return
    rows = [{"account_id": account_id, "type": type_, "data": each, "at": now} for each in data]
    added = sa.insert(events).returning(events.c.seq)
    _deliver(conn, account_id, type_, sorted(conn.execute(added, rows).scalars()), now)


def _first(statement: Prepared, conn: Connection, values: dict[str, Any]) -> Any:
    row = statement.first(conn, values)
    assert row is not None  # noqa: S101 - an INSERT returns its row, or raises
    return row


def _deliver(
    conn: Connection, account_id: str, type_: EventType, seqs: Sequence[int], now: datetime
) -> None:
    hooks = conn.execute(_WANTED, {"account": account_id}).all()
    wanted = [hook.id for hook in hooks if not hook.events or type_ in hook.events]
    new = [NewJob(JobKind.DELIVER, hook, str(seq), account_id) for seq in seqs for hook in wanted]
    jobs.add(conn, new, now)


def file_data(file: CloudFile) -> dict[str, Any]:
    """What an event tells of a file; JSON, and nothing secret (I9)."""
    return {
        "id": file.id,
        "name": file.name,
        "size": file.size,
        "mime_type": file.mime_type,
        "hash": str(file.digest),
        "pool_id": file.pool_id,
        "bundle_id": file.bundle_id,
        "is_encrypted": file.encrypted,
        "expired_at": file.expired_at and _iso(file.expired_at),
        "created_at": _iso(file.created_at),
    }


def task_data(task: UploadTask) -> dict[str, Any]:
    """What an event tells of an upload; JSON, and nothing secret (I9)."""
    return {
        "task_id": task.id,
        "file_name": task.file_name,
        "file_size": task.layout.size,
        "pool_id": task.pool_id,
        "bundle_id": task.bundle_id,
        "status": str(task.status),
    }


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def newer(conn: Connection, account_id: str, seq: int, take: int) -> list[Event]:
    later = sa.and_(events.c.account_id == account_id, events.c.seq > seq)
    query = sa.select(events).where(later).order_by(events.c.seq).limit(take)
    return [_event(row) for row in conn.execute(query)]


def find(conn: Connection, seq: int) -> Event | None:
    row = conn.execute(sa.select(events).where(events.c.seq == seq)).first()
    return None if row is None else _event(row)


def last(conn: Connection, account_id: str) -> int:
    mine = sa.select(events.c.seq).where(events.c.account_id == account_id)
    return conn.execute(mine.order_by(events.c.seq.desc()).limit(1)).scalar() or 0


def forget_some(conn: Connection, before: datetime) -> int:
    old = sa.select(events.c.seq).where(events.c.at < before).limit(BATCH)
    return conn.execute(sa.delete(events).where(events.c.seq.in_(old))).rowcount


def add_webhook(conn: Connection, webhook: Webhook, most: int) -> bool:
    """The account's row is locked first: where two transactions can write at once, the other
    one's webhook is then counted, or not yet begun."""
    mine = webhooks.c.account_id == webhook.account_id
    account = sa.select(accounts.c.id).where(accounts.c.id == webhook.account_id)
    conn.execute(account.with_for_update())
    count = sa.select(sa.func.count()).select_from(webhooks).where(mine)
    if conn.execute(count).scalar_one() >= most:
        return False
    values = {
        "id": webhook.id,
        "account_id": webhook.account_id,
        "url": webhook.url,
        "events": list(webhook.events),
        "wrapped_secret": webhook.wrapped_secret,
        "created_at": webhook.created_at,
        "disabled_at": webhook.disabled_at,
    }
    conn.execute(sa.insert(webhooks), values)
    return True


def webhooks_of(conn: Connection, account_id: str) -> list[Webhook]:
    query = sa.select(webhooks).where(webhooks.c.account_id == account_id)
    oldest = query.order_by(webhooks.c.created_at, webhooks.c.id)
    return [_webhook(row) for row in conn.execute(oldest)]


def webhook(conn: Connection, webhook_id: str, account_id: str | None) -> Webhook | None:
    query = sa.select(webhooks).where(webhooks.c.id == webhook_id)
    if account_id is not None:
        query = query.where(webhooks.c.account_id == account_id)
    row = conn.execute(query).first()
    return None if row is None else _webhook(row)


def remove_webhook(conn: Connection, webhook_id: str, account_id: str) -> bool:
    mine = sa.and_(webhooks.c.id == webhook_id, webhooks.c.account_id == account_id)
    if not conn.execute(sa.delete(webhooks).where(mine)).rowcount:
        return False
    jobs.remove(conn, JobKind.DELIVER, webhook_id)
    return True


def disable_webhook(conn: Connection, webhook_id: str, now: datetime | None) -> None:
    change = sa.update(webhooks).where(webhooks.c.id == webhook_id)
    conn.execute(change.values(disabled_at=now))


def _event(row: sa.Row[Any]) -> Event:
    return Event(row.seq, row.account_id, EventType(row.type), row.data, row.at)


def _webhook(row: sa.Row[Any]) -> Webhook:
    return Webhook(
        id=row.id,
        account_id=row.account_id,
        url=row.url,
        events=tuple(row.events),
        wrapped_secret=row.wrapped_secret,
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


class EventMethods:
    """``core.rows.EventRows``: each method one transaction."""

    _db: Sqlite

    def events(self, account_id: str, after: int, take: int) -> list[Event]:
        start, count = column_int(after), column_int(take)
        return self._db.read(lambda conn: newer(conn, account_id, start, count))

    def event(self, seq: int) -> Event | None:
        return self._db.read(lambda conn: find(conn, column_int(seq)))

    def last_event(self, account_id: str) -> int:
        return self._db.read(lambda conn: last(conn, account_id))

    def forget_events(self, before: datetime) -> int:
        return write_some(self._db, lambda conn: forget_some(conn, before))

    def add_webhook(self, webhook: Webhook, most: int) -> bool:
        return self._db.write(lambda conn: add_webhook(conn, webhook, most))

    def webhooks(self, account_id: str) -> list[Webhook]:
        return self._db.read(lambda conn: webhooks_of(conn, account_id))

    def webhook(self, webhook_id: str, account_id: str | None = None) -> Webhook | None:
        return self._db.read(lambda conn: webhook(conn, webhook_id, account_id))

    def remove_webhook(self, webhook_id: str, account_id: str) -> bool:
        return self._db.write(lambda conn: remove_webhook(conn, webhook_id, account_id))

    def disable_webhook(self, webhook_id: str, now: datetime | None) -> None:
        self._db.write(lambda conn: disable_webhook(conn, webhook_id, now))
