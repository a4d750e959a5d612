"""Work in bounded pieces: nobody waits long for the writer, and no number is too large."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from upwell.catalog.sqlite import Sqlite

BATCH = 500
_LARGEST = 2**63 - 1


def repeat(database: Sqlite, some: Callable[[Connection], int]) -> int:
    """Run ``some`` until it finds nothing more, a transaction each; how many in all."""
    total = 0
    while done := write_some(database, some):
        total += done
    return total


def write_some(database: Sqlite, some: Callable[[Connection], int]) -> int:
    """Run ``some``, which matters when it did something; how many."""
    done = database.write(some, matters=False)
    if done:
        database.written_at = time.time()
    return done


def column_int(number: int) -> int:
    """A caller's number as one that a column can hold: what is larger finds nothing either."""
    return min(number, _LARGEST)
