"""Stored blobs as they lie: how large, whether whole, and copied to another store."""

from __future__ import annotations

import errno
import hashlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.core import age
from upwell.core.sealed import fold_of
from upwell.core.sealing import stored_layout
from upwell.model import Blob, Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upwell.core.ports import BlobReader, BlobStore, Intake
    from upwell.model import Chunk

_READ_SIZE = 1 << 20
_COPY_CHUNK = 8 << 20


def stored_size(blob: Blob) -> int:
    """Bytes that a blob takes in its store."""
    return age.sealed_size(blob.size, blob.sealed.head) if blob.sealed else blob.size


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a blob's bytes, in words; not ``certain`` when they could not be read:
    they may be whole."""

    what: str
    certain: bool = True

    def __str__(self) -> str:
        return self.what


def problem_of(
    store: BlobStore, blob: Blob, advance: Callable[[int], None] = lambda _: None
) -> Problem | None:
    """What is wrong with a blob's bytes, all of which are read, or None; ``advance`` is told
    of bytes as they are dealt with. An encrypted blob is checked as it is stored."""
    try:
        with closing(store.open(blob.key)) as reader:
            what = _compared(reader, blob, advance)
    except FileNotFoundError:
        return Problem("missing")
    except OSError as error:
        return Problem(f"cannot be read: {error.strerror}", certain=False)
    return None if what is None else Problem(what)


def _compared(reader: BlobReader, blob: Blob, advance: Callable[[int], None]) -> str | None:
    size = stored_size(blob)
    if reader.size != size:
        return f"{reader.size} bytes instead of {size}"
    if blob.sealed is not None:
        plain = Layout(blob.key, blob.size, blob.sealed.chunk_size)
        layout = stored_layout(plain, blob.sealed.head)
        same = fold_of(reader, layout, advance) == blob.sealed.check
    else:
        same = digests_of(reader, blob, advance) == blob.digests
    return None if same else "other bytes than were uploaded"


def digests_of(
    reader: BlobReader, blob: Blob, advance: Callable[[int], None] = lambda _: None
) -> dict[str, str]:
    """Those digests of a reader's bytes that are known of the blob's content."""
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in blob.digests}
    offset = 0
    while data := reader.read_at(offset, _READ_SIZE):
        for digest in digests.values():
            digest.update(data)
        offset += len(data)
        advance(len(data))
    return {name: digest.hexdigest() for name, digest in digests.items()}


def copy(
    source: BlobReader,
    target: BlobStore,
    intake: Intake,
    advance: Callable[[int], None] = lambda _: None,
) -> str:
    """Copy stored bytes to another store, durably; their key in there. ``intake`` is that
    store's, and ends after the row that names the copy.

    Raises StorageFull, OSError; what was written then is removed, or left to the sweeper.
    """
    key = intake.reserve(source.size)
    layout = Layout(key, source.size, _COPY_CHUNK)
    try:
        chunks = [_copy_chunk(source, target, layout, i, advance) for i in range(layout.count)]
        with target.exclusive(layout, "complete"):
            target.publish(layout, _Copied(chunks))
    except BaseException:
        target.delete(key)
        raise
    return key


def _copy_chunk(
    source: BlobReader,
    target: BlobStore,
    layout: Layout,
    index: int,
    advance: Callable[[int], None],
) -> Chunk:
    with closing(target.slot(layout, index)) as slot:
        if not slot.acquire():
            raise OSError(errno.EBUSY, "somebody else writes to a copy")
        slot.begin(replace=False)
        offset, end = layout.offset(index), layout.offset(index) + layout.length(index)
        while offset < end:
            data = source.read_at(offset, min(_READ_SIZE, end - offset))
            if not data:
                raise OSError(errno.EIO, "the stored bytes end before their size")
            slot.write(memoryview(data))
            offset += len(data)
            advance(len(data))
        chunk = slot.commit()
        slot.keep()
        return chunk


class _Copied:
    """``core.ports.Chunks`` of a copy."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self._chunks = chunks

    def all(self, start: int = 0) -> Iterator[Chunk]:
        return iter(self._chunks[start:])

    def staged(self) -> list[Chunk]:
        return []
