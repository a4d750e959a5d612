"""Uploads over lines that break, stall and are slow, to servers that die: nobody has to do
anything, and nothing that was acknowledged is sent again."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.people import BROKEN, PATIENCE, noise
from tests.harness import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Response

    from tests.browser.line import Line
    from tests.browser.people import People, Visit
    from tests.harness import Server

pytestmark = pytest.mark.slow

MIB = 1 << 20
SIZE = 40 * MIB  # bytes: eight chunks
SHOWN = "41.9 MB"  # as the page says it
HALF = 17 * MIB  # of them, after which something happens
MORE = 6 * MIB  # a chunk, and a part of the next one
SECONDS = 90  # for what takes a few
DEAD = 180  # seconds: chunks that the system took to send, all of them, are waited for two minutes
_PUT = re.compile(r"/chunk/[^/]+/(\d+)$")


class Sending:
    """An upload on its way over a line, and the chunks that the page knows to be there."""

    def __init__(self, visit: Visit, line: Line, file: Path) -> None:
        self.visit = visit
        self.line = line
        self.file = file
        self.known: set[int] = set()
        visit.allow(BROKEN)
        visit.page.on("response", self._note)

    def _note(self, response: Response) -> None:
        chunk = _PUT.search(response.url)
        if chunk and response.ok:
            self.known.add(int(chunk[1]))

    def begin(self) -> Sending:
        """Send about half of it; then the line stalls."""
        self.line.give(HALF)
        self.visit.choose(self.file)
        self.wait(self.line.is_stalled, "half of it was sent")
        self.wait(self._all_are_known, "the page knows what is there")
        self.before = len(self.line.chunks)
        return self

    def _all_are_known(self) -> bool:
        (task,) = self.visit.server.api().tasks()
        there = set(self.visit.server.api().uploaded(task["task_id"]))
        return bool(there) and there == self.known

    def wait(self, condition: object, what: str, seconds: float = SECONDS) -> None:
        """Until it holds; the page's events are heard meanwhile."""
        assert callable(condition)

        def holds() -> bool:
            self.visit.page.wait_for_timeout(50)
            return bool(condition())

        eventually(holds, seconds, what)

    def expect_whole(self) -> None:
        """The file is there as it is, and what was known to be there was sent once."""
        api = self.visit.server.api()
        self.wait(api.files, "the file is there")
        (stored,) = api.files()
        assert _digest(api.download(stored["id"])) == _digest(self.file.read_bytes())
        assert api.tasks() == []
        again = self.known & set(self.line.chunks[self.before :])
        assert self.known, "nothing was there before"
        assert not again, f"sent again: {again}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def sending(people: People, line: Line, tmp_path: Path) -> Sending:
    file = noise(tmp_path / "film.bin", SIZE)
    return Sending(people.visit(line=line), line, file).begin()


def _acknowledged(sending: Sending) -> Sending:
    """As known from here on, whoever sends the rest."""
    sending.known = set(sending.known)
    sending.visit.page.remove_listener("response", sending._note)
    return sending


def test_the_line_breaks(sending: Sending) -> None:
    _acknowledged(sending)
    sending.line.cut()
    expect(sending.visit.page.get_by_text("No connection to the server.")).to_be_visible()
    sending.line.flow()
    sending.visit.expect_uploaded(1)
    expect(sending.visit.page.get_by_text("No connection to the server.")).to_have_count(0)
    sending.expect_whole()


def test_the_browser_is_offline(sending: Sending) -> None:
    _acknowledged(sending)
    sending.visit.context.set_offline(True)
    expect(sending.visit.page.get_by_text("No connection to the server.")).to_be_visible()
    sending.line.cut()  # else what is open would go on
    sending.line.flow()
    sending.visit.context.set_offline(False)
    sending.visit.expect_uploaded(1)
    sending.expect_whole()


def test_the_line_breaks_again_and_again(sending: Sending) -> None:
    """Every time a little more is there."""
    _acknowledged(sending)
    times = 3
    assert HALF + times * MORE < SIZE, "else all may be there before the line stalls"
    for _ in range(times):
        sending.line.cut()
        sending.line.flow()
        sending.line.give(MORE)
        sending.wait(sending.line.is_stalled, "a little more was sent")
    sending.line.cut()
    sending.line.flow()
    sending.visit.expect_uploaded(1)
    sending.expect_whole()


def test_a_slow_line(people: People, server: Server, line: Line, tmp_path: Path) -> None:
    """It is seen how much is there, how fast it goes, and how long it takes."""
    file = noise(tmp_path / "film.bin", SIZE)
    visit = people.visit(line=line)
    visit.allow(BROKEN)
    line.rate = 2 * MIB
    visit.choose(file)
    row = visit.transfer("film.bin")
    expect(row).to_contain_text(re.compile(rf"MB of {re.escape(SHOWN)} · [\d.]+ [kM]B/s · .* left"))
    facts = visit.page.locator(".transfers .facts")
    both = facts.evaluate_all("(all) => all.map((each) => each.innerText)")
    assert both[0] == both[1], "the only file goes as fast as all together"
    bar = row.get_by_role("progressbar")

    shares = [0]

    def grows() -> bool:
        share = int(bar.get_attribute("aria-valuenow") or "0")
        assert share >= shares[-1], shares
        if share > shares[-1]:
            shares.append(share)
        return len(shares) > 4

    eventually(grows, SECONDS, "more and more was sent")
    assert re.fullmatch(r"\d+ % · Upwell", visit.page.title())

    visit.page.get_by_role("button", name="Pause film.bin").click()
    expect(row).to_contain_text("Paused")
    line.rate = 0
    _expect_silence(visit, line)
    (task,) = server.api().tasks()
    assert task["uploaded_bytes"] < SIZE

    line.rate = 2 * MIB
    visit.page.get_by_role("button", name="Resume film.bin").click()
    paused = line.sent
    eventually(lambda: line.sent > paused + MIB, SECONDS, "it goes on")
    visit.page.get_by_role("button", name="Cancel film.bin").click()
    expect(row).to_have_count(0)
    line.rate = 0
    eventually(lambda: server.api().tasks() == [], SECONDS, "the server let go of it")
    assert server.api().files() == []


