"""Whole-file digests that follow the contiguous prefix while chunks arrive.

Bytes are hashed when they are still in the page cache, so that complete finds the digest
ready. SHA-256 is the identity of stored bytes and always computed; the declared algorithm
is computed beside it. How far it is, is remembered with the upload, for other processes and
for after a restart; losing that costs time only.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import sys
import threading
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

from upwell.core import running
from upwell.core.buffers import Recent
from upwell.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upwell.core.ports import Catalog, UploadReader
    from upwell.core.running import RunningDigest
    from upwell.model import Chunk, Digest, UploadTask

    Digests = dict[str, str]

_READ_SIZE = 1 << 20
_ELSEWHERE = 0.01  # seconds between looks while another process hashes
_SOON = 1 << 20  # bytes that are hashed in less time than another thread takes to wake
_HELP = 8  # chunks hashed for one that arrives, so that a backlog shrinks
_LOOK_UP = 512  # chunks read from the catalog at once
_MEMO = struct.Struct("<QQ32sI")  # revision, chunks hashed, their ``_Etags``, CRC-32 of states
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


class _Etags:
    """One digest of the etags of chunks, in their order: says which bytes were hashed."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, chunk: Chunk) -> None:
        self._hash.update(f"{chunk.index} {chunk.etag}\n".encode())

    def copy(self) -> _Etags:
        copied = _Etags()
        copied._hash = self._hash.copy()
        return copied

    def digest(self) -> bytes:
        return self._hash.digest()


