"""The verbs of pools: where bytes live, under which policy, and how much is held there."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from upwell.core import policy
from upwell.core.homes import pool_not_found
from upwell.errors import FileNotFound, NotReady, PoolInUse, ValidationFailed
from upwell.model import DEFAULT_POOL_ID, JobKind, NewJob, OpenLimits, Policy, Pool, Scope, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from upwell.core.homes import Homes
    from upwell.core.ports import Catalog, Clock
    from upwell.model import CloudFile, Job, OpenUploads, Principal

NAME = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
MAX_NAME = 100
_PART = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"  # RFC 6838, 4.2
TYPE = rf"^(\*/\*|{_PART}/(\*|{_PART}))$"
MAX_TYPES = 100
MAX_BYTES = 10**18  # written the same as an integer and as a float
MAX_EXPIRY = timedelta(days=36525)

_EVERYTHING = 2**31
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_NO_LIMITS = OpenLimits()
_LATEST = 10  # moves of one file that are told of


@dataclass(frozen=True, slots=True)
class NewPool:
    """A pool to be made. ``path`` None is a folder in the data folder; with ``pool_id`` it is
    one that was there before, and its bytes may be there too."""

    name: str
    policy: Policy
    path: str | None = None
    pool_id: str | None = None


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """A pool, what is held in it (by an account, or by all), and its quota."""

    pool: Pool
    usage: Usage


@dataclass(frozen=True, slots=True)
class Holdings:
    """What an account holds in all, by pool, and has in progress; and how much of both it may.
    A quota of None is no limit."""

    pools: list[PoolUsage]
    quota: int | None
    open: OpenUploads
    limits: OpenLimits

    @property
    def used(self) -> int:
        return sum(each.usage.total for each in self.pools)

    @property
    def reserved(self) -> int:
        """Bytes of ``used`` that uploads in progress hold, whether or not they were sent."""
        return sum(each.usage.reserved_bytes for each in self.pools)


class Registry:
    """Makes, changes and removes pools, and asks nobody: for the operator, who has a shell on
    the server's machine, and for verbs that have made sure of their caller.

    ``occupied`` are folders that no pool may be put into, nor around.
    """

    def __init__(
        self, catalog: Catalog, homes: Homes, clock: Clock, *, occupied: Sequence[Path] = ()
    ) -> None:
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._occupied = occupied

    def all(self) -> list[Pool]:
        """Oldest first."""
        return self._catalog.pools()

    def find(self, name_or_id: str) -> Pool:
        """A pool by its name, or else by its id. Raises PoolNotFound."""
        pools = self._catalog.pools()
        named = [pool for pool in pools if pool.name == name_or_id]
        found = named or [pool for pool in pools if pool.id == name_or_id.lower()]
        if not found:
            raise pool_not_found()
        return found[0]

    def create(self, new: NewPool, account_id: str | None = None) -> Pool:
        """A pool of an account's, or of the operator's. Raises PoolExists; ValidationFailed,
        also when its folder cannot be used."""
        name, now = _checked_name(new.name), self._clock()
        pool = Pool(
            id=new.pool_id or str(uuid4()),
            name=name,
            policy=_checked(new.policy),
            account_id=account_id,
            path=None if new.path is None else str(_real(new.path)),
            created_at=now,
            updated_at=now,
        )
        apart = self._apart_of(pool)
        if pool.path is not None:
            apart(self._catalog.pools())  # before anything is made there
            self._try_out(pool, may_hold_bytes=new.pool_id is not None)
        self._catalog.add_pool(pool, apart)  # again: another may have come first
        self._homes.renew()
        return pool

    def update(self, pool_id: str, name: str | None, changes: Mapping[str, Any]) -> Pool:
        """Change a pool's name, and some fields of its policy. Raises PoolNotFound,
        PoolExists, ValidationFailed."""
        asked = None if name is None else _checked_name(name)

        def change(pool: Pool) -> Pool:
            changed = _checked(replace(pool.policy, **changes))
            return replace(pool, name=asked or pool.name, policy=changed)

        pool = self._catalog.update_pool(pool_id, self._clock(), change)
        self._homes.renew()
        if pool is None:
            raise pool_not_found()
        return pool

    def delete(self, pool_id: str) -> None:
        """Raises PoolNotFound; PoolInUse while anything is in it, and for the default pool."""
        if pool_id == DEFAULT_POOL_ID:
            raise PoolInUse("The default pool is where files go that name none; it stays.")
        with suppress(OSError, KeyError):  # a pool whose disk is gone can be removed all the same
            self._empty(pool_id)
        if not self._catalog.delete_pool(pool_id):
            raise pool_not_found()
        self._homes.renew()

    def usage(self, pool_id: str) -> Usage:
        """What everybody holds in a pool."""
        return self._catalog.pool_usage(pool_id)

    def _empty(self, pool_id: str) -> None:
        """Remove the bytes that the sweeper would: without the pool it cannot find them."""
        garbage = [g for g in self._catalog.garbage(_EVERYTHING) if g.pool_id == pool_id]
        for item in garbage:
            self._homes[pool_id].store.delete(item.key)
            self._catalog.forget_garbage([item])

    def _apart_of(self, new: Pool) -> Callable[[list[Pool]], None]:
        """What raises ValidationFailed when a pool's folder overlaps the data folder or that of
        another pool: what sweeps the one would take the other's bytes for strays."""

        def check(pools: list[Pool]) -> None:
            taken = [Path(pool.path) for pool in pools if pool.path is not None]
            if new.path is not None and any(
                _overlap(Path(new.path), other.resolve()) for other in (*self._occupied, *taken)
            ):
                raise _bad("path", "must not overlap the data folder or the folder of another pool")

        return check

    def _try_out(self, pool: Pool, *, may_hold_bytes: bool) -> None:
        try:
            store = self._homes.make_store(pool)
            store.check()
        except OSError as error:
            raise _bad("path", f"cannot be used: {error.strerror}") from error
        if not may_hold_bytes and next(iter(store.list_keys()), None) is not None:
            raise _bad("path", "holds files of a pool already, which a new one would sweep away")


