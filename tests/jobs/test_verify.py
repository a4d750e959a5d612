"""Stored bytes re-read beside a running server: damage is found, mended, and told of."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.world import (
    CHUNK,
    OTHER_POOL,
    Recorder,
    World,
    content,
    new_upload,
    piece,
)
from tests.stores import put
from upwell.jobs.verify import Damage, Verified, Verifier
from upwell.model import DEFAULT_POOL_ID, Allowance, CloudFile, TaskStatus, UploadTask
from upwell.stores.local import LocalStore
from upwell.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from upwell.core.ports import BlobStore

OTHER_BYTES = "other bytes than were uploaded"


@pytest.fixture
def world(world: World) -> World:
    """A world whose other pool takes everything."""
    world.set_policy(OTHER_POOL, accept_types=(), max_file_size=None)
    return world


def verify(world: World, *, repair: bool = False, catalog: Any = None) -> Verified:
    work = Verifier(catalog or world.catalog, world.homes, world.clock)
    return work.run(repair=repair)


def flip(store: BlobStore, key: str, offset: int) -> None:
    """One bit of what is stored, changed behind everyone's back."""
    if isinstance(store, MemoryStore):
        store.upload(key).main.content[offset] ^= 1
        return
    assert isinstance(store, LocalStore)
    path = store.path(key)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def spoil(world: World, file: CloudFile, offset: int = 0) -> None:
    flip(world.homes[file.blob.pool_id].store, file.blob.key, offset)


def upload(world: World, data: bytes, **fields: Any) -> UploadTask:
    made = world.uploads.create(world.me, new_upload(data, **fields))
    assert isinstance(made, UploadTask)
    return made


def test_all_is_well(world: World) -> None:
    world.upload(world.me, content(3 * CHUNK))
    world.upload(world.me, content(20, 1), password="secret")
    task = upload(world, content(2 * CHUNK, 2))
    world.send(world.me, task, 1, content(CHUNK, 3))
    found = verify(world, repair=True)
    assert found.well
    assert (found.blobs, found.chunks, found.damaged) == (2, 1, [])
    assert (found.chunks_damaged, found.chunks_forgotten, found.figures_mended) == (0, 0, 0)


def test_what_is_read_is_announced(world: World) -> None:
    plain = world.upload(world.me, content(3 * CHUNK))
    world.upload(world.me, content(200, 1), password="secret")
    task = upload(world, content(2 * CHUNK, 2))
    world.send(world.me, task, 1, content(CHUNK, 3))
    seen: list[int] = []
    work = Verifier(world.catalog, world.homes, world.clock, seen.append)
    size = work.size()
    assert size > plain.size + 200 + CHUNK  # the age file is larger than its content
    found = work.run()
    assert sum(seen) == size
    assert found.bytes == size - CHUNK


@pytest.mark.parametrize("offset", [0, 11, 19])
@pytest.mark.parametrize("repair", [False, True])
def test_one_damaged_byte_is_found(world: World, offset: int, *, repair: bool) -> None:
    world.upload(world.me, content(20, 1))
    file = world.upload(world.me, content(20))
    spoil(world, file, offset)
    found = verify(world, repair=repair)
    named = Damage(file.id, "a.bin", "me", "default", OTHER_BYTES, repaired=False)
    assert (found.damaged, found.well, found.blobs) == ([named], False, 2)
    assert world.files.info(world.me, file.id) == file  # a file is never dropped


def test_missing_and_cut_bytes_are_found(world: World) -> None:
    missing, cut = world.upload(world.me, content(20)), world.upload(world.me, content(20, 1))
    world.store.delete(missing.blob.key)
    if isinstance(world.store, LocalStore):
        world.store.path(cut.blob.key).write_bytes(b"x")
    else:
        assert isinstance(world.store, MemoryStore)
        del world.store.upload(cut.blob.key).main.content[1:]
    found = {each.file_id: each.problem for each in verify(world).damaged}
    assert found == {missing.id: "missing", cut.id: "1 bytes instead of 20"}


def test_a_pool_that_is_not_there_is_told_of(world: World) -> None:
    file = world.upload(world.me, content(20), pool_id=OTHER_POOL)
    upload(world, content(20, 1), pool_id=OTHER_POOL)
    world.upload(world.me, content(20, 2))
    homes = {DEFAULT_POOL_ID: world.homes[DEFAULT_POOL_ID]}
    found = Verifier(world.catalog, homes, world.clock).run(repair=True)
    assert [(each.file_id, each.pool) for each in found.damaged] == [(file.id, "other")]
    assert found.damaged[0].problem == "its pool cannot be used"


