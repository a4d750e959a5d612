"""Sealed chunks on their way to a store and back: the ports' slots and readers with an age
file behind them. The keys are ``core.sealing``'s.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from upwell.core import age
from upwell.core.sealing import Sealing, damaged, stored_layout
from upwell.errors import ChunkConflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from upwell.core.buffers import Budget, Recent
    from upwell.core.ports import BlobReader, ChunkSlot, UploadReader
    from upwell.core.sealing import KeyCache
    from upwell.model import Chunk, Layout

_HEAD_LIMIT = 1 << 10  # bytes in which the head of a file of ours is found
_NONCE = 12  # bytes (RFC 8439)
_RUN = 16  # blocks read at once
_PIECE = 512 << 10  # bytes written or hashed at once: they stay in the caches

_local = threading.local()


@dataclass(frozen=True, slots=True)
class SealedUpload:
    """An upload that is sealed on its way to its store; ``layout`` is the sender's."""

    sealing: Sealing
    layout: Layout

    @property
    def head(self) -> int:
        return len(self.sealing.header)

    @property
    def stored(self) -> Layout:
        """How it lies in its store."""
        return stored_layout(self.layout, self.head)

    def first_block(self, index: int) -> int:
        return self.layout.offset(index) // age.BLOCK


class SealedSlot:
    """A ``ChunkSlot`` of the sender's bytes in front of ``inner``, one of the stored layout.

    Blocks are sealed in memory as they come. Nothing of them reaches ``inner`` before
    ``commit`` has asked ``intend`` with the fingerprint of the whole sealed chunk: it records
    the first one it is asked with for this chunk, durably, and returns that. So a block's
    nonce never serves two contents, whatever attempts fail half-way. ``acknowledged`` gives
    the catalog's row of the chunk, if it has one.
    """

    def __init__(
        self,
        inner: ChunkSlot,
        upload: SealedUpload,
        index: int,
        *,
        budget: Budget,
        recent: Recent,
        intend: Callable[[str], str],
        acknowledged: Callable[[], Chunk | None],
    ) -> None:
        self._inner = inner
        self._key = upload.layout.key
        self._index = index
        self._budget = budget
        self._recent = recent
        self._intend = intend
        self._acknowledged = acknowledged
        self._head = b"" if index else upload.sealing.header
        self._length = upload.layout.length(index)
        self._first = upload.first_block(index)
        self._final = index == upload.layout.count - 1
        self._stream = upload.sealing.stream()
        self._taken = 0
        self._replace = False
        self._position = 0  # bytes of plaintext written
        self._buffer: bytearray | None = None
        self._sealed = memoryview(bytearray())
        self._filled = 0  # bytes of it
        self._partial = memoryview(bytearray())  # plaintext of a block that is not whole yet
        self._plain: bytearray | None = None  # all of it, when there is memory for that
        self._hash = xxhash.xxh3_128()

    def acquire(self) -> bool:
        """False also while there is no room to seal the chunk; the right to it is held then,
        so that nobody newer waits in vain for it to be contended."""
        if not self._inner.acquire():
            return False
        size = age.sealed_size(self._length, len(self._head)) + age.BLOCK
        if not self._taken and self._budget.take(size):
            self._taken = size
        return self._taken > 0

    def contended(self) -> bool:
        return self._inner.contended()

    def begin(self, *, replace: bool, staged: str | None = None) -> None:
        """Raises what ``inner`` does. Bytes that were written before are forgotten."""
        self._inner.begin(replace=replace, staged=staged)
        self._replace = replace
        self._position = 0
        self._hash.reset()
        if not self._partial:
            self._buffer = self._budget.lend(age.sealed_size(self._length, len(self._head)))
            self._sealed = memoryview(self._buffer)
            self._partial = memoryview(bytearray(age.BLOCK))
            self._plain = self._recent.lend(self._length)
        self._filled = len(self._head)
        self._sealed[: self._filled] = self._head
        self._hash.update(self._head)

    def write(self, data: memoryview) -> None:
        """Raises ValueError when the body is longer than the chunk."""
        if self._position + len(data) > self._length:
            raise ValueError("the body is longer than its chunk")
        if self._plain is not None:
            memoryview(self._plain)[self._position : self._position + len(data)] = data
        hashed = self._filled
        while data:
            waiting = self._position % age.BLOCK
            size = min(age.BLOCK, self._length - self._position + waiting)
            piece = data[: size - waiting]
            if len(piece) < size:
                self._partial[waiting : waiting + len(piece)] = piece
            self._position += len(piece)
            if waiting + len(piece) == size:
                self._seal(piece if len(piece) == size else self._partial[:size])
            data = data[len(piece) :]
        self._hash.update(self._sealed[hashed : self._filled])

    def _seal(self, plain: memoryview) -> None:
        """The block that ends at the position."""
        number = (self._position - 1) // age.BLOCK
        target = self._sealed[self._filled : self._filled + len(plain) + age.TAG]
        last = self._final and self._position == self._length
        self._stream.seal(self._first + number, plain, target, last=last)
        self._filled += len(target)

    def commit(self) -> Chunk:
        """A re-send of what is acknowledged writes nothing, and returns its row.

        Raises ChunkConflict when the chunk was sealed from another content before;
        ValueError when the body is shorter than the chunk.
        """
        if self._position != self._length:
            raise ValueError("the body is shorter than its chunk")
        fingerprint = self._hash.hexdigest()
        if self._intend(fingerprint) != fingerprint:
            raise _conflict(self._index)
        if self._replace and (chunk := self._acknowledged()):
            return chunk
        for at in range(0, len(self._sealed), _PIECE):
            self._inner.write(self._sealed[at : at + _PIECE])
        return self._inner.commit()

    def keep(self) -> None:
        self._inner.keep()
        if self._plain is not None:
            self._recent.keep(self._key, self._index, self._plain)
            self._plain = None

    def drop(self) -> None:
        self._inner.drop()

    def close(self) -> None:
        self._partial[:] = bytes(len(self._partial))
        self._partial = self._sealed = memoryview(bytearray())
        if self._buffer is not None:
            self._budget.take_back(self._buffer)
            self._buffer = None
        if self._plain is not None:
            self._recent.take_back(self._plain)
            self._plain = None
        try:
            self._inner.close()
        finally:
            self._budget.give(self._taken)
            self._taken = 0


