"""Sealed uploads in real stores: one age file whatever way it came, opened by other programs;
one content for a chunk, ever; and nothing opened that is not what was sealed."""

from __future__ import annotations

import hashlib
import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.age_command import age as age_command
from tests.core.age_command import needs_age
from tests.stores import put, reserve
from upwell.core import age
from upwell.core.buffers import Budget, Recent
from upwell.core.hashing import Follower
from upwell.core.sealed import (
    SealedReader,
    SealedSlot,
    SealedUpload,
    SealedUploadReader,
    fold,
    fold_of,
    open_sealed,
)
from upwell.core.sealing import KeyCache, Sealing, seal_whole
from upwell.errors import ChunkConflict, PasswordWrong, StorageFull
from upwell.model import Chunk, Layout, TaskStatus, UploadTask
from upwell.stores.local import LocalStore
from upwell.stores.memory import MemoryBlobReader, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from upwell.core.ports import BlobStore

B = age.BLOCK
CHUNK = 2 * B
PASSWORD = "pässwörd 密码"
SIZES = [
    *(1, 15, 16, 17, B - 1, B, B + 1),
    *(CHUNK - 1, CHUNK, CHUNK + 1, CHUNK + B - 1, CHUNK + B, CHUNK + B + 1),
    *(2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 5 * CHUNK, 5 * CHUNK + 17),
]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Derivations of 1 ms, and headers as long as the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(age, "LOG_N", 10)
        yield


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass
class Acked:
    """``Chunks`` in a list: what a catalog would know."""

    chunks: dict[int, Chunk] = field(default_factory=dict)

    def all(self, start: int = 0) -> Iterator[Chunk]:
        yield from (self.chunks[index] for index in sorted(self.chunks) if index >= start)

    def staged(self) -> Sequence[Chunk]:
        return [chunk for chunk in self.all() if chunk.staged is not None]


class Upload:
    """A sealed upload in a store, and what a catalog would know of it."""

    def __init__(
        self, store: BlobStore, data: bytes, chunk_size: int = CHUNK, budget: Budget | None = None
    ) -> None:
        self.store, self.data = store, data
        self.sealing = Sealing.new(PASSWORD)
        plan = SealedUpload(self.sealing, Layout("", len(data), chunk_size))
        key = reserve(store, plan.stored.size)
        self.sealed = SealedUpload(self.sealing, Layout(key, len(data), chunk_size))
        self.layout, self.stored = self.sealed.layout, self.sealed.stored
        self.budget = budget or Budget()
        self.recent = Recent()
        self.intended: dict[int, str] = {}
        self.acked = Acked()

    def slot(self, index: int) -> SealedSlot:
        return SealedSlot(
            self.store.slot(self.stored, index),
            self.sealed,
            index,
            budget=self.budget,
            recent=self.recent,
            intend=lambda fingerprint: self.intended.setdefault(index, fingerprint),
            acknowledged=lambda: self.acked.chunks.get(index),
        )

    def piece(self, index: int) -> bytes:
        start = self.layout.offset(index)
        return self.data[start : start + self.layout.length(index)]

    def send(self, index: int, data: bytes | None = None, step: int = 1 << 30) -> Chunk:
        """As the core does it."""
        with closing(self.slot(index)) as slot:
            assert slot.acquire()
            before = self.acked.chunks.get(index)
            slot.begin(replace=before is not None)
            body = self.piece(index) if data is None else data
            for at in range(0, len(body), step):
                slot.write(memoryview(body)[at : at + step])
            chunk = slot.commit()
            if before is None or before.etag != chunk.etag:
                slot.keep()
            self.acked.chunks[index] = chunk
            return chunk

    def send_all(self, indexes: Iterable[int] | None = None, step: int = 1 << 30) -> Upload:
        for index in range(self.layout.count) if indexes is None else indexes:
            self.send(index, step=step)
        return self

    def publish(self) -> bytes:
        """All that is stored then."""
        self.store.publish(self.stored, self.acked)
        return self.raw()

    def raw(self) -> bytes:
        with closing(self.store.open(self.layout.key)) as reader:
            return reader.read_at(0, reader.size + 1)

    def reader(self) -> SealedUploadReader:
        return SealedUploadReader(self.store.reader(self.stored), self.sealed)

    def read(self, index: int, offset: int, length: int) -> bytes:
        staged = self.acked.chunks[index].staged
        with closing(self.reader()) as reader:
            buffer = bytearray(length)
            return bytes(buffer[: reader.read_into(index, staged, offset, memoryview(buffer))])


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path, min_free=0)


def opened(data: bytes | bytearray, password: str = PASSWORD) -> SealedReader:
    return open_sealed(MemoryBlobReader(bytearray(data)), password)


# one age file, for every program


