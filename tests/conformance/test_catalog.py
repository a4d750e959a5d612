"""What every catalog promises (``core.ports.Catalog``), and what SQLite adds to it.

The first part runs for each entry of ``CATALOGS``; PostgreSQL joins by one more entry. The
second part is SQLite's own: processes, crashes, full disks, migrations, snapshots.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
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
from alembic import command
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
    run_state_machine_as_test,
)
from sqlalchemy.exc import IntegrityError

from tests.catalogs import migrated
from upwell.catalog import SqlCatalog, file_lists, integrity_problem, migrate, prepared, schema
from upwell.catalog.sqlite import Sqlite, raise_explained
from upwell.catalog.turns import FileLock, Turns
from upwell.core.ports import NewFile
from upwell.errors import (
    AccountExists,
    NotReady,
    PoolExists,
    PoolInUse,
    PoolNotFound,
    QuotaExceeded,
    StorageFailed,
    StorageFull,
    TaskClosed,
)
from upwell.model import (
    DEFAULT_POOL_ID,
    Account,
    Allowance,
    Blob,
    Chunk,
    CloudFile,
    Digest,
    EventType,
    FileOrder,
    FileQuery,
    Garbage,
    JobKind,
    Layout,
    NewJob,
    Policy,
    Pool,
    Scope,
    Seal,
    Sealed,
    TaskStatus,
    Token,
    UploadTask,
    Usage,
)
from upwell.model import Bundle as ShareBundle

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
OTHER = "00000000-0000-4000-8000-000000000002"
THREADS = 8
FREE = Allowance()
NAMES = [
    "Film.mkv",
    "my film",
    "über uns",
    "u\u0308ber den Wolken",
    "STRASSE",
    "Straße 7",
    "Σίσυφος",
    "10% off",
    "a_b",
    "a\\b",
    "\ufb01le",
    "写真.jpg",
    "d\0f",
]

CATALOGS: dict[str, Callable[[Path], SqlCatalog]] = {
    "sqlite": lambda folder: SqlCatalog.open(migrated(folder / "catalog.db")),
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


def _begin(catalog: Catalog, task: UploadTask, allowance: Allowance = FREE) -> UploadTask:
    return catalog.add_task(task, allowance)


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


def _sealed(account: Account, **changes: Any) -> UploadTask:
    seal = Seal(os.urandom(200), os.urandom(48), uuid.uuid4().hex)
    return _task(account, **{"seal": seal} | changes)


def _pool(name: str = "other", pool_id: str = OTHER, **changes: Any) -> Pool:
    pool = Pool(pool_id, name, Policy(), None, None, created_at=NOW, updated_at=NOW)
    return replace(pool, **changes)


def _bundle(catalog: Catalog, account: Account) -> str:
    id_ = uuid.uuid4().hex
    catalog.add_bundle(ShareBundle(id_, account.id, id_, "b", None, None, None, NOW, NOW))
    return id_


def _noted(catalog: Catalog, account: Account) -> list[tuple[EventType, str]]:
    """The account's events, each with the id of what it is about."""
    events = catalog.events(account.id, 0, 100_000)
    return [(e.type, e.data.get("id") or e.data["task_id"]) for e in events]


