"""The sweeper: expires what is due, reclaims what crashes leave, touches nothing that lives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.world import CHUNK, OTHER_POOL, Core, World, content, new_upload, piece
from tests.stores import put, reserve
from upwell.core.direct import Stored
from upwell.core.files import Form
from upwell.core.uploads import Verifying
from upwell.errors import TaskNotFound
from upwell.jobs import sweep
from upwell.jobs.moves import Moves
from upwell.jobs.previews import Previews
from upwell.jobs.runner import Lease
from upwell.jobs.sweep import GRACE, Swept
from upwell.jobs.verify import Verifier
from upwell.model import CloudFile, Garbage, JobKind, NewJob, TaskStatus, UploadTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def task_for(core: Core, world: World, data: bytes) -> UploadTask:
    made = core.uploads.create(world.me, new_upload(data))
    assert isinstance(made, UploadTask)
    return made


def beyond_grace(world: World) -> None:
    world.clock.advance(seconds=GRACE.total_seconds() + 60)


def test_nothing_to_do(world: World) -> None:
    assert world.sweeper.sweep() == Swept()


def test_idle_tasks_expire(world: World) -> None:
    data = content(3 * CHUNK)
    old = task_for(world, world, data)
    world.send_all(world.me, old, data)
    world.send(world.me, old, 0, content(CHUNK, 5))
    world.clock.advance(days=3)
    young = task_for(world, world, content(20, 1))
    world.clock.advance(days=4)
    swept = world.sweeper.sweep()
    assert (swept.tasks_expired, swept.freed) == (1, 1)
    assert world.all_keys() == {young.layout.key}
    assert world.sides() == set()
    assert world.uploads.tasks(world.me, TaskStatus.EXPIRED, 0, 9).total == 1
    assert world.sweeper.sweep() == Swept()


@pytest.mark.parametrize("during", ["before", "while it verifies"])
def test_an_upload_of_a_file_that_would_be_gone_has_expired(world: World, during: str) -> None:
    data = content(3 * CHUNK)
    soon = world.clock() + timedelta(hours=1)
    task = world.uploads.create(world.me, new_upload(data, expired_at=soon))
    assert isinstance(task, UploadTask)
    world.send_all(world.me, task, data)
    verifying = world.uploads.begin_complete(world.me, task.id)
    world.clock.advance(hours=1)
    assert isinstance(verifying, Verifying)
    verifying.digests.exception()
    late: Callable[[], object] = partial(world.uploads.finish_complete, world.me, verifying)
    if during == "before":
        late = partial(world.uploads.complete, world.me, task.id)
    with pytest.raises(TaskNotFound, match="expired"):
        late()
    for ask in (world.uploads.status, world.uploads.cancel):
        with pytest.raises(TaskNotFound):
            ask(world.me, task.id)
    assert world.uploads.tasks(world.me, TaskStatus.IN_PROGRESS, 0, 9).total == 0
    assert world.uploads.tasks(world.me, TaskStatus.EXPIRED, 0, 9).total == 1
    again = world.uploads.create(world.me, new_upload(data, expired_at=soon + timedelta(hours=9)))
    assert isinstance(again, UploadTask)
    assert again.id != task.id
    swept = world.sweeper.sweep()
    assert (swept.tasks_expired, swept.freed) in {(0, 1), (1, 1)}
    assert world.all_keys() == {again.layout.key}


def test_files_expire_with_the_bytes_that_nobody_shares(world: World) -> None:
    soon = world.clock() + timedelta(hours=1)
    shared, alone = content(20), content(20, 1)
    kept = world.upload(world.me, shared)
    world.uploads.create(world.me, new_upload(shared, file_name="b", expired_at=soon))
    world.upload(world.me, alone, expired_at=soon)
    world.clock.advance(hours=1)
    swept = world.sweeper.sweep()
    assert (swept.files_expired, swept.freed) == (2, 1)
    assert world.all_keys() == {kept.blob.key}
    assert world.read(world.me, kept.id) == shared


def test_bytes_without_a_row_go_after_the_grace(world: World) -> None:
    """I2: a crash between reserve, or put, and the row."""
    reserve(world.store, 20)
    put(world.store, content(20))
    kept = world.upload(world.me, content(20))
    world.clock.advance(seconds=GRACE.total_seconds() - 60)
    assert world.sweeper.sweep() == Swept()
    world.clock.advance(seconds=120)
    assert world.sweeper.sweep().strays == 2
    assert world.all_keys() == {kept.blob.key}
    assert world.sweeper.sweep() == Swept()


def test_strays_are_looked_for_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep looks at few keys, whatever is stored, and continues where the last one stopped."""
    monkeypatch.setattr(sweep, "STEP", 2)
    kept = world.upload(world.me, b"kept").blob.key
    strays = {put(world.store, bytes([n])) for n in range(5)}
    beyond_grace(world)
    removed = [world.sweeper.sweep().strays for _ in range(3)]
    assert max(removed) <= 2
    assert sum(removed) == len(strays)
    assert world.all_keys() == {kept}


