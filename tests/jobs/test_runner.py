"""Jobs under leases: done once they are due, taken over from the dead, tried again later."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.core.world import KEY, OTHER_POOL, FakeClock, World
from tests.harness import eventually
from upwell.core.creating import Senses
from upwell.core.events import Events
from upwell.jobs import runner as runner_module
from upwell.jobs.runner import LEASE, JobFailed, Lease, Runner, Work
from upwell.model import Job, JobKind, NewJob, Policy

if TYPE_CHECKING:
    from collections.abc import Callable

DELAYS = (timedelta(minutes=1), timedelta(minutes=5))


def nothing(_: Lease) -> None:
    pass


class Worker:
    """Does jobs as it is told to, and remembers them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.on: dict[str, Callable[[Lease], None]] = {}

    def do(self, lease: Lease) -> None:
        self.on.get(lease.job.subject, nothing)(lease)
        self.done.append(lease.job.subject)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def runner(small: World, worker: Worker) -> Runner:
    return Runner(small.catalog, small.clock, {JobKind.MOVE: Work(worker.do, DELAYS)})


def ask(world: World, subject: str = "a", kind: JobKind = JobKind.MOVE) -> Job:
    world.clock.advance(seconds=1)  # jobs are done in the order they were asked for
    return world.catalog.add_job(NewJob(kind, subject, OTHER_POOL), world.clock())


def now(world: World, job: Job) -> Job:
    found = world.catalog.job(job.id)
    assert found is not None
    return found


def fail(message: str = "no", *, for_good: bool = False) -> Callable[[Lease], None]:
    def do(_: Lease) -> None:
        raise JobFailed(message, for_good=for_good)

    return do


def break_down(_: Lease) -> None:
    raise ZeroDivisionError


def test_what_is_due_is_done_once_and_in_order(
    small: World, runner: Runner, worker: Worker
) -> None:
    jobs = [ask(small, name) for name in "abc"]
    assert runner.run_due() == 3
    assert worker.done == ["a", "b", "c"]
    for job in jobs:
        assert (now(small, job).finished_at, now(small, job).error) == (small.clock(), None)
    assert runner.run_due() == 0


def test_accounts_take_turns(small: World, runner: Runner, worker: Worker) -> None:
    """Whoever asks for a hundred things delays the others by one each."""
    for account, count in (("b", 4), ("a", 1), ("c", 2)):
        for number in range(count):
            small.clock.advance(seconds=1)
            job = NewJob(JobKind.MOVE, f"{account}{number}", "", account)
            small.catalog.add_job(job, small.clock())
    assert runner.run_due() == 7
    assert worker.done == ["b0", "c0", "a0", "b1", "c1", "b2", "b3"]


def test_every_job_says_for_whom_it_is(small: World) -> None:
    """A job of nobody would have its turn with all others of nobody."""
    image = small.upload(small.me, b"x", content_type="image/png")
    small.pools.move(small.me, image.id, OTHER_POOL)
    events = Events(small.catalog, small.clock, KEY)
    hook, _ = events.add_webhook(small.me, "https://hook.example/")
    events.test_webhook(small.me, hook.id)
    small.files.rename(small.me, image.id, "y")
    until = small.clock() + LEASE
    taken = [
        small.catalog.claim_job((kind,), "h", small.clock(), until)
        for kind in (JobKind.MOVE, JobKind.DELIVER, JobKind.DELIVER)
    ]
    assert [job and job.account_id for job in taken] == [small.me.account.id] * 3
    senses = Senses(examines=lambda _: True)
    (preview,) = senses.jobs_for(image, Policy())
    assert preview.account_id == small.me.account.id


def test_jobs_of_other_kinds_are_left_alone(small: World, runner: Runner, worker: Worker) -> None:
    job = ask(small, kind=JobKind.DELIVER)
    assert runner.run_due() == 0
    assert now(small, job) == job


def test_a_failing_job_does_not_stop_others(small: World, runner: Runner, worker: Worker) -> None:
    bad, broken, good = (ask(small, name) for name in ("bad", "broken", "good"))
    worker.on["bad"] = fail("the disk is full")
    worker.on["broken"] = break_down
    assert runner.run_due() == 3
    assert worker.done == ["good"]
    assert now(small, good).finished_at is not None
    assert (now(small, bad).error, now(small, bad).finished_at) == ("the disk is full", None)
    assert now(small, broken).error == "ZeroDivisionError"


