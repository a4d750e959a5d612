"""Bringing a database file to the schema of this version, once, whoever comes first."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import OperationalError

from upwell.catalog.sqlite import Sqlite, sync
from upwell.errors import NotReady

if TYPE_CHECKING:
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0006"  # the newest file in migrations/versions; known here so that Alembic is not loaded


def migrate(database: Sqlite) -> None:
    """Create or upgrade the schema. Returns at once when it is up to date; safe when many
    processes come at once, and when one dies on the way: the upgrade is one transaction."""
    with database.turns.migration(fcntl.LOCK_SH):
        if database.read(_is_current):
            return
    with database.turns.migration(fcntl.LOCK_EX):
        if not database.read(_prepare):
            database.read(_upgrade)
            sync(database.path.parent)


def revision(connection: Connection) -> str | None:
    """The schema's revision; None when there is no schema."""
    try:
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    except OperationalError as error:
        if "no such table" in str(error.orig):
            return None
        raise
    return None if found is None else str(found)


def _is_current(connection: Connection) -> bool:
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar()
    return mode == "wal" and revision(connection) == HEAD


def _prepare(connection: Connection) -> bool:
    """Turn WAL on, which SQLite does only while nobody reads; whether the schema is there."""
    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    return revision(connection) == HEAD


def _upgrade(connection: Connection) -> None:
    found = revision(connection)
    if found is not None and not list(MIGRATIONS.glob(f"versions/{found}_*.py")):
        raise NotReady(
            f"The catalog was written by a newer Upwell (schema {found}, this one knows {HEAD}): "
            "install that version, or start with another data folder."
        )
    connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        _run_alembic(connection)
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    finally:
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - 0.3 s that only an upgrade needs to spend
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    attributes: dict[Any, Any] = config.attributes
    attributes["connection"] = connection
    command.upgrade(config, "head")
