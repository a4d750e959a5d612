"""Blobs in memory: the reference of the ``BlobStore`` port, as plain as it can be.

For tests and trials: nothing survives the process, and only its threads share it.
"""

from __future__ import annotations

import errno
import hashlib
import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from upwell.core.ports import StoreLimits
from upwell.errors import StorageFull
from upwell.model import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from upwell.core.ports import Chunks, Clock
    from upwell.model import Layout


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Bytes:
    """Some bytes and the instant of their last change. Who holds them keeps them."""

    content: bytearray
    changed: datetime


@dataclass(slots=True)
class _Upload:
    """What lies under one key; it stays readable for whoever has it when the key is gone."""

    main: _Bytes
    sides: dict[str, _Bytes] = field(default_factory=dict)
    held: dict[int, MemorySlot] = field(default_factory=dict)
    waiting: dict[int, MemorySlot] = field(default_factory=dict)
    queued: dict[int, MemorySlot] = field(default_factory=dict)
    roles: set[str] = field(default_factory=set)
    memo: bytes = b""
    gone: bool = False

    def chunk(self, layout: Layout, index: int, staged: str | None) -> bytes | None:
        """The stored bytes of a chunk, in place or in a side object; None when they are gone."""
        if staged is not None:
            side = self.sides.get(staged)
            return None if side is None else bytes(side.content)
        start = layout.offset(index)
        return bytes(self.main.content[start : start + layout.length(index)])


def _no_such(what: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "no such object", what)


class MemorySlot:
    """See ``ChunkSlot``."""

    def __init__(self, store: MemoryStore, layout: Layout, index: int) -> None:
        self._store = store
        self._upload = store.upload(layout.key)
        self._layout = layout
        self._index = index
        self._old: bytes | None = None  # the acknowledged bytes, as long as these are the same
        self._staged: str | None = None
        self._side: str | None = None
        self._keep = False
        self._body = bytearray()

    def acquire(self) -> bool:
        upload, index = self._upload, self._index
        with self._store.lock:
            holder = upload.held.setdefault(index, self)
            if holder is self:
                self._stop_asking()
                return True
            waiter = upload.waiting.setdefault(index, self)
            if waiter is not self:
                upload.queued.setdefault(index, self)
            elif upload.queued.get(index) is self:
                del upload.queued[index]
            return False

    def contended(self) -> bool:
        upload, index = self._upload, self._index
        with self._store.lock:
            if upload.held.get(index) is self:
                return index in upload.waiting
            return upload.waiting.get(index) is self and index in upload.queued

    def begin(self, *, replace: bool, staged: str | None = None) -> None:
        with self._store.lock:
            self._drop_side()
            self._body.clear()
            if self._upload.gone:
                raise _no_such(self._layout.key)
            self._staged = staged
            self._old = self._upload.chunk(self._layout, self._index, staged) if replace else None
            if replace and self._old is None:
                self._make_side()

    def _make_side(self) -> None:
        self._store.need(self._layout.length(self._index), "this chunk")
        self._side = f"{self._index}.{secrets.token_hex(8)}"
        self._upload.sides[self._side] = _Bytes(bytearray(self._body), self._store.clock())
        self._store.unnamed.add((self._layout.key, self._side))
        self._old = None

    def write(self, data: memoryview) -> None:
        """In place, as a disk would: what is not acknowledged may be overwritten."""
        with self._store.lock:
            at = len(self._body)
            if self._old is not None and self._old[at : at + len(data)] != data:
                self._make_side()
            if self._old is None:
                self._append(data)
            self._body += data

    def _append(self, data: memoryview) -> None:
        target = self._target()
        if self._side:
            self._store.need(len(data), "this chunk")
            target.content += data
        else:
            start = self._layout.offset(self._index) + len(self._body)
            target.content[start : start + len(data)] = data
        target.changed = self._store.clock()

    def commit(self) -> Chunk:
        digest = hashlib.sha256(self._body).hexdigest()
        staged = self._side if self._old is None else self._staged
        return Chunk(self._index, len(self._body), f"sha256:{digest}", staged)

    def keep(self) -> None:
        self._keep = True

    def drop(self) -> None:
        self._keep = False

    def close(self) -> None:
        with self._store.lock:
            self._drop_side()
            self._stop_asking()
            if self._upload.held.get(self._index) is self:
                del self._upload.held[self._index]

    def _target(self) -> _Bytes:
        if self._side is None:
            return self._upload.main
        side = self._upload.sides.get(self._side)
        return side or _Bytes(bytearray(), self._store.clock())  # discarded: goes nowhere

    def _stop_asking(self) -> None:
        for askers in (self._upload.waiting, self._upload.queued):
            if askers.get(self._index) is self:
                del askers[self._index]

    def _drop_side(self) -> None:
        if self._side:
            self._store.unnamed.discard((self._layout.key, self._side))
            if not self._keep:
                self._upload.sides.pop(self._side, None)
            self._side = None


class MemoryUploadReader:
    """See ``UploadReader``."""

    def __init__(self, store: MemoryStore, layout: Layout) -> None:
        self._store = store
        self._upload = store.upload(layout.key)
        self._layout = layout
        self._claimed = False

    def read_into(self, index: int, staged: str | None, offset: int, buffer: memoryview) -> int:
        length = self._layout.length(index)
        with self._store.lock:
            chunk = self._upload.chunk(self._layout, index, staged)
            if chunk is None:
                raise _no_such(str(staged))
            found = chunk[offset : min(length, offset + len(buffer))]
        buffer[: len(found)] = found
        return len(found)

    def claim(self) -> bool:
        with self._store.lock:
            self._claimed = self._claimed or "hash" not in self._upload.roles
            if self._claimed:
                self._upload.roles.add("hash")
            return self._claimed

    def release(self) -> None:
        with self._store.lock:
            if self._claimed:
                self._upload.roles.discard("hash")
            self._claimed = False

    def remember(self, memo: bytes) -> None:
        self._upload.memo = memo

    def recall(self) -> bytes:
        return self._upload.memo

    def close(self) -> None:
        self.release()


