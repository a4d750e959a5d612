"""Many processes, many connections, one chunk: I3, I6, and one task, one file."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.harness import BOUNDARY, Answer, Api, Server, chunked, form, servers, together
from upwell import app
from upwell.config import Settings
from upwell.core.uploads import Verifying
from upwell.errors import Conflict, NotFound, UpwellError
from upwell.model import Chunk, Layout, NewUpload, Principal, Scope, UploadTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from upwell.core.ports import UploadReader
    from upwell.core.receiving import ChunkWriter

K = 256 << 10
SMALL = 64 << 10
RACERS = 16
TAKEN_OVER = 8.0  # seconds: a stuck request lets go after STUCK and a tick


def _race(apis: list[Api]) -> None:
    """One upload, raced from everywhere; what comes of it is whole and one."""
    at = [apis[number % len(apis)] for number in range(RACERS)]
    task = apis[0].create(4 * K, K)
    quiet = {2: os.urandom(K), 3: os.urandom(K)}
    for index, part in quiet.items():
        assert at[index].put(task, index, part).status == 200
    for index in (0, 1):
        bodies = [bytes([1 + number + index * RACERS]) * K for number in range(RACERS)]
        sends = [
            partial(api.put if number % 2 else api.form, task, index, bodies[number])
            for number, api in enumerate(at)
        ]
        answers = together(sends)
        assert {answer.status for answer in answers} <= {200, 409}, answers
        assert any(answer.status == 200 for answer in answers)
        refused = {answer.code for answer in answers if answer.status == 409}
        assert refused <= {"CHUNK_SUPERSEDED", "CHUNK_BUSY"}
        quiet[index] = b"".join(
            body[:1] for body, answer in zip(bodies, answers, strict=True) if answer.status == 200
        )
    completes = together([partial(api.complete, task) for api in at])
    assert {answer.status for answer in completes} == {200}, completes
    assert len({answer.json()["id"] for answer in completes}) == 1
    content = apis[-1].download(completes[0].json()["id"])
    assert hashlib.sha256(content).hexdigest() == completes[0].json()["hash"]
    for index in (0, 1):
        part = content[index * K : (index + 1) * K]
        assert len(set(part)) == 1, f"chunk {index} is a mixture: {set(part)}"
        assert part[:1] in quiet[index], "what is stored was never acknowledged"
    assert content[2 * K :] == quiet[2] + quiet[3]  # acknowledged, never sent again
    assert len(apis[0].files()) == 1


def _create_at_once(apis: list[Api]) -> None:
    content = os.urandom(K)
    digest = hashlib.sha256(content).hexdigest()
    at = [apis[number % len(apis)] for number in range(RACERS)]
    tasks = together([partial(api.create, K, K, hash=digest) for api in at])
    assert len(set(tasks)) == 1
    assert [each["task_id"] for each in apis[0].tasks()] == [tasks[0]]
    assert together([partial(api.put, tasks[0], 0, content) for api in at[:4]])
    completes = together([partial(api.complete, tasks[0]) for api in at])
    assert {answer.status for answer in completes} == {200}, completes
    assert len({answer.json()["id"] for answer in completes}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 8])
def test_i6_one_chunk_raced_among_workers(data: Path, count: int) -> None:
    with Server(data, workers=count) as server:
        api = server.api(timeout=60)
        _race([api])
        _create_at_once([api])
        assert not server.bugs()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 8])
def test_i6_one_chunk_raced_among_independent_servers(data: Path, count: int) -> None:
    with servers(data, count) as running:
        apis = [each.api(timeout=60) for each in running]
        _race(apis)
        _create_at_once(apis)
        assert not [bug for each in running for bug in each.bugs()]


@pytest.mark.slow
def test_completes_at_once_always_end_and_agree(data: Path) -> None:
    """Many uploads, each completed by two processes at once: no answer may fail to come."""
    with servers(data, 2) as running:
        apis = [each.api(timeout=30) for each in running]
        for _ in range(25):
            content = os.urandom(4 * 1024)
            task = apis[0].create(len(content), 1024)
            for index in range(4):
                apis[0].put(task, index, content[index * 1024 : (index + 1) * 1024])
            answers = together([partial(apis[number % 2].complete, task) for number in range(6)])
            assert {answer.status for answer in answers} == {200}, answers
            assert len({answer.json()["id"] for answer in answers}) == 1
        assert not [bug for each in running for bug in each.bugs()]


# stalled clients


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two independent processes on one data folder."""
    with servers(tmp_path_factory.mktemp("pair") / "data", 2) as running:
        yield running


def _opening(api: Api, task: str, kind: str, data: bytes) -> tuple[bytes, bytes]:
    """A chunk request in two halves."""
    path = api.chunk_path(task, 0)
    if kind == "raw":
        whole = api.request("PUT", path, data)
    elif kind == "form":
        media = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        whole = api.request("POST", path, form(data), media)
    else:
        whole = api.head("PUT", path, {"Transfer-Encoding": "chunked"}) + chunked(data)
    cut = len(whole) - len(data) // 2
    return whole[:cut], whole[cut:]


