"""New catalogs for tests: copies of one that was migrated, once in a process."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

from upwell.catalog import SqlCatalog


@functools.cache
def _template() -> Path:
    """A catalog that is migrated once: a copy takes 1 ms, a migration 100."""
    path = Path(tempfile.mkdtemp(prefix="upwell-test-")) / "catalog.sqlite"
    SqlCatalog.open(path).close()
    return path


def migrated(path: Path) -> Path:
    """The path, with a catalog of the newest schema there, new when there was none."""
    if not path.exists():
        shutil.copy(_template(), path)
    return path
