"""Rows: accounts, tasks, chunks, blobs, files, kept in a SQL database.

``SqlCatalog.open`` is the way in; ``integrity_problem`` looks at a file that is not open.
"""

from upwell.catalog.sql import SqlCatalog
from upwell.catalog.sqlite import integrity_problem

__all__ = ["SqlCatalog", "integrity_problem"]
