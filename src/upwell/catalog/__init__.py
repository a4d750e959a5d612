"""Rows: accounts, tasks, chunks, blobs, files, kept in a SQL database.

``SqlCatalog.open`` is the way in, ``FolderCatalog.open_folder`` that of a server;
``integrity_problem`` looks at a file that is not open.
"""

from upwell.catalog.folder import FolderCatalog, claim_folder, journal_of, restore_catalog
from upwell.catalog.sql import SqlCatalog
from upwell.catalog.sqlite import integrity_problem

__all__ = [
    "FolderCatalog",
    "SqlCatalog",
    "claim_folder",
    "integrity_problem",
    "journal_of",
    "restore_catalog",
]
