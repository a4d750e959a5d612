"""An upload that is left alone for days, by somebody who closed the browser and the laptop."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.people import CHROMIUM_ARGUMENTS, PATIENCE, Visit, log_in, noise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.harness import Server

pytestmark = pytest.mark.slow

SIZE = 70 << 20  # bytes; more than the page keeps a copy of
DAYS = 6  # fewer than an unfinished upload is kept for, and than a login lasts
MICROSECONDS = DAYS * 86_400 * 1_000_000
_INSTANT = re.compile(r"(.+_)?at|since|until")


@contextmanager
def _browser(chromium: Browser, profile: Path, server: Server) -> Iterator[Visit]:
    """One that is closed in the end, and knows what it knew when it is started again."""
    context = chromium.browser_type.launch_persistent_context(
        profile, executable_path=shutil.which("chromium"), args=CHROMIUM_ARGUMENTS, locale="en-GB"
    )
    context.set_default_timeout(PATIENCE)
    visit = Visit(context, context.pages[0], server)
    visit.watch()
    try:
        yield visit
    finally:
        context.close()
    assert not visit.complaints()


def _let_days_pass(data: Path, profile: Path) -> None:
    """By having had everything happen so much earlier: for the server, and for the browser."""
    with closing(sqlite3.connect(data / "catalog.sqlite")) as catalog, catalog:
        for (table,) in catalog.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
            for _, column, *_ in catalog.execute(f"PRAGMA table_info({table})").fetchall():
                if _INSTANT.fullmatch(column):
                    catalog.execute(f'UPDATE {table} SET "{column}" = "{column}" - {MICROSECONDS}')
    with closing(sqlite3.connect(profile / "Default" / "Cookies")) as cookies, cookies:
        for column in ("creation_utc", "expires_utc", "last_access_utc", "last_update_utc"):
            moved = cookies.execute(f"UPDATE cookies SET {column} = {column} - {MICROSECONDS}")
            assert moved.rowcount > 0, "the login did not outlive the browser"


@pytest.mark.own_server
def test_days_later(chromium: Browser, server: Server, tmp_path: Path) -> None:
    """Who was logged in still is; the file is chosen again, but neither read nor sent again."""
    file, profile = noise(tmp_path / "film.bin", SIZE), tmp_path / "profile"
    with _browser(chromium, profile, server) as visit:
        log_in(visit.page, server)
        expect(visit.page.get_by_text("No files yet.")).to_be_visible()
        visit.slow_down(SIZE // 10)
        visit.choose(file)
        visit.wait_until_half_way()
    (task,) = server.api().tasks()
    port = server.port
    server.terminate(30)
    server.kill()
    _let_days_pass(server.data, profile)
    server.start(port)
    acknowledged = set(server.api().uploaded(task["task_id"]))

    with _browser(chromium, profile, server) as visit:
        sent: list[str] = []
        workers: list[str] = []
        visit.page.on("request", lambda request: sent.append(request.url))
        visit.page.on("worker", lambda worker: workers.append(worker.url))
        visit.open()
        waiting = visit.page.get_by_role("list", name="Unfinished uploads")
        expect(waiting.get_by_text("film.bin")).to_be_visible()
        visit.page.get_by_label("Keep", exact=True).select_option("For 7 days")
        visit.choose(file)
        visit.expect_uploaded(1)
        numbers = {int(url.rsplit("/", 1)[1]) for url in sent if "/upload/chunk/" in url}
    assert not [url for url in workers if "hash" in url], "the file was read once more"
    assert numbers == set(range(task["chunks_count"])) - acknowledged
    (stored,) = server.api().files()
    assert server.api().resume(task["task_id"])["file_id"] == stored["id"], "it was another upload"
    assert stored["expired_at"] is not None, "what was chosen last counts"
    assert stored["hash"] == hashlib.sha256(file.read_bytes()).hexdigest()
