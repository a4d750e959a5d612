"""A whole core for a test: the real catalog, a store, a clock that stands still."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.catalogs import migrated
from upwell.catalog import SqlCatalog
from upwell.core.accounts import Accounts
from upwell.core.bundles import Bundles
from upwell.core.creating import Limits
from upwell.core.files import Files, Form
from upwell.core.guesses import Asker, Guesses
from upwell.core.homes import Homes
from upwell.core.keys import SIZE, ServerKey
from upwell.core.links import Links
from upwell.core.pools import Pools
from upwell.core.receiving import Checksum
from upwell.core.uploads import Uploads
from upwell.jobs.sweep import Sweeper
from upwell.model import (
    DEFAULT_POOL_ID,
    CloudFile,
    Digest,
    NewUpload,
    Policy,
    Pool,
    Principal,
    Scope,
    UploadTask,
)
from upwell.stores.local import LocalStore
from upwell.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from upwell.core.homes import Home
    from upwell.core.ports import BlobStore, Catalog

CHUNK = 8  # bytes: small enough for every boundary to be met often
OTHER_POOL = "00000000-0000-4000-8000-000000000002"
ALL = frozenset(Scope)
KEY = ServerKey(bytes(range(SIZE)))


class FakeClock:
    """Starts now, since a disk's own times are real; moves when told to."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **much: float) -> None:
        self.now += timedelta(**much)


class Stores:
    """The stores of the pools, made when they are asked for."""

    def __init__(self, kind: str, folder: Path, clock: FakeClock) -> None:
        self.default = make_store(kind, folder / "pool", clock)
        self._clock = clock
        self._others: dict[str, BlobStore] = {}

    def open(self, pool: Pool) -> BlobStore:
        if pool.id == DEFAULT_POOL_ID:
            return self.default
        return self._others.setdefault(pool.id, MemoryStore(clock=self._clock))


class Recorder:
    """A catalog or store that remembers which of its methods were called."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.real, name)


def open_catalog(folder: Path) -> SqlCatalog:
    """The catalog of a folder, new when there is none."""
    return SqlCatalog.open(migrated(folder / "catalog.sqlite"))


def make_store(kind: str, folder: Path, clock: FakeClock) -> BlobStore:
    if kind == "local":
        return LocalStore(folder, min_free=0)
    return MemoryStore(clock=clock)


class Core:
    """One process's verbs on a catalog and stores; several may be on the same."""

    def __init__(self, catalog: Catalog, stores: Stores | Homes, clock: FakeClock) -> None:
        self.stores = stores
        self.clock = clock
        self.wire(catalog)

    def wire(self, catalog: Catalog, homes: Mapping[str, Home] | None = None) -> None:
        """``homes`` takes the place of those that the catalog and the stores make."""
        clock, stores = self.clock, self.stores
        real = stores if isinstance(stores, Homes) else Homes(catalog, stores.open)
        homes = real if homes is None else homes
        self.catalog, self.homes = catalog, homes
        guesses, self.links = Guesses(catalog, clock), Links(catalog, clock, KEY)
        self.bundles = Bundles(catalog, homes, clock, KEY, guesses)
        self.uploads = Uploads(catalog, homes, clock, KEY, limits=Limits(hash_threads=2))
        self.files = Files(
            catalog, homes, clock, bundles=self.bundles, links=self.links, guesses=guesses
        )
        self.pools = Pools(catalog, real, clock)
        self.accounts = Accounts(catalog, clock)
        self.sweeper = Sweeper(catalog, homes, clock)

    def open(
        self, who: Principal | None, file_id: str, form: Form = Form.CONTENT, **asked: Any
    ) -> bytes:
        """What a file's reader hands out to somebody; ``password``, ``passcode``, ``address``."""
        password = asked.pop("password", None)
        opened = self.files.open(Asker(who, **asked), file_id, form, password)
        try:
            return opened.reader.read_at(0, opened.reader.size + 1)
        finally:
            opened.reader.close()

    def read(self, who: Principal, file_id: str) -> bytes:
        return self.open(who, file_id)

    def send(
        self,
        who: Principal,
        task: UploadTask,
        index: int,
        data: bytes,
        checksum: Checksum | None = None,
    ) -> None:
        """Send one chunk, alone, in two writes."""
        writer = self.uploads.open_chunk(who, task.id, index, checksum)
        try:
            writer.check_length(len(data))
            assert writer.acquire()
            half = len(data) // 2
            writer.write(memoryview(data)[:half])
            writer.write(memoryview(data)[half:])
            writer.finish()
        finally:
            writer.close()

    def send_all(
        self, who: Principal, task: UploadTask, data: bytes, only: Iterable[int] | None = None
    ) -> None:
        for index in range(task.layout.count) if only is None else only:
            self.send(who, task, index, piece(task, data, index))

    def upload(self, who: Principal, data: bytes, **fields: Any) -> CloudFile:
        """A file, all the way."""
        made = self.uploads.create(who, new_upload(data, **fields))
        assert isinstance(made, UploadTask)
        self.send_all(who, made, data)
        return self.uploads.complete(who, made.id)


