"""What lets every listing cost the same however many rows there are: sort keys beside the
files, totals, an index of names, an instant at which a task is checked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_RUNNING = "status = 'in_progress'"
_IN_PLACE, _RECYCLED = "recycled_at IS NULL", "recycled_at IS NOT NULL"


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    clause = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=clause, postgresql_where=clause)


def upgrade() -> None:
    _accounts()
    _tasks()
    _files()
    _others()
    _totals()
    _names()


def _accounts() -> None:
    op.add_column("accounts", _number("number"))
    op.execute(
        "UPDATE accounts SET number = numbered.place FROM ("
        "SELECT id, row_number() OVER (ORDER BY created_at, id) AS place FROM accounts"
        ") AS numbered WHERE numbered.id = accounts.id"
    )
    op.create_index("uq_accounts_number", "accounts", ["number"], unique=True)


def _tasks() -> None:
    op.add_column("tasks", _number("due_at"))
    op.execute(
        "UPDATE tasks SET due_at = CASE WHEN expired_at < expires_at "
        "THEN expired_at ELSE expires_at END"
    )
    op.drop_index("ix_tasks_newest", "tasks")
    op.create_index("ix_tasks_newest", "tasks", ["account_id", "created_at", "id"])
    op.create_index("ix_tasks_status", "tasks", ["account_id", "status", "created_at", "id"])
    _partial("ix_tasks_due_at", "tasks", ["due_at", "account_id"], _RUNNING)
    _partial("ix_tasks_bundle_id", "tasks", ["bundle_id"], f"{_RUNNING} AND bundle_id IS NOT NULL")


def _files() -> None:
    """The indexes are made after their rows have changed: together that is half the work."""
    for name in ("newest", "name", "bundle_id", "expired_at"):
        op.drop_index(f"ix_files_{name}", "files")
    op.add_column("files", _number("size"))
    op.add_column("files", _number("number"))
    op.execute(
        "UPDATE files SET size = numbered.size, "
        "number = numbered.account * (1 << 40) + numbered.place FROM ("
        "SELECT files.id, blobs.size, accounts.number AS account, row_number() OVER ("
        "PARTITION BY files.account_id ORDER BY files.created_at, files.id) AS place "
        "FROM files JOIN blobs ON blobs.id = files.blob_id "
        "JOIN accounts ON accounts.id = files.account_id"
        ") AS numbered WHERE numbered.id = files.id"
    )
    op.create_index("uq_files_number", "files", ["number"], unique=True)
    newest = ["account_id", "created_at", "id", "expired_at"]
    _partial("ix_files_newest", "files", newest, _IN_PLACE)
    _partial("ix_files_recycled", "files", newest, _RECYCLED)
    by_name = ["account_id", "name_folded", "id", "expired_at"]
    _partial("ix_files_name", "files", by_name, _IN_PLACE)
    by_size = ["account_id", "size", "id", "expired_at", "name_folded"]
    _partial("ix_files_size", "files", by_size, _IN_PLACE)
    bundled = ["bundle_id", "recycled_at", "created_at", "id"]
    _partial("ix_files_bundle_id", "files", bundled, "bundle_id IS NOT NULL")
    expires = ["expired_at", "account_id", "recycled_at", "bundle_id"]
    _partial("ix_files_expired_at", "files", expires, "expired_at IS NOT NULL")


def _others() -> None:
    op.drop_index("ix_bundles_expired_at", "bundles")
    ends = ["expired_at", "account_id"]
    _partial("ix_bundles_expired_at", "bundles", ends, "expired_at IS NOT NULL")
    op.drop_index("ix_links_file_id", "links")
    op.drop_index("ix_links_expires_at", "links")
    op.create_index("ix_links_newest", "links", ["file_id", "created_at", "id"])
    op.create_index("ix_links_expires_at", "links", ["expires_at", "file_id"])


def _totals() -> None:
    op.create_table(
        "totals",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", "subject", name="pk_totals"),
        sqlite_with_rowid=False,
    )
    counted = (
        ("recycled", "account_id", "files", _RECYCLED),
        ("bundled", "bundle_id", "files", f"bundle_id IS NOT NULL AND {_IN_PLACE}"),
        ("bundles", "account_id", "bundles", "true"),
        ("links", "file_id", "links", "true"),
        ("deliveries", "subject", "jobs", "kind = 'deliver'"),
        ("tasks", "account_id || ' ' || status", "tasks", "true"),
    )
    for name, subject, table, where in counted:
        op.execute(
            f"INSERT INTO totals (name, subject, rows) SELECT '{name}', {subject}, count(*) "  # noqa: S608 - constants
            f"FROM {table} WHERE {where} GROUP BY {subject}"
        )


def _names() -> None:
    """SQLite's own; another database indexes the column by itself."""
    if op.get_bind().dialect.name != "sqlite":
        return
    remove = (
        "INSERT INTO file_names (file_names, rowid, name_folded) "
        "SELECT 'delete', old.number, old.name_folded WHERE old.recycled_at IS NULL; "
    )
    add = (
        "INSERT INTO file_names (rowid, name_folded) "
        "SELECT new.number, new.name_folded WHERE new.recycled_at IS NULL; "
    )
    op.execute(
        "CREATE VIRTUAL TABLE file_names USING fts5(name_folded, content='files', "
        "content_rowid='number', tokenize='trigram case_sensitive 1', columnsize=0)"
    )
    op.execute(
        "INSERT INTO file_names (rowid, name_folded) SELECT number, name_folded FROM files "
        "WHERE recycled_at IS NULL ORDER BY number"
    )
    op.execute(f"CREATE TRIGGER file_names_insert AFTER INSERT ON files BEGIN {add}END")
    op.execute(f"CREATE TRIGGER file_names_delete AFTER DELETE ON files BEGIN {remove}END")
    op.execute(
        "CREATE TRIGGER file_names_update "
        "AFTER UPDATE OF name_folded, number, recycled_at ON files "
        f"BEGIN {remove}{add}END"
    )
