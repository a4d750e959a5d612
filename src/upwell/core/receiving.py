"""The body of one chunk on its way to its slot."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from upwell.errors import (
    ChecksumMismatch,
    ChunkSizeMismatch,
    Conflict,
    Refused,
    TaskNotFound,
)

if TYPE_CHECKING:
    from upwell.core.ports import ChunkSlot
    from upwell.core.uploads import Uploads
    from upwell.model import Allowance, Chunk, UploadTask

CHECKSUMS = ("md5", "sha1", "sha256", "sha512")


@dataclass(frozen=True, slots=True)
class Checksum:
    """A digest of one chunk that the sender declares (tus ``Upload-Checksum``)."""

    algorithm: str
    digest: bytes


class ChunkWriter:
    """Takes the body of one chunk: ``acquire`` until it is True, ``write``, ``finish``.

    ``close`` in any case. Made by ``Uploads.open_chunk``, which has decided who may.
    """

    def __init__(
        self,
        uploads: Uploads,
        task: UploadTask,
        index: int,
        slot: ChunkSlot,
        checksum: Checksum | None,
        allowance: Allowance,
    ) -> None:
        """``allowance`` is the sender's, for the space that other bytes of a chunk take."""
        self._uploads = uploads
        self._task = task
        self._index = index
        self._slot = slot
        self._checksum = checksum
        self._allowance = allowance
        self._hash: Any = hashlib.new(checksum.algorithm) if checksum else None
        self._before: Chunk | None = None
        self.length = task.layout.length(index)
        self._left = self.length

    def check_length(self, declared: int) -> None:
        """Raises ChunkSizeMismatch, before a body of that length is read."""
        if declared != self.length:
            raise self._wrong_size(declared)

    def acquire(self) -> bool:
        """Try to become the only writer; asking makes a stuck one let go."""
        if not self._slot.acquire():
            return False
        self._before = self._uploads.acknowledged(self._task, self._index)
        if self._before is None:
            # Or the task is a file by now, whose bytes these must not touch (I3). If it is
            # not, it cannot become one while the slot is held and this chunk is missing.
            self._uploads.require_open(self._task)
        try:
            staged = self._before.staged if self._before else None
            self._slot.begin(replace=self._before is not None, staged=staged)
        except FileNotFoundError:
            raise task_not_found() from None
        return True

    def contended(self) -> bool:
        """Whether a newer request for this chunk waits."""
        return self._slot.contended()

    def write(self, data: memoryview) -> None:
        """Raises ChunkSizeMismatch when the body is longer than the chunk."""
        self._left -= len(data)
        if self._left < 0:
            raise self._wrong_size(self.length - self._left)
        if self._hash:
            self._hash.update(data)
        self._slot.write(data)

    def finish(self) -> None:
        """Verify, make durable, acknowledge. After it, and only then, answer 200 (I1). Raises
        QuotaExceeded when the chunk is sent again with other bytes, for which there is no room.
        """
        if self._left:
            raise self._wrong_size(self.length - self._left)
        if self._checksum and not hmac.compare_digest(self._hash.digest(), self._checksum.digest):
            raise ChecksumMismatch(
                "The chunk does not have the declared Upload-Checksum; send it again."
            )
        if self._task.layout.size == 0:
            return
        try:
            chunk = self._slot.commit()
        except FileNotFoundError:  # the task was closed, and its side objects are gone
            self._uploads.require_open(self._task)
            raise
        if self._before and is_same(self._before, chunk):
            chunk = self._before
        else:
            self._slot.keep()  # before the row: a row without its bytes must never be (I2)
        try:
            self._uploads.record(self._task, chunk, self._before, self._allowance)
        except (Conflict, Refused):
            self._slot.drop()  # of any other failure the outcome is not known: see I2
            raise

    def close(self) -> None:
        self._slot.close()

    def _wrong_size(self, size: int) -> ChunkSizeMismatch:
        return ChunkSizeMismatch(
            f"Chunk {self._index} of this upload is {self.length} bytes, not {size}; "
            "cut the file by the task's chunk_size.",
            meta={"expected": self.length, "received": size},
        )


def is_same(one: Chunk, other: Chunk) -> bool:
    """Whether two chunks are the same bytes at the same place. Bytes that are acknowledged and
    found to be others, or unreadable, are replaced by those that are sent again."""
    return (one.etag, one.staged) == (other.etag, other.staged)


def task_not_found() -> TaskNotFound:
    return TaskNotFound("There is no such upload of yours; it may have expired. Create a new one.")
