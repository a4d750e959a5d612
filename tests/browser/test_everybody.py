"""The page for those without a mouse, on a small screen, in the dark; and when it says no."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Literal

import pytest
from playwright.sync_api import expect

from tests.browser.people import BROKEN, LONG, PHONE, log_in, noise, photo, put_into
from tests.harness import UPWELL, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Locator

    from tests.browser.line import Line
    from tests.browser.people import People, Visit
    from tests.harness import Server

pytestmark = pytest.mark.slow

MIB = 1 << 20


def _tab_to(visit: Visit, target: Locator, most: int = 60) -> None:
    """Press Tab until it has the focus, which has to be seen."""
    expect(target).to_be_visible()
    for _ in range(most):
        visit.page.keyboard.press("Tab")
        if target.evaluate("(element) => element === document.activeElement"):
            break
    expect(target).to_be_focused()
    outline = target.evaluate(
        """(element) => [element, element.closest("label")].some((each) => each &&
            (getComputedStyle(each).outlineStyle !== "none"
             || getComputedStyle(each).boxShadow !== "none"))"""
    )
    assert outline, "who cannot see the focus is lost"


def _choose_item(visit: Visit, name: str, item: str) -> None:
    """From the menu of a file, by keys."""
    more = visit.page.get_by_role("button", name=f"More for {name}", exact=True)
    _tab_to(visit, more)
    visit.page.keyboard.press("Enter")
    wanted = visit.page.get_by_role("menuitem", name=item, exact=True)
    expect(visit.page.get_by_role("menuitem").first).to_be_focused()
    for _ in range(8):
        if wanted.evaluate("(element) => element === document.activeElement"):
            break
        visit.page.keyboard.press("ArrowDown")
    expect(wanted).to_be_focused()
    visit.page.keyboard.press("Enter")


def test_an_upload_by_keys(people: People, line: Line, tmp_path: Path) -> None:
    visit = people.visit(line=line)
    visit.allow(BROKEN)
    button = visit.page.get_by_role("button", name="Choose files")
    _tab_to(visit, button)
    line.give(LONG // 2)  # it will not be over before one has come to the button
    with visit.page.expect_file_chooser() as chooser:
        visit.page.keyboard.press("Enter")
    chooser.value.set_files(noise(tmp_path / "film.bin", LONG))
    _tab_to(visit, visit.page.get_by_role("button", name="Pause film.bin"))
    visit.wait_until_half_way()
    visit.page.keyboard.press("Enter")
    resume = visit.page.get_by_role("button", name="Resume film.bin")
    expect(resume).to_be_visible()
    expect(resume).to_be_focused()  # it took the place of the other
    visit.page.keyboard.press("Enter")
    expect(resume).to_have_count(0)
    _tab_to(visit, visit.page.get_by_role("button", name="Pause all"))
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_role("button", name="Resume all")).to_be_focused()
    line.flow()
    visit.page.keyboard.press("Enter")
    visit.expect_uploaded(1)


def test_a_file_by_keys(people: People, server: Server, tmp_path: Path) -> None:
    """Rename, delete, undo, share."""
    visit = people.visit()
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.choose(noise(tmp_path / "draft.bin", 1000))
    expect(visit.row("draft.bin")).to_be_visible()
    _choose_item(visit, "draft.bin", "Rename")
    expect(visit.page.get_by_label("New name of draft.bin")).to_be_focused()
    visit.page.keyboard.type("final")
    visit.page.keyboard.press("Enter")
    expect(visit.row("final.bin")).to_be_visible()
    eventually(lambda: server.api().files()[0]["name"] == "final.bin", 60, "it has a new name")

    _choose_item(visit, "final.bin", "Share by link")
    create = visit.dialog().get_by_role("button", name="Create and copy a link")
    _tab_to(visit, create)
    visit.page.keyboard.press("Enter")
    expect(visit.dialog().get_by_role("textbox", name="Link")).to_be_visible()
    visit.page.keyboard.press("Escape")
    expect(visit.dialog()).to_have_count(0)
    more = visit.page.get_by_role("button", name="More for final.bin", exact=True)
    expect(more).to_be_focused()
    assert "/s/" in visit.page.evaluate("() => navigator.clipboard.readText()")

    _choose_item(visit, "final.bin", "Delete")
    expect(visit.row("final.bin")).to_have_count(0)
    undo = visit.page.get_by_role("button", name="Undo")
    _tab_to(visit, undo)
    visit.page.keyboard.press("Enter")
    expect(visit.row("final.bin")).to_be_visible()
    assert len(server.api().files()) == 1


def test_a_bundle_by_keys(people: People, server: Server) -> None:
    visit = people.visit("/#/bundles")
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    _tab_to(visit, visit.page.get_by_role("button", name="New bundle"))
    visit.page.keyboard.press("Enter")
    expect(visit.dialog().get_by_label("Name", exact=True)).to_be_visible()
    visit.page.keyboard.press("Escape")
    expect(visit.dialog()).to_have_count(0)
    expect(visit.page.get_by_role("button", name="New bundle")).to_be_focused()
    visit.page.keyboard.press("Enter")
    name = visit.dialog().get_by_label("Name", exact=True)
    expect(name).to_be_focused()
    visit.page.keyboard.type("Summer")
    visit.page.keyboard.press("Enter")
    expect(visit.dialog()).to_have_count(0)
    _tab_to(visit, visit.page.get_by_role("button", name="Copy link of Summer"))
    visit.page.keyboard.press("Enter")
    expect(visit.page.get_by_text("Link copied.")).to_be_visible()
    (bundle,) = server.api().call("GET", "/api/bundles").json()
    copied = visit.page.evaluate("() => navigator.clipboard.readText()")
    assert copied.endswith(f"/b/{bundle['slug']}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_dialog(
    people: People, server: Server, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    """axe finds nothing, on a phone; Escape closes it, and the focus is where it was."""
    made = server.api().post_json("/api/bundles", {"name": "Summer"}).json()
    visit = people.visit(size=PHONE, scheme=scheme)
    visit.choose(photo(tmp_path / "Lake.png"), noise(tmp_path / "notes.bin", 5000))
    visit.expect_uploaded(2)
    visit.page.get_by_role("switch", name="Encrypt with a password").check()
    visit.page.get_by_label("Password", exact=True).fill("secret")
    visit.page.get_by_label("Password again").fill("secret")
    visit.choose(noise(tmp_path / "diary.bin", 5000))
    visit.expect_uploaded(3)
    put_into(server, made["id"], server.api().files()[0]["id"])
    picture = visit.page.get_by_role("button", name="Lake.png", exact=True)
    locked = visit.page.get_by_role("button", name="diary.bin", exact=True)
    for button in (picture, locked):
        button.press("Enter")
        _look_and_leave(visit)
        expect(button).to_be_focused()
    for item in ("Share by link", "Put into a bundle"):
        visit.menu("Lake.png", item)
        _look_and_leave(visit)
        more = visit.page.get_by_role("button", name="More for Lake.png", exact=True)
        expect(more).to_be_focused()
    visit.page.get_by_role("link", name="Bundles", exact=True).click()
    visit.page.get_by_role("button", name="New bundle").click()
    visit.dialog().get_by_role("switch", name="Ask visitors for a passcode").check()
    _look_and_leave(visit)
    for item in ("Change", "Delete"):
        visit.menu("Summer", item)
        _look_and_leave(visit)


def _look_and_leave(visit: Visit) -> None:
    expect(visit.dialog()).to_be_visible()
    visit.expect_accessible()
    visit.page.keyboard.press("Escape")
    expect(visit.dialog()).to_have_count(0)


def test_nothing_jumps_while_files_are_sent(people: People, tmp_path: Path) -> None:
    """What a person is about to press stays, but for what they asked for themselves."""
    visit = people.visit()
    expect(visit.page.get_by_text("No files yet.")).to_be_visible()
    visit.slow_down(2 * MIB)
    visit.choose(noise(tmp_path / "film.bin", 12 * MIB), photo(tmp_path / "Lake.png"))
    expect(visit.transfer("film.bin")).to_contain_text(re.compile(r"/s · .* left"))
    visit.page.evaluate(
        """() => {
            window.shifts = [];
            const note = (list) => window.shifts.push(...list.getEntries()
                .filter((each) => !each.hadRecentInput).map((each) => each.value));
            new PerformanceObserver(note).observe({ type: "layout-shift" });
        }"""
    )
    visit.expect_uploaded(2)
    expect(visit.row("film.bin")).to_be_visible()
    assert visit.page.evaluate("() => window.shifts.reduce((a, b) => a + b, 0)") < 0.05


def test_a_session_that_ends_while_files_are_sent(
    people: People, server: Server, line: Line, tmp_path: Path
) -> None:
    """It says so, and goes on after another login."""
    file = noise(tmp_path / "film.bin", LONG)
    visit = people.visit(line=line)
    visit.allow(BROKEN + "|401|logged out|log in|login|session|token")
    line.give(LONG // 2)
    visit.choose(file)
    visit.wait_until_half_way()
    visit.context.clear_cookies()
    line.flow()
    expect(visit.page.get_by_text("You are logged out.")).to_be_visible()
    visit.expect_accessible()
    (task,) = server.api().tasks()
    there = task["chunks_uploaded"]
    other = people.visit(profile=visit)
    other.allow("401")
    log_in(other.page, server)
    visit.page.get_by_role("button", name="Go on").click()
    visit.expect_uploaded(1)
    assert there > 0
    assert server.api().resume(task["task_id"])["status"] == "completed"
    (stored,) = server.api().files()
    assert server.api().download(stored["id"]) == file.read_bytes()


@pytest.mark.own_server
def test_no_space_in_words(people: People, server: Server, tmp_path: Path) -> None:
    """How much is left and how much is needed; after making room it goes on."""
    _set_quota(server, 3 * MIB)
    visit = people.visit(size=PHONE)
    visit.allow("413|507|403|quota|space|large.bin")
    visit.choose(noise(tmp_path / "first.bin", 2 * MIB))
    visit.expect_uploaded(1)
    visit.choose(noise(tmp_path / "large.bin", 2 * MIB))
    told = "Not enough space: it needs 2.1 MB, and 1.0 MB are left. Delete something first."
    expect(visit.transfer("large.bin")).to_contain_text(told)
    visit.expect_accessible()
    (first,) = server.api().files()
    assert server.api().call("DELETE", f"/api/files/{first['id']}").status == 204
    expect(visit.row("first.bin")).to_have_count(0)
    visit.page.get_by_role("button", name="Retry large.bin").click()
    expect(visit.row("large.bin")).to_be_visible()


def _set_quota(server: Server, size: int) -> None:
    command = [UPWELL, "account", "quota", "owner", str(size), "--data", str(server.data)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
