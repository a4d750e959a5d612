"""The sweeper: expires what is due, and reclaims what a crash or a deletion left behind.

Every step is idempotent, so a sweep that dies is simply done again; a lease in the catalog
keeps several processes from doing it at once.
"""

from __future__ import annotations

import itertools
import secrets
import threading
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from upwell.errors import NotReady
from upwell.model import Garbage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    from upwell.core.homes import Home
    from upwell.core.ports import Catalog, Clock

INTERVAL = timedelta(minutes=1)
GRACE = timedelta(hours=1)  # bytes without a row may belong to a request under way
STEP = 1000  # keys of a pool that one sweep looks at
_BATCH = 500

T = TypeVar("T")

_log = structlog.get_logger("upwell.sweep")


@dataclass(frozen=True, slots=True)
class Swept:
    """What one sweep did."""

    tasks_expired: int = 0
    files_expired: int = 0
    files_purged: int = 0
    bundles_expired: int = 0
    freed: int = 0
    strays: int = 0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what has ended is kept: files in the recycle bin, events and ended jobs, ended
    uploads."""

    recycled: timedelta = timedelta(days=30)
    events: timedelta = timedelta(days=7)
    tasks: timedelta = timedelta(days=30)


class Sweeper:
    def __init__(
        self,
        catalog: Catalog,
        homes: Mapping[str, Home],
        clock: Clock,
        *,
        interval: timedelta = INTERVAL,
        retention: Retention | None = None,
        upkeep: Callable[[], object] | None = None,
    ) -> None:
        """``upkeep`` is called at the start and after every sweep, in every process."""
        self._upkeep = upkeep
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._interval = interval
        self._retention = retention or Retention()
        self._walks: dict[str, Iterator[Any]] = {}
        self._holder = secrets.token_hex(8)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sweep now and then, in a thread of its own."""
        self._thread = threading.Thread(target=self._loop, name="upwell-sweep", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _loop(self) -> None:
        self._keep_up()
        while not self._stop.wait(self._interval.total_seconds()):
            try:
                self.sweep_if_free()
            except Exception:  # noqa: BLE001 - the next sweep must come whatever went wrong
                _log.exception("sweep failed; it is tried again")
            self._keep_up()

    def _keep_up(self) -> None:
        try:
            if self._upkeep:
                self._upkeep()
        except Exception:  # noqa: BLE001 - the next sweep must come whatever went wrong
            _log.exception("upkeep failed; it is tried again")

    def sweep_if_free(self) -> Swept | None:
        """One sweep, unless another process is at it."""
        now = self._clock()
        if not self._catalog.lease("sweep", self._holder, now, now + 5 * self._interval):
            return None
        swept = self.sweep()
        if swept != Swept():
            _log.info("swept", **{name: getattr(swept, name) for name in Swept.__slots__})
        return swept

    def sweep(self) -> Swept:
        """One sweep, whoever else is at it."""
        now = self._clock()
        tasks = self._catalog.expire_tasks(now)
        files = self._catalog.expire_files(now)
        purged = self._catalog.purge_recycled(now - self._retention.recycled)
        bundles = self._catalog.expire_bundles(now)
        self._forget(now)
        strays = sum(self._drop_strays_if_there(pool_id) for pool_id in self._homes)
        return Swept(tasks, files, purged, bundles, self._free(), strays)

    def _forget(self, now: datetime) -> None:
        """Remove rows that nobody asks for any more, a bounded number at a time."""
        catalog, keep = self._catalog, self._retention
        steps: list[Callable[[], int]] = [
            lambda: catalog.expire_links(now),
            lambda: catalog.expire_guesses(now),
            lambda: catalog.forget_events(now - keep.events),
            lambda: catalog.forget_jobs(now - keep.events),
            lambda: catalog.forget_tasks(now - keep.tasks),
        ]
        for step in steps:
            while step():
                pass

    def _free(self) -> int:
        """Remove what is marked as garbage; what cannot be removed does not hold up the rest."""
        freed, stuck = 0, set[Garbage]()
        while batch := set(self._catalog.garbage(len(stuck) + _BATCH)) - stuck:
            done = [item for item in batch if self._delete(item)]
            self._catalog.forget_garbage(done)
            freed += len(done)
            stuck |= batch.difference(done)
        return freed

    def _delete(self, item: Garbage) -> bool:
        try:
            home = self._homes.get(item.pool_id)
            if home is None:
                return False
            home.store.delete(item.key)
        except (OSError, NotReady) as error:
            _log.warning("bytes not removed; the next sweep tries again", error=str(error))
            return False
        return True

    def _drop_strays_if_there(self, pool_id: str) -> int:
        """A pool whose disk is not there, or fails, does not hold up the others."""
        try:
            return self._drop_strays(pool_id)
        except KeyError:
            return 0  # it was removed meanwhile
        except (OSError, NotReady) as error:
            _log.warning("a pool is not swept", pool=pool_id, error=str(error))
            return 0

    def _drop_strays(self, pool_id: str) -> int:
        """Remove bytes that no row names and that nobody has touched for a while.

        Their age spares most of the looks, and protects nothing, since clocks are set and
        processes stand still: ``reclaim`` leaves alone what a writer has in hand.
        """
        store = self._homes[pool_id].store
        before = self._clock() - GRACE
        count = 0
        listed = self._step(f"keys of {pool_id}", store.list_keys)
        old = [key for key, changed in listed if changed < before]
        for key in self._catalog.unknown_keys(pool_id, old):
            count += store.reclaim(key, None, partial(self._is_stray, pool_id, key))
        for key, name, changed in self._step(f"side of {pool_id}", store.list_staged):
            unnamed = partial(self._is_stray_side, key, name)
            if changed < before and unnamed():
                count += store.reclaim(key, name, unnamed)
        return count

    def _step(self, what: str, walk: Callable[[], Iterable[T]]) -> list[T]:
        """The next few of what a store lists, from where the sweep before this one stopped.

        A walk over a million keys takes seconds of CPU, and strays are rare: they can wait the
        hours that one takes in steps.
        """
        going = self._walks.pop(what, None) or iter(walk())
        some = list(itertools.islice(going, STEP))
        if len(some) == STEP:
            self._walks[what] = going
        return some

    def _is_stray(self, pool_id: str, key: str) -> bool:
        return key in self._catalog.unknown_keys(pool_id, [key])

    def _is_stray_side(self, key: str, name: str) -> bool:
        return name not in self._catalog.staged_names(key)
