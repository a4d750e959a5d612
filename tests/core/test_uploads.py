"""The verbs of an upload: each sentence of the contract's 1.1 to 1.4, on both stores."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.world import (
    ALL,
    CHUNK,
    KEY,
    OTHER_POOL,
    Core,
    Recorder,
    World,
    checksum,
    content,
    new_upload,
    piece,
    sha256,
)
from upwell.core.bundles import NewBundle
from upwell.core.creating import Senses
from upwell.core.direct import Stored
from upwell.core.homes import Home
from upwell.core.receiving import Checksum, ChunkWriter
from upwell.core.uploads import Uploads, Verifying
from upwell.errors import (
    BundleNotFound,
    ChecksumMismatch,
    ChecksumUnsupported,
    ChunkIndexInvalid,
    ChunkSizeMismatch,
    ChunksMissing,
    FileNotFound,
    FileTooLarge,
    HashMismatch,
    PoolNotFound,
    QuotaExceeded,
    ScopeMissing,
    StorageFailed,
    StorageFull,
    TaskClosed,
    TaskNotFound,
    TypeNotAccepted,
    UpwellError,
    ValidationFailed,
)
from upwell.jobs.verify import Verifier
from upwell.model import (
    GENERIC_TYPE,
    CloudFile,
    Digest,
    JobKind,
    NewUpload,
    Policy,
    Principal,
    Scope,
    TaskStatus,
    UploadOptions,
    UploadTask,
)
from upwell.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def task_for(world: Core, who: Principal, new: NewUpload) -> UploadTask:
    made = world.uploads.create(who, new)
    assert isinstance(made, UploadTask)
    return made


def digest_of(algorithm: str, data: bytes) -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, data).hexdigest())


def write_and_finish(writer: ChunkWriter, data: bytes, *, acquire: bool = False) -> None:
    if acquire:
        assert writer.acquire()
    for start in range(0, len(data), 3):
        writer.write(memoryview(data)[start : start + 3])
    writer.finish()


def stored(world: World) -> dict[str, Any]:
    """All that a verb could have changed."""
    tasks = world.uploads.tasks(world.me, None, 0, 100).items
    return {
        "keys": world.all_keys(),
        "tasks": tasks,
        "chunks": {task.id: list(world.catalog.chunks(task.id).all()) for task in tasks},
        "files": world.files.mine(world.me, 0, 100).items,
    }


# 1.1 create


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
def test_a_file_of_any_size_goes_all_the_way(world: World, size: int) -> None:
    data = content(size)
    task = task_for(world, world.me, new_upload(data))
    assert task.layout.count == -(-size // CHUNK)
    world.send_all(world.me, task, data)
    file = world.uploads.complete(world.me, task.id)
    assert (file.size, file.digest, file.name) == (size, sha256(data), "a.bin")
    assert file.mime_type == "application/x-test"
    assert world.read(world.me, file.id) == data
    assert world.uploads.status(world.me, task.id).missing == []


@pytest.mark.parametrize("algorithm", Digest.ALGORITHMS)
def test_every_declared_algorithm_is_verified(small: World, algorithm: str) -> None:
    data = content(3 * CHUNK)
    declared = digest_of(algorithm, data)
    file = small.upload(small.me, data, digest=declared)
    assert file.digest == declared
    assert file.blob.digests["sha256"] == sha256(data).hex


@pytest.mark.parametrize("algorithm", Digest.ALGORITHMS)
def test_a_file_that_is_there_has_the_hash_that_was_asked_for(small: World, algorithm: str) -> None:
    """The server's own SHA-256 finds the bytes too, of a file that has another digest."""
    data = content(20)
    file = small.upload(small.me, data, digest=digest_of(algorithm, data))
    ask = new_upload(data, digest=sha256(data))
    first, second = small.uploads.create(small.me, ask), small.uploads.create(small.me, ask)
    assert isinstance(first, CloudFile)
    assert isinstance(second, CloudFile)
    assert first.digest == sha256(data)
    assert first.blob.id == file.blob.id
    assert second.id == first.id
    assert (first.id == file.id) is (algorithm == "sha256")


def test_without_a_hash_the_server_tells_its_own(small: World) -> None:
    data = content(20)
    file = small.upload(small.me, data, digest=None)
    assert file.digest == sha256(data)
    again = small.uploads.create(small.me, new_upload(data, digest=None))
    assert isinstance(again, UploadTask), "there is no file_exists without a hash"
    third = small.uploads.create(small.me, new_upload(data, digest=None))
    assert isinstance(third, UploadTask)
    assert third.id != again.id


def test_the_same_content_to_the_same_place_is_the_same_file(world: World) -> None:
    data = content(20)
    file = world.upload(world.me, data)
    again = world.uploads.create(world.me, new_upload(data))
    assert isinstance(again, CloudFile)
    assert again.id == file.id
    assert len(world.all_keys()) == 1


@pytest.mark.parametrize("field", ["file_name", "expired_at"])
def test_the_same_content_to_another_place_shares_the_bytes(world: World, field: str) -> None:
    data = content(20)
    file = world.upload(world.me, data)
    values = {"file_name": "b.bin", "expired_at": world.clock() + timedelta(hours=3)}
    other = world.uploads.create(world.me, new_upload(data, **{field: values[field]}))
    assert isinstance(other, CloudFile)
    assert other.id != file.id
    assert getattr(other, {"file_name": "name"}.get(field, field)) == values[field]
    assert other.blob.key == file.blob.key
    same = world.uploads.create(world.me, new_upload(data, **{field: values[field]}))
    assert isinstance(same, CloudFile)
    assert same.id == other.id, "the newest ask's destination is matched exactly"
    world.files.delete(world.me, file.id)
    assert world.read(world.me, other.id) == data


