"""Whole-file digests that follow the contiguous prefix while chunks arrive.

Bytes are hashed when they are still in the page cache, so that complete finds the digest
ready. SHA-256 is the identity of stored bytes and always computed; the declared algorithm
is computed beside it. A follower has no state that must survive: after a restart it starts
again from the file.
"""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from upwell.core.ports import BlobStore, Catalog, UploadReader
    from upwell.model import Chunk, Digest, UploadTask

    Digests = dict[str, str]

_READ_SIZE = 1 << 20
_local = threading.local()


def algorithms_for(declared: Digest | None) -> tuple[str, ...]:
    """SHA-256, and the declared algorithm when it is another one."""
    if declared is None or declared.algorithm == "sha256":
        return ("sha256",)
    return ("sha256", declared.algorithm)


def digests_of(data: bytes, declared: Digest | None) -> Digests:
    """The digests of a small content held in memory."""
    return {name: hashlib.new(name, data).hexdigest() for name in algorithms_for(declared)}


def _buffer() -> memoryview:
    if not hasattr(_local, "buffer"):
        _local.buffer = memoryview(bytearray(_READ_SIZE))
    buffer: memoryview = _local.buffer
    return buffer


class Follower:
    """Hashes one upload's acknowledged chunks in order, as far as there is no gap.

    ``run`` is called by one thread at a time; everything else by any thread.
    """

    def __init__(self, task: UploadTask, open_reader: Callable[[], UploadReader]) -> None:
        self.layout = task.layout
        self._algorithms = algorithms_for(task.digest)
        self._open_reader = open_reader
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._chunks: dict[int, str | None] = {}
        self._waiters: list[Future[Digests]] = []
        self._running = False
        self._restart(task.revision)
        self.used_at = time.monotonic()

    def _restart(self, revision: int) -> None:
        self.revision = revision
        self._generation = getattr(self, "_generation", 0) + 1
        self._position = 0  # chunks hashed
        self._hashes: list[Any] = [hashlib.new(name) for name in self._algorithms]

    def reset(self, chunks: dict[int, str | None], revision: int) -> None:
        """Begin anew from what the catalog says."""
        with self._lock:
            self._chunks = chunks
            self._restart(revision)

    def note(self, chunk: Chunk, revision: int, *, replaced: bool) -> bool:
        """Learn of a chunk acknowledged as of ``revision``; False when changes were missed."""
        with self._lock:
            self.used_at = time.monotonic()
            if revision < self.revision:
                return True  # a reload that came first already knew it
            self._chunks[chunk.index] = chunk.staged
            missed = revision != self.revision + replaced
            if replaced and chunk.index <= self._position:
                self._restart(revision)
            self.revision = revision
            return not missed

    def extend(self, chunks: dict[int, str | None]) -> None:
        """Learn of chunks that other processes acknowledged, at the same revision."""
        with self._lock:
            self._chunks.update(chunks)

    def knows_all(self) -> bool:
        with self._lock:
            return len(self._chunks) >= self.layout.count

    def lag(self) -> int:
        """Chunks that are known, not hashed yet, and not behind a gap."""
        with self._lock:
            index = self._position
            while index in self._chunks and index - self._position < 64:
                index += 1
            return index - self._position

    def claim(self) -> bool:
        """Become the thread that runs it, if there is something to do."""
        with self._lock:
            if self._running or not self._ready():
                return False
            self._running = True
            return True

    def run(self) -> None:
        """Hash until the next gap. Its claim is given up at the end."""
        try:
            with closing(self._open_reader()) as reader:
                while self._step(reader):
                    pass
        except Exception as error:  # noqa: BLE001 - whoever waits for the digest must learn of it
            self._fail(error)

    def _step(self, reader: UploadReader) -> bool:
        """Hash one chunk; False, and the claim given up, when there is none."""
        with self._lock:
            if not self._ready():
                self._running = False
                self._deliver()
                self._changed.notify_all()
                return False
            index, generation = self._position, self._generation
            staged, hashes = self._chunks[index], self._hashes
        self._hash_chunk(reader, index, staged, hashes)
        with self._lock:
            if generation == self._generation:
                self._position += 1
                self._changed.notify_all()
        return True

    def _hash_chunk(
        self, reader: UploadReader, index: int, staged: str | None, hashes: list[Any]
    ) -> None:
        buffer, offset, length = _buffer(), 0, self.layout.length(index)
        while offset < length:
            count = reader.read_into(index, staged, offset, buffer)
            if count == 0:
                message = f"chunk {index} of {self.layout.key} is shorter than acknowledged"
                raise OSError(message)
            for each in hashes:
                each.update(buffer[:count])
            offset += count

    def _ready(self) -> bool:
        return self._position < self.layout.count and self._position in self._chunks

    def pace(self, limit: int, seconds: float) -> None:
        """Wait while the hash is more than ``limit`` chunks behind what has arrived."""
        until = time.monotonic() + seconds
        while self.lag() > limit and (left := until - time.monotonic()) > 0:
            with self._changed:
                self._changed.wait(min(left, 0.1))

    def digests(self) -> Future[Digests]:
        """The digests of the whole content, when every chunk is known and hashed."""
        future: Future[Digests] = Future()
        with self._lock:
            self.used_at = time.monotonic()
            self._waiters.append(future)
            if not self._running:
                self._deliver()
        return future

    def _deliver(self) -> None:
        if self._position < self.layout.count:
            return
        values = {n: h.hexdigest() for n, h in zip(self._algorithms, self._hashes, strict=True)}
        for waiter in self._waiters:
            waiter.set_result(values)
        self._waiters.clear()

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._running = False
            for waiter in self._waiters:
                waiter.set_exception(error)
            self._waiters.clear()