@pytest.mark.parametrize("size", SIZES)
def test_what_is_stored_is_an_age_file(store: BlobStore, size: int) -> None:
    upload = Upload(store, content(size)).send_all()
    whole = upload.publish()
    assert len(whole) == age.sealed_size(size, len(upload.sealing.header))
    assert whole == seal_whole(upload.sealing, upload.data)
    assert pyrage.passphrase.decrypt(whole, PASSWORD) == upload.data
    with closing(open_sealed(store.open(upload.layout.key), PASSWORD)) as reader:
        assert (reader.size, reader.fileno()) == (size, None)
        assert reader.read_at(0, size) == upload.data
    with pytest.raises(PasswordWrong):
        opened(whole, PASSWORD + "x")


def test_an_empty_content_is_an_age_file_too(store: BlobStore) -> None:
    key = put(store, bytes(seal_whole(Sealing.new(PASSWORD), b"")))
    with closing(store.open(key)) as stored:
        assert pyrage.passphrase.decrypt(stored.read_at(0, 999), PASSWORD) == b""
        reader = open_sealed(stored, PASSWORD)
        assert (reader.size, reader.read_at(0, 10), reader.read_at(5, 10)) == (0, b"", b"")


@needs_age
@pytest.mark.parametrize("size", [0, 1, B, CHUNK + 1, 3 * CHUNK])
def test_the_age_command_opens_what_is_stored(tmp_path: Path, size: int) -> None:
    data = content(size)
    store = LocalStore(tmp_path, min_free=0)
    if size:
        upload = Upload(store, data).send_all(step=100_000)
        upload.publish()
        path = store.path(upload.layout.key)
    else:
        path = store.path(put(store, bytes(seal_whole(Sealing.new(PASSWORD), data))))
    age_command(PASSWORD, "-d", "-o", tmp_path / "plain", path)
    plain = tmp_path / "plain"
    assert (plain.read_bytes() if size or plain.exists() else b"") == data
    with pytest.raises(AssertionError, match="incorrect passphrase"):
        age_command("other", "-d", "-o", tmp_path / "none", path)


@needs_age
@pytest.mark.slow  # its work factor is 18
@pytest.mark.parametrize("size", [0, B, CHUNK + 1])
def test_we_open_what_the_age_command_sealed(tmp_path: Path, size: int) -> None:
    data = content(size)
    (tmp_path / "plain").write_bytes(data)
    age_command(PASSWORD, "-p", "-o", tmp_path / "sealed", tmp_path / "plain")
    reader = opened((tmp_path / "sealed").read_bytes())
    assert (reader.size, reader.read_at(0, size + 1)) == (size, data)


# whatever way it came


@pytest.mark.parametrize("step", [1, 15, 16, 1000, B - 1, B, B + 1, 3 * B])
def test_pieces_do_not_matter(step: int) -> None:
    size = CHUNK + B + 7 if step > 16 else B + 7
    upload = Upload(MemoryStore(), content(size)).send_all(step=step)
    assert upload.publish() == seal_whole(upload.sealing, upload.data)


@given(st.lists(st.integers(0, 3 * B), max_size=8), st.integers(1, CHUNK))
@settings(max_examples=60, deadline=None)
def test_no_pieces_matter(cuts: list[int], size: int) -> None:
    upload = Upload(MemoryStore(), content(size))
    edges = sorted({0, size, *(cut for cut in cuts if cut < size)})
    with closing(upload.slot(0)) as slot:
        assert slot.acquire()
        slot.begin(replace=False)
        for start, end in itertools.pairwise(edges):
            slot.write(memoryview(upload.data)[start:end])
            slot.write(memoryview(b""))
        slot.commit()
    assert upload.raw() == seal_whole(upload.sealing, upload.data)


def test_order_does_not_matter(store: BlobStore) -> None:
    upload = Upload(store, content(7 * CHUNK + 100))
    order = list(range(upload.layout.count))
    random.Random(3).shuffle(order)
    assert order != sorted(order)
    assert upload.send_all(order).publish() == seal_whole(upload.sealing, upload.data)


def test_threads_do_not_matter(store: BlobStore) -> None:
    upload = Upload(store, content(12 * CHUNK + 100))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: upload.send(i, step=50_000), range(upload.layout.count)))
    assert upload.publish() == seal_whole(upload.sealing, upload.data)
    assert upload.budget.used == 0


def test_the_fingerprint_is_that_of_the_stored_chunk(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, min_free=0)
    upload = Upload(store, content(2 * CHUNK + 5)).send_all()
    for index, chunk in upload.acked.chunks.items():
        assert chunk.etag == f"xxh3:{upload.intended[index]}"
        assert chunk.size == upload.stored.length(index)
        assert store.check_chunk(upload.stored, chunk)


# one content for a chunk, ever