@pytest.mark.slow
@pytest.mark.parametrize("acknowledged", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("other", [False, True], ids=["same-process", "other-process"])
@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
def test_i6_a_stalled_chunk_is_taken_over(
    pair: list[Server], kind: str, other: bool, acknowledged: bool
) -> None:
    old, new = pair[0].api(), pair[int(other)].api()
    task = old.create(2 * K, K)
    if acknowledged:
        assert old.put(task, 0, b"Z" * K).status == 200
    begin, rest = _opening(old, task, kind, b"A" * K)
    with old.wire() as stalled:
        stalled.send(begin)
        time.sleep(0.5)
        began = time.monotonic()
        answer = new.put(task, 0, b"B" * K)
        took = time.monotonic() - began
        assert answer.status == 200, answer
        assert took < TAKEN_OVER
        if stalled.try_send(rest):
            _assert_refused(stalled.answer)
        assert new.put(task, 1, b"C" * K).status == 200
        answer = new.complete(task)
        assert answer.status == 200, answer
        stalled.try_send(rest)
        time.sleep(0.1)
    assert old.download(answer.json()["id"]) == b"B" * K + b"C" * K
    assert not [bug for each in pair for bug in each.bugs()]


def _assert_refused(answer: object) -> None:
    assert callable(answer)
    try:
        came: Answer = answer()
    except OSError:
        return  # hung up
    assert came.status == 409, came
    assert came.code == "CHUNK_SUPERSEDED"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
def test_i1_a_stalled_resend_that_is_killed_changes_nothing(pair: list[Server], kind: str) -> None:
    api = pair[0].api()
    task = api.create(K, K)
    assert api.put(task, 0, b"Z" * K).status == 200
    begin, _ = _opening(api, task, kind, b"A" * K)
    stalled = api.wire()
    stalled.send(begin)
    time.sleep(0.3)
    stalled.reset()
    answer = pair[1].api().complete(task)
    assert answer.status == 200, answer
    assert api.download(answer.json()["id"]) == b"Z" * K
    assert not [bug for each in pair for bug in each.bugs()]


@pytest.mark.slow
@pytest.mark.parametrize("other", [False, True], ids=["same-process", "other-process"])
def test_i3_a_chunk_that_waited_through_complete_changes_nothing(
    pair: list[Server], other: bool
) -> None:
    """A re-send waits for a stalled one; the upload is completed; only then it gets the slot."""
    api, late = pair[0].api(), pair[int(other)].api()
    task = api.create(SMALL, SMALL)
    assert api.put(task, 0, b"Z" * SMALL).status == 200
    begin, _ = _opening(api, task, "raw", b"A" * SMALL)
    stalled = api.wire()
    stalled.send(begin)
    time.sleep(0.3)
    answers: list[Answer] = []
    waiting = threading.Thread(
        target=lambda: answers.append(late.put(task, 0, b"B" * SMALL)), daemon=True
    )
    waiting.start()
    time.sleep(0.3)
    file = api.complete(task)
    assert file.status == 200, file
    stalled.reset()
    waiting.join(20)
    content = api.download(file.json()["id"])
    assert content == b"Z" * SMALL, f"a completed file now begins with {content[:1]!r}"
    assert answers[0].status == 409, answers[0]
    assert answers[0].code == "TASK_CLOSED"
    assert not [bug for each in pair for bug in each.bugs()]


@pytest.mark.slow
def test_a_resend_that_ends_after_complete_is_told_so(pair: list[Server]) -> None:
    """Its side object went with the upload's: a conflict, no bug of the server."""
    api = pair[0].api()
    task = api.create(SMALL, SMALL)
    assert api.put(task, 0, b"Z" * SMALL).status == 200
    begin, rest = _opening(api, task, "raw", b"A" * SMALL)
    with api.wire() as slow:
        slow.send(begin)
        time.sleep(0.3)
        file = api.complete(task)
        assert file.status == 200, file
        slow.send(rest)
        answer = slow.answer()
    assert answer.status == 409, answer
    assert answer.code == "TASK_CLOSED"
    assert api.download(file.json()["id"]) == b"Z" * SMALL


@pytest.mark.slow
def test_a_chunk_that_ends_after_cancel_is_told_so(pair: list[Server]) -> None:
    api = pair[0].api()
    for acknowledged in (False, True):
        task = api.create(SMALL, SMALL)
        if acknowledged:
            assert api.put(task, 0, b"Z" * SMALL).status == 200
        begin, rest = _opening(api, task, "raw", b"A" * SMALL)
        with api.wire() as slow:
            slow.send(begin)
            time.sleep(0.3)
            assert api.call("DELETE", f"/api/files/upload/{task}").status == 204
            slow.send(rest)
            answer = slow.answer()
        assert answer.status in (404, 409), answer
        assert answer.code in ("TASK_CLOSED", "TASK_NOT_FOUND")
    assert not [bug for each in pair for bug in each.bugs()]


# the same, deterministic, in this process


class _Node:
    """The core of one process, on a data folder that others may share."""

    def __init__(self, data: Path) -> None:
        self.core = app.build(Settings(data=data))
        owner = self.core.accounts.find("owner")
        owner = owner or self.core.accounts.create("owner", admin=True)
        self.who = Principal(owner, frozenset({Scope.READ, Scope.WRITE}), "t")
        self.verbs = self.core.uploads

    def create(self, size: int, chunk_size: int) -> UploadTask:
        new = NewUpload("f", size, "application/octet-stream", chunk_size=chunk_size)
        task = self.verbs.create(self.who, new)
        assert isinstance(task, UploadTask)
        return task

    def open(self, task: UploadTask, index: int) -> ChunkWriter:
        return self.verbs.open_chunk(self.who, task.id, index)

    def send(self, task: UploadTask, index: int, data: bytes) -> None:
        writer = self.open(task, index)
        try:
            assert writer.acquire()
            writer.write(memoryview(data))
            writer.finish()
        finally:
            writer.close()

    def content(self, task: UploadTask) -> bytes:
        file = self.verbs.complete(self.who, task.id)
        reader = self.core.homes[task.pool_id].store.open(file.blob.key)
        try:
            return reader.read_at(0, file.blob.size)
        finally:
            reader.close()


@pytest.fixture
def nodes(data: Path) -> Iterator[list[_Node]]:
    with ExitStack() as stack:
        made = []
        for _ in range(2):
            made.append(_Node(data))
            stack.callback(made[-1].core.close)
        yield made


def test_i3_a_writer_that_was_opened_before_complete_cannot_write_after_it(
    nodes: list[_Node],
) -> None:
    one, two = nodes
    task = one.create(SMALL, SMALL)
    one.send(task, 0, b"Z" * SMALL)
    late = two.open(task, 0)
    try:
        assert one.content(task) == b"Z" * SMALL
        with suppress(Conflict, NotFound):
            if late.acquire():
                late.write(memoryview(b"B" * SMALL))
                late.finish()
    finally:
        late.close()
    assert one.content(task) == b"Z" * SMALL


class _NoChunks:
    def all(self, start: int = 0) -> Iterator[Chunk]:
        return iter(())

    def staged(self) -> Sequence[Chunk]:
        return ()


def test_a_complete_whose_chunks_go_meanwhile_ends(
    nodes: list[_Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process ends the upload between a complete's look at the task and its look at
    the chunks: the answer is an answer, not a wait without end."""
    one, two = nodes
    task = one.create(4 * SMALL, SMALL)
    for index in range(4):
        one.send(task, index, bytes([index]) * SMALL)
    fresh = _Node(one.core.settings.data)
    try:
        monkeypatch.setattr(fresh.core.homes[task.pool_id].store, "reader", _forgetful(one, task))
        monkeypatch.setattr(fresh.core.catalog, "chunks", lambda _: _NoChunks())
        verifying = fresh.verbs.begin_complete(fresh.who, task.id)
        assert isinstance(verifying, Verifying)
        file = one.verbs.complete(one.who, task.id)
        assert isinstance(verifying.digests.exception(timeout=10), OSError)
        assert fresh.verbs.finish_complete(fresh.who, verifying) == file
    finally:
        fresh.core.close()
    assert two.content(task)[:1] == b"\0"


def _forgetful(node: _Node, task: UploadTask) -> Callable[[Layout], UploadReader]:
    """Readers that find no digest another process left behind."""
    store = node.core.homes[task.pool_id].store

    def reader(layout: Layout) -> UploadReader:
        with suppress(OSError):
            os.removexattr(store.path(layout.key), "user.upwell.memo")  # type: ignore[attr-defined]
        return store.reader(layout)

    return reader


def test_a_complete_whose_bytes_are_gone_answers_soon(nodes: list[_Node]) -> None:
    """A lost side object (a bad disk, an old backup) is told, not waited for."""
    one, _ = nodes
    task = one.create(SMALL, SMALL)
    one.send(task, 0, b"A" * SMALL)
    one.send(task, 0, b"B" * SMALL)
    one.core.homes[task.pool_id].store.unstage(task.layout.key)
    one.verbs._followers.forget(task.id)
    failed: list[BaseException] = []

    def complete() -> None:
        try:
            one.verbs.complete(one.who, task.id)
        except UpwellError as error:
            failed.append(error)

    thread = threading.Thread(target=complete, daemon=True)
    thread.start()
    thread.join(8)
    ended = bool(failed)
    one.verbs.cancel(one.who, task.id)  # lets the thread go
    thread.join(20)
    assert ended, "complete still waits for bytes that are lost"
