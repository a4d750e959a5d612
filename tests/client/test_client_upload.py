from __future__ import annotations

import os
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.client.fake_server import TOKEN, FakeServer
from upwell.client import (
    ApiError,
    Backoff,
    Calls,
    ConnectionFailed,
    ContentMismatch,
    FileChanged,
    Interrupted,
    LocalFileError,
    PatienceOver,
    Retry,
    UnexpectedAnswer,
    UploadOptions,
    UploadStates,
    Wait,
    Watcher,
    upload_file,
)
from upwell.client.upload import type_of

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1000
SMALL_CHUNKS = UploadOptions(chunk_size=CHUNK)
ENCRYPTED = UploadOptions(chunk_size=CHUNK, password="first")


class Log(Watcher):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.total = self.done = 0
        self._lock = threading.Lock()

    def begin(self, total: int, done: int) -> None:
        self.total, self.done = total, done

    def advance(self, count: int) -> None:
        with self._lock:
            self.done += count

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def states(tmp_path: Path) -> UploadStates:
    return UploadStates(tmp_path / "state")


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(10 * CHUNK + 17))
    return path


def stored(server: FakeServer) -> bytes:
    (file,) = server.files.values()
    return file.content


def interrupt(
    path: Path, server: FakeServer, states: UploadStates, options: UploadOptions = SMALL_CHUNKS
) -> None:
    """Send some chunks of ``path``, then fail for good."""
    server.fail(r"/chunk/\w+/5", "answer", status=400, body={"code": "BROKEN"})
    with (
        Calls(server.url, TOKEN, connections=1) as client,
        pytest.raises(ApiError, match="As told"),
    ):
        upload_file(client, path, options, states=states)


def unheard(server: FakeServer, path: Path, options: UploadOptions, states: UploadStates) -> None:
    """Upload ``path``, but for the answer that says so."""
    server.fail(r"complete", "lose")
    with (
        Calls(server.url, TOKEN, retry=Retry(0)) as client,
        pytest.raises(ConnectionFailed),
    ):
        upload_file(client, path, options, states=states)


