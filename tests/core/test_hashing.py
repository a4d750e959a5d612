"""Digests that follow the contiguous prefix: order, gaps, replacements, processes, errors."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.world import World, content, new_upload, piece
from upwell.core.hashing import Follower, Followers, algorithms_for, digests_of
from upwell.model import Chunk, Digest, Layout, TaskStatus, UploadTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upwell.core.ports import UploadReader

N = 8
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Disk:
    """Chunks by (index, staged), as a reader finds them; can fail and can wait."""

    def __init__(self, data: bytes, chunk_size: int = N) -> None:
        self.layout = Layout("k", len(data), chunk_size)
        self.bytes: dict[tuple[int, str | None], bytes] = {
            (i, None): data[i * chunk_size : (i + 1) * chunk_size] for i in range(self.layout.count)
        }
        self.reads: list[int] = []
        self.step = chunk_size  # bytes a read gives at the most
        self.fail_at: int | None = None  # which read raises
        self.gate: threading.Event | None = None
        self.claimed = False
        self.elsewhere = False  # another process follows
        self.memo = b""
        self.rows: dict[int, Chunk] = {}  # what the catalog knows

    def read_into(self, index: int, staged: str | None, offset: int, buffer: memoryview) -> int:
        if self.gate:
            assert self.gate.wait(60)
        self.reads.append(index)
        if self.fail_at is not None and len(self.reads) > self.fail_at:
            raise OSError(5, "cannot read")
        found = self.bytes[index, staged][offset : offset + min(self.step, len(buffer))]
        buffer[: len(found)] = found
        return len(found)

    def claim(self) -> bool:
        assert not self.claimed, "a claim is not taken twice by one"
        self.claimed = not self.elsewhere
        return self.claimed

    def release(self) -> None:
        self.claimed = False

    def remember(self, memo: bytes) -> None:
        self.memo = memo

    def recall(self) -> bytes:
        return self.memo

    def close(self) -> None:
        self.release()


def task_of(
    disk: Disk, digest: Digest | None = None, revision: int = 0, received: int = 0
) -> UploadTask:
    return UploadTask(
        id="t",
        account_id="a",
        pool_id="p",
        bundle_id=None,
        file_name="n",
        content_type="x/y",
        digest=digest,
        expired_at=None,
        layout=disk.layout,
        status=TaskStatus.IN_PROGRESS,
        created_at=NOW,
        updated_at=NOW,
        expires_at=NOW,
        revision=revision,
        received_count=received,
    )


def follower_of(disk: Disk, digest: Digest | None = None, revision: int = 0) -> Follower:
    def reader() -> UploadReader:
        return disk

    def learn(start: int) -> dict[int, Chunk]:
        return {index: chunk for index, chunk in disk.rows.items() if index >= start}

    return Follower(task_of(disk, digest, revision), reader, learn)


def record(disk: Disk, index: int, staged: str | None = None) -> Chunk:
    """A row; this process has not heard of it."""
    disk.rows[index] = Chunk(index, N, f"etag-{index}-{staged}", staged)
    return disk.rows[index]


def note(
    disk: Disk, follower: Follower, index: int, revision: int = 0, staged: str | None = None
) -> None:
    """A row, and the note that follows it."""
    chunk = record(disk, index, staged)
    task = task_of(disk, revision=revision, received=len(disk.rows))
    follower.note(task, chunk, replaced=staged is not None)


def run(follower: Follower) -> None:
    if follower.claim():
        follower.run()


def sha(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_sha256_always_and_the_declared_beside_it() -> None:
    assert algorithms_for(None) == ("sha256",)
    assert algorithms_for(Digest("sha256", "")) == ("sha256",)
    assert algorithms_for(Digest("md5", "")) == ("sha256", "md5")
    assert digests_of(b"x", Digest("md5", "")) == {
        "sha256": hashlib.sha256(b"x").hexdigest(),
        "md5": hashlib.md5(b"x").hexdigest(),
    }


@given(order=st.permutations(range(6)), size=st.sampled_from([5 * N + 1, 6 * N - 1, 6 * N]))
def test_any_order_gives_the_digest_of_the_whole(order: list[int], size: int) -> None:
    data = content(size)
    disk = Disk(data)
    follower = follower_of(disk, Digest("sha512", ""))
    for index in order:
        note(disk, follower, index)
        run(follower)
    assert disk.reads == sorted(disk.reads), "each chunk once, in order"
    found = follower.digests(0).result(0)
    assert found == {"sha256": sha(data), "sha512": hashlib.sha512(data).hexdigest()}


def test_a_gap_stops_it_and_its_chunk_lets_it_on() -> None:
    disk = Disk(content(4 * N))
    follower = follower_of(disk)
    for index in (0, 2, 3):
        note(disk, follower, index)
        run(follower)
    assert disk.reads == [0]
    assert follower.lag() == 0
    note(disk, follower, 1)
    future = follower.digests(0)
    assert not future.done()
    run(follower)
    assert disk.reads == [0, 1, 2, 3]
    assert future.result(0) == {"sha256": sha(content(4 * N))}


def test_only_one_thread_runs_it() -> None:
    disk = Disk(content(N))
    follower = follower_of(disk)
    assert not follower.claim(), "nothing to do"
    note(disk, follower, 0)
    assert follower.claim()
    assert not follower.claim()
    follower.run()
    assert not follower.claim(), "all is done"


@pytest.mark.parametrize(("index", "again"), [(0, True), (1, True), (2, True), (3, False)])
def test_a_replacement_before_at_and_after_the_position(index: int, again: bool) -> None:
    """Two chunks are hashed and the third is about to be."""
    data = content(4 * N)
    disk = Disk(data)
    follower = follower_of(disk)
    for each in (0, 1, 3):
        note(disk, follower, each)
        run(follower)
    disk.bytes[index, "new"] = content(N, 9)
    note(disk, follower, index, revision=1, staged="new")
    if index != 2:
        note(disk, follower, 2, revision=1)
    run(follower)
    parts = [content(N, 9) if i == index else data[i * N : (i + 1) * N] for i in range(4)]
    assert follower.digests(1).result(0) == {"sha256": sha(*parts)}
    assert disk.reads.count(0) == 1 + again


def test_a_replacement_of_the_chunk_that_is_just_being_hashed() -> None:
    data = content(2 * N)
    disk = Disk(data)
    disk.gate = threading.Event()
    disk.bytes[0, "new"] = content(N, 9)
    follower = follower_of(disk)
    note(disk, follower, 0)
    assert follower.claim()
    runner = threading.Thread(target=follower.run)
    runner.start()
    note(disk, follower, 0, revision=1, staged="new")
    disk.gate.set()
    runner.join()
    note(disk, follower, 1, revision=1)
    run(follower)
    assert follower.digests(1).result(0) == {"sha256": sha(content(N, 9), data[N:])}


def test_notes_in_the_wrong_order() -> None:
    """Two requests replaced a chunk each; the later one is noted first."""
    data = content(4 * N)
    disk = Disk(data)
    follower = follower_of(disk)
    for index in range(4):
        note(disk, follower, index)
    run(follower)
    for staged in ("a", "b"):
        disk.bytes[0 if staged == "a" else 2, staged] = content(N, ord(staged))
    record(disk, 0, "a")
    note(disk, follower, 2, revision=2, staged="b")
    note(disk, follower, 0, revision=1, staged="a")
    assert follower.revision == 2
    future = follower.digests(2)
    run(follower)
    a, b = content(N, ord("a")), content(N, ord("b"))
    assert future.result(0) == {"sha256": sha(a, data[N : 2 * N], b, data[3 * N :])}


@pytest.mark.parametrize("ask_before_the_note", [False, True])
def test_a_missed_revision_is_never_taken_for_known(ask_before_the_note: bool) -> None:
    """I4: another process replaced a chunk that is hashed here, this one replaced one that is
    not; nobody is given the digest of the bytes before."""
    data = content(4 * N)
    disk = Disk(data)
    follower = follower_of(disk)
    for index in (0, 1, 3):
        note(disk, follower, index)
    run(follower)
    disk.bytes[0, "a"], disk.bytes[3, "b"] = content(N, 8), content(N, 9)
    record(disk, 0, "a")  # revision 1, elsewhere
    record(disk, 2)
    if ask_before_the_note:
        record(disk, 3, "b")
        future = follower.digests(2)
    note(disk, follower, 3, revision=2, staged="b")
    if not ask_before_the_note:
        future = follower.digests(2)
    run(follower)
    found = future.result(0)
    assert found == {"sha256": sha(content(N, 8), data[N : 3 * N], content(N, 9))}


def test_what_is_learnt_from_the_catalog_never_hides_a_newer_note() -> None:
    """I4: the rows were read, then a chunk was replaced and noted, then the rows came in."""
    disk = Disk(content(2 * N))
    disk.bytes[1, "new"] = content(N, 9)
    follower = follower_of(disk)
    note(disk, follower, 1)
    note(disk, follower, 1, revision=1, staged="new")
    for index in (0, 1):
        record(disk, index)
    future = follower.digests(1)
    run(follower)
    assert future.result(0) == {"sha256": sha(content(2 * N)[:N], content(N, 9))}


def test_another_process_goes_on_from_the_memo() -> None:
    data = content(4 * N)
    disk = Disk(data)
    one, two = follower_of(disk, Digest("md5", "")), follower_of(disk, Digest("md5", ""))
    for index in range(3):
        note(disk, one, index)
    run(one)
    assert disk.reads == [0, 1, 2]
    note(disk, two, 3)
    future = two.digests(0)
    run(two)
    assert future.result(0) == {"sha256": sha(data), "md5": hashlib.md5(data).hexdigest()}
    if disk.memo:  # where libcrypto serves
        assert disk.reads == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "how",
    [
        "flipped",
        "short",
        "empty",
        "replaced",
        "replaced before a recovery",
        "again",
        "gap",
        "noise",
    ],
)
def test_a_memo_that_is_no_good_costs_time_only(how: str) -> None:
    """I4: it counts for the chunks that it was hashed from. A recovery turns their revision
    back; one that was damaged, forgotten and sent again has its etag, and a new revision."""
    data = content(4 * N)
    disk = Disk(data)
    one = follower_of(disk)
    for index in range(3):
        note(disk, one, index)
    run(one)
    memo = bytearray(disk.memo or b"\0" * 200)
    if how == "flipped":
        memo[-9] ^= 1
    revision, replaced = int(how in ("replaced", "again")), how.startswith("replaced")
    if how == "again":
        disk.bytes[0, None] = content(N, 7)
    if replaced:
        disk.bytes[0, "a"] = content(N, 7)
        record(disk, 0, "a")
    if how == "gap":
        del disk.rows[1]
    changed = {"short": memo[:30], "empty": b"", "noise": content(len(memo))}.get(how, memo)
    disk.memo = bytes(changed)
    two = follower_of(disk, revision=revision)
    note(disk, two, 3, revision=revision)
    run(two)
    if how == "gap":
        note(disk, two, 1)
    future = two.digests(revision)
    run(two)
    first = content(N, 7) if replaced or how == "again" else data[:N]
    assert future.result(0) == {"sha256": sha(first, data[N:])}


def test_a_chunk_that_is_replaced_while_a_memo_is_looked_at() -> None:
    """I4: its old row was read, then it was replaced and noted, then the memo was taken over."""
    disk = Disk(content(4 * N))
    disk.bytes[1, "new"] = content(N, 7)
    one, two = follower_of(disk), follower_of(disk)
    for index in range(4):
        note(disk, one, index)
    run(one)
    before = dict(disk.rows)

    def learn(start: int) -> dict[int, Chunk]:
        known = {**disk.rows, **before}
        if before:
            before.clear()
            note(disk, two, 1, revision=1, staged="new")
        return {index: chunk for index, chunk in known.items() if index >= start}

    two._learn = learn
    two.digests(0)
    run(two)
    future = two.digests(1)
    run(two)
    data = content(4 * N)
    assert future.result(0) == {"sha256": sha(data[:N], content(N, 7), data[2 * N :])}


def test_while_another_process_hashes_a_waiter_waits() -> None:
    data = content(2 * N)
    disk = Disk(data)
    follower = follower_of(disk)
    disk.elsewhere = True
    note(disk, follower, 0)
    run(follower)
    assert disk.reads == [], "nobody waits: it is left to the other"
    note(disk, follower, 1)
    future = follower.digests(0)
    assert follower.claim()
    runner = threading.Thread(target=follower.run)
    runner.start()
    assert not wait([future], 0.05).done
    disk.elsewhere = False
    assert future.result(10) == {"sha256": sha(data)}
    runner.join()


def test_an_error_is_delivered_and_the_next_try_begins_clean() -> None:
    """A read that fails in the middle of a chunk must not leave half of it in the hash."""
    data = content(3 * N)
    disk = Disk(data)
    disk.step = 3
    disk.fail_at = 4  # within the second chunk
    follower = follower_of(disk)
    for index in range(3):
        note(disk, follower, index)
    assert follower.claim()
    waiting = follower.digests(0)
    follower.run()
    assert isinstance(waiting.exception(0), OSError)
    disk.fail_at = None
    run(follower)
    assert follower.digests(0).result(0) == {"sha256": sha(data)}


def test_a_chunk_shorter_than_acknowledged_is_an_error() -> None:
    disk = Disk(content(2 * N))
    disk.bytes[1, None] = b"abc"
    follower = follower_of(disk)
    note(disk, follower, 0)
    note(disk, follower, 1)
    assert follower.claim()
    waiting = follower.digests(0)
    follower.run()
    assert "shorter" in str(waiting.exception(0))


def test_one_who_gives_up_does_not_spoil_it_for_others() -> None:
    disk = Disk(content(N))
    follower = follower_of(disk)
    gone, waiting = follower.digests(0), follower.digests(0)
    assert gone.cancel()
    note(disk, follower, 0)
    run(follower)
    assert waiting.result(0) == {"sha256": sha(content(N))}
    assert follower.digests(0).result(0) == {"sha256": sha(content(N))}


def test_one_who_gives_up_does_not_spoil_the_error_of_others() -> None:
    disk = Disk(content(N))
    disk.fail_at = 0
    follower = follower_of(disk)
    note(disk, follower, 0)
    assert follower.claim()
    gone, waiting = follower.digests(0), follower.digests(0)
    assert gone.cancel()
    follower.run()
    assert isinstance(waiting.exception(0), OSError)


def test_senders_are_slowed_down_but_not_for_ever() -> None:
    disk = Disk(content(4 * N))
    follower = follower_of(disk)
    for index in range(4):
        note(disk, follower, index)
    assert follower.claim()
    assert follower.lag() == 4
    follower.pace(4, 60)  # not behind by more than that
    follower.pace(3, 0.02)
    with ThreadPoolExecutor(1) as thread:
        paced = thread.submit(follower.pace, 0, 60)
        follower.run()
        paced.result(5)
    assert follower.lag() == 0


# Followers, on the real catalog


def _reader_in(world: World) -> Callable[[UploadTask], UploadReader]:
    return lambda task: world.store.reader(task.layout)


@pytest.fixture
def two(small: World) -> Iterator[tuple[Followers, Followers]]:
    open_reader = _reader_in(small)
    pair = [Followers(small.catalog, open_reader, 2) for _ in range(2)]
    yield pair[0], pair[1]
    for each in pair:
        each.close()


class Sender:
    """Acknowledges chunks and tells one process's followers of them, as ``Uploads`` does."""

    def __init__(self, world: World, data: bytes) -> None:
        self.world = world
        made = world.uploads.create(world.me, new_upload(data))
        assert isinstance(made, UploadTask)
        self.task = made

    def send(self, followers: Followers | None, index: int, body: bytes) -> UploadTask:
        before = self.world.catalog.chunk(self.task.id, index)
        slot = self.world.store.slot(self.task.layout, index)
        assert slot.acquire()
        slot.begin(replace=before is not None)
        slot.write(memoryview(body))
        chunk = slot.commit()
        slot.keep()
        slot.close()
        now = self.world.clock()
        task = self.world.catalog.record_chunk(self.task.id, chunk, now, self.task.expires_at)
        if followers:
            replaced = before is not None and before.etag != chunk.etag
            followers.note(task, chunk, replaced=replaced)
        return task


