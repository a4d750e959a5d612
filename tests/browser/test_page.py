"""The page as such: who may see it, how it looks to whom, what it weighs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
from playwright.sync_api import expect

from tests.browser.people import DESKTOP, LONG, PHONE, log_in, login_link, noise, photo, set_policy

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.people import People
    from tests.harness import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BUDGET = 150_000  # bytes, compressed


@pytest.mark.parametrize("script", ["test", "weigh"])
def test_its_parts_and_its_weight(chromium: Browser, script: str) -> None:
    """Its own tests without a browser, and the budget over all files of the build."""
    npm = [str(ROOT / "scripts/npm.sh"), sys.prefix, "run", script, "--workspace", "app"]
    done = subprocess.run(npm, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stranger_is_told_how_to_come_in(people: People, server: Server) -> None:
    visit = people.visit(logged_in=False)
    visit.allow("401")
    expect(visit.page.get_by_role("heading", name="Welcome to Upwell")).to_be_visible()
    visit.expect_accessible()
    visit.page.get_by_label("paste the link").fill(login_link(server))
    visit.page.get_by_role("button", name="Log in").click()
    expect(visit.page.get_by_text("No files yet.")).to_be_visible()
    visit.page.get_by_role("button", name="Log out").click()
    expect(visit.page.get_by_role("heading", name="Welcome to Upwell")).to_be_visible()


def test_a_session_that_ends_meanwhile(people: People, server: Server) -> None:
    """The page stays as it is, and goes on after another login in the same browser."""
    visit = people.visit()
    expect(visit.page.get_by_text("No files yet.")).to_be_visible()
    visit.context.clear_cookies()
    visit.allow("401")
    visit.page.get_by_label("Search files").fill("x")
    expect(visit.page.get_by_text("You are logged out.")).to_be_visible()
    visit.expect_accessible()
    other = people.visit(profile=visit)
    other.allow("401")
    log_in(other.page, server)
    visit.page.get_by_role("button", name="Go on").click()
    expect(visit.page.get_by_text("You are logged out.")).to_have_count(0)


@pytest.mark.own_server
def test_the_server_is_away_for_a_while(people: People, server: Server, tmp_path: Path) -> None:
    """Killed in the middle of an upload, and started again: it goes on by itself."""
    visit = people.visit()
    visit.allow("ERR_CONNECTION|ERR_EMPTY_RESPONSE|Failed to load resource|net::")
    file = noise(tmp_path / "film.bin", LONG)
    visit.slow_down(LONG // 10)
    visit.choose(file)
    visit.wait_until_half_way()
    port = server.port
    server.kill()
    expect(visit.page.get_by_text("No connection to the server.")).to_be_visible()
    server.start(port)
    visit.slow_down(0)
    visit.expect_uploaded(1)
    expect(visit.page.get_by_text("No connection to the server.")).to_have_count(0)
    (stored,) = server.api().files()
    assert server.api().download(stored["id"]) == file.read_bytes()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible_and_narrow_enough(
    people: People,
    server: Server,
    tmp_path: Path,
    size: tuple[int, int],
    scheme: Literal["light", "dark"],
) -> None:
    """axe finds nothing, and nothing is scrolled sideways; also with names that do not break."""
    api = server.api()
    api.post_json("/api/bundles", {"name": "B" * 200, "passcode": "1", "description": "d" * 300})
    api.create(1000, 1000, file_name="unfinished" * 20)
    visit = people.visit(size=size, scheme=scheme)
    expect(visit.page.get_by_role("button", name="Choose files")).to_be_visible()
    expect(visit.page.get_by_text("Waiting for the file")).to_be_visible()
    visit.expect_accessible()
    visit.page.get_by_role("switch", name="Encrypt with a password").check()
    visit.expect_accessible()
    visit.page.get_by_role("switch", name="Encrypt with a password").uncheck()
    visit.choose(
        photo(tmp_path / "Lake.png"),
        noise(tmp_path / ("n" * 180 + ".bin"), 2000),
        noise(tmp_path / "שלום עולם 🌊.txt", 2000),
    )
    visit.expect_uploaded(3)
    expect(visit.row("Lake.png").locator("img")).to_be_visible()
    visit.expect_accessible()
    visit.page.get_by_role("button", name="More for Lake.png").click()
    visit.expect_accessible()
    visit.page.keyboard.press("Escape")
    visit.page.get_by_role("link", name="Bundles").click()
    expect(visit.page.get_by_role("link", name="B" * 200, exact=True)).to_be_visible()
    visit.expect_accessible()
    visit.page.get_by_role("link", name="B" * 200, exact=True).click()
    expect(visit.page.get_by_text("Nothing is in this bundle yet.")).to_be_visible()
    visit.expect_accessible()


def test_by_keyboard_alone(people: People, server: Server, tmp_path: Path) -> None:
    photo(tmp_path / "Lake.png")
    visit = people.visit()
    visit.choose(tmp_path / "Lake.png")
    expect(visit.row("Lake.png")).to_be_visible()
    visit.page.get_by_role("checkbox", name="Select Lake.png").focus()
    for expected in ("Lake.png", "Download Lake.png", "More for Lake.png"):
        visit.page.keyboard.press("Tab")
        focused = visit.page.locator(":focus")
        assert expected in (focused.get_attribute("aria-label"), focused.inner_text())
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_role("menuitem", name="Download")).to_be_focused()
    visit.page.keyboard.press("End")
    expect(visit.page.get_by_role("menuitem", name="Delete")).to_be_focused()
    visit.page.keyboard.press("Escape")
    expect(visit.page.get_by_role("button", name="More for Lake.png")).to_be_focused()
    visit.page.get_by_role("button", name="Lake.png", exact=True).press("Enter")
    expect(visit.dialog()).to_be_visible()
    visit.page.keyboard.press("Escape")
    expect(visit.page.get_by_role("button", name="Lake.png", exact=True)).to_be_focused()


@pytest.mark.own_server
def test_the_limit_that_is_reached_first_is_told(people: People, server: Server) -> None:
    visit = people.visit()
    expect(visit.page.locator(".usage")).to_have_text("0 bytes used")
    set_policy(server, "--quota", "3M")
    visit.page.reload()
    expect(visit.page.locator(".usage")).to_have_text("0 bytes of 3.1 MB in “default”")


def test_those_who_listen_are_told(people: People, tmp_path: Path) -> None:
    visit = people.visit()
    visit.choose(noise(tmp_path / "one.bin", 100), noise(tmp_path / "two.bin", 100))
    expect(visit.page.get_by_role("log")).to_have_text("2 files uploaded.")


def test_the_weight_of_a_first_visit(people: People, tmp_path: Path) -> None:
    """All that the network carries until files can be dropped and one was sent."""
    visit = people.visit()
    expect(visit.page.get_by_role("button", name="Choose files")).to_be_visible()
    visit.choose(noise(tmp_path / "some.bin", 3 << 20))
    visit.expect_uploaded(1)
    sizes = visit.page.evaluate(
        """() => performance.getEntries()
            .filter((entry) => entry.encodedBodySize && !entry.name.includes("/api/"))
            .map((entry) => [entry.name, entry.encodedBodySize])"""
    )
    assert any("upload" in name for name, _ in sizes), sizes
    assert sum(size for _, size in sizes) < BUDGET, sizes


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_jumps(people: People, server: Server, size: tuple[int, int]) -> None:
    """While the page comes to be, what is there stays where it is."""
    visit = people.visit(path="/docs", size=size)
    visit.allow("favicon.ico")
    visit.page.add_init_script(
        """window.shifts = [];
        const note = (list) => window.shifts.push(...list.getEntries().map((each) => each.value));
        new PerformanceObserver(note).observe({ type: "layout-shift", buffered: true });"""
    )
    visit.open("/")
    expect(visit.page.get_by_role("button", name="Choose files")).to_be_visible()
    expect(visit.page.get_by_text("No files yet.")).to_be_visible()
    visit.page.wait_for_timeout(500)
    assert visit.page.evaluate("() => window.shifts.reduce((a, b) => a + b, 0)") < 0.02
