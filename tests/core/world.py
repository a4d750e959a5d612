"""A whole core for a test: the real catalog, a store, a clock that stands still."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upwell.catalog import SqlCatalog
from upwell.core.accounts import Accounts
from upwell.core.files import Files
from upwell.core.receiving import Checksum
from upwell.core.uploads import Home, Uploads
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
    from collections.abc import Iterable

    from upwell.core.ports import BlobStore, Catalog

CHUNK = 8  # bytes: small enough for every boundary to be met often
OTHER_POOL = "00000000-0000-4000-8000-000000000002"
ALL = frozenset(Scope)


class FakeClock:
    """Starts now, since a disk's own times are real; moves when told to."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **much: float) -> None:
        self.now += timedelta(**much)


class Recorder:
    """A catalog or store that remembers which of its methods were called."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.real, name)


@functools.cache
def _template() -> Path:
    """A catalog that is migrated once: a copy takes 1 ms, a migration 100."""
    path = Path(tempfile.mkdtemp(prefix="upwell-test-")) / "catalog.sqlite"
    SqlCatalog.open(path).close()
    return path


def open_catalog(folder: Path) -> SqlCatalog:
    """The catalog of a folder, new when there is none."""
    path = folder / "catalog.sqlite"
    if not path.exists():
        shutil.copy(_template(), path)
    return SqlCatalog.open(path)


def make_store(kind: str, folder: Path, clock: FakeClock) -> BlobStore:
    if kind == "local":
        return LocalStore(folder, min_free=0)
    return MemoryStore(clock=clock)


class Core:
    """One process's verbs on a catalog and stores; several may be on the same."""

    def __init__(self, catalog: Catalog, homes: dict[str, Home], clock: FakeClock) -> None:
        self.homes = homes
        self.clock = clock
        self.wire(catalog)

    def wire(self, catalog: Catalog) -> None:
        homes, clock = self.homes, self.clock
        self.catalog = catalog
        self.uploads = Uploads(catalog, homes, clock, hash_threads=2)
        self.files = Files(catalog, homes, clock)
        self.accounts = Accounts(catalog, clock)
        self.sweeper = Sweeper(catalog, homes, clock)

    def read(self, who: Principal, file_id: str) -> bytes:
        opened = self.files.open(who, file_id)
        try:
            return opened.reader.read_at(0, opened.reader.size + 1)
        finally:
            opened.reader.close()

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
        default = Pool(DEFAULT_POOL_ID, "default")
        other = Pool(OTHER_POOL, "other", Policy(max_file_size=1000, accept_types=("image/*",)))
        homes = {
            default.id: Home(default, make_store(kind, folder / "pool", clock)),
            other.id: Home(other, MemoryStore(clock=clock)),
        }
        super().__init__(open_catalog(folder), homes, clock)
        self.store = homes[DEFAULT_POOL_ID].store
        self.me = self.person("me")
        self.stranger = self.person("stranger")
        self._more: list[Core] = []

    def person(self, name: str) -> Principal:
        account = self.accounts.create(name)
        return Principal(account, ALL, "token")

    def another(self, catalog: Any = None, homes: Any = None) -> Core:
        """A second process: its own verbs and followers on the same rows and bytes."""
        homes = self.homes if homes is None else homes
        core = Core(catalog or self.catalog, homes, self.clock)
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