def _expect_silence(visit: Visit, line: Line) -> None:
    """After what was on its way, no chunk is sent for a while."""

    def is_silent() -> bool:
        before = line.sent
        visit.page.wait_for_timeout(1000)
        return line.sent - before < 10_000

    eventually(is_silent, SECONDS, "nothing is sent")
    before = len(line.chunks)
    visit.page.wait_for_timeout(1000)
    assert len(line.chunks) == before


@pytest.mark.own_server
def test_the_server_dies_and_comes_back_later(sending: Sending, server: Server) -> None:
    """On the same port; who was logged in still is."""
    _acknowledged(sending)
    port = server.port
    server.kill()
    sending.line.flow()
    expect(sending.visit.page.get_by_text("No connection to the server.")).to_be_visible()
    sending.visit.page.wait_for_timeout(3000)  # it is away for a while
    expect(sending.visit.page.get_by_text("No connection to the server.")).to_be_visible()
    server.start(port)
    sending.visit.expect_uploaded(1)
    expect(sending.visit.page.get_by_text("No connection to the server.")).to_have_count(0)
    sending.expect_whole()
    sending.visit.page.reload()
    expect(sending.visit.row("film.bin")).to_be_visible()


@pytest.mark.own_server
@pytest.mark.parametrize("restarted", [False, True], ids=["reload", "reload and restart"])
def test_reload(sending: Sending, server: Server, restarted: bool) -> None:
    """The page kept the file, and goes on by itself."""
    _acknowledged(sending)
    if restarted:
        server.kill()
        server.start()
    sending.line.cut()
    sending.line.flow()
    sending.visit.page.reload()
    sending.visit.expect_uploaded(1)
    sending.expect_whole()


@pytest.mark.own_server
@pytest.mark.parametrize("restarted", [False, True], ids=["closed", "closed and restarted"])
def test_another_browser(people: People, sending: Sending, server: Server, restarted: bool) -> None:
    """That knows nothing: the upload is listed, and goes on when its file is chosen."""
    sending.visit.page.close()
    sending.line.cut()
    sending.line.flow()
    (task,) = server.api().tasks()
    sending.known = set(server.api().uploaded(task["task_id"]))
    if restarted:
        server.kill()
        server.start()
    sending.visit = people.visit(line=sending.line)
    sending.visit.allow(BROKEN)
    waiting = sending.visit.page.get_by_role("list", name="Unfinished uploads")
    expect(waiting.get_by_text("film.bin")).to_be_visible()
    expect(waiting).to_contain_text(f"of {SHOWN} are here")
    sending.visit.choose(sending.file)
    sending.visit.expect_uploaded(1)
    expect(waiting).to_have_count(0)
    sending.expect_whole()
    assert server.api().resume(task["task_id"])["status"] == "completed"


def _damage(data: Path, chunk: int) -> None:
    """Other bytes on the disk than were acknowledged, and nothing that remembers them."""
    (path,) = (data / "pools/default/blobs").glob("*/*")
    with path.open("r+b") as file:
        file.seek(chunk * 5 * MIB + 12345)
        file.write(b"damaged")
    with suppress(OSError):
        os.removexattr(path, "user.upwell.memo")


def _forget(data: Path, chunk: int) -> None:
    """The chunk's row, as in a copy of the catalog that is older than it."""
    with closing(sqlite3.connect(data / "catalog.sqlite")) as catalog, catalog:
        gone = catalog.execute('DELETE FROM chunks WHERE "index" = ?', (chunk,))
        assert gone.rowcount == 1
        catalog.execute(
            "UPDATE tasks SET received_count = received_count - 1,"
            " received_bytes = received_bytes - ?",
            (5 * MIB,),
        )


@pytest.mark.own_server
@pytest.mark.parametrize("lose", [_damage, _forget], ids=["damaged", "missing"])
def test_a_chunk_that_is_lost(sending: Sending, server: Server, lose: object) -> None:
    """It was acknowledged, and the server does not have it after all: nobody notices."""
    _acknowledged(sending)
    chunk = min(sending.known)
    server.kill()
    assert callable(lose)
    lose(server.data, chunk)
    server.start()
    sending.known.discard(chunk)
    sending.line.cut()
    sending.line.flow()
    sending.visit.expect_uploaded(1)
    sending.expect_whole()
    assert chunk in sending.line.chunks[sending.before :]
    expect(sending.visit.page.locator(".transfer.failed")).to_have_count(0)


def test_a_line_that_is_dead_without_a_word(
    people: People, server: Server, line: Line, tmp_path: Path
) -> None:
    """Nobody is told, so the page finds out, and sends again what did not arrive."""
    sending = Sending(people.visit(line=line), line, noise(tmp_path / "film.bin", SIZE)).begin()
    _acknowledged(sending)
    row = sending.visit.transfer("film.bin")
    sending.wait(
        lambda: len(line.chunks) > sending.before or "Trying again" in row.inner_text(),
        "the page gave up what is stuck",
        DEAD,
    )
    line.cut()
    line.flow()
    expect(
        sending.visit.page.get_by_role("heading", name="1 file uploaded", exact=True)
    ).to_be_visible(timeout=2 * PATIENCE)
    sending.expect_whole()