class Recorder:
    """A ``ChunkSlot`` that knows what was done to it."""

    def __init__(self) -> None:
        self.free = True
        self.did: list[object] = []
        self.fail: Exception | None = None

    @property
    def received(self) -> bytes:
        return b"".join(each for each in self.did if isinstance(each, bytes))

    def acquire(self) -> bool:
        self.did.append("acquire")
        return self.free

    def contended(self) -> bool:
        return not self.free

    def begin(self, *, replace: bool, staged: str | None = None) -> None:
        self.did.append(("begin", replace))

    def write(self, data: memoryview) -> None:
        self.did.append(bytes(data))
        if self.fail:
            raise self.fail

    def commit(self) -> Chunk:
        self.did.append("commit")
        return Chunk(0, len(self.received), "etag")

    def keep(self) -> None:
        self.did.append("keep")

    def drop(self) -> None:
        self.did.append("drop")

    def close(self) -> None:
        self.did.append("close")


class Attempts:
    """Attempts to send one chunk, each on a slot of its own."""

    def __init__(self, size: int = CHUNK, index: int = 0) -> None:
        self.upload = SealedUpload(Sealing.new(PASSWORD), Layout("k", index * CHUNK + size, CHUNK))
        self.index = index
        self.intended: list[str] = []
        self.row: Chunk | None = None
        self.inner = Recorder()
        self.budget = Budget()
        self.recent = Recent()

    def slot(self) -> SealedSlot:
        self.inner = Recorder()
        return SealedSlot(
            self.inner,
            self.upload,
            self.index,
            budget=self.budget,
            recent=self.recent,
            intend=self._intend,
            acknowledged=lambda: self.row,
        )

    def _intend(self, fingerprint: str) -> str:
        assert not self.inner.received, "it is recorded before anything is written"
        self.intended.append(fingerprint)
        return self.intended[0]

    def send(self, data: bytes, *, replace: bool = False, fail: Exception | None = None) -> Chunk:
        with closing(self.slot()) as slot:
            self.inner.fail = fail
            assert slot.acquire()
            slot.begin(replace=replace)
            slot.write(memoryview(data))
            return slot.commit()


@pytest.mark.parametrize("index", [0, 1])
def test_an_attempt_that_failed_binds_the_chunk_to_its_content(index: int) -> None:
    """The nonce rule: a block's nonce never serves two contents."""
    attempts, first = Attempts(index=index), content(CHUNK)
    with pytest.raises(StorageFull):
        attempts.send(first, fail=StorageFull("full"))
    assert attempts.inner.received, "some of it may have reached the disk"
    for at in (0, 1, B, CHUNK - 1):
        other = bytearray(first)
        other[at] ^= 1
        with pytest.raises(ChunkConflict, match="cancel this upload and create a new one"):
            attempts.send(bytes(other))
        assert attempts.inner.received == b""
        assert "commit" not in attempts.inner.did
    attempts.send(first)
    assert len(attempts.inner.received) == attempts.upload.stored.length(index)


def test_an_attempt_whose_recording_failed_writes_nothing() -> None:
    attempts = Attempts()
    with closing(attempts.slot()) as slot:
        slot._intend = lambda _: (_ for _ in ()).throw(OSError(5, "the catalog is away"))
        assert slot.acquire()
        slot.begin(replace=False)
        slot.write(memoryview(content(CHUNK)))
        with pytest.raises(OSError, match="away"):
            slot.commit()
    assert attempts.inner.received == b""


def test_a_body_that_came_incomplete_binds_nothing() -> None:
    attempts = Attempts()
    for length in (0, 1, B, CHUNK - 1):
        with closing(attempts.slot()) as slot:
            assert slot.acquire()
            slot.begin(replace=False)
            slot.write(memoryview(content(length, seed=9)))
            with pytest.raises(ValueError, match="shorter"):
                slot.commit()
        assert attempts.inner.received == b""
    assert attempts.intended == []
    attempts.send(content(CHUNK))


def test_a_body_too_long_is_refused_before_it_is_kept() -> None:
    attempts = Attempts()
    for first in (CHUNK, CHUNK - 1, 0):
        with closing(attempts.slot()) as slot:
            assert slot.acquire()
            slot.begin(replace=False)
            slot.write(memoryview(bytes(first)))
            with pytest.raises(ValueError, match="longer"):
                slot.write(memoryview(bytes(CHUNK - first + 1)))
        assert attempts.inner.received == b""


def test_beginning_again_forgets_what_came() -> None:
    attempts, data = Attempts(size=CHUNK), content(CHUNK)
    with closing(attempts.slot()) as slot:
        assert slot.acquire()
        for length in (1, B, B + 1, CHUNK):
            slot.begin(replace=False)
            slot.write(memoryview(content(length, seed=2)))
        slot.begin(replace=False)
        slot.write(memoryview(data))
        slot.commit()
    assert attempts.inner.received == seal_whole(attempts.upload.sealing, data)
    attempts.send(data)
    assert len(set(attempts.intended)) == 1


def test_the_catalog_is_asked_for_a_row_only_when_there_is_one() -> None:
    attempts = Attempts()
    with closing(attempts.slot()) as slot:
        slot._acknowledged = lambda: pytest.fail("asked")
        assert slot.acquire()
        slot.begin(replace=False)
        slot.write(memoryview(content(CHUNK)))
        slot.commit()