def test_every_file_on_damaged_bytes_is_named(world: World) -> None:
    first = world.upload(world.me, content(20))
    second = world.uploads.create(world.me, new_upload(content(20), file_name="b"))
    assert isinstance(second, CloudFile)
    world.files.delete(world.me, second.id)
    world.set_policy(enable_recycle=True)
    third = world.uploads.create(world.me, new_upload(content(20), file_name="c"))
    assert isinstance(third, CloudFile)
    world.files.delete(world.me, third.id)
    spoil(world, first)
    assert {each.name for each in verify(world).damaged} == {"a.bin", "c"}


@pytest.mark.parametrize("where", ["another account", "another pool"])
def test_damaged_bytes_are_put_right_from_a_twin(world: World, where: str) -> None:
    file = world.upload(world.me, content(20))
    owner = world.stranger if where == "another account" else world.me
    pool = DEFAULT_POOL_ID if where == "another account" else OTHER_POOL
    twin = (
        world.upload(owner, content(20), pool_id=pool)
        if where == "another account"
        else moved(world, world.uploads.create(owner, new_upload(content(20), pool_id=pool)))
    )
    spoil(world, file)
    seen = [world.catalog.last_event(each.account.id) for each in (world.me, world.stranger)]
    assert not verify(world).well
    found = verify(world, repair=True)
    named = Damage(file.id, "a.bin", "me", "default", OTHER_BYTES, repaired=True)
    assert (found.damaged, found.well) == ([named], True)
    assert world.read(world.me, file.id) == world.read(owner, twin.id) == content(20)
    # Nobody is told: to both accounts, their files are what they were.
    after = world.files.info(world.me, file.id)
    assert (after.blob.id, after.updated_at) == (file.blob.id, file.updated_at)
    assert seen == [
        world.catalog.last_event(each.account.id) for each in (world.me, world.stranger)
    ]
    assert world.files.info(owner, twin.id) == twin
    assert verify(world).damaged == []
    world.sweeper.sweep()
    held = {file.blob.key for file in (after, twin) if file.blob.pool_id == DEFAULT_POOL_ID}
    assert world.all_keys() == held


def moved(world: World, file: CloudFile | UploadTask) -> CloudFile:
    """A file whose bytes are its own, in its pool."""
    assert isinstance(file, CloudFile)
    store, source = world.homes[file.pool_id].store, world.homes[file.blob.pool_id].store
    reader = source.open(file.blob.key)
    key = put(store, reader.read_at(0, file.size))
    reader.close()
    blob = replace(file.blob, id="f" * 32, pool_id=file.pool_id, key=key)
    account, now = file.account_id, world.clock()
    found = world.catalog.move_file(file.id, account, blob, now, Allowance())
    assert found is not None
    return found


def test_a_damaged_twin_is_of_no_use(world: World) -> None:
    file, twin = world.upload(world.me, content(20)), world.upload(world.stranger, content(20))
    spoil(world, file)
    spoil(world, twin, 5)
    found = verify(world, repair=True)
    assert {each.file_id for each in found.damaged} == {file.id, twin.id}
    assert not found.well
    assert world.all_keys() == {file.blob.key, twin.blob.key}


def test_an_encrypted_file_is_checked_without_its_password(world: World) -> None:
    file = world.upload(world.me, content(200), password="secret", chunk_size=64)
    world.upload(world.me, content(200), file_name="plain")  # is no twin of it
    assert verify(world).well
    for offset in (3, world.store.open(file.blob.key).size - 1):
        spoil(world, file, offset)
        found = verify(world, repair=True)
        assert [(each.file_id, each.problem) for each in found.damaged] == [(file.id, OTHER_BYTES)]
        spoil(world, file, offset)
    assert verify(world).well


# uploads in progress


def test_a_damaged_chunk_is_forgotten_only_with_repair(world: World) -> None:
    data = content(3 * CHUNK)
    task = upload(world, data)
    world.send_all(world.me, task, data)
    flip(world.store, task.layout.key, CHUNK)
    found = verify(world)
    assert (found.chunks, found.chunks_damaged, found.chunks_forgotten) == (3, 1, 0)
    assert not found.well
    assert world.catalog.chunk_indexes(task.id) == [0, 1, 2]
    found = verify(world, repair=True)
    assert (found.chunks_damaged, found.chunks_forgotten, found.well) == (1, 1, True)
    assert world.catalog.chunk_indexes(task.id) == [0, 2]
    world.send(world.me, task, 1, piece(task, data, 1))
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_no_chunk_is_forgotten_while_the_upload_is_completed(world: World) -> None:
    """Completing moves bytes to their place: a chunk sent again meanwhile would be overwritten."""
    task = upload(world, content(2 * CHUNK))
    world.send(world.me, task, 0, content(CHUNK))
    flip(world.store, task.layout.key, 0)
    with world.store.exclusive(task.layout, "complete"):
        found = verify(world, repair=True)
    assert (found.chunks_damaged, found.chunks_forgotten, found.well) == (1, 0, False)
    assert world.catalog.chunk_indexes(task.id) == [0]
    assert verify(world, repair=True).chunks_forgotten == 1
    assert world.catalog.chunk_indexes(task.id) == []


