"""Pools, quota, sealing, bundles, links, the recycle bin, events, webhooks, jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_DEFAULT_POOL = "00000000-0000-4000-8000-000000000001"


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


def _bytes(name: str, *, nullable: bool = False) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(none_as_null=True), nullable=nullable)


def _account(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], f"fk_{table}_account_id")


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=clause, postgresql_where=clause)


def upgrade() -> None:
    op.add_column("accounts", _number("quota", nullable=True))
    _pools()
    _usage()
    _sealing()
    _files()
    _sharing()
    _events()
    _jobs()


def _pools() -> None:
    pools = op.create_table(
        "pools",
        _text("id"),
        _text("name"),
        _text("account_id", nullable=True),
        _text("path", nullable=True),
        _number("max_file_size", nullable=True),
        _json("accept_types"),
        *map(_flag, ("allow_encryption", "allow_anonymous", "public_usable")),
        *map(_flag, ("no_metadata", "no_optimization", "enable_recycle")),
        _number("quota", nullable=True),
        _number("file_expiry", nullable=True),
        _number("created_at"),
        _number("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_pools"),
        sa.UniqueConstraint("name", name="uq_pools_name"),
        _account("pools"),
    )
    now = (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    default = {
        "id": _DEFAULT_POOL,
        "name": "default",
        "accept_types": [],
        "allow_encryption": True,
        "allow_anonymous": False,
        "public_usable": True,
        "no_metadata": False,
        "no_optimization": False,
        "enable_recycle": False,
        "created_at": now,
        "updated_at": now,
    }
    op.bulk_insert(pools, [default])


def _usage() -> None:
    op.create_table(
        "usage",
        _text("account_id"),
        _text("pool_id"),
        _number("stored_bytes"),
        _number("reserved_bytes"),
        _number("files"),
        sa.PrimaryKeyConstraint("account_id", "pool_id", name="pk_usage"),
    )
    op.create_index("ix_usage_pool", "usage", ["pool_id"])
    op.execute(
        "INSERT INTO usage (account_id, pool_id, stored_bytes, reserved_bytes, files) "
        "SELECT account_id, pool_id, sum(stored), sum(reserved), sum(files) FROM ("
        "SELECT account_id, pool_id, size AS stored, 0 AS reserved, 0 AS files FROM blobs "
        "UNION ALL SELECT account_id, pool_id, 0, size, 0 FROM tasks "
        "WHERE status = 'in_progress' "
        "UNION ALL SELECT account_id, pool_id, 0, 0, 1 FROM files"
        ") AS held GROUP BY account_id, pool_id"
    )


def _sealing() -> None:
    op.add_column("tasks", _bytes("seal_head", nullable=True))
    op.add_column("tasks", _bytes("seal_key", nullable=True))
    op.add_column("tasks", _text("seal_check", nullable=True))
    _partial("ix_tasks_ended", "tasks", ["created_at"], "status != 'in_progress'")
    op.create_table(
        "intents",
        _text("task_id"),
        _number("index"),
        _text("fingerprint"),
        sa.PrimaryKeyConstraint("task_id", "index", name="pk_intents"),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], "fk_intents_task_id"),
        sqlite_with_rowid=False,
    )
    op.add_column("blobs", _number("sealed_head", nullable=True))
    op.add_column("blobs", _number("sealed_chunk_size", nullable=True))
    op.add_column("blobs", _text("sealed_check", nullable=True))


def _files() -> None:
    op.add_column("blobs", _json("facts", nullable=True))
    for name in ("thumbnail_key", "preview_key"):
        op.add_column("blobs", _text(name, nullable=True))
        _partial(f"ix_blobs_{name}", "blobs", ["pool_id", name], f"{name} IS NOT NULL")
    op.add_column("blobs", _number("crc32", nullable=True))
    op.add_column("files", _number("recycled_at", nullable=True))
    op.drop_index("ix_files_newest", "files")
    newest = ["account_id", "created_at", "id", "expired_at", "recycled_at"]
    op.create_index("ix_files_newest", "files", newest)
    bundled = ["bundle_id", "created_at"]
    _partial("ix_files_bundle_id", "files", bundled, "bundle_id IS NOT NULL")
    _partial("ix_files_recycled_at", "files", ["recycled_at"], "recycled_at IS NOT NULL")


def _sharing() -> None:
    op.create_table(
        "bundles",
        _text("id"),
        _text("account_id"),
        _text("slug"),
        _text("name"),
        _text("description", nullable=True),
        _text("passcode_hash", nullable=True),
        _number("expired_at", nullable=True),
        _number("created_at"),
        _number("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_bundles"),
        sa.UniqueConstraint("slug", name="uq_bundles_slug"),
        _account("bundles"),
    )
    op.create_index("ix_bundles_newest", "bundles", ["account_id", "created_at", "id"])
    _partial("ix_bundles_expired_at", "bundles", ["expired_at"], "expired_at IS NOT NULL")
    op.create_table(
        "links",
        _text("id"),
        _text("account_id"),
        _text("file_id"),
        _number("created_at"),
        _number("expires_at"),
        _number("max_downloads", nullable=True),
        _number("allowance", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_links"),
        _account("links"),
    )
    op.create_index("ix_links_file_id", "links", ["file_id"])
    op.create_index("ix_links_expires_at", "links", ["expires_at"])
    op.create_table(
        "guesses",
        _text("subject"),
        _number("free_at"),
        sa.PrimaryKeyConstraint("subject", name="pk_guesses"),
    )
    op.create_index("ix_guesses_free_at", "guesses", ["free_at"])


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("seq", sa.Integer, autoincrement=True, nullable=False),
        _text("account_id"),
        _text("type"),
        _json("data"),
        _number("at"),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_account", "events", ["account_id", "seq"])
    op.create_index("ix_events_at", "events", ["at"])
    op.create_table(
        "webhooks",
        _text("id"),
        _text("account_id"),
        _text("url"),
        _json("events"),
        _bytes("wrapped_secret"),
        _number("created_at"),
        _number("disabled_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        _account("webhooks"),
    )
    op.create_index("ix_webhooks_account_id", "webhooks", ["account_id"])


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        _text("kind"),
        _text("subject"),
        _text("argument"),
        _number("attempts"),
        _number("due_at"),
        _text("holder", nullable=True),
        _number("created_at"),
        _number("finished_at", nullable=True),
        _text("error", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_subject", "jobs", ["kind", "subject", "id"])
    _partial("ix_jobs_due_at", "jobs", ["kind", "due_at"], "finished_at IS NULL")
    _partial("ix_jobs_finished_at", "jobs", ["finished_at"], "finished_at IS NOT NULL")