class Follower:
    """Hashes one upload's acknowledged chunks in order, as far as there is no gap.

    Several processes may follow one upload: the store's claim lets one of them hash at a
    time, and each continues from what the last one remembered, if it was hashed from the chunks
    that are acknowledged now. ``run`` is called by one thread at a time; everything else by
    any thread. ``learn`` reads acknowledged chunks from an index on; what ``recent`` has need
    not be read.
    """

    def __init__(
        self,
        task: UploadTask,
        open_reader: Callable[[], UploadReader],
        learn: Callable[[int], dict[int, Chunk]],
        recent: Recent | None = None,
    ) -> None:
        self.layout = task.layout
        self._algorithms = algorithms_for(task.digest)
        self._open_reader = open_reader
        self._learn = learn
        self._recent = recent or Recent()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiters: list[Future[Digests]] = []
        self._running = False
        self._generation = 0
        self._restart(task.revision)
        self._acknowledged = 0
        self.used_at = time.monotonic()

    def _restart(self, revision: int) -> None:
        self.revision = revision
        self._go_on_from(0, [running.start(name) for name in self._algorithms], _Etags())
        self._known: dict[int, Chunk] = {}  # at and behind the position

    def _go_on_from(self, position: int, digests: list[RunningDigest], etags: _Etags) -> None:
        self._generation += 1
        self._position = position  # chunks hashed
        self._digests = digests
        self._etags = etags  # of these chunks

    def note(self, task: UploadTask, chunk: Chunk, *, replaced: bool) -> None:
        """Learn of an acknowledged chunk; ``task`` is as it was right after."""
        with self._lock:
            self.used_at = time.monotonic()
            self._acknowledged = max(self._acknowledged, task.received_count)
            if task.revision < self.revision:
                return  # what came later was noted first, and began anew from the catalog
            missed = task.revision != self.revision + replaced
            if missed or (replaced and chunk.index <= self._position):
                self._restart(task.revision)
            elif chunk.index >= self._position:
                self.revision = task.revision
                self._known[chunk.index] = chunk

    def lag(self) -> int:
        """Chunks that are known, not hashed yet, and not behind a gap; 0 when another process
        hashes them."""
        with self._lock:
            index = self._position
            while self._running and index in self._known and index - self._position < 64:
                index += 1
            return index - self._position

    def claim(self) -> bool:
        """Become the thread that runs it, if there is something to do."""
        with self._lock:
            if self._running or not self._has_work():
                return False
            self._running = True
            return True

    def _has_work(self) -> bool:
        return self._position in self._known or self._knows_too_little()

    def _knows_too_little(self) -> bool:
        """Whether chunks were acknowledged that this process has not heard of."""
        return self._position + len(self._known) < self._acknowledged

    def run(self, most: int = sys.maxsize) -> None:
        """Hash until the next gap, or ``most`` chunks while nobody waits for the digest. Its
        claim is given up at the end."""
        try:
            with closing(self._open_reader()) as reader:
                while not self._turn(reader, most):
                    time.sleep(_ELSEWHERE)
        except Exception as error:  # noqa: BLE001 - whoever waits for the digest must learn of it
            self.fail(error)

    def _turn(self, reader: UploadReader, most: int) -> bool:
        """Hash what can be hashed now; False when another process is at it and somebody here
        waits for the digest."""
        if not reader.claim():
            return self._leave(unless_awaited=True)
        before = self._adopt(reader.recall())
        while self._position - before < most and self._step(reader):
            pass
        if self._position > before:
            reader.remember(self._memo())
        reader.release()
        if self._position - before >= most and not self._waiters:
            return self._leave(unless_awaited=True)
        return self._leave(unless_awaited=False)

    def _leave(self, *, unless_awaited: bool) -> bool:
        """Give up the claim; not when there is more to do, or when, ``unless_awaited``,
        somebody waits for the digest."""
        with self._lock:
            self._deliver()
            if self._waiters if unless_awaited else self._has_work():
                return False
            if self._waiters:  # they came when every chunk was acknowledged
                message = f"upload {self.layout.key} has ended: its chunks are gone"
                raise FileNotFoundError(message)
            self._running = False
            self._changed.notify_all()
            return True

    def _step(self, reader: UploadReader) -> bool:
        """Hash one chunk; False when there is none."""
        with self._lock:
            if self._position not in self._known and not self._look_up():
                return False
            generation, digests = self._generation, self._digests
            chunk = self._known[self._position]
        self._hash_chunk(reader, chunk.index, chunk.staged, digests)
        with self._lock:
            if generation == self._generation:
                del self._known[chunk.index]
                self._etags.add(chunk)
                self._position += 1
                self._changed.notify_all()
        return True

    def _look_up(self) -> bool:
        """Ask the catalog for what other processes acknowledged; whether it closes the gap."""
        if not self._knows_too_little():
            return False
        self._known = self._learn(self._position) | self._known
        if self._position in self._known:
            return True
        self._acknowledged = self._position + len(self._known)  # the gap is real
        return False

    def _hash_chunk(
        self, reader: UploadReader, index: int, staged: str | None, digests: list[RunningDigest]
    ) -> None:
        with self._recent.taken(self.layout.key, index) as content:
            for piece in self._read(reader, index, staged) if content is None else [content]:
                for each in digests:
                    each.update(piece)

    def _read(self, reader: UploadReader, index: int, staged: str | None) -> Iterator[memoryview]:
        """A chunk in pieces, each until the next one is asked for."""
        buffer, offset, length = _buffer(), 0, self.layout.length(index)
        while offset < length:
            count = reader.read_into(index, staged, offset, buffer)
            if count == 0:
                message = f"chunk {index} of {self.layout.key} is shorter than acknowledged"
                raise OSError(message)
            yield buffer[:count]
            offset += count

    def _memo(self) -> bytes:
        """What another process, or this one after a restart, can go on from."""
        with self._lock:
            states = [each.state() for each in self._digests]
            if None in states:
                return b""
            body = b"".join(state for state in states if state is not None)
            crc = zlib.crc32(body)
            head = _MEMO.pack(self.revision, self._position, self._etags.digest(), crc)
            return head + body

    def _adopt(self, memo: bytes) -> int:
        """Go on from a memo that is further than we are, and of the chunks that the catalog
        knows now (I4); the position.

        Its revision tells that no chunk was forgotten and sent again: one that was damaged
        when it was hashed comes back with the same etag. Its etags tell that it is of this
        timeline: a recovery turns the revision back.
        """
        if len(memo) > _MEMO.size:
            revision, position, told, checksum = _MEMO.unpack_from(memo)
            states = memo[_MEMO.size :]
            same = revision == self.revision and position > self._position
            if same and zlib.crc32(states) == checksum:
                self._take_over_if(position, told, states)
        return self._position

    def _take_over_if(self, position: int, told: bytes, states: bytes) -> None:
        """Go on from there when the catalog's chunks before it have the etags that were told."""
        with self._lock:
            began = (self._generation, self.revision)
            at, etags = self._position, self._etags.copy()
        known: dict[int, Chunk] = {}
        for index in range(at, position):
            known = known if index in known else self._learn(index)
            if index not in known:
                return
            etags.add(known[index])
        with self._lock:
            # None of them was replaced since they were read: that changes the revision.
            if etags.digest() == told and began == (self._generation, self.revision):
                self._take_over(position, states, etags)

    def _take_over(self, position: int, states: bytes, etags: _Etags) -> None:
        size = len(states) // len(self._algorithms)
        if not all(running.resumable(name) for name in self._algorithms):
            return
        parts = [states[at : at + size] for at in range(0, len(states), size)]
        digests = [running.start(n, s) for n, s in zip(self._algorithms, parts, strict=True)]
        self._go_on_from(position, digests, etags)
        self._known = {i: chunk for i, chunk in self._known.items() if i >= position}

    def pace(self, limit: int, seconds: float) -> None:
        """Wait while the hash is more than ``limit`` chunks behind what has arrived."""
        until = time.monotonic() + seconds
        while self.lag() > limit and (left := until - time.monotonic()) > 0:
            with self._changed:
                self._changed.wait(min(left, 0.1))

    def digests(self, revision: int) -> Future[Digests]:
        """The digests of the whole content, every chunk of which is acknowledged."""
        future: Future[Digests] = Future()
        with self._lock:
            self.used_at = time.monotonic()
            if revision != self.revision:
                self._restart(revision)
            self._acknowledged = self.layout.count
            self._waiters.append(future)
            self._deliver()
        return future

    def _deliver(self) -> None:
        if self._position < self.layout.count:
            return
        values = {
            name: each.hexdigest()
            for name, each in zip(self._algorithms, self._digests, strict=True)
        }
        for waiter in self._waiting():
            waiter.set_result(values)

    def fail(self, error: Exception) -> None:
        """Tell who waits. Half a chunk may have been hashed: whoever runs it next begins anew."""
        with self._lock:
            self._running = False
            self._restart(self.revision)
            for waiter in self._waiting():
                waiter.set_exception(error)

    def _waiting(self) -> list[Future[Digests]]:
        """Who waits and has not given up, for the last time."""
        waiters, self._waiters = self._waiters, []
        return [each for each in waiters if each.set_running_or_notify_cancel()]


