"""A journal of what must outlive a damaged catalog: accounts, tokens, pools, bundles,
files.

A snapshot is minutes old. The journal names what came after it, in a form that any copy of the
folder holds whole up to the instant of the copy: a file that only grows. It is read by recovery
alone, which holds each file it names against its bytes; so it is not synced, and a line that
could not be written fails no request.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from upwell.core.ports import Noted
from upwell.model import (
    Account,
    Blob,
    Bundle,
    CloudFile,
    Digest,
    Policy,
    Pool,
    Scope,
    Sealed,
    Token,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LARGEST = 64 << 20  # bytes; then the older half goes


class Journal:
    """Lines of JSON; any number of processes append."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, *noted: Noted) -> None:
        if not noted:
            return
        lines = b"".join(map(_line, noted))
        with suppress(OSError):
            fd = self._open(fcntl.LOCK_SH)
            try:
                os.write(fd, lines)
            finally:
                os.close(fd)

    def entries(self) -> Iterator[Noted]:
        """What was noted, oldest first. Lines that cannot be read are passed over."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError, AttributeError):
                    yield _noted(json.loads(line))

    def trim(self, largest: int = LARGEST) -> None:
        """Drop the older half of a journal that has grown too large."""
        fd = self._open(fcntl.LOCK_EX)
        try:
            size = os.fstat(fd).st_size
            if size > largest:
                self._keep_from(size // 2)
        finally:
            os.close(fd)

    def _keep_from(self, offset: int) -> None:
        partial = self._path.with_name(f"{self._path.name}.partial")
        with self._path.open("rb") as old, partial.open("wb") as new:
            partial.chmod(0o600)
            old.seek(offset)
            old.readline()
            while data := old.read(1 << 20):
                new.write(data)
        partial.replace(self._path)

    def _open(self, mode: int) -> int:
        """The journal's descriptor, locked, and not of one that ``trim`` just replaced."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        while True:
            fd = os.open(self._path, flags, 0o600)
            try:
                fcntl.flock(fd, mode)
                if self._path.stat().st_ino == os.fstat(fd).st_ino:
                    return fd
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)


def _line(noted: Noted) -> bytes:
    record = {name: value for name, value in _fields_of(noted).items() if value is not None}
    # The line feed in front ends what a full disk may have cut short.
    return f"\n{json.dumps(record, default=_plain)}\n".encode()


def _fields_of(value: Any) -> dict[str, Any]:
    """As ``asdict``, which copies all that is below, too: several times as slow."""
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _fields_of(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"{type(value)} has no place in the journal")


def _instants(record: dict[str, Any]) -> dict[str, Any]:
    """Every ``…_at`` as the instant it stands for."""
    return {
        name: datetime.fromisoformat(value) if name.endswith("_at") and value else value
        for name, value in record.items()
    }


def _account(record: dict[str, Any]) -> Account:
    return Account(**_instants(record))


def _token(record: dict[str, Any]) -> Token:
    digest, scopes = bytes.fromhex(record["digest"]), frozenset(map(Scope, record["scopes"]))
    return Token(**_instants(record) | {"digest": digest, "scopes": scopes})


def _pool(record: dict[str, Any]) -> Pool:
    policy, expiry = record["policy"], record["policy"]["file_expiry"]
    parts = {
        "accept_types": tuple(policy["accept_types"]),
        "file_expiry": None if expiry is None else timedelta(seconds=expiry),
    }
    return Pool(**_instants(record) | {"policy": Policy(**policy | parts)})


def _bundle(record: dict[str, Any]) -> Bundle:
    return Bundle(**_instants(record))


def _blob(record: dict[str, Any]) -> Blob:
    sealed = record.get("sealed")  # lines of an earlier version have none
    return Blob(**_instants(record) | {"sealed": sealed and Sealed(**sealed)})


def _file(record: dict[str, Any]) -> CloudFile:
    parts = {
        "blob": _blob(record["blob"]),
        "digest": Digest(**record["digest"]),
        "sensitive_marks": tuple(record["sensitive_marks"]),
    }
    return CloudFile(**_instants(record) | parts)


_READ: dict[str, Callable[[dict[str, Any]], Any]] = {
    "account": _account,
    "token": _token,
    "pool": _pool,
    "bundle": _bundle,
    "file": _file,
}


def _noted(record: dict[str, Any]) -> Noted:
    plain = {name: value for name, value in record.items() if name not in _READ}
    return Noted(**plain | {name: _READ[name](record[name]) for name in _READ.keys() & record})