def test_two_processes_each_see_all(small: World, two: tuple[Followers, Followers]) -> None:
    data = content(5 * N + 3)
    sender = Sender(small, data)
    for index in range(6):
        task = sender.send(two[index % 2], index, piece(sender.task, data, index))
    for followers in two:
        assert followers.digests(task).result(10) == {"sha256": sha(data)}


def test_a_replacement_by_the_other_process_is_seen(
    small: World, two: tuple[Followers, Followers]
) -> None:
    data = content(3 * N)
    sender = Sender(small, data)
    for index in range(3):
        task = sender.send(two[0], index, piece(sender.task, data, index))
    assert two[0].digests(task).result(10) == {"sha256": sha(data)}
    task = sender.send(two[1], 0, content(N, 5))
    for followers in two:
        assert followers.digests(task).result(10) == {"sha256": sha(content(N, 5), data[N:])}
    sender.send(two[1], 1, content(N, 6))
    task = sender.send(two[0], 2, content(N, 7))  # this one misses a revision
    for followers in two:
        assert followers.digests(task).result(10)["sha256"] == sha(
            content(N, 5), content(N, 6), content(N, 7)
        )


def test_a_restart_begins_from_the_file(small: World, two: tuple[Followers, Followers]) -> None:
    data = content(4 * N)
    sender = Sender(small, data)
    for index in (0, 1, 3):
        sender.send(two[0], index, piece(sender.task, data, index))
    task = sender.send(two[1], 2, piece(sender.task, data, 2))
    assert two[1].digests(task).result(10) == {"sha256": sha(data)}


