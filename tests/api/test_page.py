"""The page as a build leaves it, served; and what it asks of the API about its reader."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.api.world import Api, LoopTransport, refused
from upwell.http.api import make_api, make_app
from upwell.http.bounds import Bounds
from upwell.http.built_page import BuiltPage
from upwell.model import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.api.world import World

INDEX = b"<!doctype html><script type=module src=/page/assets/index-abc123.js></script>"
SCRIPT = b"console.log(1);" * 50
FOREIGN = {"Sec-Fetch-Site": "cross-site"}


@pytest.fixture(scope="module")
def serve(world: World) -> Iterator[Callable[[Path], httpx2.Client]]:
    """A client of the same verbs, with the page of a folder."""
    opened: list[LoopTransport] = []

    def client(folder: Path) -> httpx2.Client:
        api = make_api(world.core.verbs, Bounds(direct_max_size=1000), page=BuiltPage(folder))
        opened.append(LoopTransport(make_app(world.core.verbs, api)))
        headers = {"Accept-Encoding": "identity"}
        return httpx2.Client(transport=opened[-1], base_url=world.url, headers=headers)

    yield client
    for transport in opened:
        transport.stop()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the build leaves it; nobody looks into the brotli form."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "assets").mkdir()
    (folder / "index.html").write_bytes(INDEX)
    (folder / "index.html.br").write_bytes(b"brotli of the index")
    (folder / "icon.svg").write_bytes(b"<svg/>")
    (folder / "keeper.js").write_bytes(SCRIPT)
    script = folder / "assets" / "index-abc123.js"
    script.write_bytes(SCRIPT)
    script.with_name("index-abc123.js.gz").write_bytes(gzip.compress(SCRIPT))
    (folder / "assets" / "hash-abc123.wasm").write_bytes(b"\0asm")
    (folder / "source.json").write_bytes(b"{}")
    (folder / ".built").write_bytes(b"a note of the build's")
    return folder


@pytest.fixture(scope="module")
def page(serve: Callable[[Path], httpx2.Client], built: Path) -> httpx2.Client:
    return serve(built)


def test_the_index_is_for_anyone_and_asked_for_again_each_time(page: httpx2.Client) -> None:
    answer = page.get("/")
    assert (answer.status_code, answer.content) == (200, INDEX)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    again = page.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    assert page.head("/").status_code == 200


def test_what_has_a_hash_in_its_name_is_kept_for_ever(page: httpx2.Client) -> None:
    answer = page.get("/page/assets/index-abc123.js")
    assert (answer.status_code, answer.content) == (200, SCRIPT)
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert page.get("/page/icon.svg").headers["cache-control"] == "no-cache"
    wasm = page.get("/page/assets/hash-abc123.wasm")
    assert wasm.headers["content-type"] == "application/wasm"


def test_the_service_worker_may_serve_the_page_and_is_never_old(
    page: httpx2.Client,
) -> None:
    headers = page.get("/page/keeper.js").headers
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert (headers["service-worker-allowed"], headers["cache-control"]) == ("/", "no-cache")
    for path in ("/", "/page/icon.svg", "/page/assets/index-abc123.js"):
        assert "service-worker-allowed" not in page.get(path).headers


@pytest.mark.parametrize("path", ["/", "/page/assets/index-abc123.js", "/page/icon.svg"])
def test_everything_of_the_page_is_locked_down(page: httpx2.Client, path: str) -> None:
    """A worker's policy is its own script's."""
    headers = page.get(path).headers
    directives = headers["content-security-policy"].split(";")
    policy = dict(each.strip().split(" ", 1) for each in directives)
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert policy["style-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe-inline" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("br, gzip", "br"),
        ("gzip, deflate, BR", "br"),
        ("br;q=0.001", "br"),
        ("br; q=0, gzip", None),
        ("br;q=0.000", None),
        ("gzip", None),
        ("", None),
        ("brotli", None),
        ("*", None),
    ],
)
def test_a_compressed_form_is_for_who_takes_it(
    page: httpx2.Client, built: Path, accepted: str, coding: str | None
) -> None:
    with page.stream("GET", "/", headers={"Accept-Encoding": accepted}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers.get("content-encoding") == coding
    assert raw == ((built / "index.html.br").read_bytes() if coding else INDEX)
    plain = page.get("/").headers["etag"]
    assert (answer.headers["etag"] != plain) == (coding is not None)


def test_gzip_serves_where_there_is_no_better(page: httpx2.Client) -> None:
    answer = page.get("/page/assets/index-abc123.js", headers={"Accept-Encoding": "br, gzip"})
    assert (answer.headers["content-encoding"], answer.content) == ("gzip", SCRIPT)


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/assets",
        "/page/.built",
        "/page/index.html.br",
        "/page/missing.js",
        "/page/../index.html",
        "/page/%2e%2e/icon.svg",
        "/page//icon.svg",
    ],
)
def test_nothing_else_is_there(page: httpx2.Client, path: str) -> None:
    refused(page.get(path), 404, "ROUTE_NOT_FOUND")


def test_a_page_that_was_not_built_says_so(
    serve: Callable[[Path], httpx2.Client], tmp_path: Path
) -> None:
    answer = serve(tmp_path / "nothing").get("/")
    assert answer.status_code == 503
    assert "make page" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


# who reads it


def test_the_caller_learns_who_it_is(live: Api, boss: Api, world: World) -> None:
    me = live.get("/api/accounts/me").json()
    account = world.core.accounts.find("alice")
    assert account is not None
    assert me == {"id": account.id, "name": "alice", "scopes": ["files:read", "files:write"]}
    assert boss.get("/api/accounts/me").json()["scopes"] == ["admin", "files:read", "files:write"]


def test_no_scope_is_told_that_the_account_does_not_carry(world: World) -> None:
    with Api(world, None, world.token("bob", scopes=frozenset({Scope.ADMIN}))) as bob:
        assert bob.get("/api/accounts/me").json()["scopes"] == []


@pytest.fixture
def session(world: World, anonymous: Api) -> Api:
    """A browser that has followed its login link."""
    account = world.core.accounts.find("alice")
    assert account is not None
    code = world.core.accounts.invite(account)
    assert anonymous.post("/login", data={"code": code}).status_code == 303
    return anonymous


def test_who_logs_out_is_a_stranger_and_so_is_who_kept_the_cookie(session: Api) -> None:
    secret = session.cookies["upwell_session"]
    assert session.get("/api/accounts/me").status_code == 200
    answer = session.post("/logout")
    assert answer.status_code == 204
    assert "upwell_session" not in session.cookies
    refused(session.get("/api/accounts/me"), 401, "AUTH_REQUIRED")
    session.headers["Cookie"] = f"upwell_session={secret}"
    refused(session.get("/api/accounts/me"), 401, "TOKEN_INVALID")
    refused(session.post("/logout"), 401, "TOKEN_INVALID")


def test_another_site_logs_nobody_out(session: Api) -> None:
    refused(session.post("/logout", headers=FOREIGN), 403, "CROSS_SITE")
    assert session.get("/api/accounts/me").status_code == 200


def test_a_token_in_a_header_is_no_session(live: Api) -> None:
    refused(live.post("/logout"), 401, "AUTH_REQUIRED")
    assert live.get("/api/accounts/me").status_code == 200