def test_other_size_or_hash_is_other_content(small: World) -> None:
    data = content(20)
    small.upload(small.me, data)
    for new in (new_upload(data, file_size=21), new_upload(content(20, 1))):
        assert isinstance(small.uploads.create(small.me, new), UploadTask)


def test_asking_again_gives_the_same_task(world: World) -> None:
    data = content(3 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send(world.me, task, 1, piece(task, data, 1))
    again = task_for(world, world.me, new_upload(data, chunk_size=CHUNK * 2))
    assert (again.id, again.layout) == (task.id, task.layout)
    assert again.received_count == 1
    assert len(world.all_keys()) == 1


def test_asking_again_takes_the_newest_type_and_expiry(world: World) -> None:
    data = content(20)
    task = task_for(world, world.me, new_upload(data))
    until = world.clock() + timedelta(hours=5)
    again = task_for(world, world.me, new_upload(data, content_type="a/b", expired_at=until))
    assert again.id == task.id
    world.send_all(world.me, task, data)
    file = world.uploads.complete(world.me, task.id)
    assert (file.mime_type, file.expired_at) == ("a/b", until)
    assert len(world.all_keys()) == 1


@pytest.mark.parametrize("named", [True, False], ids=["hash", "no hash"])
@pytest.mark.parametrize("password", [None, "secret"])
def test_an_upload_is_resumed_with_the_options_asked_last(
    small: World, named: bool, password: str | None
) -> None:
    data = content(20)
    bundle = small.bundles.create(small.me, NewBundle("b"))
    new = new_upload(data, expired_at=timedelta(hours=1), password=password)
    task = task_for(small, small.me, new if named else replace(new, digest=None))
    small.send(small.me, task, 0, piece(task, data, 0))
    asked = UploadOptions("other.png", "image/png", task.pool_id, bundle.id)
    for ends, until in ((timedelta(hours=2), small.clock() + timedelta(hours=2)), (None, None)):
        status = small.uploads.resume(small.me, task.id, replace(asked, expired_at=ends))
        assert (status.task.id, status.uploaded, status.task.expired_at) == (task.id, [0], until)
    if named:
        again = replace(new, file_name="other.png", bundle_id=bundle.id, expired_at=None)
        assert task_for(small, small.me, again).id == task.id, "create finds it by its new name"
    small.uploads.resume(small.me, task.id, asked)
    small.send_all(small.me, task, data)
    file = small.uploads.complete(small.me, task.id)
    told = (file.name, file.mime_type, file.bundle_id, file.expired_at, file.encrypted)
    assert told == ("other.png", "image/png", bundle.id, None, password is not None)
    with pytest.raises(TaskClosed):
        small.uploads.resume(small.me, task.id, asked)


def test_what_cannot_change_any_more_is_refused_and_changes_nothing(small: World) -> None:
    data = content(20)
    task = task_for(small, small.me, new_upload(data))
    asked = UploadOptions("b", "a/b")
    unknown = "00000000-0000-4000-8000-00000000ffff"
    refusals: list[tuple[Principal, UploadOptions, type[UpwellError]]] = [
        (small.me, replace(asked, pool_id=OTHER_POOL), ValidationFailed),
        (small.me, replace(asked, bundle_id=unknown), BundleNotFound),
        (small.me, replace(asked, expired_at=small.clock()), ValidationFailed),
        (small.stranger, asked, TaskNotFound),
    ]
    for who, options, error in refusals:
        with pytest.raises(error):
            small.uploads.resume(who, task.id, options)
    assert small.uploads.status(small.me, task.id).task == task
    small.uploads.cancel(small.me, task.id)
    with pytest.raises(TaskClosed):
        small.uploads.resume(small.me, task.id, asked)


def test_an_upload_never_takes_the_name_of_another_in_progress(small: World) -> None:
    data = content(20)
    one = task_for(small, small.me, new_upload(data))
    other = task_for(small, small.me, new_upload(data, file_name="b.bin"))
    small.uploads.resume(small.me, one.id, UploadOptions("b.bin", "x/y"))
    assert task_for(small, small.me, new_upload(data, file_name="b.bin")).id == other.id
    for task in (one, other):
        small.send_all(small.me, task, data)
        assert small.uploads.complete(small.me, task.id).name == "b.bin"


def test_a_life_is_counted_by_the_server(small: World) -> None:
    data, hour = content(20), timedelta(hours=1)
    new = new_upload(data, expired_at=hour)
    file = small.uploads.store_direct(small.me, new, data)
    assert file.expired_at == small.clock() + hour
    small.clock.advance(seconds=20)  # its answer was lost, and the request is repeated
    (again,) = small.uploads.store_many(small.me, [(new, data)])
    assert isinstance(again, Stored)
    assert (again.existed, again.file.id) == (True, file.id)
    small.clock.advance(seconds=60)
    later = small.uploads.create(small.me, new)
    assert isinstance(later, CloudFile)
    assert later.expired_at == small.clock() + hour, "asked for later, it ends later"
    bundle = small.bundles.create(small.me, NewBundle("b", expired_at=hour))
    assert bundle.expired_at == small.clock() + hour
    bundle = small.bundles.update(small.me, bundle.id, {"expired_at": 2 * hour})
    assert bundle.expired_at == small.clock() + 2 * hour


def test_another_destination_is_another_task(small: World) -> None:
    data = content(20)
    asks = [
        new_upload(data),
        new_upload(data, file_name="b.bin"),
        new_upload(data, pool_id=OTHER_POOL, content_type="image/x"),
        new_upload(data, digest=digest_of("md5", data)),
        new_upload(data, file_size=21),
    ]
    assert len({task_for(small, small.me, ask).id for ask in asks}) == len(asks)
    assert task_for(small, small.stranger, asks[0]).account_id == small.stranger.account.id


def test_a_closed_task_is_not_given_again(small: World) -> None:
    data = content(20)
    first = task_for(small, small.me, new_upload(data))
    small.uploads.cancel(small.me, first.id)
    second = task_for(small, small.me, new_upload(data))
    assert second.id != first.id
    small.clock.advance(days=8)
    third = task_for(small, small.me, new_upload(data))
    assert third.id not in {first.id, second.id}


def test_eight_threads_create_one_task(world: World) -> None:
    data = content(20)
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: task_for(world, world.me, new_upload(data)).id, range(8)))
    assert len(set(made)) == 1
    assert len(world.all_keys()) == 1, "what the losers reserved is given back"