def test_an_empty_file_has_its_digest(small: World, two: tuple[Followers, Followers]) -> None:
    sender = Sender(small, b"")
    assert two[0].digests(sender.task).result(10) == {"sha256": sha(b"")}


def test_waiters_learn_that_the_upload_was_discarded(
    small: World, two: tuple[Followers, Followers]
) -> None:
    data = content(2 * N)
    sender = Sender(small, data)
    for index in range(2):
        task = sender.send(None, index, piece(sender.task, data, index))
    small.store.delete(task.layout.key)
    assert isinstance(two[0].digests(task).exception(10), FileNotFoundError)


def test_waiters_are_not_left_alone_by_a_shutdown(small: World) -> None:
    """A hash that never gets its thread must not leave a complete waiting for ever."""
    followers = Followers(small.catalog, _reader_in(small), 1)
    gate = threading.Event()
    followers._threads.submit(gate.wait, 10)
    data = content(2 * N)
    sender = Sender(small, data)
    for index in range(2):
        task = sender.send(followers, index, piece(sender.task, data, index))
    future = followers.digests(task)
    closing = threading.Thread(target=followers.close)
    closing.start()
    gate.set()
    closing.join()
    assert wait([future], 2).done


def test_followers_are_bounded_and_forgotten(
    small: World, two: tuple[Followers, Followers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Followers, "MOST", 3)
    for number in range(5):
        sender = Sender(small, content(2 * N, number))
        sender.send(two[0], 0, content(2 * N, number)[:N])
        assert len(two[0]._by_task) <= 3
    two[0].forget(sender.task.id)
    assert sender.task.id not in two[0]._by_task
    two[0].forget("unknown")


def test_many_threads_send_replace_and_ask(small: World, two: tuple[Followers, Followers]) -> None:
    """Whatever the interleaving, a digest for the newest revision is of the newest bytes."""
    data = content(6 * N)
    sender = Sender(small, data)
    for index in range(6):
        sender.send(None, index, piece(sender.task, data, index))
    newest = {index: piece(sender.task, data, index) for index in range(6)}

    def replacing(index: int) -> None:
        for seed in range(5):
            newest[index] = content(N, 100 * index + seed)
            sender.send(two[index % 2], index, newest[index])

    def asking(_: int) -> None:
        for _ in range(10):
            task = small.catalog.task(sender.task.account_id, sender.task.id, NOW)
            assert task is not None
            before = _rows(small, task)
            found: Any = two[0].digests(task).result(10)
            again = small.catalog.task(sender.task.account_id, sender.task.id, NOW)
            assert again is not None
            if again.revision == task.revision:
                assert found == {"sha256": before}

    with ThreadPoolExecutor(8) as threads:
        jobs = [threads.submit(replacing, index) for index in range(6)]
        jobs += [threads.submit(asking, 0) for _ in range(2)]
        for job in jobs:
            job.result(60)
    task = small.catalog.task(sender.task.account_id, sender.task.id, NOW)
    assert task is not None
    for followers in two:
        found = followers.digests(replace(task)).result(10)
        assert found == {"sha256": sha(*(newest[index] for index in range(6)))}


def _rows(world: World, task: UploadTask) -> str:
    """The digest of what the rows name now, read at once."""
    reader, buffer, digest = world.store.reader(task.layout), memoryview(bytearray(N)), sha()
    hasher = hashlib.sha256()
    for chunk in world.catalog.chunks(task.id).all():
        count = reader.read_into(chunk.index, chunk.staged, 0, buffer)
        hasher.update(buffer[:count])
    return hasher.hexdigest() if task.layout.size else digest
