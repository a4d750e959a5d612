"""One suite for every ``BlobStore``: each clause of the port, and what crashes leave.

A store is added by a factory in ``FACTORIES``; what only a disk can show is at the end.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.stores import put, reserve
from upwell.errors import StorageFull
from upwell.model import Chunk, Layout
from upwell.stores import local as local_store
from upwell.stores.descriptors import lock
from upwell.stores.local import LocalStore
from upwell.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from upwell.core.ports import BlobStore, ChunkSlot

N = 64  # the chunk size of most tests, bytes


def _local(root: Path) -> BlobStore:
    return LocalStore(root, min_free=0)


def _memory(_root: Path) -> BlobStore:
    return MemoryStore()


FACTORIES: dict[str, Callable[[Path], BlobStore]] = {"local": _local, "memory": _memory}


@pytest.fixture(params=FACTORIES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return FACTORIES[request.param](tmp_path / "pool")


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "pool", min_free=0)


@dataclass
class Acked:
    """``Chunks`` in a list: what a catalog would know."""

    chunks: dict[int, Chunk]

    def all(self, start: int = 0) -> Iterator[Chunk]:
        yield from (self.chunks[index] for index in sorted(self.chunks) if index >= start)

    def staged(self) -> Sequence[Chunk]:
        return [chunk for chunk in self.all() if chunk.staged is not None]


def reserved(store: BlobStore, size: int, chunk_size: int = N) -> Layout:
    return Layout(reserve(store, size), size, chunk_size)


def write(slot: ChunkSlot, data: bytes, *, replace: bool = False, step: int = 0) -> Chunk:
    """Begin, write in steps, commit."""
    slot.begin(replace=replace)
    for start in range(0, len(data), step or max(1, len(data))):
        slot.write(memoryview(data)[start : start + (step or len(data))])
    return slot.commit()


def send(
    store: BlobStore, layout: Layout, index: int, data: bytes, *, replace: bool = False
) -> Chunk:
    """One chunk, written, committed and acknowledged."""
    with closing(store.slot(layout, index)) as slot:
        assert slot.acquire()
        chunk = write(slot, data, replace=replace)
        slot.keep()
    return chunk


def read_chunk(store: BlobStore, layout: Layout, chunk: Chunk, step: int = 7) -> bytes:
    """A chunk through the reader, as the digest sees it."""
    found, buffer = b"", memoryview(bytearray(step))
    with closing(store.reader(layout)) as reader:
        while count := reader.read_into(chunk.index, chunk.staged, len(found), buffer):
            found += buffer[:count]
    return found


def blob(store: BlobStore, key: str) -> bytes:
    with closing(store.open(key)) as reader:
        return reader.read_at(0, reader.size + 1)


def cut(data: bytes, layout: Layout, index: int) -> bytes:
    return data[layout.offset(index) : layout.offset(index) + layout.length(index)]


def text(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def upload(store: BlobStore, data: bytes, chunk_size: int = N) -> tuple[Layout, Acked]:
    """Every chunk sent and acknowledged; not published."""
    layout = reserved(store, len(data), chunk_size)
    acked = Acked({})
    for index in reversed(range(layout.count)):
        acked.chunks[index] = send(store, layout, index, cut(data, layout, index))
    return layout, acked


# recovery's question


@pytest.mark.parametrize("replace", [False, True])
def test_check_chunk_tells_its_bytes_from_others(store: BlobStore, replace: bool) -> None:
    layout = reserved(store, 2 * N + 1)
    last = send(store, layout, 2, text(1), replace=replace)
    chunk = send(store, layout, 1, text(N), replace=replace)
    assert store.check_chunk(layout, chunk)
    assert store.check_chunk(layout, last)
    assert not store.check_chunk(layout, Chunk(0, N, chunk.etag, None))
    assert not store.check_chunk(layout, Chunk(1, N - 1, chunk.etag, chunk.staged))
    assert not store.check_chunk(layout, Chunk(9, N, chunk.etag, chunk.staged))
    store.unstage(layout.key)
    assert store.check_chunk(layout, chunk) is not replace


def test_check_chunk_of_a_discarded_upload(store: BlobStore) -> None:
    layout = reserved(store, N)
    chunk = send(store, layout, 0, text(N))
    store.delete(layout.key)
    with pytest.raises(FileNotFoundError):
        store.check_chunk(layout, chunk)


# what goes in comes out


@pytest.mark.parametrize("size", [0, 1, N - 1, N, N + 1, 2 * N + 1])
@pytest.mark.parametrize("step", [1, N - 1, N, N + 1])
def test_lengths_crossed_with_write_sizes(store: BlobStore, size: int, step: int) -> None:
    data = text(size)
    layout = reserved(store, size)
    acked = Acked({})
    for index in range(layout.count):
        with closing(store.slot(layout, index)) as slot:
            assert slot.acquire()
            acked.chunks[index] = write(slot, cut(data, layout, index), step=step)
            slot.keep()
        assert acked.chunks[index].size == layout.length(index)
        assert acked.chunks[index].staged is None
        assert read_chunk(store, layout, acked.chunks[index]) == cut(data, layout, index)
    store.publish(layout, acked)
    assert blob(store, layout.key) == data


@pytest.mark.parametrize("kind", FACTORIES)
@given(
    size=st.integers(0, 3 * N),
    chunk_size=st.integers(1, 2 * N),
    order=st.randoms(use_true_random=False),
    step=st.integers(1, N),
)
def test_any_cut_in_any_order_makes_the_same_blob(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    chunk_size: int,
    order: random.Random,
    step: int,
) -> None:
    store = FACTORIES[kind](tmp_path_factory.getbasetemp() / "any-cut")
    data = text(size, 1)
    layout = reserved(store, size, chunk_size)
    acked = Acked({})
    indexes = list(range(layout.count)) + [0] * bool(size)  # one of them twice
    order.shuffle(indexes)
    for index in indexes[:20] + list(range(layout.count)):
        with closing(store.slot(layout, index)) as slot:
            assert slot.acquire()
            again = index in acked.chunks
            chunk = write(slot, cut(data, layout, index), replace=again, step=step)
            slot.keep()
        acked.chunks[index] = chunk
    store.publish(layout, acked)
    assert blob(store, layout.key) == data


def test_a_reader_never_reads_beyond_the_chunk(store: BlobStore) -> None:
    layout, acked = upload(store, text(2 * N + 3))
    buffer = memoryview(bytearray(5 * N))
    with closing(store.reader(layout)) as reader:
        assert reader.read_into(0, None, 0, buffer) == N
        assert reader.read_into(1, None, N - 1, buffer) == 1
        assert reader.read_into(1, None, N, buffer) == 0
        assert reader.read_into(2, None, 0, buffer) == 3
        assert reader.read_into(2, None, 1, buffer[:1]) == 1
    staged = send(store, layout, 0, text(N, 5), replace=True)
    assert acked.chunks[0].etag != staged.etag
    with closing(store.reader(layout)) as reader:
        assert reader.read_into(0, staged.staged, 0, buffer) == N
        assert bytes(buffer[:N]) == text(N, 5)


def test_the_etag_tells_contents_apart(store: BlobStore) -> None:
    layout = reserved(store, 4 * N)
    first = send(store, layout, 0, text(N, 1))
    with closing(store.slot(layout, 0)) as slot:
        assert slot.acquire()
        same = write(slot, text(N, 1), replace=True, step=3)
        other = write(slot, text(N, 2), replace=True)
    assert first.etag == same.etag != other.etag


def test_a_blob_is_read_anywhere(store: BlobStore) -> None:
    data = text(3 * N)
    key = put(store, data)
    with closing(store.open(key)) as reader:
        assert reader.size == len(data)
        assert reader.read_at(N, N) == data[N : 2 * N]
        assert reader.read_at(len(data) - 1, 10) == data[-1:]
        assert reader.read_at(len(data), 10) == b""
        assert reader.read_at(len(data) + 100, 10) == b""
        descriptor = reader.fileno()
        if descriptor is not None:
            assert os.pread(descriptor, N, 0) == data[:N]


@pytest.mark.parametrize("size", [0, 1, N, 3 * N])
def test_put_stores_whole(store: BlobStore, size: int) -> None:
    assert blob(store, put(store, text(size))) == text(size)


def test_many_are_put_as_each_alone(store: BlobStore) -> None:
    contents = [text(size, size) for size in (0, 1, N, 3 * N, 1)]
    with store.intake() as intake:
        keys = intake.put_many(contents)
        assert intake.put_many([]) == []
    assert len(set(keys)) == len(contents)
    assert all(len(key) >= 32 for key in keys)
    assert [blob(store, key) for key in keys] == contents
    assert {key for key, _ in store.list_keys()} >= set(keys)


def test_keys_are_new_and_unguessable(store: BlobStore) -> None:
    keys = [reserve(store, 1) for _ in range(10)] + [put(store, b"x") for _ in range(10)]
    assert len(set(keys)) == 20
    assert all(len(key) >= 32 for key in keys)


# one writer for a chunk (I6)


def test_a_slot_has_one_holder(store: BlobStore) -> None:
    layout = reserved(store, 2 * N)
    first, second = store.slot(layout, 0), store.slot(layout, 0)
    with closing(first), closing(second):
        assert first.acquire()
        assert first.acquire(), "asking again changes nothing"
        assert not first.contended()
        assert not second.acquire()
        assert first.contended(), "the newcomer is seen"
        assert not second.contended()
        first.close()
        assert second.acquire()
        assert not second.contended()


def test_slots_of_other_chunks_and_uploads_do_not_meet(store: BlobStore) -> None:
    one, two = reserved(store, 2 * N), reserved(store, 2 * N)
    slots = [store.slot(one, 0), store.slot(one, 1), store.slot(two, 0)]
    assert all(slot.acquire() for slot in slots)
    assert not any(slot.contended() for slot in slots)
    for slot in slots:
        slot.close()


def test_of_three_requesters_the_middle_one_learns_of_the_newest(store: BlobStore) -> None:
    layout = reserved(store, N)
    oldest, middle, newest = (store.slot(layout, 0) for _ in range(3))
    assert oldest.acquire()
    assert not middle.acquire()
    assert not middle.contended()
    assert not newest.acquire()
    assert middle.contended(), "somebody newer than the waiter asks"
    assert oldest.contended()
    assert not newest.contended()
    middle.close()  # as it should
    assert not newest.acquire()
    assert not newest.contended(), "it is the waiter now, and nobody is behind it"
    oldest.close()
    assert newest.acquire()
    assert not newest.contended()
    newest.close()


def test_of_three_requesters_the_waiter_may_win(store: BlobStore) -> None:
    layout = reserved(store, N)
    oldest, middle, newest = (store.slot(layout, 0) for _ in range(3))
    assert [oldest.acquire(), middle.acquire(), newest.acquire()] == [True, False, False]
    oldest.close()
    assert middle.acquire()
    assert not newest.acquire()
    assert middle.contended()
    middle.close()
    assert newest.acquire()
    newest.close()


def test_a_newcomer_that_gives_up_is_not_seen_any_more(store: BlobStore) -> None:
    layout = reserved(store, N)
    first, second = store.slot(layout, 0), store.slot(layout, 0)
    assert first.acquire()
    assert not second.acquire()
    second.close()
    assert not first.contended()
    first.close()


def test_closing_twice_is_fine(store: BlobStore) -> None:
    layout = reserved(store, N)
    slot = store.slot(layout, 0)
    assert slot.acquire()
    slot.close()
    slot.close()
    with closing(store.slot(layout, 0)) as other:
        assert other.acquire()


def test_racing_threads_never_mix_their_bytes(store: BlobStore) -> None:
    """I6: sixteen writers of one chunk; each acknowledged state is one writer's, whole."""
    layout = reserved(store, 1 << 14, 1 << 14)
    acked: list[Chunk] = []
    inside = threading.Semaphore(1)

    def one(number: int) -> None:
        body = bytes([number]) * layout.size
        with closing(store.slot(layout, 0)) as slot:
            while not slot.acquire():
                threading.Event().wait(0.0005)
            assert inside.acquire(blocking=False), "two holders at once"
            chunk = write(slot, body, replace=bool(acked), step=1 << 12)
            assert read_chunk(store, layout, chunk, 1 << 14) == body
            slot.keep()
            acked.append(chunk)
            inside.release()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(one, range(16)))
    assert len(acked) == 16
    last = acked[-1]
    body = read_chunk(store, layout, last, 1 << 14)
    assert len(set(body)) == 1
    store.publish(layout, Acked({0: last}))
    assert blob(store, layout.key) == body


