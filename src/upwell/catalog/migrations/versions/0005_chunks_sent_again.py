"""What a chunk takes that was sent again with other bytes is reserved, too."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        "UPDATE usage SET reserved_bytes = reserved_bytes + ("
        "SELECT coalesce(sum(chunks.size), 0) FROM chunks "
        "JOIN tasks ON tasks.id = chunks.task_id "
        "WHERE tasks.status = 'in_progress' AND chunks.staged IS NOT NULL "
        "AND tasks.account_id = usage.account_id AND tasks.pool_id = usage.pool_id)"
    )
