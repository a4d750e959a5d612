"""The core against a plain model: any order of verbs, from two processes, with restarts.

The model holds each file's bytes and each task's acknowledged chunks. After every step the
core must agree with it to the byte (I2, I3, I4); after a sweep beyond the grace nothing but
what the model knows may be stored (I8).
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.core.world import CHUNK, Core, World, content, new_upload, piece
from upwell.core import age
from upwell.errors import (
    ChunkConflict,
    ChunkSizeMismatch,
    ChunksMissing,
    HashMismatch,
    TaskClosed,
    TaskNotFound,
)
from upwell.jobs.sweep import Retention
from upwell.model import DEFAULT_POOL_ID, CloudFile, NewUpload, TaskStatus, UploadTask

if TYPE_CHECKING:
    from datetime import datetime

    from upwell.core.receiving import ChunkWriter

CONTENTS = [b"", content(3), content(CHUNK), content(2 * CHUNK + 1), content(3 * CHUNK, 1)]
NAMES = ["a", "b"]
IDLE = timedelta(days=7)
GRACE = timedelta(hours=1)
LIVES = [None, timedelta(hours=3)]

which = st.integers(0, 1)
contents = st.sampled_from(CONTENTS)
names = st.sampled_from(NAMES)
lives = st.sampled_from(LIVES)
picks = st.integers(0, 1 << 16)


@dataclass
class ModelTask:
    task: UploadTask
    data: bytes
    name: str
    declared: bool
    expired_at: datetime | None
    expires_at: datetime
    status: TaskStatus = TaskStatus.IN_PROGRESS
    chunks: dict[int, bytes] = field(default_factory=dict)
    bound: dict[int, bytes] = field(default_factory=dict)  # what an encrypted chunk must be
    file_id: str | None = None
    ended_at: datetime | None = None

    def end(self, status: TaskStatus, now: datetime) -> None:
        """What has ended stays as it is."""
        if self.status is TaskStatus.IN_PROGRESS and status is not self.status:
            self.status, self.ended_at = status, now

    @property
    def received(self) -> bytes:
        return b"".join(self.chunks[index] for index in sorted(self.chunks))

    @property
    def missing(self) -> list[int]:
        return [index for index in range(self.task.layout.count) if index not in self.chunks]


@dataclass
class ModelFile:
    data: bytes
    name: str
    expired_at: datetime | None


@dataclass
class Held:
    """A request that has the slot and half of its body."""

    writer: ChunkWriter
    task_id: str
    index: int
    body: bytes


@dataclass
class Recycled:
    file: ModelFile
    since: datetime


class Late:
    """A catalog before whose rows of new bytes a sweeper comes by, which takes them for old."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        if name in ("add_task", "add_files", "record_chunk"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("upwell.jobs.sweep.GRACE", -timedelta(days=1))
                self._world.sweeper._drop_strays_if_there(DEFAULT_POOL_ID)
        return getattr(self._world.catalog, name)