def test_a_resend_of_what_is_acknowledged_writes_nothing() -> None:
    attempts, data = Attempts(), content(CHUNK)
    attempts.row = row = attempts.send(data)
    assert attempts.send(data, replace=True) is row
    assert attempts.inner.did == ["acquire", ("begin", True), "close"]
    with pytest.raises(ChunkConflict):
        attempts.send(content(CHUNK, seed=2), replace=True)
    assert attempts.inner.did == ["acquire", ("begin", True), "close"]
    attempts.row = None  # forgotten meanwhile, say because it was found damaged
    attempts.send(data, replace=True)
    assert attempts.inner.received == seal_whole(attempts.upload.sealing, data)


def test_only_the_last_block_of_the_last_chunk_is_marked() -> None:
    """Else a file cut off after its first chunk would be whole."""
    upload = Upload(MemoryStore(), content(2 * CHUNK)).send_all()
    stream, raw = upload.sealing.stream(), memoryview(upload.publish())[upload.sealed.head :]
    for block in range(4):
        sealed = raw[block * age.SEALED_BLOCK :][: age.SEALED_BLOCK]
        stream.open(block, sealed, memoryview(bytearray(B)), last=block == 3)


# what a slot promises (``ChunkSlot``), in front of real ones


def test_one_holder_and_askers_are_seen(store: BlobStore) -> None:
    upload = Upload(store, content(CHUNK))
    with closing(upload.slot(0)) as one, closing(upload.slot(0)) as two:
        assert one.acquire()
        assert one.acquire(), "asking again changes nothing"
        assert not one.contended()
        taken = upload.budget.used
        assert not two.acquire()
        assert one.contended()
        assert upload.budget.used == taken, "who only waits takes no room"
        one.close()
        assert two.acquire()
        assert upload.budget.used == taken
    assert upload.budget.used == 0


def test_a_discarded_upload_is_noticed_at_the_beginning(store: BlobStore) -> None:
    upload = Upload(store, content(CHUNK))
    with closing(upload.slot(0)) as slot:
        assert slot.acquire()
        store.delete(upload.layout.key)
        for replace in (False, True):
            with pytest.raises(FileNotFoundError):
                slot.begin(replace=replace)
    with pytest.raises(FileNotFoundError):
        upload.slot(0)


def test_no_plaintext_is_ever_in_the_store(tmp_path: Path) -> None:
    upload = Upload(LocalStore(tmp_path, min_free=0), b"PLAINTEXT" * 30_000).send_all(step=70_000)
    upload.send(1)
    with closing(upload.reader()) as reader:
        assert reader.claim()
        reader.remember(b"PLAINTEXT" * 10)
        reader.release()
    with closing(upload.slot(2)) as slot:
        assert slot.acquire()
        slot.begin(replace=True)
        slot.write(memoryview(upload.piece(2)))
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert b"PLAINTEXT" not in path.read_bytes()


def test_a_resend_leaves_nothing_beside(store: BlobStore) -> None:
    upload = Upload(store, content(CHUNK + 1)).send_all()
    rows = dict(upload.acked.chunks)
    for index in (0, 1):
        assert upload.send(index) == rows[index]
    with pytest.raises(ChunkConflict):
        upload.send(0, content(CHUNK, seed=2))
    assert list(store.list_staged()) == []
    assert upload.publish() == seal_whole(upload.sealing, upload.data)


def test_closing_wipes_the_plaintext() -> None:
    attempts = Attempts()
    slot = attempts.slot()
    assert slot.acquire()
    slot.begin(replace=False)
    slot.write(memoryview(b"PLAINTEXT" * 100))
    partial, plain = slot._partial, slot._plain
    assert plain is not None
    assert b"PLAINTEXT" in bytes(partial)
    assert b"PLAINTEXT" in plain
    slot.close()
    assert not any(partial)
    assert not any(plain)
    slot.close()
    assert attempts.budget.used == attempts.recent.used == 0


# memory


def test_a_slot_waits_for_room_and_gives_it_back() -> None:
    budget = Budget(3 * CHUNK)
    upload = Upload(MemoryStore(), content(4 * CHUNK), budget=budget)
    with closing(upload.slot(0)) as one, closing(upload.slot(1)) as two:
        assert one.acquire()
        assert not two.acquire()
        assert not two.acquire()
        with closing(upload.slot(1)) as newer:
            assert not newer.acquire()
            assert two.contended(), "who waits for room can be displaced like any holder"
        one.close()
        one.close()
        assert two.acquire()
    assert budget.used == 0


def test_a_slot_counts_what_it_holds() -> None:
    upload = Upload(MemoryStore(), content(2 * CHUNK + 5))
    for index in range(3):
        with closing(upload.slot(index)) as slot:
            assert slot.acquire()
            assert slot.acquire()
            slot.begin(replace=False)
            held = slot._sealed.nbytes + slot._partial.nbytes
            assert upload.budget.used == held == upload.stored.length(index) + B
    assert upload.budget.used == 0


