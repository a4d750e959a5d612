"""Who uses the page, and how: contexts, pages, files to upload, looks at what came of it."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx2
from PIL import Image
from playwright.sync_api import Error, expect

from tests.harness import UPWELL, eventually

if TYPE_CHECKING:
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        CDPSession,
        ConsoleMessage,
        Locator,
        Page,
    )

    from tests.browser.line import Line
    from tests.harness import Server

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = Path(__file__).parents[2] / "web/node_modules/axe-core/axe.min.js"
SECONDS = 1000  # milliseconds, which is what Playwright counts in
PATIENCE = 30 * SECONDS
DESKTOP = (1280, 900)
LONG = 60 << 20  # bytes; more chunks than are sent at once, so that there is a half-way
CRAWL = 50_000  # bytes per second: enough for requests without a file, and hardly a chunk ends
PHONE = (360, 740)
BROKEN = r"ERR_|Failed to load resource|Choose the file again"  # what a browser says of a bad line

# Tells the console what the page's policy refused: Chromium does not, for all of it.
_WATCH = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));
"""

expect.set_options(timeout=PATIENCE)


class People:
    """Opens pages of one server, and collects what is wrong with them."""

    def __init__(self, browser: Browser, server: Server) -> None:
        self.browser = browser
        self.server = server
        self._visits: list[Visit] = []

    def visit(
        self,
        path: str = "/",
        *,
        size: tuple[int, int] = DESKTOP,
        scheme: Literal["light", "dark"] = "light",
        logged_in: bool = True,
        profile: Visit | None = None,
        line: Line | None = None,
        **options: Any,
    ) -> Visit:
        """Somebody with a browser of their own, or in a new tab of ``profile``'s.

        With a ``line``, that is the way to the server.
        """
        context = profile.context if profile else self._context(size, scheme, options)
        visit = Visit(context, context.new_page(), self.server, line)
        self._visits.append(visit)
        visit.watch()
        if logged_in and not profile:
            context.add_cookies(session(self.server))
        visit.open(path)
        return visit

    def _context(
        self, size: tuple[int, int], scheme: Literal["light", "dark"], options: dict[str, Any]
    ) -> BrowserContext:
        width, height = size
        context = self.browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            locale="en-GB",
            timezone_id="Europe/Berlin",
            reduced_motion="reduce",
            **options,
        )
        context.set_default_timeout(PATIENCE)
        context.add_init_script(_WATCH)
        context.tracing.start(screenshots=True, snapshots=True)
        return context

    def leave(self, keep: Path | None) -> list[str]:
        """Close everything; with ``keep``, pictures and traces are left there."""
        contexts = {id(visit.context): visit.context for visit in self._visits}
        for number, visit in enumerate(self._visits):
            if keep and not visit.page.is_closed():
                with suppress(Error):
                    visit.page.screenshot(path=keep / f"{number}.png", full_page=True)
        for number, context in enumerate(contexts.values()):
            context.tracing.stop(path=keep / f"trace{number}.zip" if keep else None)
            context.close()
        return [each for visit in self._visits for each in visit.complaints()]


