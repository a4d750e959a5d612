"""Statements compiled once and run on the driver's connection.

SQLAlchemy's execution costs several times what SQLite's does. That is worth avoiding only on
the path of a chunk: four statements for every chunk.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from upwell.catalog.writer import driver_connection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import sqlalchemy as sa
    from sqlalchemy import Connection, Dialect

    Process = Callable[[Any], Any]


class Prepared:
    """A statement whose parameters are all named; rows come as named tuples, and failures as
    SQLAlchemy's own."""

    def __init__(self, statement: sa.Select[Any] | sa.UpdateBase) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}  # by the dialect's name

    def first(self, conn: Connection, values: dict[str, Any]) -> Any | None:
        """The first row, or None."""
        return self._for(conn.dialect).first(conn, values)

    def all(self, conn: Connection, values: dict[str, Any]) -> list[Any]:
        """Every row."""
        return self._for(conn.dialect).all(conn, values)

    def count(self, conn: Connection, values: dict[str, Any]) -> int:
        """How many rows it changed."""
        return self._for(conn.dialect).run(conn, values).rowcount  # type: ignore[no-any-return]

    def _for(self, dialect: Dialect) -> _Compiled:
        if dialect.name not in self._compiled:
            self._compiled[dialect.name] = _Compiled(self._statement, dialect)
        return self._compiled[dialect.name]


class _Compiled:
    def __init__(self, statement: sa.Select[Any] | sa.UpdateBase, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)
        self._sql = str(compiled)
        self._positions: list[str] | None = compiled.positiontup
        binds = compiled.binds
        self._bind = [(name, _bind_of(binds[name], dialect)) for name in self._positions or binds]
        self._given = compiled.params  # what the statement says itself
        columns = list(statement.exported_columns)
        self._row: Any = namedtuple("Row", [str(c.name) for c in columns])  # type: ignore[misc]  # noqa: PYI024 - the names come from the statement
        self._result = _result_of(columns, dialect)

    def run(self, conn: Connection, values: dict[str, Any]) -> Any:
        every = self._given | values
        bound = [process(every[name]) if process else every[name] for name, process in self._bind]
        raw: Any = driver_connection(conn)
        dbapi: Any = conn.dialect.dbapi
        try:
            if self._positions is not None:
                return raw.execute(self._sql, bound)
            return raw.execute(self._sql, dict(zip((n for n, _ in self._bind), bound, strict=True)))
        except dbapi.Error as error:
            raise DBAPIError.instance(
                self._sql, None, error, dbapi.Error, hide_parameters=True, dialect=conn.dialect
            ) from error

    def first(self, conn: Connection, values: dict[str, Any]) -> Any | None:
        return next(iter(self.all(conn, values)), None)

    def all(self, conn: Connection, values: dict[str, Any]) -> list[Any]:
        return [self._read(row) for row in self.run(conn, values).fetchall()]

    def _read(self, found: Sequence[Any]) -> Any:
        row = list(found)
        for position, process in self._result:
            row[position] = process(row[position])
        return self._row._make(row)


def _bind_of(bind: sa.BindParameter[Any], dialect: Dialect) -> Process | None:
    return bind.type.dialect_impl(dialect).bind_processor(dialect)


def _result_of(
    columns: Iterable[sa.ColumnElement[Any]], dialect: Dialect
) -> list[tuple[int, Process]]:
    processes = (c.type.dialect_impl(dialect).result_processor(dialect, None) for c in columns)
    return [(position, each) for position, each in enumerate(processes) if each]
