"""``encrypt_password`` all the way: what is stored, who reads it, and what never leaves memory."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pyrage
import pytest

from tests.core.world import KEY, Core, World, content, new_upload, piece, sha256
from upwell.core import age, blobs, derivations, sealing
from upwell.core.buffers import Budget
from upwell.core.files import Form
from upwell.core.guesses import BURST
from upwell.errors import (
    AuthRequired,
    ChunkConflict,
    ChunksMissing,
    FileNotFound,
    HashMismatch,
    PasswordRequired,
    PasswordWrong,
    ServerBusy,
    StorageFull,
    TooManyGuesses,
)
from upwell.model import Principal, UploadTask

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from upwell.model import CloudFile

SECRET = "correct horse battery staple"
B = age.BLOCK
C = 2 * B  # bytes of a chunk
LENGTHS = [0, 1, B - 1, B, B + 1, C - 1, C, C + 1, 2 * C, 3 * C - 7]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(age, "LOG_N", 4)


def begin(core: Core, who: Principal, data: bytes, **fields: Any) -> UploadTask:
    asked = {"password": SECRET, "chunk_size": C} | fields
    made = core.uploads.create(who, new_upload(data, **asked))
    assert isinstance(made, UploadTask)
    return made


def sealed(core: Core, who: Principal, data: bytes, **fields: Any) -> CloudFile:
    task = begin(core, who, data, **fields)
    core.send_all(who, task, data)
    return core.uploads.complete(who, task.id)


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", LENGTHS)
def test_the_stored_object_is_an_age_file_of_the_content(world: World, size: int) -> None:
    data = content(size)
    file = sealed(world, world.me, data)
    assert file.encrypted
    assert file.size == size
    raw = world.open(world.me, file.id, Form.RAW)
    assert len(raw) == blobs.stored_size(file.blob)
    assert pyrage.passphrase.decrypt(raw, SECRET) == data
    assert world.open(world.me, file.id, password=SECRET) == data
    assert blobs.problem_of(world.store, file.blob) is None


@pytest.mark.parametrize("size", LENGTHS)
def test_a_direct_upload_is_sealed_too(world: World, size: int) -> None:
    data = content(size)
    file = world.uploads.store_direct(world.me, new_upload(data, password=SECRET), data)
    assert pyrage.passphrase.decrypt(world.open(world.me, file.id, Form.RAW), SECRET) == data
    assert world.open(world.me, file.id, password=SECRET) == data
    assert blobs.problem_of(world.store, file.blob) is None


def test_any_range_is_read_without_the_rest(world: World) -> None:
    data = content(5 * C + 11)
    file = sealed(world, world.me, data)
    opened = world.files.open(_me(world), file.id, Form.CONTENT, SECRET)
    draw = random.Random(1)
    with closing(opened.reader) as reader:
        assert reader.size == len(data)
        assert reader.fileno() is None
        for _ in range(200):
            start = draw.randrange(len(data))
            length = draw.randrange(1, 2 * B)
            assert reader.read_at(start, length) == data[start : start + length]


def _me(world: World) -> Any:
    from upwell.core.guesses import Asker  # noqa: PLC0415

    return Asker(world.me)


def test_chunks_come_in_any_order_in_parallel_and_again(world: World) -> None:
    data = content(9 * C + 5)
    task = begin(world, world.me, data)
    other = world.another()
    order = [*range(task.layout.count), 0, 3, 9]
    random.Random(2).shuffle(order)

    def send(index: int) -> None:
        core = other if index % 2 else world
        with suppress(AssertionError):  # another request has this very chunk in hand
            core.send(world.me, task, index, piece(task, data, index))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(send, order))
    for index in world.uploads.status(world.me, task.id).missing:
        world.send(world.me, task, index, piece(task, data, index))
    file = other.uploads.complete(world.me, task.id)
    assert world.open(world.me, file.id, password=SECRET) == data


@pytest.mark.parametrize("order", [range(6), [5, 3, 4, 1, 2, 0]])
def test_two_processes_take_chunks_in_turn(world: World, order: Iterable[int]) -> None:
    """Each has the content of its own chunks at hand, and opens the other's."""
    data = content(6 * C - 5)
    task = begin(world, world.me, data)
    cores = [world, world.another()]
    for turn, index in enumerate(order):
        cores[turn % 2].send(world.me, task, index, piece(task, data, index))
        cores[turn % 3 % 2].send(world.me, task, index, piece(task, data, index))
    file = cores[1].uploads.complete(world.me, task.id)
    assert file.blob.digests == {"sha256": sha256(data).hex}
    assert world.open(world.me, file.id, password=SECRET) == data