def test_side_objects_without_a_row_go_after_the_grace(world: World) -> None:
    """I2: a crash between a replacement's bytes and its row."""
    data = content(2 * CHUNK)
    task = task_for(world, world, data)
    world.send_all(world.me, task, data)
    world.send(world.me, task, 1, content(CHUNK, 5))
    named = world.sides()
    slot = world.store.slot(task.layout, 0)
    assert slot.acquire()
    slot.begin(replace=True)
    slot.write(memoryview(content(CHUNK, 6)))
    slot.commit()
    slot.keep()
    slot.close()
    assert len(world.sides()) == 2
    assert world.sweeper.sweep() == Swept()
    beyond_grace(world)
    assert world.sweeper.sweep().strays == 1
    assert world.sides() == named
    world.send(world.me, task, 1, piece(task, data, 1))
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_side_objects_that_were_replaced_again_go(world: World) -> None:
    data = content(CHUNK)
    task = task_for(world, world, data)
    for seed in range(4):
        world.send(world.me, task, 0, content(CHUNK, seed))
        assert len(world.sides()) <= 1, "each goes when its row does"
    beyond_grace(world)
    assert world.sweeper.sweep().strays == 0
    world.send(world.me, task, 0, data)
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_what_lives_is_never_touched(world: World) -> None:
    data = content(3 * CHUNK)
    file = world.upload(world.me, data)
    direct = world.uploads.store_direct(world.me, new_upload(content(9, 1)), content(9, 1))
    task = task_for(world, world, content(3 * CHUNK, 2))
    world.send_all(world.me, task, content(3 * CHUNK, 2), [0, 2])
    empty = task_for(world, world, b"")
    for _ in range(5):
        world.clock.advance(days=1)
        assert world.sweeper.sweep() == Swept()
    assert world.read(world.me, file.id) == data
    assert world.read(world.me, direct.id) == content(9, 1)
    world.send(world.me, task, 1, piece(task, content(3 * CHUNK, 2), 1))
    done = world.uploads.complete(world.me, task.id)
    assert world.read(world.me, done.id) == content(3 * CHUNK, 2)
    assert world.uploads.complete(world.me, empty.id).size == 0


def test_the_sweeper_leaves_pools_it_does_not_know_alone(world: World) -> None:
    file = world.upload(world.me, content(9))
    task = task_for(world, world, content(9, 1))
    world.uploads.cancel(world.me, task.id)
    other = world.another(homes={})
    assert other.sweeper.sweep() == Swept()
    assert world.catalog.garbage(10) == [Garbage(task.pool_id, task.layout.key)]
    assert world.sweeper.sweep().freed == 1
    assert world.read(world.me, file.id) == content(9)


