"""Whose a job is, so that accounts take turns; how often a bundle's files changed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# The account of each job that waits, by what its subject is.
_OWNERS = {"preview": "files", "move": "files", "deliver": "webhooks"}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("account_id", sa.Text, nullable=False, server_default=""))
    for kind, owner in _OWNERS.items():
        op.execute(
            f"UPDATE jobs SET account_id = {owner}.account_id FROM {owner} "  # noqa: S608 - constants
            f"WHERE {owner}.id = jobs.subject AND jobs.kind = '{kind}' AND finished_at IS NULL"
        )
    waiting = sa.text("finished_at IS NULL")
    columns = ["kind", "account_id", "due_at"]
    op.create_index("ix_jobs_turn", "jobs", columns, sqlite_where=waiting, postgresql_where=waiting)
    number = sa.Column("revision", sa.BigInteger, nullable=False, server_default="0")
    op.add_column("bundles", number)
    _count_changes()


def _count_changes() -> None:
    """In the database, so that no statement that changes a bundle's files can forget it: an
    archive that is planned from other files would have wrong bytes."""
    if op.get_bind().dialect.name != "sqlite":
        raise NotImplementedError("these triggers are written for SQLite")
    grow = "UPDATE bundles SET revision = revision + 1 WHERE id "
    for name, event, which in (
        ("insert", "INSERT", "= new.bundle_id"),
        ("delete", "DELETE", "= old.bundle_id"),
        (
            "update",
            "UPDATE OF bundle_id, blob_id, name, created_at, expired_at, recycled_at",
            "IN (old.bundle_id, new.bundle_id)",
        ),
    ):
        row = "old" if name == "delete" else "new"
        either = f"{row}.bundle_id IS NOT NULL" + (
            " OR old.bundle_id IS NOT NULL" if name == "update" else ""
        )
        op.execute(
            f"CREATE TRIGGER bundle_revision_{name} AFTER {event} ON files WHEN {either} "
            f"BEGIN {grow}{which}; END"
        )
