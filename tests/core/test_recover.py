"""Recovery: what is whole stays, what is damaged is sent again or named, nothing is invented."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.core.world import CHUNK, OTHER_POOL, World, content, new_upload, piece, sha256
from tests.stores import put
from upwell.catalog import SqlCatalog
from upwell.core import age
from upwell.core.bundles import NewBundle
from upwell.core.ports import Noted
from upwell.errors import TaskClosed
from upwell.jobs.recover import Recovered, Recovery
from upwell.model import (
    DEFAULT_POOL_ID,
    Blob,
    CloudFile,
    Digest,
    Layout,
    TaskStatus,
    UploadTask,
)
from upwell.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def recover(world: World) -> Callable[..., Recovered]:
    def run(*journal: Noted, drop: bool = False) -> Recovered:
        work = Recovery(world.catalog, world.homes, world.clock)
        work.replay(journal)
        return work.check(drop=drop)

    return run


def upload(world: World, data: bytes, seed: int = 0) -> UploadTask:
    made = world.uploads.create(world.me, new_upload(data, file_name=f"{seed}.bin"))
    assert isinstance(made, UploadTask)
    return made


def flip(world: World, key: str, offset: int) -> None:
    """One bit of what is stored, changed behind everyone's back."""
    if isinstance(world.store, MemoryStore):
        world.store.upload(key).main.content[offset] ^= 1
        return
    path = world.folder / "pool" / "blobs" / key[:2] / key
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def truncate(world: World, key: str, size: int) -> None:
    if isinstance(world.store, MemoryStore):
        del world.store.upload(key).main.content[size:]
        return
    with (world.folder / "pool" / "blobs" / key[:2] / key).open("r+b") as file:
        file.truncate(size)


def progress(world: World, task: UploadTask) -> tuple[list[int], int, int]:
    now = world.catalog.task(world.me.account.id, task.id, world.clock())
    assert now is not None
    return world.catalog.chunk_indexes(task.id), now.received_count, now.received_bytes


def test_a_sound_folder_is_well(world: World, recover: Callable[..., Recovered]) -> None:
    world.upload(world.me, content(3 * CHUNK))
    task = upload(world, content(2 * CHUNK, 1))
    world.send(world.me, task, 1, content(CHUNK, 2))
    found = recover()
    assert found == Recovered(uploads=1, chunks=1, blobs=1)
    assert found.well


def test_what_is_read_is_announced(world: World) -> None:
    world.upload(world.me, content(3 * CHUNK))
    task = upload(world, content(2 * CHUNK, 1))
    world.send(world.me, task, 1, content(CHUNK, 2))
    seen: list[int] = []
    work = Recovery(world.catalog, world.homes, world.clock, seen.append)
    assert work.size() == 4 * CHUNK
    work.check()
    assert sum(seen) == 4 * CHUNK


def test_a_damaged_chunk_is_sent_again_and_the_upload_completes(
    world: World, recover: Callable[..., Recovered]
) -> None:
    data = content(3 * CHUNK)
    task = upload(world, data)
    world.send_all(world.me, task, data)
    flip(world, task.layout.key, CHUNK + 1)
    found = recover()
    assert (found.chunks, found.chunks_forgotten, found.well) == (3, 1, True)
    assert progress(world, task) == ([0, 2], 2, 2 * CHUNK)
    world.send(world.me, task, 1, piece(task, data, 1))
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_a_truncated_upload_goes_on_from_what_is_left(
    world: World, recover: Callable[..., Recovered]
) -> None:
    data = content(3 * CHUNK - 5)
    task = upload(world, data)
    world.send_all(world.me, task, data)
    truncate(world, task.layout.key, CHUNK + 3)
    assert recover().chunks_forgotten == 2
    assert progress(world, task)[0] == [0]
    world.send_all(world.me, task, data, [1, 2])
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_a_chunk_without_its_side_object_is_forgotten(
    world: World, recover: Callable[..., Recovered]
) -> None:
    data = content(2 * CHUNK)
    task = upload(world, data)
    world.send(world.me, task, 0, content(CHUNK, 9))
    world.send(world.me, task, 1, piece(task, data, 1))
    world.send(world.me, task, 0, piece(task, data, 0))
    assert recover().chunks_forgotten == 0
    world.store.unstage(task.layout.key)
    assert recover().chunks_forgotten == 1
    assert progress(world, task)[0] == [1]
    world.send(world.me, task, 0, piece(task, data, 0))
    assert world.read(world.me, world.uploads.complete(world.me, task.id).id) == data