def test_room_is_given_back_when_closing_fails() -> None:
    attempts = Attempts()
    slot = attempts.slot()
    assert slot.acquire()
    attempts.inner.close = lambda: (_ for _ in ()).throw(OSError(5))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="5"):
        slot.close()
    assert attempts.budget.used == 0


def test_a_budget_never_grants_more_than_it_has() -> None:
    budget = Budget(100)
    assert budget.take(60)
    assert not budget.take(41)
    assert budget.take(40)
    budget.give(60)
    budget.give(40)
    assert budget.take(1000), "what is larger than all of it gets it alone"
    assert not budget.take(1)
    budget.give(1000)
    assert budget.used == 0


def test_memory_is_lent_again_and_nobody_shares_it() -> None:
    budget = Budget(10 * CHUNK)
    one, two = (Upload(MemoryStore(), content(CHUNK, n), budget=budget) for n in (1, 2))
    with closing(one.slot(0)) as slot:  # leaves its memory half written
        assert slot.acquire()
        slot.begin(replace=False)
        slot.write(memoryview(content(B, seed=3)))
        used = slot._buffer
    with closing(two.slot(0)) as first, closing(one.slot(0)) as second:
        for slot in (first, second):
            assert slot.acquire()
            slot.begin(replace=False)
        assert first._buffer is used
        assert second._buffer is not used
        for slot, upload in ((first, two), (second, one)):
            slot.write(memoryview(upload.data))
        for slot in (first, second):
            slot.commit()
    for upload in (one, two):
        assert upload.raw() == seal_whole(upload.sealing, upload.data)
    assert sum(map(len, budget._idle)) <= 10 * CHUNK


def test_little_memory_is_kept_idle() -> None:
    budget = Budget(100)
    lent = [budget.lend(40) for _ in range(4)]
    for each in lent:
        budget.take_back(each)
    assert sum(map(len, budget._idle)) == 80
    assert budget.lend(41) not in lent


def test_a_budget_is_kept_by_threads() -> None:
    budget, seen = Budget(5), []

    def work(_: int) -> None:
        for _ in range(300):
            if budget.take(1):
                seen.append(budget.used)
                budget.give(1)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(8)))
    assert budget.used == 0
    assert max(seen) <= 5


# reading any range


@pytest.fixture(scope="module")
def read_upload() -> Upload:
    return Upload(MemoryStore(), content(3 * CHUNK + B + 17)).send_all()


EDGES = [0, 1, 16, B - 1, B, B + 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - 1, 3 * CHUNK]


@pytest.mark.parametrize("size", [0, 1, 17, B, CHUNK, 3 * CHUNK + B + 17])
def test_every_range_of_a_file_is_its_own(size: int) -> None:
    data = content(size)
    reader = opened(seal_whole(Sealing.new(PASSWORD), data))
    ends = sorted({edge for edge in EDGES if edge <= size} | {size, size + 1, size + B})
    for start in ends:
        for end in ends:
            assert reader.read_at(start, end - start) == data[start : max(start, end)]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_range_of_an_upload_is_its_own(read_upload: Upload, data: st.DataObject) -> None:
    near = st.builds(lambda a, b: max(0, a + b), st.sampled_from(EDGES), st.integers(-17, 17))
    index = data.draw(st.integers(0, 3))
    offset, length = data.draw(near), data.draw(near)
    expected = read_upload.piece(index)[offset : offset + length]
    assert read_upload.read(index, offset, length) == expected
    start = read_upload.layout.offset(index) + offset
    with closing(
        SealedReader(MemoryBlobReader(bytearray(read_upload.raw())), read_upload.sealing)
    ) as reader:
        assert reader.read_at(start, length) == read_upload.data[start : start + length]


@pytest.mark.parametrize("step", [7000, B, B + 1, CHUNK, 1 << 20])
def test_an_upload_is_read_from_end_to_end(store: BlobStore, step: int) -> None:
    upload = Upload(store, content(40 * B + 17), chunk_size=20 * B).send_all()
    buffer, found = memoryview(bytearray(step)), b""
    with closing(upload.reader()) as reader:
        for index in range(upload.layout.count):
            offset = 0
            while count := reader.read_into(index, None, offset, buffer):
                found += buffer[:count]
                offset += count
            assert offset == upload.layout.length(index)
            assert reader.read_into(index, None, offset + 1, buffer) == 0
    assert found == upload.data


def test_what_was_staged_is_read_where_it_lies(store: BlobStore) -> None:
    upload = Upload(store, content(2 * CHUNK))
    for index in (0, 1):
        with closing(upload.slot(index)) as slot:  # as if its row had been there and was lost
            assert slot.acquire()
            slot.begin(replace=True)
            slot.write(memoryview(upload.piece(index)))
            upload.acked.chunks[index] = slot.commit()
            slot.keep()
            assert upload.acked.chunks[index].staged
    for index in (0, 1):
        assert upload.read(index, 0, CHUNK) == upload.piece(index)
        assert upload.read(index, B - 1, 2) == upload.piece(index)[B - 1 : B + 1]
    assert upload.publish() == seal_whole(upload.sealing, upload.data)