def test_a_cancelled_upload_leaves_no_content_in_memory(world: World) -> None:
    data = content(3 * C)
    task = begin(world, world.me, data)
    world.send_all(world.me, task, data, only=[2, 1])  # nothing can be hashed yet
    assert world.uploads._recent.used == 2 * C
    world.uploads.cancel(world.me, task.id)
    assert world.uploads._recent.used == 0


def test_progress_counts_what_was_sent(world: World) -> None:
    data = content(2 * C)
    task = begin(world, world.me, data)
    world.send(world.me, task, 1, data[C:])
    status = world.uploads.status(world.me, task.id)
    assert (status.task.received_bytes, status.task.progress) == (C, 50.0)


# who reads it


def test_the_password_is_asked_for(world: World) -> None:
    file = sealed(world, world.me, content(100))
    with pytest.raises(PasswordRequired):
        world.open(world.me, file.id)
    with pytest.raises(PasswordWrong):
        world.open(world.me, file.id, password="wrong")
    for form in (Form.CONTENT, Form.RAW):
        with pytest.raises(FileNotFound):
            world.open(world.stranger, file.id, form, password=SECRET)
        with pytest.raises(AuthRequired):
            world.open(None, file.id, form, password=SECRET)


def test_the_sealed_object_is_the_owners_alone(world: World) -> None:
    world.set_policy(allow_anonymous=True)
    file = sealed(world, world.me, content(100))
    assert world.open(None, file.id, password=SECRET) == content(100)
    with pytest.raises(AuthRequired):
        world.open(None, file.id, Form.RAW)
    with pytest.raises(FileNotFound):
        world.open(world.stranger, file.id, Form.RAW)
    assert world.open(world.me, file.id, Form.RAW).startswith(b"age-encryption.org/v1\n")


def test_wrong_guesses_are_limited_over_all_processes(world: World) -> None:
    file = sealed(world, world.me, content(100))
    processes = [world, world.another(), world.another()]
    for number in range(BURST):
        with pytest.raises(PasswordWrong):
            processes[number % 3].open(world.me, file.id, password=f"guess {number}")
    for core in processes:
        with pytest.raises(TooManyGuesses) as refused:
            core.open(world.me, file.id, password=SECRET)
        assert refused.value.retry_after
    world.clock.advance(seconds=31)
    assert world.open(world.me, file.id, password=SECRET) == content(100)
    for number in range(BURST):  # forgiven: the count has begun anew
        with pytest.raises(PasswordWrong):
            world.open(world.me, file.id, password=f"again {number}")
    assert world.open(world.me, file.id, password=SECRET) == content(100)  # known by now


@pytest.mark.slow
def test_strangers_together_have_a_limit_that_the_owner_does_not_feel(world: World) -> None:
    world.set_policy(allow_anonymous=True)
    file = sealed(world, world.me, content(100))
    refused = 0
    for number in range(130):
        address = f"10.0.0.{number}"  # a new one for each guess
        try:
            world.open(None, file.id, password=f"guess {number}", address=address)
        except PasswordWrong:
            continue
        except TooManyGuesses:
            refused += 1
    assert refused == 30
    assert world.open(world.me, file.id, password=SECRET) == content(100)


# the same upload, or another one


def test_asking_again_resumes_only_with_the_same_password(world: World) -> None:
    data = content(2 * C)
    first = begin(world, world.me, data)
    assert begin(world.another(), world.me, data).id == first.id
    other = begin(world, world.me, data, password="another")
    assert other.id != first.id
    plain = world.uploads.create(world.me, new_upload(data, chunk_size=C))
    assert isinstance(plain, UploadTask)
    assert plain.id not in (first.id, other.id)
    world.send_all(world.me, first, data)
    file = world.uploads.complete(world.me, first.id)
    assert pyrage.passphrase.decrypt(world.open(world.me, file.id, Form.RAW), SECRET) == data


def test_encrypted_content_is_never_found_to_be_there_already(world: World) -> None:
    data = content(100)
    file = sealed(world, world.me, data)
    assert isinstance(world.uploads.create(world.me, new_upload(data)), UploadTask)
    world.upload(world.me, data)
    assert isinstance(begin(world, world.me, data), UploadTask)
    again = sealed(world, world.me, data)
    assert (again.id, again.blob.id) != (file.id, file.blob.id)


