"""The composition root: the only module that knows every room."""

from __future__ import annotations

import os
import resource
import secrets
import signal
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from upwell.catalog import (
    FolderCatalog,
    SqlCatalog,
    claim_folder,
    journal_of,
    restore_catalog,
)
from upwell.config import Settings
from upwell.core.accounts import OWNER, Accounts
from upwell.core.bundles import Bundles
from upwell.core.creating import Limits, Senses
from upwell.core.events import Events
from upwell.core.files import Files
from upwell.core.guesses import Guesses
from upwell.core.homes import Homes
from upwell.core.keys import SIZE, ServerKey
from upwell.core.links import Links
from upwell.core.pools import Pools, Registry
from upwell.core.uploads import Uploads
from upwell.core.verbs import Verbs
from upwell.errors import NotReady
from upwell.jobs import deliveries, moves, previews
from upwell.jobs.recover import Recovered, Recovery
from upwell.jobs.runner import Runner, Work
from upwell.jobs.sweep import Retention, Sweeper
from upwell.jobs.verify import Verifier
from upwell.log import set_up_log
from upwell.media.examine import Examiner, wants
from upwell.media.sniff import sniff
from upwell.model import DEFAULT_POOL_ID, JobKind, OpenLimits
from upwell.stores.descriptors import make_folder, sync_folder
from upwell.stores.local import LocalStore

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

    import uvicorn
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from upwell.core.ports import Catalog, Clock
    from upwell.model import Pool

_log = structlog.get_logger("upwell")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Core:
    """The verbs, wired to the rooms that the settings name."""

    settings: Settings
    catalog: FolderCatalog
    homes: Homes
    verbs: Verbs
    sweeper: Sweeper
    runner: Runner
    examiner: Examiner

    @property
    def accounts(self) -> Accounts:
        return self.verbs.accounts

    @property
    def uploads(self) -> Uploads:
        return self.verbs.uploads

    @property
    def files(self) -> Files:
        return self.verbs.files

    def start(self) -> None:
        """Begin to sweep and to do jobs, in threads."""
        self.sweeper.start()
        self.runner.start()

    def close(self) -> None:
        self.catalog.leave_snapshot()  # the journal has what came after the last one
        self.sweeper.stop()
        self.examiner.close()
        self.runner.stop()
        self.uploads.close()
        self.catalog.close()


def open_catalog(settings: Settings) -> FolderCatalog:
    """The catalog of the data folder, made or migrated when needed."""
    make_folder(settings.data, 0o700)
    return FolderCatalog.open_folder(settings.data)


def open_homes(settings: Settings, catalog: Catalog) -> Homes:
    """Every pool with its store."""

    def folder_of(pool: Pool) -> Path:
        name = "default" if pool.id == DEFAULT_POOL_ID else pool.id
        return Path(pool.path) if pool.path else settings.data / "pools" / name

    def make_store(pool: Pool) -> LocalStore:
        return LocalStore(folder_of(pool), min_free=settings.min_free_space)

    def open_store(pool: Pool) -> LocalStore:
        # Bytes that are stored under a mount point are out of sight once the disk is back. And an
        # empty folder in place of the disk would make every upload in the pool look lost.
        is_new = not pool.path and not catalog.pool_usage(pool.id).total
        if not is_new and not (folder_of(pool) / "blobs").is_dir():
            raise NotReady(f"The folder of the pool {pool.name!r} is missing. Mount its disk.")
        return make_store(pool)

    return Homes(catalog, open_store, make_store)


def server_key(settings: Settings) -> ServerKey:
    """The server's key, made when there is none. Raises NotReady when it is not whole."""
    path = settings.data / "server.key"
    if not path.exists():
        _make_key(path)
    try:
        return ServerKey(path.read_bytes())
    except ValueError:
        raise NotReady(f"{path} is damaged: restore it from a backup.") from None