# what is acknowledged stays


def test_an_abandoned_first_body_leaves_the_chunk_free(store: BlobStore) -> None:
    layout = reserved(store, N)
    with closing(store.slot(layout, 0)) as slot:
        assert slot.acquire()
        slot.begin(replace=False)
        slot.write(memoryview(text(N // 2, 3)))
    chunk = send(store, layout, 0, text(N, 4))
    assert read_chunk(store, layout, chunk) == text(N, 4)


def test_begin_again_starts_afresh(store: BlobStore) -> None:
    layout = reserved(store, 2 * N)
    with closing(store.slot(layout, 1)) as slot:
        assert slot.acquire()
        for replace in (False, True):
            slot.begin(replace=replace)
            slot.write(memoryview(text(N - 1, 9)))
            chunk = write(slot, text(N, 10 + replace), replace=replace)
            assert chunk.size == N
            assert read_chunk(store, layout, chunk) == text(N, 10 + replace)
        assert len(list(store.list_staged())) == 1


def test_a_replacement_touches_nothing_before_publish(store: BlobStore) -> None:
    data = text(3 * N)
    layout, acked = upload(store, data)
    with closing(store.slot(layout, 1)) as slot:
        assert slot.acquire()
        slot.begin(replace=True)
        slot.write(memoryview(text(N, 7)))
        assert read_chunk(store, layout, acked.chunks[1]) == cut(data, layout, 1)
        new = slot.commit()
        assert read_chunk(store, layout, acked.chunks[1]) == cut(data, layout, 1)
        slot.keep()
    assert new.staged is not None
    assert read_chunk(store, layout, acked.chunks[1]) == cut(data, layout, 1)
    assert read_chunk(store, layout, new) == text(N, 7)
    acked.chunks[1] = new
    store.publish(layout, acked)
    assert blob(store, layout.key) == data[:N] + text(N, 7) + data[2 * N :]


@pytest.mark.parametrize("committed", [False, True])
def test_a_replacement_that_nobody_keeps_goes_with_the_slot(
    store: BlobStore, committed: bool
) -> None:
    layout, acked = upload(store, text(N))
    with closing(store.slot(layout, 0)) as slot:
        assert slot.acquire()
        slot.begin(replace=True)
        slot.write(memoryview(text(N, 7)))
        if committed:
            slot.commit()
        assert len(list(store.list_staged())) == 1
    assert list(store.list_staged()) == []
    assert read_chunk(store, layout, acked.chunks[0]) == text(N)


# publish


def test_publish_is_idempotent(store: BlobStore) -> None:
    layout, acked = upload(store, text(3 * N + 5))
    acked.chunks[3] = send(store, layout, 3, text(5, 8), replace=True)
    for _ in range(3):
        store.publish(layout, acked)
        assert blob(store, layout.key) == text(3 * N + 5)[: 3 * N] + text(5, 8)


def test_publish_after_a_crash_in_its_middle_is_repeatable(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some replacements are at their place, some are not, and the rows still name them."""
    layout, acked = upload(store, text(4 * N))
    for index in (0, 2, 3):
        acked.chunks[index] = send(store, layout, index, text(N, 20 + index), replace=True)
    some = Acked({0: acked.chunks[0], 1: acked.chunks[1]})
    store.publish(layout, some)  # as far as the crash let it come
    for index, chunk in acked.chunks.items():
        expected = text(4 * N)[N : 2 * N] if index == 1 else text(N, 20 + index)
        assert read_chunk(store, layout, chunk) == expected
    store.publish(layout, acked)
    assert blob(store, layout.key) == (
        text(N, 20) + text(4 * N)[N : 2 * N] + text(N, 22) + text(N, 23)
    )


def test_publish_of_what_was_discarded(store: BlobStore) -> None:
    layout, acked = upload(store, text(N))
    store.delete(layout.key)
    with pytest.raises(FileNotFoundError):
        store.publish(layout, acked)


def test_publish_misses_a_side_object(store: BlobStore) -> None:
    layout, acked = upload(store, text(N))
    chunk = send(store, layout, 0, text(N, 2), replace=True)
    store.unstage(layout.key)
    with pytest.raises(FileNotFoundError):
        store.publish(layout, Acked({0: chunk}))
    assert read_chunk(store, layout, acked.chunks[0]) == text(N)


# exclusive roles


def test_a_role_is_held_once(store: BlobStore) -> None:
    layout, other = reserved(store, N), reserved(store, N)
    with store.exclusive(layout, "complete") as first:
        assert first
        with store.exclusive(layout, "complete") as second:
            assert not second
        with store.exclusive(layout, "complete") as third:
            assert not third, "a loser that leaves takes nothing along"
        with store.exclusive(layout, "hash") as role, store.exclusive(other, "complete") as key:
            assert (role, key) == (True, True)
    with store.exclusive(layout, "complete") as again:
        assert again


def test_a_role_is_let_go_by_an_error(store: BlobStore) -> None:
    layout = reserved(store, N)
    with pytest.raises(ZeroDivisionError), store.exclusive(layout, "complete"):
        raise ZeroDivisionError
    with store.exclusive(layout, "complete") as free:
        assert free


def test_roles_do_not_meet_slots(store: BlobStore) -> None:
    layout = reserved(store, N)
    with closing(store.slot(layout, 0)) as slot, store.exclusive(layout, "complete") as free:
        assert free
        assert slot.acquire()
        assert not slot.contended()


# following an upload


def test_one_reader_has_the_claim(store: BlobStore) -> None:
    layout, other = reserved(store, N), reserved(store, N)
    one, two, else_where = store.reader(layout), store.reader(layout), store.reader(other)
    with closing(one), closing(two), closing(else_where):
        assert one.claim()
        assert one.claim(), "asking again changes nothing"
        assert else_where.claim()
        assert not two.claim()
        two.release()
        assert not two.claim(), "what one has not cannot be given up"
        one.release()
        assert two.claim()
        assert not one.claim()
        two.close()
        assert one.claim(), "closing gives it up"
        two = store.reader(layout)


def test_a_claim_meets_neither_slots_nor_roles(store: BlobStore) -> None:
    layout = reserved(store, N)
    with closing(store.reader(layout)) as reader, closing(store.slot(layout, 0)) as slot:
        assert reader.claim()
        assert slot.acquire()
        assert not slot.contended()
        with store.exclusive(layout, "complete") as free:
            assert free


def test_a_memo_is_the_last_one_or_nothing(store: BlobStore) -> None:
    layout = reserved(store, N)
    with closing(store.reader(layout)) as reader:
        assert reader.recall() == b""
        for memo in (b"one", text(1024), b"two"):
            reader.remember(memo)
            assert reader.recall() in {memo, b""}, "it may be lost, but is never an older one"
    with closing(store.reader(layout)) as again:
        assert again.recall() in {b"two", b""}
    with closing(store.reader(reserved(store, N))) as fresh:
        assert fresh.recall() == b""


# discarding


def test_what_was_discarded_is_gone(store: BlobStore) -> None:
    layout, acked = upload(store, text(2 * N))
    send(store, layout, 0, text(N, 3), replace=True)
    published = put(store, b"mine")
    store.delete(layout.key)
    store.delete(layout.key)
    store.delete("0" * 32)
    for use in (
        lambda: store.open(layout.key),
        lambda: store.slot(layout, 0),
        lambda: store.reader(layout),
        lambda: store.exclusive(layout, "hash").__enter__(),
    ):
        with pytest.raises(FileNotFoundError):
            use()
    assert [key for key, _ in store.list_keys()] == [published]
    assert list(store.list_staged()) == []
    assert acked


def test_a_deleted_blob_stays_readable_for_who_has_it_open(store: BlobStore) -> None:
    data = text(1000)
    key = put(store, data)
    with closing(store.open(key)) as reader:
        assert reader.read_at(0, 10) == data[:10]
        store.delete(key)
        assert reader.read_at(10, 990) == data[10:]
        assert reader.size == 1000


@pytest.mark.parametrize("replace", [False, True])
def test_begin_on_a_discarded_upload(store: BlobStore, replace: bool) -> None:
    layout, _ = upload(store, text(N))
    with closing(store.slot(layout, 0)) as slot:
        assert slot.acquire()
        store.delete(layout.key)
        with pytest.raises(FileNotFoundError):
            slot.begin(replace=replace)
    assert list(store.list_keys()) == []
    assert list(store.list_staged()) == []


def test_a_slot_outlives_its_upload_quietly(store: BlobStore) -> None:
    """Writing and closing raise nothing but FileNotFoundError, and nothing comes back."""
    layout, _ = upload(store, text(N))
    with closing(store.slot(layout, 0)) as slot:
        assert slot.acquire()
        slot.begin(replace=True)
        slot.write(memoryview(b"x"))
        store.delete(layout.key)
        slot.write(memoryview(b"y"))
        with suppress(FileNotFoundError):
            slot.commit()
    assert list(store.list_keys()) == []
    assert list(store.list_staged()) == []


# sent again


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("step", [1, 7, N])
def test_what_is_sent_again_unchanged_takes_no_space(
    store: BlobStore, step: int, *, staged: bool
) -> None:
    layout, acked = upload(store, text(3 * N))
    chunk = acked.chunks[1]
    if staged:
        chunk = send(store, layout, 1, text(N, 5), replace=True)
    body = read_chunk(store, layout, chunk)
    before = sorted(store.list_staged())
    with closing(store.slot(layout, 1)) as slot:
        assert slot.acquire()
        slot.begin(replace=True, staged=chunk.staged)
        for at in range(0, N, step):
            slot.write(memoryview(body)[at : at + step])
        assert sorted(store.list_staged()) == before
        assert slot.commit() == chunk
        slot.begin(replace=True, staged=chunk.staged)  # another body, which differs at its end
        other = body[:-1] + bytes([body[-1] ^ 1])
        for at in range(0, N, step):
            slot.write(memoryview(other)[at : at + step])
        changed = slot.commit()
        slot.keep()
    assert changed.etag != chunk.etag
    assert changed.staged not in (None, chunk.staged)
    assert read_chunk(store, layout, changed) == other
    assert read_chunk(store, layout, chunk) == body
    if staged:
        store.unstage(layout.key, chunk.staged)
        again = send(store, layout, 1, body, replace=True)
        assert again.staged is not None, "what is lost is stored again"


def test_what_the_catalog_refused_is_dropped_after_all(store: BlobStore) -> None:
    layout, _ = upload(store, text(N))
    with closing(store.slot(layout, 0)) as slot:
        assert slot.acquire()
        write(slot, text(N, 5), replace=True)
        slot.keep()
        slot.drop()
    assert list(store.list_staged()) == []


# strays


def test_strays_are_reclaimed_when_no_row_names_them(store: BlobStore) -> None:
    layout, acked = upload(store, text(2 * N))
    kept, side = put(store, b"kept"), send(store, layout, 0, text(N, 3), replace=True)
    asked: list[bool] = []

    def answer(stray: bool) -> Callable[[], bool]:
        return lambda: asked.append(stray) or stray  # type: ignore[func-returns-value]

    for key, name in ((kept, None), (layout.key, side.staged)):
        assert not store.reclaim(key, name, answer(stray=False))
    assert blob(store, kept) == b"kept"
    assert read_chunk(store, layout, side) == text(N, 3)
    assert store.reclaim(layout.key, side.staged, answer(stray=True))
    assert read_chunk(store, layout, acked.chunks[0]) == text(2 * N)[:N]
    send(store, layout, 1, text(N, 4), replace=True)
    assert store.reclaim(layout.key, None, answer(stray=True))
    assert asked == [False, False, True, True]
    for key, name in ((layout.key, None), (layout.key, side.staged), ("0" * 32, None)):
        assert not store.reclaim(key, name, answer(stray=True)), "it is gone"
    assert len(asked) == 4
    assert ([key for key, _ in store.list_keys()], list(store.list_staged())) == ([kept], [])


def test_new_bytes_are_no_strays_until_their_writer_has_ended(store: BlobStore) -> None:
    """I2, whatever the clock says, and however long the writer stands still."""
    with store.intake() as intake:
        keys = [intake.reserve(N), intake.put(b"a"), *intake.put_many([b"b", b"", b"c"])]
        assert not any(store.reclaim(key, None, lambda: True) for key in keys)
        store.delete(keys.pop())  # its own writer may
    assert all(store.reclaim(key, None, lambda: True) for key in keys)
    assert list(store.list_keys()) == []


def test_side_objects_are_no_strays_until_their_slot_is_closed(store: BlobStore) -> None:
    layout, _ = upload(store, text(N))
    with closing(store.slot(layout, 0)) as slot:
        assert slot.acquire()
        slot.begin(replace=True)
        slot.write(memoryview(text(N, 2))[: N // 2])
        ((_, name, _),) = store.list_staged()
        assert not store.reclaim(layout.key, name, lambda: True)
        slot.write(memoryview(text(N, 2))[N // 2 :])
        slot.commit()
        slot.keep()
        assert not store.reclaim(layout.key, name, lambda: True)
    assert store.reclaim(layout.key, name, lambda: True)
    assert list(store.list_staged()) == []


# listings


def test_listings_name_what_there_is(store: BlobStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    layout, _ = upload(store, text(2 * N))
    key = put(store, b"x")
    one = send(store, layout, 0, text(N, 1), replace=True)
    two = send(store, layout, 1, text(N, 2), replace=True)
    keys = dict(store.list_keys())
    assert set(keys) == {layout.key, key}
    staged = {(key, name): changed for key, name, changed in store.list_staged()}
    assert set(staged) == {(layout.key, one.staged), (layout.key, two.staged)}
    after = datetime.now(UTC) + timedelta(seconds=2)
    assert all(before < changed < after for changed in [*keys.values(), *staged.values()])


def test_unstage_removes_one_or_all(store: BlobStore) -> None:
    layout, _ = upload(store, text(3 * N))
    names = [send(store, layout, i, text(N, 9), replace=True).staged for i in range(3)]
    store.unstage(layout.key, names[0])
    store.unstage(layout.key, names[0])
    assert {name for _, name, _ in store.list_staged()} == set(names[1:])
    store.unstage(layout.key)
    store.unstage(layout.key)
    store.unstage("f" * 32)
    store.unstage("f" * 32, "0.1")
    assert list(store.list_staged()) == []
    assert [key for key, _ in store.list_keys()] == [layout.key]


def test_a_listing_lives_with_deletions(store: BlobStore) -> None:
    keys = {put(store, b"x") for _ in range(30)}
    seen = set()
    for key, _ in store.list_keys():
        seen.add(key)
        store.delete(key)
        put(store, b"new")
    assert seen <= keys | {key for key, _ in store.list_keys()} | seen
    assert keys <= seen


# space


def test_an_upload_that_cannot_fit_is_refused_at_once(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(store, MemoryStore):
        store.capacity = 1 << 20
    for size in (1 << 45, 1 << 62):
        with pytest.raises(StorageFull):
            reserve(store, size)
    assert list(store.list_keys()) == []


def test_the_reference_counts_its_capacity() -> None:
    store = MemoryStore(capacity=3 * N)
    layout, acked = upload(store, text(2 * N))
    with pytest.raises(StorageFull):
        put(store, text(N + 1))
    with closing(store.slot(layout, 0)) as slot:
        assert slot.acquire()
        slot.begin(replace=True)
        with pytest.raises(StorageFull):
            slot.write(memoryview(text(N + 1)))
    send(store, layout, 0, text(N, 2), replace=True)
    with pytest.raises(StorageFull):
        put(store, b"x")
    assert read_chunk(store, layout, acked.chunks[0]) == text(2 * N)[:N]
    store.capacity = None
    put(store, text(10 * N))


def test_check_passes_on_a_store_in_order(store: BlobStore) -> None:
    store.check()
    assert list(store.list_keys()) == []


# what only a disk can show


def _no_space(*_args: Any) -> Any:
    raise OSError(errno.ENOSPC, "no space left on device")


@pytest.mark.parametrize("replace", [False, True])
def test_a_full_disk_acknowledges_nothing(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    layout, acked = upload(local, text(N))
    with closing(local.slot(layout, 0)) as slot:
        assert slot.acquire()
        slot.begin(replace=replace)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", _no_space)
            with pytest.raises(StorageFull):
                slot.write(memoryview(text(N, 2)))
    assert list(local.list_staged()) == []
    assert read_chunk(local, layout, acked.chunks[0]) == text(N)


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_full_disk_at_sync_fails_the_commit(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    layout, _ = upload(local, text(N))
    with closing(local.slot(layout, 0)) as slot:
        assert slot.acquire()
        slot.begin(replace=True)
        slot.write(memoryview(text(N, 2)))
        with monkeypatch.context() as patch:
            patch.setattr(os, call, _no_space)
            with pytest.raises(StorageFull):
                slot.commit()
    assert list(local.list_staged()) == []


def test_a_full_disk_in_publish_is_repeatable(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, acked = upload(local, text(N))
    acked.chunks[0] = send(local, layout, 0, text(N, 2), replace=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", _no_space)
        with pytest.raises(StorageFull):
            local.publish(layout, acked)
    local.publish(layout, acked)
    assert blob(local, layout.key) == text(N, 2)


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "open"])
def test_a_full_disk_leaves_no_half_blob(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _no_space)
        with pytest.raises(StorageFull):
            put(local, text(N))
    assert list(local.list_keys()) == []


def test_space_that_is_left_to_others(tmp_path: Path) -> None:
    space = os.statvfs(tmp_path)
    store = LocalStore(tmp_path / "pool", min_free=space.f_blocks * space.f_frsize)
    with pytest.raises(StorageFull):
        reserve(store, 1 << 20)
    with pytest.raises(StorageFull):
        put(store, bytes(1 << 20))
    assert list(store.list_keys()) == []
    roomy = LocalStore(tmp_path / "pool", min_free=0)
    layout, acked = upload(roomy, text(N))
    with pytest.raises(StorageFull):
        send(store, layout, 0, text(N, 5), replace=True)
    assert send(store, layout, 0, text(N), replace=True) == acked.chunks[0]
    assert list(store.list_staged()) == []


def test_reserve_allocates_real_blocks(local: LocalStore, tmp_path: Path) -> None:
    size = 8 << 20
    probe = tmp_path / "probe"
    with probe.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, 1 << 16)
        except OSError:
            pytest.skip("this file system reserves nothing")
    state = local.path(reserve(local, size)).stat()
    assert state.st_size == size
    assert state.st_blocks * 512 >= size


def test_a_file_system_without_fallocate_serves(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        @staticmethod
        def fallocate(*_args: int) -> int:
            return -1

    monkeypatch.setattr("upwell.stores.descriptors._libc", Old)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EOPNOTSUPP)
    layout, acked = upload(local, text(3 * N + 1))
    local.publish(layout, acked)
    assert blob(local, layout.key) == text(3 * N + 1)


def test_bytes_are_synced_before_commit_returns(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1, as far as a process can see: the written descriptor is synced, then the folder."""
    layout = reserved(local, N)
    synced: list[int] = []
    real, real_folder = os.fdatasync, os.fsync

    def sync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    def sync_folder(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real_folder(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(os, "fsync", sync_folder)
    inode = local.path(layout.key).stat().st_ino
    with closing(local.slot(layout, 0)) as slot:
        assert slot.acquire()
        write(slot, text(N))
        assert synced == [inode]
        synced.clear()
        side = write(slot, text(N, 2), replace=True)
        folder = local.side_folder(layout.key)
        assert side.staged is not None
        assert {(folder / side.staged).stat().st_ino, folder.stat().st_ino} <= set(synced)


def test_the_names_of_a_pool_s_folders_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: else all bytes that are synced below are gone with the name of one folder."""
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    root = tmp_path / "data" / "pools" / "default"
    for start in ("first", "after a crash"):
        synced.clear()
        LocalStore(root, min_free=0)
        above = [*root.parents][:3] if start == "first" else [root.parent]
        assert {each.stat().st_ino for each in (root, root / "blobs", *above)} <= set(synced)


@pytest.mark.parametrize(
    "key", ["", "../../etc/passwd", "a" * 31, "a" * 33, "A" * 32, "a" * 32 + "\n"]
)
def test_a_key_is_never_a_path(local: LocalStore, key: str) -> None:
    with pytest.raises(FileNotFoundError):
        local.open(key)


def test_foreign_files_are_not_ours(local: LocalStore) -> None:
    """What an operator, a backup or the file system leaves is not listed, so never deleted."""
    key = put(local, b"x")
    for name in (".nfs0001", "lost+found", key + ".bak"):
        local.path(key).with_name(name).write_bytes(b"not ours")
    assert [name for name, _ in local.list_keys()] == [key]


def test_a_folder_that_cannot_be_written_fails_the_check(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: _no_space())
    with pytest.raises(OSError, match="no space"):
        local.check()


def test_two_stores_on_one_folder_share_slots_and_roles(tmp_path: Path) -> None:
    one, two = LocalStore(tmp_path, min_free=0), LocalStore(tmp_path, min_free=0)
    layout = reserved(one, N)
    with closing(one.slot(layout, 0)) as first, closing(two.slot(layout, 0)) as second:
        assert first.acquire()
        assert not second.acquire()
        assert first.contended()
    with one.exclusive(layout, "complete") as free, two.exclusive(layout, "complete") as other:
        assert (free, other) == (True, False)


@pytest.mark.parametrize("sweeper", ["unlinks", "holds"])
@pytest.mark.parametrize("side", [False, True])
def test_what_was_swept_before_it_was_locked_is_made_again(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, sweeper: str, *, side: bool
) -> None:
    """The writer stood still between creating the file and locking it."""
    layout, acked = upload(local, text(N))
    real = os.open
    taken: list[int] = []

    def late(path: Any, flags: int, mode: int = 0o777) -> int:
        fd = real(path, flags, mode)
        if flags & os.O_CREAT and not taken:
            taken.append(real(path, os.O_RDWR))
            assert lock(taken[0], local_store._UNNAMED)
            if sweeper == "unlinks":
                Path(path).unlink()
                os.close(taken[0])
        return fd

    monkeypatch.setattr(os, "open", late)
    if side:
        chunk = send(local, layout, 0, text(N, 2), replace=True)
        assert read_chunk(local, layout, chunk) == text(N, 2)
    else:
        assert blob(local, put(local, b"whole")) == b"whole"
    assert taken
    assert read_chunk(local, layout, acked.chunks[0]) == text(N)


_HOLDER = """
import sys, time
from pathlib import Path
from upwell.model import Layout
from upwell.stores import local as local_store
from upwell.stores.descriptors import lock
from upwell.stores.local import LocalStore
store = LocalStore(Path(sys.argv[1]), min_free=0)
layout = Layout(sys.argv[2], int(sys.argv[3]), int(sys.argv[3]))
slot = store.slot(layout, 0)
assert slot.acquire()
slot.begin(replace=sys.argv[4] == "replace")
slot.write(memoryview(b"half of it"))
role = store.exclusive(layout, "complete")
assert role.__enter__()
intake = store.intake()
print("held", intake.put(b"new"), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["first", "replace"])
def test_a_holder_that_is_killed_loses_the_slot(tmp_path: Path, how: str) -> None:
    store = LocalStore(tmp_path, min_free=0)
    layout, acked = upload(store, text(N))
    command = [sys.executable, "-c", _HOLDER, str(tmp_path), layout.key, str(N), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        held, key = child.stdout.readline().decode().split()
        assert held == "held"
        assert not store.reclaim(key, None, lambda: True)
        with closing(store.slot(layout, 0)) as slot, store.exclusive(layout, "complete") as free:
            assert not free
            assert not slot.acquire()
            child.send_signal(signal.SIGKILL)
            child.wait()
            assert store.reclaim(key, None, lambda: True)
            assert slot.acquire(), "the kernel took the lock back"
            chunk = write(slot, text(N, 6), replace=True)
            slot.keep()
        with store.exclusive(layout, "complete") as free:
            assert free
    strays = {name for _, name, _ in store.list_staged()} - {chunk.staged}
    assert len(strays) == (how == "replace")
    if how == "replace":
        assert read_chunk(store, layout, acked.chunks[0]) == text(N)
    assert read_chunk(store, layout, chunk) == text(N, 6)