def test_a_compressed_file_is_not_of_the_type_of_what_is_inside() -> None:
    names = ("notes.txt", "notes.txt.gz", "a.tar.bz2", "a.tgz", "film.mp4.xz", "a.unknown")
    assert [type_of(name) for name in names] == [
        "text/plain",
        "application/gzip",
        "application/x-bzip2",
        "application/gzip",
        "application/x-xz",
        None,
    ]


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 7 * CHUNK + 3], ids=str
)
@pytest.mark.parametrize("check_first", [False, True])
def test_any_size_arrives(
    size: int, check_first: bool, client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "näme.txt"
    path.write_bytes(content := os.urandom(size))
    log = Log()

    options = UploadOptions(chunk_size=CHUNK, check_first=check_first)
    done = upload_file(client, path, options, watcher=log)

    assert stored(server) == content
    assert not done.existing
    assert (done.file.name, done.file.size) == ("näme.txt", size)
    assert done.file.mime_type == "text/plain"
    assert (log.total, log.done) == (size, size)


def test_a_large_file_is_read_once_and_created_without_its_hash(
    client: Calls, server: FakeServer, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    read = os.preadv

    def counted(number: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal count
        got = read(number, buffers, offset)
        count += got
        return got

    monkeypatch.setattr(os, "preadv", counted)
    upload_file(client, big, SMALL_CHUNKS)

    assert count == big.stat().st_size
    (task,) = server.tasks.values()
    assert "hash" not in task.request


def test_a_small_file_that_is_there_already_is_not_sent(
    client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "small"
    path.write_bytes(b"hello")
    server.add(b"hello")

    assert upload_file(client, path).existing
    assert server.count("PUT") == 0


def test_check_first_spares_a_large_file_that_is_there_already(
    client: Calls, server: FakeServer, big: Path
) -> None:
    server.add(big.read_bytes())

    assert upload_file(client, big, UploadOptions(chunk_size=CHUNK, check_first=True)).existing
    assert server.count("PUT") == 0


def test_the_chunk_size_that_the_server_answers_counts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content := os.urandom(5000))
    with FakeServer(max_chunk=700) as server, Calls(server.url, TOKEN) as client:
        upload_file(client, path)
        assert stored(server) == content
        assert server.count("PUT") == 8


@pytest.mark.slow
def test_chunks_go_in_parallel(server: FakeServer, tmp_path: Path) -> None:
    """As many at once as help, which here is as many as may be."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(80 * CHUNK))
    server.delay = 0.05
    with Calls(server.url, TOKEN, connections=4) as client:
        upload_file(client, big, SMALL_CHUNKS)
    assert server.busiest == 4


@pytest.mark.parametrize(
    ("match", "kind"),
    [
        (r"PUT .*/3", "reset"),
        (r"PUT .*/3", "lose"),
        (r"PUT", "reset"),
        (r"complete", "lose"),
        (r"complete", "reset"),
        (r"create", "reset"),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_broken_connections_are_tried_again(
    match: str, kind: str, times: int, client: Calls, server: FakeServer, big: Path
) -> None:
    server.fail(match, kind, times=times)
    log = Log()
    upload_file(client, big, SMALL_CHUNKS, watcher=log)

    assert stored(server) == big.read_bytes()
    assert log.done == log.total


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
def test_passing_errors_are_tried_again(
    status: int, client: Calls, server: FakeServer, big: Path
) -> None:
    server.fail(r"PUT .*/2", "answer", status=status, times=2)
    server.fail(r"complete", "answer", status=status)
    upload_file(client, big, SMALL_CHUNKS)
    assert stored(server) == big.read_bytes()


@pytest.mark.parametrize("code", ["CHUNK_BUSY", "CHUNK_SUPERSEDED"])
def test_a_chunk_that_another_request_took_over_is_sent_again(
    code: str, client: Calls, server: FakeServer, big: Path
) -> None:
    server.fail(r"PUT .*/2", "answer", status=409, body={"code": code})
    upload_file(client, big, SMALL_CHUNKS)
    assert stored(server) == big.read_bytes()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415])
def test_refusals_end_the_upload_at_once(
    status: int, client: Calls, server: FakeServer, big: Path
) -> None:
    refusal = {"code": "REFUSED", "message": "Pools are closed today.", "trace_id": "abc"}
    server.fail(r"PUT .*/2", "answer", status=status, body=refusal)
    with pytest.raises(ApiError, match="Pools are closed today") as caught:
        upload_file(client, big, SMALL_CHUNKS)
    assert (caught.value.code, caught.value.status) == ("REFUSED", status)
    assert caught.value.trace_id == "abc"


@pytest.mark.slow
def test_retry_after_is_respected(server: FakeServer, big: Path) -> None:
    server.fail(r"create", "answer", status=429, headers={"Retry-After": "1"})
    waits: list[Wait | None] = []
    quick = Retry(9.0, backoff=Backoff(first=0.01), on_wait=waits.append)
    with Calls(server.url, TOKEN, retry=quick) as client:
        upload_file(client, big, SMALL_CHUNKS)
    assert waits[0] is not None
    assert waits[0].delay >= 1.0
    assert waits[1:] == [None]


def test_a_wait_longer_than_the_patience_ends_at_once(server: FakeServer, big: Path) -> None:
    server.fail(r"create", "answer", status=429, headers={"Retry-After": "3600"})
    with Calls(server.url, TOKEN, retry=Retry(5.0)) as client, pytest.raises(PatienceOver):
        upload_file(client, big, SMALL_CHUNKS)


def test_patience_ends(server: FakeServer, big: Path) -> None:
    server.fail(r"PUT", "reset", times=10_000)
    retry = Retry(0.3, backoff=Backoff(first=0.01, longest=0.05))
    with Calls(server.url, TOKEN, retry=retry) as client, pytest.raises(PatienceOver) as caught:
        upload_file(client, big, SMALL_CHUNKS)
    assert isinstance(caught.value.cause, ConnectionFailed)


def test_without_patience_nothing_is_tried_again(server: FakeServer, big: Path) -> None:
    server.fail(r"create", "answer", status=503)
    with Calls(server.url, TOKEN, retry=Retry(0)) as client, pytest.raises(ApiError):
        upload_file(client, big)
    assert server.count("create") == 1


def test_an_interrupted_upload_sends_only_what_is_missing(
    client: Calls, server: FakeServer, big: Path, states: UploadStates
) -> None:
    interrupt(big, server, states)
    log = Log()
    upload_file(client, big, SMALL_CHUNKS, states=states, watcher=log)

    assert stored(server) == big.read_bytes()
    assert len(server.tasks) == 1
    assert set(server.chunk_counts.values()) == {1}
    assert log.done == log.total


CHANGED = UploadOptions(chunk_size=CHUNK, content_type="x/y", expires_in=timedelta(minutes=30))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (SMALL_CHUNKS, CHANGED, {"content_type": "x/y", "expires_in": 1800}),
        (CHANGED, SMALL_CHUNKS, {"content_type": "application/octet-stream"}),
        (
            CHANGED,
            replace(CHANGED, expires_in=None, expires_at=datetime(2030, 1, 1, tzinfo=UTC)),
            {"content_type": "x/y", "expired_at": "2030-01-01T00:00:00+00:00"},
        ),
    ],
    ids=["given", "left out", "another"],
)
def test_a_resumed_upload_has_the_options_asked_last(
    before: UploadOptions,
    after: UploadOptions,
    told: dict[str, object],
    client: Calls,
    server: FakeServer,
    big: Path,
    states: UploadStates,
) -> None:
    interrupt(big, server, states, before)
    upload_file(client, big, after, states=states)
    (task,) = server.tasks.values()
    size = {"file_size": 10 * CHUNK + 17, "chunk_size": CHUNK}
    assert task.request == {"file_name": "big.bin", **size} | told
    assert stored(server) == big.read_bytes()
    assert server.chunk_counts[0] == 1, "what was sent is kept"


@pytest.mark.parametrize("after", [SMALL_CHUNKS, CHANGED], ids=["same", "other options"])
def test_a_file_that_was_completed_unheard_counts_only_as_it_is_wanted(
    after: UploadOptions, client: Calls, server: FakeServer, big: Path, states: UploadStates
) -> None:
    unheard(server, big, SMALL_CHUNKS, states)
    chunks = server.count("PUT .*chunk")
    done = upload_file(client, big, after, states=states)
    assert server.count("PUT .*chunk") == chunks, "its content is there in either case"
    assert server.count("/create") == (1 if after == SMALL_CHUNKS else 2)
    assert done.existing == (after != SMALL_CHUNKS)


def test_a_known_hash_resumes_without_any_state(
    server: FakeServer, client: Calls, big: Path
) -> None:
    options = UploadOptions(chunk_size=CHUNK, check_first=True)
    server.fail(r"/chunk/\w+/5", "answer", status=400)
    with Calls(server.url, TOKEN, connections=1) as once, pytest.raises(ApiError):
        upload_file(once, big, options)
    upload_file(client, big, options)
    assert stored(server) == big.read_bytes()
    assert set(server.chunk_counts.values()) == {1}


def test_a_lost_answer_to_complete_is_made_good_by_the_next_run(
    server: FakeServer, client: Calls, big: Path, states: UploadStates
) -> None:
    unheard(server, big, SMALL_CHUNKS, states)
    upload_file(client, big, SMALL_CHUNKS, states=states)
    assert stored(server) == big.read_bytes()


def test_a_file_that_was_deleted_unheard_is_sent_again(
    server: FakeServer, client: Calls, big: Path, states: UploadStates
) -> None:
    unheard(server, big, SMALL_CHUNKS, states)
    server.files.clear()
    upload_file(client, big, SMALL_CHUNKS, states=states)
    assert stored(server) == big.read_bytes()


def test_an_encrypted_file_that_was_verified_unheard_is_not_sent_again(
    server: FakeServer, client: Calls, big: Path, states: UploadStates
) -> None:
    """Create does not find encrypted content."""
    unheard(server, big, ENCRYPTED, states)
    (there,) = server.files
    done = upload_file(client, big, ENCRYPTED, states=states)
    assert done.file.id == there
    assert set(server.chunk_counts.values()) == {1}


def test_another_password_is_another_upload(
    server: FakeServer, client: Calls, big: Path, states: UploadStates
) -> None:
    """Whether the earlier one is over or not; and so is none."""
    unheard(server, big, ENCRYPTED, states)
    interrupt(big, server, states, replace(ENCRYPTED, password="second"))
    for password in ("third", None):
        done = upload_file(client, big, replace(ENCRYPTED, password=password), states=states)
        assert server.files[done.file.id].password == password
        assert server.files[done.file.id].content == big.read_bytes()
    done = upload_file(client, big, replace(ENCRYPTED, password="second"), states=states)
    assert server.files[done.file.id].password == "second"


def test_an_interrupted_encrypted_upload_sends_only_what_is_missing(
    client: Calls, server: FakeServer, big: Path, states: UploadStates
) -> None:
    interrupt(big, server, states, ENCRYPTED)
    upload_file(client, big, ENCRYPTED, states=states)
    assert stored(server) == big.read_bytes()
    assert len(server.tasks) == 1
    assert set(server.chunk_counts.values()) == {1}


def test_a_task_that_is_gone_is_replaced(
    client: Calls, server: FakeServer, big: Path, states: UploadStates
) -> None:
    interrupt(big, server, states)
    server.tasks.clear()
    log = Log()
    upload_file(client, big, SMALL_CHUNKS, states=states, watcher=log)
    assert stored(server) == big.read_bytes()
    assert any("no longer has" in note for note in log.notes)


def test_a_file_that_changed_between_runs_starts_again(
    client: Calls, server: FakeServer, big: Path, states: UploadStates
) -> None:
    interrupt(big, server, states)
    big.write_bytes(content := os.urandom(10 * CHUNK + 17))
    log = Log()
    upload_file(client, big, SMALL_CHUNKS, states=states, watcher=log)

    assert stored(server) == content
    assert any("changed since" in note for note in log.notes)
    assert sorted(task.status for task in server.tasks.values()) == ["cancelled", "completed"]


def test_another_destination_is_another_upload(
    client: Calls, server: FakeServer, big: Path, states: UploadStates
) -> None:
    interrupt(big, server, states)
    elsewhere = UploadOptions(chunk_size=CHUNK, bundle_id="b")
    upload_file(client, big, elsewhere, states=states)
    assert len(server.tasks) == 2


def test_a_finished_upload_is_forgotten(
    client: Calls, big: Path, states: UploadStates, tmp_path: Path
) -> None:
    upload_file(client, big, SMALL_CHUNKS, states=states)
    book = tmp_path / "state" / "uploads.json"
    assert '"uploads": {}' in book.read_text()
    assert book.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in book.parent.iterdir()] == ["uploads.json"]


def test_chunks_that_complete_names_are_sent_again(
    client: Calls, server: FakeServer, big: Path
) -> None:
    def lose_one(index: int) -> None:
        if index == 9 and server.chunk_counts[9] == 1:
            del next(iter(server.tasks.values())).chunks[9]

    server.on_chunk = lose_one
    upload_file(client, big, SMALL_CHUNKS)
    assert stored(server) == big.read_bytes()
    assert server.chunk_counts[9] == 2
    assert server.chunk_counts[0] == 1


@pytest.mark.parametrize("named", [None, [], "x"])
def test_complete_may_fail_to_name_them(
    named: object, client: Calls, server: FakeServer, big: Path
) -> None:
    refusal = {"code": "CHUNKS_MISSING", "meta": {"missing_chunks": named}}
    server.fail(r"complete", "answer", status=400, body=refusal)
    upload_file(client, big, SMALL_CHUNKS)
    assert stored(server) == big.read_bytes()


def test_a_wrong_copy_is_sent_once_more(client: Calls, server: FakeServer, big: Path) -> None:
    server.fail(r"PUT .*/4", "flip")
    upload_file(client, big, UploadOptions(chunk_size=CHUNK, check_first=True))
    assert stored(server) == big.read_bytes()
    assert set(server.chunk_counts.values()) == {2}


def test_a_copy_that_stays_wrong_is_an_error(
    client: Calls, server: FakeServer, big: Path, states: UploadStates
) -> None:
    server.fail(r"PUT .*/4", "flip", times=99)
    with pytest.raises(ContentMismatch):
        upload_file(client, big, UploadOptions(chunk_size=CHUNK, check_first=True), states=states)
    assert not server.files
    assert [task.status for task in server.tasks.values()] == ["cancelled"]


def test_a_wrong_file_does_not_stay_on_the_server(
    client: Calls, server: FakeServer, big: Path
) -> None:
    server.fail(r"PUT .*/4", "flip")
    with pytest.raises(ContentMismatch, match="deleted"):
        upload_file(client, big, SMALL_CHUNKS)
    assert not server.files


@pytest.mark.parametrize("change", ["grow", "shrink", "rewrite"])
def test_a_file_that_changes_while_it_is_sent_is_refused(
    change: str, client: Calls, server: FakeServer, big: Path
) -> None:
    def modify(_: int) -> None:
        if change == "shrink":
            os.truncate(big, 100)
        else:
            with big.open("ab" if change == "grow" else "r+b") as file:
                file.write(b"!")

    server.on_chunk = modify
    with pytest.raises(FileChanged):
        upload_file(client, big, SMALL_CHUNKS)
    assert not server.files
    assert [task.status for task in server.tasks.values()] == ["cancelled"]


def test_a_file_that_is_replaced_while_it_is_sent_arrives_as_it_was(
    client: Calls, server: FakeServer, big: Path
) -> None:
    content = big.read_bytes()

    def replace(_: int) -> None:
        other = big.with_suffix(".new")
        other.write_bytes(b"other")
        other.replace(big)

    server.on_chunk = replace
    upload_file(client, big, SMALL_CHUNKS)
    assert stored(server) == content


@pytest.mark.parametrize(
    "make",
    [lambda _: None, Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)],
    ids=["absent", "folder", "pipe", "loop"],
)
def test_what_is_no_regular_file_is_refused(
    make: Callable[[Path], None], client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    make(path := tmp_path / "thing")
    with pytest.raises(LocalFileError):
        upload_file(client, path)
    assert not server.requests


def test_two_uploads_of_one_file_send_it_once(
    client: Calls, server: FakeServer, big: Path, states: UploadStates
) -> None:
    waiting = threading.Event()
    results = []

    class Second(Log):
        def note(self, text: str) -> None:
            super().note(text)
            waiting.set()

    def hold(_: int) -> None:
        assert waiting.wait(20)

    server.on_chunk = hold
    logs = [Second(), Second()]

    def run(log: Log) -> None:
        results.append(upload_file(client, big, SMALL_CHUNKS, states=states, watcher=log))

    threads = [threading.Thread(target=run, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert stored(server) == big.read_bytes()
    assert set(server.chunk_counts.values()) == {1}
    assert sorted(result.existing for result in results) == [False, True]
    assert sorted(len(log.notes) for log in logs) == [0, 1]


@pytest.mark.parametrize(
    "answer",
    [
        {"file_exists": False, "task_id": "t", "chunk_size": 0, "chunks_count": 3},
        {"file_exists": False, "task_id": "t", "chunk_size": CHUNK, "chunks_count": 3},
        {"file_exists": False, "task_id": "../..", "chunk_size": CHUNK, "chunks_count": 11},
        {"file_exists": True, "file": {}},
        {},
    ],
)
def test_nonsense_answers_are_told(
    answer: dict[str, object], client: Calls, server: FakeServer, big: Path
) -> None:
    server.fail(r"create", "answer", status=200, body=answer)
    with pytest.raises(Exception, match=r"answer|identifier") as caught:
        upload_file(client, big, SMALL_CHUNKS)
    assert caught.value.__class__.__name__ in {"UnexpectedAnswer", "IdentifierInvalid"}


def test_a_redirect_is_not_followed_with_the_token(
    client: Calls, server: FakeServer, big: Path
) -> None:
    server.fail(r"create", "answer", status=302, headers={"Location": "https://elsewhere.example"})
    with pytest.raises(UnexpectedAnswer, match=r"elsewhere\.example"):
        upload_file(client, big)


def test_a_stop_interrupts_a_chunk(client: Calls, server: FakeServer) -> None:
    stop = threading.Event()
    sent: list[int] = []

    def advance(count: int) -> None:
        sent.append(count)
        stop.set()

    with pytest.raises(Interrupted):
        client.put_chunk("t1", 0, memoryview(bytes(1 << 20)), sent=advance, stop=stop)
    assert sum(sent) == 0
    assert not server.tasks


def test_a_broken_book_costs_only_the_resume(
    client: Calls, server: FakeServer, big: Path, states: UploadStates, tmp_path: Path
) -> None:
    (tmp_path / "state" / "uploads.json").write_text('{"uploads": [')
    upload_file(client, big, SMALL_CHUNKS, states=states)
    assert stored(server) == big.read_bytes()


def test_the_verified_hash_is_that_of_the_file(client: Calls, big: Path) -> None:
    done = upload_file(client, big, SMALL_CHUNKS)
    assert done.file.hash == sha256(big.read_bytes()).hexdigest()