def test_what_fails_is_tried_again_after_longer_and_longer(
    small: World, runner: Runner, worker: Worker
) -> None:
    job = ask(small)
    worker.on["a"] = fail()
    for delay in DELAYS:
        assert runner.run_due() == 1
        due = now(small, job).due_at - small.clock()
        assert delay <= due <= 1.2 * delay
        small.clock.advance(seconds=delay.total_seconds() - 1)
        assert runner.run_due() == 0
        small.clock.advance(seconds=1 + 0.2 * delay.total_seconds())
    assert runner.run_due() == 1
    found = now(small, job)
    assert (found.attempts, found.finished_at, found.error) == (3, small.clock(), "no")
    small.clock.advance(days=1)
    assert runner.run_due() == 0


def test_a_failure_that_was_overcome_is_forgotten(
    small: World, runner: Runner, worker: Worker
) -> None:
    job = ask(small)
    worker.on["a"] = fail()
    runner.run_due()
    del worker.on["a"]
    small.clock.advance(hours=1)
    assert runner.run_due() == 1
    assert (now(small, job).error, now(small, job).attempts) == (None, 2)


def test_what_failed_for_good_is_not_tried_again(
    small: World, runner: Runner, worker: Worker
) -> None:
    job = ask(small)
    worker.on["a"] = fail("the file is gone", for_good=True)
    runner.run_due()
    found = now(small, job)
    assert (found.finished_at, found.error) == (small.clock(), "the file is gone")


def test_a_job_whose_holder_died_is_taken_over(small: World, runner: Runner) -> None:
    job = ask(small)
    until = small.clock() + LEASE
    assert small.catalog.claim_job((JobKind.MOVE,), "the dead", small.clock(), until)
    assert runner.run_due() == 0
    small.clock.advance(seconds=LEASE.total_seconds())
    assert runner.run_due() == 1
    assert now(small, job).attempts == 2


def test_a_job_that_ends_its_process_is_given_up(
    small: World, runner: Runner, worker: Worker
) -> None:
    job = ask(small)
    for _ in range(len(DELAYS) + 1):
        until = small.clock() + LEASE
        assert small.catalog.claim_job((JobKind.MOVE,), "the dead", small.clock(), until)
        small.clock.advance(seconds=LEASE.total_seconds())
    with capture_logs() as logs:
        assert runner.run_due() == 1
    assert worker.done == []
    found = now(small, job)
    assert (found.finished_at, found.error) == (small.clock(), "it ended its process each time")
    assert [(each["log_level"], each["subject"]) for each in logs] == [("error", "a")]
    small.clock.advance(days=1)
    assert runner.run_due() == 0


def test_stops_of_the_server_are_no_failures(small: World, worker: Worker) -> None:
    job = ask(small)
    for _ in range(2 * len(DELAYS)):
        begun = threading.Event()

        def for_ever(lease: Lease, begun: threading.Event = begun) -> None:
            begun.set()
            while True:
                lease.check()
                time.sleep(0.001)

        worker.on["a"] = for_ever
        running = Runner(small.catalog, small.clock, {JobKind.MOVE: Work(worker.do, DELAYS)})
        running.start()
        assert begun.wait(60)
        running.stop()
        assert (now(small, job).attempts, now(small, job).finished_at) == (0, None)
    del worker.on["a"]
    assert Runner(small.catalog, small.clock, {JobKind.MOVE: Work(worker.do, DELAYS)}).run_due()
    assert worker.done == ["a"]


@pytest.mark.parametrize("end", ["done", "failed", "failed for good", "renewed"])
def test_the_late_end_of_who_lost_the_lease_changes_nothing(
    small: World, runner: Runner, worker: Worker, end: str
) -> None:
    other = Worker()
    successor = Runner(small.catalog, small.clock, {JobKind.MOVE: Work(other.do, DELAYS)})
    job = ask(small)
    seen: list[Job] = []

    def slowly(lease: Lease) -> None:
        small.clock.advance(seconds=LEASE.total_seconds())
        assert successor.run_due() == 1
        seen.append(now(small, job))
        if end == "renewed":
            lease.renew()
            raise AssertionError  # it must have been told
        if end != "done":
            fail("too late", for_good=end == "failed for good")(lease)

    worker.on["a"] = slowly
    assert runner.run_due() == 1
    assert other.done == ["a"]
    assert [now(small, job)] == seen


def test_renewing_keeps_a_long_job(small: World, runner: Runner, worker: Worker) -> None:
    rival = Runner(small.catalog, small.clock, {JobKind.MOVE: Work(Worker().do, DELAYS)})
    job = ask(small)

    def long(lease: Lease) -> None:
        for _ in range(5):
            small.clock.advance(seconds=0.8 * LEASE.total_seconds())
            lease.renew()
            assert rival.run_due() == 0

    worker.on["a"] = long
    assert runner.run_due() == 1
    assert (now(small, job).attempts, now(small, job).error) == (1, None)


