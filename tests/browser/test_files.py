"""The list of files, and what can be done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from playwright.sync_api import expect

from tests.browser.people import noise, photo, set_policy
from tests.harness import BOUNDARY, eventually
from tests.media.samples import recording

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.people import People
    from tests.harness import Server

pytestmark = pytest.mark.slow


def _store(server: Server, name: str, content: bytes = b"content", kind: str = "text/plain") -> Any:
    """A file of the owner's, sent by somebody else than the page."""
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: {kind}'
    body = f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = server.api().call("POST", "/api/files/upload/direct", body, form)
    assert answer.status == 200, answer
    return answer.json()


def test_search_and_sort(people: People, server: Server) -> None:
    for name, size in (("beta.txt", 30), ("alpha.txt", 20), ("gamma.csv", 10)):
        _store(server, name, b"x" * size + name.encode())
    visit = people.visit()
    expect(visit.row("gamma.csv")).to_be_visible()
    assert visit.names() == ["gamma.csv", "alpha.txt", "beta.txt"]
    for order, first in (
        ("Name, A to Z", "alpha.txt"),
        ("Largest first", "beta.txt"),
        ("Oldest first", "beta.txt"),
        ("Name, Z to A", "gamma.csv"),
    ):
        visit.page.get_by_label("Sort").select_option(order)
        expect(visit.page.locator(".row .name").first).to_have_text(first)
    visit.page.get_by_label("Search files").fill("TXT")
    expect(visit.row("gamma.csv")).to_have_count(0)
    assert visit.names() == ["beta.txt", "alpha.txt"]
    visit.page.get_by_label("Search files").fill("nothing like it")
    expect(visit.page.get_by_text("No file has")).to_be_visible()


def test_all_pages_of_a_long_list(people: People, server: Server) -> None:
    for number in range(130):
        _store(server, f"{number:03}.txt", str(number).encode())
    visit = people.visit()
    expect(visit.row("129.txt")).to_be_visible()

    def has_all() -> bool:
        visit.page.evaluate("() => scrollTo(0, document.body.scrollHeight)")
        visit.page.wait_for_timeout(100)
        return len(visit.names()) == 130

    eventually(has_all, 30, "every row is listed")
    assert visit.names() == [f"{number:03}.txt" for number in reversed(range(130))]


def test_what_happens_elsewhere_shows(people: People, server: Server) -> None:
    visit = people.visit()
    expect(visit.page.get_by_text("No files yet.")).to_be_visible()
    file = _store(server, "from the shell.txt")
    expect(visit.row("from the shell.txt")).to_be_visible()
    server.api().call("DELETE", f"/api/files/{file['id']}")
    expect(visit.row("from the shell.txt")).to_have_count(0)


def test_rename(people: People, server: Server) -> None:
    file = _store(server, "draft.txt")
    visit = people.visit()
    visit.menu("draft.txt", "Rename")
    field = visit.page.get_by_label("New name of draft.txt")
    expect(field).to_be_focused()
    visit.page.keyboard.type("final")  # the stem is selected, the extension stays
    visit.page.keyboard.press("Enter")
    expect(visit.row("final.txt")).to_be_visible()

    def name() -> str:
        info = server.api().call("GET", f"/api/files/{file['id']}/info").json()
        return str(info["name"])

    eventually(lambda: name() == "final.txt", 30, "the server knows the new name")
    visit.menu("final.txt", "Rename")
    visit.page.keyboard.type("no")
    visit.page.keyboard.press("Escape")
    expect(visit.row("final.txt")).to_be_visible()


@pytest.mark.own_server
@pytest.mark.parametrize("recycled", [True, False], ids=["recycle bin", "held back"])
def test_delete_can_be_undone(people: People, server: Server, recycled: bool) -> None:
    if recycled:
        set_policy(server, "--recycle")
    file = _store(server, "mistake.txt")
    visit = people.visit()
    visit.menu("mistake.txt", "Delete")
    expect(visit.row("mistake.txt")).to_have_count(0)
    if recycled:
        eventually(lambda: server.api().files() == [], 30, "it is in the recycle bin")
    visit.page.get_by_role("button", name="Undo").click()
    expect(visit.row("mistake.txt")).to_be_visible()
    assert server.api().download(file["id"]) == b"content"


def test_delete_is_carried_out(people: People, server: Server) -> None:
    """Also when the page is left before one could not undo it any more."""
    _store(server, "one.txt", b"1")
    _store(server, "two.txt", b"2")
    visit = people.visit()
    visit.page.get_by_role("checkbox", name="Select one.txt").check()
    visit.page.get_by_role("checkbox", name="Select two.txt").check()
    expect(visit.page.get_by_text("2 files selected")).to_be_visible()
    visit.expect_accessible()
    visit.page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    expect(visit.page.get_by_text("Deleted 2 files.")).to_be_visible()
    assert len(server.api().files()) == 2
    visit.page.goto("about:blank")
    eventually(lambda: server.api().files() == [], 30, "both are gone")


def test_previews(people: People, server: Server, tmp_path: Path) -> None:
    picture = photo(tmp_path / "Lake.png").read_bytes()
    _store(server, "Lake.png", picture, "image/png")
    _store(server, "Clip.mp4", recording("mp4", video="h264"), "video/mp4")
    _store(server, "notes.txt")
    visit = people.visit()
    visit.page.get_by_role("button", name="Lake.png", exact=True).click()
    shown = visit.dialog().get_by_role("img", name="Lake.png")
    expect(shown).to_be_visible()
    assert shown.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }")
    visit.expect_accessible()
    visit.page.keyboard.press("ArrowLeft")
    video = visit.dialog().locator("video")
    expect(video).to_be_visible()
    eventually(
        lambda: video.evaluate("video => video.readyState") > 0, 30, "the video's head was read"
    )
    visit.page.keyboard.press("Escape")
    expect(visit.dialog()).to_have_count(0)
    expect(visit.page.get_by_role("button", name="notes.txt", exact=True)).to_have_count(0)
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name="Download Lake.png").click()
    assert download.value.path().read_bytes() == picture