class World(Core):
    """A core with two pools, an owner and a stranger."""

    def __init__(self, folder: Path, kind: str) -> None:
        clock = FakeClock()
        self.folder = folder
        self.kind = kind
        stores = Stores(kind, folder, clock)
        self.store = stores.default
        self._more: list[Core] = []
        super().__init__(open_catalog(folder), stores, clock)
        policy = Policy(max_file_size=1000, accept_types=("image/*",), public_usable=True)
        self.add_pool(OTHER_POOL, "other", policy)
        self.me = self.person("me")
        self.stranger = self.person("stranger")

    def person(self, name: str, *, admin: bool = False) -> Principal:
        account = self.accounts.create(name, admin=admin)
        return Principal(account, ALL, "token")

    def add_pool(self, pool_id: str, name: str, policy: Policy, **fields: Any) -> Pool:
        known: dict[str, Any] = {"account_id": None, "path": None}
        now = self.clock()
        pool = Pool(pool_id, name, policy, created_at=now, updated_at=now, **(known | fields))
        self.catalog.add_pool(pool)
        return pool

    def set_policy(self, pool_id: str = DEFAULT_POOL_ID, **changes: Any) -> None:
        """Change a pool's policy, seen at once."""

        def change(pool: Pool) -> Pool:
            return replace(pool, policy=replace(pool.policy, **changes))

        assert self.catalog.update_pool(pool_id, self.clock(), change)
        for core in (self, *self._more):
            if isinstance(core.homes, Homes):
                core.homes.renew()

    def another(self, catalog: Any = None, homes: Any = None) -> Core:
        """A second process: its own verbs and followers on the same rows and bytes."""
        core = Core(catalog or self.catalog, self.stores, self.clock)
        if homes is not None:
            core.wire(catalog or self.catalog, homes)
        self._more.append(core)
        return core

    def all_keys(self) -> set[str]:
        return {key for key, _ in self.store.list_keys()}

    def sides(self) -> set[tuple[str, str]]:
        return {(key, name) for key, name, _ in self.store.list_staged()}

    def database(self) -> bytes:
        """Every byte that the catalog has on disk."""
        return b"".join(path.read_bytes() for path in self.folder.glob("catalog.sqlite*"))

    def restart(self) -> None:
        """Every process ends; this one begins again on the same rows and bytes."""
        self.close()
        self._more.clear()
        self.wire(open_catalog(self.folder))

    def close(self) -> None:
        for core in (self, *self._more):
            with suppress(RuntimeError):
                core.uploads.close()
        self.catalog.close()


def new_upload(data: bytes, **fields: Any) -> NewUpload:
    """What a client that knows its file asks for."""
    known: dict[str, Any] = {
        "file_name": "a.bin",
        "file_size": len(data),
        "content_type": "application/x-test",
        "digest": sha256(data),
        "chunk_size": CHUNK,
    }
    return NewUpload(**(known | fields))


def sha256(data: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(data).hexdigest())


def checksum(data: bytes, algorithm: str = "sha1") -> Checksum:
    return Checksum(algorithm, hashlib.new(algorithm, data).digest())


def piece(task: UploadTask, data: bytes, index: int) -> bytes:
    start = task.layout.offset(index)
    return data[start : start + task.layout.length(index)]


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that differ at every place and for every seed."""
    return hashlib.shake_256(seed.to_bytes(4)).digest(size)
