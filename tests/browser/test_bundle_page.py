"""The public page of a bundle, as those who got its link see it."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any, Literal

import pytest
from playwright.sync_api import expect

from tests.browser.people import DESKTOP, PHONE, noise, photo
from tests.harness import eventually
from tests.media.samples import recording

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.people import People, Visit
    from tests.harness import Server

pytestmark = pytest.mark.slow

PASSCODE = "1234"


@pytest.fixture
def contents(people: People, server: Server, tmp_path: Path) -> dict[str, bytes]:
    """What lies in a bundle behind a passcode, put there on the page."""
    (tmp_path / "Clip.mp4").write_bytes(recording("mp4", video="h264"))
    files = [
        photo(tmp_path / "Lake.png"),
        tmp_path / "Clip.mp4",
        noise(tmp_path / "notes.bin", 200_000),
    ]
    asked = {"name": "Summer", "slug": "summer", "passcode": PASSCODE, "description": "At the sea"}
    bundle = server.api().post_json("/api/bundles", asked).json()
    visit = people.visit(f"/#/bundles/{bundle['id']}")
    expect(visit.page.get_by_role("heading", name="Summer", exact=True)).to_be_visible()
    expect(visit.page.get_by_label("Put into")).to_have_value(bundle["id"])
    visit.choose(*files)
    visit.expect_uploaded(3)
    eventually(
        lambda: sum(file["has_thumbnail"] for file in server.api().files()) == 2,
        60,
        "previews are made",
    )
    visit.page.close()  # what becomes of the bundle is no news there
    return {file.name: file.read_bytes() for file in files}


def _come_in(visit: Visit, passcode: str = PASSCODE) -> None:
    visit.page.get_by_label("Passcode").fill(passcode)
    visit.page.keyboard.press("Enter")


def _saved(visit: Visit, link: str) -> tuple[str, bytes]:
    with visit.page.expect_download() as download:
        visit.page.get_by_role("link", name=link).first.click()
    return download.value.suggested_filename, download.value.path().read_bytes()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_visitor(
    people: People,
    contents: dict[str, bytes],
    size: tuple[int, int],
    scheme: Literal["light", "dark"],
) -> None:
    visit = people.visit("/b/summer", size=size, scheme=scheme, logged_in=False)
    visit.allow("40[13]")
    expect(visit.page.get_by_label("Passcode")).to_be_focused()
    visit.expect_accessible()
    _come_in(visit, "4321")
    expect(visit.page.get_by_role("alert")).to_be_visible()
    visit.expect_accessible()
    _come_in(visit)
    expect(visit.page.get_by_role("heading", name="Summer", exact=True)).to_be_visible()
    expect(visit.page.get_by_text("At the sea")).to_be_visible()
    visit.expect_accessible()

    name, content = _saved(visit, "Download all")
    assert name.endswith(".zip")
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        assert zipped.testzip() is None
        assert {each: zipped.read(each) for each in zipped.namelist()} == contents
    for each, wanted in contents.items():
        assert _saved(visit, f"Download {each}") == (each, wanted)


def test_a_visitor_looks_at_a_file(people: People, contents: dict[str, bytes]) -> None:
    visit = people.visit("/b/summer", size=PHONE, logged_in=False)
    visit.allow("40[13]")
    _come_in(visit)
    visit.page.get_by_role("link", name="Lake.png").first.click()
    picture = visit.page.get_by_role("img", name="Lake.png")
    expect(picture).to_be_visible()
    assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }")
    visit.expect_accessible()
    visit.page.go_back()
    visit.page.get_by_role("link", name="Clip.mp4").first.click()
    film = visit.page.locator("video")
    expect(film).to_be_visible()
    eventually(
        lambda: film.evaluate("video => video.readyState") > 0, 60, "the film's head is read"
    )
    visit.expect_accessible()
    seen = set()
    while visit.page.get_by_role("link", name="Previous").count():
        visit.page.get_by_role("link", name="Previous").click()
    for _ in contents:
        seen.add(visit.page.locator("h1").inner_text())
        if visit.page.get_by_role("link", name="Next").count():
            visit.page.get_by_role("link", name="Next").click()
    assert seen == set(contents)


def test_the_page_is_light_and_needs_no_script(people: People, contents: dict[str, bytes]) -> None:
    """A page, a style and small pictures."""
    visit = people.visit("/b/summer", size=PHONE, logged_in=False, java_script_enabled=True)
    visit.allow("40[13]")
    _come_in(visit)
    expect(visit.page.get_by_role("link", name="Download all")).to_be_visible()
    loaded: list[dict[str, Any]] = visit.page.evaluate(
        """() => performance.getEntries().filter((each) => each.encodedBodySize)
            .map(({name, encodedBodySize}) => ({name, encodedBodySize}))"""
    )
    pages = [each for each in loaded if "/files/" not in each["name"]]
    assert pages
    assert sum(each["encodedBodySize"] for each in pages) < 20_000, pages
    assert visit.page.locator("script").count() == 0


def test_what_is_gone_is_said_to_be(people: People, server: Server, contents: object) -> None:
    visit = people.visit("/b/summer", size=PHONE, logged_in=False)
    visit.allow("40[134]")
    _come_in(visit)
    expect(visit.page.get_by_role("link", name="Download all")).to_be_visible()
    (bundle,) = server.api().call("GET", "/api/bundles").json()
    assert server.api().call("DELETE", f"/api/bundles/{bundle['id']}").status == 204
    visit.page.reload()
    expect(visit.page.get_by_role("heading")).to_be_visible()
    expect(visit.page.get_by_role("link", name="Download all")).to_have_count(0)
    visit.expect_accessible()