def test_a_link_to_share(people: People, server: Server) -> None:
    _store(server, "report.txt")
    visit = people.visit()
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.menu("report.txt", "Share by link")
    visit.dialog().get_by_label("Works for").select_option("1 day")
    visit.dialog().get_by_label("Can be used").select_option("3 times")
    visit.dialog().get_by_role("button", name="Create and copy a link").click()
    expect(visit.dialog().get_by_text("3 downloads left")).to_be_visible()
    link = visit.page.evaluate("() => navigator.clipboard.readText()")
    assert httpx2.get(link).content == b"content"
    visit.expect_accessible()
    visit.dialog().get_by_role("button", name="Revoke").click()
    expect(visit.dialog().get_by_text("3 downloads left")).to_have_count(0)
    assert httpx2.get(link).status_code == 404


def test_a_bundle_from_beginning_to_end(people: People, server: Server, tmp_path: Path) -> None:
    _store(server, "inside.txt")
    visit = people.visit("/#/bundles")
    expect(visit.page.get_by_text("No bundles yet.")).to_be_visible()
    visit.page.get_by_role("button", name="New bundle").click()
    visit.dialog().get_by_label("Name", exact=True).fill("Summer 2026")
    visit.dialog().get_by_label("Address (optional)").fill("Not An Address")
    visit.expect_accessible()
    visit.allow("400")
    visit.dialog().get_by_role("button", name="Make the bundle").click()
    expect(visit.dialog().locator(".problem")).to_be_visible()
    visit.dialog().get_by_label("Address (optional)").fill("summer")
    visit.dialog().get_by_role("switch", name="Ask visitors for a passcode").check()
    visit.dialog().get_by_label("Passcode", exact=True).fill("1234")
    visit.dialog().get_by_role("button", name="Make the bundle").click()
    expect(visit.dialog()).to_have_count(0)
    visit.page.get_by_role("link", name="Summer 2026", exact=True).click()
    visit.choose(noise(tmp_path / "new.bin", 1000))
    expect(visit.row("new.bin")).to_be_visible()

    visit.page.get_by_role("link", name="Files", exact=True).click()
    visit.menu("inside.txt", "Put into a bundle")
    visit.dialog().get_by_label("Bundle").select_option("Summer 2026")
    visit.dialog().get_by_role("button", name="Put in").click()
    expect(visit.row("inside.txt")).to_contain_text("Summer 2026")
    visit.menu("new.bin", "Take out of the bundle")
    expect(visit.row("new.bin")).not_to_contain_text("Summer 2026")

    stranger = people.visit("/b/summer", logged_in=False)
    stranger.allow("40[13]|favicon.ico")
    stranger.page.locator("input[type=password]").fill("1234")
    stranger.page.keyboard.press("Enter")
    expect(stranger.page.get_by_text("inside.txt").first).to_be_visible()
    expect(stranger.page.get_by_text("new.bin")).to_have_count(0)

    visit.page.get_by_role("link", name="Bundles").click()
    visit.menu("Summer 2026", "Change")
    visit.dialog().get_by_label("Name", exact=True).fill("Autumn")
    visit.dialog().get_by_role("switch", name="Ask visitors for a passcode").uncheck()
    visit.dialog().get_by_role("button", name="Save").click()
    expect(visit.page.get_by_role("link", name="Autumn", exact=True)).to_be_visible()
    (bundle,) = server.api().call("GET", "/api/bundles").json()
    assert not bundle["has_passcode"]
    visit.menu("Autumn", "Delete")
    visit.dialog().get_by_role("button", name="Delete").click()
    expect(visit.page.get_by_text("No bundles yet.")).to_be_visible()
    assert [file["name"] for file in server.api().files()] == ["new.bin"]


@pytest.mark.own_server
def test_the_recycle_bin(people: People, server: Server) -> None:
    """What was deleted is restored, or deleted for good; where nothing is kept, nothing is said."""
    visit = people.visit()
    bin_button = visit.page.get_by_role("button", name="Deleted files")
    expect(visit.page.get_by_text("No files yet.")).to_be_visible()
    expect(bin_button).to_have_count(0)
    set_policy(server, "--recycle")
    for name in ("letter.txt", "draft.txt"):
        file = _store(server, name, name.encode())
        server.api().call("DELETE", f"/api/files/{file['id']}")
    visit.page.reload()
    expect(bin_button).to_have_text("Deleted files (2)")
    bin_button.click()
    visit.expect_accessible()
    visit.dialog().get_by_role("button", name="Restore letter.txt").click()
    expect(visit.dialog().get_by_role("listitem")).to_have_count(1)
    visit.dialog().get_by_role("button", name="Delete draft.txt for good").click()
    visit.expect_accessible()
    visit.dialog().get_by_role("button", name="Keep draft.txt").click()
    visit.dialog().get_by_role("button", name="Delete draft.txt for good").click()
    visit.dialog().get_by_role("button", name="Delete for good: draft.txt").click()
    expect(visit.dialog().get_by_text("Nothing is here.")).to_be_visible()
    visit.page.keyboard.press("Escape")
    expect(visit.row("letter.txt")).to_be_visible()
    expect(bin_button).to_have_text("Deleted files")
    assert server.api().call("GET", "/api/files/recycle").json() == []
    visit.menu("letter.txt", "Delete")
    expect(bin_button).to_have_text("Deleted files (1)")