class MemoryIntake:
    """See ``Intake``."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._made: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._store.lock:
            self._store.unnamed.difference_update((key, None) for key in self._made)

    def reserve(self, size: int) -> str:
        with self._store.lock:
            self._store.need(size, "this file")
            return self._add(bytearray(size))

    def put(self, data: bytes) -> str:
        return self.put_many([data])[0]

    def put_many(self, contents: Sequence[bytes]) -> list[str]:
        with self._store.lock:
            self._store.need(sum(map(len, contents)), "these files")
            return [self._add(bytearray(data)) for data in contents]

    def _add(self, content: bytearray) -> str:
        key = self._store.add(content)
        self._made.add(key)
        self._store.unnamed.add((key, None))
        return key


class MemoryBlobReader:
    """See ``BlobReader``."""

    def __init__(self, content: bytearray) -> None:
        self._content = content
        self.size = len(content)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._content[offset : offset + length])

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        pass


class MemoryStore:
    """See ``BlobStore``. ``capacity`` in bytes may be changed at any time; None is no limit."""

    limits = StoreLimits(min_chunk_size=1, max_chunk_size=1 << 30, max_chunks=100_000)

    def __init__(self, *, capacity: int | None = None, clock: Clock = _utc_now) -> None:
        self.capacity = capacity
        self.clock = clock
        self.lock = threading.RLock()
        self.unnamed: set[tuple[str, str | None]] = set()  # what ``reclaim`` leaves alone
        self._uploads: dict[str, _Upload] = {}

    def upload(self, key: str) -> _Upload:
        """What lies under a key. Raises FileNotFoundError."""
        with self.lock:
            if key not in self._uploads:
                raise _no_such(key)
            return self._uploads[key]

    def need(self, size: int, what: str) -> None:
        """Raises StorageFull unless so many more bytes fit."""
        with self.lock:
            if self.capacity is not None and self._used() + size > self.capacity:
                raise StorageFull(
                    f"The server is out of space for {what}; free some, then send it again."
                )

    def intake(self) -> MemoryIntake:
        return MemoryIntake(self)

    def slot(self, layout: Layout, index: int) -> MemorySlot:
        return MemorySlot(self, layout, index)

    def reader(self, layout: Layout) -> MemoryUploadReader:
        return MemoryUploadReader(self, layout)

    def check_chunk(self, layout: Layout, chunk: Chunk) -> bool:
        upload = self.upload(layout.key)
        if not 0 <= chunk.index < layout.count or chunk.size != layout.length(chunk.index):
            return False
        with self.lock:
            stored = upload.chunk(layout, chunk.index, chunk.staged) or b""
            return f"sha256:{hashlib.sha256(stored).hexdigest()}" == chunk.etag

    def publish(self, layout: Layout, chunks: Chunks) -> None:
        staged = chunks.staged()
        with self.lock:
            upload = self.upload(layout.key)
            content = upload.main.content
            for chunk in staged:
                if chunk.staged not in upload.sides:
                    raise _no_such(str(chunk.staged))
                start = layout.offset(chunk.index)
                content[start : start + chunk.size] = upload.sides[chunk.staged].content
            if len(content) != layout.size:
                message = f"{layout.key} is not {layout.size} bytes long"
                raise OSError(errno.EIO, message)

    def open(self, key: str) -> MemoryBlobReader:
        return MemoryBlobReader(self.upload(key).main.content)

    def delete(self, key: str) -> None:
        with self.lock:
            upload = self._uploads.pop(key, None)
            if upload:
                upload.gone = True
                upload.sides.clear()

    @contextmanager
    def exclusive(self, layout: Layout, role: str) -> Iterator[bool]:
        upload = self.upload(layout.key)
        with self.lock:
            free = role not in upload.roles
            upload.roles.add(role)
        try:
            yield free
        finally:
            if free:
                upload.roles.discard(role)

    def list_keys(self) -> Iterator[tuple[str, datetime]]:
        with self.lock:
            found = [(key, upload.main.changed) for key, upload in self._uploads.items()]
        yield from found

    def list_staged(self) -> Iterator[tuple[str, str, datetime]]:
        with self.lock:
            found = [
                (key, name, side.changed)
                for key, upload in self._uploads.items()
                for name, side in upload.sides.items()
            ]
        yield from found

    def unstage(self, key: str, name: str | None = None) -> None:
        with self.lock:
            sides = self._uploads[key].sides if key in self._uploads else {}
            for each in [name] if name is not None else list(sides):
                sides.pop(each, None)

    def reclaim(self, key: str, name: str | None, is_stray: Callable[[], bool]) -> bool:
        with self.lock:
            upload = self._uploads.get(key)
            there = upload is not None and (name is None or name in upload.sides)
            if not there or (key, name) in self.unnamed or not is_stray():
                return False
            if name is None:
                self.delete(key)
            else:
                self.unstage(key, name)
            return True

    def check(self) -> None:
        pass

    def add(self, content: bytearray) -> str:
        """Store bytes under a new key."""
        key = secrets.token_hex(16)
        self._uploads[key] = _Upload(_Bytes(content, self.clock()))
        return key

    def _used(self) -> int:
        return sum(
            len(upload.main.content) + sum(len(side.content) for side in upload.sides.values())
            for upload in self._uploads.values()
        )