def test_content_of_another_account_is_never_revealed(small: World) -> None:
    """A hash that a stranger holds and an unknown one cause the same calls, in order."""
    held, unknown = content(20, 1), content(20, 2)
    theirs = small.upload(small.stranger, held)
    made, calls = [], []
    for data in (held, unknown):
        catalog = Recorder(small.catalog)
        store = Recorder(small.store)
        homes = {id_: Home(home.pool, store) for id_, home in small.homes.items()}
        core = small.another(catalog, homes)
        task = task_for(core, small.me, new_upload(data))
        core.send_all(small.me, task, data)
        made.append(core.uploads.complete(small.me, task.id))
        calls.append((catalog.calls, store.calls))
    creation = 3 + 2  # what precedes the first chunk is compared strictly, then all by kind
    assert calls[0][0][:creation] == calls[1][0][:creation]
    assert set(calls[0][0]) == set(calls[1][0])
    assert set(calls[0][1]) == set(calls[1][1])
    assert made[0].blob.key != theirs.blob.key
    assert made[0].id != theirs.id


def test_create_for_a_held_and_an_unknown_hash_is_the_same_work(small: World) -> None:
    held, unknown = content(20, 1), content(20, 2)
    small.upload(small.stranger, held)
    seen = []
    for data in (held, unknown):
        catalog = Recorder(small.catalog)
        core = small.another(catalog)
        task_for(core, small.me, new_upload(data))
        seen.append(catalog.calls)
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"pool_id": "00000000-0000-4000-8000-00000000ffff"}, PoolNotFound),
        ({"bundle_id": "00000000-0000-4000-8000-00000000ffff"}, BundleNotFound),
        ({"pool_id": OTHER_POOL}, TypeNotAccepted),
        (
            {"pool_id": OTHER_POOL, "content_type": "image/png", "file_size": 1001},
            FileTooLarge,
        ),
        ({"file_size": 1 << 62, "digest": None}, FileTooLarge),
    ],
)
def test_policy_refuses_before_the_first_side_effect(
    world: World, fields: dict[str, Any], error: type[UpwellError]
) -> None:
    """I5."""
    before = stored(world)
    with pytest.raises(error):
        world.uploads.create(world.me, new_upload(content(20), **fields))
    assert stored(world) == before


def test_an_expiry_in_the_past_is_refused(world: World) -> None:
    with pytest.raises(ValidationFailed):
        world.uploads.create(world.me, new_upload(b"x", expired_at=world.clock()))
    assert world.all_keys() == set()


def test_policy_comes_before_what_the_account_holds(small: World) -> None:
    """A file of the default pool is no way around the other pool's policy."""
    data = content(20)
    small.upload(small.me, data)
    with pytest.raises(TypeNotAccepted):
        small.uploads.create(small.me, new_upload(data, pool_id=OTHER_POOL))


def _verbs(world: World, task_id: str) -> list[tuple[Scope, Callable[[Principal], object]]]:
    up, new = world.uploads, new_upload(content(20))
    return [
        (Scope.WRITE, lambda who: up.create(who, new)),
        (Scope.WRITE, lambda who: up.store_direct(who, new, content(20))),
        (Scope.WRITE, lambda who: up.open_chunk(who, task_id, 0)),
        (Scope.WRITE, lambda who: up.complete(who, task_id)),
        (Scope.WRITE, lambda who: up.cancel(who, task_id)),
        (Scope.READ, lambda who: up.status(who, task_id)),
        (Scope.READ, lambda who: up.progress(who, task_id)),
        (Scope.READ, lambda who: up.tasks(who, None, 0, 10)),
    ]


def test_every_verb_asks_for_its_scope_first(world: World) -> None:
    """I5."""
    task = task_for(world, world.me, new_upload(content(20)))
    before = stored(world)
    for scope, verb in _verbs(world, task.id):
        with pytest.raises(ScopeMissing):
            verb(replace(world.me, scopes=ALL - {scope}))
    assert stored(world) == before


def test_a_strangers_task_is_as_unknown_as_none(world: World) -> None:
    task = task_for(world, world.me, new_upload(content(20)))
    before = stored(world)
    messages = set()
    for (_, mine), (_, none) in zip(
        _verbs(world, task.id)[2:7], _verbs(world, "0" * 32)[2:7], strict=True
    ):
        for verb, who in ((mine, world.stranger), (none, world.me)):
            with pytest.raises(TaskNotFound) as refused:
                verb(who)
            messages.add((str(refused.value), str(refused.value.meta)))
    assert len(messages) == 1
    assert stored(world) == before
    assert world.uploads.tasks(world.stranger, None, 0, 10).total == 0


def test_space_is_reserved_at_create(small: World) -> None:
    store = small.store
    assert isinstance(store, MemoryStore)
    store.capacity = 50
    task_for(small, small.me, new_upload(content(40)))
    with pytest.raises(StorageFull):
        small.uploads.create(small.me, new_upload(content(11)))
    assert len(small.uploads.tasks(small.me, None, 0, 10).items) == 1
    small.uploads.cancel(small.me, small.uploads.tasks(small.me, None, 0, 1).items[0].id)
    task_for(small, small.me, new_upload(content(50)))


