"""What every catalog promises (``core.ports.Catalog``), and what SQLite adds to it.

The first part runs for each entry of ``CATALOGS``; PostgreSQL joins by one more entry. The
second part is SQLite's own: processes, crashes, full disks, migrations, snapshots.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from sqlalchemy.exc import IntegrityError

from upwell.catalog import SqlCatalog, integrity_problem, migrate, schema
from upwell.catalog.turns import FileLock
from upwell.errors import AccountExists, NotReady, StorageFull, TaskClosed
from upwell.model import (
    DEFAULT_POOL_ID,
    Account,
    Blob,
    Chunk,
    CloudFile,
    Digest,
    Garbage,
    Layout,
    Scope,
    TaskStatus,
    Token,
    UploadTask,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection

    from upwell.core.ports import Catalog

T = TypeVar("T")

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
TICK = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
WEEK = timedelta(days=7)
CHUNK = 100
POOL = DEFAULT_POOL_ID
THREADS = 8

CATALOGS: dict[str, Callable[[Path], SqlCatalog]] = {
    "sqlite": lambda folder: SqlCatalog.open(folder / "catalog.db"),
}


@pytest.fixture(params=CATALOGS)
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    with closing(CATALOGS[request.param](tmp_path)) as opened:
        yield opened


@pytest.fixture
def ann(catalog: Catalog) -> Account:
    return _account(catalog, "ann")


@pytest.fixture
def bob(catalog: Catalog) -> Account:
    return _account(catalog, "bob")


def _account(catalog: Catalog, name: str) -> Account:
    account = Account(uuid.uuid4().hex, name, is_admin=name == "root", created_at=NOW)
    catalog.add_account(account)
    return account


def _digest() -> Digest:
    return Digest("sha256", uuid.uuid4().hex * 2)


def _task(account: Account, *, at: datetime = NOW, count: int = 4, **changes: Any) -> UploadTask:
    task = UploadTask(
        id=str(uuid.uuid4()),
        account_id=account.id,
        pool_id=POOL,
        bundle_id=None,
        file_name="film.mkv",
        content_type="video/x-matroska",
        digest=_digest(),
        expired_at=None,
        layout=Layout(uuid.uuid4().hex, count * CHUNK, CHUNK),
        status=TaskStatus.IN_PROGRESS,
        created_at=at,
        updated_at=at,
        expires_at=at + WEEK,
    )
    return replace(task, **changes)


def _again(task: UploadTask, **changes: Any) -> UploadTask:
    """Another request for the same content, with an id and a key of its own."""
    layout = replace(task.layout, key=uuid.uuid4().hex)
    return replace(task, id=str(uuid.uuid4()), layout=layout, **changes)


def _blob(size: int = 400, key: str | None = None, **digests: str) -> Blob:
    digests = digests or {"sha256": uuid.uuid4().hex * 2}
    return Blob(uuid.uuid4().hex, POOL, key or uuid.uuid4().hex, size, digests, NOW)


def _file(account: Account, blob: Blob, *, at: datetime = NOW, **changes: Any) -> CloudFile:
    file = CloudFile(
        id=uuid.uuid4().hex,
        account_id=account.id,
        pool_id=POOL,
        bundle_id=None,
        blob=blob,
        name="film.mkv",
        mime_type="video/x-matroska",
        digest=Digest("sha256", blob.digests.get("sha256", "0" * 64)),
        expired_at=None,
        created_at=at,
        updated_at=at,
    )
    return replace(file, **changes)


def _stored(catalog: Catalog, account: Account, **changes: Any) -> CloudFile:
    file = _file(account, changes.pop("blob", None) or _blob(), **changes)
    catalog.add_file(file.blob, file)
    return file


def _chunk(index: int, etag: str = "e", size: int = CHUNK, staged: str | None = None) -> Chunk:
    return Chunk(index, size, etag, staged)


def _outcome(task: UploadTask, account: Account) -> tuple[Blob, CloudFile]:
    blob = _blob(task.layout.size, task.layout.key, sha256=str(task.digest and task.digest.hex))
    return blob, _file(account, blob)


def _complete(catalog: Catalog, task: UploadTask, account: Account) -> CloudFile:
    return catalog.complete(task.id, 0, *_outcome(task, account))


def _at_once(*calls: Callable[[], T]) -> list[T]:
    """Run the calls in a thread each, all let go at the same moment."""
    gate = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def _or_error(call: Callable[[], T]) -> T | TaskClosed:
    try:
        return call()
    except TaskClosed as error:
        return error


class TestAccounts:
    def test_account_comes_back_as_it_was(self, catalog: Catalog) -> None:
        root = _account(catalog, "root")
        ulla = _account(catalog, "Ünal 🐢")
        assert catalog.account("root") == root
        assert catalog.account("Ünal 🐢") == ulla
        assert catalog.account("nobody") is None
        assert {a.name for a in catalog.accounts()} == {"root", "Ünal 🐢"}

    def test_taken_name_is_refused_and_changes_nothing(self, catalog: Catalog) -> None:
        first = _account(catalog, "ann")
        with pytest.raises(AccountExists, match="'ann'"):
            _account(catalog, "ann")
        assert catalog.accounts() == [first]

    def test_one_of_many_racing_for_a_name_gets_it(self, catalog: Catalog) -> None:
        def take() -> Account | None:
            try:
                return _account(catalog, "ann")
            except AccountExists:
                return None

        winners = [a for a in _at_once(*[take] * THREADS) if a]
        assert winners == [catalog.account("ann")]


class TestRecovery:
    def test_open_tasks_are_those_in_progress_of_everyone(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        mine, theirs, closed = _task(ann), _task(bob), _task(ann)
        for task in (mine, theirs, closed):
            catalog.add_task(task)
        catalog.cancel(ann.id, closed.id, NOW)
        assert {task.id for task in catalog.open_tasks()} == {mine.id, theirs.id}

    def test_forgotten_chunk_is_missing_and_not_counted(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        for index in (0, 2):
            catalog.record_chunk(task.id, _chunk(index), NOW, NOW + WEEK)
        for _ in range(2):  # again has no effect but on the revision
            catalog.forget_chunk(task.id, 2, NOW + HOUR)
            left = catalog.task(ann.id, task.id, NOW)
            assert left is not None
            assert (left.received_count, left.received_bytes) == (1, CHUNK)
            assert catalog.chunk_indexes(task.id) == [0]
        assert left is not None
        assert left.revision == 2
        assert left.updated_at == NOW + HOUR
        with pytest.raises(TaskClosed):
            catalog.complete(task.id, 0, *_outcome(task, ann))

    def test_chunk_of_a_closed_task_cannot_be_forgotten(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        catalog.cancel(ann.id, task.id, NOW)
        with pytest.raises(TaskClosed):
            catalog.forget_chunk(task.id, 0, NOW)

    def test_blobs_and_their_files(self, catalog: Catalog, ann: Account, bob: Account) -> None:
        first, other = _stored(catalog, ann), _stored(catalog, bob)
        shared = _file(ann, first.blob, at=NOW + TICK, expired_at=NOW + HOUR)
        assert catalog.share_blob(shared)
        assert {blob.id: blob for blob in catalog.blobs()} == {
            each.blob.id: each.blob for each in (first, other)
        }
        assert catalog.files_of_blob(first.blob.id) == [shared, first]
        assert catalog.files_of_blob("nothing") == []

    def test_iterations_go_through_all_pages_while_rows_go(
        self, catalog: Catalog, ann: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.sql._PAGE", 2)
        for _ in range(5):
            catalog.add_task(_task(ann))
            _stored(catalog, ann)
        assert all(catalog.cancel(ann.id, task.id, NOW) for task in catalog.open_tasks())
        assert list(catalog.open_tasks()) == []
        assert len({blob.id for blob in catalog.blobs()}) == 5


class TestTokens:
    @staticmethod
    def _token(account: Account, **changes: Any) -> Token:
        token = Token(uuid.uuid4().hex, account.id, "laptop", os.urandom(32), frozenset(), NOW)
        return replace(token, **changes)

    def test_principal_is_the_account_with_the_scopes_of_the_token(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        token = self._token(ann, scopes=frozenset({Scope.READ, Scope.WRITE}))
        catalog.add_token(token)
        catalog.add_token(self._token(bob))
        found = catalog.principal(token.digest, NOW)
        assert found is not None
        assert (found.account, found.scopes, found.token_id) == (ann, token.scopes, token.id)
        assert catalog.tokens(ann.id) == [token]

    def test_unknown_digest_is_nobody(self, catalog: Catalog, ann: Account) -> None:
        catalog.add_token(self._token(ann))
        assert catalog.principal(os.urandom(32), NOW) is None

    def test_token_is_good_until_its_expiry(self, catalog: Catalog, ann: Account) -> None:
        token = self._token(ann, expires_at=NOW + HOUR)
        catalog.add_token(token)
        assert catalog.principal(token.digest, NOW + HOUR - TICK) is not None
        assert catalog.principal(token.digest, NOW + HOUR) is None

    def test_revoked_token_is_nobody_s(self, catalog: Catalog, ann: Account, bob: Account) -> None:
        token = self._token(ann)
        catalog.add_token(token)
        assert not catalog.revoke_token(bob.id, token.id, NOW)
        assert catalog.principal(token.digest, NOW) is not None
        assert catalog.revoke_token(ann.id, token.id, NOW)
        assert catalog.principal(token.digest, NOW) is None
        assert not catalog.revoke_token(ann.id, token.id, NOW)
        assert catalog.tokens(ann.id) == [replace(token, revoked_at=NOW)]

    def test_expired_token_is_not_there_to_revoke(self, catalog: Catalog, ann: Account) -> None:
        token = self._token(ann, expires_at=NOW)
        catalog.add_token(token)
        assert not catalog.revoke_token(ann.id, token.id, NOW)

    def test_login_code_works_once(self, catalog: Catalog, ann: Account) -> None:
        code, other = os.urandom(32), os.urandom(32)
        catalog.add_login(code, ann.id, NOW + HOUR)
        catalog.add_login(other, ann.id, NOW + HOUR)
        assert catalog.take_login(os.urandom(32), NOW) is None
        assert catalog.take_login(code, NOW) == ann
        assert catalog.take_login(code, NOW) is None
        assert catalog.take_login(other, NOW) == ann

    def test_login_code_runs_out(self, catalog: Catalog, ann: Account) -> None:
        code = os.urandom(32)
        catalog.add_login(code, ann.id, NOW + HOUR)
        assert catalog.take_login(code, NOW + HOUR) is None

    def test_one_of_many_racing_for_a_login_code_gets_in(
        self, catalog: Catalog, ann: Account
    ) -> None:
        code = os.urandom(32)
        catalog.add_login(code, ann.id, NOW + HOUR)
        taken = _at_once(*[lambda: catalog.take_login(code, NOW)] * THREADS)
        assert taken.count(ann) == 1
        assert taken.count(None) == THREADS - 1


class TestTasks:
    def test_task_comes_back_as_it_was(self, catalog: Catalog, ann: Account) -> None:
        task = _task(
            ann,
            bundle_id="b",
            file_name="über / ../\t🐢.bin",
            expired_at=NOW + 3 * HOUR + TICK,
            layout=Layout("k", 2**50 + 1, 2**30),
        )
        assert catalog.add_task(task) == task
        assert catalog.task(ann.id, task.id, NOW) == task
        assert catalog.task_by_identity(ann.id, task.identity() or "", NOW) == task

    def test_same_upload_asked_for_again_is_the_one_in_progress(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = catalog.add_task(_task(ann))
        catalog.record_chunk(first.id, _chunk(0), NOW, NOW + WEEK)
        again = _again(
            first, content_type="image/png", expired_at=NOW + HOUR, created_at=NOW + HOUR
        )
        held = catalog.add_task(again)
        assert (held.id, held.layout, held.received_count) == (first.id, first.layout, 1)
        assert (held.content_type, held.expired_at) == ("image/png", NOW + HOUR)
        assert catalog.task(ann.id, first.id, NOW) == held
        assert catalog.task(ann.id, again.id, NOW) is None

    def test_asking_again_is_use_and_slides_the_expiry(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = catalog.add_task(_task(ann))
        late = first.expires_at - TICK
        catalog.add_task(_again(first, created_at=late, expires_at=late + WEEK))
        assert catalog.task(ann.id, first.id, late + HOUR) is not None

    def test_asking_again_never_shortens_the_life(self, catalog: Catalog, ann: Account) -> None:
        first = catalog.add_task(_task(ann))
        held = catalog.add_task(_again(first, expires_at=NOW + TICK))
        assert held.expires_at == first.expires_at

    @pytest.mark.parametrize(
        "change",
        [
            {"digest": Digest("md5", "0" * 32)},
            {"file_name": "other"},
            {"bundle_id": "b"},
            {"pool_id": "p"},
            {"layout": Layout("k", 1, CHUNK)},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_another_content_or_destination_is_another_task(
        self, catalog: Catalog, ann: Account, change: dict[str, Any]
    ) -> None:
        first = catalog.add_task(_task(ann))
        other = replace(_again(first), **change)
        assert catalog.add_task(other) == other
        assert catalog.tasks(ann.id, None, NOW, 0, 10).total == 2

    def test_another_account_s_same_upload_is_its_own(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        first = catalog.add_task(_task(ann))
        other = _again(first, account_id=bob.id)
        assert catalog.add_task(other) == other
        assert catalog.task_by_identity(bob.id, first.identity() or "", NOW) == other

    def test_uploads_without_a_digest_are_never_taken_for_one(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = catalog.add_task(_task(ann, digest=None))
        second = catalog.add_task(_again(first))
        assert first.id != second.id

    def test_expired_task_gives_way_to_the_newcomer_and_leaves_garbage(
        self, catalog: Catalog, ann: Account
    ) -> None:
        old = catalog.add_task(_task(ann))
        catalog.record_chunk(old.id, _chunk(0), NOW, NOW + HOUR)
        new = _again(old, created_at=NOW + HOUR, expires_at=NOW + WEEK)
        assert catalog.add_task(new) == new
        assert catalog.task_by_identity(ann.id, old.identity() or "", NOW + HOUR) == new
        assert catalog.garbage(10) == [Garbage(POOL, old.layout.key)]
        assert catalog.chunk_indexes(old.id) == []
        with pytest.raises(TaskClosed, match="expired"):
            catalog.record_chunk(old.id, _chunk(1), NOW, NOW + WEEK)

    @pytest.mark.parametrize("end", ["cancel", "complete"])
    def test_closed_task_does_not_stand_in_the_way(
        self, catalog: Catalog, ann: Account, end: str
    ) -> None:
        old = catalog.add_task(_task(ann))
        if end == "cancel":
            catalog.cancel(ann.id, old.id, NOW)
        else:
            _complete(catalog, old, ann)
        new = _again(old)
        assert catalog.add_task(new) == new

    def test_resuming_finds_the_task_and_records_nothing_new(
        self, catalog: Catalog, ann: Account
    ) -> None:
        old = catalog.add_task(_task(ann))
        again = replace(
            _again(old), created_at=NOW + HOUR, expires_at=old.expires_at + HOUR, content_type="x/y"
        )
        found = catalog.resume_task(again)
        assert found is not None
        assert (found.id, found.content_type) == (old.id, "x/y")
        assert found.expires_at == old.expires_at + HOUR
        catalog.cancel(ann.id, old.id, NOW)
        assert catalog.resume_task(again) is None
        assert catalog.tasks(ann.id, None, NOW, 0, 10).total == 1

    def test_stranger_s_and_unknown_tasks_look_the_same(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        assert catalog.task(bob.id, task.id, NOW) is None
        assert catalog.task(ann.id, "unknown", NOW) is None
        assert catalog.task_by_identity(bob.id, task.identity() or "", NOW) is None
        assert catalog.tasks(bob.id, None, NOW, 0, 10).items == []

    def test_task_lives_until_its_expiry(self, catalog: Catalog, ann: Account) -> None:
        task = catalog.add_task(_task(ann))
        identity = task.identity() or ""
        assert catalog.task(ann.id, task.id, task.expires_at - TICK) == task
        assert catalog.task_by_identity(ann.id, identity, task.expires_at - TICK) == task
        assert catalog.task(ann.id, task.id, task.expires_at) is None
        assert catalog.task_by_identity(ann.id, identity, task.expires_at) is None

    def test_eight_threads_creating_one_upload_share_one_task(
        self, catalog: Catalog, ann: Account
    ) -> None:
        for _ in range(10):
            task = _task(ann)
            asked = [_again(task) for _ in range(THREADS)]
            got = _at_once(*[partial(catalog.add_task, t) for t in asked])
            assert len({t.id for t in got}) == 1
            assert got[0].id in {t.id for t in asked}
        assert catalog.tasks(ann.id, TaskStatus.IN_PROGRESS, NOW, 0, 0).total == 10


class TestTaskListing:
    def test_newest_first_stable_and_paged_without_loss(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        times = [NOW, NOW + HOUR, NOW, NOW + HOUR, NOW - HOUR]
        tasks = [catalog.add_task(_task(ann, at=at, expires_at=NOW + WEEK)) for at in times]
        catalog.add_task(_task(bob))
        whole = catalog.tasks(ann.id, None, NOW, 0, 10)
        assert whole.total == 5
        assert whole.items == sorted(tasks, key=lambda t: (t.created_at, t.id), reverse=True)
        pages = [catalog.tasks(ann.id, None, NOW, start, 2) for start in (0, 2, 4)]
        assert [t for page in pages for t in page.items] == whole.items
        assert {page.total for page in pages} == {5}

    def test_page_past_the_end_is_empty_and_knows_the_total(
        self, catalog: Catalog, ann: Account
    ) -> None:
        catalog.add_task(_task(ann))
        for offset in (1, 10**30):
            page = catalog.tasks(ann.id, None, NOW, offset, 10)
            assert (page.items, page.total) == ([], 1)

    def test_filter_by_status(self, catalog: Catalog, ann: Account) -> None:
        running, cancelled, completed = (catalog.add_task(_task(ann)) for _ in range(3))
        catalog.cancel(ann.id, cancelled.id, NOW)
        _complete(catalog, completed, ann)
        overdue = catalog.add_task(_task(ann, at=NOW - WEEK - WEEK))
        swept = catalog.add_task(_task(ann, at=NOW - 4 * WEEK))
        catalog.expire_tasks(NOW - 3 * WEEK)

        def ids(status: TaskStatus | None) -> set[str]:
            page = catalog.tasks(ann.id, status, NOW, 0, 10)
            assert page.total == len(page.items)
            assert status is None or {t.status for t in page.items} == {status}
            return {t.id for t in page.items}

        assert ids(TaskStatus.IN_PROGRESS) == {running.id}
        assert ids(TaskStatus.CANCELLED) == {cancelled.id}
        assert ids(TaskStatus.COMPLETED) == {completed.id}
        assert ids(TaskStatus.EXPIRED) == {overdue.id, swept.id}
        assert len(ids(None)) == 5


class TestChunks:
    def test_recorded_chunk_counts_and_slides_the_expiry(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        later = NOW + HOUR
        seen = catalog.record_chunk(task.id, _chunk(2), later, later + WEEK)
        assert seen == replace(
            task,
            received_count=1,
            received_bytes=CHUNK,
            updated_at=later,
            expires_at=later + WEEK,
        )
        assert catalog.task(ann.id, task.id, later) == seen
        assert catalog.chunk(task.id, 2) == _chunk(2)
        assert catalog.chunk(task.id, 1) is None
        assert catalog.chunk("other", 2) is None

    def test_same_chunk_again_changes_no_figure(self, catalog: Catalog, ann: Account) -> None:
        task = catalog.add_task(_task(ann))
        first = catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK)
        again = catalog.record_chunk(task.id, _chunk(0, staged="s"), NOW, NOW + WEEK)
        assert again == first
        assert catalog.chunk(task.id, 0) == _chunk(0, staged="s")

    def test_replaced_chunk_counts_once_and_raises_the_revision(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        catalog.record_chunk(task.id, _chunk(0, "a", 60), NOW, NOW + WEEK)
        catalog.record_chunk(task.id, _chunk(1, "b"), NOW, NOW + WEEK)
        seen = catalog.record_chunk(task.id, _chunk(0, "c", 70, "s1"), NOW, NOW + WEEK)
        assert (seen.received_count, seen.received_bytes, seen.revision) == (2, 70 + CHUNK, 1)
        assert catalog.chunk(task.id, 0) == _chunk(0, "c", 70, "s1")
        assert catalog.task(ann.id, task.id, NOW) == seen

    @pytest.mark.parametrize(
        ("end", "message"),
        [("cancel", "cancelled"), ("complete", "complete"), ("expire", "expired")],
    )
    def test_closed_task_takes_no_chunk(
        self, catalog: Catalog, ann: Account, end: str, message: str
    ) -> None:
        task = catalog.add_task(_task(ann))
        if end == "cancel":
            catalog.cancel(ann.id, task.id, NOW)
        elif end == "expire":
            catalog.expire_tasks(task.expires_at)
        else:
            _complete(catalog, task, ann)
        with pytest.raises(TaskClosed, match=message):
            catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK)
        assert catalog.chunk_indexes(task.id) == []

    def test_unknown_task_takes_no_chunk(self, catalog: Catalog, ann: Account) -> None:
        with pytest.raises(TaskClosed, match="create a new one"):
            catalog.record_chunk("unknown", _chunk(0), NOW, NOW + WEEK)

    def test_chunks_are_read_in_order_across_pages(self, catalog: Catalog, ann: Account) -> None:
        task = catalog.add_task(_task(ann, count=3000))
        other = catalog.add_task(_task(ann))
        order = [(i * 11) % 2100 for i in range(2100)]

        def record(index: int) -> None:
            staged = f"s{index}" if index % 1000 == 1 else None
            catalog.record_chunk(task.id, _chunk(index, staged=staged), NOW, NOW + WEEK)

        catalog.record_chunk(other.id, _chunk(0), NOW, NOW + WEEK)
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(record, order))
        chunks = catalog.chunks(task.id)
        assert [c.index for c in chunks.all()] == list(range(2100))
        assert catalog.chunk_indexes(task.id) == list(range(2100))
        assert [c.index for c in chunks.all(1050)] == list(range(1050, 2100))
        assert list(chunks.all(2100)) == []
        assert [(c.index, c.staged) for c in chunks.staged()] == [
            (1, "s1"),
            (1001, "s1001"),
            (2001, "s2001"),
        ]

    def test_reading_chunks_never_stands_in_the_way_of_writing(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK)
        reading = catalog.chunks(task.id).all()
        assert next(reading) == _chunk(0)
        catalog.record_chunk(task.id, _chunk(1), NOW, NOW + WEEK)
        assert list(reading) == [_chunk(1)]

    def test_chunks_recorded_by_many_threads_are_all_counted(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann, count=400))

        def record(start: int) -> None:
            for index in range(start, 400, THREADS):
                catalog.record_chunk(task.id, _chunk(index), NOW, NOW + WEEK)

        _at_once(*[partial(record, s) for s in range(THREADS)])
        seen = catalog.task(ann.id, task.id, NOW)
        assert seen is not None
        assert (seen.received_count, seen.received_bytes, seen.revision) == (400, 400 * CHUNK, 0)

    def test_threads_racing_for_one_index_count_it_once(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        sizes = range(10, 10 + THREADS)
        seen = _at_once(
            *[
                partial(catalog.record_chunk, task.id, _chunk(0, f"e{s}", s), NOW, NOW + WEEK)
                for s in sizes
            ]
        )
        assert sorted(t.revision for t in seen) == list(range(THREADS))
        last = max(seen, key=lambda t: t.revision)
        kept = catalog.chunk(task.id, 0)
        assert kept is not None
        assert (last.received_count, last.received_bytes) == (1, kept.size)


class TestComplete:
    def test_task_becomes_a_file_once(self, catalog: Catalog, ann: Account) -> None:
        task = catalog.add_task(_task(ann))
        catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK)
        blob, file = _outcome(task, ann)
        assert catalog.complete(task.id, 0, blob, file) == file
        again = catalog.complete(task.id, 0, *_outcome(task, ann))
        assert again == file
        assert catalog.file(file.id, NOW, ann.id) == file
        assert catalog.file_of_task(ann.id, task.id, NOW) == file
        assert catalog.files(ann.id, NOW, 0, 10).total == 1

    def test_completed_task_is_found_also_past_its_expiry(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        file = _complete(catalog, task, ann)
        seen = catalog.task(ann.id, task.id, task.expires_at + WEEK)
        assert seen is not None
        assert (seen.status, seen.file_id) == (TaskStatus.COMPLETED, file.id)
        assert catalog.task_by_identity(ann.id, task.identity() or "", NOW) is None

    def test_file_is_found_by_its_task_for_its_owner_only(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        other = catalog.add_task(_task(ann))
        _complete(catalog, task, ann)
        assert catalog.file_of_task(bob.id, task.id, NOW) is None
        assert catalog.file_of_task(ann.id, other.id, NOW) is None

    def test_replaced_chunk_stops_a_completion_of_what_was_before(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        catalog.record_chunk(task.id, _chunk(0, "a"), NOW, NOW + WEEK)
        catalog.record_chunk(task.id, _chunk(0, "b"), NOW, NOW + WEEK)
        blob, file = _outcome(task, ann)
        with pytest.raises(TaskClosed, match="complete it again"):
            catalog.complete(task.id, 0, blob, file)
        assert catalog.files(ann.id, NOW, 0, 10).total == 0
        assert catalog.complete(task.id, 1, blob, file) == file

    def test_cancelled_task_cannot_be_completed(self, catalog: Catalog, ann: Account) -> None:
        task = catalog.add_task(_task(ann))
        catalog.cancel(ann.id, task.id, NOW)
        with pytest.raises(TaskClosed, match="cancelled"):
            _complete(catalog, task, ann)
        assert catalog.files(ann.id, NOW, 0, 10).items == []

    def test_file_deleted_since_is_told(self, catalog: Catalog, ann: Account) -> None:
        task = catalog.add_task(_task(ann))
        file = _complete(catalog, task, ann)
        catalog.delete_file(file.id, ann.id, NOW)
        with pytest.raises(TaskClosed, match="deleted"):
            _complete(catalog, task, ann)

    def test_threads_completing_one_task_all_get_the_same_file(
        self, catalog: Catalog, ann: Account
    ) -> None:
        for _ in range(10):
            task = catalog.add_task(_task(ann))
            files = _at_once(*[partial(_complete, catalog, task, ann)] * THREADS)
            assert len({f.id for f in files}) == 1
        assert catalog.files(ann.id, NOW, 0, 0).total == 10

    def test_cancel_and_complete_racing_have_one_winner(
        self, catalog: Catalog, ann: Account
    ) -> None:
        for _ in range(20):
            task = catalog.add_task(_task(ann))
            calls: list[Callable[[], Any]] = [
                partial(_or_error, partial(_complete, catalog, task, ann)),
                partial(catalog.cancel, ann.id, task.id, NOW),
            ]
            completed, cancelled = _at_once(*calls)
            assert isinstance(completed, CloudFile) is not cancelled
            garbage = Garbage(POOL, task.layout.key) in catalog.garbage(1000)
            assert garbage is cancelled


class TestCancelAndExpire:
    def test_cancel_leaves_the_bytes_as_garbage(self, catalog: Catalog, ann: Account) -> None:
        task = catalog.add_task(_task(ann))
        catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK)
        assert catalog.cancel(ann.id, task.id, NOW)
        assert catalog.garbage(10) == [Garbage(POOL, task.layout.key)]
        assert catalog.chunk_indexes(task.id) == []
        seen = catalog.task(ann.id, task.id, NOW)
        assert seen is not None
        assert seen.status is TaskStatus.CANCELLED

    def test_only_a_task_in_progress_of_one_s_own_is_cancelled(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        done = catalog.add_task(_task(ann))
        _complete(catalog, done, ann)
        assert not catalog.cancel(bob.id, task.id, NOW)
        assert not catalog.cancel(ann.id, "unknown", NOW)
        assert not catalog.cancel(ann.id, done.id, NOW)
        assert not catalog.cancel(ann.id, task.id, task.expires_at)
        assert catalog.garbage(10) == []
        assert catalog.cancel(ann.id, task.id, NOW)
        assert not catalog.cancel(ann.id, task.id, NOW)

    def test_expire_closes_what_is_overdue_and_nothing_else(
        self, catalog: Catalog, ann: Account
    ) -> None:
        overdue = [catalog.add_task(_task(ann, expires_at=NOW)) for _ in range(25)]
        for task in overdue:
            catalog.record_chunk(task.id, _chunk(0), NOW - HOUR, NOW)
        alive = catalog.add_task(_task(ann, expires_at=NOW + TICK))
        done = catalog.add_task(_task(ann, expires_at=NOW))
        _complete(catalog, done, ann)
        assert catalog.expire_tasks(NOW) == 25
        assert catalog.expire_tasks(NOW) == 0
        assert {g.key for g in catalog.garbage(100)} == {t.layout.key for t in overdue}
        assert all(catalog.chunk_indexes(t.id) == [] for t in overdue)
        assert all(catalog.task(ann.id, t.id, NOW) is None for t in overdue)
        assert catalog.task(ann.id, alive.id, NOW) == alive


class TestFiles:
    def test_file_comes_back_as_it_was(self, catalog: Catalog, ann: Account) -> None:
        blob = _blob(2**45, md5="1" * 32, sha1="2" * 40, sha256="3" * 64, sha512="4" * 128)
        file = _stored(
            catalog,
            ann,
            blob=blob,
            bundle_id="b",
            expired_at=NOW + HOUR + TICK,
            description="ünï\n",
            user_meta={"a": [1, None, {"b": 1.5}], "ü": "🐢"},
            sensitive_marks=("nsfw", "x"),
        )
        assert catalog.file(file.id, NOW, ann.id) == file

    def test_stranger_s_and_unknown_files_look_the_same(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        file = _stored(catalog, ann)
        assert catalog.file(file.id, NOW, bob.id) is None
        assert catalog.file("unknown", NOW, ann.id) is None
        assert catalog.update_file(file.id, bob.id, NOW, lambda f: f) is None
        assert not catalog.delete_file(file.id, bob.id, NOW)
        assert catalog.files(bob.id, NOW, 0, 10).total == 0
        assert catalog.file(file.id, NOW, ann.id) == file

    def test_file_past_its_expiry_is_gone_for_every_call(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = catalog.add_task(_task(ann))
        blob, file = _outcome(task, ann)
        catalog.complete(task.id, 0, blob, replace(file, expired_at=NOW + HOUR))
        before, end = NOW + HOUR - TICK, NOW + HOUR
        assert catalog.file(file.id, before, ann.id) is not None
        assert catalog.files(ann.id, before, 0, 10).total == 1
        assert catalog.file(file.id, end, ann.id) is None
        assert catalog.file_of_task(ann.id, task.id, end) is None
        assert catalog.duplicates(ann.id, file.digest, file.size, end) == []
        assert catalog.update_file(file.id, ann.id, end, lambda f: f) is None
        assert not catalog.delete_file(file.id, ann.id, end)
        page = catalog.files(ann.id, end, 0, 10)
        assert (page.items, page.total) == ([], 0)

    def test_listing_is_newest_first_and_stable(self, catalog: Catalog, ann: Account) -> None:
        times = [NOW, NOW + HOUR, NOW, NOW + HOUR, NOW - HOUR]
        files = [_stored(catalog, ann, at=at) for at in times]
        expected = sorted(files, key=lambda f: (f.created_at, f.id), reverse=True)
        pages = [catalog.files(ann.id, NOW, start, 2) for start in (0, 2, 4)]
        assert [f for page in pages for f in page.items] == expected
        assert {page.total for page in pages} == {5}
        assert catalog.files(ann.id, NOW, 10**30, 10**30).items == []

    def test_page_and_total_are_of_one_instant(self, catalog: Catalog, ann: Account) -> None:
        done = threading.Event()

        def fill() -> None:
            for _ in range(300):
                _stored(catalog, ann)
            done.set()

        filler = threading.Thread(target=fill)
        filler.start()
        while not done.is_set():
            page = catalog.files(ann.id, NOW, 0, 1000)
            assert page.total == len(page.items)
        filler.join()

    def test_update_changes_what_may_change_and_only_that(
        self, catalog: Catalog, ann: Account
    ) -> None:
        file = _stored(catalog, ann)
        wanted = replace(
            file,
            name="new",
            mime_type="text/plain",
            description="d",
            user_meta={"k": "v"},
            sensitive_marks=("m",),
            expired_at=NOW + HOUR,
        )
        smuggled = replace(wanted, id="x", account_id="x", pool_id="x", digest=_digest())
        later = NOW + TICK
        changed = catalog.update_file(file.id, ann.id, later, lambda _file: smuggled)
        assert changed == replace(wanted, updated_at=later)
        assert catalog.file(file.id, NOW, ann.id) == changed

    def test_update_that_raises_changes_nothing(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)

        def refuse(_file: CloudFile) -> CloudFile:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            catalog.update_file(file.id, ann.id, NOW, refuse)
        assert catalog.file(file.id, NOW, ann.id) == file

    def test_racing_updates_lose_none(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann, user_meta={"n": 0})

        def count() -> None:
            for _ in range(10):
                catalog.update_file(
                    file.id,
                    ann.id,
                    NOW,
                    lambda f: replace(f, user_meta={"n": f.user_meta["n"] + 1}),
                )

        _at_once(*[count] * THREADS)
        seen = catalog.file(file.id, NOW, ann.id)
        assert seen is not None
        assert seen.user_meta == {"n": 10 * THREADS}


class TestDuplicates:
    @pytest.mark.parametrize("algorithm", Digest.ALGORITHMS)
    def test_found_by_any_known_algorithm(
        self, catalog: Catalog, ann: Account, algorithm: str
    ) -> None:
        file = _stored(catalog, ann, blob=_blob(5, **{algorithm: "ab" * 16}))
        _stored(catalog, ann, blob=_blob(5, **{algorithm: "cd" * 16}))
        assert catalog.duplicates(ann.id, Digest(algorithm, "ab" * 16), 5, NOW) == [file]

    def test_only_of_the_same_account_size_and_algorithm(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        _stored(catalog, ann, blob=_blob(5, md5="a"))
        assert catalog.duplicates(bob.id, Digest("md5", "a"), 5, NOW) == []
        assert catalog.duplicates(ann.id, Digest("md5", "a"), 6, NOW) == []
        assert catalog.duplicates(ann.id, Digest("sha1", "a"), 5, NOW) == []

    def test_newest_first_over_shared_and_separate_blobs(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = _stored(catalog, ann, blob=_blob(5, md5="a"), at=NOW)
        second = _stored(catalog, ann, blob=_blob(5, md5="a"), at=NOW + 2 * HOUR)
        third = _file(ann, first.blob, at=NOW + HOUR)
        assert catalog.share_blob(third)
        found = catalog.duplicates(ann.id, Digest("md5", "a"), 5, NOW)
        assert found == [second, third, first]


class TestSharing:
    def test_i8_shared_bytes_stay_until_the_last_file_goes(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = _stored(catalog, ann)
        second = _file(ann, first.blob, name="copy")
        assert catalog.share_blob(second)
        assert catalog.file(second.id, NOW, ann.id) == second
        assert catalog.delete_file(first.id, ann.id, NOW)
        assert catalog.garbage(10) == []
        assert catalog.file(first.id, NOW, ann.id) is None
        assert catalog.delete_file(second.id, ann.id, NOW)
        assert catalog.garbage(10) == [Garbage(POOL, first.blob.key)]
        assert not catalog.delete_file(second.id, ann.id, NOW)

    def test_i2_no_file_is_recorded_on_a_blob_that_is_gone(
        self, catalog: Catalog, ann: Account
    ) -> None:
        file = _stored(catalog, ann)
        catalog.delete_file(file.id, ann.id, NOW)
        assert not catalog.share_blob(_file(ann, file.blob))
        assert catalog.files(ann.id, NOW, 0, 10).total == 0

    def test_another_account_s_blob_is_not_shared(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        file = _stored(catalog, ann)
        assert not catalog.share_blob(_file(bob, file.blob))
        assert catalog.files(bob.id, NOW, 0, 10).total == 0

    def test_i8_delete_and_share_racing_never_leave_a_file_without_bytes(
        self, catalog: Catalog, ann: Account
    ) -> None:
        outcomes = set()
        for _ in range(60):
            old = _stored(catalog, ann)
            new = _file(ann, old.blob)
            shared, deleted = _at_once(
                partial(catalog.share_blob, new),
                partial(catalog.delete_file, old.id, ann.id, NOW),
            )
            assert deleted
            garbage = Garbage(POOL, old.blob.key) in catalog.garbage(1000)
            assert garbage is not shared
            assert (catalog.file(new.id, NOW, ann.id) is not None) is shared
            outcomes.add(shared)
        assert outcomes  # both orders happen; which ones is up to the scheduler

    def test_i8_expired_files_go_and_leave_unshared_bytes_as_garbage(
        self, catalog: Catalog, ann: Account
    ) -> None:
        alone = [_stored(catalog, ann, expired_at=NOW) for _ in range(3)]
        kept = _stored(catalog, ann, expired_at=NOW)
        sharer = _file(ann, kept.blob)
        assert catalog.share_blob(sharer)
        both = _stored(catalog, ann, expired_at=NOW)
        assert catalog.share_blob(_file(ann, both.blob, expired_at=NOW))
        later = _stored(catalog, ann, expired_at=NOW + TICK)
        assert catalog.expire_files(NOW) == 6
        assert catalog.expire_files(NOW) == 0
        expected = {f.blob.key for f in [*alone, both]}
        assert {g.key for g in catalog.garbage(100)} == expected
        remaining = {f.id for f in catalog.files(ann.id, NOW, 0, 10).items}
        assert remaining == {sharer.id, later.id}

    def test_expire_handles_more_than_one_batch(self, catalog: Catalog, ann: Account) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda _: _stored(catalog, ann, expired_at=NOW), range(1100)))
        assert catalog.expire_files(NOW) == 1100
        assert len(catalog.garbage(5000)) == 1100


class TestSweeper:
    def test_garbage_is_oldest_first_and_bounded(self, catalog: Catalog, ann: Account) -> None:
        tasks = [catalog.add_task(_task(ann)) for _ in range(4)]
        for hours, task in enumerate(tasks):
            catalog.cancel(ann.id, task.id, NOW + hours * HOUR)
        oldest = [Garbage(POOL, t.layout.key) for t in tasks]
        assert catalog.garbage(3) == oldest[:3]
        catalog.forget_garbage(oldest[:2])
        catalog.forget_garbage([])
        catalog.forget_garbage([Garbage(POOL, "unknown"), Garbage("other", oldest[2].key)])
        assert catalog.garbage(10) == oldest[2:]

    def test_i2_key_is_unknown_only_when_nothing_names_it(
        self, catalog: Catalog, ann: Account
    ) -> None:
        running = catalog.add_task(_task(ann, expires_at=NOW)).layout.key
        cancelled = catalog.add_task(_task(ann))
        catalog.cancel(ann.id, cancelled.id, NOW)
        file = _stored(catalog, ann)
        named = [running, cancelled.layout.key, file.blob.key]
        others = [uuid.uuid4().hex for _ in range(1200)]
        assert catalog.unknown_keys(POOL, [*others, *named]) == set(others)
        assert catalog.unknown_keys("another pool", named) == set(named)
        assert catalog.unknown_keys(POOL, []) == set()
        catalog.forget_garbage([Garbage(POOL, cancelled.layout.key)])
        assert catalog.unknown_keys(POOL, named) == {cancelled.layout.key}

    def test_i2_key_on_its_way_from_task_to_file_to_garbage_is_never_unknown(
        self, catalog: Catalog, ann: Account
    ) -> None:
        moving = [catalog.add_task(_task(ann)) for _ in range(150)]
        keys = [t.layout.key for t in moving]
        done = threading.Event()

        def move() -> None:
            for task in moving:
                catalog.delete_file(_complete(catalog, task, ann).id, ann.id, NOW)
            done.set()

        mover = threading.Thread(target=move)
        mover.start()
        looks = 0
        while not done.is_set():
            assert catalog.unknown_keys(POOL, keys) == set()
            looks += 1
        mover.join()
        assert looks > 1

    def test_reserved_bytes_are_blobs_once_and_tasks_in_progress(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        assert catalog.reserved_bytes(POOL, ann.id, NOW) == 0
        file = _stored(catalog, ann, blob=_blob(1))
        catalog.share_blob(_file(ann, file.blob))
        fading = _stored(catalog, ann, blob=_blob(10), expired_at=NOW + HOUR)
        catalog.share_blob(_file(ann, fading.blob, expired_at=NOW + HOUR))
        half = _stored(catalog, ann, blob=_blob(100), expired_at=NOW + HOUR)
        catalog.share_blob(_file(ann, half.blob))
        catalog.add_task(_task(ann, layout=Layout("k1", 1000, CHUNK), expires_at=NOW + HOUR))
        cancelled = catalog.add_task(_task(ann, layout=Layout("k2", 10**4, CHUNK)))
        catalog.cancel(ann.id, cancelled.id, NOW)
        _stored(catalog, bob, blob=_blob(10**5))
        catalog.add_task(_task(ann, pool_id="other", layout=Layout("k3", 10**6, CHUNK)))
        assert catalog.reserved_bytes(POOL, ann.id, NOW) == 1111
        assert catalog.reserved_bytes(POOL, ann.id, NOW + HOUR) == 101
        assert catalog.reserved_bytes(POOL, None, NOW) == 101111
        assert catalog.reserved_bytes(POOL, None, NOW + HOUR) == 100101
        assert catalog.reserved_bytes("other", ann.id, NOW) == 10**6

    def test_lease_is_one_holder_s_until_it_runs_out(self, catalog: Catalog) -> None:
        assert catalog.lease("sweep", "a", NOW, NOW + HOUR)
        assert not catalog.lease("sweep", "b", NOW, NOW + WEEK)
        assert catalog.lease("other", "b", NOW, NOW + HOUR)
        assert catalog.lease("sweep", "a", NOW, NOW + 2 * HOUR)
        assert not catalog.lease("sweep", "b", NOW + 2 * HOUR - TICK, NOW + WEEK)
        assert catalog.lease("sweep", "b", NOW + 2 * HOUR, NOW + WEEK)
        assert not catalog.lease("sweep", "a", NOW + 2 * HOUR, NOW + WEEK)

    def test_one_of_many_racing_for_a_lease_holds_it(self, catalog: Catalog) -> None:
        for round_ in range(10):
            now = NOW + round_ * HOUR
            calls = [
                partial(catalog.lease, "sweep", f"h{h}", now, now + HOUR) for h in range(THREADS)
            ]
            assert sum(_at_once(*calls)) == 1

    def test_check_is_silent_while_open_and_raises_when_closed(self, catalog: Catalog) -> None:
        catalog.check()
        catalog.close()
        catalog.close()
        with pytest.raises(NotReady):
            catalog.check()
        with pytest.raises(NotReady):
            catalog.lease("sweep", "a", NOW, NOW)


class Bookkeeping(RuleBasedStateMachine):
    """Any order of calls keeps the books straight: each key is named by exactly one of task,
    blob and garbage (I2, I8), and each figure is what a count of the rows would give."""

    running: Bundle[UploadTask] = Bundle("running")
    kept: Bundle[CloudFile] = Bundle("kept")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"catalog-{uuid.uuid4().hex}"
        self.folder.mkdir()
        self.catalog = SqlCatalog.open(self.folder / "catalog.db")
        self.now = NOW
        self.tasks: dict[str, UploadTask] = {}
        self.chunks: dict[str, dict[int, Chunk]] = {}
        self.files: dict[str, CloudFile] = {}
        self.garbage: set[str] = set()

    def teardown(self) -> None:
        self.catalog.close()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    @initialize()
    def account(self) -> None:
        self.ann = _account(self.catalog, "ann")

    @rule(target=running, digest=st.integers(1, 3), life=st.integers(1, 4))
    def create(self, digest: int, life: int) -> Any:
        asked = _task(
            self.ann,
            at=self.now,
            digest=Digest("md5", str(digest)),
            expires_at=self.now + life * HOUR,
        )
        got = self.catalog.add_task(asked)
        held = next((t for t in self.tasks.values() if t.digest == asked.digest), None)
        if held is not None and held.expires_at > self.now:
            assert got.id == held.id
            self.tasks[got.id] = got
            return multiple()
        if held is not None:
            self._close(held)
        assert got == asked
        self.tasks[got.id], self.chunks[got.id] = got, {}
        return got

    @rule(task=running, index=st.integers(0, 3), etag=st.sampled_from("ab"), size=st.integers(1, 9))
    def record(self, task: UploadTask, index: int, etag: str, size: int) -> None:
        chunk = _chunk(index, etag, size)
        until = self.now + 2 * HOUR
        got = _or_error(lambda: self.catalog.record_chunk(task.id, chunk, self.now, until))
        if task.id not in self.tasks:
            assert isinstance(got, TaskClosed)
            return
        before, held = self.tasks[task.id], self.chunks[task.id].get(index)
        self.chunks[task.id][index] = chunk
        self.tasks[task.id] = replace(
            before,
            received_count=len(self.chunks[task.id]),
            received_bytes=sum(c.size for c in self.chunks[task.id].values()),
            revision=before.revision + (held is not None and held.etag != etag),
            updated_at=self.now,
            expires_at=until,
        )
        assert got == self.tasks[task.id]

    @rule(target=kept, task=running, life=st.none() | st.integers(1, 4))
    def complete(self, task: UploadTask, life: int | None) -> Any:
        task = self.tasks.get(task.id, task)
        blob, file = _outcome(task, self.ann)
        file = replace(file, expired_at=self._until(life))
        got = _or_error(lambda: self.catalog.complete(task.id, task.revision, blob, file))
        if task.id not in self.tasks:
            assert isinstance(got, TaskClosed) or got.blob.key == task.layout.key
            return multiple()
        assert got == file
        del self.tasks[task.id], self.chunks[task.id]
        self.files[file.id] = file
        return file

    @rule(task=consumes(running))
    def cancel(self, task: UploadTask) -> None:
        held = self.tasks.get(task.id)
        alive = held is not None and held.expires_at > self.now
        assert self.catalog.cancel(self.ann.id, task.id, self.now) is alive
        if held is not None and alive:
            self._close(held)

    @rule(target=kept, file=kept, life=st.none() | st.integers(1, 4))
    def share(self, file: CloudFile, life: int | None) -> Any:
        new = _file(self.ann, file.blob, expired_at=self._until(life))
        there = any(f.blob.id == file.blob.id for f in self.files.values())
        assert self.catalog.share_blob(new) is there
        if not there:
            return multiple()
        self.files[new.id] = new
        return new

    @rule(file=kept)
    def delete(self, file: CloudFile) -> None:
        alive = file.id in self.files and self._live(file)
        assert self.catalog.delete_file(file.id, self.ann.id, self.now) is alive
        if alive:
            self._drop([file])

    @rule(hours=st.integers(1, 3))
    def wait(self, hours: int) -> None:
        self.now += hours * HOUR

    @rule()
    def expire(self) -> None:
        overdue = [t for t in self.tasks.values() if t.expires_at <= self.now]
        assert self.catalog.expire_tasks(self.now) == len(overdue)
        for task in overdue:
            self._close(task)
        gone = [f for f in self.files.values() if not self._live(f)]
        assert self.catalog.expire_files(self.now) == len(gone)
        self._drop(gone)

    @rule()
    def sweep(self) -> None:
        some = self.catalog.garbage(2)
        self.catalog.forget_garbage(some)
        self.garbage -= {g.key for g in some}
        assert self.catalog.unknown_keys(POOL, [g.key for g in some]) == {g.key for g in some}

    @invariant()
    def every_key_is_in_one_place(self) -> None:
        tasks = [t.layout.key for t in self.tasks.values()]
        blobs = sorted({f.blob.key for f in self.files.values()})
        assert {g.key for g in self.catalog.garbage(1000)} == self.garbage
        assert self.catalog.unknown_keys(POOL, [*tasks, *blobs, *self.garbage]) == set()
        assert self._count(schema.blobs) == len(blobs)
        assert self._count(schema.chunks) == sum(map(len, self.chunks.values()))

    @invariant()
    def figures_are_right(self) -> None:
        running = sum(t.layout.size for t in self.tasks.values() if t.expires_at > self.now)
        live = {f.blob.id: f.size for f in self.files.values() if self._live(f)}
        for account in (self.ann.id, None):
            reserved = self.catalog.reserved_bytes(POOL, account, self.now)
            assert reserved == running + sum(live.values())
        listed = self.catalog.files(self.ann.id, self.now, 0, 1000)
        assert {f.id for f in listed.items} == {f.id for f in self.files.values() if self._live(f)}
        assert listed.total == len(listed.items)

    def _count(self, table: sa.Table) -> int:
        query = sa.select(sa.func.count()).select_from(table)
        found: int = self.catalog._db.read(lambda conn: conn.execute(query).scalar_one())
        return found

    def _until(self, life: int | None) -> datetime | None:
        return None if life is None else self.now + life * HOUR

    def _live(self, file: CloudFile) -> bool:
        return file.expired_at is None or file.expired_at > self.now

    def _close(self, task: UploadTask) -> None:
        del self.tasks[task.id], self.chunks[task.id]
        self.garbage.add(task.layout.key)

    def _drop(self, files: list[CloudFile]) -> None:
        for file in files:
            del self.files[file.id]
        left = {f.blob.key for f in self.files.values()}
        self.garbage |= {f.blob.key for f in files} - left


Bookkeeping.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestBookkeeping = Bookkeeping.TestCase


# SQLite's own part


@pytest.fixture
def sql(tmp_path: Path) -> Iterator[SqlCatalog]:
    with closing(SqlCatalog.open(tmp_path / "catalog.db")) as opened:
        yield opened


class TestGroupCommit:
    @staticmethod
    @contextmanager
    def _writer_held(sql: SqlCatalog) -> Iterator[Callable[[], int]]:
        """Hold the writer in a transaction of its own, so that what comes next queues up.
        The value tells how many transactions were begun from then on."""
        go, held, begun = threading.Event(), threading.Event(), 0

        def count(statement: str) -> None:
            nonlocal begun
            begun += statement == "BEGIN IMMEDIATE"

        def hold(conn: Connection) -> None:
            raw: Any = conn.connection.dbapi_connection
            raw.set_trace_callback(count)
            held.set()
            go.wait(30)

        with ThreadPoolExecutor(1) as pool:
            holding = pool.submit(sql._db.write, hold)
            assert held.wait(30)
            try:
                yield lambda: begun
            finally:
                go.set()
            holding.result(30)

    def _together(
        self, sql: SqlCatalog, calls: list[Callable[[], Any]]
    ) -> tuple[list[Any], Callable[[], int]]:
        """The outcomes (or errors) of calls that the writer finds queued all at once."""

        def run(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except Exception as error:  # noqa: BLE001 - the test looks at it
                return error

        with ThreadPoolExecutor(len(calls)) as pool:
            with self._writer_held(sql) as begun:
                waiting = [pool.submit(run, call) for call in calls]
                while len(sql._db._writer._queue) < len(calls):
                    time.sleep(0.001)
            return [w.result(30) for w in waiting], begun

    def test_writes_that_wait_together_share_one_commit(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        tasks = [_task(ann) for _ in range(20)]
        calls: list[Callable[[], Any]] = [partial(sql.add_task, t) for t in tasks]
        outcomes, begun = self._together(sql, calls)
        assert outcomes == tasks
        assert begun() == 1

    def test_write_that_fails_undoes_itself_alone(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        task = sql.add_task(_task(ann))
        fine = [_task(ann) for _ in range(4)]

        def half_done(conn: Connection) -> None:
            conn.execute(sa.delete(schema.tasks))
            raise ValueError("changed my mind")

        calls: list[Callable[[], Any]] = [partial(sql.add_task, t) for t in fine]
        calls.insert(2, lambda: sql._db.write(half_done))
        outcomes, begun = self._together(sql, calls)
        assert begun() == 1
        assert isinstance(outcomes.pop(2), ValueError)
        assert outcomes == fine
        listed = {t.id for t in sql.tasks(ann.id, None, NOW, 0, 10).items}
        assert listed == {t.id for t in [task, *fine]}

    def test_commit_that_fails_is_told_to_everyone_in_it(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        tasks = [_task(ann) for _ in range(4)]

        def break_the_commit(conn: Connection) -> None:
            conn.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
            values = {"task_id": "none", "index": 0, "size": 1, "etag": "e"}
            conn.execute(sa.insert(schema.chunks), values)

        calls: list[Callable[[], Any]] = [partial(sql.add_task, t) for t in tasks]
        calls.insert(2, lambda: sql._db.write(break_the_commit))
        outcomes, _ = self._together(sql, calls)
        assert [type(o) for o in outcomes] == [sqlite3.IntegrityError] * 5
        assert sql.tasks(ann.id, None, NOW, 0, 10).total == 0
        assert sql.add_task(tasks[0]) == tasks[0]

    def test_full_disk_fails_everyone_and_the_next_write_succeeds(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")

        def pages(conn: Connection, limit: int) -> int:
            count = int(conn.exec_driver_sql("PRAGMA page_count").scalar_one())
            conn.exec_driver_sql(f"PRAGMA max_page_count={count + limit}")
            return count

        sql._db.write(lambda conn: pages(conn, 0))
        big = [_task(ann, file_name="x" * 20_000) for _ in range(3)]
        calls: list[Callable[[], Any]] = [partial(sql.add_task, t) for t in big]
        outcomes, _ = self._together(sql, calls)
        assert [type(o) for o in outcomes] == [StorageFull] * 3
        with pytest.raises(StorageFull, match="Free some space"):
            sql.add_task(big[0])
        assert sql.tasks(ann.id, None, NOW, 0, 10).total == 0
        sql._db.write(lambda conn: pages(conn, 1000))
        assert sql.add_task(big[0]) == big[0]

    def test_close_finishes_what_is_queued(self, tmp_path: Path) -> None:
        sql = SqlCatalog.open(tmp_path / "catalog.db")
        ann = _account(sql, "ann")
        with ThreadPoolExecutor(10) as pool:
            with self._writer_held(sql):
                waiting = [pool.submit(sql.add_task, _task(ann)) for _ in range(9)]
                while len(sql._db._writer._queue) < 9:
                    time.sleep(0.001)
                closing_ = pool.submit(sql.close)
                while not sql._db._closed:
                    time.sleep(0.001)
            for task in waiting:
                task.result(30)
            closing_.result(30)
        with closing(SqlCatalog.open(tmp_path / "catalog.db")) as again:
            assert again.tasks(ann.id, None, NOW, 0, 0).total == 9

    def test_same_task_id_twice_is_an_error_not_a_hang(self, sql: SqlCatalog) -> None:
        task = sql.add_task(_task(_account(sql, "ann")))
        with pytest.raises(IntegrityError):
            sql.add_task(replace(task, file_name="other"))


class TestSqliteFile:
    def test_i1_every_connection_syncs_each_commit(self, sql: SqlCatalog) -> None:
        def facts(conn: Connection) -> tuple[Any, ...]:
            names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            return tuple(conn.exec_driver_sql(f"PRAGMA {n}").scalar() for n in names)

        assert sql._db.read(facts) == ("wal", 2, 1, 30000)
        assert sql._db.write(facts) == ("wal", 2, 1, 30000)

    def test_url_and_path_name_the_same_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a b%20ü?.db"
        with closing(SqlCatalog.open(path)) as first:
            ann = _account(first, "ann")
            assert path.is_file()
            with closing(SqlCatalog.open(str(path))) as second:
                assert second.account("ann") == ann
        plain = tmp_path / "plain.db"
        with closing(SqlCatalog.open(f"sqlite:///{plain}")):
            assert plain.is_file()

    @pytest.mark.parametrize("url", ["postgresql://u:secret@h/db", "sqlite://", "mysql://h/db"])
    def test_i9_other_databases_are_refused_without_telling_the_password(self, url: str) -> None:
        with pytest.raises(NotReady, match="path of a SQLite file") as caught:
            SqlCatalog.open(url)
        assert "secret" not in caught.value.message

    def test_closed_catalog_leaves_no_descriptor_and_no_thread(self, tmp_path: Path) -> None:
        before = set(threading.enumerate())
        with closing(SqlCatalog.open(tmp_path / "catalog.db")) as sql:
            _at_once(*[sql.accounts] * THREADS)
            _account(sql, "ann")
        assert not [n for n in _open_files() if str(tmp_path) in n]
        assert set(threading.enumerate()) <= before
        assert not list(tmp_path.glob("*-wal"))

    @pytest.mark.parametrize(
        "content", [b"not a database" * 100, b"SQLite format 3\0" + b"\1" * 4096]
    )
    def test_damaged_file_is_told_and_left_alone(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "catalog.db"
        path.write_bytes(content)
        with pytest.raises(NotReady, match="damaged"):
            SqlCatalog.open(path)
        assert path.read_bytes() == content

    def test_hot_and_growing_queries_walk_no_table(self, sql: SqlCatalog) -> None:
        seen: dict[str, Any] = {}

        @sa.event.listens_for(sql._db.engine, "before_cursor_execute")
        def note(*args: Any) -> None:
            seen[args[2]] = args[3]

        ann = _account(sql, "ann")
        seen.clear()
        sql.principal(b"x", NOW)
        task = sql.add_task(_task(ann))
        sql.task(ann.id, task.id, NOW)
        for etag in "ab":
            sql.record_chunk(task.id, _chunk(0, etag), NOW, NOW)
        sql.chunk(task.id, 0)
        sql.tasks(ann.id, None, NOW, 0, 10)
        file = sql.complete(task.id, 1, *_outcome(task, ann))
        sql.duplicates(ann.id, Digest("md5", "x"), 5, NOW)
        sql.files(ann.id, NOW, 0, 10)
        sql.unknown_keys(POOL, ["x"])
        for account_id in (ann.id, None):
            sql.reserved_bytes(POOL, account_id, NOW)
        sql.share_blob(replace(file, id="f2"))
        sql.delete_file("f2", ann.id, NOW)
        sql.expire_files(NOW)
        assert len(seen) > 20
        with closing(sqlite3.connect(sql._db.path)) as plain:
            for statement, values in seen.items():
                steps = [r[3] for r in plain.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
                walks = [s for s in steps if s.startswith("SCAN") and "CONSTANT" not in s]
                assert not walks, (statement, steps)
            assert "ix_blobs_md5" in _plan_of(plain, seen, "blobs.md5 =")


def _plan_of(plain: sqlite3.Connection, seen: dict[str, Any], part: str) -> str:
    statement, values = next((s, v) for s, v in seen.items() if part in s)
    return " ".join(r[3] for r in plain.execute(f"EXPLAIN QUERY PLAN {statement}", values))


def _open_files() -> list[str]:
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the folder
            names.append(str(descriptor.readlink()))
    return names


class TestMigrations:
    def test_migrations_make_exactly_the_tables_of_the_schema(self, sql: SqlCatalog) -> None:
        def differences(conn: Connection) -> Any:
            context = MigrationContext.configure(conn, opts={"compare_type": True})
            return compare_metadata(context, schema.metadata)

        assert sql._db.read(differences) == []

    def test_migrations_make_the_same_indexes_to_the_letter(self, sql: SqlCatalog) -> None:
        """Autogenerate does not look at the WHERE of a partial index, nor at WITHOUT ROWID."""
        query = (
            "SELECT name, sql FROM sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'alembic%'"
        )
        engine = sa.create_engine("sqlite://")
        with engine.connect() as fresh:
            schema.metadata.create_all(fresh)
            made = {name: _plain(sql_) for name, sql_ in fresh.exec_driver_sql(query)}
        engine.dispose()

        def read(conn: Connection) -> dict[str, frozenset[str]]:
            return {name: _plain(sql_) for name, sql_ in conn.exec_driver_sql(query)}

        assert sql._db.read(read) == made

    def test_head_is_the_newest_migration(self) -> None:
        scripts = ScriptDirectory(str(migrate.MIGRATIONS))
        assert scripts.get_heads() == [migrate.HEAD]

    def test_newer_schema_is_refused_with_advice(self, tmp_path: Path) -> None:
        path = tmp_path / "catalog.db"
        SqlCatalog.open(path).close()
        with closing(sqlite3.connect(path)) as plain, plain:
            plain.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(NotReady, match="newer Upwell"):
            SqlCatalog.open(path)

    def test_upgrade_that_breaks_off_leaves_nothing_and_can_be_repeated(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "catalog.db"
        run = migrate._run_alembic

        def break_off(conn: Connection) -> None:
            run(conn)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(migrate, "_run_alembic", break_off)
            with pytest.raises(KeyboardInterrupt):
                SqlCatalog.open(path)
        with closing(sqlite3.connect(path)) as plain:
            assert plain.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        with closing(SqlCatalog.open(path)) as sql:
            sql.check()

    def test_check_notices_another_schema(self, sql: SqlCatalog) -> None:
        sql._db.write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num='x'"))
        with pytest.raises(NotReady, match="schema"):
            sql.check()

    @pytest.mark.slow
    def test_up_to_date_file_opens_without_loading_alembic(self, tmp_path: Path) -> None:
        SqlCatalog.open(tmp_path / "catalog.db").close()
        code = (
            "import sys; from upwell.catalog import SqlCatalog;"
            "SqlCatalog.open(sys.argv[1]).close(); sys.exit('alembic' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "catalog.db")], check=True)


def _plain(statement: str) -> frozenset[str]:
    """The clauses of a CREATE statement: neither order, nor quotes, nor layout."""
    text = statement.replace('"', "").replace("tasks.", "").replace("files.", "")
    return frozenset(" ".join(part.split()).strip(" ()") for part in text.split(","))


class TestSnapshot:
    def test_snapshot_is_whole_while_writes_go_on(self, sql: SqlCatalog, tmp_path: Path) -> None:
        task = sql.add_task(_task(_account(sql, "ann"), count=10**6))
        target, stop = tmp_path / "copy.db", threading.Event()

        def write() -> None:
            index = 0
            while not stop.is_set():
                sql.record_chunk(task.id, _chunk(index), NOW, NOW + WEEK)
                index += 1

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(5):
            sql.snapshot(target)
            assert integrity_problem(target) is None
            with closing(SqlCatalog.open(target)) as copy:
                seen = copy.task(task.account_id, task.id, NOW)
                assert seen is not None
                assert copy.chunk_indexes(task.id) == list(range(seen.received_count))
        stop.set()
        writer.join()
        assert not list(tmp_path.glob("*.partial*"))

    def test_snapshot_is_one_file(self, sql: SqlCatalog, tmp_path: Path) -> None:
        ann = _account(sql, "ann")
        (tmp_path / "elsewhere").mkdir()
        sql.snapshot(tmp_path / "elsewhere" / "copy.db")
        assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["copy.db"]
        with closing(SqlCatalog.open(tmp_path / "elsewhere" / "copy.db")) as copy:
            assert copy.accounts() == [ann]

    def test_snapshot_that_fails_leaves_the_earlier_one(
        self, sql: SqlCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "copy.db"
        sql.snapshot(target)
        before = target.read_bytes()
        _account(sql, "ann")

        def full(_path: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("upwell.catalog.sqlite.sync", full)
        with pytest.raises(StorageFull):
            sql.snapshot(target)
        assert target.read_bytes() == before
        assert not list(tmp_path.glob("*.partial*"))

    def test_snapshot_never_replaces_the_catalog_itself(self, sql: SqlCatalog) -> None:
        with pytest.raises(ValueError, match="itself"):
            sql.snapshot(sql._db.path)

    def test_sound_files_have_no_problem_and_damaged_ones_do(
        self, sql: SqlCatalog, tmp_path: Path
    ) -> None:
        ann = _account(sql, "ann")
        for _ in range(200):
            sql.add_task(_task(ann))
        assert integrity_problem(sql._db.path) is None  # also while it is open
        sql.snapshot(tmp_path / "copy.db")
        content = bytearray((tmp_path / "copy.db").read_bytes())
        content[8 * 4096 : 9 * 4096] = os.urandom(4096)
        (tmp_path / "copy.db").write_bytes(content)
        assert "copy.db" in str(integrity_problem(tmp_path / "copy.db"))
        assert "no such file" in str(integrity_problem(tmp_path / "nothing.db"))
        (tmp_path / "text.db").write_text("hello " * 1000)
        assert "not a database" in str(integrity_problem(tmp_path / "text.db"))


# Processes. Functions at module level, since a spawned process imports them by name.


def _open_once(path: str, gate: Any, out: Any) -> None:
    gate.wait(60)
    with closing(SqlCatalog.open(path)) as sql:
        sql.check()
    out.put("ok")


def _race(path: str, gate: Any, out: Any) -> None:
    with closing(SqlCatalog.open(path)) as sql:
        ann = sql.account("ann")
        assert ann is not None
        gate.wait(60)
        wins: list[Any] = []
        for round_ in range(40):
            digest = Digest("md5", str(round_))
            wins.append(sql.add_task(_task(ann, digest=digest)).id)
            wins.append(sql.take_login(round_.to_bytes(32), NOW) is not None)
        for index in range(200):
            sql.record_chunk(wins[0], _chunk(index, f"{os.getpid()}"), NOW, NOW + WEEK)
        out.put(wins)


def _write_for_a_while(path: str, gate: Any, out: Any) -> None:
    with closing(SqlCatalog.open(path)) as sql:
        gate.wait(60)
        end, counts = time.monotonic() + 2, [0] * 4

        def write(thread: int) -> None:
            while time.monotonic() < end:
                chunk = _chunk(thread * 10**6 + counts[thread], str(os.getpid()))
                sql.record_chunk("task", chunk, NOW, NOW + WEEK)
                counts[thread] += 1

        _at_once(*[partial(write, t) for t in range(4)])
    out.put(sum(counts))


def _write_for_ever(path: str, task_id: str, start: int) -> None:
    """Print each index as soon as it is acknowledged, until somebody kills us."""
    with closing(SqlCatalog.open(path)) as sql:

        def write(thread: int) -> None:
            index = start + thread
            while True:
                sql.record_chunk(task_id, _chunk(index), NOW, NOW + WEEK)
                os.write(1, f"{index}\n".encode())
                index += 4

        _at_once(*[partial(write, t) for t in range(4)])


@pytest.mark.slow
class TestProcesses:
    @staticmethod
    def _run(count: int, target: Callable[..., None], path: Path) -> list[Any]:
        spawn = multiprocessing.get_context("spawn")
        gate, out = spawn.Barrier(count), spawn.Queue()
        processes = [
            spawn.Process(target=target, args=(str(path), gate, out)) for _ in range(count)
        ]
        for process in processes:
            process.start()
        results = [out.get(timeout=120) for _ in processes]
        for process in processes:
            process.join(60)
        assert [p.exitcode for p in processes] == [0] * count
        out.close()
        out.join_thread()
        return results

    def test_eight_processes_start_at_once_on_an_empty_folder(self, tmp_path: Path) -> None:
        assert self._run(8, _open_once, tmp_path / "catalog.db") == ["ok"] * 8

    def test_processes_racing_agree_on_every_outcome(self, tmp_path: Path) -> None:
        path = tmp_path / "catalog.db"
        with closing(SqlCatalog.open(path)) as sql:
            ann = _account(sql, "ann")
            for round_ in range(40):
                sql.add_login(round_.to_bytes(32), ann.id, NOW + WEEK)
            first, second = self._run(2, _race, path)
            assert first[::2] == second[::2]  # the same task for both, forty times
            assert [a + b for a, b in zip(first[1::2], second[1::2], strict=True)] == [1] * 40
            seen = sql.task(ann.id, first[0], NOW)
            assert seen is not None
            assert (seen.received_count, seen.revision) == (200, 200)

    def test_busy_processes_take_turns(self, tmp_path: Path) -> None:
        """By SQLite's own waiting, one got 3 to 25 times as much done as the other."""
        path = tmp_path / "catalog.db"
        with closing(SqlCatalog.open(path)) as sql:
            sql.add_task(_task(_account(sql, "ann"), id="task", count=10**7))
        counts = self._run(2, _write_for_a_while, path)
        assert min(counts) * 2 > max(counts)

    def test_i1_killed_process_leaves_every_acknowledged_write(self, tmp_path: Path) -> None:
        path = tmp_path / "catalog.db"
        with closing(SqlCatalog.open(path)) as sql:
            task = sql.add_task(_task(_account(sql, "ann"), count=10**6))
        code = (
            "import sys; from tests.conformance.test_catalog import _write_for_ever;"
            "_write_for_ever(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
        )
        acknowledged: set[int] = set()
        for round_ in range(4):
            arguments = [sys.executable, "-c", code, str(path), task.id, str(round_ * 10**5)]
            root = Path(__file__).parents[2]
            with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=root) as process:
                assert process.stdout is not None
                first = process.stdout.readline()
                time.sleep(0.2 + 0.1 * round_)
                process.send_signal(signal.SIGKILL)
                lines = (first + process.stdout.read()).splitlines(keepends=True)
            acknowledged |= {int(line) for line in lines if line.endswith(b"\n")}
            with closing(SqlCatalog.open(path)) as sql:
                there = sql.chunk_indexes(task.id)
                seen = sql.task(task.account_id, task.id, NOW)
                assert acknowledged <= set(there)
                assert seen is not None
                assert (seen.received_count, seen.received_bytes) == (
                    len(there),
                    len(there) * CHUNK,
                )
            assert integrity_problem(path) is None
        assert len(acknowledged) > 100

    def test_process_that_stops_in_its_turn_holds_nobody_for_ever(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The turn is only manners: who cannot have it in time writes anyway."""
        monkeypatch.setattr("upwell.catalog.sqlite.BUSY_SECONDS", 1)
        path = tmp_path / "catalog.db"
        with closing(SqlCatalog.open(path)) as sql:
            stuck = FileLock(tmp_path / "catalog.db.lock")
            assert stuck.acquire(0)
            _account(sql, "ann")
            with closing(sqlite3.connect(path, isolation_level=None)) as plain:
                plain.execute("BEGIN IMMEDIATE")
                with pytest.raises(NotReady, match="busy"):
                    _account(sql, "bob")
                plain.execute("ROLLBACK")
            stuck.close()
            _account(sql, "bob")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
class TestFullDisk:
    def test_full_disk_changes_nothing_and_freed_space_is_used(self, small_disk: Path) -> None:
        with closing(SqlCatalog.open(small_disk / "catalog.db")) as sql:
            ann = _account(sql, "ann")
            ballast = small_disk / "ballast"
            _fill(ballast)
            tasks: list[UploadTask] = []

            def add() -> None:
                while True:
                    task = _task(ann, file_name="x" * 5000)
                    sql.add_task(task)
                    tasks.append(task)

            for _ in range(3):
                with pytest.raises(StorageFull, match=r"catalog\.db.*Free some space"):
                    add()
                listed = sql.tasks(ann.id, None, NOW, 0, 1000)
                assert {t.id for t in listed.items} == {t.id for t in tasks}
            ballast.unlink()
            task = sql.add_task(_task(ann, file_name="x" * 5000))
            assert sql.task(ann.id, task.id, NOW) == task
            sql.check()
        assert integrity_problem(small_disk / "catalog.db") is None

    def test_catalog_is_not_made_on_a_full_disk(self, small_disk: Path) -> None:
        ballast = small_disk / "ballast"
        _fill(ballast)
        with pytest.raises(StorageFull):
            SqlCatalog.open(small_disk / "catalog.db")
        ballast.unlink()
        with closing(SqlCatalog.open(small_disk / "catalog.db")) as sql:
            sql.check()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return
