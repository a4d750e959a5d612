"""Every listing of a catalog, walked from page to page while its rows come and go."""

from __future__ import annotations

import uuid
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.test_catalog import CATALOGS
from upwell.catalog import file_lists
from upwell.errors import ValidationFailed
from upwell.model import (
    DEFAULT_POOL_ID,
    Account,
    Allowance,
    Blob,
    Bundle,
    CloudFile,
    Digest,
    FileOrder,
    FileQuery,
    JobKind,
    Layout,
    Link,
    NewJob,
    TaskStatus,
    UploadTask,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from upwell.catalog import SqlCatalog
    from upwell.core.ports import Page

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
YEAR = timedelta(days=365)
ANN = Account("ann", "ann", is_admin=False, created_at=NOW)
BOB = Account("bob", "bob", is_admin=False, created_at=NOW)
FREE = Allowance()
LONG = "x" * 250


@pytest.fixture(params=CATALOGS)
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlCatalog]:
    with closing(CATALOGS[request.param](tmp_path)) as opened:
        opened.add_account(ANN)
        opened.add_account(BOB)
        yield opened


@dataclass
class Listing:
    """A listing under test: how a row of it is made and removed, and how a page is asked for."""

    add: Callable[[int], str]
    remove: Callable[[str], object]
    page: Callable[..., Page[Any]]