class CoreMachine(RuleBasedStateMachine):
    kind = "memory"
    password: str | None = None

    def __init__(self) -> None:
        super().__init__()
        shm = Path("/dev/shm")  # no test of the disk: it would only be slow
        self.folder = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None))
        self.world = World(self.folder, self.kind)
        self.me = self.world.me
        self.cores: list[Core] = [self.world, self.late()]
        self.tasks: dict[str, ModelTask] = {}
        self.files: dict[str, ModelFile] = {}
        self.recycled: dict[str, Recycled] = {}
        self.recycles = False
        self.held: list[Held] = []

    def teardown(self) -> None:
        for held in self.held:
            held.writer.close()
        self.world.close()
        shutil.rmtree(self.folder)

    def late(self) -> Core:
        """A second process, that stands still for longer than the grace before each row."""
        return self.world.another(Late(self.world))

    # the model's view

    @property
    def now(self) -> datetime:
        return self.world.clock()

    def live(self) -> dict[str, ModelFile]:
        return {
            file_id: file
            for file_id, file in self.files.items()
            if file.expired_at is None or file.expired_at > self.now
        }

    def status(self, task: ModelTask) -> TaskStatus:
        end = min(task.expires_at, task.expired_at or task.expires_at)
        overdue = task.status is TaskStatus.IN_PROGRESS and end <= self.now
        return TaskStatus.EXPIRED if overdue else task.status

    def running(self) -> list[ModelTask]:
        return [t for t in self.tasks.values() if self.status(t) is TaskStatus.IN_PROGRESS]

    def pick_task(self, pick: int) -> ModelTask:
        """Mostly one that runs; now and then any."""
        candidates = self.running() if pick % 4 else list(self.tasks.values())
        assume(candidates)
        return candidates[pick // 4 % len(candidates)]

    def refusal(self, task: ModelTask) -> type[Exception] | None:
        """What a verb says to a task that does not run."""
        status = self.status(task)
        if status is TaskStatus.IN_PROGRESS:
            return None
        return TaskNotFound if status is TaskStatus.EXPIRED else TaskClosed

    def is_held(self, task: ModelTask, index: int) -> bool:
        return any((h.task_id, h.index) == (task.task.id, index) for h in self.held)

    def finish(self, writer: ChunkWriter, task: ModelTask, index: int, body: bytes) -> None:
        """The whole body is there. An encrypted chunk takes only what it was first sealed from."""
        if self.password and task.bound.setdefault(index, body) != body:
            with pytest.raises(ChunkConflict):
                writer.finish()
            return
        writer.finish()
        task.chunks[index] = body
        task.expires_at = self.now + IDLE

    def add_file(self, file: CloudFile, data: bytes, name: str, until: datetime | None) -> None:
        assert file.id not in self.files
        assert (file.name, file.size, file.expired_at) == (name, len(data), until)
        self.files[file.id] = ModelFile(data, name, until)

    def check_existing(
        self, made: CloudFile, data: bytes, name: str, until: datetime | None
    ) -> None:
        """The account's own file, or a new one on the same bytes."""
        same = {file_id: f for file_id, f in self.live().items() if f.data == data}
        assert same
        exact = {i for i, f in same.items() if (f.name, f.expired_at) == (name, until)}
        if exact:
            assert made.id in exact
        else:
            self.add_file(made, data, name, until)

    def new(self, data: bytes, **fields: Any) -> NewUpload:
        return new_upload(data, password=self.password, **fields)

    def is_there(self, data: bytes, *, declared: bool) -> bool:
        """Whether the server says that it has a content; never of what is encrypted."""
        known = any(file.data == data for file in self.live().values())
        return declared and known and not self.password

    # create and direct

    @rule(core=which, data=contents, name=names, life=lives, declared=st.sampled_from([1, 1, 0]))
    def create(
        self, core: int, data: bytes, name: str, life: timedelta | None, declared: int
    ) -> None:
        until = self.now + life if life else None
        fields: dict[str, Any] = {} if declared else {"digest": None}
        new = self.new(data, file_name=name, expired_at=until, **fields)
        made = self.cores[core].uploads.create(self.me, new)
        if isinstance(made, CloudFile):
            assert declared
            self.check_existing(made, data, name, until)
            return
        assert not self.is_there(data, declared=bool(declared))
        self.check_task(made, data, name, until, declared=bool(declared))

    def check_task(
        self, made: UploadTask, data: bytes, name: str, until: datetime | None, *, declared: bool
    ) -> None:
        alike = [
            task
            for task in self.tasks.values()
            if declared and task.declared and (task.data, task.name) == (data, name)
            if task.status is TaskStatus.IN_PROGRESS
        ]
        for task in alike:
            if self.status(task) is TaskStatus.IN_PROGRESS:
                assert made.id == task.task.id, "an unmodified client resumes"
                task.expired_at = until
                task.expires_at = max(task.expires_at, self.now + IDLE)  # asking is use
                return
            task.end(TaskStatus.EXPIRED, self.now)  # the newcomer takes its place
        assert made.id not in self.tasks
        expires = self.now + IDLE
        self.tasks[made.id] = ModelTask(made, data, name, declared, until, expires)

    @rule(core=which, data=contents, name=names, life=lives, declared=st.booleans())
    def direct(
        self, core: int, data: bytes, name: str, life: timedelta | None, declared: bool
    ) -> None:
        until = self.now + life if life else None
        fields: dict[str, Any] = {} if declared else {"digest": None}
        new = self.new(data, file_name=name, expired_at=until, **fields)
        made = self.cores[core].uploads.store_direct(self.me, new, data)
        if self.is_there(data, declared=declared):
            self.check_existing(made, data, name, until)
        else:
            self.add_file(made, data, name, until)

    # chunks

    def open(self, core: int, task: ModelTask, index: int) -> ChunkWriter | None:
        refusal = self.refusal(task)
        uploads = self.cores[core].uploads
        if refusal is None:
            return uploads.open_chunk(self.me, task.task.id, index)
        with pytest.raises(refusal):
            uploads.open_chunk(self.me, task.task.id, index)
        return None

    def body(self, task: ModelTask, index: int, seed: int) -> bytes:
        right = piece(task.task, task.data, index)
        return right if seed == 0 else content(len(right), seed)

    def pick_index(self, task: ModelTask, pick: int) -> int:
        """Mostly one that is missing."""
        assume(task.task.layout.count)
        some = task.missing if pick % 3 and task.missing else range(task.task.layout.count)
        return some[pick // 3 % len(some)]

    @rule(core=which, task=picks, index=picks, seed=st.sampled_from([0, 0, 0, 7, 8]))
    def send(self, core: int, task: int, index: int, seed: int) -> None:
        chosen = self.pick_task(task)
        at = self.pick_index(chosen, index)
        writer = self.open(core, chosen, at)
        if writer is None:
            return
        with closing(writer):
            if not writer.acquire():
                assert self.is_held(chosen, at)
                return
            assert not self.is_held(chosen, at)
            body = self.body(chosen, at, seed)
            writer.write(memoryview(body)[:3])
            writer.write(memoryview(body)[3:])
            self.finish(writer, chosen, at, body)

    @rule(core=which, task=picks)
    def send_what_is_missing(self, core: int, task: int) -> None:
        """As a client does that resumes."""
        chosen = self.pick_task(task)
        for at in chosen.missing:
            if not self.is_held(chosen, at):
                self.send_right(core, chosen, at)

    def send_right(self, core: int, task: ModelTask, at: int) -> None:
        writer = self.open(core, task, at)
        if writer is None:
            return
        with closing(writer):
            assert writer.acquire()
            writer.write(memoryview(self.body(task, at, 0)))
            self.finish(writer, task, at, self.body(task, at, 0))

    @rule(core=which, task=picks, index=picks, size=st.integers(0, CHUNK + 3), end=st.booleans())
    def abandon(self, core: int, task: int, index: int, size: int, end: bool) -> None:
        """A body that is too short, too long, or whole and then cut off before its end."""
        chosen = self.pick_task(task)
        at = self.pick_index(chosen, index)
        writer = self.open(core, chosen, at)
        if writer is None:
            return
        with closing(writer):
            if not writer.acquire():
                return
            if size > writer.length:
                with pytest.raises(ChunkSizeMismatch):
                    writer.write(memoryview(content(size, 9)))
                return
            writer.write(memoryview(content(size, 9)))
            if end and size != writer.length:
                with pytest.raises(ChunkSizeMismatch):
                    writer.finish()

    @rule(core=which, task=picks, index=picks, seed=st.sampled_from([0, 7]))
    def supersede(self, core: int, task: int, index: int, seed: int) -> None:
        """The newest of three requests for one index gets it."""
        chosen = self.pick_task(task)
        at = self.pick_index(chosen, index)
        if self.is_held(chosen, at):
            return
        first, second, third = (self.open(core ^ n, chosen, at) for n in (0, 1, 0))
        if first is None or second is None or third is None:
            return
        body = self.body(chosen, at, seed)
        with closing(first), closing(second), closing(third):
            assert first.acquire()
            first.write(memoryview(content(len(body) // 2, 9)))
            assert not second.acquire()
            assert not third.acquire()
            assert first.contended()
            assert second.contended()
            second.close()
            first.close()
            assert third.acquire()
            third.write(memoryview(body))
            self.finish(third, chosen, at, body)

    @rule(core=which, task=picks, index=picks, seed=st.sampled_from([0, 7]))
    @precondition(lambda self: len(self.held) < 3)
    def hold(self, core: int, task: int, index: int, seed: int) -> None:
        """A request that gets its slot and half of its body, and is still there later."""
        chosen = self.pick_task(task)
        at = self.pick_index(chosen, index)
        writer = self.open(core, chosen, at)
        if writer is None:
            return
        if not writer.acquire():
            writer.close()
            return
        body = self.body(chosen, at, seed)
        writer.write(memoryview(body)[: len(body) // 2])
        self.held.append(Held(writer, chosen.task.id, at, body))

    @rule(pick=picks)
    @precondition(lambda self: self.held)
    def end_held(self, pick: int) -> None:
        """The rest of it comes, whatever became of its task."""
        held = self.held.pop(pick % len(self.held))
        task = self.tasks[held.task_id]
        with closing(held.writer):
            held.writer.write(memoryview(held.body)[len(held.body) // 2 :])
            if task.status is not TaskStatus.IN_PROGRESS:
                with pytest.raises((TaskClosed, TaskNotFound)):
                    held.writer.finish()
                return
            self.finish(held.writer, task, held.index, held.body)

    @rule(pick=picks)
    @precondition(lambda self: self.held)
    def drop_held(self, pick: int) -> None:
        self.held.pop(pick % len(self.held)).writer.close()

    # the ends of a task

    @rule(core=which, task=picks)
    def complete(self, core: int, task: int) -> None:
        chosen = self.pick_task(task)
        uploads, task_id = self.cores[core].uploads, chosen.task.id
        refusal = self.refusal(chosen)
        if chosen.status is TaskStatus.COMPLETED:
            refusal = None if chosen.file_id in self.live() else TaskNotFound
        if refusal:
            with pytest.raises(refusal):
                uploads.complete(self.me, task_id)
        elif chosen.status is TaskStatus.COMPLETED:
            assert uploads.complete(self.me, task_id).id == chosen.file_id
        elif chosen.missing:
            with pytest.raises(ChunksMissing) as refused:
                uploads.complete(self.me, task_id)
            assert refused.value.meta == {"missing_chunks": chosen.missing}
        elif chosen.declared and chosen.received != chosen.data:
            with pytest.raises(HashMismatch):
                uploads.complete(self.me, task_id)
        else:
            file = uploads.complete(self.me, task_id)
            self.add_file(file, chosen.received, chosen.name, chosen.expired_at)
            chosen.end(TaskStatus.COMPLETED, self.now)
            chosen.file_id = file.id

    @rule(core=which, task=picks)
    def cancel(self, core: int, task: int) -> None:
        assume(task % 3 == 0)  # not too often
        chosen = self.pick_task(task)
        uploads, task_id = self.cores[core].uploads, chosen.task.id
        status = self.status(chosen)
        if status in {TaskStatus.IN_PROGRESS, TaskStatus.CANCELLED}:
            uploads.cancel(self.me, task_id)
            chosen.end(TaskStatus.CANCELLED, self.now)
        else:
            with pytest.raises((TaskClosed, TaskNotFound)):
                uploads.cancel(self.me, task_id)

    # files

    @rule(core=which, pick=picks, name=names)
    @precondition(lambda self: self.live())
    def rename(self, core: int, pick: int, name: str) -> None:
        live = self.live()
        file_id = list(live)[pick % len(live)]
        self.cores[core].files.rename(self.me, file_id, name)
        live[file_id].name = name

    @rule(core=which, pick=picks)
    @precondition(lambda self: self.live())
    def delete(self, core: int, pick: int) -> None:
        live = list(self.live())
        file_id = live[pick % len(live)]
        self.cores[core].files.delete(self.me, file_id)
        gone = self.files.pop(file_id)
        if self.recycles:
            self.recycled[file_id] = Recycled(gone, self.now)

    @rule(recycles=st.booleans())
    def change_policy(self, recycles: bool) -> None:
        self.world.set_policy(enable_recycle=recycles)
        for core in self.cores:
            core.homes.renew()  # type: ignore[attr-defined]
        self.recycles = recycles

    def in_bin(self) -> dict[str, Recycled]:
        return {
            file_id: each
            for file_id, each in self.recycled.items()
            if each.file.expired_at is None or each.file.expired_at > self.now
        }

    @rule(core=which, pick=picks, restore=st.booleans())
    @precondition(lambda self: self.in_bin())
    def empty_bin(self, core: int, pick: int, restore: bool) -> None:
        """Restore one, or delete it for good."""
        in_bin = list(self.in_bin())
        file_id = in_bin[pick % len(in_bin)]
        gone = self.recycled.pop(file_id)
        if restore:
            self.cores[core].files.restore(self.me, file_id)
            self.files[file_id] = gone.file
        else:
            self.cores[core].files.delete(self.me, file_id)

    # time, sweeps and restarts

    @rule(hours=st.sampled_from([0.01, 0.5, 4, 100, 200]))
    def advance(self, hours: float) -> None:
        self.world.clock.advance(hours=hours)

    @rule(core=which, beyond_grace=st.booleans())
    def sweep(self, core: int, beyond_grace: bool) -> None:
        """Requests may live longer than the grace."""
        if beyond_grace:
            self.world.clock.advance(seconds=2 * GRACE.total_seconds())
        self.cores[core].sweeper.sweep()
        long_ago = self.now - Retention().recycled
        self.recycled = {i: each for i, each in self.in_bin().items() if each.since >= long_ago}
        for task in self.tasks.values():
            task.end(self.status(task), self.now)
        long_gone = self.now - Retention().tasks
        self.tasks = {i: t for i, t in self.tasks.items() if (t.ended_at or self.now) >= long_gone}
        if beyond_grace:
            self.check_nothing_is_left_over()

    def check_nothing_is_left_over(self) -> None:
        files = self.world.files
        rows = [
            *files.mine(self.me, 0, 1000).items,
            *files.mine(self.me, 0, 1000, recycled=True).items,
        ]
        running = [task.task.layout.key for task in self.running()]
        assert self.world.all_keys() == {file.blob.key for file in rows} | set(running)
        named = {(key, n) for key in running for n in self.world.catalog.staged_names(key)}
        sides = self.world.sides()
        assert sides == named or (self.held and sides > named)
        assert self.world.catalog.garbage(10) == []

    @rule(core=which)
    def restart(self, core: int) -> None:
        """All that a process had in its memory is gone; its requests end with it."""
        while self.held:
            self.held.pop().writer.close()
        if core:
            self.cores[1].uploads.close()
        else:
            self.world.restart()
        self.cores = [self.world, self.late()]

    # what always holds

    @invariant()
    def files_are_what_the_model_says(self) -> None:
        """I2, I3, I4."""
        core = self.cores[0]
        live = self.live()
        rows = core.files.mine(self.me, 0, 1000).items
        assert {row.id: (row.name, row.expired_at) for row in rows} == {
            file_id: (file.name, file.expired_at) for file_id, file in live.items()
        }
        for file_id, file in live.items():
            assert core.open(self.me, file_id, password=self.password) == file.data
        in_bin = core.files.mine(self.me, 0, 1000, recycled=True).items
        assert {row.id for row in in_bin} == set(self.in_bin())

    @invariant()
    def usage_is_what_is_held(self) -> None:
        held = self.cores[0].catalog
        before = held.usage(self.me.account.id)
        assert held.repair_usage() == 0
        assert held.usage(self.me.account.id) == before

    @invariant()
    def acknowledged_chunks_are_what_the_model_says(self) -> None:
        """I1, I2, I6: to the byte, wherever they lie."""
        core = self.cores[1]
        for task in self.running():
            status = core.uploads.status(self.me, task.task.id)
            assert status.uploaded == sorted(task.chunks)
            assert status.missing == task.missing
            assert status.task.received_bytes == len(task.received)
            assert status.task.expires_at == task.expires_at
            with closing(core.uploads._open_reader(task.task)) as reader:
                for chunk in self.world.catalog.chunks(task.task.id).all():
                    buffer = memoryview(bytearray(chunk.size))
                    assert reader.read_into(chunk.index, chunk.staged, 0, buffer) == chunk.size
                    assert bytes(buffer) == task.chunks[chunk.index]

    @invariant()
    def side_objects_are_those_that_chunks_name(self) -> None:
        """What is replaced goes at once; what a request has in hand stays."""
        sides = self.world.sides()
        for task in self.running():
            key = task.task.layout.key
            named = {(key, name) for name in self.world.catalog.staged_names(key)}
            here = {each for each in sides if each[0] == key}
            assert here == named or (self.held and here > named)

    @invariant()
    def tasks_are_where_the_model_says(self) -> None:
        rows = self.cores[0].uploads.tasks(self.me, None, 0, 1000).items
        assert {row.id: row.status for row in rows} == {
            task_id: self.status(task) for task_id, task in self.tasks.items()
        }


class LocalMachine(CoreMachine):
    kind = "local"


class SealedMachine(CoreMachine):
    """Every upload is encrypted, in blocks that are small enough for many of them."""

    kind = "local"
    password = "open sesame"

    def __init__(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(age, "LOG_N", 1)
        self.patch.setattr(age, "BLOCK", CHUNK)
        self.patch.setattr(age, "SEALED_BLOCK", CHUNK + age.TAG)
        super().__init__()

    def teardown(self) -> None:
        super().teardown()
        self.patch.undo()


MACHINES = {"memory": CoreMachine, "local": LocalMachine, "sealed": SealedMachine}
_CALM = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def _profile(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=_CALM,
        print_blob=True,
    )


@pytest.mark.parametrize(
    "kind",
    [
        "memory",
        pytest.param("local", marks=pytest.mark.slow),
        pytest.param("sealed", marks=pytest.mark.slow),
    ],
)
def test_the_core_agrees_with_its_model(kind: str) -> None:
    run_state_machine_as_test(MACHINES[kind], settings=_profile(4, 25))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", MACHINES)
def test_the_core_agrees_with_its_model_thoroughly(kind: str) -> None:
    run_state_machine_as_test(MACHINES[kind], settings=_profile(150, 60))