@dataclass
class Visit:
    """Somebody in front of a page."""

    context: BrowserContext
    page: Page
    server: Server
    line: Line | None = None
    _heard: list[str] = field(default_factory=list)
    _allowed: list[re.Pattern[str]] = field(default_factory=list)
    _devtools: CDPSession | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{(self.line or self.server).port}"

    def open(self, path: str = "/") -> None:
        self.page.goto(self.base + path)

    def watch(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self._heard.append(f"thrown: {error}"))

    def allow(self, pattern: str) -> None:
        """The console may say this: it belongs to what the test does."""
        self._allowed.append(re.compile(pattern))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._heard.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def complaints(self) -> list[str]:
        """What the page said or threw that it should not have."""
        return [said for said in self._heard if not any(p.search(said) for p in self._allowed)]

    # what one does

    def choose(self, *files: Path) -> None:
        """Choose files in the drop area."""
        self.page.locator(".uppy-Dashboard-input").first.set_input_files(list(files))

    def choose_folder(self, folder: Path) -> None:
        self.page.locator(".uppy-Dashboard-input").nth(1).set_input_files(folder)

    def menu(self, name: str, item: str) -> None:
        """Choose from the menu of a file or bundle."""
        self.page.get_by_role("button", name=f"More for {name}", exact=True).click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()

    def slow_down(self, bytes_per_second: int) -> None:
        """What is sent from here on takes its time; 0 for as fast as it goes."""
        limit = bytes_per_second or -1
        self._tools().send(
            "Network.emulateNetworkConditions",
            {
                "offline": False,
                "latency": 0,
                "downloadThroughput": -1,
                "uploadThroughput": limit,
            },
        )

    def end_workers(self) -> None:
        """End the service workers, as the browser does with those that have nothing to do."""
        self._tools().send("ServiceWorker.enable")
        self._tools().send("ServiceWorker.stopAllWorkers")

    def _tools(self) -> CDPSession:
        # Always the same ones: what another session has slowed down stays slow.
        self._devtools = self._devtools or self.context.new_cdp_session(self.page)
        return self._devtools

    def wait_until_half_way(self) -> None:
        """Until some chunks of the only upload are acknowledged; it should be `LONG`, and slow.

        What was slowed down stays half-way from here on, however long the next step takes.
        """

        def is_half_way() -> bool:
            self.page.wait_for_timeout(100)
            tasks = self.server.api().tasks()
            return bool(tasks) and tasks[0]["chunks_uploaded"] > 0

        eventually(is_half_way, 100, "some chunks are there")
        if self._devtools:
            self.slow_down(CRAWL)

    # what one sees

    def row(self, name: str) -> Locator:
        """A file in the list."""
        named = self.page.get_by_role("checkbox", name=f"Select {name}", exact=True)
        return self.page.locator(".row").filter(has=named)

    def transfer(self, name: str) -> Locator:
        """An upload."""
        rows = self.page.get_by_role("list", name="Uploads", exact=True).get_by_role("listitem")
        return rows.filter(has_text=name)

    def names(self) -> list[str]:
        """The listed files, from the top."""
        return self.page.locator(".row .name").all_inner_texts()

    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog")

    def expect_uploaded(self, count: int) -> None:
        """All of so many uploads are done."""
        words = f"{count} file uploaded" if count == 1 else f"{count} files uploaded"
        expect(self.page.get_by_role("heading", name=words, exact=True)).to_be_visible()

    def expect_accessible(self) -> None:
        """axe finds nothing, and nothing is wider than the page."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("async () => (await axe.run()).violations")
        assert not found, json.dumps(
            [[each["id"], [node["html"][:200] for node in each["nodes"]]] for each in found],
            indent=1,
        )
        self.expect_narrow()

    def expect_narrow(self) -> None:
        """Nothing has to be scrolled sideways."""
        widths = self.page.evaluate(
            "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert widths[0] <= widths[1], widths


def login_link(server: Server) -> str:
    """An address that logs a browser in, once."""
    done = subprocess.run(
        [UPWELL, "login", "--data", str(server.data)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    code = re.search(r"/login\?code=\S+", done.stdout)
    assert code, done.stdout
    return f"http://127.0.0.1:{server.port}{code[0]}"


def log_in(page: Page, server: Server) -> None:
    """Open a login link and confirm it, as a person does."""
    page.goto(login_link(server))
    page.get_by_role("button", name="Log in").click()


_sessions: dict[Path, Any] = {}


def session(server: Server) -> Any:
    """The cookies of a browser that is logged in; one session for all tests of a server."""
    if server.data not in _sessions:
        with httpx2.Client() as client:
            url, _, code = login_link(server).partition("?code=")
            answer = client.post(url, data={"code": code})
            assert answer.status_code == 303, answer
            cookies = [
                {"name": cookie.name, "value": cookie.value, "domain": "127.0.0.1", "path": "/"}
                for cookie in client.cookies.jar
            ]
        _sessions[server.data] = cookies
    return _sessions[server.data]


def set_policy(server: Server, *options: str) -> None:
    """Change what the default pool allows, as `upwell pool set` does."""
    (pool,) = server.api().call("GET", "/api/pools").json()
    command = [UPWELL, "pool", "set", pool["id"], *options, "--data", str(server.data)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    time.sleep(1.1)  # a policy is read anew after a second


def put_into(server: Server, bundle: str, file: str) -> None:
    """Put a file into a bundle, by their ids."""
    body = json.dumps({"bundle_id": bundle}).encode()
    kind = {"Content-Type": "application/json"}
    answer = server.api().call("PUT", f"/api/files/{file}/bundle", body, kind)
    assert answer.status == 200, answer


def empty(server: Server) -> None:
    """Take away whatever a test left on a server."""
    api = server.api()
    for task in api.tasks():
        api.call("DELETE", f"/api/files/upload/{task['task_id']}")
    for bundle in api.call("GET", "/api/bundles?take=100").json():
        api.call("DELETE", f"/api/bundles/{bundle['id']}")
    while files := api.files():
        api.post_json("/api/files/batches/delete", {"file_ids": [file["id"] for file in files]})


# what one has on one's disk


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (900, 600)) -> Path:
    """A landscape, different for each seed."""
    width, height = size
    chance = random.Random(seed)
    sky = [chance.randrange(90, 200) for _ in range(3)]
    picture = Image.new("RGB", size)
    for y in range(height):
        shade = [min(255, each + y * 90 // height) for each in sky]
        picture.paste((shade[0], shade[1], shade[2]), (0, y, width, y + 1))
    for layer in range(3):
        phase, waves = chance.uniform(0, 6), chance.uniform(1, 3)
        colour = (sky[0] // (layer + 2), sky[1] // (layer + 2), sky[2] // (layer + 2))
        for x in range(0, width, 3):
            top = height * (0.5 + 0.15 * layer) + height * 0.1 * math.sin(
                phase + x / width * 6 * waves
            )
            picture.paste(colour, (x, int(top), x + 3, height))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def noise(path: Path, size: int, seed: int = 0) -> Path:
    """A file that nobody has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(f"{path.name}{seed}").randbytes(size))
    return path
