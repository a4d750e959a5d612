"""The tables. What each row promises is said by the port; here is only how it lies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from upwell.catalog import names

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.engine import Dialect

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """An instant as whole microseconds since the epoch: exact, sortable, the same anywhere.

    A naive datetime is a TypeError: it names no instant.
    """

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        del dialect
        return None if value is None else to_micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        del dialect
        return None if value is None else from_micros(value)


def to_micros(instant: datetime) -> int:
    """An instant as whole microseconds since the epoch."""
    return (instant - _EPOCH) // _MICROSECOND


def from_micros(number: int) -> datetime:
    """The instant so many microseconds after the epoch. Raises OverflowError."""
    return _EPOCH + timedelta(microseconds=number)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(name: str, *items: sa.Column[Any] | sa.Index | sa.Constraint, **kw: Any) -> sa.Table:
    return sa.Table(name, metadata, *items, **kw)


def _text(name: str, *args: Any, nullable: bool = False, **kw: Any) -> sa.Column[str]:
    return sa.Column(name, sa.Text, *args, nullable=nullable, **kw)


def _size(name: str, *, nullable: bool = False, **kw: Any) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable, **kw)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


def _instant(name: str, *, nullable: bool = False, **kw: Any) -> sa.Column[datetime]:
    return sa.Column(name, Instant, nullable=nullable, **kw)


accounts = _table(
    "accounts",
    _text("id", primary_key=True),
    _text("name", unique=True),
    _flag("is_admin"),
    _instant("created_at"),
    _size("quota", nullable=True),
    # From 1; the files of an account are numbered in a range of their own (see ``files``).
    _size("number", server_default="0"),
    sa.Index("uq_accounts_number", "number", unique=True),
)

tokens = _table(
    "tokens",
    _text("id", primary_key=True),
    _text("account_id", sa.ForeignKey("accounts.id"), index=True),
    _text("name"),
    sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
    _text("scopes"),
    _instant("created_at"),
    _instant("expires_at", nullable=True),
    _instant("revoked_at", nullable=True),
)

# One-time codes: only the SHA-256 of a code is kept (I9).
logins = _table(
    "logins",
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    _text("account_id", sa.ForeignKey("accounts.id")),
    _instant("expires_at"),
)

# Policy as columns: an operator with a SQL prompt should see it.
pools = _table(
    "pools",
    _text("id", primary_key=True),
    _text("name", unique=True),
    _text("account_id", sa.ForeignKey("accounts.id"), nullable=True),
    _text("path", nullable=True),
    _size("max_file_size", nullable=True),
    sa.Column("accept_types", sa.JSON, nullable=False),
    _flag("allow_encryption"),
    _flag("allow_anonymous"),
    _flag("public_usable"),
    _flag("no_metadata"),
    _flag("no_optimization"),
    _flag("enable_recycle"),
    _size("quota", nullable=True),
    _size("file_expiry", nullable=True),  # seconds
    _instant("created_at"),
    _instant("updated_at"),
)

# What each account holds in each pool, kept in the transactions that change it.
usage = _table(
    "usage",
    _text("account_id", primary_key=True),
    _text("pool_id", primary_key=True),
    _size("stored_bytes"),
    _size("reserved_bytes"),
    _size("files"),
    sa.Index("ix_usage_pool", "pool_id"),
)

# How many rows each listing has, kept in the transactions that change it: counting them would
# take longer with every row (``catalog.totals``).
totals = _table(
    "totals",
    _text("name", primary_key=True),
    _text("subject", primary_key=True),
    _size("rows"),
    sqlite_with_rowid=False,
)

# No index holds a column that a chunk changes: recording one dirties two pages, not five.
tasks = _table(
    "tasks",
    _text("id", primary_key=True),
    _text("account_id", sa.ForeignKey("accounts.id")),
    _text("pool_id"),
    _text("bundle_id", nullable=True),
    _text("identity", nullable=True),
    _text("file_name"),
    _text("content_type"),
    _text("hash_algorithm", nullable=True),
    _text("hash", nullable=True),
    _text("key"),
    _size("size"),
    _size("chunk_size"),
    _text("status"),
    _size("revision"),
    _size("received_count"),
    _size("received_bytes"),
    _text("file_id", nullable=True),
    _instant("expired_at", nullable=True),
    _instant("created_at"),
    _instant("updated_at"),
    _instant("expires_at"),
    sa.Column("seal_head", sa.LargeBinary, nullable=True),
    sa.Column("seal_key", sa.LargeBinary, nullable=True),
    _text("seal_check", nullable=True),
    # No task in progress expires before this. A chunk moves the expiry and not this, so an index
    # of it finds the few tasks that may be overdue; the sweeper moves it on for the others.
    _instant("due_at", server_default="0"),
    sa.Index("ix_tasks_newest", "account_id", "created_at", "id"),
    sa.Index("ix_tasks_status", "account_id", "status", "created_at", "id"),
)

# A literal, not a parameter: only so does SQLite see that a partial index serves a query.
in_progress = tasks.c.status == sa.literal_column("'in_progress'")
_IDENTIFIED = sa.and_(in_progress, tasks.c.identity.is_not(None))

task_identity = sa.Index(
    "uq_tasks_identity",
    tasks.c.account_id,
    tasks.c.identity,
    unique=True,
    sqlite_where=_IDENTIFIED,
    postgresql_where=_IDENTIFIED,
)
task_in_progress = sa.Index(
    "ix_tasks_in_progress",
    tasks.c.pool_id,
    tasks.c.account_id,
    sqlite_where=in_progress,
    postgresql_where=in_progress,
)
task_key = sa.Index(
    "ix_tasks_key",
    tasks.c.pool_id,
    tasks.c.key,
    sqlite_where=in_progress,
    postgresql_where=in_progress,
)
_TO_BE_BUNDLED = sa.and_(in_progress, tasks.c.bundle_id.is_not(None))
task_bundle = sa.Index(
    "ix_tasks_bundle_id",
    tasks.c.bundle_id,
    sqlite_where=_TO_BE_BUNDLED,
    postgresql_where=_TO_BE_BUNDLED,
)
task_due = sa.Index(
    "ix_tasks_due_at",
    tasks.c.due_at,
    tasks.c.account_id,
    sqlite_where=in_progress,
    postgresql_where=in_progress,
)
# By the instant that no chunk changes, so that recording one does not come here either.
ended = tasks.c.status != sa.literal_column("'in_progress'")
task_ended = sa.Index(
    "ix_tasks_ended",
    tasks.c.created_at,
    sqlite_where=ended,
    postgresql_where=ended,
)

chunks = _table(
    "chunks",
    _text("task_id", sa.ForeignKey("tasks.id"), primary_key=True),
    sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
    _size("size"),
    _text("etag"),
    _text("staged", nullable=True),
    sqlite_with_rowid=False,
)

# Which bytes an encrypted chunk was first sealed from, acknowledged or not: no others may be
# sealed under its nonces.
intents = _table(
    "intents",
    _text("task_id", sa.ForeignKey("tasks.id"), primary_key=True),
    sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
    _text("fingerprint"),
    sqlite_with_rowid=False,
)

# A blob is one account's: its digests are indexed under the account, so that a stranger's
# content costs a lookup exactly as much as content that nobody has.
blobs = _table(
    "blobs",
    _text("id", primary_key=True),
    _text("account_id", sa.ForeignKey("accounts.id")),
    _text("pool_id"),
    _text("key"),
    _size("size"),
    _text("md5", nullable=True),
    _text("sha1", nullable=True),
    _text("sha256", nullable=True),
    _text("sha512", nullable=True),
    _instant("created_at"),
    _size("sealed_head", nullable=True),
    _size("sealed_chunk_size", nullable=True),
    _text("sealed_check", nullable=True),
    sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
    _text("thumbnail_key", nullable=True),
    _text("preview_key", nullable=True),
    _size("crc32", nullable=True),
    sa.UniqueConstraint("pool_id", "key"),
    sa.Index("ix_blobs_usage", "pool_id", "account_id", "size"),
    sa.Index("ix_blobs_md5", "account_id", "md5"),
    sa.Index("ix_blobs_sha1", "account_id", "sha1"),
    sa.Index("ix_blobs_sha256", "account_id", "sha256"),
    sa.Index("ix_blobs_sha512", "account_id", "sha512"),
)

_derived = {
    name: sa.Index(
        f"ix_blobs_{name}",
        blobs.c.pool_id,
        blobs.c[name],
        sqlite_where=blobs.c[name].is_not(None),
        postgresql_where=blobs.c[name].is_not(None),
    )
    for name in ("thumbnail_key", "preview_key")
}

bundles = _table(
    "bundles",
    _text("id", primary_key=True),
    _text("account_id", sa.ForeignKey("accounts.id")),
    _text("slug", unique=True),
    _text("name"),
    _text("description", nullable=True),
    _text("passcode_hash", nullable=True),
    _instant("expired_at", nullable=True),
    _instant("created_at"),
    _instant("updated_at"),
    # Grown by triggers on ``files``, with each change of what is in the bundle; and by a rekey.
    sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ix_bundles_newest", "account_id", "created_at", "id"),
)
_ENDS = bundles.c.expired_at.is_not(None)
bundle_expiry = sa.Index(
    "ix_bundles_expired_at",
    bundles.c.expired_at,
    bundles.c.account_id,
    sqlite_where=_ENDS,
    postgresql_where=_ENDS,
)

files = _table(
    "files",
    _text("id", primary_key=True),
    _text("account_id", sa.ForeignKey("accounts.id")),
    _text("pool_id"),
    _text("bundle_id", nullable=True),
    _text("blob_id", sa.ForeignKey("blobs.id"), index=True),
    _text("name"),
    # The name as ``model.folded``; PostgreSQL is to sort it as SQLite does, by code point.
    sa.Column(
        "name_folded",
        sa.Text().with_variant(sa.Text(collation="C"), "postgresql"),
        nullable=False,
        server_default="",
    ),
    _text("mime_type"),
    _text("hash_algorithm"),
    _text("hash"),
    _text("description", nullable=True),
    sa.Column("user_meta", sa.JSON, nullable=False),
    sa.Column("sensitive_marks", sa.JSON, nullable=False),
    _instant("expired_at", nullable=True),
    _instant("created_at"),
    _instant("updated_at"),
    _instant("recycled_at", nullable=True),
    _size("size", server_default="0"),  # the blob's, to sort by
    # In the order of recording within the account's range, which begins at its own number
    # times NUMBERS: what the index of names knows a file by.
    _size("number", server_default="0"),
    sa.Index("uq_files_number", "number", unique=True),
)

NUMBERS = 1 << 40  # files that an account can number


def _files_index(name: str, where: sa.ColumnElement[bool], *columns: str) -> sa.Index:
    chosen = (files.c[column] for column in columns)
    return sa.Index(name, *chosen, sqlite_where=where, postgresql_where=where)


# Each order in which files are listed, without those in the recycle bin, which have their own.
_IN_PLACE = files.c.recycled_at.is_(None)
_RECYCLED = files.c.recycled_at.is_not(None)
_BUNDLED = files.c.bundle_id.is_not(None)
_EXPIRES = files.c.expired_at.is_not(None)
_files_index("ix_files_newest", _IN_PLACE, "account_id", "created_at", "id", "expired_at")
_files_index("ix_files_name", _IN_PLACE, "account_id", "name_folded", "id", "expired_at")
_files_index("ix_files_size", _IN_PLACE, "account_id", "size", "id", "expired_at", "name_folded")
_files_index("ix_files_recycled", _RECYCLED, "account_id", "created_at", "id", "expired_at")
_files_index("ix_files_recycled_at", _RECYCLED, "recycled_at")
_files_index("ix_files_bundle_id", _BUNDLED, "bundle_id", "recycled_at", "created_at", "id")
_files_index(
    "ix_files_expired_at", _EXPIRES, "expired_at", "account_id", "recycled_at", "bundle_id"
)

garbage = _table(
    "garbage",
    _text("pool_id", primary_key=True),
    _text("key", primary_key=True),
    _instant("since"),
)
sa.Index("ix_garbage_since", garbage.c.since)

links = _table(
    "links",
    _text("id", primary_key=True),
    _text("account_id", sa.ForeignKey("accounts.id")),
    _text("file_id"),
    _instant("created_at"),
    _instant("expires_at"),
    _size("max_downloads", nullable=True),
    _size("allowance", nullable=True),
    sa.Index("ix_links_newest", "file_id", "created_at", "id"),
    sa.Index("ix_links_expires_at", "expires_at", "file_id"),
)

# How often a secret was guessed wrongly, by whom: the instant from which on no guess counts.
guesses = _table(
    "guesses",
    _text("subject", primary_key=True),
    _instant("free_at"),
    sa.Index("ix_guesses_free_at", "free_at"),
)

events = _table(
    "events",
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    _text("account_id"),
    _text("type"),
    sa.Column("data", sa.JSON, nullable=False),
    _instant("at"),
    sa.Index("ix_events_account", "account_id", "seq"),
    sa.Index("ix_events_at", "at"),
    sqlite_autoincrement=True,  # a number is never used again, whatever was deleted
)

webhooks = _table(
    "webhooks",
    _text("id", primary_key=True),
    _text("account_id", sa.ForeignKey("accounts.id"), index=True),
    _text("url"),
    sa.Column("events", sa.JSON, nullable=False),
    sa.Column("wrapped_secret", sa.LargeBinary, nullable=False),
    _instant("created_at"),
    _instant("disabled_at", nullable=True),
)

jobs = _table(
    "jobs",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    _text("kind"),
    _text("subject"),
    _text("argument"),
    _size("attempts"),
    _instant("due_at"),
    _text("holder", nullable=True),
    _instant("created_at"),
    _instant("finished_at", nullable=True),
    _text("error", nullable=True),
    _text("account_id", server_default=""),
    sa.Index("ix_jobs_subject", "kind", "subject", "id"),
    sqlite_autoincrement=True,
)
_WAITING = jobs.c.finished_at.is_(None)
job_due = sa.Index(
    "ix_jobs_due_at",
    jobs.c.kind,
    jobs.c.due_at,
    sqlite_where=_WAITING,
    postgresql_where=_WAITING,
)
job_turn = sa.Index(
    "ix_jobs_turn",
    jobs.c.kind,
    jobs.c.account_id,
    jobs.c.due_at,
    sqlite_where=_WAITING,
    postgresql_where=_WAITING,
)
_FINISHED = jobs.c.finished_at.is_not(None)
job_finished = sa.Index(
    "ix_jobs_finished_at",
    jobs.c.finished_at,
    sqlite_where=_FINISHED,
    postgresql_where=_FINISHED,
)

leases = _table(
    "leases",
    _text("name", primary_key=True),
    _text("holder"),
    _instant("until"),
)


def _revision_trigger(event: str, when: str, which: str) -> str:
    """A bundle's revision grows with every change of what is in it."""
    name = f"bundle_revision_{event.partition(' ')[0].lower()}"
    grow = f"UPDATE bundles SET revision = revision + 1 WHERE id {which}"  # noqa: S608 - constants
    return f"CREATE TRIGGER {name} AFTER {event} ON files WHEN {when} BEGIN {grow}; END"


_SHOWN = "bundle_id, blob_id, name, created_at, expired_at, recycled_at"
_OLD, _NEW = "old.bundle_id IS NOT NULL", "new.bundle_id IS NOT NULL"
_REVISIONS = (
    _revision_trigger("INSERT", _NEW, "= new.bundle_id"),
    _revision_trigger("DELETE", _OLD, "= old.bundle_id"),
    _revision_trigger(
        f"UPDATE OF {_SHOWN}", f"{_NEW} OR {_OLD}", "IN (old.bundle_id, new.bundle_id)"
    ),
)
for _statement in (*names.CREATE, *_REVISIONS):
    _ddl: Any = sa.DDL(_statement)  # type: ignore[no-untyped-call]
    sa.event.listen(metadata, "after_create", _ddl.execute_if(dialect="sqlite"))


@cache
def insert(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """The dialect's own INSERT, which knows ON CONFLICT."""
    module = import_module(f"sqlalchemy.dialects.{dialect}")
    statement: sqlite.Insert | postgresql.Insert = module.insert(table)
    return statement


@cache
def insert_new(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """INSERT that does nothing (row count 0) when the row is already there."""
    return insert(dialect, table).on_conflict_do_nothing()