def test_garbage_of_a_pool_that_is_gone_does_not_hold_up_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are the oldest and fill the batch."""
    monkeypatch.setattr("upwell.jobs.sweep._BATCH", 3)
    for seed in range(4):
        made = world.uploads.create(
            world.me,
            new_upload(content(9, seed), pool_id=_other(world), content_type="image/x"),
        )
        assert isinstance(made, UploadTask)
        world.uploads.cancel(world.me, made.id)
    world.clock.advance(seconds=1)
    task = task_for(world, world, content(9, 9))
    world.uploads.cancel(world.me, task.id)
    homes = {id_: home for id_, home in world.homes.items() if id_ != _other(world)}
    assert world.another(homes=homes).sweeper.sweep().freed == 1


def _other(world: World) -> str:
    return next(id_ for id_, home in world.homes.items() if home.pool.name == "other")


def test_bytes_that_cannot_be_removed_do_not_hold_up_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task_for(world, world, content(9, seed)) for seed in range(3)]
    real = world.store.delete

    def broken(key: str) -> None:
        if key == tasks[0].layout.key:
            raise OSError(5, "cannot")
        real(key)

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "delete", broken)
        for task in tasks:
            world.uploads.cancel(world.me, task.id)
        for _ in range(2):
            world.sweeper.sweep()
        assert [each.key for each in world.catalog.garbage(9)] == [tasks[0].layout.key]
    world.sweeper.sweep()
    assert world.catalog.garbage(9) == []
    assert world.all_keys() == set()


def test_two_sweepers_at_once(world: World) -> None:
    for seed in range(20):
        task = task_for(world, world, content(9, seed))
        world.uploads.cancel(world.me, task.id)
        reserve(world.store, 5)
    kept = world.upload(world.me, content(20, 99))
    beyond_grace(world)
    cores = [world, world.another(), world.another()]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda core: core.sweeper.sweep(), cores))
    assert world.all_keys() == {kept.blob.key}
    assert world.catalog.garbage(9) == []


def test_one_of_two_has_the_lease(small: World) -> None:
    second = small.another()
    assert small.sweeper.sweep_if_free() is not None
    assert second.sweeper.sweep_if_free() is None
    assert small.sweeper.sweep_if_free() is not None, "it is renewed"
    small.clock.advance(minutes=6)
    assert second.sweeper.sweep_if_free() is not None, "a dead one's lease runs out"


def test_a_sweep_while_everything_goes_on(world: World) -> None:
    """Uploads that complete, and files that go, under a sweeper with no grace at all."""

    def life(seed: int) -> bytes:
        data = content(3 * CHUNK, seed)
        file = world.upload(world.me, data, file_name=str(seed))
        assert world.read(world.me, file.id) == data
        if seed % 2:
            world.files.delete(world.me, file.id)
        return data

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(life, seed) for seed in range(16)]
        while not all(job.done() for job in jobs):
            world.sweeper.sweep()
    kept = {file.name: file for file in world.files.mine(world.me, 0, 100).items}
    assert set(kept) == {str(seed) for seed in range(0, 16, 2)}
    for seed in range(0, 16, 2):
        assert world.read(world.me, kept[str(seed)].id) == jobs[seed].result()
    world.sweeper.sweep()
    assert world.all_keys() == {file.blob.key for file in kept.values()}


class Leaping:
    """A catalog that is late: before each row that names new bytes, the clock leaps and another
    process sweeps. The clock was set, or this process stood still."""

    _NAMING = frozenset(
        ("add_task", "add_files", "record_chunk", "describe_blob", "move_file", "rekey_blob")
    )

    def __init__(self, world: World) -> None:
        self._world = world
        self._other = world.another()
        self.swept: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in self._NAMING:
            beyond_grace(self._world)
            assert self._other.sweeper.sweep().strays == 0, name
            self.swept.append(name)
        return getattr(self._world.catalog, name)


@dataclass(frozen=True)
class _Pictures:
    """``Examined``."""

    facts: dict[str, Any]
    thumbnail: bytes | None = b"small"
    preview: bytes | None = b"large"


def test_bytes_are_no_strays_before_their_row_i2(world: World) -> None:
    """For every verb and job that stores new bytes."""
    world.set_policy(OTHER_POOL, accept_types=(), max_file_size=None)
    catalog = Leaping(world)
    late, me = world.another(catalog), world.me
    datas = [content(3 * CHUNK, seed) for seed in range(9)]

    task = task_for(late, world, datas[0])  # create, chunk, chunk again, complete
    late.send_all(me, task, datas[1])
    late.send_all(me, task, datas[0])
    kept = [(late.uploads.complete(me, task.id), datas[0])]
    sealed = late.uploads.create(me, new_upload(b"", password="secret"))
    assert isinstance(sealed, UploadTask)
    late.uploads.complete(me, sealed.id)
    many = [(new_upload(data), data) for data in datas[2:6]]  # direct and batch
    for (_, data), stored in zip(many, late.uploads.store_many(me, many), strict=True):
        assert isinstance(stored, Stored)
        kept.append((stored.file, data))

    file, twin = kept[0][0], world.upload(world.stranger, datas[0])
    world.store.delete(file.blob.key)  # repair
    assert Verifier(catalog, world.homes, world.clock).run(repair=True).well
    job = world.catalog.add_job(NewJob(JobKind.MOVE, kept[1][0].id, OTHER_POOL), world.clock())
    Moves(catalog, world.homes, world.clock).do(Lease(job, renew=lambda: None))
    previews = Previews(catalog, world.homes, world.clock, lambda *_: _Pictures({}))
    previews._keep(world.store, twin, _Pictures({}))

    assert set(catalog.swept) == Leaping._NAMING
    assert world.sides() == set()
    for each, data in kept:
        assert world.read(me, each.id) == data
    for form, image in ((Form.THUMBNAIL, b"small"), (Form.PREVIEW, b"large")):
        assert world.open(world.stranger, twin.id, form) == image


@pytest.mark.parametrize("died_at", ["expire", "delete", "forget"])
def test_a_sweep_that_dies_is_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch, died_at: str
) -> None:
    where = {
        "expire": (world.catalog, "expire_files"),
        "delete": (world.store, "delete"),
        "forget": (world.catalog, "forget_garbage"),
    }
    for seed in range(3):
        task_for(world, world, content(9, seed))
    kept = world.upload(world.me, content(9, 9))
    world.clock.advance(days=7)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*where[died_at], die)
        with pytest.raises(KeyboardInterrupt):
            world.sweeper.sweep()
    world.sweeper.sweep()
    assert world.all_keys() == {kept.blob.key}
    assert world.catalog.garbage(9) == []


def test_a_sweeper_runs_until_it_is_stopped(small: World) -> None:
    sweeper = small.another().sweeper
    sweeper._interval = timedelta(milliseconds=1)
    task = task_for(small, small, content(9))
    small.uploads.cancel(small.me, task.id)
    sweeper.start()
    for _ in range(500):
        if not small.catalog.garbage(1):
            break
        sweeper._stop.wait(0.01)
    sweeper.stop()
    sweeper.stop()
    assert small.catalog.garbage(1) == []


def test_a_sweep_that_fails_is_tried_again(
    small: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeper = small.another().sweeper
    sweeper._interval = timedelta(milliseconds=1)
    calls: list[int] = []

    def flaky(_now: object) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(5, "cannot")
        return 0

    monkeypatch.setattr(small.catalog, "expire_tasks", flaky)
    sweeper.start()
    for _ in range(500):
        if len(calls) > 2:
            break
        sweeper._stop.wait(0.01)
    sweeper.stop()
    assert len(calls) > 2


def test_shared_bytes_survive_any_order_of_deletion(world: World) -> None:
    data = content(20)
    files = [world.upload(world.me, data)]
    for name in "bcd":
        made = world.uploads.create(world.me, new_upload(data, file_name=name))
        assert isinstance(made, CloudFile)
        files.append(replace(made))
    for file in _inside_out(files):
        assert world.read(world.me, file.id) == data
        world.files.delete(world.me, file.id)
        world.sweeper.sweep()
    assert world.all_keys() == set()


def _inside_out(files: list[CloudFile]) -> Iterable[CloudFile]:
    return [files[1], files[0], files[3], files[2]]