def _stored(catalog: Catalog, account: Account, **changes: Any) -> CloudFile:
    file = _file(account, changes.pop("blob", None) or _blob(), **changes)
    catalog.add_file(file.blob, file, FREE)
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

    def test_quota_is_the_account_s_until_it_is_changed(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        rich = Account(uuid.uuid4().hex, "rich", is_admin=False, created_at=NOW, quota=2**60)
        catalog.add_account(rich)
        assert catalog.account("rich") == rich
        for quota in (0, 2**50, None):
            catalog.set_quota(ann.id, quota)
            assert catalog.account("ann") == replace(ann, quota=quota)
        catalog.set_quota("nobody", 1)
        assert catalog.account("bob") == bob

    def test_principal_knows_the_quota(self, catalog: Catalog, ann: Account) -> None:
        catalog.set_quota(ann.id, 5)
        catalog.add_token(Token("t", ann.id, "n", b"x", frozenset(), NOW))
        found = catalog.principal(b"x", NOW)
        assert found is not None
        assert found.account == replace(ann, quota=5)


class TestRecovery:
    def test_open_tasks_are_those_in_progress_of_everyone(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        mine, theirs, closed = _task(ann), _task(bob), _task(ann)
        for task in (mine, theirs, closed):
            _begin(catalog, task)
        catalog.cancel(ann.id, closed.id, NOW)
        assert {task.id for task in catalog.open_tasks()} == {mine.id, theirs.id}

    def test_forgotten_chunk_is_missing_and_not_counted(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = _begin(catalog, _task(ann))
        for index in (0, 2):
            catalog.record_chunk(task.id, _chunk(index), NOW, NOW + WEEK)
        for forgotten in (True, False):
            assert catalog.forget_chunk(task.id, _chunk(2), NOW + HOUR) is forgotten
            left = catalog.task(ann.id, task.id, NOW)
            assert left is not None
            assert (left.received_count, left.received_bytes) == (1, CHUNK)
            assert catalog.chunk_indexes(task.id) == [0]
        assert left is not None
        assert left.revision == 1
        assert left.updated_at == NOW + HOUR
        changed = replace(_chunk(0), etag="other", staged="0.1")
        catalog.record_chunk(task.id, changed, NOW + HOUR, NOW + WEEK)
        assert not catalog.forget_chunk(task.id, _chunk(0), NOW), "another one was looked at"
        assert not catalog.forget_chunk(task.id, replace(changed, staged="0.2"), NOW)
        assert catalog.chunk(task.id, 0) == changed
        with pytest.raises(TaskClosed):
            catalog.complete(task.id, 0, *_outcome(task, ann))

    def test_chunk_of_a_closed_task_cannot_be_forgotten(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = _begin(catalog, _task(ann))
        catalog.cancel(ann.id, task.id, NOW)
        with pytest.raises(TaskClosed):
            catalog.forget_chunk(task.id, _chunk(0), NOW)

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
            _begin(catalog, _task(ann))
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
        assert _begin(catalog, task) == task
        assert catalog.task(ann.id, task.id, NOW) == task
        assert catalog.task_by_identity(ann.id, task.identity() or "", NOW) == task

    def test_same_upload_asked_for_again_is_the_one_in_progress(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = _begin(catalog, _task(ann))
        catalog.record_chunk(first.id, _chunk(0), NOW, NOW + WEEK)
        again = _again(
            first, content_type="image/png", expired_at=NOW + HOUR, created_at=NOW + HOUR
        )
        held = _begin(catalog, again)
        assert (held.id, held.layout, held.received_count) == (first.id, first.layout, 1)
        assert (held.content_type, held.expired_at) == ("image/png", NOW + HOUR)
        assert catalog.task(ann.id, first.id, NOW) == held
        assert catalog.task(ann.id, again.id, NOW) is None

    def test_asking_again_is_use_and_slides_the_expiry(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = _begin(catalog, _task(ann))
        late = first.expires_at - TICK
        _begin(catalog, _again(first, created_at=late, expires_at=late + WEEK))
        assert catalog.task(ann.id, first.id, late + HOUR) is not None

    def test_asking_again_never_shortens_the_life(self, catalog: Catalog, ann: Account) -> None:
        first = _begin(catalog, _task(ann))
        held = _begin(catalog, _again(first, expires_at=NOW + TICK))
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
        catalog.add_pool(_pool(pool_id="p"))
        first = _begin(catalog, _task(ann))
        other = replace(_again(first), **change)
        assert _begin(catalog, other) == other
        assert catalog.tasks(ann.id, None, NOW, 0, 10).total == 2

    def test_another_account_s_same_upload_is_its_own(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        first = _begin(catalog, _task(ann))
        other = _again(first, account_id=bob.id)
        assert _begin(catalog, other) == other
        assert catalog.task_by_identity(bob.id, first.identity() or "", NOW) == other

    def test_uploads_without_a_digest_are_never_taken_for_one(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = _begin(catalog, _task(ann, digest=None))
        second = _begin(catalog, _again(first))
        assert first.id != second.id

    def test_expired_task_gives_way_to_the_newcomer_and_leaves_garbage(
        self, catalog: Catalog, ann: Account
    ) -> None:
        old = _begin(catalog, _task(ann))
        catalog.record_chunk(old.id, _chunk(0), NOW, NOW + HOUR)
        new = _again(old, created_at=NOW + HOUR, expires_at=NOW + WEEK)
        assert _begin(catalog, new) == new
        assert catalog.task_by_identity(ann.id, old.identity() or "", NOW + HOUR) == new
        assert catalog.garbage(10) == [Garbage(POOL, old.layout.key)]
        assert catalog.chunk_indexes(old.id) == []
        with pytest.raises(TaskClosed, match="expired"):
            catalog.record_chunk(old.id, _chunk(1), NOW, NOW + WEEK)

    @pytest.mark.parametrize("end", ["cancel", "complete"])
    def test_closed_task_does_not_stand_in_the_way(
        self, catalog: Catalog, ann: Account, end: str
    ) -> None:
        old = _begin(catalog, _task(ann))
        if end == "cancel":
            catalog.cancel(ann.id, old.id, NOW)
        else:
            _complete(catalog, old, ann)
        new = _again(old)
        assert _begin(catalog, new) == new

    def test_resuming_finds_the_task_and_records_nothing_new(
        self, catalog: Catalog, ann: Account
    ) -> None:
        old = _begin(catalog, _task(ann))
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
        task = _begin(catalog, _task(ann))
        assert catalog.task(bob.id, task.id, NOW) is None
        assert catalog.task(ann.id, "unknown", NOW) is None
        assert catalog.task_by_identity(bob.id, task.identity() or "", NOW) is None
        assert catalog.tasks(bob.id, None, NOW, 0, 10).items == []

    def test_task_lives_until_its_expiry(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _task(ann))
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
            got = _at_once(*[partial(_begin, catalog, t) for t in asked])
            assert len({t.id for t in got}) == 1
            assert got[0].id in {t.id for t in asked}
        assert catalog.tasks(ann.id, TaskStatus.IN_PROGRESS, NOW, 0, 0).total == 10


class TestTaskListing:
    def test_newest_first_stable_and_paged_without_loss(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        times = [NOW, NOW + HOUR, NOW, NOW + HOUR, NOW - HOUR]
        tasks = [_begin(catalog, _task(ann, at=at, expires_at=NOW + WEEK)) for at in times]
        _begin(catalog, _task(bob))
        whole = catalog.tasks(ann.id, None, NOW, 0, 10)
        assert whole.total == 5
        assert whole.items == sorted(tasks, key=lambda t: (t.created_at, t.id), reverse=True)
        pages = [catalog.tasks(ann.id, None, NOW, start, 2) for start in (0, 2, 4)]
        assert [t for page in pages for t in page.items] == whole.items
        assert {page.total for page in pages} == {5}

    def test_page_past_the_end_is_empty_and_knows_the_total(
        self, catalog: Catalog, ann: Account
    ) -> None:
        _begin(catalog, _task(ann))
        for offset in (1, 10**30):
            page = catalog.tasks(ann.id, None, NOW, offset, 10)
            assert (page.items, page.total) == ([], 1)

    def test_filter_by_status(self, catalog: Catalog, ann: Account) -> None:
        running, cancelled, completed = (_begin(catalog, _task(ann)) for _ in range(3))
        catalog.cancel(ann.id, cancelled.id, NOW)
        _complete(catalog, completed, ann)
        overdue = _begin(catalog, _task(ann, at=NOW - WEEK - WEEK))
        swept = _begin(catalog, _task(ann, at=NOW - 4 * WEEK))
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
        task = _begin(catalog, _task(ann))
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
        task = _begin(catalog, _task(ann))
        first = catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK)
        again = catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK)
        assert again == first
        moved = catalog.record_chunk(task.id, _chunk(0, staged="s"), NOW, NOW + WEEK)
        assert moved == replace(first, revision=1)
        assert catalog.chunk(task.id, 0) == _chunk(0, staged="s")

    def test_replaced_chunk_counts_once_and_raises_the_revision(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = _begin(catalog, _task(ann))
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
        task = _begin(catalog, _task(ann))
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

    @pytest.mark.slow
    def test_chunks_are_read_in_order_across_pages(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _task(ann, count=3000))
        other = _begin(catalog, _task(ann))
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
        task = _begin(catalog, _task(ann))
        catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK)
        reading = catalog.chunks(task.id).all()
        assert next(reading) == _chunk(0)
        catalog.record_chunk(task.id, _chunk(1), NOW, NOW + WEEK)
        assert list(reading) == [_chunk(1)]

    def test_chunks_recorded_by_many_threads_are_all_counted(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = _begin(catalog, _task(ann, count=400))

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
        task = _begin(catalog, _task(ann))
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
        task = _begin(catalog, _task(ann))
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
        task = _begin(catalog, _task(ann))
        file = _complete(catalog, task, ann)
        seen = catalog.task(ann.id, task.id, task.expires_at + WEEK)
        assert seen is not None
        assert (seen.status, seen.file_id) == (TaskStatus.COMPLETED, file.id)
        assert catalog.task_by_identity(ann.id, task.identity() or "", NOW) is None

    def test_file_is_found_by_its_task_for_its_owner_only(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        task = _begin(catalog, _task(ann))
        other = _begin(catalog, _task(ann))
        _complete(catalog, task, ann)
        assert catalog.file_of_task(bob.id, task.id, NOW) is None
        assert catalog.file_of_task(ann.id, other.id, NOW) is None

    def test_replaced_chunk_stops_a_completion_of_what_was_before(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = _begin(catalog, _task(ann))
        catalog.record_chunk(task.id, _chunk(0, "a"), NOW, NOW + WEEK)
        catalog.record_chunk(task.id, _chunk(0, "b"), NOW, NOW + WEEK)
        blob, file = _outcome(task, ann)
        with pytest.raises(TaskClosed, match="complete it again"):
            catalog.complete(task.id, 0, blob, file)
        assert catalog.files(ann.id, NOW, 0, 10).total == 0
        assert catalog.complete(task.id, 1, blob, file) == file

    def test_cancelled_task_cannot_be_completed(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _task(ann))
        catalog.cancel(ann.id, task.id, NOW)
        with pytest.raises(TaskClosed, match="cancelled"):
            _complete(catalog, task, ann)
        assert catalog.files(ann.id, NOW, 0, 10).items == []

    def test_file_deleted_since_is_told(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _task(ann))
        file = _complete(catalog, task, ann)
        catalog.delete_file(file.id, ann.id, NOW)
        with pytest.raises(TaskClosed, match="deleted"):
            _complete(catalog, task, ann)

    def test_threads_completing_one_task_all_get_the_same_file(
        self, catalog: Catalog, ann: Account
    ) -> None:
        for _ in range(10):
            task = _begin(catalog, _task(ann))
            files = _at_once(*[partial(_complete, catalog, task, ann)] * THREADS)
            assert len({f.id for f in files}) == 1
        assert catalog.files(ann.id, NOW, 0, 0).total == 10

    def test_cancel_and_complete_racing_have_one_winner(
        self, catalog: Catalog, ann: Account
    ) -> None:
        for _ in range(20):
            task = _begin(catalog, _task(ann))
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
        task = _begin(catalog, _task(ann))
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
        task = _begin(catalog, _task(ann))
        done = _begin(catalog, _task(ann))
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
        overdue = [_begin(catalog, _task(ann, expires_at=NOW)) for _ in range(25)]
        for task in overdue:
            catalog.record_chunk(task.id, _chunk(0), NOW - HOUR, NOW)
        alive = _begin(catalog, _task(ann, expires_at=NOW + TICK))
        done = _begin(catalog, _task(ann, expires_at=NOW))
        _complete(catalog, done, ann)
        assert catalog.expire_tasks(NOW) == 25
        assert catalog.expire_tasks(NOW) == 0
        assert {g.key for g in catalog.garbage(100)} == {t.layout.key for t in overdue}
        assert all(catalog.chunk_indexes(t.id) == [] for t in overdue)
        assert all(catalog.task(ann.id, t.id, NOW) is None for t in overdue)
        assert catalog.task(ann.id, alive.id, NOW) == alive

    def test_end_that_comes_closer_counts_at_once(self, catalog: Catalog, ann: Account) -> None:
        """By other options, or by a chunk after the server was told to wait less for one."""
        resumed, sent = (_begin(catalog, _task(ann, expires_at=NOW + WEEK)) for _ in range(2))
        assert catalog.change_task(replace(resumed, expired_at=NOW + TICK))
        catalog.record_chunk(sent.id, _chunk(0), NOW, NOW + TICK)
        later = NOW + TICK
        assert catalog.tasks(ann.id, TaskStatus.IN_PROGRESS, later, 0, 9).total == 0
        expired = catalog.tasks(ann.id, TaskStatus.EXPIRED, later, 0, 9)
        assert {task.id for task in expired.items} == {resumed.id, sent.id}
        assert expired.total == 2
        assert [catalog.task(ann.id, task.id, later) for task in (resumed, sent)] == [None, None]
        assert catalog.expire_tasks(later) == 2


class TestFiles:
    def test_file_comes_back_as_it_was(self, catalog: Catalog, ann: Account) -> None:
        blob = _blob(2**45, md5="1" * 32, sha1="2" * 40, sha256="3" * 64, sha512="4" * 128)
        file = _stored(
            catalog,
            ann,
            blob=blob,
            bundle_id=_bundle(catalog, ann),
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
        task = _begin(catalog, _task(ann))
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

    @pytest.mark.parametrize(
        ("order", "expected"),
        [
            (FileOrder.NEWEST, "4 3 2 1 0"),
            (FileOrder.OLDEST, "0 1 2 3 4"),
            (FileOrder.NAME, "1 0 3 2 4"),
            (FileOrder.NAME_REVERSED, "4 2 3 0 1"),
            (FileOrder.SMALLEST, "3 0 4 1 2"),
            (FileOrder.LARGEST, "2 1 4 0 3"),
        ],
    )
    def test_every_order_is_total_and_pages_lose_nothing(
        self, catalog: Catalog, ann: Account, order: FileOrder, expected: str
    ) -> None:
        """Equal names and sizes are in the order of their ids; case does not count."""
        names, sizes = ["B", "a", "Ä", "b", "E\u0301"], [5, 9, 10, 1, 5]
        for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
            id_, at = f"{number}", NOW + number * TICK
            _stored(catalog, ann, id=id_, name=name, at=at, blob=_blob(size))
        _stored(catalog, _account(catalog, "bob"), name="of somebody else")
        query = FileQuery(order=order)
        pages = [catalog.files(ann.id, NOW, start, 2, query) for start in (0, 2, 4)]
        assert " ".join(f.id for page in pages for f in page.items) == expected
        assert {page.total for page in pages} == {5}

    @pytest.mark.parametrize(
        ("search", "found"),
        [
            ("FILM", {"Film.mkv", "my film"}),
            ("", {*NAMES}),
            ("ÜBER", {"über uns", "u\u0308ber den Wolken"}),
            ("straße", {"STRASSE", "Straße 7"}),
            ("ΣΊΣΥΦΟΣ", {"Σίσυφος"}),
            ("10%", {"10% off"}),
            ("%", {"10% off"}),
            ("_", {"a_b"}),
            ("/", set()),
            ("\\", {"a\\b"}),
            ("file", {"\ufb01le"}),
            ("写真", {"写真.jpg"}),
            ("a\0b", set()),
            ("d\0f", {"d\0f"}),
            ("x" * 300, set()),
            ("\ufdfa" * 255, set()),
            ("' OR 1=1 --", set()),
        ],
    )
    def test_search_is_for_what_people_read(
        self, catalog: Catalog, ann: Account, search: str, found: set[str]
    ) -> None:
        for name in NAMES:
            _stored(catalog, ann, name=name)
        page = catalog.files(ann.id, NOW, 0, 100, FileQuery(search))
        assert {file.name for file in page.items} == found
        assert page.total == len(found)

    def test_a_file_is_found_by_its_name_of_now(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann, name="Before")
        catalog.update_file(file.id, ann.id, NOW, lambda f: replace(f, name="After"))
        assert catalog.files(ann.id, NOW, 0, 9, FileQuery("before")).total == 0
        (found,) = catalog.files(ann.id, NOW, 0, 9, FileQuery("after")).items
        assert found.name == "After"
        assert catalog.files(ann.id, NOW, 0, 9, FileQuery("after"), recycled=True).total == 0
        assert catalog.recycle_file(file.id, ann.id, NOW)
        assert catalog.files(ann.id, NOW, 0, 9, FileQuery("after")).total == 0
        assert catalog.files(ann.id, NOW, 0, 9, FileQuery("after"), recycled=True).total == 1

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_expire_handles_more_than_one_batch(self, catalog: Catalog, ann: Account) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda _: _stored(catalog, ann, expired_at=NOW), range(1100)))
        assert catalog.expire_files(NOW) == 1100
        assert len(catalog.garbage(5000)) == 1100


class TestSweeper:
    def test_garbage_is_oldest_first_and_bounded(self, catalog: Catalog, ann: Account) -> None:
        tasks = [_begin(catalog, _task(ann)) for _ in range(4)]
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
        running = _begin(catalog, _task(ann, expires_at=NOW)).layout.key
        cancelled = _begin(catalog, _task(ann))
        catalog.cancel(ann.id, cancelled.id, NOW)
        file = _stored(catalog, ann)
        named = [running, cancelled.layout.key, file.blob.key]
        others = [uuid.uuid4().hex for _ in range(1200)]
        assert catalog.unknown_keys(POOL, [*others, *named]) == set(others)
        assert catalog.unknown_keys("another pool", named) == set(named)
        assert catalog.unknown_keys(POOL, []) == set()
        catalog.forget_garbage([Garbage(POOL, cancelled.layout.key)])
        assert catalog.unknown_keys(POOL, named) == {cancelled.layout.key}

    @pytest.mark.slow
    def test_i2_key_on_its_way_from_task_to_file_to_garbage_is_never_unknown(
        self, catalog: Catalog, ann: Account
    ) -> None:
        moving = [_begin(catalog, _task(ann)) for _ in range(150)]
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


class TestRekey:
    def test_bytes_under_the_old_key_become_garbage(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)
        assert catalog.rekey_blob(file.blob.id, "fresh", NOW)
        seen = catalog.file(file.id, NOW, ann.id)
        assert seen == replace(file, blob=replace(file.blob, key="fresh"))
        assert catalog.garbage(10) == [Garbage(POOL, file.blob.key)]
        assert catalog.unknown_keys(POOL, ["fresh"]) == set()

    def test_same_key_again_is_no_garbage(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)
        assert catalog.rekey_blob(file.blob.id, file.blob.key, NOW)
        assert catalog.garbage(10) == []

    def test_blob_that_is_gone_takes_no_key(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)
        catalog.delete_file(file.id, ann.id, NOW)
        assert not catalog.rekey_blob(file.blob.id, "fresh", NOW)
        assert catalog.unknown_keys(POOL, ["fresh"]) == {"fresh"}


class TestSealedUploads:
    def test_seal_comes_back_as_it_was(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _sealed(ann))
        assert catalog.task(ann.id, task.id, NOW) == task
        assert catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK).seal == task.seal
        assert list(catalog.open_tasks())[0].seal == task.seal  # noqa: RUF015 - of all of them

    def test_same_content_under_another_password_is_another_upload(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = _begin(catalog, _sealed(ann))
        assert first.seal is not None
        other = replace(_again(first), seal=replace(first.seal, check="another"))
        assert _begin(catalog, other).id == other.id
        plain = replace(_again(first), seal=None)
        assert _begin(catalog, plain).id == plain.id
        again = replace(_again(first), seal=replace(first.seal, head=b"h", wrapped_key=b"k"))
        assert _begin(catalog, again).seal == first.seal

    @pytest.mark.parametrize("end", ["complete", "cancel", "expire", "give way"])
    def test_i9_of_a_seal_nothing_is_kept(self, sql: SqlCatalog, end: str) -> None:
        ann = _account(sql, "ann")
        task = _begin(sql, _sealed(ann))
        sql.intend_chunk(task.id, 0, "f0")
        late = task.expires_at
        if end == "complete":
            _complete(sql, task, ann)
        elif end == "cancel":
            sql.cancel(ann.id, task.id, NOW)
        elif end == "expire":
            assert sql.expire_tasks(late) == 1
        else:
            _begin(sql, _again(task, created_at=late, expires_at=late + WEEK))
        names = ("identity", "seal_head", "seal_key", "seal_check")
        query = sa.select(*(schema.tasks.c[n] for n in names)).where(schema.tasks.c.id == task.id)
        assert sql._db.read(lambda conn: tuple(conn.execute(query).one())) == (None,) * 4
        assert sql.fingerprints(task.id) == []
        listed = sql.tasks(ann.id, None, NOW, 0, 10).items
        assert [t.seal for t in listed if t.id == task.id] == [None]

    def test_first_intent_for_a_chunk_stands(self, catalog: Catalog, ann: Account) -> None:
        task, other = _begin(catalog, _sealed(ann)), _begin(catalog, _sealed(ann))
        assert catalog.intend_chunk(task.id, 11, "k") == "k"
        assert catalog.intend_chunk(task.id, 2, "a") == "a"
        assert catalog.intend_chunk(task.id, 2, "b") == "a"
        assert catalog.intend_chunk(other.id, 2, "b") == "b"
        catalog.record_chunk(task.id, _chunk(2), NOW, NOW + WEEK)
        assert catalog.forget_chunk(task.id, _chunk(2), NOW)
        assert catalog.intend_chunk(task.id, 2, "c") == "a"
        assert catalog.fingerprints(task.id) == ["a", "k"]
        assert catalog.fingerprints("unknown") == []

    @pytest.mark.parametrize("end", ["cancel", "complete"])
    def test_closed_upload_takes_no_intent(self, catalog: Catalog, ann: Account, end: str) -> None:
        task = _begin(catalog, _sealed(ann))
        if end == "cancel":
            catalog.cancel(ann.id, task.id, NOW)
        else:
            _complete(catalog, task, ann)
        for task_id in (task.id, "unknown"):
            with pytest.raises(TaskClosed):
                catalog.intend_chunk(task_id, 0, "f")
            assert catalog.fingerprints(task_id) == []

    def test_threads_racing_for_one_intent_agree(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _sealed(ann))
        for index in range(10):
            calls = [partial(catalog.intend_chunk, task.id, index, f"f{n}") for n in range(THREADS)]
            assert len(set(_at_once(*calls))) == 1

    def test_encrypted_blob_comes_back_as_it_was_and_is_nobody_s_duplicate(
        self, catalog: Catalog, ann: Account
    ) -> None:
        blob = replace(_blob(5, md5="a"), sealed=Sealed(200, CHUNK, "c" * 32))
        file = _stored(catalog, ann, blob=blob)
        assert catalog.file(file.id, NOW, ann.id) == file
        assert file.encrypted
        assert catalog.duplicates(ann.id, Digest("md5", "a"), 5, NOW) == []


class TestPools:
    def test_default_pool_is_there_from_the_start(self, catalog: Catalog) -> None:
        (pool,) = catalog.pools()
        assert (pool.id, pool.name) == (POOL, "default")
        assert pool.policy == Policy(public_usable=True)
        assert catalog.pool(POOL) == pool
        assert catalog.pool(OTHER) is None

    def test_pool_comes_back_as_it_was(self, catalog: Catalog, ann: Account) -> None:
        policy = Policy(
            max_file_size=2**50,
            accept_types=("image/*", "text/plain"),
            allow_encryption=False,
            allow_anonymous=True,
            no_metadata=True,
            no_optimization=True,
            enable_recycle=True,
            quota=0,
            file_expiry=timedelta(days=30, seconds=7),
        )
        pool = _pool("ünï", policy=policy, account_id=ann.id, path="/srv/ü b")
        catalog.add_pool(pool)
        assert catalog.pool(OTHER) == pool
        assert catalog.pools()[0] == pool  # older than the default one

    @pytest.mark.parametrize("changes", [{"pool_id": "p3"}, {"name": "another"}])
    def test_taken_name_or_id_is_refused(self, catalog: Catalog, changes: dict[str, str]) -> None:
        first = _pool()
        catalog.add_pool(first)
        with pytest.raises(PoolExists, match="choose another"):
            catalog.add_pool(_pool(**changes))
        assert len(catalog.pools()) == 2
        assert catalog.pool(OTHER) == first

    def test_update_changes_name_and_policy_only(self, catalog: Catalog) -> None:
        pool = _pool(path="/p")
        catalog.add_pool(pool)
        wanted = replace(pool, name="new", policy=Policy(quota=5, accept_types=("a/b",)))
        smuggled = replace(wanted, id="x", path="/x", created_at=NOW + HOUR)
        changed = catalog.update_pool(OTHER, NOW + TICK, lambda _: smuggled)
        assert changed == replace(wanted, updated_at=NOW + TICK)
        assert catalog.pool(OTHER) == changed
        assert catalog.update_pool("unknown", NOW, lambda pool: pool) is None

    def test_update_to_a_taken_name_changes_nothing(self, catalog: Catalog) -> None:
        pool = _pool()
        catalog.add_pool(pool)
        with pytest.raises(PoolExists, match="'default'"):
            catalog.update_pool(
                OTHER, NOW, lambda p: replace(p, name="default", policy=Policy(quota=1))
            )
        assert catalog.pool(OTHER) == pool
        same = catalog.update_pool(OTHER, NOW, lambda p: p)
        assert same == pool

    def test_one_of_many_racing_for_a_name_gets_it(self, catalog: Catalog) -> None:
        def take(number: int) -> bool:
            try:
                catalog.add_pool(_pool(pool_id=str(number)))
            except PoolExists:
                return False
            return True

        assert sum(_at_once(*[partial(take, n) for n in range(THREADS)])) == 1

    @pytest.mark.parametrize("size", [0, 400])
    @pytest.mark.parametrize("holds", ["task", "file", "recycled", "blob", "file only"])
    def test_pool_is_deleted_when_nothing_is_in_it(
        self, catalog: Catalog, ann: Account, holds: str, size: int
    ) -> None:
        catalog.add_pool(_pool())
        blob = replace(_blob(size), pool_id=POOL if holds == "file only" else OTHER)
        if holds == "task":
            task = _begin(catalog, _task(ann, pool_id=OTHER, layout=Layout("k", size, CHUNK)))
        else:
            there = POOL if holds == "blob" else OTHER
            file = _stored(catalog, ann, blob=blob, pool_id=there)
        if holds == "recycled":
            catalog.recycle_file(file.id, ann.id, NOW)
        with pytest.raises(PoolInUse, match="'other'"):
            catalog.delete_pool(OTHER)
        assert catalog.pool(OTHER) is not None
        if holds == "task":
            catalog.cancel(ann.id, task.id, NOW)
        else:
            catalog.delete_file(file.id, ann.id, NOW)
        assert catalog.delete_pool(OTHER)
        assert not catalog.delete_pool(OTHER)
        assert catalog.pool(OTHER) is None
        assert dict(catalog.usage(ann.id)) == {}


@pytest.mark.parametrize("what", ["task", "file", "shared", "moved"])
def test_nothing_enters_a_pool_that_was_removed(catalog: Catalog, ann: Account, what: str) -> None:
    there = _stored(catalog, ann)
    blob = replace(_blob(), pool_id=OTHER)
    file = _file(ann, blob, pool_id=OTHER)
    held = catalog.usage(ann.id)
    enter: dict[str, Callable[[], Any]] = {
        "task": lambda: _begin(catalog, _task(ann, pool_id=OTHER)),
        "file": lambda: catalog.add_file(blob, file, FREE),
        "shared": lambda: catalog.share_blob(_file(ann, there.blob, pool_id=OTHER)),
        "moved": lambda: catalog.move_file(there.id, ann.id, blob, NOW, FREE),
    }
    with pytest.raises(PoolNotFound):
        enter[what]()
    assert catalog.files(ann.id, NOW, 0, 10).items == [there]
    assert catalog.usage(ann.id) == held
    catalog.add_pool(_pool())
    enter[what]()


class TestUsage:
    def test_nothing_is_held_at_first(self, catalog: Catalog, ann: Account) -> None:
        assert catalog.usage(ann.id) == {}
        assert catalog.pool_usage(POOL) == Usage()

    @pytest.mark.parametrize("end", ["cancel", "complete", "forget"])
    def test_chunks_sent_again_are_reserved_beside_the_upload(
        self, catalog: Catalog, ann: Account, end: str
    ) -> None:
        task = _begin(catalog, _task(ann))
        size = task.layout.size
        room = Allowance(account=size + 150)
        for index in range(4):
            catalog.record_chunk(task.id, _chunk(index), NOW, NOW + WEEK, Allowance(account=0))
        for name in ("0.a", "0.b", "0.b"):  # one at a time
            catalog.record_chunk(task.id, _chunk(0, "x" + name, staged=name), NOW, NOW + WEEK, room)
            assert catalog.usage(ann.id) == {POOL: Usage(0, size + CHUNK, 0)}
        before = (catalog.task(ann.id, task.id, NOW), catalog.chunk(task.id, 1))
        for tight in (room, Allowance(pool=size + CHUNK)):
            with pytest.raises(QuotaExceeded):
                catalog.record_chunk(
                    task.id, _chunk(1, "y", staged="1.a"), NOW + HOUR, NOW + WEEK, tight
                )
        assert (catalog.task(ann.id, task.id, NOW), catalog.chunk(task.id, 1)) == before
        if end == "complete":
            assert before[0] is not None
            catalog.complete(task.id, before[0].revision, *_outcome(task, ann))
            assert catalog.usage(ann.id) == {POOL: Usage(size, 0, 1)}
        elif end == "cancel":
            assert catalog.cancel(ann.id, task.id, NOW)
            assert catalog.usage(ann.id) == {}
        else:
            chunk = catalog.chunk(task.id, 0)
            assert chunk is not None
            assert catalog.forget_chunk(task.id, chunk, NOW)
            assert catalog.usage(ann.id) == {POOL: Usage(0, size, 0)}
        assert catalog.repair_usage() == 0

    def test_upload_is_reserved_then_stored_then_gone(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _task(ann))
        assert catalog.usage(ann.id) == {POOL: Usage(0, 400, 0)}
        _begin(catalog, _again(task))  # is the same one
        assert catalog.usage(ann.id) == {POOL: Usage(0, 400, 0)}
        file = _complete(catalog, task, ann)
        _complete(catalog, task, ann)
        assert catalog.usage(ann.id) == {POOL: Usage(400, 0, 1)}
        catalog.delete_file(file.id, ann.id, NOW)
        catalog.delete_file(file.id, ann.id, NOW)
        assert catalog.usage(ann.id) == {}

    @pytest.mark.parametrize("end", ["cancel", "expire", "give way"])
    def test_closed_upload_holds_nothing(self, catalog: Catalog, ann: Account, end: str) -> None:
        task = _begin(catalog, _task(ann))
        late = task.expires_at
        if end == "cancel":
            catalog.cancel(ann.id, task.id, NOW)
            catalog.cancel(ann.id, task.id, NOW)
        elif end == "expire":
            catalog.expire_tasks(late)
            catalog.expire_tasks(late)
        else:
            smaller = _begin(catalog, _again(task, created_at=late, expires_at=late + WEEK))
            assert catalog.usage(ann.id) == {POOL: Usage(0, 400, 0)}
            catalog.cancel(ann.id, smaller.id, late)
        assert catalog.usage(ann.id) == {}

    def test_shared_bytes_count_once_where_they_lie_and_files_where_they_are(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        catalog.add_pool(_pool())
        first = _stored(catalog, ann, blob=_blob(1))
        catalog.share_blob(_file(ann, first.blob))
        there = _file(ann, first.blob, pool_id=OTHER)
        catalog.share_blob(there)
        fading = _stored(catalog, ann, blob=_blob(10), expired_at=NOW + HOUR)
        _stored(catalog, bob, blob=_blob(100))
        _begin(catalog, _task(ann, pool_id=OTHER, layout=Layout("k", 1000, CHUNK)))
        assert catalog.usage(ann.id) == {POOL: Usage(11, 0, 3), OTHER: Usage(0, 1000, 1)}
        assert catalog.usage(bob.id) == {POOL: Usage(100, 0, 1)}
        assert catalog.pool_usage(POOL) == Usage(111, 0, 4)
        assert catalog.pool_usage(OTHER) == Usage(0, 1000, 1)
        assert catalog.pool_usage("unknown") == Usage()
        catalog.recycle_file(there.id, ann.id, NOW)  # is held as before
        assert catalog.pool_usage(OTHER) == Usage(0, 1000, 1)
        catalog.expire_files(NOW + HOUR)
        assert catalog.file(fading.id, NOW, ann.id) is None
        assert catalog.usage(ann.id)[POOL] == Usage(1, 0, 2)

    def test_repair_mends_every_figure_that_is_wrong(self, sql: SqlCatalog) -> None:
        ann, bob = _account(sql, "ann"), _account(sql, "bob")
        sql.add_pool(_pool())
        _stored(sql, ann, blob=_blob(7))
        _stored(sql, bob, blob=replace(_blob(8), pool_id=OTHER))
        _begin(sql, _task(ann))
        right = {a.id: dict(sql.usage(a.id)) for a in (ann, bob)}
        assert sql.repair_usage() == 0

        def spoil(conn: Connection) -> None:
            usage = schema.usage
            conn.execute(sa.delete(usage).where(usage.c.account_id == bob.id))
            conn.execute(sa.update(usage).values(stored_bytes=-5, reserved_bytes=2**60))
            made_up = {"account_id": "who", "pool_id": POOL, "files": 1}
            conn.execute(sa.insert(usage), made_up | {"stored_bytes": 1, "reserved_bytes": 0})

        sql._db.write(spoil)
        assert sql.repair_usage() == 6  # two of each account's, and two of nobody's
        assert {a.id: dict(sql.usage(a.id)) for a in (ann, bob)} == right
        assert sql.usage("who") == {}
        assert sql.repair_usage() == 0


class TestQuota:
    def test_upload_that_does_not_fit_is_refused_with_the_figures(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        catalog.add_pool(_pool())
        _stored(catalog, ann, blob=replace(_blob(300), pool_id=OTHER), pool_id=OTHER)
        _stored(catalog, bob, blob=_blob(200))
        task = _task(ann)
        for allowance, scope, quota, used in [
            (Allowance(account=699), "account", 699, 300),
            (Allowance(pool=599, tells_pool=True), "pool", 599, 200),
            (Allowance(pool=599, account=699), "pool", 599, None),
            (Allowance(pool=0), "pool", 0, None),
        ]:
            with pytest.raises(QuotaExceeded, match="Delete files") as caught:
                _begin(catalog, task, allowance)
            expected = {"scope": scope, "quota": quota, "used": used, "needed": 400}
            assert caught.value.meta == expected
        assert catalog.tasks(ann.id, None, NOW, 0, 10).total == 0
        assert catalog.usage(ann.id) == {OTHER: Usage(300, 0, 1)}
        assert _begin(catalog, task, Allowance(600, 700)) == task

    def test_upload_that_has_its_room_is_found_whatever_the_quota(
        self, catalog: Catalog, ann: Account
    ) -> None:
        task = _begin(catalog, _task(ann))
        assert _begin(catalog, _again(task), Allowance(0, 0)).id == task.id
        assert _complete(catalog, task, ann).size == 400

    def test_refused_newcomer_leaves_the_expired_one_as_it_was(
        self, catalog: Catalog, ann: Account
    ) -> None:
        old = _begin(catalog, _task(ann))
        new = _again(old, created_at=old.expires_at, expires_at=old.expires_at + WEEK)
        with pytest.raises(QuotaExceeded):
            _begin(catalog, new, Allowance(account=399))
        assert catalog.usage(ann.id) == {POOL: Usage(0, 400, 0)}
        assert catalog.garbage(10) == []
        assert _begin(catalog, new, Allowance(account=400)) == new  # its own room is free then
        assert catalog.usage(ann.id) == {POOL: Usage(0, 400, 0)}

    def test_file_stored_in_one_go_needs_room_too(self, catalog: Catalog, ann: Account) -> None:
        file = _file(ann, _blob(10))
        for allowance in (Allowance(pool=9), Allowance(account=9)):
            with pytest.raises(QuotaExceeded):
                catalog.add_file(file.blob, file, allowance)
        assert catalog.usage(ann.id) == {}
        assert _noted(catalog, ann) == []
        catalog.add_file(file.blob, file, Allowance(10, 10))
        assert catalog.share_blob(_file(ann, file.blob))  # needs none

    def test_of_many_files_each_is_recorded_or_refused_for_itself(
        self, catalog: Catalog, ann: Account
    ) -> None:
        files = [_file(ann, _blob(10)) for _ in range(200)]
        gone = replace(files[7].blob, pool_id=uuid.uuid4().hex)
        files[7] = replace(files[7], blob=gone, pool_id=gone.pool_id)
        room = Allowance(account=150 * 10)
        refused = catalog.add_files([NewFile(file.blob, file, room) for file in files])
        assert isinstance(refused[7], PoolNotFound)
        kept = [file for file, why in zip(files, refused, strict=True) if why is None]
        assert len(kept) == 150
        assert {type(why) for why in refused[152:]} == {QuotaExceeded}
        assert catalog.usage(ann.id) == {POOL: Usage(1500, 0, 150)}
        assert [each for _, each in _noted(catalog, ann)] == [file.id for file in kept]
        found = {file.id for file in catalog.files(ann.id, NOW, 0, 1000).items}
        assert found == {file.id for file in kept}
        assert catalog.add_files([]) == []

    @pytest.mark.parametrize("allowance", [Allowance(pool=1050), Allowance(account=1050)])
    def test_last_bytes_of_a_quota_are_given_once(
        self, catalog: Catalog, ann: Account, allowance: Allowance
    ) -> None:
        def take(number: int) -> bool:
            try:
                if number % 2:
                    _begin(catalog, _task(ann, count=1), allowance)
                else:
                    file = _file(ann, _blob(CHUNK))
                    catalog.add_file(file.blob, file, allowance)
            except QuotaExceeded:
                return False
            return True

        def take_some(first: int) -> int:
            return sum(take(first + n) for n in range(5))

        assert sum(_at_once(*[partial(take_some, n) for n in range(THREADS)])) == 10
        assert catalog.pool_usage(POOL).total == 1000


class TestRecycleBin:
    def test_recycled_file_is_found_in_the_bin_only(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _task(ann))
        file, other = _complete(catalog, task, ann), _stored(catalog, ann, at=NOW - HOUR)
        assert catalog.recycle_file(file.id, ann.id, NOW + TICK)
        binned = replace(file, recycled_at=NOW + TICK, updated_at=NOW + TICK)
        for account_id in (ann.id, None):
            assert catalog.file(file.id, NOW, account_id) is None
            assert catalog.file(other.id, NOW, account_id) == other
        assert catalog.file_of_task(ann.id, task.id, NOW) is None
        assert catalog.duplicates(ann.id, file.digest, file.size, NOW) == []
        assert catalog.update_file(file.id, ann.id, NOW, lambda f: f) is None
        assert not catalog.recycle_file(file.id, ann.id, NOW)
        assert catalog.files(ann.id, NOW, 0, 10).items == [other]
        page = catalog.files(ann.id, NOW, 0, 10, recycled=True)
        assert (page.items, page.total) == ([binned], 1)
        assert catalog.files_of_blob(file.blob.id) == [binned]
        assert catalog.garbage(10) == []

    def test_restored_file_is_back(self, catalog: Catalog, ann: Account, bob: Account) -> None:
        file = _stored(catalog, ann)
        assert catalog.restore_file(file.id, ann.id, NOW) is None
        catalog.recycle_file(file.id, ann.id, NOW)
        assert catalog.restore_file(file.id, bob.id, NOW) is None
        back = catalog.restore_file(file.id, ann.id, NOW + HOUR)
        assert back == replace(file, updated_at=NOW + HOUR)
        assert catalog.file(file.id, NOW, ann.id) == back
        assert catalog.files(ann.id, NOW, 0, 10, recycled=True).total == 0

    def test_only_one_s_own_is_recycled(self, catalog: Catalog, ann: Account, bob: Account) -> None:
        file = _stored(catalog, ann, expired_at=NOW + HOUR)
        assert not catalog.recycle_file(file.id, bob.id, NOW)
        assert not catalog.recycle_file("unknown", ann.id, NOW)
        assert not catalog.recycle_file(file.id, ann.id, NOW + HOUR)
        assert catalog.file(file.id, NOW, ann.id) == file

    def test_i8_recycled_file_can_be_deleted(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        file = _stored(catalog, ann)
        catalog.recycle_file(file.id, ann.id, NOW)
        assert not catalog.delete_file(file.id, bob.id, NOW)
        assert catalog.delete_file(file.id, ann.id, NOW)
        assert catalog.restore_file(file.id, ann.id, NOW) is None
        assert catalog.garbage(10) == [Garbage(POOL, file.blob.key)]

    def test_i8_file_in_the_bin_keeps_its_bytes(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)
        sharer = _file(ann, file.blob)
        catalog.share_blob(sharer)
        catalog.recycle_file(sharer.id, ann.id, NOW)
        catalog.delete_file(file.id, ann.id, NOW)
        assert catalog.garbage(10) == []
        assert catalog.share_blob(_file(ann, file.blob))
        assert catalog.restore_file(sharer.id, ann.id, NOW) is not None

    def test_expiry_goes_on_in_the_bin(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann, expired_at=NOW + HOUR)
        catalog.recycle_file(file.id, ann.id, NOW)
        assert catalog.restore_file(file.id, ann.id, NOW + HOUR) is None
        assert catalog.files(ann.id, NOW + HOUR, 0, 10, recycled=True).total == 0
        assert catalog.expire_files(NOW + HOUR) == 1
        assert catalog.purge_recycled(NOW + WEEK) == 0
        assert catalog.garbage(10) == [Garbage(POOL, file.blob.key)]
        assert _noted(catalog, ann)[-1] == (EventType.FILE_EXPIRED, file.id)

    def test_purge_deletes_what_was_put_there_before(self, catalog: Catalog, ann: Account) -> None:
        files = [_stored(catalog, ann) for _ in range(4)]
        for hours, file in enumerate(files[:3]):
            catalog.recycle_file(file.id, ann.id, NOW + hours * HOUR)
        catalog.restore_file(files[0].id, ann.id, NOW)
        assert catalog.purge_recycled(NOW + 2 * HOUR) == 1
        assert catalog.purge_recycled(NOW + 2 * HOUR) == 0
        assert catalog.garbage(10) == [Garbage(POOL, files[1].blob.key)]
        assert {f.id for f in catalog.files(ann.id, NOW, 0, 9).items} == {files[0].id, files[3].id}
        assert catalog.files(ann.id, NOW, 0, 10, recycled=True).total == 1
        last = catalog.events(ann.id, 0, 100)[-1]
        assert (last.type, last.data["id"]) == (EventType.FILE_DELETED, files[1].id)
        # When it was deleted, not when it was recycled: else it is forgotten at once.
        assert datetime.now(UTC) - last.at < HOUR

    def test_purge_and_restore_racing_have_one_winner(self, catalog: Catalog, ann: Account) -> None:
        for _ in range(30):
            file = _stored(catalog, ann)
            catalog.recycle_file(file.id, ann.id, NOW)
            calls: list[Callable[[], Any]] = [
                partial(catalog.restore_file, file.id, ann.id, NOW),
                partial(catalog.purge_recycled, NOW + TICK),
            ]
            restored, purged = _at_once(*calls)
            assert (restored is None) == bool(purged)
            assert (Garbage(POOL, file.blob.key) in catalog.garbage(1000)) == bool(purged)


class TestMove:
    @pytest.fixture(autouse=True)
    def _other_pool(self, catalog: Catalog) -> None:
        catalog.add_pool(_pool())

    @staticmethod
    def _copy(file: CloudFile, pool_id: str = OTHER) -> Blob:
        return replace(file.blob, id=uuid.uuid4().hex, pool_id=pool_id, key=uuid.uuid4().hex)

    def test_moved_file_has_its_bytes_in_the_other_pool(
        self, catalog: Catalog, ann: Account
    ) -> None:
        blob = replace(_blob(7), facts={"a": [1]}, thumbnail_key="t", sealed=Sealed(1, 2, "c"))
        file = _stored(catalog, ann, blob=blob, user_meta={"k": "v"})
        new = replace(self._copy(file), thumbnail_key="t2")
        moved = catalog.move_file(file.id, ann.id, new, NOW + TICK, FREE)
        assert moved == replace(file, blob=new, pool_id=OTHER, updated_at=NOW + TICK)
        assert catalog.file(file.id, NOW, ann.id) == moved
        assert set(catalog.garbage(10)) == {Garbage(POOL, blob.key), Garbage(POOL, "t")}
        assert catalog.usage(ann.id) == {OTHER: Usage(7, 0, 1)}
        assert _noted(catalog, ann)[-1] == (EventType.FILE_UPDATED, file.id)

    def test_i8_shared_bytes_stay_for_the_others(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann, blob=_blob(7))
        sharer = _file(ann, file.blob)
        catalog.share_blob(sharer)
        catalog.move_file(file.id, ann.id, self._copy(file), NOW, FREE)
        assert catalog.garbage(10) == []
        assert catalog.file(sharer.id, NOW, ann.id) == sharer
        assert catalog.usage(ann.id) == {POOL: Usage(7, 0, 1), OTHER: Usage(7, 0, 1)}
        catalog.move_file(sharer.id, ann.id, self._copy(sharer), NOW, FREE)
        assert catalog.garbage(10) == [Garbage(POOL, file.blob.key)]
        assert catalog.usage(ann.id) == {OTHER: Usage(14, 0, 2)}

    def test_file_whose_bytes_are_elsewhere_brings_them_over(
        self, catalog: Catalog, ann: Account
    ) -> None:
        first = _stored(catalog, ann, blob=_blob(7))
        there = _file(ann, first.blob, pool_id=OTHER)
        catalog.share_blob(there)
        new = self._copy(there)
        moved = catalog.move_file(there.id, ann.id, new, NOW, FREE)
        assert moved is not None
        assert moved.blob == new
        assert catalog.usage(ann.id) == {POOL: Usage(7, 0, 1), OTHER: Usage(7, 0, 1)}

    @pytest.mark.parametrize("why", ["gone", "there", "recycled", "expired", "stranger's"])
    def test_nothing_changes_when_there_is_nothing_to_move(
        self, catalog: Catalog, ann: Account, bob: Account, why: str
    ) -> None:
        file = _stored(catalog, ann, expired_at=NOW + HOUR)
        new = self._copy(file, POOL if why == "there" else OTHER)
        if why == "gone":
            catalog.delete_file(file.id, ann.id, NOW)
        if why == "recycled":
            catalog.recycle_file(file.id, ann.id, NOW)
        before = (catalog.usage(ann.id), catalog.garbage(10), _noted(catalog, ann))
        who = bob if why == "stranger's" else ann
        now = NOW + HOUR if why == "expired" else NOW
        assert catalog.move_file(file.id, who.id, new, now, FREE) is None
        assert (catalog.usage(ann.id), catalog.garbage(10), _noted(catalog, ann)) == before
        assert catalog.unknown_keys(new.pool_id, [new.key]) == {new.key}

    def test_quota_of_the_new_pool_counts_alone(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann, blob=_blob(7))
        with pytest.raises(QuotaExceeded) as caught:
            catalog.move_file(file.id, ann.id, self._copy(file), NOW, Allowance(pool=6))
        assert caught.value.meta == {"scope": "pool", "quota": 6, "used": None, "needed": 7}
        assert catalog.file(file.id, NOW, ann.id) == file
        assert catalog.usage(ann.id) == {POOL: Usage(7, 0, 1)}
        allowance = Allowance(pool=7, account=0)
        assert catalog.move_file(file.id, ann.id, self._copy(file), NOW, allowance) is not None

    def test_i8_move_racing_with_delete_leaves_no_bytes_without_a_row(
        self, catalog: Catalog, ann: Account
    ) -> None:
        for _ in range(30):
            file = _stored(catalog, ann)
            new = self._copy(file)
            calls: list[Callable[[], Any]] = [
                partial(catalog.move_file, file.id, ann.id, new, NOW, FREE),
                partial(catalog.delete_file, file.id, ann.id, NOW),
            ]
            moved, deleted = _at_once(*calls)
            assert deleted
            garbage = catalog.garbage(1000)
            assert Garbage(POOL, file.blob.key) in garbage
            assert (Garbage(OTHER, new.key) in garbage) is (moved is not None)
        assert catalog.usage(ann.id) == {}


class TestDescribing:
    def test_blob_is_described_once(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)
        sharer = _file(ann, file.blob)
        catalog.share_blob(sharer)
        facts = {"width": 3, "ü": [None, 1.5]}
        assert catalog.describe_blob(file.blob.id, facts, "t", None)
        assert not catalog.describe_blob(file.blob.id, {"other": 1}, "t2", "p2")
        assert not catalog.describe_blob("unknown", facts, "t3", "p3")
        described = replace(file.blob, facts=facts, thumbnail_key="t")
        for each in (file, sharer):
            assert catalog.file(each.id, NOW, ann.id) == replace(each, blob=described)
        assert catalog.unknown_keys(POOL, ["t", "t2", "p2", "t3", "p3"]) == {"t2", "p2", "t3", "p3"}

    def test_no_facts_are_a_description_too(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)
        assert catalog.describe_blob(file.blob.id, {}, None, None)
        assert not catalog.describe_blob(file.blob.id, {}, "t", None)

    def test_every_live_file_is_noted(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)
        far = datetime.now(UTC) + WEEK
        live = _file(ann, file.blob, expired_at=far)
        binned, over = _file(ann, file.blob), _file(ann, file.blob, expired_at=NOW - 9999 * WEEK)
        for each in (live, binned, over):
            catalog.share_blob(each)
        catalog.recycle_file(binned.id, ann.id, NOW)
        before = len(_noted(catalog, ann))
        catalog.describe_blob(file.blob.id, {}, None, None)
        updated = EventType.FILE_UPDATED
        assert set(_noted(catalog, ann)[before:]) == {(updated, file.id), (updated, live.id)}

    def test_i8_derived_bytes_go_with_the_last_file(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)
        sharer = _file(ann, file.blob, expired_at=NOW + HOUR)
        catalog.share_blob(sharer)
        catalog.describe_blob(file.blob.id, {}, "t", "p")
        catalog.delete_file(file.id, ann.id, NOW)
        assert catalog.garbage(10) == []
        catalog.expire_files(NOW + HOUR)
        keys = {file.blob.key, "t", "p"}
        assert {g.key for g in catalog.garbage(10)} == keys
        assert all(catalog.is_garbage(Garbage(POOL, key)) for key in keys)
        assert not catalog.is_garbage(Garbage(OTHER, "t"))
        catalog.forget_garbage([Garbage(POOL, "t")])
        assert not catalog.is_garbage(Garbage(POOL, "t"))
        assert catalog.unknown_keys(POOL, ["t", "p"]) == {"t"}

    def test_i2_describe_and_delete_racing_lose_no_derived_key(
        self, catalog: Catalog, ann: Account
    ) -> None:
        for number in range(30):
            file = _stored(catalog, ann)
            key = f"t{number}"
            described, deleted = _at_once(
                partial(catalog.describe_blob, file.blob.id, {}, key, None),
                partial(catalog.delete_file, file.id, ann.id, NOW),
            )
            assert deleted
            assert catalog.is_garbage(Garbage(POOL, key)) is described

    def test_crc32_is_kept(self, catalog: Catalog, ann: Account) -> None:
        file = _stored(catalog, ann)
        catalog.set_crc32(file.blob.id, 2**32 - 1)
        catalog.set_crc32("unknown", 1)
        assert [blob.crc32 for blob in catalog.blobs()] == [2**32 - 1]


class TestNoting:
    def test_every_change_is_noted_once(self, catalog: Catalog, ann: Account, bob: Account) -> None:
        task = _begin(catalog, _task(ann))
        _begin(catalog, _again(task))
        catalog.resume_task(_again(task))
        catalog.record_chunk(task.id, _chunk(0), NOW, NOW + WEEK)
        file = _complete(catalog, task, ann)
        _complete(catalog, task, ann)
        direct = _stored(catalog, ann)
        shared = _file(ann, direct.blob, expired_at=NOW + HOUR)
        catalog.share_blob(shared)
        catalog.update_file(file.id, ann.id, NOW, lambda f: replace(f, name="n"))
        catalog.recycle_file(file.id, ann.id, NOW)
        catalog.restore_file(file.id, ann.id, NOW)
        catalog.delete_file(file.id, ann.id, NOW)
        catalog.expire_files(NOW + HOUR)
        cancelled, expired = _begin(catalog, _task(ann)), _begin(catalog, _task(ann))
        catalog.cancel(ann.id, cancelled.id, NOW)
        catalog.expire_tasks(expired.expires_at)
        assert _noted(catalog, ann) == [
            (EventType.UPLOAD_CREATED, task.id),
            (EventType.FILE_CREATED, file.id),
            (EventType.FILE_CREATED, direct.id),
            (EventType.FILE_CREATED, shared.id),
            (EventType.FILE_UPDATED, file.id),
            (EventType.FILE_RECYCLED, file.id),
            (EventType.FILE_RESTORED, file.id),
            (EventType.FILE_DELETED, file.id),
            (EventType.FILE_EXPIRED, shared.id),
            (EventType.UPLOAD_CREATED, cancelled.id),
            (EventType.UPLOAD_CREATED, expired.id),
            (EventType.UPLOAD_CANCELLED, cancelled.id),
            (EventType.UPLOAD_EXPIRED, expired.id),
        ]
        assert _noted(catalog, bob) == []

    def test_events_tell_what_is_so_then(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _task(ann))
        catalog.cancel(ann.id, task.id, NOW)
        file = _stored(catalog, ann)
        catalog.update_file(file.id, ann.id, NOW, lambda f: replace(f, name="after"))
        created, cancelled, stored, updated = catalog.events(ann.id, 0, 10)
        assert (created.data["status"], cancelled.data["status"]) == ("in_progress", "cancelled")
        assert (stored.data["name"], updated.data["name"]) == (file.name, "after")

    def test_i9_no_event_tells_a_secret(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        task = _begin(sql, _sealed(ann))
        assert task.seal is not None
        _complete(sql, task, ann)
        told = repr(sql.events(ann.id, 0, 10)).encode()
        seal = task.seal
        for secret in (seal.head, seal.wrapped_key):
            assert secret.hex().encode() not in told
        assert seal.check.encode() not in told

    def test_what_fails_is_not_noted_and_starts_no_job(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        task, file = _begin(sql, _task(ann)), _stored(sql, ann)
        before = (_noted(sql, ann), dict(sql.usage(ann.id)), sql.garbage(10))
        job = NewJob(JobKind.PREVIEW, file.id)
        taken = replace(_blob(), key=file.blob.key)

        def refuse(_file: CloudFile) -> CloudFile:
            raise ValueError("no")

        with pytest.raises(IntegrityError):  # the blob's key is another's
            sql.complete(task.id, 0, taken, _file(ann, taken), [job])
        with pytest.raises(TaskClosed):
            sql.complete(task.id, 7, *_outcome(task, ann), [job])
        with pytest.raises(IntegrityError):
            sql.add_file(taken, _file(ann, taken), FREE, [job])
        with pytest.raises(IntegrityError):
            sql.share_blob(file)
        with pytest.raises(ValueError, match="no"):
            sql.update_file(file.id, ann.id, NOW, refuse)
        with pytest.raises(QuotaExceeded):
            _begin(sql, _task(ann), Allowance(account=1))
        assert (_noted(sql, ann), dict(sql.usage(ann.id)), sql.garbage(10)) == before
        assert sql.jobs(JobKind.PREVIEW, file.id, 0, 10).total == 0
        seen = sql.task(ann.id, task.id, NOW)
        assert seen == task

    def test_jobs_start_with_what_asks_for_them(self, catalog: Catalog, ann: Account) -> None:
        task = _begin(catalog, _task(ann))
        blob, file = _outcome(task, ann)
        job = NewJob(JobKind.PREVIEW, file.id, "a")
        catalog.complete(task.id, 0, blob, file, [job])
        catalog.complete(task.id, 0, blob, file, [job])  # earlier, so nothing is asked for
        other = _file(ann, _blob())
        catalog.add_file(other.blob, other, FREE, [job, NewJob(JobKind.PREVIEW, other.id)])
        found = catalog.jobs(JobKind.PREVIEW, file.id, 0, 10)
        assert [(j.argument, j.due_at) for j in found.items] == [("a", NOW)] * 2
        assert catalog.jobs(JobKind.PREVIEW, other.id, 0, 10).total == 1


class TestForgetTasks:
    def test_ended_tasks_are_forgotten_and_those_in_progress_never(
        self, catalog: Catalog, ann: Account
    ) -> None:
        done, cancelled, running, late = (_begin(catalog, _task(ann)) for _ in range(4))
        file = _complete(catalog, done, ann)
        catalog.cancel(ann.id, cancelled.id, NOW + HOUR)
        catalog.cancel(ann.id, late.id, NOW + 2 * HOUR)
        assert catalog.forget_tasks(NOW) == 0
        assert catalog.forget_tasks(NOW + TICK) == 1
        assert catalog.forget_tasks(NOW + 2 * HOUR) == 1
        left = {t.id for t in catalog.tasks(ann.id, None, NOW, 0, 10).items}
        assert left == {running.id, late.id}
        assert catalog.file(file.id, NOW, ann.id) == file
        assert catalog.file_of_task(ann.id, done.id, NOW) is None

    def test_it_goes_in_bounded_pieces(
        self, catalog: Catalog, ann: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.tasks.BATCH", 3)
        for _ in range(7):
            catalog.cancel(ann.id, _begin(catalog, _task(ann)).id, NOW)
        done = [catalog.forget_tasks(NOW + TICK) for _ in range(4)]
        assert done == [3, 3, 1, 0]


class TestBundleOfAFile:
    """A file never names a bundle that is gone, nor outlives the one it is in."""

    def test_upload_goes_on_when_its_bundle_is_deleted(
        self, catalog: Catalog, ann: Account
    ) -> None:
        bundle_id = _bundle(catalog, ann)
        task = _begin(catalog, _task(ann, bundle_id=bundle_id))
        blob, file = _outcome(task, ann)
        assert catalog.delete_bundle(bundle_id, ann.id, NOW)
        made = catalog.complete(task.id, 0, blob, replace(file, bundle_id=bundle_id))
        assert made == file
        assert catalog.file(file.id, NOW, ann.id) == file

    def test_expiry_is_cut_to_the_bundle_s(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        mine, theirs = _bundle(catalog, ann), _bundle(catalog, bob)
        catalog.update_bundle(mine, ann.id, NOW, lambda b: replace(b, expired_at=NOW + HOUR))
        first = _file(ann, _blob(), bundle_id=mine, expired_at=NOW + WEEK)
        catalog.add_file(first.blob, first, FREE)
        second = _file(ann, first.blob, bundle_id=mine)
        other = _file(ann, first.blob, bundle_id=theirs)
        assert catalog.share_blob(second)
        assert catalog.share_blob(other)
        seen = [catalog.file(f.id, NOW, ann.id) for f in (first, second, other)]
        assert [(f.bundle_id, f.expired_at) for f in seen if f] == [
            (mine, NOW + HOUR),
            (mine, NOW + HOUR),
            (None, None),
        ]


class Bookkeeping(RuleBasedStateMachine):
    """Any order of calls keeps the books straight: each key is named by exactly one of task,
    blob and garbage (I2, I8), each figure is what a count of the rows would give, and each
    change is noted once."""

    running: Bundle[UploadTask] = Bundle("running")
    kept: Bundle[CloudFile] = Bundle("kept")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"catalog-{uuid.uuid4().hex}"
        self.folder.mkdir()
        self.catalog = SqlCatalog.open(migrated(self.folder / "catalog.db"))
        self.now = NOW
        self.tasks: dict[str, UploadTask] = {}
        self.chunks: dict[str, dict[int, Chunk]] = {}
        self.files: dict[str, CloudFile] = {}
        self.garbage: set[Garbage] = set()
        self.noted: list[tuple[EventType, str]] = []

    def teardown(self) -> None:
        self.catalog.close()
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    @initialize()
    def account(self) -> None:
        self.ann = _account(self.catalog, "ann")
        self.catalog.add_pool(_pool())

    @rule(
        target=running,
        digest=st.integers(1, 3),
        life=st.integers(1, 4),
        pool=st.sampled_from([POOL, OTHER]),
        quota=st.none() | st.integers(0, 2000),
        scope=st.sampled_from(["pool", "account"]),
    )
    def create(self, digest: int, life: int, pool: str, quota: int | None, scope: str) -> Any:
        asked = _sealed(
            self.ann,
            at=self.now,
            digest=Digest("md5", str(digest)),
            pool_id=pool,
            seal=Seal(b"h", b"k", "c") if digest == 3 else None,
            expires_at=self.now + life * HOUR,
        )
        pools = Allowance(pool=quota, tells_pool=True)
        allowance = pools if scope == "pool" else Allowance(account=quota)
        held = next(
            (t for t in self.tasks.values() if t.identity() == asked.identity()),
            None,
        )
        if held is not None and held.expires_at > self.now:
            got = _begin(self.catalog, asked, allowance)
            assert got.id == held.id
            self.tasks[got.id] = got
            return multiple()
        used = self._used(pool if scope == "pool" else None)
        used -= self._reserved(held) if held else 0
        if quota is not None and used + asked.layout.size > quota:
            with pytest.raises(QuotaExceeded) as caught:
                _begin(self.catalog, asked, allowance)
            assert caught.value.meta is not None
            assert caught.value.meta["used"] == used
            return multiple()
        got = _begin(self.catalog, asked, allowance)
        if held is not None:
            self._close(held, EventType.UPLOAD_EXPIRED)
        assert got == asked
        self.tasks[got.id], self.chunks[got.id] = got, {}
        self.noted.append((EventType.UPLOAD_CREATED, got.id))
        return got

    @rule(
        task=running,
        index=st.integers(0, 3),
        etag=st.sampled_from("ab"),
        size=st.integers(1, 9),
        staged=st.sampled_from([None, "side"]),
    )
    def record(
        self, task: UploadTask, index: int, etag: str, size: int, staged: str | None
    ) -> None:
        chunk = _chunk(index, etag, size, staged)
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
            revision=before.revision
            + (held is not None and (held.etag, held.staged) != (etag, staged)),
            updated_at=self.now,
            expires_at=until,
        )
        assert got == self.tasks[task.id]

    @rule(target=kept, task=running, life=st.none() | st.integers(1, 4))
    def complete(self, task: UploadTask, life: int | None) -> Any:
        task = self.tasks.get(task.id, task)
        blob, file = _outcome(task, self.ann)
        blob = replace(blob, pool_id=task.pool_id)
        file = replace(file, blob=blob, pool_id=task.pool_id, expired_at=self._until(life))
        got = _or_error(lambda: self.catalog.complete(task.id, task.revision, blob, file))
        if task.id not in self.tasks:
            assert isinstance(got, TaskClosed) or got.id in self.files
            return multiple()
        assert got == file
        del self.tasks[task.id], self.chunks[task.id]
        return self._made(file)

    @rule(task=consumes(running))
    def cancel(self, task: UploadTask) -> None:
        held = self.tasks.get(task.id)
        alive = held is not None and held.expires_at > self.now
        assert self.catalog.cancel(self.ann.id, task.id, self.now) is alive
        if held is not None and alive:
            self._close(held, EventType.UPLOAD_CANCELLED)

    @rule(
        target=kept,
        file=kept,
        life=st.none() | st.integers(1, 4),
        pool=st.sampled_from([POOL, OTHER]),
    )
    def share(self, file: CloudFile, life: int | None, pool: str) -> Any:
        blob = self.files.get(file.id, file).blob
        sharing = [f.blob for f in self.files.values() if f.blob.id == blob.id]
        blob = sharing[0] if sharing else blob  # as it is now
        new = _file(self.ann, blob, expired_at=self._until(life), pool_id=pool)
        assert self.catalog.share_blob(new) is bool(sharing)
        return self._made(new) if sharing else multiple()

    @rule(file=kept)
    def delete(self, file: CloudFile) -> None:
        alive = file.id in self.files and self._live(self.files[file.id])
        assert self.catalog.delete_file(file.id, self.ann.id, self.now) is alive
        if alive:
            self._drop([file.id], EventType.FILE_DELETED)

    @rule(file=kept)
    def recycle(self, file: CloudFile) -> None:
        known = self._in_place(file)
        assert self.catalog.recycle_file(file.id, self.ann.id, self.now) is (known is not None)
        if known:
            self._change(known, EventType.FILE_RECYCLED, recycled_at=self.now)

    @rule(file=kept)
    def restore(self, file: CloudFile) -> None:
        known = self.files.get(file.id)
        got = self.catalog.restore_file(file.id, self.ann.id, self.now)
        if known is None or not self._live(known) or known.recycled_at is None:
            assert got is None
        else:
            assert got == self._change(known, EventType.FILE_RESTORED, recycled_at=None)

    @rule(hours=st.integers(0, 2))
    def purge(self, hours: int) -> None:
        before = self.now - hours * HOUR
        binned = [f for f in self.files.values() if f.recycled_at and f.recycled_at < before]
        assert self.catalog.purge_recycled(before) == len(binned)
        self._drop([f.id for f in binned], EventType.FILE_DELETED)

    @rule(
        file=kept,
        pool=st.sampled_from([POOL, OTHER]),
        quota=st.none() | st.integers(0, 2000),
    )
    def move(self, file: CloudFile, pool: str, quota: int | None) -> None:
        known = self._in_place(file)
        blob = replace(
            file.blob,
            id=uuid.uuid4().hex,
            pool_id=pool,
            key=uuid.uuid4().hex,
            thumbnail_key=file.blob.thumbnail_key and uuid.uuid4().hex,
            preview_key=file.blob.preview_key and uuid.uuid4().hex,
        )
        call = partial(
            self.catalog.move_file, file.id, self.ann.id, blob, self.now, Allowance(pool=quota)
        )
        if known is None or known.pool_id == known.blob.pool_id == pool:
            assert call() is None
        elif quota is not None and self._used(pool) + blob.size > quota:
            with pytest.raises(QuotaExceeded):
                call()
        else:
            got = call()
            changed = self._change(known, EventType.FILE_UPDATED, blob=blob, pool_id=pool)
            assert got == changed
            self._let_go([known])

    @rule(file=kept, thumbnail=st.booleans(), preview=st.booleans())
    def describe(self, file: CloudFile, thumbnail: bool, preview: bool) -> None:
        blob = self.files.get(file.id, file).blob
        keys = [uuid.uuid4().hex if wanted else None for wanted in (thumbnail, preview)]
        sharers = [f for f in self.files.values() if f.blob.id == blob.id]
        done = self.catalog.describe_blob(blob.id, {"n": 1}, *keys)
        assert done is bool(sharers and sharers[0].blob.facts is None)
        if not done:
            return
        described = replace(blob, facts={"n": 1}, thumbnail_key=keys[0], preview_key=keys[1])
        for each in sharers:
            self.files[each.id] = replace(each, blob=described)
            expired = each.expired_at is not None and each.expired_at <= datetime.now(UTC)
            if each.recycled_at is None and not expired:
                self.noted.append((EventType.FILE_UPDATED, each.id))

    @rule(file=kept)
    def rekey(self, file: CloudFile) -> None:
        blob, key = self.files.get(file.id, file).blob, uuid.uuid4().hex
        sharers = [f for f in self.files.values() if f.blob.id == blob.id]
        assert self.catalog.rekey_blob(blob.id, key, self.now) is bool(sharers)
        for each in sharers:
            self.files[each.id] = replace(each, blob=replace(each.blob, key=key))
            self.garbage.add(Garbage(blob.pool_id, each.blob.key))

    @rule(hours=st.integers(1, 3))
    def wait(self, hours: int) -> None:
        self.now += hours * HOUR

    @rule()
    def expire(self) -> None:
        overdue = [t for t in self.tasks.values() if t.expires_at <= self.now]
        assert self.catalog.expire_tasks(self.now) == len(overdue)
        for task in overdue:
            self._close(task, EventType.UPLOAD_EXPIRED)
        gone = [f.id for f in self.files.values() if not self._live(f)]
        assert self.catalog.expire_files(self.now) == len(gone)
        self._drop(gone, EventType.FILE_EXPIRED)

    @rule()
    def sweep(self) -> None:
        some = self.catalog.garbage(2)
        self.catalog.forget_garbage(some)
        self.garbage -= set(some)
        for item in some:
            assert self.catalog.unknown_keys(item.pool_id, [item.key]) == {item.key}

    @rule()
    def forget(self) -> None:
        self.catalog.forget_tasks(self.now)

    @invariant()
    def every_key_is_in_one_place(self) -> None:
        blobs = {f.blob.id: f.blob for f in self.files.values()}
        named = [Garbage(t.pool_id, t.layout.key) for t in self.tasks.values()]
        for blob in blobs.values():
            keys = (blob.key, blob.thumbnail_key, blob.preview_key)
            named += [Garbage(blob.pool_id, key) for key in keys if key]
        assert set(self.catalog.garbage(1000)) == self.garbage
        assert len(set(named)) == len(named)
        assert self.garbage.isdisjoint(named)
        for pool_id in (POOL, OTHER):
            keys_there = [g.key for g in [*named, *self.garbage] if g.pool_id == pool_id]
            assert self.catalog.unknown_keys(pool_id, keys_there) == set()
        assert {blob.id: blob for blob in self.catalog.blobs()} == blobs
        assert self._count(schema.chunks) == sum(map(len, self.chunks.values()))

    @invariant()
    def figures_are_right(self) -> None:
        expected = {pool_id: self._held(pool_id) for pool_id in (POOL, OTHER)}
        held = {pool_id: usage for pool_id, usage in expected.items() if usage != Usage()}
        assert self.catalog.usage(self.ann.id) == held
        assert {pool_id: self.catalog.pool_usage(pool_id) for pool_id in expected} == expected
        assert self.catalog.repair_usage() == 0

    @invariant()
    def listings_are_right(self) -> None:
        for recycled in (False, True):
            listed = self.catalog.files(self.ann.id, self.now, 0, 1000, recycled=recycled)
            live = [f for f in self.files.values() if self._live(f)]
            there = [f for f in live if bool(f.recycled_at) is recycled]
            assert {f.id: f for f in listed.items} == {f.id: f for f in there}
            assert listed.total == len(listed.items)

    @invariant()
    def every_change_is_noted(self) -> None:
        assert sorted(_noted(self.catalog, self.ann)) == sorted(self.noted)

    def _count(self, table: sa.Table) -> int:
        query = sa.select(sa.func.count()).select_from(table)
        found: int = self.catalog._db.read(lambda conn: conn.execute(query).scalar_one())
        return found

    def _held(self, pool_id: str) -> Usage:
        blobs = {f.blob.id: f.size for f in self.files.values() if f.blob.pool_id == pool_id}
        reserved = sum(self._reserved(t) for t in self.tasks.values() if t.pool_id == pool_id)
        files = sum(f.pool_id == pool_id for f in self.files.values())
        return Usage(sum(blobs.values()), reserved, files)

    def _reserved(self, task: UploadTask) -> int:
        """An upload's size, and what was sent again beside it."""
        return task.layout.size + sum(c.size for c in self.chunks[task.id].values() if c.staged)

    def _used(self, pool_id: str | None) -> int:
        """In one pool, or in all."""
        return sum(self._held(each).total for each in ([pool_id] if pool_id else (POOL, OTHER)))

    def _until(self, life: int | None) -> datetime | None:
        return None if life is None else self.now + life * HOUR

    def _live(self, file: CloudFile) -> bool:
        return file.expired_at is None or file.expired_at > self.now

    def _in_place(self, file: CloudFile) -> CloudFile | None:
        known = self.files.get(file.id)
        return known if known and self._live(known) and known.recycled_at is None else None

    def _made(self, file: CloudFile) -> CloudFile:
        self.files[file.id] = file
        self.noted.append((EventType.FILE_CREATED, file.id))
        return file

    def _change(self, file: CloudFile, event: EventType, **changes: Any) -> CloudFile:
        self.files[file.id] = replace(file, updated_at=self.now, **changes)
        self.noted.append((event, file.id))
        return self.files[file.id]

    def _close(self, task: UploadTask, event: EventType) -> None:
        del self.tasks[task.id], self.chunks[task.id]
        self.garbage.add(Garbage(task.pool_id, task.layout.key))
        self.noted.append((event, task.id))

    def _drop(self, ids: list[str], event: EventType) -> None:
        gone = [self.files.pop(file_id) for file_id in ids]
        self.noted += [(event, file.id) for file in gone]
        self._let_go(gone)

    def _let_go(self, files: list[CloudFile]) -> None:
        left = {f.blob.id for f in self.files.values()}
        for blob in (f.blob for f in files if f.blob.id not in left):
            keys = (blob.key, blob.thumbnail_key, blob.preview_key)
            self.garbage |= {Garbage(blob.pool_id, key) for key in keys if key}


def _keep_books(examples: int, steps: int) -> None:
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        print_blob=True,
    )
    run_state_machine_as_test(Bookkeeping, settings=profile)


def test_the_books_are_straight() -> None:
    _keep_books(4, 20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_books_are_straight_after_anything() -> None:
    _keep_books(60, 40)


# SQLite's own part


@pytest.fixture
def sql(tmp_path: Path) -> Iterator[SqlCatalog]:
    with closing(SqlCatalog.open(migrated(tmp_path / "catalog.db"))) as opened:
        yield opened


def test_errors_of_the_database_tell_no_values_i9(sql: SqlCatalog) -> None:
    token = Token("t", "nobody", "tell-tale", b"tell-tale", frozenset(), NOW)
    with pytest.raises(sa.exc.IntegrityError) as caught:
        sql.add_token(token)
    assert "tell-tale" not in str(caught.value)


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
        calls: list[Callable[[], Any]] = [partial(_begin, sql, t) for t in tasks]
        outcomes, begun = self._together(sql, calls)
        assert outcomes == tasks
        assert begun() == 1

    def test_write_that_fails_undoes_itself_alone(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        task = _begin(sql, _task(ann))
        fine = [_task(ann) for _ in range(4)]

        def half_done(conn: Connection) -> None:
            conn.execute(sa.delete(schema.tasks))
            raise ValueError("changed my mind")

        calls: list[Callable[[], Any]] = [partial(_begin, sql, t) for t in fine]
        calls.insert(2, lambda: sql._db.write(half_done))
        outcomes, begun = self._together(sql, calls)
        assert begun() == 1
        assert isinstance(outcomes.pop(2), ValueError)
        assert outcomes == fine
        listed = {t.id for t in sql.tasks(ann.id, None, NOW, 0, 10).items}
        assert listed == {t.id for t in [task, *fine]}

    def test_last_bytes_of_a_quota_are_given_once_in_one_commit(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        calls: list[Callable[[], Any]] = [
            partial(_begin, sql, _task(ann), Allowance(account=1000)) for _ in range(5)
        ]
        outcomes, begun = self._together(sql, calls)
        assert begun() == 1
        assert [type(o) for o in outcomes].count(QuotaExceeded) == 3
        assert sql.usage(ann.id) == {POOL: Usage(0, 800, 0)}
        assert len(_noted(sql, ann)) == 2

    def test_commit_that_fails_is_told_to_everyone_in_it(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        tasks = [_task(ann) for _ in range(4)]

        def break_the_commit(conn: Connection) -> None:
            conn.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
            values = {"task_id": "none", "index": 0, "size": 1, "etag": "e"}
            conn.execute(sa.insert(schema.chunks), values)

        calls: list[Callable[[], Any]] = [partial(_begin, sql, t) for t in tasks]
        calls.insert(2, lambda: sql._db.write(break_the_commit))
        outcomes, _ = self._together(sql, calls)
        assert [type(o) for o in outcomes] == [sqlite3.IntegrityError] * 5
        assert sql.tasks(ann.id, None, NOW, 0, 10).total == 0
        assert _begin(sql, tasks[0]) == tasks[0]

    def test_full_disk_fails_everyone_and_the_next_write_succeeds(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")

        def pages(conn: Connection, limit: int) -> int:
            count = int(conn.exec_driver_sql("PRAGMA page_count").scalar_one())
            conn.exec_driver_sql(f"PRAGMA max_page_count={count + limit}")
            return count

        sql._db.write(lambda conn: pages(conn, 0))
        big = [_task(ann, file_name="x" * 20_000) for _ in range(3)]
        calls: list[Callable[[], Any]] = [partial(_begin, sql, t) for t in big]
        outcomes, _ = self._together(sql, calls)
        assert [type(o) for o in outcomes] == [StorageFull] * 3
        with pytest.raises(StorageFull, match="Free some space"):
            _begin(sql, big[0])
        assert sql.tasks(ann.id, None, NOW, 0, 10).total == 0
        sql._db.write(lambda conn: pages(conn, 1000))
        assert _begin(sql, big[0]) == big[0]

    def test_close_finishes_what_is_queued(self, tmp_path: Path) -> None:
        sql = SqlCatalog.open(tmp_path / "catalog.db")
        ann = _account(sql, "ann")
        with ThreadPoolExecutor(10) as pool:
            with self._writer_held(sql):
                waiting = [pool.submit(_begin, sql, _task(ann)) for _ in range(9)]
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
        task = _begin(sql, _task(_account(sql, "ann")))
        with pytest.raises(IntegrityError):
            _begin(sql, replace(task, file_name="other"))


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

    def test_hot_and_growing_queries_walk_no_table(
        self, sql: SqlCatalog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, Any] = {}
        run = prepared._Compiled.run

        @sa.event.listens_for(sql._db.engine, "before_cursor_execute")
        def note(*args: Any) -> None:
            seen[args[2]] = args[3][0] if isinstance(args[3], list) else args[3]

        def note_prepared(made: Any, conn: sa.Connection, values: dict[str, Any]) -> Any:
            seen[made._sql] = [None] * len(made._bind)
            return run(made, conn, values)

        monkeypatch.setattr(prepared._Compiled, "run", note_prepared)

        ann = _account(sql, "ann")
        sql.add_pool(_pool())
        seen.clear()
        _walk_through(sql, ann)
        assert len(seen) > 50
        with closing(sqlite3.connect(sql._db.path)) as plain:
            for statement, values in seen.items():
                steps = [r[3] for r in plain.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
                walks = [s for s in steps if s.startswith("SCAN") and not _is_bounded(s)]
                assert not walks, (statement, steps)
            assert "ix_blobs_md5" in _plan_of(plain, seen, "blobs.md5 =")
            assert "ix_tasks_ended" in _plan_of(plain, seen, "DELETE FROM tasks")
            assert "ix_files_recycled_at" in _plan_of(plain, seen, "files.recycled_at <")
            unknown = _plan_of(plain, seen, "UNION ALL")
            assert "ix_blobs_thumbnail_key" in unknown
            assert "ix_blobs_preview_key" in unknown
            # No list is counted, but for what has expired since the last sweep.
            counts = [s for s in seen if "count(*)" in s and "IN (" not in s]
            assert len(counts) == 3
            for statement in counts:
                overdue = " ".join(_steps(plain, statement, seen[statement]))
                assert re.search(r"COVERING INDEX ix_\w+_(expired|due)_at \(\w+<|<\?\)", overdue)
            # Every page is read where it begins, in its order, and no further.
            sorted_ = [s for s in seen if "ORDER BY" in s and "LIMIT" in s and "IN (" not in s]
            for statement in sorted_:
                plan = _steps(plain, statement, seen[statement])
                assert "TEMP B-TREE" not in " ".join(plan) or "due_at<?" in plan[0], plan
            pages = [s for s in sorted_ if ") < (" in s or ") > (" in s]
            assert len(pages) >= len(FileOrder) + 3
            for statement in pages:
                how = " ".join(_steps(plain, statement, seen[statement]))
                assert re.search(r"AND \(\w+,id\)[<>]\(|due_at<", how), (statement, how)
            # A search reads its account's part of the index of names.
            searches = [s for s in seen if "MATCH" in s]
            assert len(searches) >= 4
            for statement in searches:
                plan = _steps(plain, statement, seen[statement])
                assert any(re.search(r"file_names VIRTUAL TABLE INDEX \d+:.*M", s) for s in plan)

    def test_recording_a_chunk_changes_no_index(self, sql: SqlCatalog) -> None:
        """Not even looks at one: SQLite's program opens none of the tasks' to write."""
        record = "UPDATE tasks SET received_count = 1, updated_at = 2, expires_at = 3 WHERE id = ''"
        query = "SELECT name, rootpage FROM sqlite_master WHERE tbl_name = 'tasks'"
        with closing(sqlite3.connect(sql._db.path)) as plain:
            pages = {page: name for name, page in plain.execute(query)}
            written = [r[3] for r in plain.execute(f"EXPLAIN {record}") if r[1] == "OpenWrite"]
        assert {pages[page] for page in written} == {"tasks", "sqlite_autoindex_tasks_1"}


def _walk_through(sql: SqlCatalog, ann: Account) -> None:
    """Every call that is made often, or meets more rows as the catalog grows."""
    sql.principal(b"x", NOW)
    task = _begin(sql, _sealed(ann), Allowance(10**6, 10**6))
    sql.task(ann.id, task.id, NOW)
    sql.intend_chunk(task.id, 0, "f")
    sql.fingerprints(task.id)
    for etag in "ab":
        sql.record_chunk(task.id, _chunk(0, etag), NOW, NOW)
    sql.chunk(task.id, 0)
    sql.tasks(ann.id, None, NOW, 0, 10)
    blob, file = _outcome(task, ann)
    sql.complete(task.id, 1, blob, file, [NewJob(JobKind.PREVIEW, file.id)])
    sql.cancel(ann.id, _begin(sql, _task(ann)).id, NOW)
    sql.forget_tasks(NOW + WEEK)
    sql.duplicates(ann.id, Digest("md5", "x"), 5, NOW)
    for recycled in (False, True):
        sql.files(ann.id, NOW, 0, 10, recycled=recycled)
    sql.share_blob(replace(file, id="f3"))
    _walk_through_lists(sql, ann)
    sql.delete_file("f3", ann.id, NOW)
    sql.expire_tasks(NOW)
    for account_id in (ann.id, None):
        sql.file(file.id, NOW, account_id)
    sql.file_of_task(ann.id, task.id, NOW)
    sql.unknown_keys(POOL, ["x"])
    sql.is_garbage(Garbage(POOL, "x"))
    sql.usage(ann.id)
    sql.pool_usage(POOL)
    sql.describe_blob(file.blob.id, {}, "t", "p")
    sql.set_crc32(file.blob.id, 1)
    sql.rekey_blob(file.blob.id, "fresh", NOW)
    sql.share_blob(replace(file, id="f2"))
    sql.recycle_file("f2", ann.id, NOW)
    sql.restore_file("f2", ann.id, NOW)
    sql.move_file("f2", ann.id, replace(_blob(), pool_id=OTHER), NOW, Allowance(10**6))
    sql.recycle_file("f2", ann.id, NOW)
    sql.purge_recycled(NOW + TICK)
    sql.delete_file(file.id, ann.id, NOW)
    sql.expire_files(NOW)
    sql.update_pool(OTHER, NOW, lambda pool: pool)
    sql.delete_pool(OTHER)
    sql.forget_garbage([Garbage(POOL, "x")])


def _walk_through_lists(sql: SqlCatalog, ann: Account) -> None:
    """Every list from its beginning, from an offset and from a cursor."""
    for order in FileOrder:
        for search in ("", "film"):
            query = FileQuery(search, order)
            page = sql.files(ann.id, NOW, 0, 1, query)
            assert page.cursor
            sql.files(ann.id, NOW, 0, 10, query, after=page.cursor)
            sql.files(ann.id, NOW, 1, 10, query)
    sql.files(ann.id, NOW, 0, 10, FileQuery("x"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(file_lists, "_FEW", 0)
        for order in FileOrder:
            page = sql.files(ann.id, NOW, 0, 1, FileQuery("film", order))
            sql.files(ann.id, NOW, 0, 10, FileQuery("film", order), after=page.cursor)
    for status in TaskStatus:
        sql.tasks(ann.id, status, NOW, 0, 10)
    cursor = sql.tasks(ann.id, None, NOW, 0, 1).cursor
    for each in (None, TaskStatus.EXPIRED, TaskStatus.IN_PROGRESS):
        sql.tasks(ann.id, each, NOW, 0, 10, cursor)


def _plan_of(plain: sqlite3.Connection, seen: dict[str, Any], *parts: str) -> str:
    statement, values = next((s, v) for s, v in seen.items() if all(p in s for p in parts))
    return " ".join(_steps(plain, statement, values))


def _steps(plain: sqlite3.Connection, statement: str, values: Any) -> list[str]:
    return [str(r[3]) for r in plain.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


def _is_bounded(scan: str) -> bool:
    """A scan of a constant row, or of what a search in the index of names finds."""
    return (
        "CONSTANT" in scan or re.search(r"file_names VIRTUAL TABLE INDEX \d+:.*M", scan) is not None
    )


def _open_files() -> list[str]:
    names = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the folder
            names.append(str(descriptor.readlink()))
    return names


class TestMigrations:
    def test_migrations_make_exactly_the_tables_of_the_schema(self, sql: SqlCatalog) -> None:
        def differences(conn: Connection) -> Any:
            opts = {"compare_type": True, "include_name": _is_no_index_of_names}
            context = MigrationContext.configure(conn, opts=opts)
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

    def test_catalog_of_the_first_revision_keeps_all_and_counts_what_is_held(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "catalog.db"
        _write_revision_1(path)
        with closing(SqlCatalog.open(path)) as sql:
            sql.check()
            assert integrity_problem(path) is None
            ann, bob = sql.accounts()
            assert (ann.name, ann.quota) == ("ann", None)
            assert sql.usage(ann.id) == {
                POOL: Usage(stored_bytes=11, reserved_bytes=3100, files=3),
                OTHER: Usage(stored_bytes=100, reserved_bytes=0, files=1),
            }
            assert sql.usage(bob.id) == {POOL: Usage(5, 0, 1)}
            assert sql.repair_usage() == 0
            assert [pool.id for pool in sql.pools()] == [POOL]
            running = sql.tasks(ann.id, TaskStatus.IN_PROGRESS, NOW, 0, 10).items
            assert {t.id for t in running} == {"t0", "t1"}
            assert all(t.seal is None for t in running)
            assert sql.chunk_indexes("t0") == [0, 1]
            page = sql.files(ann.id, NOW, 0, 10, FileQuery("N", FileOrder.NAME))
            assert page.total == 4
            for file in page.items:
                assert (file.blob.sealed, file.blob.facts, file.recycled_at) == (None, None, None)
                assert file.user_meta == {"k": "v"}
                assert sql.delete_file(file.id, ann.id, NOW)
            assert sql.cancel(ann.id, "t0", NOW)
            assert sql.usage(ann.id) == {POOL: Usage(0, 2000, 0)}

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


def _write_revision_1(path: Path) -> None:
    """A catalog as the first revision left it, with rows of every kind in it."""
    upgrade = command.upgrade
    with closing(Sqlite(path)) as database, pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "upgrade", lambda config, _head: upgrade(config, "0001"))
        migrate.migrate(database)
    rows: dict[str, list[dict[str, Any]]] = {
        "accounts": [
            {"id": name, "name": name, "is_admin": False, "created_at": 1 + (name == "bob")}
            for name in ("ann", "bob")
        ],
        "tasks": [
            _row_of_task(0, "in_progress", 1000),
            _row_of_task(1, "in_progress", 2000),
            *(
                _row_of_task(n, s, 7)
                for n, s in enumerate(("completed", "cancelled", "expired"), 2)
            ),
        ],
        "chunks": [
            {"task_id": "t0", "index": n, "size": 100, "etag": "e", "staged": staged}
            for n, staged in ((0, None), (1, "1.a"))
        ],
        "blobs": [
            _row_of_blob("b1", "ann", POOL, 1),
            _row_of_blob("b2", "ann", POOL, 10),
            _row_of_blob("b3", "ann", OTHER, 100),
            _row_of_blob("b4", "bob", POOL, 5),
        ],
        "files": [
            _row_of_file("f1", "ann", POOL, "b1"),
            _row_of_file("f2", "ann", POOL, "b1"),
            _row_of_file("f3", "ann", POOL, "b2"),
            _row_of_file("f4", "ann", OTHER, "b3"),
            _row_of_file("f5", "bob", POOL, "b4"),
        ],
        "garbage": [{"pool_id": POOL, "key": "old", "since": 1}],
    }
    with closing(sqlite3.connect(path)) as plain, plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
        for table, each in ((table, row) for table, some in rows.items() for row in some):
            columns = ", ".join(f'"{name}"' for name in each)
            places = ", ".join("?" * len(each))
            plain.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", list(each.values()))


def _row_of_task(number: int, status: str, size: int) -> dict[str, Any]:
    later = 2**52
    plain = {"file_name": "f", "content_type": "a/b", "chunk_size": 100, "revision": 0}
    figures = {"received_count": 0, "received_bytes": 0, "created_at": 1, "updated_at": 1}
    where = {"account_id": "ann", "pool_id": POOL, "key": f"k{number}", "expires_at": later}
    return {"id": f"t{number}", "status": status, "size": size} | plain | figures | where


def _row_of_blob(blob_id: str, account: str, pool: str, size: int) -> dict[str, Any]:
    where = {"account_id": account, "pool_id": pool, "key": f"k-{blob_id}"}
    return {"id": blob_id, "size": size, "sha256": blob_id, "created_at": 1} | where


def _row_of_file(file_id: str, account: str, pool: str, blob: str) -> dict[str, Any]:
    plain = {"name": "n", "mime_type": "a/b", "hash_algorithm": "sha256", "hash": blob}
    meta = {"user_meta": '{"k": "v"}', "sensitive_marks": "[]", "created_at": 1, "updated_at": 1}
    return {"id": file_id, "account_id": account, "pool_id": pool, "blob_id": blob} | plain | meta


def _is_no_index_of_names(name: str | None, kind: str, _parents: Any) -> bool:
    """Autogenerate takes the tables that FTS5 makes for itself for tables of ours."""
    return kind != "table" or not str(name).startswith("file_names")


def _plain(statement: str) -> frozenset[str]:
    """The clauses of a CREATE statement: neither order, nor quotes, nor layout."""
    text = statement.replace('"', "")
    return frozenset(" ".join(part.split()).strip(" ()") for part in text.split(","))


class TestSnapshot:
    def test_snapshot_is_whole_while_writes_go_on(self, sql: SqlCatalog, tmp_path: Path) -> None:
        task = _begin(sql, _task(_account(sql, "ann"), count=10**6))
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
            _begin(sql, _task(ann))
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
            wins.append(_begin(sql, _task(ann, digest=digest)).id)
            wins.append(sql.take_login(round_.to_bytes(32), NOW) is not None)
        for index in range(200):
            sql.record_chunk(wins[0], _chunk(index, f"{os.getpid()}"), NOW, NOW + WEEK)
        out.put(wins)


def _fill_up(path: str, gate: Any, out: Any) -> None:
    """Take from a quota of 1050 bytes, 100 at a time, until there is no room."""
    with closing(SqlCatalog.open(path)) as sql:
        ann = sql.account("ann")
        assert ann is not None
        gate.wait(60)
        taken = 0
        with suppress(QuotaExceeded):
            while True:
                _begin(sql, _task(ann, count=1), Allowance(1050, 1050))
                taken += 1
        out.put(taken)


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

    def test_last_bytes_of_a_quota_are_given_to_one_process(self, tmp_path: Path) -> None:
        path = tmp_path / "catalog.db"
        with closing(SqlCatalog.open(path)) as sql:
            ann = _account(sql, "ann")
            assert sum(self._run(3, _fill_up, path)) == 10
            assert sql.usage(ann.id) == {POOL: Usage(0, 1000, 0)}

    def test_busy_processes_take_turns(self, tmp_path: Path) -> None:
        """By SQLite's own waiting, one got 3 to 25 times as much done as the other."""
        path = tmp_path / "catalog.db"
        with closing(SqlCatalog.open(path)) as sql:
            _begin(sql, _task(_account(sql, "ann"), id="task", count=10**7))
        counts = self._run(2, _write_for_a_while, path)
        assert min(counts) * 2 > max(counts)

    def test_i1_killed_process_leaves_every_acknowledged_write(self, tmp_path: Path) -> None:
        path = tmp_path / "catalog.db"
        with closing(SqlCatalog.open(path)) as sql:
            task = _begin(sql, _task(_account(sql, "ann"), count=10**6))
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

    @pytest.mark.slow
    @pytest.mark.parametrize("held", ["queue", "lock"])
    def test_a_process_that_stops_with_its_turn_costs_the_others_one_wait(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
    ) -> None:
        """Inside a transaction it keeps them from writing, and each is told without delay."""
        monkeypatch.setattr("upwell.catalog.turns.STALL", 0.2)
        monkeypatch.setattr("upwell.catalog.writer.OUT_OF_TURN", 0.2)
        waits: list[float] = []
        acquire = FileLock.acquire

        def note(lock: FileLock, seconds: float, mode: int = fcntl.LOCK_EX) -> bool:
            had = acquire(lock, seconds, mode)
            waits.extend([] if had else [seconds])
            return had

        path = tmp_path / "catalog.db"
        with closing(SqlCatalog.open(path)) as sql:
            stopped = FileLock(tmp_path / f"catalog.db.{held}")
            assert stopped.acquire(0)
            monkeypatch.setattr(FileLock, "acquire", note)
            for name in ("ann", "bob", "cid"):
                _account(sql, name)
            assert waits == [0, 0.2, 0, 0], "the second and third only try"
            with closing(sqlite3.connect(path, isolation_level=None)) as plain:
                plain.execute("BEGIN IMMEDIATE")
                for name in ("dan", "eve"):
                    with pytest.raises(NotReady, match="locked"):
                        _account(sql, name)
                assert sql.accounts(), "reading goes on"
                plain.execute("ROLLBACK")
            _account(sql, "dan")
            stopped.close()
            waits.clear()
            _account(sql, "eve")
            assert waits == []

    def test_a_turn_is_waited_for_as_long_as_others_commit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.turns.STALL", 0.01)
        path = tmp_path / "catalog.db"
        with closing(FileLock(tmp_path / "catalog.db.lock")) as busy:
            assert busy.acquire(0)
            commits = iter([*range(20), 20, 20])
            with closing(Turns(path, 30)) as turns:
                with turns.turn(lambda: next(commits)) as had:
                    assert not had
                assert next(commits, None) is None, "it looked until nothing moved"
                busy.release()
                with turns.turn(lambda: pytest.fail("it is free")) as had:
                    assert had


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
                    _begin(sql, task)
                    tasks.append(task)

            for _ in range(3):
                with pytest.raises(StorageFull, match=r"catalog\.db.*Free some space"):
                    add()
                listed = sql.tasks(ann.id, None, NOW, 0, 1000)
                assert {t.id for t in listed.items} == {t.id for t in tasks}
            ballast.unlink()
            task = _begin(sql, _task(ann, file_name="x" * 5000))
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


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_WRITE])
def test_a_commit_that_was_not_synced_is_in_doubt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int
) -> None:
    """I2: also on a full disk. SQLite has undone it, and a crash may bring it back."""
    monkeypatch.setattr("upwell.catalog.sqlite._is_full", lambda _: True)
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = code
    with pytest.raises(StorageFailed, match="not known"):
        raise_explained(failed, tmp_path / "catalog.db")
