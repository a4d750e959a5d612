"""The first tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def _text(name: str, *args: Any, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, *args, nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _foreign(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], f"fk_{table}_{column}")


def upgrade() -> None:
    _accounts()
    _tasks()
    _files()
    _sweeper()


def _accounts() -> None:
    op.create_table(
        "accounts",
        _text("id"),
        _text("name"),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        _number("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_accounts"),
        sa.UniqueConstraint("name", name="uq_accounts_name"),
    )
    op.create_table(
        "tokens",
        _text("id"),
        _text("account_id"),
        _text("name"),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        _text("scopes"),
        _number("created_at"),
        _number("expires_at", nullable=True),
        _number("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("digest", name="uq_tokens_digest"),
        _foreign("tokens", "account_id", "accounts.id"),
    )
    op.create_index("ix_tokens_account_id", "tokens", ["account_id"])
    op.create_table(
        "logins",
        sa.Column("digest", sa.LargeBinary, nullable=False),
        _text("account_id"),
        _number("expires_at"),
        sa.PrimaryKeyConstraint("digest", name="pk_logins"),
        _foreign("logins", "account_id", "accounts.id"),
    )


def _tasks() -> None:
    op.create_table(
        "tasks",
        _text("id"),
        _text("account_id"),
        _text("pool_id"),
        _text("bundle_id", nullable=True),
        _text("identity", nullable=True),
        _text("file_name"),
        _text("content_type"),
        _text("hash_algorithm", nullable=True),
        _text("hash", nullable=True),
        _text("key"),
        _number("size"),
        _number("chunk_size"),
        _text("status"),
        _number("revision"),
        _number("received_count"),
        _number("received_bytes"),
        _text("file_id", nullable=True),
        _number("expired_at", nullable=True),
        _number("created_at"),
        _number("updated_at"),
        _number("expires_at"),
        sa.PrimaryKeyConstraint("id", name="pk_tasks"),
        _foreign("tasks", "account_id", "accounts.id"),
    )
    op.create_index("ix_tasks_newest", "tasks", ["account_id", "created_at", "id", "status"])
    identified = "status = 'in_progress' AND identity IS NOT NULL"
    _partial("uq_tasks_identity", "tasks", ["account_id", "identity"], identified, unique=True)
    running = "status = 'in_progress'"
    _partial("ix_tasks_in_progress", "tasks", ["pool_id", "account_id"], running)
    _partial("ix_tasks_key", "tasks", ["pool_id", "key"], running)
    op.create_table(
        "chunks",
        _text("task_id"),
        _number("index"),
        _number("size"),
        _text("etag"),
        _text("staged", nullable=True),
        sa.PrimaryKeyConstraint("task_id", "index", name="pk_chunks"),
        _foreign("chunks", "task_id", "tasks.id"),
        sqlite_with_rowid=False,
    )


def _partial(
    name: str, table: str, columns: list[str], where: str, *, unique: bool = False
) -> None:
    clause = sa.text(where)
    op.create_index(
        name, table, columns, unique=unique, sqlite_where=clause, postgresql_where=clause
    )


def _files() -> None:
    op.create_table(
        "blobs",
        _text("id"),
        _text("account_id"),
        _text("pool_id"),
        _text("key"),
        _number("size"),
        _text("md5", nullable=True),
        _text("sha1", nullable=True),
        _text("sha256", nullable=True),
        _text("sha512", nullable=True),
        _number("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_blobs"),
        sa.UniqueConstraint("pool_id", "key", name="uq_blobs_pool_id_key"),
        _foreign("blobs", "account_id", "accounts.id"),
    )
    op.create_index("ix_blobs_usage", "blobs", ["pool_id", "account_id", "size"])
    for algorithm in ("md5", "sha1", "sha256", "sha512"):
        op.create_index(f"ix_blobs_{algorithm}", "blobs", ["account_id", algorithm])
    op.create_table(
        "files",
        _text("id"),
        _text("account_id"),
        _text("pool_id"),
        _text("bundle_id", nullable=True),
        _text("blob_id"),
        _text("name"),
        _text("mime_type"),
        _text("hash_algorithm"),
        _text("hash"),
        _text("description", nullable=True),
        sa.Column("user_meta", sa.JSON, nullable=False),
        sa.Column("sensitive_marks", sa.JSON, nullable=False),
        _number("expired_at", nullable=True),
        _number("created_at"),
        _number("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        _foreign("files", "account_id", "accounts.id"),
        _foreign("files", "blob_id", "blobs.id"),
    )
    op.create_index("ix_files_blob_id", "files", ["blob_id"])
    op.create_index("ix_files_newest", "files", ["account_id", "created_at", "id", "expired_at"])
    _partial("ix_files_expired_at", "files", ["expired_at"], "expired_at IS NOT NULL")


def _sweeper() -> None:
    op.create_table(
        "garbage",
        _text("pool_id"),
        _text("key"),
        _number("since"),
        sa.PrimaryKeyConstraint("pool_id", "key", name="pk_garbage"),
    )
    op.create_index("ix_garbage_since", "garbage", ["since"])
    op.create_table(
        "leases",
        _text("name"),
        _text("holder"),
        _number("until"),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