class Stingy:
    """A ``BlobReader`` that gives little at once, and counts."""

    def __init__(self, data: bytes, most: int = 1000) -> None:
        self.size = len(data)
        self.reads: list[tuple[int, int]] = []
        self.closed = False
        self._data, self._most = data, most

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self._data[offset : offset + min(length, self._most)]

    def fileno(self) -> int | None:
        return 99

    def close(self) -> None:
        self.closed = True


def test_stores_may_read_short() -> None:
    data = content(CHUNK + 5)
    inner = Stingy(bytes(seal_whole(Sealing.new(PASSWORD), data)), most=100)
    reader = open_sealed(inner, PASSWORD)
    assert reader.read_at(3, CHUNK) == data[3 : CHUNK + 3]
    assert reader.fileno() is None
    reader.close()
    assert inner.closed


def test_only_the_blocks_of_a_range_are_read() -> None:
    sealing = Sealing.new(PASSWORD)
    inner = Stingy(bytes(seal_whole(sealing, content(10 * B))), most=1 << 30)
    reader, head = SealedReader(inner, sealing), len(sealing.header)
    assert inner.reads == []
    reader.read_at(3 * B - 1, 2)
    assert inner.reads == [(head + 2 * age.SEALED_BLOCK, 2 * age.SEALED_BLOCK)]


def test_a_cache_spares_the_derivation(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cache = seal_whole(Sealing.new(PASSWORD), b"x" * 999), KeyCache()
    open_sealed(MemoryBlobReader(whole), PASSWORD, cache)
    monkeypatch.setattr(age, "stretch", None)
    assert open_sealed(MemoryBlobReader(whole), PASSWORD, cache).read_at(1, 2) == b"xx"
    with pytest.raises(TypeError):
        open_sealed(MemoryBlobReader(whole), PASSWORD)


def test_one_reader_serves_several_threads(read_upload: Upload) -> None:
    reader = SealedReader(MemoryBlobReader(bytearray(read_upload.raw())), read_upload.sealing)
    starts = [at * 9973 % reader.size for at in range(200)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda at: reader.read_at(at, B), starts))
    assert found == [read_upload.data[at : at + B] for at in starts]


# what is not what was sealed


def swapped(raw: bytes, one: int, two: int, head: int) -> bytes:
    size = age.SEALED_BLOCK
    blocks = [raw[at : at + size] for at in range(head, len(raw), size)]
    blocks[one], blocks[two] = blocks[two], blocks[one]
    return raw[:head] + b"".join(blocks)


def damages(raw: bytes, head: int) -> dict[str, bytes]:
    """Of a file of four blocks, the last not full."""
    size = age.SEALED_BLOCK
    return {
        "cut by one": raw[:-1],
        "cut within a block": raw[: head + size + 1000],
        "cut into a tag": raw[: head + 3 * size + 5],
        "last block cut off": raw[: head + 3 * size],
        "all but one cut off": raw[: head + size],
        "payload cut off": raw[:head],
        "blocks swapped": swapped(raw, 0, 1, head),
        "a block twice": raw[: head + size] + raw[head : head + size] + raw[head + 2 * size :],
        "last block alone": raw[:head] + raw[head + 3 * size :],
        "a byte more": raw + b"\0",
        "a block more": raw + raw[head : head + size],
        "the last block again": raw + raw[head + 3 * size :],
        "zeros for a block": raw[:head] + bytes(size) + raw[head + size :],
        "the nonce changed": raw[: head - 1] + bytes([raw[head - 1] ^ 1]) + raw[head:],
    }


def read_whole(raw: bytes) -> bytes:
    reader = opened(raw)
    return reader.read_at(0, reader.size)


@pytest.mark.parametrize("last", [1, 1000, B - 1, B])
def test_damage_is_found(last: int) -> None:
    data = content(3 * B + last)
    sealing = Sealing.new(PASSWORD)
    raw = bytes(seal_whole(sealing, data))
    for name, broken in damages(raw, len(sealing.header)).items():
        with pytest.raises(OSError, match="encrypted file is") as caught:
            read_whole(broken)
        assert caught.value.errno == 5, name


@pytest.mark.parametrize("left", [0, 5, 16, 17, B])
def test_a_file_that_shrinks_while_it_is_read_is_an_error(left: int) -> None:
    sealing = Sealing.new(PASSWORD)
    raw = bytes(seal_whole(sealing, content(2 * B)))
    inner = Stingy(raw[: len(sealing.header) + age.SEALED_BLOCK + left])
    inner.size = len(raw)
    reader = SealedReader(inner, sealing)
    assert len(reader.read_at(0, B)) == B
    for offset, length in ((B, B), (B + 5, 1), (2 * B - 1, 1)):
        with pytest.raises(OSError, match="shorter than it was"):
            reader.read_at(offset, length)