def add_file(catalog: SqlCatalog, number: int, account: Account = ANN, **fields: Any) -> str:
    """Names, sizes and ages in three different orders, with many alike in each."""
    at = NOW + timedelta(seconds=number // 2)
    digests = {"sha256": uuid.uuid4().hex * 2}
    blob = Blob(uuid.uuid4().hex, DEFAULT_POOL_ID, uuid.uuid4().hex, number % 3, digests, at)
    file = CloudFile(
        id=uuid.uuid4().hex,
        account_id=account.id,
        pool_id=DEFAULT_POOL_ID,
        bundle_id=None,
        blob=blob,
        name=f"{number % 4} Film {LONG}",
        mime_type="a/b",
        digest=Digest("sha256", digests["sha256"]),
        expired_at=None,
        created_at=at,
        updated_at=at,
    )
    file = replace(file, **fields)
    catalog.add_file(blob, file, FREE)
    return file.id


def of_files(catalog: SqlCatalog, query: FileQuery) -> Listing:
    return Listing(
        lambda n: add_file(catalog, n),
        lambda file_id: catalog.delete_file(file_id, ANN.id, NOW),
        lambda skip, take, after: catalog.files(ANN.id, NOW, skip, take, query, after=after),
    )


def of_recycled(catalog: SqlCatalog) -> Listing:
    return Listing(
        lambda n: add_file(catalog, n, recycled_at=NOW),
        lambda file_id: catalog.restore_file(file_id, ANN.id, NOW),
        lambda skip, take, after: catalog.files(
            ANN.id, NOW, skip, take, recycled=True, after=after
        ),
    )


def of_bundle(catalog: SqlCatalog) -> Listing:
    bundle = add_bundle(catalog, 0)
    return Listing(
        lambda n: add_file(catalog, n, bundle_id=bundle),
        lambda file_id: catalog.set_bundle(file_id, ANN.id, None, NOW),
        lambda *rows: catalog.bundle_files(bundle, NOW, *rows),
    )


def add_bundle(catalog: SqlCatalog, number: int) -> str:
    slug = uuid.uuid4().hex
    at = NOW + timedelta(seconds=number // 2)
    catalog.add_bundle(Bundle(slug, ANN.id, slug, "b", None, None, None, at, at))
    return slug


def of_bundles(catalog: SqlCatalog) -> Listing:
    return Listing(
        lambda n: add_bundle(catalog, n),
        lambda bundle_id: catalog.delete_bundle(bundle_id, ANN.id, NOW),
        lambda *rows: catalog.bundles(ANN.id, NOW, *rows),
    )


def add_link(catalog: SqlCatalog, number: int) -> str:
    link = uuid.uuid4().hex
    at = NOW + timedelta(seconds=number // 2)
    catalog.add_link(Link(link, ANN.id, "file", at, NOW + YEAR, None, None))
    return link


def of_links(catalog: SqlCatalog) -> Listing:
    return Listing(
        lambda n: add_link(catalog, n),
        lambda link_id: catalog.remove_link(link_id, ANN.id),
        lambda *rows: catalog.links(ANN.id, "file", NOW, *rows),
    )


def of_deliveries(catalog: SqlCatalog) -> Listing:
    return Listing(
        lambda _: str(catalog.add_job(NewJob(JobKind.DELIVER, "hook", "1"), NOW).id),
        lambda job_id: _forget(catalog, "jobs", job_id),
        lambda *rows: catalog.jobs(JobKind.DELIVER, "hook", *rows),
    )


def of_tasks(catalog: SqlCatalog, asked: TaskStatus | None) -> Listing:
    """Those that have expired are half swept, half not."""
    numbers = count()

    def add(number: int) -> str:
        made = _task(number, expires_at=NOW + YEAR)
        if asked is TaskStatus.EXPIRED:
            made = replace(made, expires_at=NOW)
        catalog.add_task(made, FREE)
        if asked is TaskStatus.CANCELLED:
            catalog.cancel(ANN.id, made.id, NOW)
        if asked is TaskStatus.EXPIRED and next(numbers) == 5:
            catalog.expire_tasks(NOW)
        return made.id

    def remove(task_id: str) -> None:
        if asked is TaskStatus.IN_PROGRESS:
            catalog.cancel(ANN.id, task_id, NOW)
        else:
            _forget(catalog, "tasks", task_id)

    return Listing(add, remove, lambda *rows: catalog.tasks(ANN.id, asked, NOW, *rows))


def _task(number: int, expires_at: datetime) -> UploadTask:
    at = NOW + timedelta(seconds=number // 2)
    return UploadTask(
        id=str(uuid.uuid4()),
        account_id=ANN.id,
        pool_id=DEFAULT_POOL_ID,
        bundle_id=None,
        file_name="film",
        content_type="a/b",
        digest=Digest("sha256", uuid.uuid4().hex * 2),
        expired_at=None,
        layout=Layout(uuid.uuid4().hex, 4, 4),
        status=TaskStatus.IN_PROGRESS,
        created_at=at,
        updated_at=at,
        expires_at=expires_at,
    )


def _forget(catalog: SqlCatalog, table: str, row_id: str) -> None:
    """As the sweeper does when a month has gone by, for one row."""
    catalog.database.write(
        lambda conn: conn.exec_driver_sql(f"DELETE FROM {table} WHERE id = ?", (row_id,))
    )
    catalog.repair_usage()


LISTINGS: dict[str, Callable[[SqlCatalog], Listing]] = {
    "il newest": lambda catalog: of_files(catalog, FileQuery("il")),
    "recycled": of_recycled,
    "bundle": of_bundle,
    "bundles": of_bundles,
    "links": of_links,
    "deliveries": of_deliveries,
    "tasks": lambda catalog: of_tasks(catalog, None),
}
for _order in FileOrder:
    LISTINGS[f"files {_order}"] = partial(of_files, query=FileQuery(order=_order))
    LISTINGS[f"film {_order}"] = partial(of_files, query=FileQuery("film", _order))
for _status in (TaskStatus.IN_PROGRESS, TaskStatus.EXPIRED, TaskStatus.CANCELLED):
    LISTINGS[f"tasks {_status}"] = partial(of_tasks, asked=_status)


def walk(listing: Listing, between: Callable[[list[str]], object]) -> list[str]:
    """The ids of all pages, of four rows; ``between`` is called with those of each page."""
    seen: list[str] = []
    after = None
    while True:
        page = listing.page(0, 4, after)
        ids = [str(item.id) for item in page.items]
        seen += ids
        between(ids)
        if page.cursor is None:
            return seen
        after = page.cursor


@pytest.fixture(params=[1000, 0], ids=["few", "many"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search sorts what it finds, or reads it in order."""
    monkeypatch.setattr(file_lists, "_FEW", request.param)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("name", LISTINGS)
def test_walking_meets_every_row_once_while_rows_come_and_go(
    catalog: SqlCatalog, name: str
) -> None:
    listing = LISTINGS[name](catalog)
    add_file(catalog, 1, BOB)
    made = [listing.add(n) for n in range(10)]
    whole = walk(listing, lambda _: None)
    assert sorted(whole) == sorted(made)
    pages = [[str(i.id) for i in listing.page(n, 4, None).items] for n in (0, 4, 8)]
    assert [each for page in pages for each in page] == whole
    assert listing.page(0, 4, None).total == 10 or file_lists._FEW == 0

    def add_some(_: object) -> None:
        listing.add(0)
        listing.add(5)
        listing.add(9)

    numbers = iter(range(3))
    seen = walk(listing, lambda ids: add_some(ids) if next(numbers, None) is not None else None)
    assert len(set(seen)) == len(seen)
    assert [each for each in seen if each in made] == whole

    def remove_all(ids: list[str]) -> None:
        for each in ids:
            listing.remove(each)

    there = walk(listing, lambda _: None)
    assert walk(listing, remove_all) == there
    assert listing.page(0, 4, None).items == []
    assert listing.page(0, 4, None).total == 0
    assert catalog.repair_usage() == 0


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", "e30", "bnVsbA", "WyJuZXdlc3QiXQ", "WyJuZXdlc3QiLCJ4IiwxXQ", "é", "W" * 4000),
        "WyJuZXdlc3QiLDEsIlx1ZDgwMCJd",  # half of a surrogate pair
    ],
)
def test_what_is_no_cursor_of_the_list_is_refused(catalog: SqlCatalog, cursor: str) -> None:
    """Nor is one of another order."""
    for number in range(3):
        add_file(catalog, number)
    by_size = catalog.files(ANN.id, NOW, 0, 1, FileQuery(order=FileOrder.LARGEST)).cursor
    for wrong in (cursor, by_size):
        with pytest.raises(ValidationFailed) as caught:
            catalog.files(ANN.id, NOW, 0, 1, after=wrong)
        assert caught.value.errors == {"after": ["is not a cursor of this list"]}


def test_a_cursor_is_short_and_tells_no_name_of_another(catalog: SqlCatalog) -> None:
    """The rest of a long name is looked up, among the account's own files alone."""
    add_file(catalog, 1)
    add_file(catalog, 1)
    theirs = add_file(catalog, 3, BOB, name="A" * 300)
    query = FileQuery(order=FileOrder.NAME)
    cursor = catalog.files(ANN.id, NOW, 0, 1, query).cursor
    assert cursor is not None
    assert len(cursor) < 500
    forged = replace(file_lists._ORDERS[FileOrder.NAME]).cursor(
        type("Row", (), {"name_folded": "a" * 200, "id": theirs})
    )
    shown = catalog.files(ANN.id, NOW, 0, 9, query, after=forged)
    assert shown.items == []
    assert catalog.files(ANN.id, NOW, 0, 9, query, after=cursor).items


@pytest.mark.parametrize("order", [FileOrder.NAME, FileOrder.NAME_REVERSED])
def test_a_long_name_that_changes_between_pages_skips_nothing(
    catalog: SqlCatalog, order: FileOrder
) -> None:
    made = [add_file(catalog, n, name=f"{n} {LONG}") for n in range(3)]
    first = catalog.files(ANN.id, NOW, 0, 1, FileQuery(order=order))
    seen = [file.id for file in first.items]
    name = "9" if order is FileOrder.NAME else "0"
    catalog.update_file(seen[0], ANN.id, NOW, lambda file: replace(file, name=name))
    rest = catalog.files(ANN.id, NOW, 0, 9, FileQuery(order=order), after=first.cursor)
    assert set(made) - set(seen) <= {file.id for file in rest.items}


def test_a_search_of_many_counts_no_further_than_it_reads(
    catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever pages by offset until the total comes to the end all the same."""
    monkeypatch.setattr(file_lists, "_FEW", 3)
    made = {add_file(catalog, n) for n in range(12)}
    seen: set[str] = set()
    total = 1
    while len(seen) < total:
        page = catalog.files(ANN.id, NOW, len(seen), 5, FileQuery("film"))
        seen |= {file.id for file in page.items}
        total = page.total
    assert seen == made
    assert total == 12


def test_names_are_found_as_they_change(catalog: SqlCatalog) -> None:
    """Renamed, recycled, restored, deleted: the index of names follows."""
    found = add_file(catalog, 1, name="Über-Straße.JPG")
    add_file(catalog, 2, BOB, name="Über-Straße.JPG")

    def search(text: str) -> list[str]:
        return [file.id for file in catalog.files(ANN.id, NOW, 0, 9, FileQuery(text)).items]

    assert search("STRASSE") == [found] == search("ber-s")
    catalog.update_file(found, ANN.id, NOW, lambda file: replace(file, name='a "b" AND c*'))
    assert search("strasse") == []
    assert search('"b" AND') == search("c*") == [found]
    catalog.recycle_file(found, ANN.id, NOW)
    assert search('"b" and') == []
    catalog.restore_file(found, ANN.id, NOW)
    assert search('"b" and') == [found]
    catalog.delete_file(found, ANN.id, NOW)
    assert search('"b" and') == []
