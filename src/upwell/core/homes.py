"""Every pool with the store its bytes live in."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.errors import NotReady, PoolNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upwell.core.ports import BlobStore, Catalog
    from upwell.model import Pool

FRESH = 1.0  # seconds for which a pool's row is taken as it was


@dataclass(frozen=True, slots=True)
class Home:
    """A pool and the store its bytes live in."""

    pool: Pool
    store: BlobStore


class Homes(Mapping[str, Home]):
    """Homes by pool id, looked up when asked for: another process may have made the pool.

    A change of policy is seen within ``FRESH`` seconds, at once after ``renew``.
    """

    def __init__(
        self,
        catalog: Catalog,
        open_store: Callable[[Pool], BlobStore],
        make_store: Callable[[Pool], BlobStore] | None = None,
    ) -> None:
        """``open_store`` raises NotReady when a pool's store is not there; ``make_store`` makes
        it."""
        self._catalog = catalog
        self._open_store = open_store
        self._make_store = make_store or open_store
        self._lock = threading.Lock()
        self._stores: dict[str, BlobStore] = {}
        self._seen: dict[str, tuple[float, Home]] = {}

    def __getitem__(self, pool_id: str) -> Home:
        """Raises KeyError when there is no such pool, NotReady when its store is not there."""
        read_at, home = self._seen.get(pool_id, (0.0, None))
        if home is not None and time.monotonic() - read_at < FRESH:
            return home
        pool = self._catalog.pool(pool_id)
        if pool is None:
            self._seen.pop(pool_id, None)
            raise KeyError(pool_id)
        return self._home_of(pool)

    def __iter__(self) -> Iterator[str]:
        return iter([pool.id for pool in self._catalog.pools()])

    def __len__(self) -> int:
        return len(self._catalog.pools())

    def renew(self) -> None:
        """Look everything up again."""
        self._seen.clear()

    def make_store(self, pool: Pool) -> BlobStore:
        """The store of a pool that is being made. Raises OSError."""
        return self._make_store(pool)

    def _home_of(self, pool: Pool) -> Home:
        with self._lock:
            if pool.id not in self._stores:
                self._stores[pool.id] = self._open_store(pool)
            home = Home(pool, self._stores[pool.id])
        self._seen[pool.id] = (time.monotonic(), home)
        return home


def home_of(homes: Mapping[str, Home], pool_id: str) -> Home:
    """The home of what is stored. Raises NotReady when its pool has no row (any more), or its
    store is not there."""
    home = homes.get(pool_id)
    if home is None:
        raise NotReady(
            "The pool of this file is not known here: its operator has to make it again, with "
            "`upwell pool create --id` and the file's pool_id."
        )
    return home


def pool_not_found() -> PoolNotFound:
    return PoolNotFound("There is no such pool; leave pool_id out for the default one.")
