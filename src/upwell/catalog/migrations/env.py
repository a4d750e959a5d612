"""Alembic's entry: runs on the connection, and in the transaction, of ``catalog.migrate``."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
