"""Pools: every field of a policy before any side effect, quota to the byte, and their verbs."""

from __future__ import annotations

import multiprocessing
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.world import (
    OTHER_POOL,
    Core,
    FakeClock,
    Recorder,
    World,
    content,
    new_upload,
    open_catalog,
)
from tests.harness import together
from tests.stores import put
from upwell.core.homes import Home, Homes
from upwell.core.pools import NewPool, Pools, Registry
from upwell.errors import (
    EncryptionNotAllowed,
    FileNotFound,
    FileTooLarge,
    PoolExists,
    PoolInUse,
    PoolNotFound,
    QuotaExceeded,
    ScopeMissing,
    TypeNotAccepted,
    UpwellError,
    ValidationFailed,
)
from upwell.model import (
    DEFAULT_POOL_ID,
    CloudFile,
    JobKind,
    Policy,
    Pool,
    Principal,
    Scope,
    UploadTask,
    Usage,
)
from upwell.stores.local import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier

    from upwell.core.ports import BlobStore

NOBODYS = "00000000-0000-4000-8000-00000000ffff"
MINE = "00000000-0000-4000-8000-0000000000aa"
PROCESSES = 3


def create(core: Core, who: Principal, data: bytes, **fields: Any) -> UploadTask | CloudFile:
    return core.uploads.create(who, new_upload(data, **fields))


def direct(core: Core, who: Principal, data: bytes, **fields: Any) -> CloudFile:
    return core.uploads.store_direct(who, new_upload(data, **fields), data)


WAYS = [create, direct]


def with_quota(world: World, who: Principal, quota: int | None) -> Principal:
    world.catalog.set_quota(who.account.id, quota)
    return replace(who, account=replace(who.account, quota=quota))


def watched(world: World) -> tuple[Core, Recorder, Recorder]:
    """A process whose catalog and stores remember what they were asked."""
    catalog, store = Recorder(world.catalog), Recorder(world.store)
    homes = {pool_id: Home(home.pool, store) for pool_id, home in world.homes.items()}
    return world.another(catalog, homes), catalog, store


def task_of(made: UploadTask | CloudFile) -> UploadTask:
    assert isinstance(made, UploadTask)
    return made


# every field, before any side effect


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("policy", "fields", "error"),
    [
        ({"max_file_size": 9}, {}, FileTooLarge),
        ({"accept_types": ("image/*",)}, {"content_type": "text/plain"}, TypeNotAccepted),
        ({"accept_types": ("image/png",)}, {"content_type": "image/jpeg"}, TypeNotAccepted),
        ({"accept_types": ("image/png",)}, {"content_type": "image"}, TypeNotAccepted),
        (
            {"accept_types": ("text/*",)},
            {"content_type": "text/plain", "file_name": "notes.txt.GZ"},
            TypeNotAccepted,
        ),
        ({"allow_encryption": False}, {"password": "secret"}, EncryptionNotAllowed),
        ({"public_usable": False}, {}, PoolNotFound),
        ({}, {"pool_id": NOBODYS}, PoolNotFound),
    ],
)
def test_policy_refuses_before_anything_is_touched_i5(
    small: World,
    way: Callable[..., object],
    policy: dict[str, Any],
    fields: dict[str, Any],
    error: type[UpwellError],
) -> None:
    small.set_policy(**policy)
    core, catalog, store = watched(small)
    with pytest.raises(error):
        way(core, small.me, content(10), **fields)
    assert (catalog.calls, store.calls) == ([], [])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whose", ["pool", "account"])