class Pools:
    """``roots`` are the folders in which a pool may be put over the API; ``account_quota`` is
    what an account may hold that has no quota of its own, ``open_limits`` what it may have in
    progress; ``occupied`` as for ``Registry``."""

    def __init__(
        self,
        catalog: Catalog,
        homes: Homes,
        clock: Clock,
        *,
        roots: Sequence[Path] = (),
        occupied: Sequence[Path] = (),
        account_quota: int | None = None,
        open_limits: OpenLimits = _NO_LIMITS,
    ) -> None:
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._registry = Registry(catalog, homes, clock, occupied=occupied)
        self._roots = roots
        self._account_quota = account_quota
        self._open_limits = open_limits

    def visible(self, principal: Principal) -> list[Pool]:
        """The pools that the caller may use, oldest first."""
        policy.require(principal, Scope.READ)
        return [pool for pool in self._catalog.pools() if policy.may_use(principal, pool)]

    def get(self, principal: Principal, pool_id: str) -> Pool:
        """Raises PoolNotFound for what is unknown or not the caller's to use alike."""
        policy.require(principal, Scope.READ)
        pool = self._catalog.pool(pool_id)
        if pool is None or not policy.may_use(principal, pool):
            raise pool_not_found()
        return pool

    def named(self, pool_id: str) -> Pool:
        """A pool by its id, for whoever was shown a file of it; one that has no row any more
        goes by its id."""
        with suppress(NotReady, KeyError):
            return self._homes[pool_id].pool
        return self._catalog.pool(pool_id) or _lost(pool_id)

    def create(self, principal: Principal, new: NewPool) -> Pool:
        """For admins. Raises PoolExists; ValidationFailed when the path is not usable."""
        _require_admin(principal)
        self._require_in_roots(new.path)
        return self._registry.create(new, principal.account.id)

    def update(
        self, principal: Principal, pool_id: str, name: str | None, changes: Mapping[str, Any]
    ) -> Pool:
        """Change a pool's name, and some fields of its policy. For admins."""
        _require_admin(principal)
        return self._registry.update(pool_id, name, changes)

    def delete(self, principal: Principal, pool_id: str) -> None:
        """Raises PoolInUse while anything is in it, and for the default pool. For admins."""
        _require_admin(principal)
        self._registry.delete(pool_id)

    def pool_usage(self, principal: Principal, pool_id: str) -> PoolUsage:
        """What everybody holds in a pool. For admins."""
        _require_admin(principal)
        pool = self._catalog.pool(pool_id)
        if pool is None:
            raise pool_not_found()
        return PoolUsage(pool, self._registry.usage(pool_id))

    def holdings(self, principal: Principal) -> Holdings:
        """What the caller holds, and may hold."""
        policy.require(principal, Scope.READ)
        used = self._catalog.usage(principal.account.id)
        known = self._catalog.pools()
        lost = used.keys() - {pool.id for pool in known}
        pools = [
            PoolUsage(pool, used.get(pool.id, Usage()))
            for pool in (*known, *map(_lost, sorted(lost)))
            if pool.id in used or policy.may_use(principal, pool)
        ]
        quota = principal.account.quota
        quota = self._account_quota if quota is None else quota
        running = self._catalog.open_uploads(principal.account.id, self._clock())
        return Holdings(pools, quota, running, self._open_limits)

    # moving files

    def move(self, principal: Principal, file_id: str, pool_id: str) -> Job:
        """Ask for a file's bytes to be moved to another pool, whose policy must take it; the
        job, which is the same one as long as it waits.

        Raises FileNotFound, PoolNotFound, QuotaExceeded, and what that policy has against it.
        """
        policy.require(principal, Scope.WRITE)
        file, pool = self._own_file(principal, file_id), self._catalog.pool(pool_id)
        if pool is None or not policy.may_use(principal, pool):
            raise pool_not_found()
        if pool.policy.allow_anonymous:
            policy.require_sharing(principal)
        policy.accept_file(file, pool.policy)
        if not file.pool_id == file.blob.pool_id == pool.id:
            self._require_room(principal, file, pool)
        wanted = NewJob(JobKind.MOVE, file_id, pool_id, principal.account.id)
        return self._catalog.add_job(wanted, self._clock(), once=True)

    def _require_room(self, principal: Principal, file: CloudFile, pool: Pool) -> None:
        """The account holds no more than before, unless other files keep the bytes."""
        allowance = policy.allowance(principal, pool, self._account_quota)
        if len(self._catalog.files_of_blob(file.blob.id)) < 2:
            allowance = replace(allowance, account=None)
        held = self._catalog.usage(principal.account.id).values()
        policy.fit(file.size, allowance, self._catalog.pool_usage(pool.id), held)

    def _own_file(self, principal: Principal, file_id: str) -> CloudFile:
        file = self._catalog.file(file_id, self._clock(), principal.account.id)
        if file is None:
            raise FileNotFound("There is no such file of yours; it may have expired.")
        return file

    def moves(self, principal: Principal, file_id: str) -> list[Job]:
        """The latest moves of a file of the caller's, newest first."""
        policy.require(principal, Scope.READ)
        file = self._own_file(principal, file_id)
        return self._catalog.jobs(JobKind.MOVE, file.id, 0, _LATEST).items

    def _require_in_roots(self, path: str | None) -> None:
        if path is None:
            return
        real = _real(path)
        if not any(real.is_relative_to(root.resolve()) for root in self._roots):
            raise _bad("path", "must be in one of the server's pool_roots")