@pytest.mark.slow
def test_threads_do_jobs_and_stop_promptly(
    small: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    works = {kind: Work(worker.do, DELAYS, threads=2) for kind in (JobKind.MOVE, JobKind.PREVIEW)}
    running = Runner(small.catalog, clock, works)
    before = set(threading.enumerate())
    running.start()
    started = set(threading.enumerate()) - before
    assert len(started) == 4
    for number in range(10):
        small.catalog.add_job(NewJob(JobKind.MOVE, str(number)), clock())
    eventually(lambda: len(worker.done) == 10, 60, "all jobs are done")
    monkeypatch.setattr(runner_module, "POLL", 100)
    time.sleep(1)  # now they wait that long
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 20
    assert not [thread for thread in started if thread.is_alive()]
    small.catalog.add_job(NewJob(JobKind.MOVE, "late"), clock())
    assert sorted(worker.done) == sorted(map(str, range(10)))


def test_stop_waits_for_what_is_being_done(small: World, worker: Worker) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(_: Lease) -> None:
        begun.set()
        assert go_on.wait(60)

    worker.on["0"] = slowly
    clock = FakeClock()
    running = Runner(small.catalog, clock, {JobKind.MOVE: Work(worker.do, DELAYS)})
    for number in range(2):
        small.catalog.add_job(NewJob(JobKind.MOVE, str(number)), clock())
    running.start()
    assert begun.wait(60)
    stopping = threading.Thread(target=running.stop)
    stopping.start()
    stopping.join(0.2)
    assert stopping.is_alive()
    go_on.set()
    stopping.join(60)
    assert worker.done == ["0"]


def test_a_long_job_is_left_to_another_runner(small: World, worker: Worker) -> None:
    begun, clock = threading.Event(), FakeClock()

    def for_ever(lease: Lease) -> None:
        begun.set()
        while True:
            lease.check()
            time.sleep(0.001)

    worker.on["a"] = for_ever
    running = Runner(small.catalog, clock, {JobKind.MOVE: Work(worker.do, DELAYS)})
    job = small.catalog.add_job(NewJob(JobKind.MOVE, "a"), clock())
    running.start()
    assert begun.wait(60)
    began = time.monotonic()
    running.stop()
    assert time.monotonic() - began < 20
    found = now(small, job)
    assert (found.due_at, found.finished_at) == (clock(), None)
    other = Worker()
    assert Runner(small.catalog, clock, {JobKind.MOVE: Work(other.do, DELAYS)}).run_due() == 1
    assert other.done == ["a"]


def test_a_slow_job_holds_up_none_of_another_kind(small: World, worker: Worker) -> None:
    begun, go_on, clock = threading.Event(), threading.Event(), FakeClock()

    def slowly(_: Lease) -> None:
        begun.set()
        assert go_on.wait(60)

    worker.on["slow"] = slowly
    works = {kind: Work(worker.do, DELAYS) for kind in (JobKind.MOVE, JobKind.PREVIEW)}
    running = Runner(small.catalog, clock, works)
    running.start()
    small.catalog.add_job(NewJob(JobKind.MOVE, "slow"), clock())
    assert begun.wait(60)
    small.catalog.add_job(NewJob(JobKind.PREVIEW, "quick"), clock())
    eventually(lambda: worker.done == ["quick"], 60, "the quick one is done")
    go_on.set()
    running.stop()
    assert worker.done == ["quick", "slow"]


def test_a_catalog_that_fails_now_and_then_stops_no_thread(
    small: World, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "POLL", 0.01)
    clock, failures = FakeClock(), iter([OSError(5, "x"), OSError(5, "x")])
    real = small.catalog.next_due

    def flaky(kinds: tuple[JobKind, ...]) -> object:
        error = next(failures, None)
        if error:
            raise error
        return real(kinds)

    monkeypatch.setattr(small.catalog, "next_due", flaky)
    running = Runner(small.catalog, clock, {JobKind.MOVE: Work(worker.do, DELAYS)})
    small.catalog.add_job(NewJob(JobKind.MOVE, "a"), clock())
    running.start()
    eventually(lambda: worker.done == ["a"], 60, "the job is done all the same")
    running.stop()


def test_two_runners_share_the_work(small: World) -> None:
    clock, workers = FakeClock(), [Worker(), Worker()]
    works = [{JobKind.MOVE: Work(each.do, DELAYS, threads=2)} for each in workers]
    runners = [Runner(small.catalog, clock, work) for work in works]
    for number in range(40):
        small.catalog.add_job(NewJob(JobKind.MOVE, str(number)), clock())
    for each in runners:
        each.start()

    def done() -> list[str]:
        return workers[0].done + workers[1].done

    eventually(lambda: len(done()) >= 40, 60, "all jobs are done")
    for each in runners:
        each.stop()
    assert sorted(done(), key=int) == [str(number) for number in range(40)]
