"""Downloads that last: how slow they may be, how many there may be, and for how long a
credential carries one."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.api.world import Api, refused, unique
from tests.harness import Wire, eventually
from upwell.http import download_bounds
from upwell.http.bounds import Places
from upwell.http.download_bounds import Downloads
from upwell.http.downloads import FileResponse

if TYPE_CHECKING:
    from tests.api.world import World

LARGE = 24 << 20  # more than the buffers on the way hold
PASSWORD = "secret"


def begun(api: Api, url: str, token: str = "", **headers: str) -> Wire:
    """A download of which next to nothing is taken."""
    port, parts = int(api.world.url.rpartition(":")[2]), urlsplit(url)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", "Host: x"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [f"{name}: {value}" for name, value in headers.items()]
    wire = Wire(port, receive_buffer=4096)
    wire.send("\r\n".join([*lines, "", ""]).encode())
    assert wire.sock.recv(100).startswith(b"HTTP/1.1 200")
    return wire


def is_cut(wire: Wire) -> bool:
    """Whether the server has ended a download before its end."""
    total = 0
    wire.sock.settimeout(30)
    try:
        while data := wire.sock.recv(1 << 20):
            total += len(data)
    except ConnectionResetError:
        pass
    return total < LARGE


@pytest.fixture(scope="module")
def kinds(world: World) -> dict[str, tuple[str, dict[str, str]]]:
    """The ways in which content is handed out: the kernel sends it, or we read it."""
    with Api(world, None, world.secrets["alice"]) as alice:
        bundle = alice.post("/api/bundles", json={"name": "b"}).json()
        plain = alice.store(unique(LARGE), bundle_id=bundle["id"])["id"]
        sealed = alice.store(unique(LARGE), encrypt_password=PASSWORD)["id"]
    return {
        "file": (f"/api/files/{plain}", {}),
        "zip": (f"/api/bundles/public/{bundle['slug']}/zip", {}),
        "sealed": (f"/api/files/{sealed}", {"X-Encrypt-Password": PASSWORD}),
        "page": (f"/b/{bundle['slug']}/files/{plain}", {}),
    }


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once an answer with content has come to its end, whatever end that is."""
    event, real = threading.Event(), FileResponse._close

    async def close(response: FileResponse) -> None:
        await real(response)
        event.set()

    monkeypatch.setattr(FileResponse, "_close", close)
    return event


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "zip", "sealed", "page"])
def test_a_download_ends_with_its_token(
    world: World,
    live: Api,
    kinds: dict[str, tuple[str, dict[str, str]]],
    kind: str,
    ended: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download_bounds, "RECHECK", 0.05)
    path, headers = kinds[kind]
    token = world.token("alice")
    if kind == "page":
        headers = headers | {"Cookie": f"upwell_session={token}"}
    with begun(live, path, "" if kind == "page" else token, **headers) as wire:
        assert not ended.wait(0.3)  # it was checked some times, and goes on
        principal = world.core.accounts.authenticate(token)
        world.core.accounts.revoke(principal.account, principal.token_id)
        assert ended.wait(30)
        assert is_cut(wire)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "zip", "sealed"])
def test_a_download_that_is_taken_too_slowly_ends(
    world: World,
    live: Api,
    kinds: dict[str, tuple[str, dict[str, str]]],
    kind: str,
    ended: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when some bytes are taken all the time."""
    monkeypatch.setattr(Downloads, "seconds_for", lambda *_: 0.5)
    path, headers = kinds[kind]
    with begun(live, path, world.secrets["alice"], **headers) as wire:
        while not ended.wait(0.01):
            wire.sock.recv(1)
        assert is_cut(wire)


def test_the_time_a_download_has() -> None:
    bounds = Downloads(1000, 1)
    assert bounds.seconds_for(0) == download_bounds.GRACE
    assert bounds.seconds_for(50_000) == download_bounds.GRACE + 50
    assert Downloads(0, 1).seconds_for(50_000) is None


def test_strangers_have_so_many_downloads_at_once(
    world: World, live: Api, anonymous: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Places, "most", property(lambda _: 2), raising=False)
    large, small = live.store(unique(LARGE))["id"], live.direct()["id"]
    urls = [live.post(f"/api/files/{each}/links", json={}).json()["url"] for each in (large, small)]
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(begun(live, urls[0]))
        answer = anonymous.get(urls[0])
        refused(answer, 429, "TOO_MANY_DOWNLOADS")
        assert int(answer.headers["retry-after"]) > 0
        page = anonymous.get(urls[0], headers={"Accept": "text/html"})
        assert (page.status_code, "under way from this address" in page.text) == (429, True)
        assert "<form" not in page.text  # no password is asked for
        assert anonymous.head(urls[0]).status_code == 200
        assert anonymous.get(urls[1]).status_code == 200  # as thumbnails are
        stack.enter_context(begun(live, f"/api/files/{large}", world.secrets["alice"]))
    eventually(lambda: anonymous.get(urls[0]).status_code == 200, 30, "there is room again")


def test_a_refused_download_costs_a_link_nothing(
    live: Api, anonymous: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Places, "most", property(lambda _: 0), raising=False)
    file = live.store(unique(1 << 20))["id"]
    link = live.post(f"/api/files/{file}/links", json={"max_downloads": 1}).json()
    refused(anonymous.get(link["url"]), 429, "TOO_MANY_DOWNLOADS")
    assert live.get(f"/api/files/{file}/links").json()[0]["downloads_left"] == 1
