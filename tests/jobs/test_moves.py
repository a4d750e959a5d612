"""A file moved to another pool: its bytes are copied, verified, and only then is it there."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.world import CHUNK, OTHER_POOL, Recorder, World, content, new_upload
from tests.stores import put
from upwell.core import blobs
from upwell.core.creating import Senses
from upwell.errors import QuotaExceeded, StorageFull
from upwell.jobs import moves
from upwell.jobs.moves import DELAYS, Moves
from upwell.jobs.runner import JobFailed, Lease, LeaseLost, Runner, Stopping, Work
from upwell.model import DEFAULT_POOL_ID, CloudFile, EventType, Job, JobKind, NewJob, Usage
from upwell.stores.memory import MemoryStore

if TYPE_CHECKING:
    from upwell.core.ports import BlobStore


@pytest.fixture
def world(world: World) -> World:
    """A world whose other pool takes everything."""
    world.set_policy(OTHER_POOL, accept_types=(), max_file_size=None)
    return world


def other(world: World) -> BlobStore:
    return world.homes[OTHER_POOL].store


def keys(store: BlobStore) -> set[str]:
    return {key for key, _ in store.list_keys()}


def run(world: World, quota: int | None = None, **changes: Any) -> int:
    work = Moves(changes.get("catalog", world.catalog), world.homes, world.clock, quota)
    return Runner(world.catalog, world.clock, {JobKind.MOVE: Work(work.do, DELAYS)}).run_due()


def moved(world: World, file: CloudFile, pool_id: str = OTHER_POOL) -> CloudFile:
    """The file after it was moved."""
    job = world.pools.move(world.me, file.id, pool_id)
    assert run(world) == 1
    assert outcome(world, job) == (True, None)
    return world.files.info(world.me, file.id)


def outcome(world: World, job: Job) -> tuple[bool, str | None]:
    found = world.catalog.job(job.id)
    assert found is not None
    return found.finished_at is not None, found.error


def stays(world: World, file: CloudFile) -> None:
    """The file is as it was, and nothing was left behind where it did not get to."""
    assert world.catalog.file(file.id, world.clock(), world.me.account.id) == file
    assert world.read(world.me, file.id) == content(20)
    assert keys(other(world)) == set()
    assert world.catalog.pool_usage(OTHER_POOL) == Usage()


def flip(store: BlobStore, key: str) -> None:
    assert isinstance(store, MemoryStore)
    store.upload(key).main.content[3] ^= 1


def test_a_file_is_moved(world: World) -> None:
    file = world.upload(world.me, content(20))
    seen = world.catalog.last_event(world.me.account.id)
    after = moved(world, file)
    assert (after.pool_id, after.blob.pool_id) == (OTHER_POOL, OTHER_POOL)
    unmoved = ("blob", "pool_id", "updated_at")
    assert replace(after, **{name: getattr(file, name) for name in unmoved}) == file
    assert (after.blob.digests, after.blob.size) == (file.blob.digests, file.blob.size)
    assert world.read(world.me, file.id) == content(20)
    assert keys(other(world)) == {after.blob.key}
    assert world.catalog.usage(world.me.account.id) == {OTHER_POOL: Usage(20, 0, 1)}
    events = world.catalog.events(world.me.account.id, seen, 10)
    assert [event.type for event in events] == [EventType.FILE_UPDATED]
    world.sweeper.sweep()
    assert world.all_keys() == set()


@pytest.mark.parametrize("size", [0, 1, 3 * CHUNK])
def test_of_any_size_and_back(world: World, size: int) -> None:
    file = world.uploads.store_direct(world.me, new_upload(content(size)), content(size))
    there = moved(world, file)
    back = moved(world, there, DEFAULT_POOL_ID)
    assert len({file.blob.key, there.blob.key, back.blob.key}) == 3
    assert world.read(world.me, file.id) == content(size)
    world.sweeper.sweep()
    assert world.all_keys() == {back.blob.key}
    assert keys(other(world)) == set()


def test_an_encrypted_file_is_moved_as_it_lies(world: World) -> None:
    file = world.upload(world.me, content(20), password="secret")
    with_head = world.store.open(file.blob.key)
    stored = with_head.read_at(0, 1 << 20)
    with_head.close()
    after = moved(world, file)
    reader = other(world).open(after.blob.key)
    assert reader.read_at(0, 1 << 20) == stored
    reader.close()
    assert after.blob.sealed == file.blob.sealed
    assert world.open(world.me, file.id, password="secret") == content(20)


def test_who_reads_the_file_meanwhile_reads_on(world: World) -> None:
    file = world.upload(world.me, content(20))
    reader = world.homes[file.pool_id].store.open(file.blob.key)
    moved(world, file)
    world.sweeper.sweep()
    assert reader.read_at(0, 100) == content(20)
    reader.close()


@pytest.mark.parametrize(
    ("policy", "facts", "images"),
    [
        ({}, {"width": 3}, 2),
        ({"no_metadata": True}, {}, 2),
        ({"no_optimization": True}, {"width": 3}, 0),
    ],
)
def test_what_was_derived_goes_along_as_far_as_the_policy_wants_it(
    small: World, policy: dict[str, Any], facts: dict[str, Any], images: int
) -> None:
    small.set_policy(OTHER_POOL, accept_types=(), **policy)
    file = small.upload(small.me, content(20))
    thumbnail, preview = put(small.store, b"thumbnail"), put(small.store, b"preview")
    assert small.catalog.describe_blob(file.blob.id, {"width": 3}, thumbnail, preview)
    blob = moved(small, file).blob
    assert blob.facts == facts
    found = [key for key in (blob.thumbnail_key, blob.preview_key) if key]
    assert len(found) == images
    assert keys(other(small)) == {blob.key, *found}
    small.sweeper.sweep()
    assert small.all_keys() == set()


def test_bytes_that_another_file_shares_stay_for_it(world: World) -> None:
    first = world.upload(world.me, content(20))
    second = world.uploads.store_direct(
        world.me, new_upload(content(20), file_name="b"), content(20)
    )
    assert first.blob.id == second.blob.id
    moved(world, first)
    world.sweeper.sweep()
    assert world.read(world.me, second.id) == content(20)
    assert world.read(world.me, first.id) == content(20)
    assert world.catalog.usage(world.me.account.id) == {
        DEFAULT_POOL_ID: Usage(20, 0, 1),
        OTHER_POOL: Usage(20, 0, 1),
    }


def test_in_its_new_pool_a_file_lives_no_longer_than_a_new_one(small: World) -> None:
    small.set_policy(OTHER_POOL, accept_types=(), file_expiry=timedelta(hours=2))
    soon = small.clock() + timedelta(hours=1)
    unlimited = small.upload(small.me, content(20))
    limited = small.upload(small.me, content(20, 1), expired_at=soon)
    assert moved(small, unlimited).expired_at == small.clock() + timedelta(hours=2)
    assert moved(small, limited).expired_at == soon
    back = moved(small, small.files.info(small.me, unlimited.id), DEFAULT_POOL_ID)
    assert back.expired_at == small.clock() + timedelta(hours=2)


def test_what_is_there_already_is_left_alone(world: World) -> None:
    file = world.upload(world.me, content(20))
    assert moved(world, file, DEFAULT_POOL_ID) == file
    assert world.all_keys() == {file.blob.key}


def test_a_file_whose_bytes_lie_in_the_target_already_gets_its_own(world: World) -> None:
    first = world.upload(world.me, content(20))
    second = world.uploads.create(world.me, new_upload(content(20), pool_id=OTHER_POOL))
    assert isinstance(second, CloudFile)
    assert second.pool_id == OTHER_POOL
    after = moved(world, second, DEFAULT_POOL_ID)
    assert after.pool_id == after.blob.pool_id == DEFAULT_POOL_ID
    assert after.blob.key != first.blob.key
    assert world.catalog.pool_usage(DEFAULT_POOL_ID) == Usage(40, 0, 2)


# what can be against it, when its turn comes


def test_the_file_or_the_pool_is_gone(world: World) -> None:
    file = world.upload(world.me, content(20))
    gone = world.catalog.add_job(NewJob(JobKind.MOVE, "nothing", OTHER_POOL), world.clock())
    nowhere = world.catalog.add_job(NewJob(JobKind.MOVE, file.id, "nowhere"), world.clock())
    assert run(world) == 2
    assert outcome(world, gone) == (True, "the file is gone")
    assert outcome(world, nowhere) == (True, "the pool is gone")
    stays(world, file)


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"max_file_size": 19}, "at most 19 bytes"),
        ({"accept_types": ("image/*",)}, "takes image/*"),
        ({"quota": 19}, "may hold 19 bytes"),
    ],
)
def test_the_policy_became_stricter_meanwhile(
    world: World, policy: dict[str, Any], why: str
) -> None:
    file = world.upload(world.me, content(20))
    job = world.pools.move(world.me, file.id, OTHER_POOL)
    world.set_policy(OTHER_POOL, **policy)
    run(world)
    ended, error = outcome(world, job)
    assert ended
    assert why in (error or "")
    stays(world, file)


def test_many_moves_of_shared_bytes_stay_within_the_accounts_quota(world: World) -> None:
    files = [
        world.uploads.store_direct(
            world.me, new_upload(content(20), file_name=str(number)), content(20)
        )
        for number in range(5)
    ]
    for file in files:
        world.pools.move(world.me, file.id, OTHER_POOL)
    assert run(world, quota=60) == 5
    held = world.catalog.usage(world.me.account.id).values()
    assert sum(each.total for each in held) == 60
    for file in files:
        assert world.read(world.me, file.id) == content(20)


def test_a_full_disk_is_tried_again_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.upload(world.me, content(20))
    job = world.pools.move(world.me, file.id, OTHER_POOL)
    store = other(world)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise StorageFull("The server is out of space for this file.")

        patch.setattr(store, "publish", full)
        run(world)
    assert outcome(world, job) == (False, "The server is out of space for this file.")
    stays(world, file)
    world.clock.advance(hours=1)
    assert run(world) == 1
    assert outcome(world, job) == (True, None)


def test_damaged_bytes_are_not_moved(small: World) -> None:
    small.set_policy(OTHER_POOL, accept_types=())
    file = small.upload(small.me, content(20))
    flip(small.store, file.blob.key)
    job = small.pools.move(small.me, file.id, OTHER_POOL)
    run(small)
    ended, error = outcome(small, job)
    assert not ended
    assert "upwell verify" in (error or "")
    assert small.files.info(small.me, file.id) == file
    assert keys(other(small)) == set()


def test_missing_bytes_are_told_of(world: World) -> None:
    file = world.upload(world.me, content(20))
    world.store.delete(file.blob.key)
    job = world.pools.move(world.me, file.id, OTHER_POOL)
    run(world)
    assert outcome(world, job) == (False, "its bytes are gone")


class Meanwhile(Recorder):
    """A catalog in which something happens before, or instead of what follows, a move."""

    def __init__(self, real: Any, before: Any = None, after: Any = None) -> None:
        super().__init__(real)
        self._before = before
        self._after = after

    def move_file(self, *given: Any) -> Any:
        if self._before:
            self._before()
        answer = self.real.move_file(*given)
        if self._after:
            raise self._after
        return answer


def test_the_file_is_deleted_while_it_is_copied(world: World) -> None:
    file = world.upload(world.me, content(20))
    job = world.pools.move(world.me, file.id, OTHER_POOL)
    run(world, catalog=Meanwhile(world.catalog, lambda: world.files.delete(world.me, file.id)))
    assert outcome(world, job) == (True, None)
    assert (keys(other(world)), world.all_keys()) == (set(), set())
    assert world.catalog.pool_usage(OTHER_POOL) == Usage()


def test_the_last_room_is_taken_while_it_is_copied(world: World) -> None:
    file = world.upload(world.me, content(20))
    world.set_policy(OTHER_POOL, quota=25)
    job = world.pools.move(world.me, file.id, OTHER_POOL)

    def take() -> None:
        world.uploads.create(world.stranger, new_upload(content(10, 1), pool_id=OTHER_POOL))

    run(world, catalog=Meanwhile(world.catalog, take))
    assert outcome(world, job)[0]
    assert world.files.info(world.me, file.id) == file
    assert world.catalog.pool_usage(OTHER_POOL) == Usage(0, 10, 0)
    assert len(keys(other(world))) == 1  # the upload's


def test_a_row_that_may_have_been_written_keeps_its_bytes_i2(world: World) -> None:
    file = world.upload(world.me, content(20))
    job = world.pools.move(world.me, file.id, OTHER_POOL)
    run(world, catalog=Meanwhile(world.catalog, after=OSError(5, "the answer is lost")))
    assert outcome(world, job) == (False, "OSError")
    assert world.read(world.me, file.id) == content(20)
    world.sweeper.sweep()
    world.clock.advance(hours=3)
    run(world)
    world.sweeper.sweep()
    assert outcome(world, job) == (True, None)
    assert world.read(world.me, file.id) == content(20)
    assert world.all_keys() == set()


def test_what_a_crash_left_is_swept(world: World) -> None:
    file = world.upload(world.me, content(20))
    source, target = world.homes[DEFAULT_POOL_ID].store, other(world)
    reader = source.open(file.blob.key)
    with target.intake() as intake:
        blobs.copy(reader, target, intake)
    reader.close()
    world.clock.advance(hours=3)
    assert world.sweeper.sweep().strays == 1
    stays(world, file)


def test_the_pool_is_removed_while_it_is_copied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.upload(world.me, content(20))
    job = world.pools.move(world.me, file.id, OTHER_POOL)
    real = blobs.problem_of

    def remove(*asked: Any) -> blobs.Problem | None:
        assert world.catalog.delete_pool(OTHER_POOL)
        return real(*asked)

    monkeypatch.setattr(blobs, "problem_of", remove)
    store = other(world)
    run(world)
    assert outcome(world, job) == (True, "the pool is gone")
    assert world.read(world.me, file.id) == content(20)
    assert keys(store) == set()


@pytest.mark.parametrize("described", [False, True])
def test_what_was_not_made_of_it_yet_is_made_there(small: World, described: bool) -> None:
    """A preview that is made while the bytes are on their way is of the old ones."""
    small.set_policy(OTHER_POOL, accept_types=())
    file = small.upload(small.me, content(20))
    if described:
        small.catalog.describe_blob(file.blob.id, {"width": 3}, None, None)
    senses = Senses(examines=lambda _: True)
    work = Moves(small.catalog, small.homes, small.clock, senses=senses)
    work.do(lease_of(small, file))
    assert small.catalog.jobs(JobKind.PREVIEW, file.id, 0, 9).total == (not described)


# a move in hand


def lease_of(world: World, file: CloudFile, **calls: Any) -> Lease:
    job = world.catalog.add_job(NewJob(JobKind.MOVE, file.id, OTHER_POOL), world.clock())
    return Lease(job, **({"renew": lambda: None} | calls))


@pytest.mark.parametrize("how", ["check", "renew"])
def test_a_move_that_is_to_be_left_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(moves, "_RENEW", 1)
    file = world.upload(world.me, content(20))
    error = Stopping if how == "check" else LeaseLost
    calls: list[None] = []

    def leave() -> None:
        calls.append(None)
        if len(calls) == 2:  # after the copying, before it was compared
            raise error

    with pytest.raises(error):
        Moves(world.catalog, world.homes, world.clock).do(lease_of(world, file, **{how: leave}))
    stays(world, file)


def test_the_lease_of_a_long_move_is_renewed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "_RENEW", 20)
    file = world.upload(world.me, content(20))
    renewed: list[None] = []
    lease = lease_of(world, file, renew=lambda: renewed.append(None))
    Moves(world.catalog, world.homes, world.clock).do(lease)
    assert len(renewed) == 2  # it is read twice


def test_what_is_refused_is_not_tried_again(world: World) -> None:
    file = world.upload(world.me, content(20))
    world.set_policy(OTHER_POOL, quota=1)
    with pytest.raises(JobFailed) as failed:
        Moves(world.catalog, world.homes, world.clock).do(lease_of(world, file))
    assert failed.value.for_good
    with pytest.raises(QuotaExceeded):
        world.pools.move(world.me, file.id, OTHER_POOL)


def test_the_bytes_are_the_same(world: World) -> None:
    data = content(5000)
    file = world.upload(world.me, data, chunk_size=512)
    after = moved(world, file)
    assert after.digest.hex == hashlib.sha256(data).hexdigest()
    assert world.read(world.me, file.id) == data
