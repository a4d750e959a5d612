"""A real server, and people in front of a real Chromium.

``people`` opens pages: each in a browser context of its own, logged in or not. Whatever the page
writes to the console as an error, throws, or does against its policy, fails the test; so does
what the server calls a bug. A failed test leaves a picture and a trace in ``browser-failures/``.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.browser.line import Line
from tests.browser.people import CHROMIUM_ARGUMENTS, People, empty
from tests.harness import Server
from web import build_page

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from playwright.sync_api import Browser

FAILURES = Path("browser-failures")
_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_failed] = report.failed
    return report


@pytest.fixture(scope="package")  # no longer: Playwright's event loop runs meanwhile
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path, "Debian's chromium is missing: scripts/system-packages.sh installs it"
    build_page.build()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("browser") / "data") as server:
        yield server


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with nothing on it: the session's, or the test's own (see ``own_server``)."""
    if request.node.get_closest_marker("own_server"):
        data = request.getfixturevalue("tmp_path") / "data"
        server = Server(data).start()
    else:
        server = request.getfixturevalue("_shared")
    known = len(server.bugs())
    yield server
    bugs = server.bugs()[known:]
    if request.node.get_closest_marker("own_server"):
        server.kill()
    else:
        empty(server)
    assert not bugs, bugs


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    """A way to the server that can break."""
    with Line(server) as made:
        yield made


@pytest.fixture
def people(request: pytest.FixtureRequest, chromium: Browser, server: Server) -> Iterator[People]:
    made = People(chromium, server)
    yield made
    failed = request.node.stash.get(_failed, True)
    keep = FAILURES / request.node.name.replace("/", "-") if failed else None
    complaints = made.leave(keep)
    assert failed or not complaints, "\n".join(complaints)