def test_two_files_of_one_content_and_password_look_nothing_alike(world: World) -> None:
    data = bytes(C)
    raw = [world.open(world.me, sealed(world, world.me, data).id, Form.RAW) for _ in range(2)]
    assert len({block[-1000:] for block in raw}) == 2


# the nonce rule


def test_an_acknowledged_chunk_is_only_replaced_by_the_same_bytes(world: World) -> None:
    data, other = content(2 * C), content(2 * C, 1)
    task = begin(world, world.me, data)
    world.send(world.me, task, 0, data[:C])
    world.send(world.me, task, 0, data[:C])
    before = on_store(world, task)
    with pytest.raises(ChunkConflict):
        world.send(world.me, task, 0, other[:C])
    assert on_store(world, task) == before
    world.send(world.me, task, 1, data[C:])
    assert world.sides() == set()
    file = world.uploads.complete(world.me, task.id)
    assert world.open(world.me, file.id, password=SECRET) == data


def on_store(world: World, task: UploadTask) -> bytes:
    with closing(world.store.open(task.layout.key)) as reader:
        return reader.read_at(0, reader.size)


@pytest.mark.parametrize("fails_at", ["inner commit", "record"])
def test_an_unacknowledged_attempt_binds_its_nonces(
    world: World, fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sealed bytes were on the disk, and nobody was told: others must never follow."""
    data, other = content(2 * C), content(2 * C, 1)
    task = begin(world, world.me, data)
    with monkeypatch.context() as patch:
        _fail(world, patch, fails_at)
        with pytest.raises(StorageFull):
            world.send(world.me, task, 0, data[:C])
    assert world.uploads.status(world.me, task.id).uploaded == []
    left = on_store(world, task)
    world.restart()  # what binds them is not in memory
    with pytest.raises(ChunkConflict):
        world.send(world.me, task, 0, other[:C])
    assert on_store(world, task) == left
    world.send(world.me, task, 0, data[:C])
    world.send(world.me, task, 1, data[C:])
    file = world.uploads.complete(world.me, task.id)
    assert world.open(world.me, file.id, password=SECRET) == data


def _fail(world: World, patch: pytest.MonkeyPatch, where: str) -> None:
    def full(*_: object) -> None:
        raise StorageFull("no space")

    if where == "record":
        patch.setattr(world.catalog, "record_chunk", full)
        return
    slot = type(world.store.slot(begin(world, world.me, content(1, 9)).layout, 0))
    patch.setattr(slot, "commit", full)


def test_a_body_that_never_came_whole_binds_nothing(world: World) -> None:
    data, other = content(2 * C), content(2 * C, 1)
    task = begin(world, world.me, data)
    before = on_store(world, task)
    writer = world.uploads.open_chunk(world.me, task.id, 0)
    assert writer.acquire()
    writer.write(memoryview(other)[: C - 1])
    writer.close()
    assert on_store(world, task) == before, "sealed bytes of an unfinished body were stored"
    world.send_all(world.me, task, data)
    assert world.uploads.complete(world.me, task.id).size == 2 * C


def test_a_wrong_hash_is_told_and_a_new_upload_is_the_way_out(world: World) -> None:
    data = content(2 * C)
    task = begin(world, world.me, data)
    world.send(world.me, task, 0, content(C, 7))
    world.send(world.me, task, 1, data[C:])
    with pytest.raises(HashMismatch):
        world.uploads.complete(world.me, task.id)
    with pytest.raises(ChunkConflict, match="cancel"):
        world.send(world.me, task, 0, data[:C])
    world.uploads.cancel(world.me, task.id)
    file = sealed(world, world.me, data)
    assert world.open(world.me, file.id, password=SECRET) == data


def test_a_damaged_chunk_is_sent_again(world: World) -> None:
    data = content(3 * C)
    task = begin(world, world.me, data)
    world.send_all(world.me, task, data, only=[2, 1])  # nothing can be hashed yet
    _damage(world, task, sealing.stored_layout(task.layout, _head(task)).offset(1) + 5)
    core = world.another()  # it has only what is stored
    core.send(world.me, task, 0, piece(task, data, 0))
    with pytest.raises(ChunksMissing) as missing:
        core.uploads.complete(world.me, task.id)
    assert missing.value.meta == {"missing_chunks": [1]}
    core.send(world.me, task, 1, piece(task, data, 1))
    file = core.uploads.complete(world.me, task.id)
    assert world.open(world.me, file.id, password=SECRET) == data


def _head(task: UploadTask) -> int:
    assert task.seal
    return len(task.seal.head)


def _damage(world: World, task: UploadTask, at: int) -> None:
    """Flip a bit behind everybody's back."""
    store: Any = world.store
    if world.kind == "local":
        path = store.path(task.layout.key)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    else:
        store.upload(task.layout.key).main.content[at] ^= 1


def test_damage_of_a_stored_file_is_found_without_the_password(world: World) -> None:
    task = begin(world, world.me, content(2 * C))
    world.send_all(world.me, task, content(2 * C))
    file = world.uploads.complete(world.me, task.id)
    _damage(world, task, B)
    assert blobs.problem_of(world.store, file.blob)
    with pytest.raises(OSError, match="encrypted"):
        world.open(world.me, file.id, password=SECRET)


# secrets


def test_neither_plaintext_nor_password_nor_key_is_ever_on_disk(tmp_path: Path) -> None:
    world = World(tmp_path, "local")
    marker = b"PLAINTEXT-" + content(22)
    data = (marker * (3 * C // len(marker) + 1))[: 2 * C + 77]
    task = begin(world, world.me, data, file_name="named", password=SECRET)
    world.send(world.me, task, 1, piece(task, data, 1))
    world.send(world.me, task, 0, piece(task, data, 0))
    writer = world.uploads.open_chunk(world.me, task.id, 2)
    assert writer.acquire()
    writer.write(memoryview(piece(task, data, 2))[:50])
    keys = _file_key(task)

    def nothing_leaked() -> bool:
        found = on_disk(tmp_path)
        assert len(found) > len(data)
        return not any(secret in found for secret in (marker, SECRET.encode(), keys))

    assert nothing_leaked()
    writer.close()
    with pytest.raises(ChunksMissing):
        world.uploads.complete(world.me, task.id)
    assert nothing_leaked()
    world.send(world.me, task, 2, piece(task, data, 2))
    assert nothing_leaked()
    file = world.uploads.complete(world.me, task.id)
    assert world.open(world.me, file.id, password=SECRET) == data
    assert nothing_leaked()
    world.close()


def _file_key(task: UploadTask) -> bytes:
    seal = task.seal
    assert seal
    key = KEY.derive("file keys")
    return sealing.Sealing.unwrap(seal.wrapped_key, key, task.id, seal.head).file_key


def test_after_completion_only_the_password_opens_it(world: World) -> None:
    data = content(C)
    task = begin(world, world.me, data)
    assert task.seal
    world.send_all(world.me, task, data)
    world.uploads.complete(world.me, task.id)
    now = world.catalog.task(world.me.account.id, task.id, world.clock())
    assert now is not None
    assert now.seal is None


def test_secrets_do_not_show_in_reprs(world: World) -> None:
    data = content(C)
    new = new_upload(data, password=SECRET)
    task = begin(world, world.me, data)
    assert SECRET not in repr(new)
    assert task.seal
    assert repr(task.seal.wrapped_key) not in repr(task)


# limits


def test_a_full_seal_budget_makes_senders_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(3 * C)
    task = begin(world, world.me, data)
    world.uploads._budget = Budget(C + 4 * B)
    first = world.uploads.open_chunk(world.me, task.id, 0)
    assert first.acquire()
    second = world.uploads.open_chunk(world.me, task.id, 1)
    assert not second.acquire()
    first.close()
    assert second.acquire()
    second.close()
    assert world.uploads._budget.used == 0


def test_too_many_derivations_at_once_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derivations, "WAIT", 0.01)
    monkeypatch.setattr(derivations, "_turns", threading.Semaphore(0))
    with pytest.raises(ServerBusy):
        begin(world, world.me, content(10))
    assert world.all_keys() == set()


def test_chunks_of_an_encrypted_upload_are_whole_blocks(world: World) -> None:
    for asked, answered in ((1, B), (B, B), (B + 1, 2 * B), (1 << 30, 32 << 20)):
        task = begin(world, world.me, content(C), chunk_size=asked, digest=None)
        assert task.layout.chunk_size == answered
    assert sha256(b"")