def _conflict(index: int) -> ChunkConflict:
    return ChunkConflict(
        f"Chunk {index} of this encrypted upload was sent with other bytes before, and bytes of "
        "an encrypted chunk can never be replaced; cancel this upload and create a new one."
    )


# reading


class _Opener:
    """Opens any range of a payload of ``size`` bytes of plaintext.

    ``fetch`` gives so many bytes from an offset within the payload, all of them.
    """

    def __init__(self, sealing: Sealing, size: int) -> None:
        self._stream = sealing.stream()
        self._size = size
        self._last = age.blocks(size) - 1

    def fill(self, start: int, target: memoryview, fetch: Callable[[int, int], memoryview]) -> None:
        """Fill ``target`` with the plaintext from ``start`` on. Raises OSError."""
        if not target:
            return
        end = start + len(target)
        for first in range(start // age.BLOCK, -(-end // age.BLOCK), _RUN):
            beyond = min(first + _RUN, -(-end // age.BLOCK))
            offset = first * age.SEALED_BLOCK
            plain_end = min(beyond * age.BLOCK, self._size)
            run = fetch(offset, plain_end + beyond * age.TAG - offset)
            for block in range(first, beyond):
                sealed, run = run[: age.SEALED_BLOCK], run[age.SEALED_BLOCK :]
                self._place(block, sealed, start, target)

    def _place(self, block: int, sealed: memoryview, start: int, target: memoryview) -> None:
        """Open a block, and put what ``target`` covers of it to its place in there."""
        at = block * age.BLOCK - start  # within the target
        size = len(sealed) - age.TAG
        if at >= 0 and at + size <= len(target):
            self.open(block, sealed, target[at : at + size])
            return
        whole = memoryview(bytearray(size))
        self.open(block, sealed, whole)
        piece = whole[max(0, -at) : len(target) - at]
        target[max(0, at) : max(0, at) + len(piece)] = piece

    def open(self, block: int, sealed: memoryview, plain: memoryview) -> None:
        try:
            self._stream.open(block, sealed, plain, last=block == self._last)
        except age.Damaged as error:
            raise damaged(f"an encrypted file is damaged: {error}") from error


class SealedUploadReader:
    """An ``UploadReader`` of the sender's bytes, in front of one of the stored layout.

    Reads of many blocks that begin with one are the fastest. Stored bytes that do not open
    are an OSError (EIO). A memo is sealed: the state of a running digest may hold plaintext.
    """

    def __init__(self, inner: UploadReader, upload: SealedUpload) -> None:
        self._inner = inner
        self._upload = upload
        self._opener = _Opener(upload.sealing, upload.layout.size)

    def read_into(self, index: int, staged: str | None, offset: int, buffer: memoryview) -> int:
        layout = self._upload.layout
        target = buffer[: max(0, layout.length(index) - offset)]
        begin = self._upload.first_block(index) * age.SEALED_BLOCK  # of the chunk, sealed
        begin -= 0 if index else self._upload.head

        def fetch(at: int, length: int) -> memoryview:
            return self._fetch(index, staged, at - begin, length)

        self._opener.fill(layout.offset(index) + offset, target, fetch)
        return len(target)

    def _fetch(self, index: int, staged: str | None, offset: int, length: int) -> memoryview:
        sealed = _buffer()[:length]
        done = 0
        while done < length:
            count = self._inner.read_into(index, staged, offset + done, sealed[done:])
            if count == 0:
                raise damaged(f"chunk {index} of an encrypted upload is shorter than acknowledged")
            done += count
        return sealed

    def claim(self) -> bool:
        return self._inner.claim()

    def release(self) -> None:
        self._inner.release()

    def remember(self, memo: bytes) -> None:
        nonce = secrets.token_bytes(_NONCE)
        self._inner.remember(nonce + self._memo_cipher().encrypt(nonce, memo, None))

    def recall(self) -> bytes:
        """Nothing also when it does not open."""
        sealed = self._inner.recall()
        try:
            return self._memo_cipher().decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
        except (InvalidTag, ValueError):
            return b""

    def _memo_cipher(self) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(self._upload.sealing.memo_key())

    def close(self) -> None:
        self._inner.close()


def _buffer() -> memoryview:
    """This thread's place for a run of sealed blocks."""
    if not hasattr(_local, "buffer"):
        _local.buffer = memoryview(bytearray(_RUN * age.SEALED_BLOCK))
    buffer: memoryview = _local.buffer
    return buffer


class SealedReader:
    """A ``BlobReader`` of the content, in front of one of the whole age file; ``size`` is the
    content's, as far as the file's size tells.

    What does not open is an OSError (EIO). That a file was cut off between two blocks, or
    prolonged by one, shows when its last block is read. Several threads may read.
    """

    def __init__(self, inner: BlobReader, sealing: Sealing) -> None:
        self._inner = inner
        self._head = len(sealing.header)
        try:
            self.size = age.plain_size(inner.size, self._head)
        except age.Damaged as error:
            raise damaged(f"an encrypted file is damaged: {error}") from error
        self._opener = _Opener(sealing, self.size)
        if self.size == 0:
            self._opener.open(0, self._fetch(0, age.TAG), memoryview(bytearray()))

    def read_at(self, offset: int, length: int) -> bytes:
        plain = bytearray(max(0, min(length, self.size - offset)))
        self._opener.fill(offset, memoryview(plain), self._fetch)
        return bytes(plain)

    def _fetch(self, offset: int, length: int) -> memoryview:
        found = _read_all(self._inner, self._head + offset, length)
        if len(found) < length:
            raise damaged("an encrypted file is shorter than it was")
        return found

    def fileno(self) -> int | None:
        """None: the kernel cannot send what it cannot open."""
        return None

    def close(self) -> None:
        self._inner.close()


def open_sealed(inner: BlobReader, password: str, cache: KeyCache | None = None) -> SealedReader:
    """Read the content of an age file; ``inner`` stays the caller's to close if this raises.

    Raises what ``Sealing.unlock`` does.
    """
    unlock = cache.unlock if cache else Sealing.unlock
    head = bytes(_read_all(inner, 0, _HEAD_LIMIT))
    return SealedReader(inner, unlock(head, password))


def _read_all(reader: BlobReader, offset: int, length: int) -> memoryview:
    """``length`` bytes, fewer only at the end."""
    data = reader.read_at(offset, length)
    if len(data) == length:
        return memoryview(data)
    parts = bytearray(data)
    while data and len(parts) < length:
        data = reader.read_at(offset + len(parts), length - len(parts))
        parts += data
    return memoryview(parts)


# checking what lies there, without a password


def fold(fingerprints: Iterable[str]) -> str:
    """One digest of all chunks' fingerprints, in their order: XXH3-128, in hex."""
    digest = xxhash.xxh3_128()
    for each in fingerprints:
        digest.update(each.encode("ascii"))
    return str(digest.hexdigest())


def fold_of(
    reader: BlobReader, layout: Layout, advance: Callable[[int], None] = lambda _: None
) -> str:
    """The fold of what is stored; ``layout`` is the stored one. ``advance`` learns of every
    piece read, in bytes, and may raise. Raises OSError when the file has another size."""
    if reader.size != layout.size:
        raise damaged(f"an encrypted file is {reader.size} bytes, not {layout.size}")
    return fold(_fingerprint(reader, layout, index, advance) for index in range(layout.count))


def _fingerprint(
    reader: BlobReader, layout: Layout, index: int, advance: Callable[[int], None]
) -> str:
    digest = xxhash.xxh3_128()
    offset, end = layout.offset(index), layout.offset(index) + layout.length(index)
    while offset < end:
        piece = reader.read_at(offset, min(_PIECE, end - offset))
        if not piece:
            raise damaged("an encrypted file is shorter than it was")
        digest.update(piece)
        offset += len(piece)
        advance(len(piece))
    return str(digest.hexdigest())
