"""The index of file names, for searches in the middle of them: SQLite's FTS5, by trigrams.

All that is SQLite's own about searching is here. Triggers keep the index in step with ``files``,
so no statement that changes a name can forget it. Files in the recycle bin are not in it.

An entry's rowid is the file's ``number``. The numbers of an account are one range, so a search
reads the entries of its account alone, and has them in the order in which files were recorded.
"""

from __future__ import annotations

import sqlalchemy as sa

SHORTEST = 3  # characters that can be looked up

_TABLE = "file_names"
_REMOVE = (
    f"INSERT INTO {_TABLE} ({_TABLE}, rowid, name_folded) "
    "SELECT 'delete', old.number, old.name_folded WHERE old.recycled_at IS NULL; "
)
_ADD = (
    f"INSERT INTO {_TABLE} (rowid, name_folded) "
    "SELECT new.number, new.name_folded WHERE new.recycled_at IS NULL; "
)
_WATCHED = "name_folded, number, recycled_at"
_OPTIONS = (
    "content='files', content_rowid='number', tokenize='trigram case_sensitive 1', columnsize=0"
)
CREATE = (
    f"CREATE VIRTUAL TABLE {_TABLE} USING fts5(name_folded, {_OPTIONS})",
    f"CREATE TRIGGER {_TABLE}_insert AFTER INSERT ON files BEGIN {_ADD}END",
    f"CREATE TRIGGER {_TABLE}_delete AFTER DELETE ON files BEGIN {_REMOVE}END",
    f"CREATE TRIGGER {_TABLE}_update AFTER UPDATE OF {_WATCHED} ON files BEGIN {_REMOVE}{_ADD}END",
)

TABLE = sa.table(_TABLE, sa.column("rowid", sa.BigInteger), sa.column(_TABLE, sa.Text))
NUMBER = TABLE.c.rowid


def matching(sought: str, first: int, last: int) -> sa.ColumnElement[bool]:
    """Entries, from number ``first`` to ``last``, that contain the folded ``sought``, which has
    at least ``SHORTEST`` characters."""
    phrase = '"' + sought.replace('"', '""') + '"'
    return sa.and_(TABLE.c[_TABLE].op("MATCH")(phrase), NUMBER.between(first, last))