def test_an_upload_without_its_bytes_is_closed(
    world: World, recover: Callable[..., Recovered]
) -> None:
    task = upload(world, content(2 * CHUNK))
    world.send(world.me, task, 0, content(CHUNK))
    world.store.delete(task.layout.key)
    assert recover().uploads_closed == 1
    assert world.uploads.tasks(world.me, TaskStatus.CANCELLED, 0, 9).total == 1
    assert recover() == Recovered()


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_file_is_named_and_dropped_only_when_told(
    world: World, recover: Callable[..., Recovered], damage: str
) -> None:
    data = content(3 * CHUNK)
    file, other = world.upload(world.me, data), world.upload(world.me, content(9, 1))
    world.uploads.create(world.me, new_upload(data, file_name="shared"))
    key = file.blob.key
    {
        "flip": lambda: flip(world, key, 2 * CHUNK),
        "truncate": lambda: truncate(world, key, CHUNK),
        "delete": lambda: world.store.delete(key),
    }[damage]()
    keys = world.all_keys()
    found = recover()
    assert sorted((each.name, each.account) for each in found.damaged) == [
        ("a.bin", "me"),
        ("shared", "me"),
    ]
    assert not found.well
    dropped = recover(drop=True)
    assert (len(dropped.dropped), dropped.well) == (2, True)
    assert world.all_keys() == keys  # the sweeper's, not recovery's
    left = world.catalog.files(world.me.account.id, world.clock(), 0, 9)
    assert [each.id for each in left.items] == [other.id]


def test_an_unknown_pool_is_no_reason_to_drop_files(world: World) -> None:
    file = world.upload(world.me, content(9))
    found = Recovery(world.catalog, {}, world.clock).check(drop=True)
    assert (found.pools_unknown, found.well) == ({file.pool_id}, False)
    assert found.dropped == []
    assert world.catalog.file(file.id, world.clock(), world.me.account.id)


