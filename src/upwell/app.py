"""The composition root: the only module that knows every room."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
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
from upwell.core.files import Files
from upwell.core.uploads import Home, Uploads
from upwell.core.verbs import Verbs
from upwell.errors import UpwellError
from upwell.jobs.recover import Recovered, Recovery
from upwell.jobs.sweep import Sweeper
from upwell.media.sniff import sniff
from upwell.stores.local import LocalStore

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from upwell.core.ports import Clock

_log = structlog.get_logger("upwell")


def utc_now() -> datetime:
    return datetime.now(UTC)


def set_up_log(log_format: str) -> None:
    """One line an event on standard error: for people (``console``) or programs (``json``)."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


@dataclass(frozen=True, slots=True)
class Core:
    """The verbs, wired to the rooms that the settings name."""

    settings: Settings
    catalog: FolderCatalog
    homes: dict[str, Home]
    accounts: Accounts
    uploads: Uploads
    files: Files
    sweeper: Sweeper

    def close(self) -> None:
        self.sweeper.stop()
        self.uploads.close()
        try:
            self.catalog.renew_snapshot()
        except (UpwellError, OSError) as error:
            _log.warning("no snapshot of the catalog at the end", error=str(error))
        finally:
            self.catalog.close()

    def check(self) -> None:
        """Raises when catalog or stores cannot be used."""
        self.catalog.check()
        for home in self.homes.values():
            home.store.check()

    def verbs(self) -> Verbs:
        return Verbs(
            accounts=self.accounts,
            uploads=self.uploads,
            files=self.files,
            pools={pool_id: home.pool for pool_id, home in self.homes.items()},
            check=self.check,
        )


def open_catalog(settings: Settings) -> FolderCatalog:
    """The catalog of the data folder, made or migrated when needed."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FolderCatalog.open_folder(settings.data)


def open_homes(settings: Settings) -> dict[str, Home]:
    """Every pool with its store, by the pool's id."""
    return {
        str(each.id): Home(each.pool(), LocalStore(each.path, min_free=settings.min_free_space))
        for each in settings.all_pools()
    }


def build(settings: Settings, clock: Clock = utc_now) -> Core:
    """Open the data folder and wire everything. Starts no thread of its own."""
    catalog = open_catalog(settings)
    homes = open_homes(settings)
    return Core(
        settings=settings,
        catalog=catalog,
        homes=homes,
        accounts=Accounts(catalog, clock),
        uploads=Uploads(
            catalog,
            homes,
            clock,
            idle=settings.task_idle,
            hash_threads=max(4, os.cpu_count() or 1),
            sniff=sniff,
        ),
        files=Files(catalog, homes, clock),
        sweeper=Sweeper(
            catalog,
            homes,
            clock,
            interval=settings.sweep_interval,
            upkeep=lambda: catalog.renew_snapshot(settings.snapshot_interval),
        ),
    )


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
        work = Recovery(self.catalog, open_homes(self.settings), utc_now, advance)
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

    return make_api(
        core.verbs(),
        direct_max_size=core.settings.direct_max_size,
        secure_cookies=(core.settings.public_url or "").startswith("https:"),
        start=core.sweeper.start,
        stop=core.close,
    )


def asgi(core: Core) -> ASGIApp:
    """The application for an ASGI server."""
    from upwell.http.api import make_app  # noqa: PLC0415 - the command line starts without it

    return make_app(core.verbs(), api_of(core))


_SETTINGS = "UPWELL_WORKER_SETTINGS"  # how a worker process learns what `serve` was told


def worker_app() -> ASGIApp:
    """The application of one worker process; its settings come from the one that made it."""
    from upwell.http.server import tune_allocator  # noqa: PLC0415

    settings = Settings.model_validate_json(os.environ[_SETTINGS])
    set_up_log(settings.log_format)
    tune_allocator()
    return asgi(build(settings))


def _allow_many_files() -> None:
    """Each connection and each chunk under way has descriptors; the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(settings: Settings, sockets: list[socket.socket]) -> int:
    """Serve on bound sockets until a signal; the process's exit code."""
    import uvicorn  # noqa: PLC0415 - the command line starts without it
    from uvicorn.supervisors import Multiprocess  # noqa: PLC0415

    from upwell.http.server import UpwellProtocol  # noqa: PLC0415

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
        timeout_graceful_shutdown=10,
    )
    _allow_many_files()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: None)  # uvicorn raises it again when all is done
    if settings.workers > 1:
        Multiprocess(config, sockets).run()
        return 0
    server = uvicorn.Server(config)
    server.run(sockets)
    return 0 if server.started else 3
