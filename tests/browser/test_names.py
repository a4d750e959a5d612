"""Names as people and attackers give them: shown as they are, and nothing comes of them."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from tests.browser.people import PHONE, noise, photo, put_into
from tests.harness import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.browser.people import People, Visit
    from tests.harness import Server

pytestmark = pytest.mark.slow

SCRIPT = "<img src=x onerror=window.harmed=1>.png"
NAMES = {
    "two directions": "תמונה 2026 صورة.txt",
    "override": "invoice\u202efdp.exe",  # shows as invoiceexe.pdf where it is not isolated
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 family 🇪🇺.txt",
    "four bytes": "𠜎𠜱𝒳🜁.txt",
    "long": "n" * 996 + ".txt",
    "long words": "lorem ipsum " * 80 + ".txt",
    "many marks": "Z" + "\u0351\u035c\u0489" * 60 + ".txt",
    "leading dots": "..hidden",
    "dot": ".profile",
    "way up": "../../etc/passwd",
    "backslash": "C:\\Windows\\win.ini",
    "script": "<script>window.harmed=1</script>.txt",
    "quotes": "\"'><svg onload=window.harmed=1>.txt",
    "braces": "{{7*7}} %s %2e%2e%2f ${x}.txt",
    "line break": "two\r\nlines\r\nX-Harm: 1.txt",
    "composed": "Amélie.txt",
    "decomposed": "Ame\u0301lie.txt",
    "device": "CON",
    "blanks": "  wide   gaps  .txt",
}
_BURST, _PAUSE = 9, 11_000  # Chromium ignores the eleventh download within ten seconds
_SHOWN = "() => [...document.querySelectorAll('.row .name bdi')].map((each) => each.textContent)"


def _payload(name: str) -> dict[str, Any]:
    """A file that a browser would have; `/` and line breaks are not in names on every disk."""
    return {"name": name, "mimeType": "text/plain", "buffer": f"content of {name!r}".encode()}


def _guard(page: Page) -> None:
    """Fails when a name was carried out."""

    def fail(dialog: object) -> None:
        raise AssertionError(f"a dialog came: {dialog}")

    page.on("dialog", fail)


def _expect_unharmed(visit: Visit) -> None:
    assert visit.page.evaluate("() => window.harmed") is None
    visit.expect_narrow()


def _input(visit: Visit) -> Any:
    return visit.page.locator(".uppy-Dashboard-input").first


@pytest.fixture
def stored(people: People, server: Server) -> Visit:
    """All of them, sent from a phone."""
    visit = people.visit(size=PHONE)
    _guard(visit.page)
    expect(visit.page.get_by_role("button", name="Choose files")).to_be_visible()
    _input(visit).set_input_files([_payload(name) for name in NAMES.values()])
    visit.expect_uploaded(len(NAMES))
    expect(visit.page.locator("#files-title .count")).to_have_text(str(len(NAMES)))
    return visit


def test_odd_names_in_the_list(stored: Visit, server: Server) -> None:
    """As they are, character by character; also those that look alike."""
    assert {file["name"] for file in server.api().files()} == set(NAMES.values())
    assert set(stored.page.evaluate(_SHOWN)) == set(NAMES.values())
    _expect_unharmed(stored)
    stored.expect_accessible()
    stored.page.set_viewport_size({"width": 1280, "height": 900})
    _expect_unharmed(stored)
    search = stored.page.get_by_label("Search files")
    for text, found in (
        ("صورة", "two directions"),
        ("🏳️‍🌈", "emoji"),
        ("🜁", "four bytes"),
        ("n" * 990, "long"),
        ("<SCRIPT>", "script"),
        ("%2e", "braces"),
        ("\\win", "backslash"),
        ("../", "way up"),
    ):
        search.clear()
        search.focus()
        stored.page.keyboard.insert_text(text)  # as pasted: more than is looked for is cut off
        expect(stored.row(NAMES[found])).to_be_visible()
        expect(stored.page.locator(".row")).to_have_count(1)


def test_odd_names_are_given(stored: Visit, server: Server) -> None:
    search = stored.page.get_by_label("Search files")
    search.fill("CON")
    expect(stored.row("CON")).to_be_visible()
    for before, after in (("CON", SCRIPT), (SCRIPT, "ש" * 500 + "🌊" * 250)):
        stored.menu(before, "Rename")
        field = stored.page.get_by_label(f"New name of {before}", exact=True)
        field.fill(after)
        search.evaluate("(input) => input.focus()")  # typing elsewhere does not save it
        field.press("Enter")

        def has(name: str = after) -> bool:
            return name in {file["name"] for file in server.api().files()}

        eventually(has, 60, "the server knows the name")
        search.fill("")  # it is called otherwise now
        expect(stored.row(after)).to_be_visible()
        _expect_unharmed(stored)


def test_a_name_of_emoji_alone(people: People, server: Server, tmp_path: Path) -> None:
    """Characters are counted, not the halves that scripts take some of them for."""
    visit = people.visit()
    visit.choose(noise(tmp_path / "sea.bin", 1000))
    visit.expect_uploaded(1)
    visit.menu("sea.bin", "Rename")
    field = visit.page.get_by_label("New name of sea.bin", exact=True)
    most, more = "🌊" * 1024, "🌊" * 1025
    field.select_text()
    visit.page.keyboard.insert_text(more)  # as typed: `fill` would ignore what is allowed
    field.press("Enter")
    assert field.evaluate("(input) => input.validationMessage") == "At most 1,024 characters."
    assert [file["name"] for file in server.api().files()] == ["sea.bin"]
    field.select_text()
    visit.page.keyboard.insert_text(most)
    field.press("Enter")
    eventually(lambda: server.api().files()[0]["name"] == most, 60, "the server knows the name")


def test_odd_names_are_saved_safely(stored: Visit, server: Server) -> None:
    """As one file in the folder for downloads, with its content."""
    stored.page.set_viewport_size({"width": 1280, "height": 900})
    links = stored.page.get_by_role("link", name=re.compile("^Download"))
    names = stored.page.evaluate(_SHOWN)
    assert links.count() == len(names) == len(NAMES)
    for number, name in enumerate(names):
        if number % _BURST == 0:
            stored.page.wait_for_timeout(_PAUSE)
        with stored.page.expect_download() as download:
            links.nth(number).click()
        saved = download.value
        assert saved.path().read_bytes() == _payload(name)["buffer"]
        given = saved.suggested_filename
        assert given
        assert not set(given) & set('/\\\n\r\0"'), given
        assert ".." not in PurePosixPath(given).parts
        assert len(given.encode()) <= 4096


def test_odd_names_in_a_bundle(people: People, stored: Visit, server: Server) -> None:
    """On its page, the pages of its files, and in the ZIP."""
    api = server.api()
    made = api.post_json("/api/bundles", {"name": SCRIPT, "description": SCRIPT, "slug": "odd"})
    bundle = made.json()["id"]
    for file in api.files():
        put_into(server, bundle, file["id"])
    stranger = people.visit("/b/odd", size=PHONE, logged_in=False)
    _guard(stranger.page)
    names = stranger.page.locator("li .name")
    expect(names).to_have_count(len(NAMES))
    shown = set(names.evaluate_all("(all) => all.map((each) => each.textContent)"))
    assert shown == {_visible(name) for name in NAMES.values()}
    _expect_unharmed(stranger)
    stranger.expect_accessible()
    for name in ("script", "override", "long", "line break"):
        stranger.page.locator("li a.card").nth(_place(stranger, NAMES[name])).click()
        heading = stranger.page.locator("h1").evaluate("(h) => h.textContent")
        assert heading == _visible(NAMES[name])
        _expect_unharmed(stranger)
        stranger.page.go_back()
    with stranger.page.expect_download() as download:
        stranger.page.get_by_role("link", name="Download all").click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as zipped:
        listed = zipped.namelist()
        assert len(listed) == len(set(listed)) == len(NAMES)
        assert {zipped.read(each) for each in listed} == {
            _payload(name)["buffer"] for name in NAMES.values()
        }
        for each in listed:
            assert not each.startswith(("/", "\\")), each
            assert ".." not in PurePosixPath(each).parts


def _visible(name: str) -> str:
    """What strangers see: nothing that turns or hides what follows it."""
    return re.sub("[\r\u202e]", "\ufffd", name)


def _place(visit: Visit, name: str) -> int:
    """Of a file on the bundle's page."""
    names = visit.page.locator("bdi.name")
    texts: list[str] = names.evaluate_all("(all) => all.map((each) => each.textContent)")
    return texts.index(_visible(name))


def test_an_odd_name_in_a_preview(people: People, tmp_path: Path) -> None:
    picture = photo(tmp_path / "picture.png").read_bytes()
    visit = people.visit(size=PHONE)
    _guard(visit.page)
    expect(visit.page.get_by_role("button", name="Choose files")).to_be_visible()
    name = "<b onclick=alert(1)>\u202e" + "x" * 300 + ".png"
    _input(visit).set_input_files([{"name": name, "mimeType": "image/png", "buffer": picture}])
    visit.expect_uploaded(1)
    visit.row(name).get_by_role("button").first.click()
    shown = visit.dialog().get_by_role("img", name=name)
    expect(shown).to_be_visible()
    visit.expect_accessible()
    _expect_unharmed(visit)
    visit.page.keyboard.press("Escape")
    for item in ("Share by link", "Put into a bundle"):
        visit.menu(name, item)
        expect(visit.dialog()).to_be_visible()
        visit.expect_accessible()
        _expect_unharmed(visit)
        visit.page.keyboard.press("Escape")
        expect(visit.dialog()).to_have_count(0)
