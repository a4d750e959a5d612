"""Does the jobs of the catalog as they come due, under leases that outlive no process."""

from __future__ import annotations

import random
import secrets
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from upwell.core.ports import Catalog, Clock
    from upwell.model import Job, JobKind

LEASE = timedelta(minutes=5)
POLL = 0.5  # seconds between looks for a job that is due

_log = structlog.get_logger("upwell.jobs")


class JobFailed(Exception):
    """A job could not be done now; the message is kept with it. With ``for_good`` it is not
    tried again."""

    def __init__(self, message: str, *, for_good: bool = False) -> None:
        super().__init__(message)
        self.for_good = for_good


class LeaseLost(Exception):
    """Somebody else has taken the job over: let it be."""


class Stopping(Exception):
    """The runner is to stop: leave the job to another one."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A job in hand. What takes long calls ``renew`` now and then, and ``check``, which costs
    nothing, all the time; both raise when it is to be left."""

    job: Job
    renew: Callable[[], None]
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Work:
    """How jobs of one kind are done: by so many threads, and, when one fails, again after each
    of ``delays``."""

    do: Callable[[Lease], None]
    delays: Sequence[timedelta]
    threads: int = 1


class Runner:
    """Threads that do jobs; those of each kind wait for none of another, and accounts take turns:
    an account with a thousand jobs delays another one's by one job, not by a thousand."""

    def __init__(self, catalog: Catalog, clock: Clock, works: Mapping[JobKind, Work]) -> None:
        self._catalog = catalog
        self._clock = clock
        self._works = works
        self._holder = secrets.token_hex(8)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        # The account whose job of a kind this process took last. Threads of a kind share it, so
        # that each of them gives the next account its turn; a lost update costs one turn only.
        self._last: dict[JobKind, str] = {}

    def start(self) -> None:
        for kind, work in self._works.items():
            for number in range(work.threads):
                name = f"upwell-{kind}-{number}"
                thread = threading.Thread(target=self._loop, args=(kind,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)

    def stop(self) -> None:
        """Finish what is being done, or leave it where that takes long; take nothing more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def run_due(self) -> int:
        """Do everything that is due, in this thread; how many jobs."""
        return sum(self._run_all(kind) for kind in self._works)

    def _run_all(self, kind: JobKind) -> int:
        count = 0
        while self._run_one(kind):
            count += 1
        return count

    def _loop(self, kind: JobKind) -> None:
        while not self._stop.is_set():
            try:
                busy = self._run_one(kind)
            except Exception:  # noqa: BLE001 - the next job must come whatever went wrong
                _log.exception("a job could not be taken; it is tried again", kind=kind)
                busy = False
            if not busy:
                self._stop.wait(POLL * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    def _run_one(self, kind: JobKind) -> bool:
        """Do one job that is due; whether there was one. A look costs a read only."""
        now = self._clock()
        due_at = self._catalog.next_due((kind,))
        if due_at is None or due_at > now:
            return False
        job = self._catalog.claim_job(
            (kind,), self._holder_name(), now, now + LEASE, self._last.get(kind)
        )
        if job is None:
            return False
        self._last[kind] = job.account_id
        work = self._works[kind]
        if job.attempts > _tries(work):
            self._give_up(job)
        else:
            self._do(job, work)
        return True

    def _give_up(self, job: Job) -> None:
        """Nobody was left to say how its last try ended."""
        _log.error("a job ended its process each time; it is given up", **_named(job))
        error = "it ended its process each time"
        self._catalog.finish_job(job.id, self._holder_name(), self._clock(), error)

    def _do(self, job: Job, work: Work) -> None:
        holder = self._holder_name()

        def renew() -> None:
            if not self._catalog.renew_job(job.id, holder, self._clock() + LEASE):
                raise LeaseLost

        def check() -> None:
            if self._stop.is_set():
                raise Stopping

        try:
            work.do(Lease(job, renew, check))
        except LeaseLost:
            return
        except Stopping:
            self._catalog.release_job(job.id, holder, self._clock())
        except JobFailed as error:
            self._failed(job, work, str(error), for_good=error.for_good)
        except Exception as error:  # noqa: BLE001 - a job that fails must not take the others along
            _log.exception("a job failed", **_named(job))
            self._failed(job, work, type(error).__name__, for_good=False)
        else:
            self._catalog.finish_job(job.id, holder, self._clock())

    def _failed(self, job: Job, work: Work, error: str, *, for_good: bool) -> None:
        now, holder = self._clock(), self._holder_name()
        if for_good or job.attempts >= _tries(work):
            self._catalog.finish_job(job.id, holder, now, error)
            return
        self._catalog.retry_job(job.id, holder, self._again_at(job, work, now), error)

    def _again_at(self, job: Job, work: Work, now: datetime) -> datetime:
        """With some jitter, so that what failed together does not come back together."""
        return now + work.delays[job.attempts - 1] * random.uniform(1.0, 1.2)  # noqa: S311

    def _holder_name(self) -> str:
        """Of this thread: no two jobs in hand have the same holder."""
        return f"{self._holder}-{threading.get_ident()}"


def _tries(work: Work) -> int:
    return 1 + len(work.delays)


def _named(job: Job) -> dict[str, str]:
    return {"kind": str(job.kind), "subject": job.subject}