@pytest.mark.parametrize("error", [StorageFull, StorageFailed], ids=["full", "in doubt"])
def test_a_catalog_that_refuses_a_row_gives_its_space_back(
    world: World, monkeypatch: pytest.MonkeyPatch, error: type[UpwellError]
) -> None:
    """I2: not where the row may be there all the same, now or after a crash."""

    def fail(*_: object) -> None:
        raise error("no")

    def refuse(new: Sequence[object]) -> list[UpwellError]:
        return [error("no") for _ in new]

    monkeypatch.setattr(world.catalog, "add_task", fail)
    monkeypatch.setattr(world.catalog, "add_files", refuse)
    with pytest.raises(error):
        world.uploads.create(world.me, new_upload(content(20)))
    with pytest.raises(error):
        world.uploads.store_direct(world.me, new_upload(content(20)), content(20))
    assert len(world.all_keys()) == (2 if error is StorageFailed else 0)


@pytest.mark.parametrize("size", [0, 3 * CHUNK])
@pytest.mark.parametrize("password", [None, "secret"])
def test_an_upload_whose_bytes_are_gone_begins_again(
    world: World, size: int, password: str | None
) -> None:
    """A row without bytes must never be; should one come about, its content can be sent."""
    data = content(size)
    new = new_upload(data, password=password)
    lost = task_for(world, world.me, new)
    if size:
        world.send(world.me, lost, 0, piece(lost, data, 0))
    world.store.delete(lost.layout.key)
    for ask in (world.uploads.status, world.uploads.complete):
        with pytest.raises(TaskNotFound):
            ask(world.me, lost.id)
    with pytest.raises(TaskNotFound):
        world.uploads.resume(world.me, lost.id, UploadOptions("b", "a/b"))
    if size:
        last = lost.layout.count - 1
        with pytest.raises(TaskNotFound):
            world.send(world.me, lost, last, piece(lost, data, last))
    task = task_for(world, world.me, new)
    assert task.id != lost.id
    world.send_all(world.me, task, data)
    file = world.uploads.complete(world.me, task.id)
    assert world.open(world.me, file.id, password=password) == data
    assert world.sweeper.sweep().freed == 1
    assert world.all_keys() == {file.blob.key}


def test_a_file_whose_bytes_are_gone_is_not_said_to_be_there(world: World) -> None:
    data = content(20)
    lost = world.upload(world.me, data)
    world.store.delete(lost.blob.key)
    assert world.uploads.find_many(world.me, [new_upload(data)]) == [None]
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data)
    file = world.uploads.complete(world.me, task.id)
    assert world.read(world.me, file.id) == data
    assert world.uploads.create(world.me, new_upload(data)) == file
    assert Verifier(world.catalog, world.homes, world.clock).run(repair=True).well
    assert world.read(world.me, lost.id) == data


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "/", "a/b\\c", "x" * 1024, "💾\n\0"])
def test_a_name_is_only_data(world: World, name: str) -> None:
    file = world.upload(world.me, content(5), file_name=name)
    assert world.files.info(world.me, file.id).name == name
    assert world.read(world.me, file.id) == content(5)


# 1.2 chunks