class Followers:
    """The followers of this process, and the threads they run in."""

    IDLE = 3600.0  # seconds after which a follower is forgotten
    MOST = 10_000

    def __init__(
        self, catalog: Catalog, store_of: Callable[[str], BlobStore], threads: int
    ) -> None:
        self._catalog = catalog
        self._store_of = store_of
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="upwell-hash")
        self._lock = threading.Lock()
        self._by_task: dict[str, Follower] = {}

    def note(self, task: UploadTask, chunk: Chunk, *, replaced: bool) -> Follower:
        """An acknowledged chunk of ``task`` (as it is after it) wants to be hashed."""
        follower = self._get(task)
        if not follower.note(chunk, task.revision, replaced=replaced):
            self._reload(follower, task)
        self._start(follower)
        return follower

    def digests(self, task: UploadTask) -> Future[Digests]:
        """Of a task whose chunks are all acknowledged. The future's error is OSError."""
        follower = self._get(task)
        if follower.revision != task.revision or not follower.knows_all():
            self._learn(follower, task)
        future = follower.digests()
        self._start(follower)
        return future

    def forget(self, task_id: str) -> None:
        with self._lock:
            self._by_task.pop(task_id, None)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _get(self, task: UploadTask) -> Follower:
        with self._lock:
            follower = self._by_task.get(task.id)
            if follower:
                return follower
            self._evict()
        fresh = Follower(task, lambda: self._store_of(task.pool_id).reader(task.layout))
        if task.received_count > 1:
            self._reload(fresh, task)
        with self._lock:
            return self._by_task.setdefault(task.id, fresh)

    def _evict(self) -> None:
        oldest = time.monotonic() - self.IDLE
        if len(self._by_task) >= self.MOST:
            oldest = time.monotonic()
        for task_id in [t for t, f in self._by_task.items() if f.used_at < oldest]:
            del self._by_task[task_id]

    def _reload(self, follower: Follower, task: UploadTask) -> None:
        follower.reset(self._known(task), task.revision)

    def _learn(self, follower: Follower, task: UploadTask) -> None:
        """Take in chunks that other processes acknowledged."""
        if follower.revision != task.revision:
            self._reload(follower, task)
            return
        follower.extend(self._known(task))

    def _known(self, task: UploadTask) -> dict[int, str | None]:
        return {chunk.index: chunk.staged for chunk in self._catalog.chunks(task.id).all()}

    def _start(self, follower: Follower) -> None:
        if follower.claim():
            self._threads.submit(follower.run)
