"""Re-reads stored bytes against their digests, while the server runs; mends what can be mended.

A chunk of an open upload whose bytes are damaged is forgotten, so that the client sends it
again. A damaged file's bytes are put right from another blob of the same content, when there
is one that is whole. Everything else is reported. Chunks that cannot be read are not damaged:
nothing is forgotten because a disk did not answer.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from upwell.core import blobs
from upwell.core.uploads import forget_chunks, is_whole
from upwell.errors import NotReady, StorageFull, TaskClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from upwell.core.homes import Home
    from upwell.core.ports import BlobStore, Catalog, Clock
    from upwell.model import Blob, Chunk, CloudFile, UploadTask


@dataclass(frozen=True, slots=True)
class Damage:
    """A file whose bytes are not those that were verified; ``account`` is a name."""

    file_id: str
    name: str
    account: str
    pool: str
    problem: str
    repaired: bool


@dataclass(slots=True)
class Verified:
    """What one pass read and found; ``bytes`` are those of blobs. ``chunks_forgotten`` of the
    damaged chunks are to be sent again; of ``chunks_unreadable`` nothing is known.
    ``figures_mended`` counts wrong usage counters."""

    blobs: int = 0
    bytes: int = 0
    chunks: int = 0
    chunks_damaged: int = 0
    chunks_forgotten: int = 0
    chunks_unreadable: int = 0
    figures_mended: int = 0
    damaged: list[Damage] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether no damage is left."""
        left = self.chunks_damaged - self.chunks_forgotten + self.chunks_unreadable
        return left == 0 and all(each.repaired for each in self.damaged)


class Verifier:
    """One pass over all pools. ``advance`` is told of bytes as they are dealt with."""

    def __init__(
        self,
        catalog: Catalog,
        homes: Mapping[str, Home],
        clock: Clock,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._advance = advance
        self._found = Verified()

    def size(self) -> int:
        """Bytes that ``run`` is going to read."""
        uploads = sum(task.received_bytes for task in self._catalog.open_tasks())
        return uploads + sum(blobs.stored_size(blob) for blob in self._catalog.blobs())

    def run(self, *, repair: bool = False) -> Verified:
        """Read everything; with ``repair``, mend what can be mended."""
        for task in self._catalog.open_tasks():
            self._check_task(task, repair=repair)
        for blob in self._catalog.blobs():
            self._check_blob(blob, repair=repair)
        if repair:
            self._found.figures_mended = self._catalog.repair_usage()
        return self._found

    def _store(self, pool_id: str) -> BlobStore | None:
        """None when the pool is unknown, or its disk is not there."""
        try:
            home = self._homes.get(pool_id)
        except (OSError, NotReady):
            return None
        return home.store if home else None

    # uploads in progress

    def _check_task(self, task: UploadTask, *, repair: bool) -> None:
        store = self._store(task.pool_id)
        if store is None:
            return
        for chunk in self._catalog.chunks(task.id).all():
            self._found.chunks += 1
            try:
                whole = is_whole(store, task, chunk)
            except FileNotFoundError:
                return  # closed meanwhile, or the sweeper's
            except OSError:
                self._found.chunks_unreadable += 1
                continue
            self._advance(chunk.size)
            if whole or self._catalog.chunk(task.id, chunk.index) != chunk:
                continue  # or it was replaced while it was read
            self._found.chunks_damaged += 1
            if repair:
                self._forget(store, task, chunk)

    def _forget(self, store: BlobStore, task: UploadTask, chunk: Chunk) -> None:
        try:
            forgotten = forget_chunks(self._catalog, store, task, [chunk], self._clock())
        except (TaskClosed, FileNotFoundError):
            forgotten = 1  # it ended meanwhile, and its chunks with it
        self._found.chunks_forgotten += forgotten

    # files

    def _check_blob(self, blob: Blob, *, repair: bool) -> None:
        self._found.blobs += 1
        store = self._store(blob.pool_id)
        if store is None:
            problem: blobs.Problem | None = blobs.Problem("its pool cannot be used", certain=False)
        else:
            problem = blobs.problem_of(store, blob, self._read)
        if problem is None:
            return
        files = self._catalog.files_of_blob(blob.id)  # none when it was deleted meanwhile
        repaired = bool(files) and repair and self._repair(blob)
        for file in files:
            self._found.damaged.append(self._damage(file, str(problem), repaired=repaired))

    def _read(self, count: int) -> None:
        self._found.bytes += count
        self._advance(count)

    def _damage(self, file: CloudFile, problem: str, *, repaired: bool) -> Damage:
        names = {account.id: account.name for account in self._catalog.accounts()}
        pools = {pool.id: pool.name for pool in self._catalog.pools()}
        account, pool_id = names.get(file.account_id, "?"), file.blob.pool_id
        pool = pools.get(pool_id, pool_id)
        return Damage(file.id, file.name, account, pool, problem, repaired)

    def _repair(self, damaged: Blob) -> bool:
        """Give a damaged blob the bytes of a whole one of the same content."""
        return any(self._replace(damaged, twin) for twin in self._twins(damaged))

    def _twins(self, damaged: Blob) -> Iterator[Blob]:
        """Blobs of the same content, whosever: what is copied is what was there."""
        for blob in self._catalog.blobs():
            same = (blob.size, blob.digests["sha256"]) == (damaged.size, damaged.digests["sha256"])
            if same and blob.id != damaged.id and not (blob.sealed or damaged.sealed):
                yield blob

    def _replace(self, damaged: Blob, twin: Blob) -> bool:
        """Copy a twin's bytes, verify the copy, and let the row name it."""
        store, source = self._store(damaged.pool_id), self._store(twin.pool_id)
        if store is None or source is None:
            return False
        with store.intake() as intake:  # until the row names the copy
            try:
                with closing(source.open(twin.key)) as reader:
                    key = blobs.copy(reader, store, intake)
            except (OSError, StorageFull):
                return False
            whole = blobs.problem_of(store, replace(damaged, key=key)) is None
            if whole and self._catalog.rekey_blob(damaged.id, key, self._clock()):
                return True
        store.delete(key)
        return False