def test_chunks_come_in_any_order_and_more_than_once(world: World) -> None:
    data = content(4 * CHUNK + 1)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data, [3, 1, 4, 1, 0, 3, 2, 2])
    status = world.uploads.status(world.me, task.id)
    assert (status.uploaded, status.missing) == ([0, 1, 2, 3, 4], [])
    assert (status.task.received_count, status.task.received_bytes) == (5, len(data))
    assert status.task.revision == 0, "the same bytes replace nothing"
    assert world.sides() == set()
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_chunks_come_in_parallel(world: World) -> None:
    data = content(40 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    second = world.another()
    with ThreadPoolExecutor(8) as threads:
        jobs = [
            threads.submit((world, second)[i % 2].send, world.me, task, i, piece(task, data, i))
            for i in range(40)
        ]
        for job in jobs:
            job.result(30)
    file = second.uploads.complete(world.me, task.id)
    assert world.read(world.me, file.id) == data


@pytest.mark.parametrize("index", [-1, 3, 4, 2**31, 10**30])
def test_an_index_that_is_not_one_of_them(world: World, index: int) -> None:
    task = task_for(world, world.me, new_upload(content(3 * CHUNK)))
    with pytest.raises(ChunkIndexInvalid) as refused:
        world.uploads.open_chunk(world.me, task.id, index)
    assert refused.value.meta == {"chunks_count": 3}


def test_an_empty_file_tolerates_one_empty_chunk(world: World) -> None:
    task = task_for(world, world.me, new_upload(b""))
    world.send(world.me, task, 0, b"")
    with pytest.raises(ChunkIndexInvalid):
        world.uploads.open_chunk(world.me, task.id, 1)
    with pytest.raises(ChunkSizeMismatch):
        world.send(world.me, task, 0, b"x")
    status = world.uploads.status(world.me, task.id)
    assert (status.uploaded, status.missing, status.task.progress) == ([], [], 100.0)
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == b""


@pytest.mark.parametrize("acknowledged", [False, True])
@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK + 1, 3 * CHUNK])
def test_a_chunk_of_another_size_changes_nothing(
    world: World, size: int, acknowledged: bool
) -> None:
    data = content(2 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send(world.me, task, 1, piece(task, data, 1))
    if acknowledged:
        world.send(world.me, task, 0, piece(task, data, 0))
    before = stored(world)
    with closing(world.uploads.open_chunk(world.me, task.id, 0)) as writer:
        with pytest.raises(ChunkSizeMismatch) as refused:
            writer.check_length(size)
        assert refused.value.meta == {"expected": CHUNK, "received": size}
        assert writer.acquire()
        with pytest.raises(ChunkSizeMismatch):
            write_and_finish(writer, content(size, 9))
    assert stored(world) == before
    assert world.sides() == set()
    world.send(world.me, task, 0, piece(task, data, 0))
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_a_checksum_that_fits(small: World, algorithm: str) -> None:
    data = content(CHUNK)
    task = task_for(small, small.me, new_upload(data))
    small.send(small.me, task, 0, data, checksum(data, algorithm))
    assert small.uploads.status(small.me, task.id).uploaded == [0]


@pytest.mark.parametrize("acknowledged", [False, True])
@pytest.mark.parametrize("declared", [checksum(b"other"), Checksum("sha1", b"")])
def test_a_checksum_that_does_not_fit_changes_nothing(
    world: World, declared: Checksum, acknowledged: bool
) -> None:
    data = content(2 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    if acknowledged:
        world.send_all(world.me, task, data)
    before = stored(world)
    with pytest.raises(ChecksumMismatch):
        world.send(world.me, task, 0, content(CHUNK, 9), declared)
    assert stored(world) == before
    assert world.sides() == set()
    world.send_all(world.me, task, data)
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_a_checksum_nobody_knows(small: World) -> None:
    task = task_for(small, small.me, new_upload(content(CHUNK)))
    with pytest.raises(ChecksumUnsupported):
        small.uploads.open_chunk(small.me, task.id, 0, Checksum("crc32", b"1234"))


def test_the_newest_request_takes_over(world: World) -> None:
    """I6: an old one that is stuck half-way lets go; nothing of it is stored."""
    data = content(CHUNK)
    task = task_for(world, world.me, new_upload(data))
    old = world.uploads.open_chunk(world.me, task.id, 0)
    assert old.acquire()
    old.write(memoryview(content(CHUNK, 9))[:5])
    new = world.another().uploads.open_chunk(world.me, task.id, 0)
    assert not new.acquire()
    assert old.contended()
    old.close()
    assert new.acquire()
    new.write(memoryview(data))
    new.finish()
    new.close()
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_a_chunk_sent_again_with_other_bytes_counts(world: World) -> None:
    right, wrong = content(3 * CHUNK), content(3 * CHUNK, 5)
    task = task_for(world, world.me, new_upload(right))
    world.send_all(world.me, task, wrong)
    world.send(world.me, task, 1, piece(task, wrong, 1))
    assert world.uploads.progress(world.me, task.id).revision == 0
    for index in range(3):
        world.send(world.me, task, index, piece(task, right, index))
        assert world.uploads.progress(world.me, task.id).revision == index + 1
    status = world.uploads.status(world.me, task.id)
    assert (status.task.received_count, status.task.received_bytes) == (3, 3 * CHUNK)
    file = world.uploads.complete(world.me, task.id)
    assert world.read(world.me, file.id) == right
    assert world.sides() == set()


def test_bytes_come_before_the_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I1, I2: when the row is written, the chunk is durable and survives the slot."""
    data, other = content(CHUNK), content(CHUNK, 2)
    task = task_for(world, world.me, new_upload(data))
    record = world.catalog.record_chunk
    read: list[bytes] = []

    def recording(task_id: str, chunk: Any, *more: Any) -> UploadTask:
        buffer = memoryview(bytearray(CHUNK))
        with closing(world.store.reader(task.layout)) as reader:
            reader.read_into(0, chunk.staged, 0, buffer)
        read.append(bytes(buffer))
        return record(task_id, chunk, *more)

    monkeypatch.setattr(world.catalog, "record_chunk", recording)
    world.send(world.me, task, 0, data)
    world.send(world.me, task, 0, other)
    assert read == [data, other]


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_catalog_that_refuses_a_chunk_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, acknowledged: bool
) -> None:
    data = content(CHUNK)
    task = task_for(world, world.me, new_upload(data))
    if acknowledged:
        world.send(world.me, task, 0, data)

    def full(*_: object) -> None:
        raise StorageFull("no")

    before = stored(world)
    with monkeypatch.context() as patch:
        patch.setattr(world.catalog, "record_chunk", full)
        with pytest.raises(StorageFull):
            world.send(world.me, task, 0, content(CHUNK, 3))
    assert stored(world) == before
    if not acknowledged:
        world.send(world.me, task, 0, data)
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


# 1.3 complete


def test_missing_chunks_are_named(world: World) -> None:
    data = content(40 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    here = set(range(40)) - {7, 12}
    world.send_all(world.me, task, data, here)
    with pytest.raises(ChunksMissing, match=r"2 of 40 chunks are missing: 7, 12\.") as refused:
        world.uploads.complete(world.me, task.id)
    assert refused.value.meta == {"missing_chunks": [7, 12]}
    world.send_all(world.me, task, data, [7, 12])
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_many_missing_chunks_are_all_in_the_meta(small: World) -> None:
    task = task_for(small, small.me, new_upload(content(100 * CHUNK)))
    with pytest.raises(ChunksMissing, match="…") as refused:
        small.uploads.complete(small.me, task.id)
    assert refused.value.meta == {"missing_chunks": list(range(100))}


def test_a_wrong_hash_loses_nothing_and_is_repaired(world: World) -> None:
    right = content(3 * CHUNK + 2)
    wrong = right[:CHUNK] + content(CHUNK, 6) + right[2 * CHUNK :]
    task = task_for(world, world.me, new_upload(right))
    world.send_all(world.me, task, wrong)
    for _ in range(2):
        with pytest.raises(HashMismatch) as refused:
            world.uploads.complete(world.me, task.id)
        assert refused.value.meta == {"expected": str(sha256(right)), "actual": str(sha256(wrong))}
    assert world.uploads.status(world.me, task.id).uploaded == [0, 1, 2, 3]
    assert world.files.mine(world.me, 0, 10).total == 0
    world.send(world.me, task, 1, piece(task, right, 1))
    file = world.uploads.complete(world.me, task.id)
    assert world.read(world.me, file.id) == right


def test_a_repair_by_another_process(world: World) -> None:
    right, wrong = content(2 * CHUNK), content(2 * CHUNK, 6)
    second = world.another()
    task = task_for(world, world.me, new_upload(right))
    world.send_all(world.me, task, wrong)
    with pytest.raises(HashMismatch):
        second.uploads.complete(world.me, task.id)
    with pytest.raises(HashMismatch):
        world.uploads.complete(world.me, task.id)
    second.send_all(world.me, task, right)
    file = world.uploads.complete(world.me, task.id)
    assert second.read(world.me, file.id) == right


def test_complete_is_idempotent(world: World) -> None:
    data = content(3 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data)
    second = world.another()
    with ThreadPoolExecutor(8) as threads:
        cores = (world, second)
        ids = list(
            threads.map(lambda n: cores[n % 2].uploads.complete(world.me, task.id).id, range(8))
        )
    assert len(set(ids)) == 1
    assert world.uploads.complete(world.me, task.id).id == ids[0]
    assert world.files.mine(world.me, 0, 10).total == 1
    done = world.uploads.progress(world.me, task.id)
    assert (done.status, done.file_id) == (TaskStatus.COMPLETED, ids[0])


def test_complete_of_a_file_that_is_deleted_since(world: World) -> None:
    data = content(CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data)
    world.files.delete(world.me, world.uploads.complete(world.me, task.id).id)
    with pytest.raises(TaskNotFound):
        world.uploads.complete(world.me, task.id)


@pytest.mark.parametrize("staged", [False, True])
def test_a_damaged_chunk_is_whole_when_it_is_sent_again(world: World, staged: bool) -> None:
    """I1: its bytes were acknowledged, and the disk has others, or none."""
    data = content(2 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data)
    if staged:
        world.send(world.me, task, 0, content(CHUNK, 5))
        world.send(world.me, task, 0, data[:CHUNK])
        world.store.unstage(task.layout.key)
    else:
        with closing(world.store.slot(task.layout, 0)) as slot:
            assert slot.acquire()
            slot.begin(replace=False)
            slot.write(memoryview(content(CHUNK, 6)))
            slot.commit()
    for _ in range(2):
        world.send(world.me, task, 0, data[:CHUNK])
    assert len(world.sides()) == 1
    file = world.another().uploads.complete(world.me, task.id)
    assert world.read(world.me, file.id) == data


@pytest.mark.parametrize("whose", ["pool", "account"])
def test_chunks_sent_again_and_again_take_their_room_once(world: World, whose: str) -> None:
    data, me = content(3 * CHUNK), world.me
    room = len(data) + CHUNK + CHUNK // 2
    if whose == "pool":
        world.set_policy(quota=room)
    else:
        me = replace(me, account=replace(me.account, quota=room))
    task = task_for(world, me, new_upload(data))
    for index in range(3):
        world.send(me, task, index, piece(task, data, index))
    for seed in range(5):
        world.send(me, task, 0, content(CHUNK, 10 + seed))
        assert len(world.sides()) == 1
        assert world.catalog.usage(me.account.id)[task.pool_id].total == len(data) + CHUNK
    sides, before = world.sides(), world.catalog.chunk(task.id, 1)
    with pytest.raises(QuotaExceeded):
        world.send(me, task, 1, content(CHUNK, 9))
    assert (world.sides(), world.catalog.chunk(task.id, 1)) == (sides, before)
    world.send(me, task, 1, piece(task, data, 1))  # a re-send of what is there is welcome
    world.send(me, task, 0, piece(task, data, 0))
    file = world.uploads.complete(me, task.id)
    assert world.read(me, file.id) == data
    assert world.catalog.usage(me.account.id)[task.pool_id].total == len(data)
    assert world.sides() == set()


def test_a_crash_between_publish_and_row_is_repeatable(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2, I4."""
    right, wrong = content(3 * CHUNK), content(3 * CHUNK, 6)
    task = task_for(world, world.me, new_upload(right))
    world.send_all(world.me, task, wrong)
    world.send_all(world.me, task, right)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(world.catalog, "complete", die)
        with pytest.raises(KeyboardInterrupt):
            world.uploads.complete(world.me, task.id)
    assert world.files.mine(world.me, 0, 10).total == 0
    world.send(world.me, task, 1, piece(task, wrong, 1))  # the client is still at it
    restarted = world.another()
    with pytest.raises(HashMismatch):
        restarted.uploads.complete(world.me, task.id)
    restarted.send(world.me, task, 1, piece(task, right, 1))
    file = restarted.uploads.complete(world.me, task.id)
    assert world.read(world.me, file.id) == right


def test_a_chunk_that_is_replaced_while_it_completes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: the digest was of the bytes before; the file must not have the bytes after."""
    right = content(2 * CHUNK)
    task = task_for(world, world.me, new_upload(right))
    world.send_all(world.me, task, right)
    second, publish = world.another(), world.store.publish

    def meanwhile(*args: Any) -> None:
        publish(*args)
        monkeypatch.setattr(world.store, "publish", publish)
        second.send(world.me, task, 0, content(CHUNK, 8))

    monkeypatch.setattr(world.store, "publish", meanwhile)
    with pytest.raises(HashMismatch):
        world.uploads.complete(world.me, task.id)
    assert world.files.mine(world.me, 0, 10).total == 0
    second.send(world.me, task, 0, piece(task, right, 0))
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == right


@pytest.mark.parametrize("resent", [False, True])
def test_a_late_duplicate_never_touches_a_finished_file(world: World, resent: bool) -> None:
    """I3: a request was opened before the task was completed, and gets its turn after."""
    data = content(2 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send(world.me, task, 1, piece(task, data, 1))
    if resent:
        world.send(world.me, task, 0, piece(task, data, 0))
    late = world.uploads.open_chunk(world.me, task.id, 0)
    world.send(world.me, task, 0, piece(task, data, 0))
    file = world.uploads.complete(world.me, task.id)
    with closing(late), pytest.raises(TaskClosed):
        write_and_finish(late, content(CHUNK, 9), acquire=True)
    assert world.read(world.me, file.id) == data
    assert world.sides() == set()


def test_a_late_writer_that_held_the_slot_before(world: World) -> None:
    """I3: the chunk is acknowledged, so the late one writes beside it."""
    data = content(2 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data)
    late = world.uploads.open_chunk(world.me, task.id, 0)
    assert late.acquire()
    late.write(memoryview(content(CHUNK, 9))[:5])
    file = world.uploads.complete(world.me, task.id)
    with closing(late), pytest.raises(TaskClosed):
        write_and_finish(late, content(CHUNK, 9)[5:])
    assert world.read(world.me, file.id) == data
    assert world.sides() == set()


@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_a_closed_task_takes_no_chunks(world: World, end: str) -> None:
    data = content(CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data)
    if end == "completed":
        world.uploads.complete(world.me, task.id)
    else:
        world.uploads.cancel(world.me, task.id)
    with pytest.raises(TaskClosed) as refused:
        world.uploads.open_chunk(world.me, task.id, 0)
    assert (refused.value.meta or {})["status"] == end


def test_a_complete_that_waits_for_its_digest(world: World) -> None:
    """As the web does: begin, wait elsewhere, finish; giving up harms nobody."""
    data = content(3 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data)
    first = world.uploads.begin_complete(world.me, task.id)
    second = world.uploads.begin_complete(world.me, task.id)
    assert isinstance(first, Verifying)
    assert isinstance(second, Verifying)
    first.digests.cancel()
    second.digests.result(10)
    file = world.uploads.finish_complete(world.me, second)
    assert isinstance(file, CloudFile)
    other = world.uploads.finish_complete(world.me, first)
    assert isinstance(other, CloudFile)
    assert other.id == file.id


# 1.4 around it


def test_figures_of_a_task(world: World) -> None:
    data = content(3 * CHUNK + 1)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data, [3, 1])
    status = world.uploads.status(world.me, task.id)
    assert (status.uploaded, status.missing) == ([1, 3], [0, 2])
    assert status.task.progress == 36.0
    assert world.uploads.progress(world.me, task.id) == status.task


def test_tasks_newest_first_filtered_and_paged(small: World) -> None:
    made = []
    for number in range(5):
        small.clock.advance(seconds=1)
        made.append(task_for(small, small.me, new_upload(content(5, number))).id)
    small.uploads.cancel(small.me, made[1])
    page = small.uploads.tasks(small.me, None, 1, 2)
    assert ([task.id for task in page.items], page.total) == ([made[3], made[2]], 5)
    page = small.uploads.tasks(small.me, TaskStatus.CANCELLED, 0, 10)
    assert [task.id for task in page.items] == [made[1]]
    assert small.uploads.tasks(small.me, TaskStatus.COMPLETED, 0, 10).total == 0
    assert small.uploads.tasks(small.me, TaskStatus.IN_PROGRESS, 0, 1).total == 4


def test_cancel_frees_the_bytes(world: World) -> None:
    data = content(3 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data)
    world.send(world.me, task, 0, content(CHUNK, 4))
    world.uploads.cancel(world.me, task.id)
    world.uploads.cancel(world.me, task.id)
    assert world.all_keys() == set()
    assert world.sides() == set()
    with pytest.raises(TaskClosed):
        world.uploads.complete(world.me, task.id)
    assert world.uploads.status(world.me, task.id).task.status is TaskStatus.CANCELLED


def test_cancel_of_what_became_a_file(world: World) -> None:
    data = content(CHUNK)
    file = world.upload(world.me, data)
    task = world.uploads.tasks(world.me, None, 0, 1).items[0]
    with pytest.raises(TaskClosed) as refused:
        world.uploads.cancel(world.me, task.id)
    assert (refused.value.meta or {})["file_id"] == file.id
    assert world.read(world.me, file.id) == data


@pytest.mark.parametrize("replacing", [False, True])
def test_a_chunk_under_way_when_its_task_is_cancelled(world: World, replacing: bool) -> None:
    data = content(2 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    if replacing:
        world.send_all(world.me, task, data)
    writer = world.uploads.open_chunk(world.me, task.id, 0)
    assert writer.acquire()
    writer.write(memoryview(content(CHUNK, 5)))
    world.uploads.cancel(world.me, task.id)
    with closing(writer), pytest.raises(TaskClosed):
        writer.finish()
    assert (world.all_keys(), world.sides()) == (set(), set())


def test_a_chunk_that_waits_while_its_task_is_cancelled(world: World) -> None:
    task = task_for(world, world.me, new_upload(content(CHUNK)))
    writer = world.uploads.open_chunk(world.me, task.id, 0)
    world.uploads.cancel(world.me, task.id)
    with closing(writer), pytest.raises((TaskClosed, TaskNotFound)):
        writer.acquire()


def test_cancel_races_with_complete(world: World) -> None:
    """Either there is a file with its bytes, or there is neither."""
    for number in range(12):
        data = content(2 * CHUNK, number)
        task = task_for(world, world.me, new_upload(data))
        world.send_all(world.me, task, data)
        start = threading.Barrier(2)

        def run(
            verb: Callable[[Principal, str], Any],
            task: UploadTask = task,
            start: threading.Barrier = start,
        ) -> Any:
            start.wait()
            with suppress(TaskClosed):
                return verb(world.me, task.id)
            return TaskClosed

        with ThreadPoolExecutor(2) as threads:
            completed = threads.submit(run, world.uploads.complete)
            cancelled = threads.submit(run, world.another().uploads.cancel)
        file = completed.result()
        if isinstance(file, CloudFile):
            assert cancelled.result() is TaskClosed
            assert world.read(world.me, file.id) == data
        else:
            assert cancelled.result() is None
            assert task.layout.key not in world.all_keys()


def test_an_expired_task_is_unknown(world: World) -> None:
    data = content(CHUNK)
    task = task_for(world, world.me, new_upload(data))
    world.send_all(world.me, task, data)
    world.clock.advance(days=7)
    for _, verb in _verbs(world, task.id)[2:7]:
        with pytest.raises(TaskNotFound):
            verb(world.me)
    listed = world.uploads.tasks(world.me, TaskStatus.EXPIRED, 0, 10).items
    assert [each.id for each in listed] == [task.id]


def test_the_expiry_slides_with_every_chunk(world: World) -> None:
    data = content(4 * CHUNK)
    task = task_for(world, world.me, new_upload(data))
    for index in range(4):
        world.clock.advance(days=6)
        world.send(world.me, task, index, piece(task, data, index))
        status = world.uploads.status(world.me, task.id)
        assert status.task.expires_at == world.clock() + timedelta(days=7)
    world.clock.advance(days=6)
    world.send(world.me, task, 0, piece(task, data, 0))  # the same bytes are use as well
    world.clock.advance(days=6)
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


# direct


@pytest.mark.parametrize("size", [0, 1, 100])
def test_direct_stores_and_verifies(world: World, size: int) -> None:
    data = content(size)
    file = world.uploads.store_direct(world.me, new_upload(data), data)
    assert world.read(world.me, file.id) == data
    again = world.uploads.store_direct(world.me, new_upload(data), data)
    assert again.id == file.id
    other = world.uploads.store_direct(world.me, new_upload(data, file_name="c"), data)
    assert other.blob.key == file.blob.key
    assert len(world.all_keys()) == 1
    bare = world.uploads.store_direct(world.me, new_upload(data, digest=None), data)
    assert bare.digest == sha256(data)


@pytest.mark.parametrize("fields", [{"digest": sha256(b"other")}, {"file_size": 19}])
def test_direct_with_other_bytes_than_declared(world: World, fields: dict[str, Any]) -> None:
    with pytest.raises(HashMismatch):
        world.uploads.store_direct(world.me, new_upload(content(20), **fields), content(20))
    assert world.all_keys() == set()


def test_direct_never_gives_what_another_account_holds(small: World) -> None:
    data = content(20)
    theirs = small.upload(small.stranger, data)
    mine = small.uploads.store_direct(small.me, new_upload(data), data)
    assert mine.blob.key != theirs.blob.key
    with pytest.raises(FileNotFound):
        small.files.info(small.me, theirs.id)


def test_the_bytes_tell_the_type_of_a_content_that_is_there_already(small: World) -> None:
    senses = Senses(lambda head: "image/png" if head == content(20) else None)
    small.uploads = Uploads(small.catalog, small.homes, small.clock, KEY, senses=senses)
    asked = {"content_type": GENERIC_TYPE}
    small.upload(small.me, content(20), content_type="text/plain")
    there = small.uploads.create(small.me, new_upload(content(20), file_name="b", **asked))
    assert isinstance(there, CloudFile)
    assert there.mime_type == "image/png"
    again = new_upload(content(20), file_name="c", **asked)
    assert small.uploads.store_direct(small.me, again, content(20)).mime_type == "image/png"


def test_what_was_not_made_of_a_content_is_made_for_a_file_that_shares_it(small: World) -> None:
    """Its first file had a type of which nothing is made, or is deleted before it is looked at."""
    senses = Senses(examines=lambda kind: kind.startswith("image/"))
    small.uploads = Uploads(small.catalog, small.homes, small.clock, KEY, senses=senses)
    quiet = "00000000-0000-4000-8000-000000000003"
    policy = Policy(public_usable=True, no_metadata=True, no_optimization=True)
    small.add_pool(quiet, "quiet", policy)

    def looked_at(**fields: Any) -> bool:
        file = small.uploads.create(small.me, new_upload(content(20), **fields))
        assert isinstance(file, CloudFile)
        return small.catalog.jobs(JobKind.PREVIEW, file.id, 0, 1).total > 0

    first = small.upload(small.me, content(20), content_type="text/plain")
    assert not looked_at(file_name="b", content_type="text/html")
    assert looked_at(file_name="c", content_type="image/png")
    assert not looked_at(file_name="d", content_type="image/png", pool_id=quiet)
    small.catalog.describe_blob(first.blob.id, {}, None, None)
    assert not looked_at(file_name="e", content_type="image/png"), "it is known what it is"
    small.upload(small.me, content(21), content_type="image/png", pool_id=quiet)
    there = new_upload(content(21), file_name="f", content_type="image/png")
    shared = small.uploads.create(small.me, there)
    assert isinstance(shared, CloudFile)
    assert not small.catalog.jobs(JobKind.PREVIEW, shared.id, 0, 1).total, "the bytes are there"