def test_quota_refuses_before_anything_is_written_i5(
    small: World, way: Callable[..., object], whose: str
) -> None:
    who = with_quota(small, small.me, 9 if whose == "account" else None)
    small.set_policy(quota=9 if whose == "pool" else None)
    core, catalog, store = watched(small)
    with pytest.raises(QuotaExceeded) as refused:
        way(core, who, content(10))
    told = 0 if whose == "account" else None
    assert refused.value.meta == {"scope": whose, "quota": 9, "used": told, "needed": 10}
    reads = {"duplicates", "task_by_identity", "pool_usage", "usage"}
    assert set(catalog.calls) <= reads
    assert set(store.calls) <= {"limits"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whose", ["pool", "account"])
def test_an_empty_file_fits_where_too_much_is_held_already(
    small: World, way: Callable[..., object], whose: str
) -> None:
    way(small, small.me, content(10))
    who = with_quota(small, small.me, 9 if whose == "account" else None)
    small.set_policy(quota=9 if whose == "pool" else None)
    way(small, who, b"")
    with pytest.raises(QuotaExceeded):
        way(small, who, content(1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("policy", "fields"),
    [
        ({"max_file_size": 10}, {}),
        ({"accept_types": ("image/*",)}, {"content_type": "Image/PNG; q=1"}),
        ({"accept_types": ("*/*",)}, {"content_type": "text/plain"}),
        ({"accept_types": ("text/plain", "image/png")}, {"content_type": "image/png"}),
        ({"accept_types": ("image/jpeg",)}, {"content_type": "image/jpg"}),
        ({"accept_types": ("audio/x-wav",)}, {"content_type": "audio/wav"}),
        (
            {"accept_types": ("application/x-gzip",)},
            {"content_type": "text/plain", "file_name": "notes.txt.gz"},
        ),
        ({"quota": 10}, {}),
    ],
)
def test_what_just_fits_is_taken(
    small: World, way: Callable[..., object], policy: dict[str, Any], fields: dict[str, Any]
) -> None:
    small.set_policy(**policy)
    way(small, small.me, content(10), **fields)


@pytest.mark.parametrize("way", WAYS)
def test_a_pool_that_is_not_public_is_for_its_owner_and_admins(
    small: World, way: Callable[..., object]
) -> None:
    boss = small.person("boss", admin=True)
    small.add_pool(MINE, "mine", Policy(), account_id=small.me.account.id)
    for number, who in enumerate((small.me, boss)):
        way(small, who, content(10, number), pool_id=MINE)
        assert MINE in {pool.id for pool in small.pools.visible(who)}
        assert small.pools.get(who, MINE).name == "mine"
    with pytest.raises(PoolNotFound) as hidden:
        way(small, small.stranger, content(10), pool_id=MINE)
    with pytest.raises(PoolNotFound) as unknown:
        way(small, small.stranger, content(10), pool_id=NOBODYS)
    assert hidden.value.message == unknown.value.message
    assert MINE not in {pool.id for pool in small.pools.visible(small.stranger)}
    with pytest.raises(PoolNotFound):
        small.pools.get(small.stranger, MINE)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("asked", "becomes"), [(None, 3), (timedelta(hours=1), 1), (timedelta(hours=9), 3)]
)
def test_a_file_lives_no_longer_than_its_pool_lets_it(
    small: World, way: Callable[..., object], asked: timedelta | None, becomes: int
) -> None:
    small.set_policy(file_expiry=timedelta(hours=3))
    now = small.clock()
    made: Any = way(small, small.me, content(10), expired_at=asked and now + asked)
    assert made.expired_at == now + timedelta(hours=becomes)


def test_a_change_of_policy_does_not_touch_what_is_there(small: World) -> None:
    file = small.upload(small.me, content(20))
    task = task_of(create(small, small.me, content(20, 1)))
    small.set_policy(
        max_file_size=1, accept_types=("image/*",), public_usable=False, quota=1,
        file_expiry=timedelta(seconds=1),
    )  # fmt: skip
    small.clock.advance(hours=1)
    assert small.read(small.me, file.id) == content(20)
    small.send_all(small.me, task, content(20, 1))
    assert small.uploads.complete(small.me, task.id).size == 20


# quota, to the byte


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whose", ["pool", "account"])
def test_reserved_bytes_count(small: World, way: Callable[..., object], whose: str) -> None:
    me = with_quota(small, small.me, 100 if whose == "account" else None)
    small.set_policy(quota=100 if whose == "pool" else None)
    direct(small, me, content(30))
    task = task_of(create(small, me, content(50, 1)))
    with pytest.raises(QuotaExceeded) as refused:
        way(small, me, content(21, 2))
    told = 80 if whose == "account" else None
    assert refused.value.meta == {"scope": whose, "quota": 100, "used": told, "needed": 21}
    way(small, me, content(20, 3))
    with pytest.raises(QuotaExceeded):
        way(small, me, content(1, 4))
    way(small, me, b"", digest=None)
    small.uploads.cancel(me, task.id)
    way(small, me, content(50, 5))


def test_completing_changes_what_is_held_by_nothing(small: World) -> None:
    small.set_policy(quota=40)
    task = task_of(create(small, small.me, content(40)))
    account = small.me.account.id
    assert small.catalog.usage(account)[DEFAULT_POOL_ID] == Usage(0, 40, 0)
    small.send_all(small.me, task, content(40))
    small.uploads.complete(small.me, task.id)
    assert small.catalog.usage(account)[DEFAULT_POOL_ID] == Usage(40, 0, 1)


def test_bytes_that_files_share_count_once(small: World) -> None:
    small.set_policy(quota=10)
    first = direct(small, small.me, content(10))
    second = direct(small, small.me, content(10), file_name="b")
    assert first.id != second.id
    assert small.catalog.pool_usage(DEFAULT_POOL_ID) == Usage(10, 0, 2)
    small.files.delete(small.me, first.id)
    assert small.catalog.pool_usage(DEFAULT_POOL_ID) == Usage(10, 0, 1)
    small.files.delete(small.me, second.id)
    assert small.catalog.pool_usage(DEFAULT_POOL_ID) == Usage()
    direct(small, small.me, content(10, 1))


def test_resuming_needs_no_more_room(small: World) -> None:
    small.set_policy(quota=10)
    task = task_of(create(small, small.me, content(10)))
    assert task_of(create(small, small.me, content(10))).id == task.id


def test_a_pools_quota_is_for_all_accounts_and_an_accounts_for_all_pools(small: World) -> None:
    small.set_policy(quota=30)
    direct(small, small.stranger, content(20))
    with pytest.raises(QuotaExceeded):
        direct(small, small.me, content(11, 1))
    me = with_quota(small, small.me, 30)
    direct(small, me, content(10, 2))
    direct(small, me, content(20, 3), pool_id=OTHER_POOL, content_type="image/png")
    with pytest.raises(QuotaExceeded) as refused:
        direct(small, me, content(1, 4), pool_id=OTHER_POOL, content_type="image/png")
    assert refused.value.meta is not None
    assert refused.value.meta["scope"] == "account"


@pytest.mark.parametrize("way", WAYS)
def test_threads_race_for_the_last_byte(world: World, way: Callable[..., object]) -> None:
    world.set_policy(quota=8 * 10 + 9)

    def work(number: int) -> bool:
        try:
            way(world, world.me, content(10, number))
        except QuotaExceeded:
            return False
        return True

    taken = together([lambda n=n: work(n) for n in range(16)])  # type: ignore[misc]
    assert sum(taken) == 8
    held = world.catalog.pool_usage(DEFAULT_POOL_ID)
    assert held.total == 80
    assert len(world.all_keys()) == 8  # who was refused in the end has left no bytes


def _race(path: str, number: int, gate: Barrier, out: Queue[int]) -> None:
    clock, folder = FakeClock(), Path(path)
    with closing(open_catalog(folder)) as catalog:
        homes = Homes(catalog, lambda _: LocalStore(folder / "pool", min_free=0))
        core, taken = Core(catalog, homes, clock), 0
        account = catalog.account("me")
        assert account is not None
        who = Principal(account, frozenset(Scope), "t")
        gate.wait(60)
        for each in range(20):
            try:
                (create, direct)[each % 2](core, who, content(10, 100 * number + each))
                taken += 1
            except QuotaExceeded:
                break
        core.uploads.close()
    out.put(taken)


@pytest.mark.slow
def test_processes_race_for_the_last_byte(tmp_path: Path) -> None:
    world = World(tmp_path, "local")
    world.set_policy(quota=10 * 25 + 9)
    spawn = multiprocessing.get_context("spawn")
    gate, out = spawn.Barrier(PROCESSES), spawn.Queue()
    processes = [
        spawn.Process(target=_race, args=(str(tmp_path), number, gate, out))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    taken = [out.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert sum(taken) == 25
    assert world.catalog.pool_usage(DEFAULT_POOL_ID).total == 250
    assert len(world.all_keys()) == 25
    out.close()
    out.join_thread()
    world.close()


# usage and quota


def test_holdings_are_the_callers_own(small: World) -> None:
    me = with_quota(small, small.me, 1000)
    direct(small, me, content(10))
    create(small, me, content(20, 1))
    direct(small, me, content(30, 2), pool_id=OTHER_POOL, content_type="image/png")
    direct(small, small.stranger, content(5, 3))
    held = small.pools.holdings(me)
    assert {(each.pool.name, each.usage) for each in held.pools} == {
        ("default", Usage(10, 20, 1)),
        ("other", Usage(30, 0, 1)),
    }
    assert (held.used, held.quota) == (60, 1000)
    assert small.pools.holdings(small.stranger).used == 5


def test_the_servers_quota_is_for_accounts_without_one(small: World) -> None:
    assert isinstance(small.homes, Homes)
    pools = Pools(small.catalog, small.homes, small.clock, account_quota=70)
    assert pools.holdings(small.me).quota == 70
    assert pools.holdings(with_quota(small, small.me, 0)).quota == 0
    assert small.pools.holdings(small.stranger).quota is None


def test_a_pool_that_an_account_may_not_use_any_more_counts_on(small: World) -> None:
    direct(small, small.me, content(10), pool_id=OTHER_POOL, content_type="image/png")
    small.set_policy(OTHER_POOL, public_usable=False)
    assert [each.pool.name for each in small.pools.holdings(small.me).pools] == ["default", "other"]
    assert [each.pool.name for each in small.pools.holdings(small.stranger).pools] == ["default"]


def test_what_all_hold_is_told_to_admins(small: World) -> None:
    direct(small, small.me, content(10))
    direct(small, small.stranger, content(10))
    boss = small.person("boss", admin=True)
    assert small.pools.pool_usage(boss, DEFAULT_POOL_ID).usage == Usage(20, 0, 2)
    with pytest.raises(ScopeMissing):
        small.pools.pool_usage(small.me, DEFAULT_POOL_ID)
    with pytest.raises(PoolNotFound):
        small.pools.pool_usage(boss, NOBODYS)


# the verbs of an admin


def test_only_admins_change_pools(small: World) -> None:
    boss = replace(small.person("boss", admin=True), scopes=frozenset({Scope.READ, Scope.WRITE}))
    for who in (small.me, boss):
        with pytest.raises(ScopeMissing):
            small.pools.create(who, NewPool("x", Policy()))
        with pytest.raises(ScopeMissing):
            small.pools.update(who, OTHER_POOL, "x", {})
        with pytest.raises(ScopeMissing):
            small.pools.delete(who, OTHER_POOL)
    assert [pool.name for pool in small.catalog.pools()] == ["default", "other"]


def test_a_pool_is_made_changed_and_removed(small: World) -> None:
    boss = small.person("boss", admin=True)
    types = ("Image/PNG", "image/png", "video/*")
    pool = small.pools.create(boss, NewPool(" films ", Policy(accept_types=types, quota=5)))
    assert (pool.name, pool.account_id, pool.path) == ("films", boss.account.id, None)
    assert pool.policy == Policy(accept_types=("image/png", "video/*"), quota=5)
    small.clock.advance(hours=1)
    changed = small.pools.update(boss, pool.id, None, {"quota": None, "no_metadata": True})
    assert changed.policy == Policy(accept_types=("image/png", "video/*"), no_metadata=True)
    assert (changed.created_at, changed.updated_at) == (pool.created_at, small.clock())
    assert small.pools.update(boss, pool.id, "reels", {}).name == "reels"
    with pytest.raises(PoolExists):
        small.pools.update(boss, pool.id, "default", {})
    with pytest.raises(PoolExists):
        small.pools.create(boss, NewPool("reels", Policy()))
    small.pools.delete(boss, pool.id)
    with pytest.raises(PoolNotFound):
        small.pools.delete(boss, pool.id)
    with pytest.raises(PoolNotFound):
        small.pools.update(boss, pool.id, "x", {})
    with pytest.raises(PoolNotFound):
        small.pools.get(boss, pool.id)


@pytest.mark.parametrize(
    ("name", "policy", "field"),
    [
        ("", {}, "name"),
        (" ", {}, "name"),
        ("x" * 101, {}, "name"),
        ("a\nb", {}, "name"),
        ("a\n", {}, "name"),
        ("x", {"accept_types": ("image",)}, "accept_types"),
        ("x", {"accept_types": ("*/png",)}, "accept_types"),
        ("x", {"accept_types": ("image/*\n",)}, "accept_types"),
        ("x", {"accept_types": ("",)}, "accept_types"),
        ("x", {"accept_types": ("a/b",) * 101}, "accept_types"),
        ("x", {"max_file_size": -1}, "max_file_size"),
        ("x", {"quota": -1}, "quota"),
        ("x", {"quota": 1 << 63}, "quota"),
        ("x", {"file_expiry": timedelta()}, "file_expiry"),
        ("x", {"file_expiry": timedelta.max}, "file_expiry"),
    ],
)
def test_what_makes_no_sense_is_refused(
    small: World, name: str, policy: dict[str, Any], field: str
) -> None:
    boss = small.person("boss", admin=True)
    verbs: tuple[Callable[[], object], ...] = (
        lambda: small.pools.create(boss, NewPool(name, Policy(**policy))),
        lambda: small.pools.update(boss, OTHER_POOL, name, policy),
    )
    for verb in verbs:
        with pytest.raises(ValidationFailed) as refused:
            verb()
        assert list(refused.value.errors or {}) == [field]
    assert [pool.name for pool in small.catalog.pools()] == ["default", "other"]


def test_a_pool_in_use_stays(small: World) -> None:
    boss = small.person("boss", admin=True)
    pool = small.pools.create(boss, NewPool("x", Policy(public_usable=True, enable_recycle=True)))
    task = task_of(create(small, small.me, content(10), pool_id=pool.id))
    file = direct(small, small.stranger, content(10), pool_id=pool.id)

    def refused() -> None:
        with pytest.raises(PoolInUse):
            small.pools.delete(boss, pool.id)

    refused()
    small.uploads.cancel(small.me, task.id)
    refused()
    small.files.delete(small.stranger, file.id)
    refused()  # it is in the recycle bin
    small.files.delete(small.stranger, file.id)
    small.pools.delete(boss, pool.id)
    with pytest.raises(PoolNotFound):
        create(small, small.me, content(10), pool_id=pool.id)


def test_the_default_pool_stays(small: World) -> None:
    boss = small.person("boss", admin=True)
    with pytest.raises(PoolInUse):
        small.pools.delete(boss, DEFAULT_POOL_ID)
    create(small, small.me, content(10))


def test_a_removed_pool_leaves_no_bytes(small: World) -> None:
    boss = small.person("boss", admin=True)
    pool = small.pools.create(boss, NewPool("x", Policy(public_usable=True)))
    file = direct(small, small.me, content(10), pool_id=pool.id)
    store = small.homes[pool.id].store
    small.catalog.delete_file(file.id, small.me.account.id, small.clock())
    assert [key for key, _ in store.list_keys()] == [file.blob.key]
    small.pools.delete(boss, pool.id)
    assert list(store.list_keys()) == []
    assert small.catalog.garbage(10) == []


# where a pool may be put


class Places:
    """A catalog with pools on real folders."""

    def __init__(self, world: World, folder: Path) -> None:
        self.data, self.roots = folder / "data", folder / "roots"
        for each in (self.data, self.roots):
            each.mkdir()
        homes = Homes(world.catalog, self._open)
        occupied = (self.data.resolve(),)
        self.registry = Registry(world.catalog, homes, world.clock, occupied=occupied)
        self.pools = Pools(
            world.catalog, homes, world.clock, roots=(self.roots,), occupied=occupied
        )
        self.boss = world.person("boss", admin=True)

    def _open(self, pool: Pool) -> BlobStore:
        return LocalStore(Path(pool.path or self.data / pool.id), min_free=0)

    def refused(self, path: object) -> str:
        with pytest.raises(ValidationFailed) as refused:
            self.pools.create(self.boss, NewPool("x", Policy(), str(path)))
        with pytest.raises(ValidationFailed):
            self.pools.create(self.boss, NewPool("x", Policy(), str(path)))
        assert list(refused.value.errors or {}) == ["path"]
        return refused.value.message


@pytest.fixture
def places(small: World, tmp_path: Path) -> Places:
    return Places(small, tmp_path)


def test_over_the_api_a_pool_is_put_into_the_roots_only(places: Places, tmp_path: Path) -> None:
    (places.roots / "out").symlink_to(tmp_path)
    inside = places.roots / "films"
    for outside in ("films", "/", tmp_path / "x", inside / ".." / ".." / "x", places.roots / "out"):
        places.refused(outside)
    for impossible in (f"{inside}\0", f"{inside}/{'x' * 300}"):
        places.refused(impossible)
    pool = places.pools.create(places.boss, NewPool("films", Policy(), str(inside)))
    assert pool.path == str(inside.resolve())
    assert places.registry.create(NewPool("y", Policy(), str(tmp_path / "y"))).account_id is None


def test_no_two_pools_share_a_folder(places: Places, tmp_path: Path) -> None:
    """What sweeps the one would take the bytes of the other for strays."""
    inside = places.roots / "films"
    places.pools.create(places.boss, NewPool("films", Policy(), str(inside)))
    (places.roots / "same").symlink_to(inside)
    for path in (inside, inside / "sub", places.roots, places.roots / "same"):
        assert "overlap" in places.refused(path)
    for path in (tmp_path, places.data, places.data / "pools" / "x"):
        with pytest.raises(ValidationFailed, match="overlap"):
            places.registry.create(NewPool("x", Policy(), str(path)))


def test_a_folder_with_the_bytes_of_another_server_is_refused(places: Places) -> None:
    folder = places.roots / "films"
    put(LocalStore(folder, min_free=0), b"theirs")
    assert "holds files" in places.refused(folder)
    known = NewPool("films", Policy(), str(folder), NOBODYS)
    assert places.registry.create(known).id == NOBODYS  # said to be the pool of those bytes


def test_a_folder_that_cannot_be_used_is_refused(places: Places) -> None:
    (places.roots / "file").touch()
    assert "cannot be used" in places.refused(places.roots / "file")


def test_the_operator_finds_pools_by_name_or_id(places: Places) -> None:
    made = places.registry.create(NewPool("films", Policy()))
    assert places.registry.find("films") == places.registry.find(made.id.upper()) == made
    assert [pool.name for pool in places.registry.all()] == ["default", "other", "films"]
    assert places.registry.usage(made.id) == Usage()
    with pytest.raises(PoolNotFound):
        places.registry.find("nothing")


# asking for a move


def test_a_move_is_asked_for_once(small: World) -> None:
    file = direct(small, small.me, content(10), content_type="image/png")
    job = small.pools.move(small.me, file.id, OTHER_POOL)
    assert (job.kind, job.subject, job.argument) == (JobKind.MOVE, file.id, OTHER_POOL)
    assert small.pools.move(small.me, file.id, OTHER_POOL) == job
    back = small.pools.move(small.me, file.id, DEFAULT_POOL_ID)
    assert [each.id for each in small.pools.moves(small.me, file.id)] == [back.id, job.id]


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        ({"max_file_size": 9}, FileTooLarge),
        ({"accept_types": ("text/*",)}, TypeNotAccepted),
        ({"allow_encryption": False}, EncryptionNotAllowed),
        ({"quota": 9}, QuotaExceeded),
        ({"public_usable": False}, PoolNotFound),
    ],
)
def test_a_move_is_held_to_the_policy_of_where_it_goes(
    small: World, policy: dict[str, Any], error: type[UpwellError]
) -> None:
    file = direct(small, small.me, content(10), content_type="image/png", password="secret")
    small.set_policy(OTHER_POOL, **policy)
    with pytest.raises(error):
        small.pools.move(small.me, file.id, OTHER_POOL)
    assert small.pools.moves(small.me, file.id) == []


def test_only_its_owner_moves_a_file(small: World) -> None:
    file = direct(small, small.me, content(10), content_type="image/png")
    for verb in (
        lambda: small.pools.move(small.stranger, file.id, OTHER_POOL),
        lambda: small.pools.moves(small.stranger, file.id),
        lambda: small.pools.move(small.me, "nothing", OTHER_POOL),
    ):
        with pytest.raises(FileNotFound):
            verb()
    reader = replace(small.me, scopes=frozenset({Scope.READ}))
    with pytest.raises(ScopeMissing):
        small.pools.move(reader, file.id, OTHER_POOL)


def test_a_move_takes_nothing_from_the_account_unless_the_bytes_stay(small: World) -> None:
    me = with_quota(small, small.me, 15)
    file = direct(small, me, content(10), content_type="image/png")
    small.pools.move(me, file.id, OTHER_POOL)
    other = direct(small, me, content(10), content_type="image/png", file_name="b")
    with pytest.raises(QuotaExceeded):
        small.pools.move(me, other.id, OTHER_POOL)