def _make_key(path: Path) -> None:
    with suppress(FileExistsError):  # another process made it
        fresh = path.with_name(f"server.key.{secrets.token_hex(4)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_bytes(SIZE))
            os.fsync(fd)
            os.link(fresh, path)  # whole or not at all, and never in the place of another
            sync_folder(path.parent)
        finally:
            os.close(fd)
            fresh.unlink()


def build(settings: Settings, clock: Clock = utc_now) -> Core:
    """Open the data folder and wire everything. Starts no thread of its own."""
    catalog = open_catalog(settings)
    homes, key = open_homes(settings, catalog), server_key(settings)
    examiner, senses = Examiner(), Senses(sniff, wants)
    private = settings.webhook_private_networks
    delivering = deliveries.Deliveries(
        catalog, Events(catalog, clock, key), clock, private_networks=private
    )
    runner = Runner(
        catalog,
        clock,
        {
            JobKind.PREVIEW: Work(
                previews.Previews(catalog, homes, clock, examiner.examine).do, previews.DELAYS
            ),
            JobKind.MOVE: Work(
                moves.Moves(catalog, homes, clock, settings.account_quota, senses).do,
                moves.DELAYS,
            ),
            JobKind.DELIVER: Work(delivering.do, deliveries.DELAYS, deliveries.THREADS),
        },
    )
    return Core(
        settings=settings,
        catalog=catalog,
        homes=homes,
        verbs=make_verbs(settings, catalog, homes, key, clock, examines=wants),
        sweeper=Sweeper(
            catalog,
            homes,
            clock,
            interval=settings.sweep_interval,
            retention=Retention(settings.recycle_grace, settings.event_retention),
            upkeep=lambda: catalog.renew_snapshot(settings.snapshot_interval),
        ),
        runner=runner,
        examiner=examiner,
    )


def make_verbs(
    settings: Settings,
    catalog: Catalog,
    homes: Homes,
    key: ServerKey,
    clock: Clock,
    *,
    examines: Callable[[str], bool],
) -> Verbs:
    """The verbs on a catalog and stores."""
    quota = settings.account_quota
    guesses, links = Guesses(catalog, clock), Links(catalog, clock, key)
    bundles = Bundles(catalog, homes, clock, key, guesses)
    in_progress = OpenLimits(
        settings.account_open_uploads or None, settings.account_unsent_bytes or None
    )
    limits = Limits(settings.task_idle, quota, max(4, os.cpu_count() or 1), in_progress)

    def check() -> None:
        """Raises when catalog or stores cannot be used."""
        catalog.check()
        for home in homes.values():
            home.store.check()

    return Verbs(
        accounts=Accounts(catalog, clock),
        uploads=Uploads(catalog, homes, clock, key, limits=limits, senses=Senses(sniff, examines)),
        files=Files(catalog, homes, clock, bundles=bundles, links=links, guesses=guesses),
        pools=Pools(
            catalog,
            homes,
            clock,
            roots=settings.pool_roots,
            occupied=(settings.data.resolve(),),
            account_quota=quota,
            open_limits=in_progress,
        ),
        bundles=bundles,
        links=links,
        events=Events(catalog, clock, key),
        check=check,
    )


@contextmanager
def pool_registry(settings: Settings) -> Iterator[Registry]:
    """The pools of a data folder, for its operator."""
    catalog = open_catalog(settings)
    try:
        homes = open_homes(settings, catalog)
        yield Registry(catalog, homes, utc_now, occupied=(settings.data.resolve(),))
    finally:
        catalog.close()


@contextmanager
def verification(
    settings: Settings, advance: Callable[[int], None] = lambda _: None
) -> Iterator[Verifier]:
    """What re-reads all stored bytes, beside a server that may run."""
    catalog = open_catalog(settings)
    try:
        yield Verifier(catalog, open_homes(settings, catalog), utc_now, advance)
    finally:
        catalog.close()


@contextmanager
def recovery(settings: Settings) -> Iterator[RecoveryRun]:
    """The data folder, for recovery alone; a damaged catalog is replaced by its snapshot.

    Raises NotReady when a server runs on it, or when there is no good snapshot.
    """
    lock = claim_folder(settings.data)
    try:
        aside = restore_catalog(settings.data, utc_now())
        catalog = SqlCatalog.open(settings.data / "catalog.sqlite")
        try:
            yield RecoveryRun(settings, catalog, aside)
        finally:
            catalog.close()
    finally:
        lock.close()


@dataclass(frozen=True, slots=True)
class RecoveryRun:
    """``moved_to`` is where the damaged catalog lies, when there was one."""

    settings: Settings
    catalog: SqlCatalog
    moved_to: Path | None

    def run(
        self, *, drop: bool, begin: Callable[[int], None], advance: Callable[[int], None]
    ) -> Recovered:
        """Do all of it; ``begin`` is told how many bytes there are to read."""
        homes = open_homes(self.settings, self.catalog)
        work = Recovery(self.catalog, homes, utc_now, advance)
        work.replay(journal_of(self.settings.data).entries())
        begin(work.size())
        return work.check(drop=drop)


def first_login(accounts: Accounts) -> str:
    """Make sure that there is an account, and a one-time code to log in with."""
    everyone = accounts.all()
    owner = next((each for each in everyone if each.is_admin), None)
    return accounts.invite(owner or accounts.create(OWNER, admin=True))


def api_of(core: Core) -> FastAPI:
    """The routes and their description; sweeps while it is up."""
    from upwell.http.api import make_api  # noqa: PLC0415 - the command line starts without it
    from upwell.http.bounds import Bounds  # noqa: PLC0415

    return make_api(
        core.verbs,
        Bounds(
            direct_max_size=core.settings.direct_max_size,
            streams_per_account=core.settings.streams_per_account,
            downloads_per_address=core.settings.downloads_per_address,
            min_download_rate=core.settings.min_download_rate,
        ),
        secure_cookies=(core.settings.public_url or "").startswith("https:"),
        public_url=core.settings.public_url,
        start=core.start,
        stop=core.close,
    )


def asgi(core: Core) -> ASGIApp:
    """The application for an ASGI server."""
    from upwell.http.api import make_app  # noqa: PLC0415 - the command line starts without it
    from upwell.http.cross_origin import open_to  # noqa: PLC0415
    from upwell.http.forwarded import behind  # noqa: PLC0415

    app = make_app(core.verbs, api_of(core))
    return behind(open_to(app, core.settings.cors_origins), core.settings.trusted_proxies)


_SETTINGS = "UPWELL_WORKER_SETTINGS"  # how a worker process learns what `serve` was told


def worker_app() -> ASGIApp:
    """The application of one worker process; its settings come from the one that made it."""
    from upwell.http import shutdown  # noqa: PLC0415
    from upwell.http.server import tune_allocator  # noqa: PLC0415

    settings = Settings.model_validate_json(os.environ[_SETTINGS])
    set_up_log(settings.log_format)
    tune_allocator()
    shutdown.watch_signals()  # here, because uvicorn has set its own handlers by now
    return asgi(build(settings))


def _allow_many_files() -> None:
    """Each connection and each chunk under way has descriptors; the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _leave(server: uvicorn.Server, _signal: int, _frame: FrameType | None) -> None:
    """End a process that is not up yet, where uvicorn does not listen to signals. When all is done
    it raises the signal again, which then is no news."""
    if not server.started:
        raise SystemExit(0)


def serve(settings: Settings, sockets: list[socket.socket]) -> int:
    """Serve on bound sockets until a signal; the process's exit code."""
    import uvicorn  # noqa: PLC0415 - the command line starts without it

    from upwell.http import shutdown  # noqa: PLC0415
    from upwell.http.server import UpwellProtocol  # noqa: PLC0415
    from upwell.http.workers import run_workers  # noqa: PLC0415

    os.environ[_SETTINGS] = settings.model_dump_json()
    config = uvicorn.Config(
        "upwell.app:worker_app",
        factory=True,
        http=UpwellProtocol,
        ws="none",
        lifespan="on",
        workers=settings.workers,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=shutdown.REQUESTS,
    )
    _allow_many_files()
    if settings.workers > 1:
        set_up_log(settings.log_format)
        return run_workers(config, sockets)
    server = uvicorn.Server(config)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, partial(_leave, server))
    server.run(sockets)
    shutdown.end_within(shutdown.LEFTOVERS)
    return 0 if server.started else 3