def _lost(pool_id: str) -> Pool:
    """A pool that files name and that has no row any more."""
    return Pool(pool_id, pool_id, Policy(), None, None, _LONG_AGO, _LONG_AGO)


def _require_admin(principal: Principal) -> None:
    policy.require(principal, Scope.ADMIN)


def _bad(field: str, why: str) -> ValidationFailed:
    return ValidationFailed(f"{field} {why}.", errors={field: [why]})


def _real(path: str) -> Path:
    """An absolute path without links. Raises ValidationFailed."""
    if not path.isprintable() or not Path(path).is_absolute():
        raise _bad("path", "must be absolute")
    try:
        return Path(path).resolve()
    except OSError as error:
        raise _bad("path", f"cannot be used: {error.strerror}") from error


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _checked_name(name: str) -> str:
    """Without the spaces around it."""
    if not re.fullmatch(NAME, name) or len(name) > MAX_NAME:
        raise _bad("name", f"must be 1 to {MAX_NAME} characters, and none of them a control one")
    return name.strip()


def _checked(asked: Policy) -> Policy:
    """A policy whose fields can be kept and worked with; media types in lower case."""
    if len(asked.accept_types) > MAX_TYPES:
        raise _bad("accept_types", f"must be at most {MAX_TYPES}")
    if not all(re.fullmatch(TYPE, each) for each in asked.accept_types):
        raise _bad("accept_types", "must be media types such as image/png, image/* or */*")
    for field in ("max_file_size", "quota"):
        value: int | None = getattr(asked, field)
        if value is not None and not 0 <= value <= MAX_BYTES:
            raise _bad(field, f"must be 0 to {MAX_BYTES} bytes")
    life = asked.file_expiry
    if life is not None and not timedelta(seconds=1) <= life <= MAX_EXPIRY:
        raise _bad("file_expiry", f"must be 1 second to {MAX_EXPIRY.days} days")
    types = dict.fromkeys(each.lower() for each in asked.accept_types)
    return replace(asked, accept_types=tuple(types))