class Followers:
    """The followers of this process, and the threads they run in."""

    IDLE = 3600.0  # seconds after which a follower is forgotten
    MOST = 10_000

    def __init__(
        self,
        catalog: Catalog,
        open_reader: Callable[[UploadTask], UploadReader],
        threads: int,
        recent: Recent | None = None,
    ) -> None:
        self._catalog = catalog
        self._open_reader = open_reader
        self._recent = recent or Recent()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="upwell-hash")
        self._lock = threading.Lock()
        self._by_task: dict[str, Follower] = {}

    def note(self, task: UploadTask, chunk: Chunk, *, replaced: bool) -> Follower:
        """An acknowledged chunk of ``task`` (as it is after it) wants to be hashed.

        That is done here and now when it does not take long: waking another thread for it
        costs more, and who brings more than can be hashed slows itself down.
        """
        follower = self._get(task)
        follower.note(task, chunk, replaced=replaced)
        if chunk.size > _SOON:
            self._start(follower)
        elif follower.claim():
            follower.run(_HELP)
        return follower

    def digests(self, task: UploadTask) -> Future[Digests]:
        """Of a task whose chunks are all acknowledged. The future's error is OSError."""
        follower = self._get(task)
        future = follower.digests(task.revision)
        self._start(follower)
        return future

    def forget(self, task_id: str) -> None:
        with self._lock:
            follower = self._by_task.pop(task_id, None)
        if follower:
            self._recent.forget(follower.layout.key)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            followers = list(self._by_task.values())
        for follower in followers:
            follower.fail(_shutting_down())

    def _get(self, task: UploadTask) -> Follower:
        with self._lock:
            follower = self._by_task.get(task.id)
            if follower is None:
                self._evict()
                follower = Follower(
                    task,
                    lambda: self._open_reader(task),
                    lambda index: self._acknowledged(task.id, index),
                    self._recent,
                )
                self._by_task[task.id] = follower
            return follower

    def _evict(self) -> None:
        oldest = time.monotonic() - self.IDLE
        if len(self._by_task) >= self.MOST:
            oldest = time.monotonic()
        for task_id in [t for t, f in self._by_task.items() if f.used_at < oldest]:
            del self._by_task[task_id]

    def _acknowledged(self, task_id: str, index: int) -> dict[int, Chunk]:
        some = itertools.islice(self._catalog.chunks(task_id).all(index), _LOOK_UP)
        return {chunk.index: chunk for chunk in some}

    def _start(self, follower: Follower) -> None:
        if follower.claim():
            try:
                self._threads.submit(follower.run)
            except RuntimeError:  # closed
                follower.fail(_shutting_down())


def _shutting_down() -> NotReady:
    return NotReady("The server is shutting down; complete the upload again in a moment.")
