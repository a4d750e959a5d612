"""Looks at a data folder from outside: rows and bytes, read without the product's code.

``problems`` holds I2 and I4 (no row without its bytes, no file that is not verified);
``strays`` are the bytes that no row names; ``sweep`` runs the product's sweeper in this
process with the clock put forward.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import xxhash

from upwell import app
from upwell.config import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from upwell.jobs.sweep import Swept

_CHUNKS = """
    SELECT t.id, t.key, t.size, t.chunk_size, c."index", c.size, c.etag, c.staged
    FROM chunks c JOIN tasks t ON t.id = c.task_id WHERE t.status = 'in_progress'
"""


def _pool(data: Path) -> Path:
    return data / "pools" / "default"


def _blob(data: Path, key: str) -> Path:
    return _pool(data) / "blobs" / key[:2] / key


def _rows(data: Path, query: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(data / "catalog.sqlite", timeout=30)) as connection:
        return connection.execute(query, values).fetchall()


def chunks(data: Path) -> dict[tuple[str, int], tuple[bytes, str]]:
    """The bytes behind every acknowledged chunk, and its etag."""
    found: dict[tuple[str, int], tuple[bytes, str]] = {}
    for row in _rows(data, _CHUNKS):
        task, key, size, chunk_size, index, length, etag, staged = row
        assert isinstance(task, str)
        assert isinstance(key, str)
        assert isinstance(etag, str)
        assert isinstance(index, int)
        assert isinstance(size, int)
        assert isinstance(chunk_size, int)
        assert isinstance(length, int)
        assert length == min(chunk_size, size - index * chunk_size)
        if isinstance(staged, str):
            path, offset = _pool(data) / "staged" / key / staged, 0
        else:
            path, offset = _blob(data, key), index * chunk_size
        found[task, index] = (_read(path, offset, length), etag)
    return found


def _read(path: Path, offset: int, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
    except FileNotFoundError:
        return b""


def problems(data: Path) -> list[str]:
    """Rows whose bytes are missing or other ones."""
    found = [
        f"chunk {index} of {task} is not {etag}"
        for (task, index), (content, etag) in chunks(data).items()
        if etag != f"xxh3:{xxhash.xxh3_128(content).hexdigest()}"
    ]
    for key, size, sha256 in _rows(data, "SELECT key, size, sha256 FROM blobs"):
        path = _blob(data, str(key))
        content = path.read_bytes() if path.exists() else b""
        if (len(content), hashlib.sha256(content).hexdigest()) != (size, sha256):
            found.append(f"blob {key} is not its {size} verified bytes")
    found += [
        f"catalog: {row[0]}" for row in _rows(data, "PRAGMA integrity_check") if row[0] != "ok"
    ]
    return found


def keys(data: Path) -> set[str]:
    """Every upload and blob on the disk."""
    return {path.name for path in (_pool(data) / "blobs").glob("*/*")}


def staged(data: Path) -> set[Path]:
    """Every side object, and every folder of such."""
    return set((_pool(data) / "staged").rglob("*"))


def strays(data: Path) -> set[str]:
    """Bytes that no row names."""
    known = "SELECT key FROM tasks WHERE status = 'in_progress' UNION SELECT key FROM blobs"
    return keys(data) - {str(row[0]) for row in _rows(data, known)}


def sweep(data: Path, later: timedelta) -> Swept:
    """One sweep at a later instant, with nobody else on the data folder."""
    core = app.build(Settings(data=data), lambda: datetime.now(UTC) + later)
    try:
        return core.sweeper.sweep()
    finally:
        core.close()