class TestJournal:
    """An older catalog, and what the journal says of the time after it."""

    @pytest.fixture
    def old(self, world: World, tmp_path: Path) -> Callable[[], None]:
        """Go back to the catalog as it is now."""
        world.catalog.snapshot(tmp_path / "old")  # type: ignore[attr-defined]

        def back() -> None:
            world.wire(SqlCatalog.open(tmp_path / "old"))

        return back

    def test_a_file_comes_back(self, world: World, old: Callable[[], None], tmp_path: Path) -> None:
        data = content(3 * CHUNK)
        file = world.upload(world.me, data)
        world.close()
        old()
        found = self._replay(world, Noted(file=file))
        assert (found.files_restored, found.well) == (1, True)
        assert world.read(world.me, file.id) == data
        assert self._replay(world, Noted(file=file)).files_restored == 0

    def test_a_file_takes_the_place_of_its_upload(self, world: World, tmp_path: Path) -> None:
        data = content(2 * CHUNK)
        task = upload(world, data)
        world.send(world.me, task, 0, piece(task, data, 0))
        world.catalog.snapshot(tmp_path / "old")  # type: ignore[attr-defined]
        world.send(world.me, task, 1, piece(task, data, 1))
        file = world.uploads.complete(world.me, task.id)
        world.close()
        world.wire(SqlCatalog.open(tmp_path / "old"))
        assert self._replay(world, Noted(file=file)).files_restored == 1
        assert list(world.catalog.open_tasks()) == []
        assert world.uploads.complete(world.me, task.id).id == file.id

    def test_files_that_share_bytes_come_back_sharing_them(
        self, world: World, old: Callable[[], None]
    ) -> None:
        first = world.upload(world.me, content(9))
        second = world.uploads.create(world.me, new_upload(content(9), file_name="b"))
        assert isinstance(second, CloudFile)
        world.close()
        old()
        assert self._replay(world, Noted(file=second), Noted(file=first)).files_restored == 2
        assert len(list(world.catalog.blobs())) == 1

    @pytest.mark.parametrize("how", ["flip", "delete", "noted", "expired"])
    def test_what_is_not_whole_or_was_deleted_stays_away(
        self, world: World, old: Callable[[], None], how: str
    ) -> None:
        soon = world.clock() + timedelta(hours=1)
        file = world.upload(world.me, content(3 * CHUNK), expired_at=soon)
        notes = [Noted(file=file)]
        if how == "flip":
            flip(world, file.blob.key, 1)
        elif how == "delete":
            world.store.delete(file.blob.key)
        elif how == "noted":
            notes.append(Noted(deleted=file.id, account_id=file.account_id))
        else:
            world.clock.advance(hours=2)
        world.close()
        old()
        assert self._replay(world, *notes).files_restored == 0
        assert list(world.catalog.blobs()) == []

    def test_garbage_is_not_brought_back(self, world: World) -> None:
        file = world.upload(world.me, content(9))
        assert world.catalog.delete_file(file.id, file.account_id, world.clock())
        assert self._replay(world, Noted(file=file)).files_restored == 0

    def test_accounts_and_tokens(self, world: World, old: Callable[[], None]) -> None:
        secret = world.accounts.issue(world.me.account, "t", scopes=world.me.scopes)
        new = world.person("new").account
        (token,) = world.catalog.tokens(world.me.account.id)
        world.close()
        old()
        self._replay(world, Noted(account=new), Noted(token=token), Noted(account=new))
        assert world.catalog.account("new") == new
        assert world.accounts.authenticate(secret).account == world.me.account
        self._replay(world, Noted(revoked=token.id, account_id=world.me.account.id))
        (revoked,) = world.catalog.tokens(world.me.account.id)
        assert revoked.revoked_at is not None

    def test_what_was_closed_since_is_not_open_again(self, world: World, tmp_path: Path) -> None:
        """A passcode, a policy, a bundle that was left, the recycle bin, an end."""
        me = world.me
        bundle = world.bundles.create(me, NewBundle("b", slug="shared"))
        inside = [world.upload(me, content(9, n), bundle_id=bundle.id) for n in range(3)]
        world.set_policy(OTHER_POOL, allow_anonymous=True)
        world.set_policy(enable_recycle=True)
        world.catalog.snapshot(tmp_path / "old")  # type: ignore[attr-defined]
        world.clock.advance(minutes=1)
        end = world.clock() + timedelta(hours=1)
        passcode = {"passcode": "secret", "expired_at": end}
        journal = [
            Noted(bundle=bundle),
            Noted(bundle=world.bundles.update(me, bundle.id, passcode)),
        ]
        world.clock.advance(minutes=1)
        world.bundles.place(me, inside[0].id, None)
        world.files.rename(me, inside[1].id, "renamed")
        world.files.delete(me, inside[2].id)
        world.set_policy(OTHER_POOL, allow_anonymous=False)
        world.catalog.set_quota(me.account.id, 5)
        account = world.catalog.account("me")
        after = [world.catalog.any_file(file.id) for file in inside]
        journal += [Noted(pool=world.catalog.pool(OTHER_POOL)), Noted(account=account)]
        journal += [Noted(file=file) for file in (*inside, *after)]
        world.close()
        world.wire(SqlCatalog.open(tmp_path / "old"))
        assert self._replay(world, *journal).files_restored == 0
        told, found = (
            journal[1].bundle,
            world.catalog.bundle(bundle.id, me.account.id, world.clock()),
        )
        assert told is not None
        assert found is not None
        assert replace(found, revision=told.revision) == told, "replaying counts changes again"
        assert world.catalog.pool(OTHER_POOL) == journal[2].pool
        assert world.catalog.account("me") == account
        for file, there in zip(after, [world.catalog.any_file(f.id) for f in inside], strict=True):
            assert file is not None
            assert there is not None
            assert replace(there, updated_at=file.updated_at) == file

    @staticmethod
    def _replay(world: World, *journal: Noted) -> Recovered:
        work = Recovery(world.catalog, world.homes, world.clock)
        work.replay(journal)
        return work.check()