def test_a_damaged_chunk_of_an_encrypted_upload_is_found(world: World) -> None:
    data = content(3 * CHUNK)
    task = upload(world, data, password="secret")
    world.send_all(world.me, task, data)
    assert verify(world).well
    assert task.seal is not None
    flip(world.store, task.layout.key, len(task.seal.head) + 20)
    found = verify(world, repair=True)
    assert (found.chunks_damaged, found.chunks_forgotten) == (1, 1)


class Meanwhile(Recorder):
    """A catalog that lets something happen once, between two of its answers."""

    def __init__(self, real: Any, name: str, happen: Callable[[], object]) -> None:
        super().__init__(real)
        self._name = name
        self._happen: Callable[[], object] | None = happen

    def __getattr__(self, name: str) -> Any:
        if name == self._name and self._happen:
            happen, self._happen = self._happen, None
            happen()
        return getattr(self.real, name)


def test_a_chunk_that_is_replaced_while_it_is_read_is_left_alone(world: World) -> None:
    data = content(2 * CHUNK)
    task = upload(world, data)
    world.send(world.me, task, 0, content(CHUNK, 9))
    flip(world.store, task.layout.key, 0)
    catalog = Meanwhile(world.catalog, "chunk", lambda: world.send(world.me, task, 0, data[:CHUNK]))
    found = verify(world, repair=True, catalog=catalog)
    assert (found.chunks_damaged, found.well) == (0, True)
    assert world.catalog.chunk_indexes(task.id) == [0]


@pytest.mark.parametrize("repair", [False, True])
def test_an_upload_that_is_cancelled_meanwhile(world: World, *, repair: bool) -> None:
    task = upload(world, content(2 * CHUNK))
    world.send_all(world.me, task, content(2 * CHUNK))

    def cancel() -> None:
        world.uploads.cancel(world.me, task.id)

    found = verify(world, repair=repair, catalog=Meanwhile(world.catalog, "chunks", cancel))
    assert found == Verified(chunks=found.chunks)
    assert found.well


def test_an_upload_that_is_closed_before_its_chunk_is_forgotten(world: World) -> None:
    task = upload(world, content(2 * CHUNK))
    world.send_all(world.me, task, content(2 * CHUNK))
    flip(world.store, task.layout.key, 0)
    account, now = world.me.account.id, world.clock()
    catalog = Meanwhile(
        world.catalog, "forget_chunk", lambda: world.catalog.cancel(account, task.id, now)
    )
    assert verify(world, repair=True, catalog=catalog).well
    found = world.catalog.task(account, task.id, now)
    assert found is not None
    assert found.status is TaskStatus.CANCELLED


# files that change meanwhile


@pytest.mark.parametrize("repair", [False, True])
def test_a_file_that_is_deleted_meanwhile_is_no_damage(world: World, *, repair: bool) -> None:
    file = world.upload(world.me, content(20))
    store = world.homes[DEFAULT_POOL_ID].store
    real = store.open

    def late(key: str) -> Any:
        world.files.delete(world.me, file.id)
        return real(key)

    store.open = late  # type: ignore[method-assign]
    found = verify(world, repair=repair)
    assert (found.damaged, found.well) == ([], True)


def test_a_file_that_is_deleted_while_it_is_mended(world: World) -> None:
    file = world.upload(world.me, content(20))
    world.upload(world.stranger, content(20))
    spoil(world, file)
    catalog = Meanwhile(world.catalog, "rekey_blob", lambda: world.files.delete(world.me, file.id))
    verify(world, repair=True, catalog=catalog)
    world.sweeper.sweep()
    assert len(world.all_keys()) == 1  # the stranger's


# figures


def test_wrong_figures_are_mended_only_with_repair(world: World) -> None:
    world.upload(world.me, content(20))
    with sqlite3.connect(world.folder / "catalog.sqlite") as database:
        database.execute("UPDATE usage SET stored_bytes = stored_bytes + 5, files = 9")
    database.close()
    assert verify(world).figures_mended == 0
    assert world.catalog.usage(world.me.account.id)[DEFAULT_POOL_ID].files == 9
    assert verify(world, repair=True).figures_mended == 2
    assert world.catalog.usage(world.me.account.id)[DEFAULT_POOL_ID].files == 1
    assert verify(world, repair=True).figures_mended == 0
