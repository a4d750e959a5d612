"""What every catalog promises of jobs and their leases (``core.rows.JobRows``)."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.dialects import postgresql

from tests.catalogs import migrated
from tests.conformance.test_catalog import (
    CATALOGS,
    HOUR,
    NOW,
    THREADS,
    TICK,
    _account,
    _at_once,
    _file,
)
from tests.conformance.test_catalog_sharing import (
    ANY,
    HUGE,
    LATER,
    PROCESSES,
    in_processes,
    stored,
)
from upwell.catalog import SqlCatalog, jobs, schema
from upwell.model import Job, JobKind, NewJob

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from upwell.core.ports import Catalog

PREVIEW, MOVE, DELIVER = JobKind.PREVIEW, JobKind.MOVE, JobKind.DELIVER
EVERY = tuple(JobKind)


@pytest.fixture(params=CATALOGS)
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    with closing(CATALOGS[request.param](tmp_path)) as opened:
        yield opened


@pytest.fixture
def sql(tmp_path: Path) -> Iterator[SqlCatalog]:
    with closing(SqlCatalog.open(migrated(tmp_path / "catalog.db"))) as opened:
        yield opened


def added(catalog: Catalog, kind: JobKind = PREVIEW, subject: str = "s", at: datetime = NOW) -> Job:
    return catalog.add_job(NewJob(kind, subject), at)


def claimed(catalog: Catalog, holder: str = "h", at: datetime = NOW) -> Job:
    job = catalog.claim_job(EVERY, holder, at, at + HOUR)
    assert job is not None
    return job


class TestJobs:
    def test_job_comes_back_as_it_was(self, catalog: Catalog) -> None:
        made = catalog.add_job(NewJob(MOVE, "file 🐢", "to"), NOW)
        assert made == Job(made.id, MOVE, "file 🐢", "to", 0, NOW, NOW)
        assert catalog.job(made.id) == made
        assert catalog.job(made.id + 1) is None
        assert catalog.job(HUGE) is None

    def test_job_due_for_longest_is_taken_first(self, catalog: Catalog) -> None:
        late, first, second = (added(catalog, at=NOW + n * TICK) for n in (2, 0, 0))
        taken = [claimed(catalog, at=LATER).id for _ in range(3)]
        assert taken == [first.id, second.id, late.id]
        assert catalog.claim_job(EVERY, "h", LATER, LATER + HOUR) is None

    def test_claim_counts_and_lasts_until_its_end(self, catalog: Catalog) -> None:
        job = added(catalog)
        held = replace(job, attempts=1, due_at=NOW + HOUR)
        assert catalog.claim_job([PREVIEW], "h", NOW, NOW + HOUR) == held
        assert catalog.job(job.id) == held
        assert catalog.claim_job([PREVIEW], "other", NOW + HOUR - TICK, LATER) is None
        again = catalog.claim_job([PREVIEW], "other", NOW + HOUR, LATER + HOUR)
        assert again == replace(job, attempts=2, due_at=LATER + HOUR)

    def test_job_is_not_due_before_its_time(self, catalog: Catalog) -> None:
        job = added(catalog, at=LATER)
        assert catalog.claim_job(EVERY, "h", LATER - TICK, LATER + HOUR) is None
        assert claimed(catalog, at=LATER).id == job.id

    def test_claim_is_of_the_kinds_asked_for(self, catalog: Catalog) -> None:
        preview, move, deliver = (added(catalog, kind) for kind in EVERY)
        until = NOW + HOUR
        assert catalog.claim_job([], "h", NOW, until) is None
        found = [catalog.claim_job({DELIVER, MOVE}, "h", NOW, until) for _ in range(3)]
        assert [job and job.id for job in found] == [move.id, deliver.id, None]
        assert claimed(catalog).id == preview.id

    def test_holder_renews(self, catalog: Catalog) -> None:
        job = added(catalog)
        assert not catalog.renew_job(job.id, "h", LATER)
        claimed(catalog)
        assert not catalog.renew_job(job.id, "other", LATER + HOUR)
        assert catalog.renew_job(job.id, "h", LATER + HOUR)
        found = catalog.job(job.id)
        assert found is not None
        assert (found.due_at, found.attempts) == (LATER + HOUR, 1)
        assert catalog.claim_job(EVERY, "other", LATER, LATER) is None

    def test_who_is_late_keeps_the_job_as_long_as_nobody_took_it(self, catalog: Catalog) -> None:
        job = added(catalog)
        claimed(catalog)
        assert catalog.renew_job(job.id, "h", LATER + 2 * HOUR)  # however late
        assert catalog.claim_job(EVERY, "other", LATER, LATER) is None

    def test_finished_job_is_done_for_good(self, catalog: Catalog) -> None:
        job = added(catalog)
        claimed(catalog)
        assert catalog.finish_job(job.id, "h", LATER)
        found = catalog.job(job.id)
        assert found is not None
        assert (found.finished_at, found.error) == (LATER, None)
        assert catalog.claim_job(EVERY, "h", LATER + HOUR, LATER + HOUR) is None
        assert not catalog.finish_job(job.id, "h", LATER, "no")
        assert not catalog.renew_job(job.id, "h", LATER)
        assert not catalog.retry_job(job.id, "h", LATER, "no")
        assert catalog.job(job.id) == found

    def test_failure_for_good_is_told(self, catalog: Catalog) -> None:
        job = added(catalog)
        claimed(catalog)
        assert catalog.finish_job(job.id, "h", LATER, "broken")
        found = catalog.job(job.id)
        assert found is not None
        assert (found.finished_at, found.error) == (LATER, "broken")

    def test_failed_job_is_tried_again_when_told(self, catalog: Catalog) -> None:
        job = added(catalog)
        claimed(catalog)
        assert catalog.retry_job(job.id, "h", LATER, "timeout")
        waits = replace(job, attempts=1, due_at=LATER, error="timeout")
        assert catalog.job(job.id) == waits
        assert not catalog.renew_job(job.id, "h", LATER + HOUR)  # no longer the holder
        assert catalog.claim_job(EVERY, "other", LATER - TICK, LATER) is None
        again = claimed(catalog, "other", LATER)
        assert again == replace(waits, attempts=2, due_at=LATER + HOUR)
        assert catalog.finish_job(job.id, "other", LATER)
        done = catalog.job(job.id)
        assert done is not None
        assert done.error is None

    def test_job_that_is_given_back_was_not_tried(self, catalog: Catalog) -> None:
        job = added(catalog)
        claimed(catalog)
        assert not catalog.release_job(job.id, "other", LATER)
        assert catalog.release_job(job.id, "h", LATER)
        assert catalog.job(job.id) == replace(job, due_at=LATER)
        assert not catalog.release_job(job.id, "h", LATER)
        assert claimed(catalog, "other", LATER).attempts == 1

    def test_job_that_was_taken_over_is_no_longer_the_first_holder_s(
        self, catalog: Catalog
    ) -> None:
        job = added(catalog)
        claimed(catalog, "dead")
        taken = claimed(catalog, "other", NOW + HOUR)
        assert taken.id == job.id
        assert not catalog.renew_job(job.id, "dead", LATER + HOUR)
        assert not catalog.retry_job(job.id, "dead", LATER, "x")
        assert not catalog.finish_job(job.id, "dead", LATER)
        assert not catalog.finish_job(HUGE, "dead", LATER)
        assert catalog.job(job.id) == taken
        assert catalog.finish_job(job.id, "other", LATER)

    def test_jobs_of_a_subject_are_newest_first_in_pages(self, catalog: Catalog) -> None:
        made = [added(catalog) for _ in range(5)]
        added(catalog, MOVE)
        added(catalog, subject="other")
        page = catalog.jobs(PREVIEW, "s", 1, 2)
        assert (page.items, page.total) == ([made[3], made[2]], 5)
        far = catalog.jobs(PREVIEW, "s", HUGE, HUGE)
        assert (far.items, far.total) == ([], 5)
        assert catalog.jobs(DELIVER, "s", 0, 10).total == 0

    def test_next_due_is_that_of_the_kinds(self, catalog: Catalog) -> None:
        assert catalog.next_due(EVERY) is None
        added(catalog, PREVIEW, at=LATER)
        move = added(catalog, MOVE)
        assert catalog.next_due([PREVIEW]) == LATER
        assert catalog.next_due(EVERY) == NOW
        claimed(catalog)
        assert catalog.next_due([MOVE]) == NOW + HOUR
        catalog.finish_job(move.id, "h", NOW)
        assert catalog.next_due([MOVE]) is None
        assert catalog.next_due([]) is None

    def test_ended_jobs_are_forgotten_in_pieces(
        self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.jobs.BATCH", 3)
        for error in (None, "x", None, None, "y"):
            added(catalog)
            assert catalog.finish_job(claimed(catalog).id, "h", LATER, error)
        waits, last = added(catalog, at=NOW), added(catalog, at=NOW - TICK)
        assert claimed(catalog).id == last.id
        assert catalog.finish_job(last.id, "h", LATER + TICK)
        assert catalog.forget_jobs(LATER) == 0
        assert [catalog.forget_jobs(LATER + TICK) for _ in range(3)] == [3, 2, 0]
        assert [job.id for job in catalog.jobs(PREVIEW, "s", 0, 10).items] == [last.id, waits.id]

    def test_numbers_never_come_again(self, catalog: Catalog) -> None:
        job = added(catalog)
        catalog.finish_job(claimed(catalog).id, "h", NOW)
        assert catalog.forget_jobs(LATER) == 1
        assert added(catalog).id > job.id


class TestJobsOfAChange:
    """What is to be done after a change is recorded with it, or not at all."""

    def test_job_comes_with_its_file(self, catalog: Catalog) -> None:
        ann = _account(catalog, "ann")
        blob = stored(catalog, ann).blob
        assert catalog.next_due(EVERY) is None
        file = _file(ann, replace(blob, id="b", key="k"))
        new = [NewJob(PREVIEW, "b"), NewJob(MOVE, file.id, "p")]
        catalog.add_file(file.blob, file, ANY, new)
        [preview] = catalog.jobs(PREVIEW, "b", 0, 10).items
        [move] = catalog.jobs(MOVE, file.id, 0, 10).items
        assert (preview.due_at, move.argument) == (file.created_at, "p")

    def test_failed_change_leaves_no_job(self, sql: SqlCatalog) -> None:
        def fail(conn: sa.Connection) -> None:
            jobs.add(conn, [NewJob(PREVIEW, "s")] * 3, NOW)
            raise ValueError

        with pytest.raises(ValueError, match=r"^$"):
            sql._db.write(fail)
        assert sql.jobs(PREVIEW, "s", 0, 10).total == 0
        sql._db.write(lambda conn: jobs.add(conn, [], NOW))
        assert sql.next_due(EVERY) is None


class TestRaces:
    def test_threads_never_get_the_same_job(self, catalog: Catalog) -> None:
        made = {added(catalog).id for _ in range(3 * THREADS)}
        taken = _at_once(*[partial(_claim_all, catalog, f"h{thread}") for thread in range(THREADS)])
        ids = [id_ for each in taken for id_ in each]
        assert len(ids) == len(made)
        assert set(ids) == made

    def test_one_of_holder_and_heir_has_the_job(self, catalog: Catalog) -> None:
        """A lease that has run out is renewed, or taken over, never both."""
        for _ in range(20):
            job = added(catalog)
            assert claimed(catalog, "first").id == job.id
            renewed, heir = _at_once(
                lambda: catalog.renew_job(job.id, "first", LATER + HOUR),  # noqa: B023 - called here
                lambda: catalog.claim_job(EVERY, "heir", NOW + HOUR, LATER + HOUR),
            )
            assert renewed != (heir is not None)
            assert catalog.finish_job(job.id, "heir" if heir else "first", LATER)

    def test_asking_in_vain_waits_for_no_writer(self, sql: SqlCatalog) -> None:
        added(sql, at=LATER)
        with closing(sqlite3.connect(sql._db.path, isolation_level=None)) as plain:
            plain.execute("BEGIN IMMEDIATE")
            assert sql.claim_job(EVERY, "h", NOW, LATER) is None
            assert sql.next_due(EVERY) == LATER
            plain.execute("ROLLBACK")


def _claim_all(catalog: Catalog, holder: str) -> list[int]:
    found = []
    while job := catalog.claim_job(EVERY, holder, NOW, LATER):
        assert catalog.renew_job(job.id, holder, LATER + HOUR)
        found.append(job.id)
    return found


def _work(path: str, gate: Any, out: Any) -> None:
    """Claim and finish until nothing is left; two threads, each a holder of its own."""
    with closing(SqlCatalog.open(path)) as sql:
        gate.wait(60)

        def work(thread: int) -> list[int]:
            holder, done = f"{os.getpid()} {thread}", []
            while job := sql.claim_job(EVERY, holder, NOW, LATER):
                assert job.attempts == 1
                assert sql.finish_job(job.id, holder, NOW)
                done.append(job.id)
            return done

        out.put(_at_once(partial(work, 0), partial(work, 1)))


@pytest.mark.slow
class TestProcesses:
    def test_processes_never_get_the_same_job(self, sql: SqlCatalog) -> None:
        made = {added(sql, EVERY[n % 3]).id for n in range(200)}
        results = in_processes(_work, sql._db.path)
        done = [id_ for process in results for thread in process for id_ in thread]
        assert len(results) == PROCESSES
        assert len(done) == len(made)
        assert set(done) == made
        assert sql.next_due(EVERY) is None

    def test_job_of_a_killed_process_is_due_again(self, sql: SqlCatalog) -> None:
        job = added(sql)
        code = (
            "import os, sys, signal; from tests.conformance.test_catalog_jobs import *;"
            "held = SqlCatalog.open(sys.argv[1]).claim_job(EVERY, 'dead', NOW, LATER);"
            "print(held.id, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
        )
        arguments = [sys.executable, "-c", code, str(sql._db.path)]
        root = Path(__file__).parents[2]
        done = subprocess.run(
            arguments, cwd=root, capture_output=True, text=True, check=False, timeout=120
        )
        assert (done.returncode, done.stdout) == (-signal.SIGKILL, f"{job.id}\n"), done.stderr
        assert sql.claim_job(EVERY, "h", LATER - TICK, LATER) is None
        heir = claimed(sql, "h", LATER)
        assert (heir.id, heir.attempts) == (job.id, 2)


class Leases(RuleBasedStateMachine):
    """Runners that work, fail, dawdle and die, against a model that knows who may do what."""

    sql: SqlCatalog  # of the run

    def __init__(self) -> None:
        super().__init__()
        self.sql._db.write(lambda conn: conn.execute(sa.delete(schema.jobs)))
        self.now = NOW
        self.jobs: dict[int, Job] = {}
        self.holders: dict[int, str] = {}

    @rule(kind=st.sampled_from(EVERY))
    def add(self, kind: JobKind) -> None:
        job = self.sql.add_job(NewJob(kind, "s"), self.now)
        self.jobs[job.id] = job

    @rule(minutes=st.integers(1, 90))
    def wait(self, minutes: int) -> None:
        self.now += minutes * HOUR / 60

    @rule(kinds=st.sets(st.sampled_from(EVERY)), holder=st.sampled_from("abc"))
    def claim(self, kinds: set[JobKind], holder: str) -> None:
        due = [
            (job.due_at, job.id)
            for job in self.jobs.values()
            if job.kind in kinds and job.finished_at is None and job.due_at <= self.now
        ]
        found = self.sql.claim_job(kinds, holder, self.now, self.now + HOUR)
        assert (found and found.id) == (min(due)[1] if due else None)
        if found is not None:
            known = self.jobs[found.id]
            attempts = known.attempts + 1
            self.jobs[found.id] = replace(known, attempts=attempts, due_at=self.now + HOUR)
            self.holders[found.id] = holder

    @rule(
        data=st.data(),
        holder=st.sampled_from("abc"),
        how=st.sampled_from(["renew", "finish", "fail", "retry"]),
    )
    def go_on(self, data: st.DataObject, holder: str, how: str) -> None:
        if not self.jobs:
            return
        job = self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]
        held = self.holders.get(job.id) == holder
        until = self.now + HOUR
        if how == "renew":
            done = self.sql.renew_job(job.id, holder, until)
            changed = replace(job, due_at=until)
        elif how == "retry":
            done = self.sql.retry_job(job.id, holder, until, "again")
            changed = replace(job, due_at=until, error="again")
        else:
            error = "failed" if how == "fail" else None
            done = self.sql.finish_job(job.id, holder, self.now, error)
            changed = replace(job, finished_at=self.now, error=error)
        assert done is held
        if held:
            self.jobs[job.id] = changed
            if how != "renew":
                del self.holders[job.id]

    def teardown(self) -> None:
        """The rows are as the model has them."""
        for job in self.jobs.values():
            assert self.sql.job(job.id) == job


def test_leases_against_a_model(sql: SqlCatalog) -> None:
    run_state_machine_as_test(type("Run", (Leases,), {"sql": sql}))


class TestStatements:
    def test_queries_walk_no_table(self, sql: SqlCatalog) -> None:
        seen: dict[str, Any] = {}

        @sa.event.listens_for(sql._db.engine, "before_cursor_execute")
        def note(*args: Any) -> None:
            seen[args[2]] = args[3]

        job = added(sql)
        sql.next_due(EVERY)
        claimed(sql)
        sql.renew_job(job.id, "h", NOW)
        sql.retry_job(job.id, "h", NOW, "x")
        sql.finish_job(claimed(sql).id, "h", NOW)
        sql.job(job.id)
        sql.jobs(PREVIEW, "s", 0, 10)
        sql.forget_jobs(LATER)
        with closing(sqlite3.connect(sql._db.path)) as plain:
            for statement, values in seen.items():
                steps = [r[3] for r in plain.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
                assert not [s for s in steps if s.startswith("SCAN")], (statement, steps)
                assert not [s for s in steps if "TEMP B-TREE" in s], (statement, steps)
                if "due_at <=" in statement or "min(" in statement:
                    assert "ix_jobs_due_at (kind=?" in steps[0]

    def test_many_writers_skip_what_another_one_takes(self) -> None:
        """SQLite has one writer, and leaves these words out."""
        query = jobs._longest_due(MOVE, NOW).with_for_update(skip_locked=True)
        text = str(query.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
        assert text.endswith("FOR UPDATE SKIP LOCKED")
