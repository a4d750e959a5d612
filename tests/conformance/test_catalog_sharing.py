"""What every catalog promises of bundles, links, guesses, events and webhooks (``core.rows``)."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import uuid
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from tests.catalogs import migrated
from tests.conformance.test_catalog import (
    CATALOGS,
    HOUR,
    NOW,
    POOL,
    THREADS,
    TICK,
    WEEK,
    _account,
    _at_once,
    _blob,
    _chunk,
    _file,
    _outcome,
    _task,
)
from upwell.catalog import SqlCatalog, bundles, events, schema
from upwell.catalog.batches import repeat
from upwell.errors import SlugTaken
from upwell.model import (
    Account,
    Allowance,
    Bundle,
    CloudFile,
    Event,
    EventType,
    JobKind,
    Link,
    Policy,
    Pool,
    Seal,
    Sealed,
    UploadTask,
    Webhook,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from upwell.core.ports import Catalog

LATER = NOW + HOUR
DAY = timedelta(days=1)
ANY = Allowance()
PROCESSES = 2
HUGE = 2**70  # no column holds it


@pytest.fixture(params=CATALOGS)
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    with closing(CATALOGS[request.param](tmp_path)) as opened:
        yield opened


@pytest.fixture
def sql(tmp_path: Path) -> Iterator[SqlCatalog]:
    with closing(SqlCatalog.open(migrated(tmp_path / "catalog.db"))) as opened:
        yield opened


@pytest.fixture
def ann(catalog: Catalog) -> Account:
    return _account(catalog, "ann")


@pytest.fixture
def bob(catalog: Catalog) -> Account:
    return _account(catalog, "bob")


def new_bundle(account: Account, *, at: datetime = NOW, **changes: Any) -> Bundle:
    bundle = Bundle(
        id=str(uuid.uuid4()),
        account_id=account.id,
        slug=uuid.uuid4().hex,
        name="Holiday 🐢",
        description=None,
        passcode_hash=None,
        expired_at=None,
        created_at=at,
        updated_at=at,
    )
    return replace(bundle, **changes)


def bundled(catalog: Catalog, account: Account, **changes: Any) -> Bundle:
    bundle = new_bundle(account, **changes)
    catalog.add_bundle(bundle)
    return bundle


def stored(catalog: Catalog, account: Account, **changes: Any) -> CloudFile:
    pool_id = changes.get("pool_id", POOL)
    file = _file(account, replace(changes.pop("blob", None) or _blob(), pool_id=pool_id), **changes)
    catalog.add_file(file.blob, file, ANY)
    return file


def pooled(catalog: Catalog, **policy: Any) -> Pool:
    pool = Pool(str(uuid.uuid4()), uuid.uuid4().hex, Policy(**policy), None, None, NOW, NOW)
    catalog.add_pool(pool)
    return pool


def change_to(**changes: Any) -> Callable[[Bundle], Bundle]:
    return lambda bundle: replace(bundle, **changes)


def ids(files: list[CloudFile]) -> list[str]:
    return [file.id for file in files]


def read(catalog: Catalog, file: CloudFile, now: datetime = LATER) -> CloudFile:
    found = catalog.file(file.id, now, file.account_id)
    assert found is not None
    return found


def happened(catalog: Catalog, account: Account, after: int = 0) -> list[tuple[EventType, Any]]:
    """Type and subject of each event since."""
    found = catalog.events(account.id, after, 10_000)
    return [(e.type, e.data.get("id", e.data.get("task_id"))) for e in found]


def in_processes(target: Callable[..., None], path: Path, *arguments: Any) -> list[Any]:
    """Run ``target`` in processes of their own, let go at the same moment; what each put."""
    spawn = multiprocessing.get_context("spawn")
    gate, out = spawn.Barrier(PROCESSES), spawn.Queue()
    given_ = (str(path), gate, out, *arguments)
    processes = [spawn.Process(target=target, args=given_) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    results = [out.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0] * PROCESSES
    out.close()
    out.join_thread()
    return results


class TestBundles:
    def test_bundle_comes_back_as_it_was(self, catalog: Catalog, ann: Account) -> None:
        plain = bundled(catalog, ann)
        full = bundled(
            catalog,
            ann,
            slug="Ünal/..",
            description="for you",
            passcode_hash="$argon2id$x",
            expired_at=NOW + HOUR + TICK,
        )
        for bundle in (plain, full):
            assert catalog.bundle(bundle.id, ann.id, NOW) == bundle
            assert catalog.bundle_by_slug(bundle.slug, NOW) == bundle
        assert catalog.bundle("nothing", ann.id, NOW) is None
        assert catalog.bundle_by_slug("nothing", NOW) is None

    def test_stranger_finds_no_bundle_and_changes_none(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        bundle = bundled(catalog, ann)
        mine, theirs = stored(catalog, ann, bundle_id=bundle.id), stored(catalog, bob)
        assert catalog.bundle(bundle.id, bob.id, NOW) is None
        assert catalog.bundles(bob.id, NOW, 0, 10).total == 0
        assert catalog.update_bundle(bundle.id, bob.id, NOW, change_to(name="x")) is None
        assert catalog.set_bundle(theirs.id, bob.id, bundle.id, NOW) is None
        assert catalog.set_bundle(mine.id, bob.id, None, NOW) is None
        assert not catalog.delete_bundle(bundle.id, bob.id, NOW)
        assert catalog.bundle(bundle.id, ann.id, NOW) == replace(bundle, revision=1)
        assert read(catalog, mine) == mine
        assert read(catalog, theirs) == theirs

    def test_bundle_is_there_until_its_expiry(self, catalog: Catalog, ann: Account) -> None:
        bundle = bundled(catalog, ann, expired_at=LATER)
        file = stored(catalog, ann, bundle_id=bundle.id, expired_at=LATER)
        loose = stored(catalog, ann)
        for now, there in ((LATER - TICK, True), (LATER, False)):
            assert (catalog.bundle(bundle.id, ann.id, now) is not None) is there
            assert (catalog.bundle_by_slug(bundle.slug, now) is not None) is there
            assert (catalog.bundle_of_file(file.id, now) is not None) is there
            assert catalog.bundles(ann.id, now, 0, 10).total == there
            assert catalog.bundle_files(bundle.id, now, 0, 10).total == there
        assert catalog.update_bundle(bundle.id, ann.id, LATER, change_to(name="x")) is None
        assert catalog.set_bundle(loose.id, ann.id, bundle.id, LATER) is None
        assert not catalog.delete_bundle(bundle.id, ann.id, LATER)

    def test_taken_slug_is_refused_and_changes_nothing(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        first, other = bundled(catalog, ann, slug="s"), bundled(catalog, bob)
        with pytest.raises(SlugTaken, match="'s'"):
            bundled(catalog, bob, slug="s")
        with pytest.raises(SlugTaken, match="'s'"):
            catalog.update_bundle(other.id, bob.id, LATER, change_to(slug="s", name="x"))
        assert catalog.bundle_by_slug("s", NOW) == first
        assert catalog.bundles(bob.id, NOW, 0, 10).items == [other]

    def test_slug_of_an_expired_bundle_is_free(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        old = bundled(catalog, ann, slug="s", expired_at=LATER)
        with pytest.raises(SlugTaken):
            bundled(catalog, bob, slug="s", at=LATER - TICK)
        new = bundled(catalog, bob, slug="s", at=LATER)
        assert catalog.bundle_by_slug("s", LATER) == new
        assert catalog.bundle(old.id, ann.id, NOW) is None
        bundled(catalog, ann, slug="t", expired_at=LATER)
        assert catalog.update_bundle(new.id, bob.id, LATER, change_to(slug="t")) is not None
        assert catalog.expire_bundles(LATER) == 0

    def test_one_of_many_racing_for_a_slug_gets_it(self, catalog: Catalog, ann: Account) -> None:
        def take() -> Bundle | None:
            try:
                return bundled(catalog, ann, slug="s")
            except SlugTaken:
                return None

        winners = [bundle for bundle in _at_once(*[take] * THREADS) if bundle]
        assert winners == [catalog.bundle_by_slug("s", NOW)]

    def test_listing_is_newest_first_in_pages(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        made = [bundled(catalog, ann, at=NOW + n * TICK) for n in range(5)]
        bundled(catalog, bob)
        bundled(catalog, ann, expired_at=LATER)
        page = catalog.bundles(ann.id, LATER, 1, 2)
        assert page.items == [made[3], made[2]]
        assert page.total == 5
        far = catalog.bundles(ann.id, LATER, HUGE, HUGE)
        assert (far.items, far.total) == ([], 5)

    def test_update_changes_what_may_change_and_nothing_else(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        bundle = bundled(catalog, ann)
        changes: dict[str, Any] = {
            "slug": "new",
            "name": "n",
            "description": "d",
            "passcode_hash": "$argon2id$x",
            "expired_at": LATER + DAY,
        }
        fixed: dict[str, Any] = {
            "id": "x",
            "account_id": bob.id,
            "created_at": LATER,
            "updated_at": NOW,
        }
        changed = catalog.update_bundle(bundle.id, ann.id, LATER, change_to(**changes, **fixed))
        assert changed == replace(bundle, **changes, updated_at=LATER)
        assert catalog.bundle(bundle.id, ann.id, LATER) == changed
        assert catalog.bundle_by_slug(bundle.slug, LATER) is None

    def test_update_that_raises_changes_nothing(self, catalog: Catalog, ann: Account) -> None:
        bundle = bundled(catalog, ann)

        def fail(_: Bundle) -> Bundle:
            raise ValueError

        with pytest.raises(ValueError, match=r"^$"):
            catalog.update_bundle(bundle.id, ann.id, LATER, fail)
        assert catalog.bundle(bundle.id, ann.id, NOW) == bundle

    def test_account_must_be_there(self, catalog: Catalog) -> None:
        nobody = Account("nobody", "nobody", is_admin=False, created_at=NOW)
        with pytest.raises(IntegrityError):
            bundled(catalog, nobody)


class TestFilesInBundles:
    def test_files_are_the_oldest_first_in_pages(self, catalog: Catalog, ann: Account) -> None:
        bundle, other = bundled(catalog, ann), bundled(catalog, ann)
        made = [
            stored(catalog, ann, bundle_id=bundle.id, at=NOW + (n // 2) * TICK, id=f"file{n}")
            for n in range(5)
        ]
        stored(catalog, ann, bundle_id=other.id)
        stored(catalog, ann)
        stored(catalog, ann, bundle_id=bundle.id, expired_at=NOW)
        recycled = stored(catalog, ann, bundle_id=bundle.id)
        catalog.recycle_file(recycled.id, ann.id, NOW)
        assert catalog.bundle_files(bundle.id, NOW, 0, 10).items == made
        page = catalog.bundle_files(bundle.id, NOW, 1, 2)
        assert (page.items, page.total) == (made[1:3], 5)
        far = catalog.bundle_files(bundle.id, NOW, HUGE, HUGE)
        assert (far.items, far.total) == ([], 5)
        assert catalog.bundle_files("nothing", NOW, 0, 10).total == 0

    def test_bundle_of_a_file(self, catalog: Catalog, ann: Account) -> None:
        bundle = bundled(catalog, ann)
        inside, outside = stored(catalog, ann, bundle_id=bundle.id), stored(catalog, ann)
        assert catalog.bundle_of_file(inside.id, NOW) == replace(bundle, revision=1)
        assert catalog.bundle_of_file(outside.id, NOW) is None
        assert catalog.bundle_of_file("nothing", NOW) is None

    @pytest.mark.parametrize(
        ("own", "bundle_s", "becomes"),
        [
            (None, None, None),
            (None, DAY, DAY),
            (WEEK, DAY, DAY),
            (DAY, WEEK, DAY),
            (DAY, None, DAY),
        ],
    )
    def test_file_put_into_a_bundle_lives_no_longer_than_it(
        self,
        catalog: Catalog,
        ann: Account,
        own: timedelta | None,
        bundle_s: timedelta | None,
        becomes: timedelta | None,
    ) -> None:
        bundle = bundled(catalog, ann, expired_at=bundle_s and NOW + bundle_s)
        file = stored(catalog, ann, expired_at=own and NOW + own)
        put = catalog.set_bundle(file.id, ann.id, bundle.id, LATER)
        end = None if becomes is None else NOW + becomes
        assert put == replace(file, bundle_id=bundle.id, expired_at=end, updated_at=LATER)
        assert read(catalog, file) == put
        assert catalog.bundle_files(bundle.id, LATER, 0, 10).items == [put]

    def test_file_is_moved_and_taken_out(self, catalog: Catalog, ann: Account) -> None:
        first, second = bundled(catalog, ann), bundled(catalog, ann)
        file = stored(catalog, ann, bundle_id=first.id)
        moved = catalog.set_bundle(file.id, ann.id, second.id, NOW + TICK)
        assert moved == replace(file, bundle_id=second.id, updated_at=NOW + TICK)
        out = catalog.set_bundle(file.id, ann.id, None, LATER)
        assert out == replace(file, bundle_id=None, updated_at=LATER) == read(catalog, file)
        assert catalog.bundle_files(first.id, LATER, 0, 10).total == 0
        assert catalog.bundle_files(second.id, LATER, 0, 10).total == 0

    def test_putting_a_file_where_it_is_changes_nothing(
        self, catalog: Catalog, ann: Account
    ) -> None:
        bundle = bundled(catalog, ann, expired_at=LATER + DAY)
        file = stored(catalog, ann, bundle_id=bundle.id, expired_at=LATER + DAY)
        seen = catalog.last_event(ann.id)
        assert catalog.set_bundle(file.id, ann.id, bundle.id, LATER) == file
        assert catalog.last_event(ann.id) == seen

    def test_what_is_not_there_is_put_nowhere(self, catalog: Catalog, ann: Account) -> None:
        bundle = bundled(catalog, ann)
        file = stored(catalog, ann)
        expired = stored(catalog, ann, expired_at=NOW)
        recycled = stored(catalog, ann)
        catalog.recycle_file(recycled.id, ann.id, NOW)
        for missing in ("nothing", expired.id, recycled.id):
            assert catalog.set_bundle(missing, ann.id, bundle.id, NOW) is None
        assert catalog.set_bundle(file.id, ann.id, "nothing", NOW) is None
        assert read(catalog, file) == file

    def test_change_of_bundle_is_an_event_of_the_file(self, catalog: Catalog, ann: Account) -> None:
        bundle, file = bundled(catalog, ann), stored(catalog, ann)
        seen = catalog.last_event(ann.id)
        catalog.set_bundle(file.id, ann.id, bundle.id, LATER)
        [event] = catalog.events(ann.id, seen, 10)
        assert (event.type, event.at) == (EventType.FILE_UPDATED, LATER)
        assert (event.data["id"], event.data["bundle_id"]) == (file.id, bundle.id)


class TestBundleExpiry:
    @staticmethod
    def _move(
        catalog: Catalog, ann: Account, was: datetime | None, is_: datetime | None, **file: Any
    ) -> tuple[CloudFile, CloudFile, list[Any]]:
        """A file in a bundle before and after the bundle's expiry changes, and the events."""
        bundle = bundled(catalog, ann, expired_at=was)
        before = stored(catalog, ann, bundle_id=bundle.id, **file)
        seen = catalog.last_event(ann.id)
        assert catalog.update_bundle(bundle.id, ann.id, LATER, change_to(expired_at=is_))
        return before, read(catalog, before), happened(catalog, ann, seen)

    @pytest.mark.parametrize(
        ("was", "is_", "file", "becomes"),
        [
            pytest.param(None, 2, None, 2, id="would live for ever: cut"),
            pytest.param(None, 2, 3, 2, id="would live longer: cut"),
            pytest.param(None, 2, 1, 1, id="lives less long anyway: left"),
            pytest.param(None, 2, 2, 2, id="ends then anyway: left"),
            pytest.param(5, 2, 5, 2, id="goes with it when it shrinks"),
            pytest.param(5, 2, 4, 2, id="its own is cut when it shrinks"),
            pytest.param(5, 2, 1, 1, id="its own is left when it shrinks"),
            pytest.param(5, 7, 5, 7, id="goes with it when it grows"),
            pytest.param(5, 7, 4, 4, id="its own is left when it grows"),
            pytest.param(5, None, 5, None, id="goes with it when it has no end"),
            pytest.param(5, None, 4, 4, id="its own is left when it has no end"),
            pytest.param(5, 5, 5, 5, id="nothing changes"),
            pytest.param(None, None, None, None, id="nothing ends"),
        ],
    )
    def test_files_follow(
        self,
        catalog: Catalog,
        ann: Account,
        was: int | None,
        is_: int | None,
        file: int | None,
        becomes: int | None,
    ) -> None:
        def day(count: int | None) -> datetime | None:
            return None if count is None else NOW + count * DAY

        before, after, noted = self._move(catalog, ann, day(was), day(is_), expired_at=day(file))
        if becomes == file:
            assert (after, noted) == (before, [])
        else:
            assert after == replace(before, expired_at=day(becomes), updated_at=LATER)
            assert noted == [(EventType.FILE_UPDATED, before.id)]

    @pytest.mark.parametrize(
        ("grows_to", "becomes"),
        [(4 * DAY, 4 * DAY), (9 * DAY, 5 * DAY), (None, 5 * DAY)],
    )
    def test_growing_file_stays_within_what_its_pool_allows(
        self, catalog: Catalog, ann: Account, grows_to: timedelta | None, becomes: timedelta
    ) -> None:
        pool = pooled(catalog, file_expiry=5 * DAY)
        end = None if grows_to is None else NOW + grows_to
        cut = {"pool_id": pool.id, "expired_at": NOW + DAY}
        _, after, _ = self._move(catalog, ann, NOW + DAY, end, **cut)
        assert after.expired_at == NOW + becomes

    @pytest.mark.parametrize("limit", [DAY, HOUR])
    def test_bundle_that_grows_ends_no_file_sooner(
        self, catalog: Catalog, ann: Account, limit: timedelta
    ) -> None:
        """The pool's limit may be younger than the file."""
        pool = pooled(catalog, file_expiry=limit)
        cut = {"pool_id": pool.id, "expired_at": NOW + DAY}
        before, after, noted = self._move(catalog, ann, NOW + DAY, NOW + WEEK, **cut)
        assert (after, noted) == (before, [])

    def test_file_in_the_recycle_bin_is_cut_without_an_event(
        self, catalog: Catalog, ann: Account
    ) -> None:
        bundle = bundled(catalog, ann)
        file = stored(catalog, ann, bundle_id=bundle.id)
        catalog.recycle_file(file.id, ann.id, NOW)
        seen = catalog.last_event(ann.id)
        catalog.update_bundle(bundle.id, ann.id, NOW, change_to(expired_at=LATER + TICK))
        assert happened(catalog, ann, seen) == []
        restored = catalog.restore_file(file.id, ann.id, LATER)
        assert restored is not None
        assert restored.expired_at == LATER + TICK

    def test_files_elsewhere_are_left_alone(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        bundle, other = bundled(catalog, ann), bundled(catalog, ann)
        files = [
            stored(catalog, ann),
            stored(catalog, ann, bundle_id=other.id),
            stored(catalog, bob),
        ]
        catalog.update_bundle(bundle.id, ann.id, LATER, change_to(expired_at=LATER + TICK))
        assert [read(catalog, file) for file in files] == files

    def test_refused_update_moves_no_file_and_notes_nothing(
        self, catalog: Catalog, ann: Account
    ) -> None:
        bundled(catalog, ann, slug="s")
        bundle = bundled(catalog, ann)
        file = stored(catalog, ann, bundle_id=bundle.id)
        seen = catalog.last_event(ann.id)
        change = change_to(slug="s", expired_at=LATER + DAY)
        with pytest.raises(SlugTaken):
            catalog.update_bundle(bundle.id, ann.id, LATER, change)
        assert read(catalog, file) == file
        assert catalog.last_event(ann.id) == seen

    def test_bundle_that_is_cut_while_its_files_are_extended_takes_them_along(
        self, catalog: Catalog, ann: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        end = NOW + DAY
        bundle = bundled(catalog, ann, expired_at=end)
        file = stored(catalog, ann, bundle_id=bundle.id, expired_at=end)

        def between(*arguments: Any) -> int:
            monkeypatch.undo()
            catalog.update_bundle(bundle.id, ann.id, LATER, change_to(expired_at=end + DAY))
            return repeat(*arguments)

        monkeypatch.setattr("upwell.catalog.bundles.repeat", between)
        catalog.update_bundle(bundle.id, ann.id, LATER, change_to(expired_at=None))
        assert read(catalog, file).expired_at == end + DAY

    def test_many_files_are_one_change(
        self, catalog: Catalog, ann: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.bundles.BATCH", 3)
        bundle = bundled(catalog, ann)
        files = [stored(catalog, ann, bundle_id=bundle.id, at=NOW + n * TICK) for n in range(8)]
        hook = hooked(catalog, ann)
        seen = catalog.last_event(ann.id)
        catalog.update_bundle(bundle.id, ann.id, LATER, change_to(expired_at=LATER + DAY))
        assert {read(catalog, file).expired_at for file in files} == {LATER + DAY}
        noted = happened(catalog, ann, seen)
        assert sorted(noted) == sorted((EventType.FILE_UPDATED, id_) for id_ in ids(files))
        assert catalog.jobs(JobKind.DELIVER, hook.id, 0, 0).total == 8

    @pytest.mark.parametrize("is_", [None, NOW + 2 * DAY, NOW + 9 * DAY])
    def test_large_bundle_is_changed_in_many_transactions(
        self,
        catalog: Catalog,
        ann: Account,
        is_: datetime | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """None of its files outlives it in between."""
        was = NOW + 5 * DAY
        monkeypatch.setattr("upwell.catalog.bundles.BATCH", 3)
        bundle = bundled(catalog, ann, expired_at=was)
        files = [stored(catalog, ann, bundle_id=bundle.id, expired_at=was) for _ in range(8)]
        seen: list[tuple[int, bool]] = []

        def note(conn: Any, account_id: str, ids: list[str], now: datetime) -> None:
            end = sa.select(schema.bundles.c.expired_at).where(schema.bundles.c.id == bundle.id)
            longest = conn.execute(sa.select(sa.func.max(schema.files.c.expired_at))).scalar()
            ends = conn.execute(end).scalar()
            outlives = ends is not None and (longest is None or longest > ends)
            seen.append((len(ids), outlives))

        monkeypatch.setattr("upwell.catalog.bundles._note_updated", note)
        assert catalog.update_bundle(bundle.id, ann.id, LATER, change_to(expired_at=is_))
        assert {read(catalog, file).expired_at for file in files} == {is_}
        assert sum(count for count, _ in seen) == 8
        assert max(count for count, _ in seen) == 3
        assert not any(outlives for _, outlives in seen)

    def test_taken_slug_changes_nothing_of_a_large_bundle(
        self, catalog: Catalog, ann: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.bundles.BATCH", 3)
        bundled(catalog, ann, slug="s")
        bundle = bundled(catalog, ann)
        files = [stored(catalog, ann, bundle_id=bundle.id) for _ in range(8)]
        with pytest.raises(SlugTaken):
            catalog.update_bundle(bundle.id, ann.id, LATER, change_to(slug="s", expired_at=LATER))
        assert {read(catalog, file).expired_at for file in files} == {None}

    @pytest.mark.parametrize("later", [None, LATER + DAY, NOW + HOUR / 2])
    def test_uploads_in_progress_keep_their_own_end(
        self, catalog: Catalog, ann: Account, later: datetime | None
    ) -> None:
        bundle = bundled(catalog, ann, expired_at=LATER)
        ends = [None, LATER, NOW + WEEK]
        inside = [adding(catalog, ann, bundle_id=bundle.id, expired_at=end) for end in ends]
        assert catalog.update_bundle(bundle.id, ann.id, NOW, change_to(expired_at=later))
        found = [catalog.task(ann.id, task.id, NOW) for task in inside]
        assert [task and task.expired_at for task in found] == ends


class TestFit:
    """A file is made with the bundle that its upload was made for; that may have changed."""

    @staticmethod
    def _fit(sql: SqlCatalog, file: CloudFile) -> CloudFile:
        return sql._db.write(lambda conn: bundles.fit(conn, file, NOW))

    def test_file_fits_its_bundle(self, sql: SqlCatalog) -> None:
        ann, bob = _account(sql, "ann"), _account(sql, "bob")
        bundle = bundled(sql, ann, expired_at=LATER)
        expired = bundled(sql, ann, expired_at=NOW)
        file = _file(ann, _blob(), bundle_id=bundle.id)
        assert self._fit(sql, file) == replace(file, expired_at=LATER)
        alone = replace(file, bundle_id=None)
        assert self._fit(sql, alone) == alone
        assert self._fit(sql, replace(file, bundle_id="gone")) == alone
        assert self._fit(sql, replace(file, bundle_id=expired.id)) == replace(alone, expired_at=NOW)
        theirs = replace(file, account_id=bob.id)
        assert self._fit(sql, theirs) == replace(theirs, bundle_id=None)


def adding(catalog: Catalog, account: Account, **changes: Any) -> UploadTask:
    return catalog.add_task(_task(account, **changes), ANY)


def bundle_of_task(catalog: Catalog, task: UploadTask) -> str | None:
    found = catalog.task(task.account_id, task.id, NOW)
    assert found is not None
    return found.bundle_id


class TestBundleEnds:
    def test_files_of_a_deleted_bundle_go_where_their_pool_says(
        self, catalog: Catalog, ann: Account
    ) -> None:
        bin_ = pooled(catalog, enable_recycle=True)
        bundle = bundled(catalog, ann)
        kept = stored(catalog, ann, bundle_id=bundle.id, pool_id=bin_.id)
        gone = stored(catalog, ann, bundle_id=bundle.id)
        loose = stored(catalog, ann)
        seen = catalog.last_event(ann.id)
        assert catalog.delete_bundle(bundle.id, ann.id, LATER)
        assert catalog.bundle(bundle.id, ann.id, NOW) is None
        assert catalog.bundle_by_slug(bundle.slug, NOW) is None
        recycled = catalog.files(ann.id, LATER, 0, 10, recycled=True).items
        assert [(f.id, f.bundle_id, f.recycled_at) for f in recycled] == [(kept.id, None, LATER)]
        assert catalog.files(ann.id, LATER, 0, 10).items == [loose]
        assert [g.key for g in catalog.garbage(10)] == [gone.blob.key]
        assert sorted(happened(catalog, ann, seen)) == sorted(
            [(EventType.FILE_RECYCLED, kept.id), (EventType.FILE_DELETED, gone.id)]
        )
        assert not catalog.delete_bundle(bundle.id, ann.id, LATER)
        restored = catalog.restore_file(kept.id, ann.id, LATER)
        assert restored is not None
        assert restored.bundle_id is None

    def test_i8_bytes_that_another_file_shares_stay(self, catalog: Catalog, ann: Account) -> None:
        bundle = bundled(catalog, ann)
        file = stored(catalog, ann, bundle_id=bundle.id)
        other = _file(ann, file.blob)
        assert catalog.share_blob(other)
        assert catalog.delete_bundle(bundle.id, ann.id, NOW)
        assert catalog.garbage(10) == []
        assert read(catalog, other) == other

    def test_what_was_in_the_recycle_bin_stays_there(self, catalog: Catalog, ann: Account) -> None:
        bundle = bundled(catalog, ann)
        file = stored(catalog, ann, bundle_id=bundle.id)
        catalog.recycle_file(file.id, ann.id, NOW)
        assert catalog.delete_bundle(bundle.id, ann.id, LATER)
        restored = catalog.restore_file(file.id, ann.id, LATER)
        assert restored is not None
        assert restored.bundle_id is None

    @pytest.mark.parametrize("ends", ["delete", "expire"])
    def test_uploads_in_progress_go_on_without_it(
        self, catalog: Catalog, ann: Account, bob: Account, ends: str
    ) -> None:
        bundle, other = bundled(catalog, ann, expired_at=LATER), bundled(catalog, ann)
        pool = pooled(catalog)
        inside = [adding(catalog, ann, bundle_id=bundle.id, pool_id=p) for p in (POOL, pool.id)]
        inside.append(adding(catalog, ann, bundle_id=bundle.id, digest=None))
        elsewhere = adding(catalog, ann, bundle_id=other.id)
        closed = adding(catalog, ann, bundle_id=bundle.id)
        catalog.cancel(ann.id, closed.id, NOW)
        if ends == "delete":
            assert catalog.delete_bundle(bundle.id, ann.id, NOW)
        else:
            assert catalog.expire_bundles(LATER) == 1
        assert [bundle_of_task(catalog, task) for task in inside] == [None] * 3
        found = [catalog.task(ann.id, task.id, NOW) for task in inside]
        end = None if ends == "delete" else LATER
        assert [task and task.expired_at for task in found] == [end] * 3
        assert bundle_of_task(catalog, elsewhere) == other.id
        assert bundle_of_task(catalog, closed) == bundle.id
        catalog.record_chunk(inside[0].id, _chunk(0), NOW, NOW + WEEK)
        identity = inside[0].identity() or ""
        again = catalog.task_by_identity(ann.id, identity, NOW)
        assert again is not None
        assert again.id == inside[0].id

    def test_large_bundle_is_deleted_in_many_transactions(
        self, catalog: Catalog, ann: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.bundles._FEW", 3)
        bin_ = pooled(catalog, enable_recycle=True)
        for count in (0, 3, 6, 7):
            bundle = bundled(catalog, ann)
            for n in range(count):
                stored(catalog, ann, bundle_id=bundle.id, pool_id=bin_.id if n % 2 else POOL)
            stored(catalog, ann, bundle_id=bundle.id, expired_at=NOW)  # the sweeper's
            assert catalog.delete_bundle(bundle.id, ann.id, NOW)
            assert catalog.bundle(bundle.id, ann.id, NOW) is None
            assert catalog.bundle_files(bundle.id, NOW - DAY, 0, 10).total == 0
        assert catalog.files(ann.id, NOW, 0, 0).total == 0
        assert catalog.files(ann.id, NOW, 0, 0, recycled=True).total == 1 + 3 + 3

    def test_deleted_by_many_at_once_is_deleted_once(self, catalog: Catalog, ann: Account) -> None:
        bundle = bundled(catalog, ann)
        file = stored(catalog, ann, bundle_id=bundle.id)
        seen = catalog.last_event(ann.id)
        calls = [partial(catalog.delete_bundle, bundle.id, ann.id, NOW)] * THREADS
        assert _at_once(*calls).count(True) == 1
        assert happened(catalog, ann, seen) == [(EventType.FILE_DELETED, file.id)]

    def test_file_put_into_a_bundle_that_is_deleted_is_never_left_in_it(
        self, catalog: Catalog, ann: Account
    ) -> None:
        for _ in range(10):
            bundle, file = bundled(catalog, ann), stored(catalog, ann)
            put, _ = _at_once(
                partial(catalog.set_bundle, file.id, ann.id, bundle.id, NOW),
                partial(catalog.delete_bundle, bundle.id, ann.id, NOW),
            )
            left = catalog.file(file.id, NOW, ann.id)
            assert left == (None if put else file)

    def test_expired_bundles_are_removed_and_named_by_no_file(
        self, catalog: Catalog, ann: Account, bob: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.bundles._FEW", 2)
        ended = [bundled(catalog, who, expired_at=LATER) for who in (ann, bob, ann, ann, bob)]
        file = stored(catalog, ann, bundle_id=ended[0].id, expired_at=LATER)
        lives = bundled(catalog, ann, expired_at=LATER + TICK)
        ever = bundled(catalog, ann)
        seen = catalog.last_event(ann.id)
        assert catalog.expire_bundles(LATER - TICK) == 0
        assert catalog.expire_bundles(LATER) == 5
        assert catalog.expire_bundles(LATER) == 0
        assert catalog.last_event(ann.id) == seen
        assert catalog.bundle(ended[0].id, ann.id, NOW) is None
        assert catalog.bundles(ann.id, NOW, 0, 10).total == 2
        assert catalog.bundle(lives.id, ann.id, NOW) == lives
        assert catalog.bundle(ever.id, ann.id, NOW) == ever
        assert read(catalog, file, NOW).bundle_id is None
        assert catalog.expire_files(LATER) == 1


def linked(catalog: Catalog, account: Account, **changes: Any) -> Link:
    link = Link(uuid.uuid4().hex, account.id, "file", NOW, NOW + WEEK)
    link = replace(link, **changes)
    catalog.add_link(link)
    return link


class TestLinks:
    def test_link_comes_back_as_it_was(self, catalog: Catalog, ann: Account) -> None:
        plain = linked(catalog, ann)
        full = linked(catalog, ann, max_downloads=3, allowance=3 * 2**50)
        for link in (plain, full):
            assert catalog.link(link.id, NOW) == link
        assert catalog.link("nothing", NOW) is None

    def test_link_is_there_until_its_expiry(self, catalog: Catalog, ann: Account) -> None:
        link = linked(catalog, ann, expires_at=LATER, allowance=5)
        assert catalog.link(link.id, LATER - TICK) == link
        assert catalog.links(ann.id, "file", LATER - TICK, 0, 9).items == [link]
        assert catalog.spend_link(link.id, 1, LATER - TICK)
        assert catalog.link(link.id, LATER) is None
        assert catalog.links(ann.id, "file", LATER, 0, 9).items == []
        assert not catalog.spend_link(link.id, 1, LATER)

    def test_links_of_a_file_are_newest_first(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        made = [linked(catalog, ann, created_at=NOW + n * TICK) for n in range(3)]
        linked(catalog, ann, file_id="other")
        linked(catalog, bob)
        assert catalog.links(ann.id, "file", NOW, 0, 9).items == made[::-1]
        assert catalog.links(ann.id, "nothing", NOW, 0, 9).items == []

    def test_link_is_removed_by_its_account(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        link, other = linked(catalog, ann), linked(catalog, ann)
        assert not catalog.remove_link(link.id, bob.id)
        assert catalog.link(link.id, NOW) == link
        assert catalog.remove_link(link.id, ann.id)
        assert catalog.link(link.id, NOW) is None
        assert not catalog.spend_link(link.id, 1, NOW)
        assert not catalog.remove_link(link.id, ann.id)
        assert catalog.link(other.id, NOW) == other

    def test_allowance_is_spent_to_the_last_byte_and_not_beyond(
        self, catalog: Catalog, ann: Account
    ) -> None:
        link = linked(catalog, ann, max_downloads=1, allowance=10)

        def left() -> int | None:
            found = catalog.link(link.id, NOW)
            assert found is not None
            return found.allowance

        assert not catalog.spend_link(link.id, 11, NOW)
        assert left() == 10
        assert catalog.spend_link(link.id, 7, NOW)
        assert not catalog.spend_link(link.id, 4, NOW)
        assert left() == 3
        catalog.refund_link(link.id, 2)
        assert catalog.spend_link(link.id, 5, NOW)
        assert left() == 0
        assert not catalog.spend_link(link.id, 1, NOW)
        assert not catalog.spend_link("nothing", 1, NOW)
        catalog.refund_link("nothing", 1)

    def test_link_without_an_allowance_has_any_number(self, catalog: Catalog, ann: Account) -> None:
        link = linked(catalog, ann)
        for _ in range(3):
            assert catalog.spend_link(link.id, 2**62, NOW)
        catalog.refund_link(link.id, 5)
        assert catalog.link(link.id, NOW) == link

    def test_allowance_beyond_any_number_is_as_much_as_can_be(
        self, catalog: Catalog, ann: Account
    ) -> None:
        link = linked(catalog, ann, max_downloads=HUGE, allowance=HUGE)
        assert catalog.spend_link(link.id, 2**62, NOW)

    def test_threads_spend_exactly_the_allowance(self, catalog: Catalog, ann: Account) -> None:
        link = linked(catalog, ann, allowance=10 * 3 + 2)

        def spend() -> int:
            return sum(catalog.spend_link(link.id, 3, NOW) for _ in range(5))

        assert sum(_at_once(*[spend] * THREADS)) == 10

    def test_expired_links_are_removed(
        self, catalog: Catalog, ann: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.links.BATCH", 2)
        for _ in range(5):
            linked(catalog, ann, expires_at=LATER)
        live = linked(catalog, ann, expires_at=LATER + TICK)
        assert catalog.expire_links(LATER - TICK) == 0
        assert catalog.expire_links(LATER) == 5
        assert catalog.links(ann.id, "file", NOW, 0, 9).items == [live]


SECONDS = timedelta(seconds=30)


class TestGuesses:
    def test_burst_then_one_in_each_interval(self, catalog: Catalog) -> None:
        def guess(at: timedelta) -> datetime | None:
            return catalog.guess("s", NOW + at, SECONDS, 3)

        now = timedelta()
        assert [guess(now) for _ in range(3)] == [None] * 3
        for _ in range(2):  # what is refused is not counted
            assert guess(now) == NOW + SECONDS
        assert guess(SECONDS - TICK) == NOW + SECONDS
        assert guess(SECONDS) is None
        assert guess(SECONDS) == NOW + 2 * SECONDS
        assert guess(3 * SECONDS) is None
        assert guess(3 * SECONDS) is None
        assert guess(3 * SECONDS) == NOW + 4 * SECONDS
        assert [guess(60 * SECONDS) for _ in range(3)] == [None] * 3  # no more than a burst
        assert guess(60 * SECONDS) is not None

    def test_burst_of_one(self, catalog: Catalog) -> None:
        assert catalog.guess("s", NOW, SECONDS, 1) is None
        assert catalog.guess("s", NOW, SECONDS, 1) == NOW + SECONDS
        assert catalog.guess("s", NOW + SECONDS, SECONDS, 1) is None

    def test_subjects_are_counted_apart(self, catalog: Catalog) -> None:
        assert catalog.guess("s", NOW, SECONDS, 1) is None
        assert catalog.guess("t", NOW, SECONDS, 1) is None
        assert catalog.guess("s", NOW, SECONDS, 1) is not None

    def test_forgiven_subject_begins_anew(self, catalog: Catalog) -> None:
        for subject in "st":
            assert catalog.guess(subject, NOW, SECONDS, 1) is None
        catalog.forgive("s")
        assert catalog.guess("s", NOW, SECONDS, 1) is None
        assert catalog.guess("t", NOW, SECONDS, 1) is not None
        catalog.forgive("nothing")

    def test_clock_that_goes_back_gives_no_more_guesses(self, catalog: Catalog) -> None:
        assert [catalog.guess("s", NOW, SECONDS, 2) for _ in range(2)] == [None] * 2
        assert catalog.guess("s", NOW - HOUR, SECONDS, 2) == NOW + SECONDS

    def test_threads_make_a_burst_between_them(self, catalog: Catalog) -> None:
        def guess() -> int:
            return sum(catalog.guess("s", NOW, SECONDS, 10) is None for _ in range(4))

        assert sum(_at_once(*[guess] * THREADS)) == 10

    def test_guesses_that_no_longer_matter_are_forgotten(
        self, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.links.BATCH", 2)
        for n in range(5):
            catalog.guess(f"s{n}", NOW, SECONDS, 3)
        catalog.guess("s0", NOW, SECONDS, 3)
        assert catalog.expire_guesses(NOW + SECONDS - TICK) == 0
        assert catalog.expire_guesses(NOW + SECONDS) == 4
        free_at = NOW + 2 * SECONDS
        assert catalog.guess("s0", free_at - TICK, 2 * SECONDS, 1) == free_at
        assert catalog.expire_guesses(free_at) == 1

    def test_refused_guess_waits_for_no_writer(self, sql: SqlCatalog) -> None:
        assert sql.guess("s", NOW, SECONDS, 1) is None
        with closing(sqlite3.connect(sql._db.path, isolation_level=None)) as plain:
            plain.execute("BEGIN IMMEDIATE")
            assert sql.guess("s", NOW, SECONDS, 1) is not None
            plain.execute("ROLLBACK")


@given(
    burst=st.integers(1, 4),
    waits=st.lists(st.integers(0, 70), min_size=1, max_size=40),
)
def test_guesses_are_never_more_than_a_burst_and_one_an_interval(
    tmp_path_factory: pytest.TempPathFactory, burst: int, waits: list[int]
) -> None:
    """In any window, however the guesses come; and none that is allowed by that is refused."""
    path = tmp_path_factory.getbasetemp() / "guesses.db"
    subject, now, made = uuid.uuid4().hex, NOW, list[datetime]()
    with closing(SqlCatalog.open(path)) as sql:
        for wait in waits:
            now += timedelta(seconds=wait)
            may_at = sql.guess(subject, now, SECONDS, burst)
            if may_at is None:
                made.append(now)
                for first in made:
                    window = [at for at in made if at >= first]
                    assert len(window) <= burst + (now - first) // SECONDS
            else:
                assert now < may_at <= now + SECONDS


def hooked(catalog: Catalog, account: Account, *wants: str, **changes: Any) -> Webhook:
    hook = Webhook(uuid.uuid4().hex, account.id, "https://example.org/ü", wants, b"\0secret", NOW)
    hook = replace(hook, **changes)
    assert catalog.add_webhook(hook, 9)
    return hook


def delivered(catalog: Catalog, hook: Webhook) -> list[str]:
    """The types of the events that wait for delivery, oldest first."""
    found = []
    for job in reversed(catalog.jobs(JobKind.DELIVER, hook.id, 0, 1000).items):
        event = catalog.event(int(job.argument))
        assert event is not None
        assert event.account_id == hook.account_id
        assert (job.attempts, job.finished_at) == (0, None)
        found.append(str(event.type))
    return found


class TestEvents:
    def test_events_are_an_account_s_oldest_first(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        files = [stored(catalog, who) for who in (ann, bob, ann, ann)]
        found = catalog.events(ann.id, 0, 10)
        assert [e.data["id"] for e in found] == ids([files[0], *files[2:]])
        assert [e.seq for e in found] == sorted({e.seq for e in found})
        assert catalog.events(ann.id, found[0].seq, 1) == [found[1]]
        assert catalog.events(ann.id, found[2].seq, 10) == []
        assert catalog.events(ann.id, HUGE, HUGE) == []
        assert catalog.last_event(ann.id) == found[2].seq
        assert [catalog.event(e.seq) for e in found] == found
        assert catalog.event(found[2].seq + 1) is None
        assert catalog.event(HUGE) is None
        assert catalog.events("nobody", 0, 10) == []
        assert catalog.last_event("nobody") == 0

    def test_event_says_what_happened(self, catalog: Catalog, ann: Account) -> None:
        file = stored(catalog, ann, expired_at=NOW + WEEK)
        [event] = catalog.events(ann.id, 0, 10)
        assert event == Event(
            event.seq, ann.id, EventType.FILE_CREATED, events.file_data(file), NOW
        )

    def test_old_events_are_forgotten_in_pieces_and_numbers_never_come_again(
        self, catalog: Catalog, ann: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upwell.catalog.events.BATCH", 3)
        for _ in range(5):
            stored(catalog, ann)
        stored(catalog, ann, at=LATER)
        last = catalog.last_event(ann.id)
        assert catalog.forget_events(NOW) == 0
        assert [catalog.forget_events(LATER) for _ in range(3)] == [3, 2, 0]
        assert [e.seq for e in catalog.events(ann.id, 0, 10)] == [last]
        assert catalog.forget_events(LATER + TICK) == 1
        assert catalog.last_event(ann.id) == 0
        stored(catalog, ann)
        assert catalog.last_event(ann.id) > last

    def test_numbers_grow_with_every_event_however_many_come_at_once(
        self, catalog: Catalog, ann: Account
    ) -> None:
        _at_once(*[lambda: [stored(catalog, ann) for _ in range(5)]] * THREADS)
        found = catalog.events(ann.id, 0, 1000)
        assert len({e.data["id"] for e in found}) == len({e.seq for e in found}) == 5 * THREADS

    def test_file_s_facts(self, ann: Account) -> None:
        blob = replace(_blob(7), sealed=Sealed(100, 65536, "check"), facts={"width": 3})
        file = _file(
            ann,
            blob,
            name="ü\0\udc80.txt",
            bundle_id="b",
            expired_at=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
            user_meta={"secret": 1},
        )
        assert events.file_data(file) == {
            "id": file.id,
            "name": "ü\0\udc80.txt",
            "size": 7,
            "mime_type": "video/x-matroska",
            "hash": f"sha256:{file.digest.hex}",
            "pool_id": POOL,
            "bundle_id": "b",
            "is_encrypted": True,
            "expired_at": "2030-01-02T03:04:05Z",
            "created_at": "2026-03-01T12:00:00.123457Z",
        }
        assert events.file_data(_file(ann, _blob()))["expired_at"] is None

    def test_i9_upload_s_facts_hold_nothing_of_its_seal(self, ann: Account) -> None:
        task = _task(ann, seal=Seal(b"the head", b"the key", "the check"), bundle_id="b")
        data = events.task_data(task)
        assert data == {
            "task_id": task.id,
            "file_name": "film.mkv",
            "file_size": 400,
            "pool_id": POOL,
            "bundle_id": "b",
            "status": "in_progress",
        }
        assert "the " not in json.dumps(data)


class TestNoting:
    """An event, its deliveries and what happened are one transaction."""

    def test_failed_change_leaves_neither_event_nor_delivery(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        hook = hooked(sql, ann)
        file = stored(sql, ann)
        seen = sql.last_event(ann.id)

        def fail(conn: sa.Connection) -> None:
            for _ in range(3):
                events.note(conn, ann.id, EventType.FILE_UPDATED, events.file_data(file), NOW)
            events.note_many(conn, ann.id, EventType.FILE_UPDATED, [{}, {}], NOW)
            raise ValueError

        def fail_among_others() -> None:
            with pytest.raises(ValueError, match=r"^$"):
                sql._db.write(fail)

        fail_among_others()
        _at_once(*[fail_among_others, lambda: stored(sql, ann) and None] * 4)
        assert [t for t, _ in happened(sql, ann, seen)] == [EventType.FILE_CREATED] * 4
        assert delivered(sql, hook) == ["file.created"] * 5

    def test_refused_upload_and_file_note_nothing(self, catalog: Catalog, ann: Account) -> None:
        hook = hooked(catalog, ann)
        file = _file(ann, _blob())
        with pytest.raises(IntegrityError):
            stored(catalog, ann, blob=stored(catalog, ann).blob)
        assert not catalog.share_blob(file)
        assert not catalog.delete_file(file.id, ann.id, NOW)
        assert not catalog.cancel(ann.id, "nothing", NOW)
        assert delivered(catalog, hook) == ["file.created"]

    def test_delivery_for_each_enabled_webhook_that_wants_it(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        every = hooked(catalog, ann)
        some = hooked(catalog, ann, "file.deleted", "file.created")
        other = hooked(catalog, ann, "upload.cancelled")
        off = hooked(catalog, ann, disabled_at=NOW)
        theirs = hooked(catalog, bob)
        file = stored(catalog, ann)
        catalog.update_file(file.id, ann.id, NOW, lambda f: replace(f, name="x"))
        catalog.delete_file(file.id, ann.id, NOW)
        catalog.cancel(ann.id, adding(catalog, ann).id, NOW)
        assert delivered(catalog, every) == [
            "file.created",
            "file.updated",
            "file.deleted",
            "upload.created",
            "upload.cancelled",
        ]
        assert delivered(catalog, some) == ["file.created", "file.deleted"]
        assert delivered(catalog, other) == ["upload.cancelled"]
        assert delivered(catalog, off) == delivered(catalog, theirs) == []

    def test_many_at_once_are_delivered_as_one_by_one(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        every, some = hooked(sql, ann), hooked(sql, ann, "file.updated")
        data = [{"n": n} for n in range(1200)]
        for type_ in (EventType.FILE_UPDATED, EventType.FILE_EXPIRED):
            sql._db.write(partial(self._note_many, ann, type_, data))
        sql._db.write(partial(self._note_many, ann, EventType.FILE_DELETED, []))
        found = sql.events(ann.id, 0, 10_000)
        assert [e.data for e in found] == data * 2
        assert sql.jobs(JobKind.DELIVER, every.id, 0, 0).total == 2400
        jobs = sql.jobs(JobKind.DELIVER, some.id, 0, 10_000).items
        assert [int(j.argument) for j in jobs] == [e.seq for e in found[:1200]][::-1]

    @staticmethod
    def _note_many(account: Account, type_: EventType, data: Any, conn: sa.Connection) -> None:
        events.note_many(conn, account.id, type_, data, NOW)

    def test_delivery_is_due_at_once(self, catalog: Catalog, ann: Account) -> None:
        hook = hooked(catalog, ann)
        stored(catalog, ann)
        job = catalog.claim_job([JobKind.DELIVER], "h", NOW, LATER)
        assert job is not None
        assert (job.subject, job.argument) == (hook.id, str(catalog.last_event(ann.id)))


class TestWebhooks:
    def test_webhook_comes_back_as_it_was(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        first = hooked(catalog, ann)
        second = hooked(
            catalog, ann, "file.created", "file.deleted", created_at=NOW + TICK, disabled_at=LATER
        )
        hooked(catalog, bob)
        assert catalog.webhooks(ann.id) == [first, second]
        for hook in (first, second):
            assert catalog.webhook(hook.id) == hook
            assert catalog.webhook(hook.id, ann.id) == hook
            assert catalog.webhook(hook.id, bob.id) is None
        assert catalog.webhook("nothing") is None
        assert catalog.webhooks("nobody") == []

    def test_removed_webhook_takes_its_deliveries_along(
        self, catalog: Catalog, ann: Account, bob: Account
    ) -> None:
        hook, other = hooked(catalog, ann), hooked(catalog, ann)
        for _ in range(3):
            stored(catalog, ann)
        held = catalog.claim_job([JobKind.DELIVER], "h", NOW, LATER)
        assert held is not None
        assert not catalog.remove_webhook(hook.id, bob.id)
        assert catalog.jobs(JobKind.DELIVER, hook.id, 0, 0).total == 3
        assert catalog.remove_webhook(hook.id, ann.id)
        assert catalog.webhooks(ann.id) == [other]
        assert catalog.jobs(JobKind.DELIVER, hook.id, 0, 0).total == 0
        assert catalog.jobs(JobKind.DELIVER, other.id, 0, 0).total == 3
        assert not catalog.remove_webhook(hook.id, ann.id)
        assert catalog.finish_job(held.id, "h", NOW) is (held.subject == other.id)

    def test_disabled_webhook_gets_nothing_until_it_is_enabled(
        self, catalog: Catalog, ann: Account
    ) -> None:
        hook = hooked(catalog, ann)
        catalog.disable_webhook(hook.id, LATER)
        assert catalog.webhook(hook.id) == replace(hook, disabled_at=LATER)
        file = stored(catalog, ann)
        assert delivered(catalog, hook) == []
        catalog.disable_webhook(hook.id, None)
        assert catalog.webhook(hook.id) == hook
        catalog.delete_file(file.id, ann.id, NOW)
        assert delivered(catalog, hook) == ["file.deleted"]
        catalog.disable_webhook("nothing", NOW)


def _spend(path: str, gate: Any, out: Any, link_id: str) -> None:
    with closing(SqlCatalog.open(path)) as sql:
        gate.wait(60)
        spend = partial(sql.spend_link, link_id, 3, NOW)
        out.put(sum(sum(_at_once(*[spend] * 4)) for _ in range(20)))


def _guess(path: str, gate: Any, out: Any) -> None:
    with closing(SqlCatalog.open(path)) as sql:
        gate.wait(60)
        guess = partial(sql.guess, "s", NOW, SECONDS, 50)
        out.put(sum(_at_once(*[guess] * 4).count(None) for _ in range(20)))


def _end_bundles(path: str, gate: Any, out: Any, account_id: str, slugs: list[str]) -> None:
    with closing(SqlCatalog.open(path)) as sql:
        gate.wait(60)
        outcomes = []
        for slug in slugs:
            bundle = sql.bundle_by_slug(slug, NOW)
            gone = bundle is None or sql.delete_bundle(bundle.id, account_id, NOW)
            outcomes.append(bundle is not None and gone)
        out.put(outcomes)


@pytest.mark.slow
class TestProcesses:
    def test_processes_spend_exactly_the_allowance(self, sql: SqlCatalog) -> None:
        link = linked(sql, _account(sql, "ann"), allowance=3 * 70 + 1)
        assert sum(in_processes(_spend, sql._db.path, link.id)) == 70
        left = sql.link(link.id, NOW)
        assert left is not None
        assert left.allowance == 1

    def test_processes_make_a_burst_between_them(self, sql: SqlCatalog) -> None:
        assert sum(in_processes(_guess, sql._db.path)) == 50

    def test_one_of_the_processes_deletes_each_bundle(self, sql: SqlCatalog) -> None:
        ann = _account(sql, "ann")
        made = [bundled(sql, ann) for _ in range(20)]
        for bundle in made:
            stored(sql, ann, bundle_id=bundle.id)
        seen = sql.last_event(ann.id)
        slugs = [bundle.slug for bundle in made]
        outcomes = in_processes(_end_bundles, sql._db.path, ann.id, slugs)
        assert [sum(each) for each in zip(*outcomes, strict=True)] == [1] * 20
        assert len(happened(sql, ann, seen)) == 20


def test_queries_walk_no_table(sql: SqlCatalog) -> None:
    """Guesses, events and links are as many as there are callers; bundles and files, too."""
    ann = _account(sql, "ann")
    seen: dict[str, Any] = {}

    @sa.event.listens_for(sql._db.engine, "before_cursor_execute")
    def note(*args: Any) -> None:
        seen[args[2]] = args[3]

    bundle = bundled(sql, ann)
    file = stored(sql, ann)
    task = adding(sql, ann, bundle_id=bundle.id)
    hook = hooked(sql, ann)
    sql.set_bundle(file.id, ann.id, bundle.id, NOW)
    sql.bundle_by_slug("x", NOW)
    sql.bundle_of_file(file.id, NOW)
    sql.bundles(ann.id, NOW, 0, 10)
    sql.bundle_files(bundle.id, NOW, 0, 10)
    for end in (LATER, LATER + DAY, None):
        sql.update_bundle(bundle.id, ann.id, NOW, change_to(expired_at=end, slug=str(end)))
    sql.complete(task.id, 0, *_outcome(task, ann))
    sql.delete_bundle(bundle.id, ann.id, NOW)
    bundled(sql, ann, expired_at=NOW)
    sql.expire_bundles(NOW)
    link = linked(sql, ann)
    sql.spend_link(link.id, 1, NOW)
    sql.refund_link(link.id, 1)
    sql.links(ann.id, file.id, NOW, 0, 9)
    sql.expire_links(NOW)
    sql.guess("s", NOW, SECONDS, 1)
    sql.guess("s", NOW, SECONDS, 1)
    sql.expire_guesses(NOW)
    sql.events(ann.id, 0, 10)
    sql.last_event(ann.id)
    sql.forget_events(NOW)
    sql.webhooks(ann.id)
    sql.remove_webhook(hook.id, ann.id)
    prepared = [events._ADD, events._ANY_ENABLED]
    with closing(sqlite3.connect(sql._db.path)) as plain:
        for each in prepared:
            compiled = each._for(sql._db.engine.dialect)
            seen[compiled._sql] = tuple("x" for _ in compiled._bind)
        for statement, values in seen.items():
            if statement.startswith(("PRAGMA", "BEGIN")):
                continue
            steps = [r[3] for r in plain.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            walks = [s for s in steps if s.startswith("SCAN") and "CONSTANT" not in s]
            assert not walks, (statement, steps)
            if statement.startswith("UPDATE tasks SET bundle_id"):
                assert "ix_tasks_bundle_id" in " ".join(steps)