def test_damage_of_an_empty_file_is_found() -> None:
    sealing = Sealing.new(PASSWORD)
    raw = bytes(seal_whole(sealing, b""))
    for broken in (raw[:-1], raw[:-16], raw[:-1] + bytes([raw[-1] ^ 1]), raw[:-16] + bytes(16)):
        with pytest.raises(OSError, match="encrypted file is"):
            opened(broken)


@given(at=st.integers(0), bit=st.integers(0, 7))
@settings(max_examples=100, deadline=None)
def test_any_flipped_bit_is_found_where_it_is(at: int, bit: int) -> None:
    data = content(2 * B + 100)
    sealing = Sealing(bytes(150) + bytes(range(16)), bytes(range(16)))
    raw, head = seal_whole(sealing, data), len(sealing.header)
    at = head + at % (len(raw) - head)
    raw[at] ^= 1 << bit
    reader, broken = SealedReader(MemoryBlobReader(raw), sealing), (at - head) // age.SEALED_BLOCK
    for block in range(3):
        piece = data[block * B : (block + 1) * B]
        if block != broken:
            assert reader.read_at(block * B, B) == piece
            continue
        for start, length in ((0, B), (0, 1), (len(piece) - 1, 1), (50, 2)):
            with pytest.raises(OSError, match=f"damaged: block {block}"):
                reader.read_at(block * B + start, length)


def test_the_head_of_another_file_does_not_open_this_one() -> None:
    one, two = Sealing.new(PASSWORD), Sealing.new(PASSWORD)
    raw = two.header + bytes(seal_whole(one, content(100)))[len(one.header) :]
    with pytest.raises(OSError, match="damaged"):
        opened(raw).read_at(0, 100)


def test_damage_of_an_upload_is_found_by_its_reader(store: BlobStore) -> None:
    upload = Upload(store, content(2 * CHUNK)).send_all()
    # Chunk 1 is overwritten, by a hand that has the same right to it.
    with closing(store.slot(upload.stored, 1)) as slot:
        assert slot.acquire()
        slot.begin(replace=False)
        slot.write(memoryview(bytes(1000)))
    assert upload.read(0, 0, CHUNK) == upload.piece(0)
    with pytest.raises(OSError, match="damaged: block 2") as caught:
        upload.read(1, 0, CHUNK)
    assert caught.value.errno == 5
    assert upload.read(1, B, B) == upload.piece(1)[B:]


def test_a_side_object_cut_short_is_an_error(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, min_free=0)
    upload = Upload(store, content(2 * CHUNK)).send_all()
    path = store.path(upload.layout.key)
    with path.open("r+b") as file:
        file.truncate(upload.stored.size - 100)
    with pytest.raises(OSError, match="shorter than acknowledged"):
        upload.read(1, 0, CHUNK)
    buffer = memoryview(bytearray(CHUNK))
    store.side_folder(upload.layout.key).mkdir()
    (store.side_folder(upload.layout.key) / "0.x").write_bytes(b"")
    with closing(upload.reader()) as reader, pytest.raises(OSError, match="shorter"):
        reader.read_into(0, "0.x", 0, buffer)


# beside the bytes


def test_a_memo_is_sealed_and_comes_back(store: BlobStore) -> None:
    upload = Upload(store, content(CHUNK))
    with closing(upload.reader()) as reader, closing(store.reader(upload.stored)) as inner:
        assert reader.recall() == b""
        assert reader.claim()
        assert not inner.claim()
        for memo in (b"", b"state of a digest", bytes(900)):
            reader.remember(memo)
            assert reader.recall() == memo
            assert len(memo) < 10 or memo not in inner.recall()
        stored = inner.recall()
        reader.remember(bytes(900))
        assert inner.recall() != stored, "the nonce is random"
        flipped = bytes([stored[0] ^ 1]) + stored[1:]
        for broken in (b"", b"x", stored[:12], stored[:27], stored[:-1], flipped):
            inner.remember(broken)
            assert reader.recall() == b""
        reader.release()
        assert inner.claim()
    other = SealedUpload(Sealing.new(PASSWORD), upload.layout)
    with closing(store.reader(upload.stored)) as inner:
        inner.remember(stored)
        assert upload.reader().recall() == bytes(900)
        assert SealedUploadReader(inner, other).recall() == b""