def test_a_chunk_row_that_fits_no_upload_is_forgotten(world: World) -> None:
    task = upload(world, content(2 * CHUNK))
    world.send(world.me, task, 1, content(CHUNK))
    (chunk,) = world.catalog.chunks(task.id).all()
    smaller = Layout(task.layout.key, CHUNK, CHUNK)
    assert world.store.check_chunk(task.layout, chunk)
    assert not world.store.check_chunk(smaller, chunk)
    assert not world.store.check_chunk(task.layout, replace(chunk, size=1))


# what the journal says of files that are recycled, moved or re-keyed, and of what shares them


def test_a_recycled_file_stays_in_the_bin(world: World, recover: Callable[..., Recovered]) -> None:
    world.set_policy(enable_recycle=True)
    file = world.upload(world.me, content(20))
    world.files.delete(world.me, file.id)
    found = recover(Noted(file=file))
    assert (found.well, found.files_restored) == (True, 0)
    assert world.files.mine(world.me, 0, 9).items == []
    assert world.files.restore(world.me, file.id).id == file.id


def test_a_file_is_found_where_it_was_moved_to(
    world: World, recover: Callable[..., Recovered]
) -> None:
    """The snapshot knows the old place, whose bytes are gone; the journal the new one."""
    world.set_policy(OTHER_POOL, accept_types=())
    file = world.upload(world.me, content(20))
    target = world.homes[OTHER_POOL].store
    blob = replace(file.blob, id="moved", pool_id=OTHER_POOL, key=put(target, content(20)))
    world.store.delete(file.blob.key)
    found = recover(Noted(file=replace(file, pool_id=OTHER_POOL, blob=blob)))
    assert (found.well, found.files_restored) == (True, 1)
    assert world.read(world.me, file.id) == content(20)


def test_a_file_is_found_under_its_new_key(world: World, recover: Callable[..., Recovered]) -> None:
    file = world.upload(world.me, content(20))
    blob = replace(file.blob, key=put(world.store, content(20)))
    world.store.delete(file.blob.key)
    assert recover(Noted(file=replace(file, blob=blob))).well
    assert world.read(world.me, file.id) == content(20)


def test_a_removed_bundle_does_not_come_back(
    world: World, recover: Callable[..., Recovered]
) -> None:
    kept = world.bundles.create(world.me, NewBundle("kept", slug="kept"))
    gone = world.bundles.create(world.me, NewBundle("gone", slug="gone"))
    journal = [Noted(bundle=kept), Noted(bundle=gone)]
    for bundle in (kept, gone):
        assert world.catalog.delete_bundle(bundle.id, world.me.account.id, world.clock())
    recover(*journal, Noted(removed=gone.id, account_id=world.me.account.id))
    assert [each.slug for each in world.bundles.mine(world.me, 0, 9).items] == ["kept"]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_file_that_had_left_a_bundle_does_not_go_with_it(
    world: World, recover: Callable[..., Recovered], *, elsewhere: bool
) -> None:
    gone = world.bundles.create(world.me, NewBundle("gone", slug="gone"))
    kept = world.bundles.create(world.me, NewBundle("kept", slug="kept"))
    file = world.upload(world.me, content(9), bundle_id=gone.id)
    later, bundle_id = file.updated_at + timedelta(minutes=1), kept.id if elsewhere else None
    left = replace(file, bundle_id=bundle_id, updated_at=later)
    recover(Noted(file=left), Noted(removed=gone.id, account_id=world.me.account.id))
    assert world.files.info(world.me, file.id).bundle_id == bundle_id
    assert world.read(world.me, file.id) == content(9)


