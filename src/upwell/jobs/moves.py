"""Moves a file's bytes to another pool."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from upwell.core import blobs, policy
from upwell.core.creating import Senses
from upwell.core.homes import home_of
from upwell.core.keys import new_id
from upwell.errors import (
    PoolNotFound,
    Refused,
    StorageFailed,
    TooLarge,
    Unavailable,
    UpwellError,
)
from upwell.jobs.runner import JobFailed
from upwell.model import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from upwell.core.homes import Home
    from upwell.core.ports import Catalog, Clock, Intake
    from upwell.jobs.runner import Lease
    from upwell.model import Blob, CloudFile, Policy

DELAYS = tuple(timedelta(minutes=m) for m in (1, 5, 30))
_RENEW = 256 << 20  # bytes between two renewals of the lease


@dataclass(frozen=True, slots=True)
class Moves:
    """``account_quota`` is what an account may hold that has no quota of its own; ``senses``
    tells what is to be made of a file."""

    catalog: Catalog
    homes: Mapping[str, Home]
    clock: Clock
    account_quota: int | None = None
    senses: Senses = field(default_factory=Senses)

    def do(self, lease: Lease) -> None:
        """Copy, verify the copy, then change the row; the old bytes are let go with it."""
        file = self.catalog.file(lease.job.subject, self.clock(), None)
        if file is None:
            raise JobFailed("the file is gone", for_good=True)
        target = self.homes.get(lease.job.argument)
        if target is None:
            raise JobFailed("the pool is gone", for_good=True)
        if not file.pool_id == file.blob.pool_id == target.pool.id:
            self._move(file, target, _metered(lease))
        self._shorten(file.id, file.account_id, target.pool.policy)
        self._examine(file.id, target.pool.policy)

    def _move(self, file: CloudFile, target: Home, advance: Callable[[int], None]) -> None:
        try:
            policy.accept_file(file, target.pool.policy)
            self._require_room(file, target)
            self._copy_and_record(file, target, advance)
        except (Refused, TooLarge) as error:
            raise JobFailed(error.message, for_good=True) from error
        except PoolNotFound as error:
            raise JobFailed("the pool is gone", for_good=True) from error
        except Unavailable as error:
            raise JobFailed(error.message) from error
        except FileNotFoundError as error:
            raise JobFailed("its bytes are gone") from error

    def _require_room(self, file: CloudFile, target: Home) -> None:
        """Bytes that other files share stay where they are: a copy is more for the account to
        hold, which its quota must allow."""
        if len(self.catalog.files_of_blob(file.blob.id)) < 2:
            return
        held = self.catalog.usage(file.account_id).values()
        pool = self.catalog.pool_usage(target.pool.id)
        policy.fit(file.size, self._allowance(file, target), pool, held)

    def _allowance(self, file: CloudFile, target: Home) -> Allowance:
        accounts = {account.id: account.quota for account in self.catalog.accounts()}
        own = accounts.get(file.account_id)
        return Allowance(target.pool.policy.quota, self.account_quota if own is None else own)

    def _copy_and_record(
        self, file: CloudFile, target: Home, advance: Callable[[int], None]
    ) -> None:
        copied, moved = list[str](), None
        allowance = self._allowance(file, target)
        with target.store.intake() as intake:  # until the row names the copy
            try:
                blob = self._copy(file.blob, _Target(target, intake, copied), advance)
            except BaseException:
                _drop(copied, target)
                raise
            try:
                now = self.clock()
                moved = self.catalog.move_file(file.id, file.account_id, blob, now, allowance)
            except StorageFailed:
                raise  # the row may be there, now or after a restart: see I2
            except UpwellError:
                _drop(copied, target)  # of any other failure the outcome is not known, either
                raise
        if moved is None:
            _drop(copied, target)

    def _shorten(self, file_id: str, account_id: str, rules: Policy) -> None:
        """In its new pool, a file lives at most as long as a new one. Counted once: a move
        that was done and is done again changes nothing."""
        now = self.clock()
        file = self.catalog.file(file_id, now, account_id)
        if file is None:
            return
        until = policy.lives_until(file.expired_at, rules, None, now)
        if until != file.expired_at:
            self.catalog.update_file(
                file_id, account_id, now, lambda found: replace(found, expired_at=until)
            )

    def _examine(self, file_id: str, rules: Policy) -> None:
        """What was not made of it before, or while its bytes were on their way, is to be made
        now."""
        now = self.clock()
        file = self.catalog.file(file_id, now, None)
        if file is not None and file.blob.facts is None:
            for job in self.senses.jobs_for(file, rules):
                self.catalog.add_job(job, now)

    def _copy(self, blob: Blob, target: _Target, advance: Callable[[int], None]) -> Blob:
        """The blob that the copy is. What the target's policy does not want to be known of a
        content does not go along."""
        source, rules = home_of(self.homes, blob.pool_id).store, target.home.pool.policy

        def copy(key: str) -> str:
            with closing(source.open(key)) as reader:
                copied = blobs.copy(reader, target.home.store, target.intake, advance)
            target.copied.append(copied)
            return copied

        def derived(key: str | None) -> str | None:
            return None if key is None or rules.no_optimization else copy(key)

        moved = replace(
            blob,
            id=new_id(),
            pool_id=target.home.pool.id,
            key=copy(blob.key),
            facts={} if rules.no_metadata and blob.facts is not None else blob.facts,
            thumbnail_key=derived(blob.thumbnail_key),
            preview_key=derived(blob.preview_key),
            created_at=self.clock(),
        )
        problem = blobs.problem_of(target.home.store, moved, advance)
        if problem:
            raise JobFailed(f"the copy is damaged ({problem}): run `upwell verify`")
        return moved


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a file's bytes are copied to; ``copied`` are their keys there so far."""

    home: Home
    intake: Intake
    copied: list[str]


def _drop(keys: list[str], home: Home) -> None:
    for key in keys:
        home.store.delete(key)


def _metered(lease: Lease) -> Callable[[int], None]:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        lease.check()
        done += count
        if done >= _RENEW:
            done = 0
            lease.renew()

    return advance