def _followed(upload: Upload, recent: Recent | None = None) -> str:
    """The digest of an upload whose chunks are all acknowledged."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    task = UploadTask(
        id="t", account_id="a", pool_id="p", bundle_id=None, file_name="f", content_type="x/y",
        digest=None, expired_at=None, layout=upload.layout, status=TaskStatus.IN_PROGRESS,
        created_at=now, updated_at=now, expires_at=now, received_count=upload.layout.count,
    )  # fmt: skip

    def learn(start: int) -> dict[int, Chunk]:
        return {index: Chunk(index, CHUNK, str(index), None) for index in range(start, 6)}

    follower = Follower(task, upload.reader, learn, recent)
    digests = follower.digests(0)
    assert follower.claim()
    follower.run()
    return digests.result(5)["sha256"]


def test_the_digest_that_follows_is_the_contents(store: BlobStore) -> None:
    """The hashing of plain uploads works unchanged on the content of sealed ones."""
    upload = Upload(store, content(5 * CHUNK + 99)).send_all()
    expected = hashlib.sha256(upload.data).hexdigest()
    for _ in range(2):  # the second goes on from the first one's memo
        assert _followed(upload) == expected


@pytest.mark.parametrize("room", [1, 2 * CHUNK, 99 * CHUNK])
def test_the_digest_takes_what_is_at_hand_and_opens_the_rest(
    store: BlobStore, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = Upload(store, content(5 * CHUNK + 99))
    upload.recent = Recent(room, clock=lambda: 0.0)
    upload.send_all([4, 0, 2, 5, 3, 1], step=50_000)
    expected, opened = hashlib.sha256(upload.data).hexdigest(), list[int]()
    read_into = SealedUploadReader.read_into

    def counted(reader: SealedUploadReader, index: int, *args: Any) -> int:
        opened.append(index)
        return read_into(reader, index, *args)

    monkeypatch.setattr(SealedUploadReader, "read_into", counted)
    assert _followed(upload, upload.recent) == expected
    kept = {1: [4], 2 * CHUNK: [4, 0]}.get(room, range(6))
    assert opened == [index for index in range(6) if index not in kept]
    assert upload.recent.used == 0


def test_content_is_at_hand_only_of_chunks_that_are_stored(store: BlobStore) -> None:
    """A body that came half, one whose recording failed, one of other bytes: none is found."""
    upload, other = Upload(store, content(2 * CHUNK)), content(CHUNK, seed=2)
    with closing(upload.slot(0)) as slot:
        assert slot.acquire()
        slot.begin(replace=False)
        slot.write(memoryview(other)[:-1])
    with closing(upload.slot(0)) as slot:
        slot._intend = lambda _: (_ for _ in ()).throw(StorageFull("no space"))
        assert slot.acquire()
        slot.begin(replace=False)
        slot.write(memoryview(other))
        with pytest.raises(StorageFull):
            slot.commit()
    with upload.recent.taken(upload.layout.key, 0) as found:
        assert found is None
    upload.send_all([1, 0, 0])
    with pytest.raises(ChunkConflict):
        upload.send(0, other)
    assert upload.recent.used == 2 * CHUNK
    with upload.recent.taken(upload.layout.key, 0) as found:
        assert found is not None
        assert bytes(found) == upload.piece(0)


def test_beginning_again_is_followed_by_what_came_last(store: BlobStore) -> None:
    upload = Upload(store, content(CHUNK))
    with closing(upload.slot(0)) as slot:
        assert slot.acquire()
        for piece in (content(CHUNK - 1, seed=2), upload.data):
            slot.begin(replace=False)
            slot.write(memoryview(piece))
        slot.commit()
        slot.keep()
    assert upload.recent.used == CHUNK
    assert _followed(upload, upload.recent) == hashlib.sha256(upload.data).hexdigest()


# checked without a password


def test_a_fold_tells_of_every_stored_byte(store: BlobStore) -> None:
    upload = Upload(store, content(2 * CHUNK + 3)).send_all([2, 0, 1])
    raw = upload.publish()
    expected = fold(upload.intended[index] for index in range(3))
    told: list[int] = []
    with closing(store.open(upload.layout.key)) as reader:
        assert fold_of(reader, upload.stored) == expected
        assert fold_of(reader, upload.stored, told.append) == expected
    assert sum(told) == len(raw)
    assert fold_of(Stingy(raw), upload.stored) == expected
    for at in (0, upload.sealed.head, len(raw) // 2, len(raw) - 1):
        broken = bytearray(raw)
        broken[at] ^= 1
        assert fold_of(MemoryBlobReader(broken), upload.stored) != expected
    for other in (raw[:-1], raw + b"x"):
        with pytest.raises(OSError, match="bytes, not"):
            fold_of(MemoryBlobReader(bytearray(other)), upload.stored)
    cut = Stingy(raw[:-1])
    cut.size += 1
    with pytest.raises(OSError, match="shorter"):
        fold_of(cut, upload.stored)


def test_a_fold_knows_the_order() -> None:
    one, two = "0" * 32, "1" * 32
    assert fold([one, two]) != fold([two, one])
    assert fold(iter([one, two])) == fold([one, two])
    assert fold([one]) != fold([])


def test_whoever_follows_may_stop_a_fold() -> None:
    upload = Upload(MemoryStore(), content(CHUNK)).send_all()

    def stop(_: int) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        fold_of(MemoryBlobReader(bytearray(upload.raw())), upload.stored, stop)


def test_large_chunks_reach_the_store_in_pieces() -> None:
    attempts = Attempts()
    attempts.upload = SealedUpload(attempts.upload.sealing, Layout("k", 40 * B, 40 * B))
    attempts.send(content(40 * B))
    sizes = [len(each) for each in attempts.inner.did if isinstance(each, bytes)]
    assert len(sizes) > 1
    assert max(sizes) <= 1 << 20