def test_encrypted_files_and_uploads_are_checked_without_their_passwords(
    world: World, recover: Callable[..., Recovered], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(age, "LOG_N", 1)
    size = 3 * age.BLOCK
    asked = {"password": "p", "chunk_size": age.BLOCK}
    whole = world.upload(world.me, content(size), **asked)
    damaged = world.upload(world.me, content(size, 1), **asked)
    made = world.uploads.create(world.me, new_upload(content(size, 2), **asked))
    assert isinstance(made, UploadTask)
    world.send_all(world.me, made, content(size, 2))
    flip(world, damaged.blob.key, age.BLOCK)
    flip(world, made.layout.key, 2 * age.BLOCK)
    found = recover()
    assert [each.id for each in found.damaged] == [damaged.id]
    assert (found.blobs, found.chunks, found.chunks_forgotten) == (2, 3, 1)
    assert progress(world, made)[0] == [0, 2]
    assert world.open(world.me, whole.id, password="p") == content(size)


def test_an_encrypted_upload_that_may_have_been_sealed_from_other_bytes_is_closed_i9(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunk came after the snapshot: what it was sealed from is not known any more."""
    monkeypatch.setattr(age, "LOG_N", 1)
    asked = {"password": "p", "chunk_size": age.BLOCK}
    made = world.uploads.create(world.me, new_upload(content(2 * age.BLOCK), **asked))
    assert isinstance(made, UploadTask)
    world.catalog.snapshot(tmp_path / "old")  # type: ignore[attr-defined]
    world.send(world.me, made, 0, content(age.BLOCK))
    world.close()
    world.wire(SqlCatalog.open(tmp_path / "old"))
    assert Recovery(world.catalog, world.homes, world.clock).check().uploads_closed == 1
    with pytest.raises(TaskClosed):
        world.send(world.me, made, 0, content(age.BLOCK, 1))


def test_an_encrypted_upload_is_closed_where_its_disk_is_not_there_i9(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk is back, it would take other bytes."""
    monkeypatch.setattr(age, "LOG_N", 1)
    asked = {"password": "p", "chunk_size": age.BLOCK}
    made = world.uploads.create(world.me, new_upload(content(2 * age.BLOCK), **asked))
    assert isinstance(made, UploadTask)
    world.send(world.me, made, 0, content(age.BLOCK))
    found = Recovery(world.catalog, {}, world.clock).check()
    assert found.uploads_closed == 1
    assert list(world.catalog.open_tasks()) == []


def test_a_tightened_policy_counts_whoever_has_the_pools_name(
    world: World, recover: Callable[..., Recovered]
) -> None:
    """The name was another pool's, whose end the journal does not tell of."""
    world.set_policy(OTHER_POOL, allow_anonymous=True)
    pool = world.homes[OTHER_POOL].pool
    taken = world.homes[DEFAULT_POOL_ID].pool.name
    policy = replace(pool.policy, allow_anonymous=False)
    later = pool.updated_at + timedelta(minutes=1)
    recover(Noted(pool=replace(pool, name=taken, policy=policy, updated_at=later)))
    found = world.catalog.pool(OTHER_POOL)
    assert found is not None
    assert (found.name, found.policy.allow_anonymous) == (pool.name, False)


def test_a_new_passcode_counts_whoever_has_the_bundles_slug(
    world: World, recover: Callable[..., Recovered]
) -> None:
    world.bundles.create(world.me, NewBundle("other", slug="taken"))
    bundle = world.bundles.create(world.me, NewBundle("b", slug="mine"))
    later = bundle.updated_at + timedelta(minutes=1)
    recover(Noted(bundle=replace(bundle, slug="taken", passcode_hash="x", updated_at=later)))
    found = world.bundles.get(world.me, bundle.id)
    assert (found.slug, found.passcode_hash) == ("mine", "x")


def test_a_file_that_was_changed_does_not_outlive_its_bundle_that_was_cut_later(
    world: World, recover: Callable[..., Recovered]
) -> None:
    bundle = world.bundles.create(world.me, NewBundle("b", slug="s"))
    file = world.upload(world.me, content(9), bundle_id=bundle.id)
    renamed = replace(file, name="new", updated_at=file.updated_at + timedelta(minutes=1))
    end = world.clock() + timedelta(hours=1)
    cut = replace(bundle, expired_at=end, updated_at=file.updated_at + timedelta(minutes=2))
    recover(Noted(file=renamed), Noted(bundle=cut))
    found = world.files.info(world.me, file.id)
    assert (found.name, found.expired_at) == ("new", end)


def test_a_file_whose_upload_was_given_more_time_since_comes_back(
    world: World, recover: Callable[..., Recovered]
) -> None:
    """The snapshot's task ended before the file was made."""
    data, soon = content(9), world.clock() + timedelta(hours=1)
    task = world.uploads.create(world.me, new_upload(data, expired_at=soon))
    assert isinstance(task, UploadTask)
    world.send_all(world.me, task, data)
    made = world.clock() + timedelta(hours=2)
    digests = {"sha256": hashlib.sha256(data).hexdigest()}
    blob = Blob("b", task.pool_id, task.layout.key, len(data), digests, made)
    file = CloudFile(
        id="f", account_id=task.account_id, pool_id=task.pool_id, bundle_id=None, blob=blob,
        name="a", mime_type="a/b", digest=Digest("sha256", digests["sha256"]), expired_at=None,
        created_at=made, updated_at=made,
    )  # fmt: skip
    world.clock.advance(hours=3)
    assert recover(Noted(file=file)).files_restored == 1
    assert world.read(world.me, "f") == data


@pytest.mark.parametrize("recovered", [True, False])
def test_a_digest_of_a_lost_time_is_not_taken_for_that_of_now_i4(
    world: World, recover: Callable[..., Recovered], *, recovered: bool
) -> None:
    """The snapshot does not know that chunk 0 was replaced; the digest's memo does. Replaced by
    yet other bytes, it has the same revision."""
    tail, snapshot = content(CHUNK, 1), world.folder / "snapshot"
    task = _undeclared(world)
    world.send(world.me, task, 0, content(CHUNK, 2))
    world.send(world.me, task, 1, tail)
    assert isinstance(world.catalog, SqlCatalog)
    world.catalog.snapshot(snapshot)
    world.send(world.me, task, 0, content(CHUNK, 3))
    world.close()
    for path in world.folder.glob("catalog.sqlite*"):
        path.unlink()
    snapshot.rename(world.folder / "catalog.sqlite")
    world.restart()
    if recovered:
        found = recover()
        assert (found.well, found.chunks_forgotten) == (True, 0)
        with closing(world.store.reader(task.layout)) as reader:
            assert reader.recall() == b""
    world.send(world.me, task, 0, content(CHUNK, 4))
    file = world.uploads.complete(world.me, task.id)
    assert world.read(world.me, file.id) == content(CHUNK, 4) + tail
    assert file.digest == sha256(content(CHUNK, 4) + tail)


def _undeclared(world: World) -> UploadTask:
    made = world.uploads.create(world.me, new_upload(content(2 * CHUNK), digest=None))
    assert isinstance(made, UploadTask)
    return made
