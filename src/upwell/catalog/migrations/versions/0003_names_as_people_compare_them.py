"""Names of files as people compare them, to sort and to search by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from upwell.model import folded

revision = "0003"
down_revision = "0002"

_BATCH = 1000  # rows


def upgrade() -> None:
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.add_column("files", sa.Column("name_folded", text, nullable=False, server_default=""))
    _fold(op.get_bind())
    columns = ["account_id", "name_folded", "id", "expired_at", "recycled_at"]
    op.create_index("ix_files_name", "files", columns)


def _fold(conn: sa.Connection) -> None:
    files = sa.table("files", sa.column("id"), sa.column("name"), sa.column("name_folded"))
    after = sa.select(files.c.id, files.c.name).order_by(files.c.id).limit(_BATCH)
    fold = sa.update(files).where(files.c.id == sa.bindparam("file_id"))
    last = ""
    while rows := conn.execute(after.where(files.c.id > last)).all():
        named = [{"file_id": row.id, "name_folded": folded(row.name)} for row in rows]
        conn.execute(fold, named)
        last = rows[-1].id
