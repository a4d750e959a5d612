"""What is large, and what is many: the page stays at hand meanwhile."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.browser.people import SECONDS, noise
from tests.harness import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.people import People
    from tests.harness import Server

pytestmark = pytest.mark.slow

GB = 2 << 30
FROZEN = 5000  # milliseconds without a frame; a page that did the work itself would need many more

# The longest time that the page did not come to draw, or to anything else.
_WATCH_FRAMES = """() => {
    window.longest = 0;
    let last = performance.now();
    const frame = () => {
        const now = performance.now();
        window.longest = Math.max(window.longest, now - last);
        last = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
}"""


def _expect_at_hand(page: Page) -> None:
    longest = page.evaluate("() => window.longest")
    assert 0 < longest < FROZEN, longest


@pytest.mark.timeout(600)
def test_a_file_of_2_gb(people: People, server: Server, tmp_path: Path) -> None:
    large = tmp_path / "film.mkv"
    with large.open("wb") as file:
        for at in range(0, GB, 64 << 20):  # no chunk is like another, and the disk holds little
            file.seek(at)
            file.write(f"from {at} on".encode())
        file.truncate(GB)
    visit = people.visit()
    expect(visit.page.get_by_role("button", name="Choose files")).to_be_visible()
    visit.page.evaluate(_WATCH_FRAMES)
    visit.choose(large)
    row = visit.transfer("film.mkv")
    expect(row).to_contain_text("Checking")
    expect(row).to_contain_text("left", timeout=150 * SECONDS)
    visit.page.get_by_label("Search files").fill("film")  # one can do something else
    heading = visit.page.get_by_role("heading", name="1 file uploaded", exact=True)
    expect(heading).to_be_visible(timeout=250 * SECONDS)
    expect(visit.row("film.mkv")).to_contain_text("2.1 GB")
    _expect_at_hand(visit.page)
    (stored,) = server.api().files()
    with large.open("rb") as file:
        assert stored["hash"] == hashlib.file_digest(file, "sha256").hexdigest()
    assert stored["size"] == GB
    large.unlink()

    visit.menu("film.mkv", "Delete")
    expect(visit.row("film.mkv")).to_have_count(0)
    visit.page.goto("about:blank")  # not to be undone any more
    eventually(lambda: _stored_bytes(server.data) < GB // 100, 60, "the disk is free again")


def _stored_bytes(data: Path) -> int:
    blobs = (data / "pools/default/blobs").rglob("*")
    return sum(each.stat().st_blocks * 512 for each in blobs if each.is_file())


# How many uploads there were, and how many at once: told by the browser itself, for the events that
# come to Playwright are not in order.
_FLIGHTS = """() => {
    const flights = performance.getEntriesByType("resource")
        .filter(({ name }) => name.endsWith("/api/files/upload/direct"));
    const steps = flights.flatMap((each) => [[each.startTime, 1], [each.responseEnd, -1]]);
    steps.sort(([at, step], [other, next]) => at - other || step - next);
    let now = 0;
    const most = steps.reduce((most, [, step]) => Math.max(most, (now += step)), 0);
    return { all: flights.length, most };
}"""


def test_500_small_files_in_folders(people: People, server: Server, tmp_path: Path) -> None:
    wanted = {
        noise(tmp_path / f"photos/{number // 50}/{number:03}.txt", 500 + number).name
        for number in range(500)
    }
    visit = people.visit()
    expect(visit.page.get_by_role("button", name="Choose files")).to_be_visible()
    visit.page.evaluate("() => performance.setResourceTimingBufferSize(5000)")
    visit.page.evaluate(_WATCH_FRAMES)
    visit.choose_folder(tmp_path / "photos")
    expect(visit.page.get_by_text("Uploading")).to_be_visible()
    heading = visit.page.get_by_role("heading", name="500 files uploaded", exact=True)
    expect(heading).to_be_visible(timeout=200 * SECONDS)
    _expect_at_hand(visit.page)
    assert {file["name"] for file in _all(server)} == wanted
    flights = visit.page.evaluate(_FLIGHTS)
    assert flights["all"] >= 500
    assert 1 < flights["most"] <= 5, "what else the page asks for needs a connection, too"
    expect(visit.page.locator("#files-title .count")).to_have_text("500")
    expect(visit.page.get_by_role("button", name="Show 497 more files")).to_be_visible()
    visit.expect_narrow()
    visit.page.get_by_role("button", name="Clear").click()
    expect(visit.page.get_by_role("list", name="Uploads", exact=True)).to_have_count(0)


def _all(server: Server) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = []
    while more := server.api().call("GET", f"/api/files/me?take=100&offset={len(files)}").json():
        files += more
    return files
