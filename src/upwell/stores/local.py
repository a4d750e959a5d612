"""Blobs on a local disk: one preallocated file per upload, written in place.

::

    ROOT/blobs/ab/abcd…         the bytes of an upload, and of the blob it becomes
    ROOT/staged/abcd…/7.1f2e…   chunk 7 sent again after it was acknowledged

An upload's file is at its final place from the start: completing it renames nothing, and
only the catalog tells a blob from an upload. Rights to a chunk are open file description
locks (``fcntl(2)``, F_OFD_SETLK) on bytes far beyond any data: they hold across processes,
and the kernel drops them with the descriptor. Linux only.
"""

from __future__ import annotations

import errno
import os
import random
import re
import secrets
import shutil
import struct
import tempfile
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import xxhash

from upwell.core.ports import StoreLimits
from upwell.errors import StorageFull
from upwell.model import Chunk
from upwell.stores.descriptors import (
    COPY_SIZE,
    allocate,
    copy_range,
    lock,
    locked_elsewhere,
    make_folder,
    sync_folder,
    sync_together,
    unlock,
    write_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from upwell.core.ports import Chunks
    from upwell.model import Layout

# Lock bytes: one per chunk and purpose, out of the way of every possible offset.
_HELD = 1 << 61
_WAITING = _HELD + (1 << 40)
_QUEUED = _WAITING + (1 << 40)
_ROLES = {"hash": _QUEUED + (1 << 40), "complete": _QUEUED + (1 << 40) + 1}
_UNNAMED = _QUEUED + (1 << 40) + 2  # held on a new file until a row names it

_KEY = re.compile(r"[0-9a-f]{32}\Z")
_MEMO = "user.upwell.memo"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _full(where: str) -> StorageFull:
    return StorageFull(f"The server is out of space for {where}; free some, then send it again.")


@contextmanager
def _space_for(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(where) from error
        raise


def _protect(fd: int) -> bool:
    """Keep ``reclaim`` from a new file until this descriptor is closed; False when it took the
    file first."""
    # In this order: under the lock, a file that still has its name keeps it.
    return lock(fd, _UNNAMED) and os.fstat(fd).st_nlink > 0


class LocalIntake:
    """See ``Intake``. Keeps the descriptors of its files, and with them their locks."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._made: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._made.values():
            os.close(fd)
        self._made.clear()

    def reserve(self, size: int) -> str:
        self._store.need(size, "this file")
        with self._all_or_none():
            key = self._create(secrets.token_hex(1))
            with _space_for("this file"):
                allocate(self._made[key], size)
            sync_folder(self._store.path(key).parent)
        return key

    def put(self, data: bytes) -> str:
        return self.put_many([data])[0]

    def put_many(self, contents: Sequence[bytes]) -> list[str]:
        self._store.need(sum(map(len, contents)), "these files")
        shard = secrets.token_hex(1)  # of all of them: one folder is synced
        with self._all_or_none():
            keys = [self._written(shard, data) for data in contents]
            with _space_for("this file"):
                sync_together([self._made[key] for key in keys])
            sync_folder(self._store.shard(shard))
        return keys

    def _written(self, shard: str, data: bytes) -> str:
        key = self._create(shard)
        with _space_for("this file"):
            write_all(self._made[key], memoryview(data), 0)
        return key

    def _create(self, shard: str) -> str:
        """A new file, locked. Between its creation and the lock a sweeper may have taken it, if
        the clock was set forward or this process stood still just then: then it is another."""
        while True:
            key = shard + secrets.token_hex(15)
            with _space_for("this file"):
                fd = os.open(self._store.path(key), _NEW_FILE, 0o600)
            self._made[key] = fd
            if _protect(fd):
                return key
            del self._made[key]
            os.close(fd)

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        before = set(self._made)
        try:
            yield
        except BaseException:
            for key in self._made.keys() - before:
                self._store.path(key).unlink(missing_ok=True)
                os.close(self._made.pop(key))
            raise


class LocalSlot:
    """See ``ChunkSlot``. Three lock bytes: held, waiting for it, queued behind the waiter."""

    def __init__(self, store: LocalStore, layout: Layout, index: int) -> None:
        self._store = store
        self._layout = layout
        self._index = index
        self._fd = os.open(store.path(layout.key), os.O_RDWR | os.O_CLOEXEC)
        self._held = self._waiting = False
        self._old: tuple[int, int] | None = None  # where the same bytes may be: file and offset
        self._staged: str | None = None
        self._side: tuple[int, str] | None = None
        self._keep = False
        self._written = 0
        self._hash = xxhash.xxh3_128()

    def acquire(self) -> bool:
        if not self._held and lock(self._fd, _HELD + self._index):
            self._held = True
            unlock(self._fd, _WAITING + self._index)
            unlock(self._fd, _QUEUED + self._index)
        elif not self._held and not self._waiting:
            self._waiting = lock(self._fd, _WAITING + self._index)
            if self._waiting:
                unlock(self._fd, _QUEUED + self._index)
            else:
                lock(self._fd, _QUEUED + self._index)
        return self._held

    def contended(self) -> bool:
        if self._held:
            return locked_elsewhere(self._fd, _WAITING + self._index)
        return self._waiting and locked_elsewhere(self._fd, _QUEUED + self._index)

    def begin(self, *, replace: bool, staged: str | None = None) -> None:
        self._drop_side()
        self._close_old()
        self._written = 0
        self._hash.reset()
        self._staged = staged
        if os.fstat(self._fd).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the upload was discarded")
        if not replace:
            return
        if staged is None:
            self._old = (self._fd, self._layout.offset(self._index))
            return
        try:
            self._old = (self._store.open_side(self._layout.key, staged), 0)
        except OSError:  # lost, or not to be read: the body takes its place
            self._make_side()

    def write(self, data: memoryview) -> None:
        if self._old and not self._is_same(data):
            self._make_side()
        if not self._old:
            self._append(data)
        self._hash.update(data)
        self._written += len(data)

    def _is_same(self, data: memoryview) -> bool:
        fd, base = self._old or (self._fd, 0)
        try:
            return os.pread(fd, len(data), base + self._written) == bytes(data)
        except OSError:
            return False

    def _make_side(self) -> None:
        """Go on in a side object, which begins with what was the same so far."""
        length = self._layout.length(self._index)
        self._store.need(length, "this chunk")
        with _space_for("this chunk"):
            self._side = self._store.new_side(self._layout.key, self._index)
            allocate(self._side[0], length)
            if self._old:
                copy_range(self._old, self._side[0], self._written)
        self._close_old()

    def _append(self, data: memoryview) -> None:
        fd, base = self._target()
        with _space_for("this chunk"):
            write_all(fd, data, base + self._written)

    def commit(self) -> Chunk:
        staged = self._side[1] if self._side else None
        if self._old:
            staged = self._staged  # nothing was written: these bytes are durable
        else:
            self._sync()
        return Chunk(self._index, self._written, f"xxh3:{self._hash.hexdigest()}", staged)

    def _sync(self) -> None:
        fd, _ = self._target()
        with _space_for("this chunk"):
            os.fdatasync(fd)
            if self._side:
                sync_folder(self._store.side_folder(self._layout.key))

    def keep(self) -> None:
        self._keep = True

    def drop(self) -> None:
        self._keep = False

    def close(self) -> None:
        with suppress(OSError):
            self._drop_side()
            self._close_old()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _target(self) -> tuple[int, int]:
        if self._side:
            return self._side[0], 0
        return self._fd, self._layout.offset(self._index)

    def _close_old(self) -> None:
        if self._old and self._old[0] != self._fd:
            os.close(self._old[0])
        self._old = None

    def _drop_side(self) -> None:
        if self._side:
            fd, name = self._side
            self._side = None
            os.close(fd)
            if not self._keep:
                self._store.unstage(self._layout.key, name)


class LocalUploadReader:
    """See ``UploadReader``. Keeps the last side object open."""

    def __init__(self, store: LocalStore, layout: Layout) -> None:
        self._store = store
        self._layout = layout
        self._fd = os.open(store.path(layout.key), os.O_RDWR | os.O_CLOEXEC)
        self._side: tuple[str, int] | None = None

    def claim(self) -> bool:
        return lock(self._fd, _ROLES["hash"])

    def release(self) -> None:
        unlock(self._fd, _ROLES["hash"])

    def remember(self, memo: bytes) -> None:
        with suppress(OSError):  # not every file system has extended attributes
            os.setxattr(self._fd, _MEMO, self._identity() + memo)

    def recall(self) -> bytes:
        try:
            memo = os.getxattr(self._fd, _MEMO)
        except OSError:
            return b""
        # A backup copies attributes after the data, which may have changed in between: a
        # memo counts only for the very file whose bytes were hashed (I4).
        identity = self._identity()
        return memo[len(identity) :] if memo.startswith(identity) else b""

    def _identity(self) -> bytes:
        state = os.fstat(self._fd)
        return struct.pack("<QQ", state.st_dev, state.st_ino)

    def read_into(self, index: int, staged: str | None, offset: int, buffer: memoryview) -> int:
        left = self._layout.length(index) - offset
        buffer = buffer[: max(0, left)]
        if staged is None:
            return os.preadv(self._fd, [buffer], self._layout.offset(index) + offset)
        return os.preadv(self._open_side(staged), [buffer], offset)

    def close(self) -> None:
        self._close_side()
        os.close(self._fd)

    def _open_side(self, name: str) -> int:
        if self._side is None or self._side[0] != name:
            self._close_side()
            self._side = (name, self._store.open_side(self._layout.key, name))
        return self._side[1]

    def _close_side(self) -> None:
        if self._side:
            os.close(self._side[1])
            self._side = None


class LocalBlobReader:
    """See ``BlobReader``."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def fileno(self) -> int | None:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


class LocalStore:
    """See ``BlobStore``. ``min_free`` bytes of the disk are left to the catalog and others."""

    limits = StoreLimits(min_chunk_size=1, max_chunk_size=1 << 30, max_chunks=100_000)

    def __init__(self, root: Path, *, min_free: int = 32 << 20) -> None:
        self._root = root
        self._min_free = min_free
        make_folder(root)
        for folder in (root / "blobs", root / "staged"):
            folder.mkdir(exist_ok=True)
        for shard in range(256):
            (root / "blobs" / f"{shard:02x}").mkdir(exist_ok=True)
        sync_folder(root / "blobs")
        sync_folder(root)

    def path(self, key: str) -> Path:
        """Where a key's bytes lie. Keys are ours, never a caller's."""
        if not _KEY.match(key):
            raise FileNotFoundError(errno.ENOENT, "not a key", key)
        return self.shard(key[:2]) / key

    def shard(self, name: str) -> Path:
        """The folder of all keys that begin with two hex digits."""
        return self._root / "blobs" / name

    def side_folder(self, key: str) -> Path:
        return self._root / "staged" / key

    def new_side(self, key: str, index: int) -> tuple[int, str]:
        """An empty side object for a chunk: its descriptor and name."""
        folder = self.side_folder(key)
        while True:
            name = f"{index}.{secrets.token_hex(8)}"
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)
            with suppress(FileNotFoundError):  # emptied and removed by another: once more
                fd = os.open(folder / name, _NEW_FILE, 0o600)
                if _protect(fd):
                    return fd, name
                os.close(fd)  # see ``LocalIntake._create``

    def open_side(self, key: str, name: str) -> int:
        """A descriptor to read a side object. Raises FileNotFoundError."""
        return os.open(self.side_folder(key) / name, os.O_RDONLY | os.O_CLOEXEC)

    def intake(self) -> LocalIntake:
        return LocalIntake(self)

    def slot(self, layout: Layout, index: int) -> LocalSlot:
        return LocalSlot(self, layout, index)

    def reader(self, layout: Layout) -> LocalUploadReader:
        return LocalUploadReader(self, layout)

    def check_chunk(self, layout: Layout, chunk: Chunk) -> bool:
        if not 0 <= chunk.index < layout.count or chunk.size != layout.length(chunk.index):
            return False
        with closing(self.reader(layout)) as reader:
            try:
                return f"xxh3:{_fingerprint(reader, chunk)}" == chunk.etag
            except FileNotFoundError:  # its side object
                return False

    def publish(self, layout: Layout, chunks: Chunks) -> None:
        staged = chunks.staged()
        fd = os.open(self.path(layout.key), os.O_RDWR | os.O_CLOEXEC)
        try:
            for chunk in staged:
                if chunk.staged is not None:
                    side = self.side_folder(layout.key) / chunk.staged
                    _settle(fd, layout.offset(chunk.index), side)
            if staged:
                os.fdatasync(fd)
            if os.fstat(fd).st_size != layout.size:
                message = f"{layout.key} is not {layout.size} bytes long"
                raise OSError(errno.EIO, message)
        finally:
            os.close(fd)

    def open(self, key: str) -> LocalBlobReader:
        return LocalBlobReader(self.path(key))

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)
        self.unstage(key)

    @contextmanager
    def exclusive(self, layout: Layout, role: str) -> Iterator[bool]:
        fd = os.open(self.path(layout.key), os.O_RDWR | os.O_CLOEXEC)
        try:
            yield lock(fd, _ROLES[role])
        finally:
            os.close(fd)

    def list_keys(self) -> Iterator[tuple[str, datetime]]:
        shards = list((self._root / "blobs").iterdir())
        random.shuffle(shards)  # a walk that restarts cut short comes to every shard all the same
        for shard in shards:
            for entry in _entries(shard):
                if _KEY.match(entry.name):  # what else lies there is not ours to delete
                    yield entry.name, _changed(entry)

    def list_staged(self) -> Iterator[tuple[str, str, datetime]]:
        for folder in (self._root / "staged").iterdir():
            for entry in _entries(folder):
                yield folder.name, entry.name, _changed(entry)

    def unstage(self, key: str, name: str | None = None) -> None:
        folder = self.side_folder(key)
        if name is None:
            shutil.rmtree(folder, ignore_errors=True)
            return
        (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # other side objects are in it
            folder.rmdir()

    def reclaim(self, key: str, name: str | None, is_stray: Callable[[], bool]) -> bool:
        path = self.path(key) if name is None else self.side_folder(key) / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # The lock comes first: a writer that had it has committed its row or has given up,
            # and one that asks for it now does not get it, or finds the file gone.
            if not (lock(fd, _UNNAMED) and is_stray()):
                return False
            if name is None:
                self.delete(key)
            else:
                self.unstage(key, name)
        finally:
            os.close(fd)
        return True

    def check(self) -> None:
        with tempfile.TemporaryFile(dir=self._root):
            pass

    def need(self, size: int, where: str) -> None:
        """Raises StorageFull unless so many more bytes leave ``min_free`` to others."""
        space = os.statvfs(self._root)
        if size + self._min_free > space.f_bavail * space.f_frsize:
            raise _full(where)


def _fingerprint(reader: LocalUploadReader, chunk: Chunk) -> str:
    """XXH3-128 of what is stored of a chunk, however much that is."""
    digest, buffer, offset = xxhash.xxh3_128(), memoryview(bytearray(COPY_SIZE)), 0
    while count := reader.read_into(chunk.index, chunk.staged, offset, buffer):
        digest.update(buffer[:count])
        offset += count
    return digest.hexdigest()


def _settle(fd: int, offset: int, path: Path) -> None:
    """Copy a side object to its place; running it again has the same effect."""
    with path.open("rb", buffering=0) as side:
        while data := side.read(COPY_SIZE):
            with _space_for("this file"):
                write_all(fd, memoryview(data), offset)
            offset += len(data)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _changed(entry: os.DirEntry[str]) -> datetime:
    try:
        return datetime.fromtimestamp(entry.stat().st_mtime, UTC)
    except FileNotFoundError:
        return datetime.now(UTC)
