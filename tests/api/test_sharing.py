"""Bundles, signed links, the recycle bin: who may read what, and what strangers learn."""

from __future__ import annotations

import io
import re
import zipfile
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import httpx2
import pytest
import structlog

from tests.api.test_privacy import _asked, comparable
from tests.api.world import Api, LoopTransport, refused, same_time, unique
from tests.harness import Server, Wire, eventually, servers
from tests.stores import put
from upwell.app import asgi, build
from upwell.config import Settings
from upwell.core import age, passcodes
from upwell.core.guesses import BURST
from upwell.http import downloads
from upwell.model import DEFAULT_POOL_ID, Policy, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.api.world import World

OPEN_POOL = "a0e6f7c4-0000-4000-8000-00000000000a"
BIN_POOL = "a0e6f7c4-0000-4000-8000-00000000000b"
UNKNOWN = "0" * 32
NO_BUNDLE = "00000000-0000-4000-8000-0000000000ff"
RIGHT = "open sesame"
HOSTILE = [
    '"><script>alert(1)</script>',
    "<img src=x onerror=alert(1)>",
    "'\"&<>\\",
    "\u202egnp.exe",
    "a\r\nSet-Cookie: x=y",
    "../../etc/passwd",
    "ä 密码 👩‍💻",
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes and derivations of a millisecond; guesses of one test are not another's."""
    monkeypatch.setattr(passcodes, "_MEMORY", 64)
    monkeypatch.setattr(passcodes, "_PASSES", 1)
    monkeypatch.setattr(age, "LOG_N", 10)


@pytest.fixture(scope="module", autouse=True)
def pools(world: World) -> None:
    now = datetime.now(UTC)
    for pool_id, policy in (
        (OPEN_POOL, Policy(public_usable=True, allow_anonymous=True)),
        (BIN_POOL, Policy(public_usable=True, enable_recycle=True)),
    ):
        world.core.catalog.add_pool(Pool(pool_id, pool_id[-1], policy, None, None, now, now))


@contextmanager
def ahead(world: World, much: timedelta) -> Iterator[None]:
    world.clock.ahead = much
    try:
        yield
    finally:
        world.clock.ahead = timedelta()


def bundle_of(api: Api, name: str = "Holiday", **fields: Any) -> Any:
    answer = api.post("/api/bundles", json={"name": name} | fields)
    assert answer.status_code == 201, answer.text
    return answer.json()


def link_to(api: Api, file_id: str, **fields: Any) -> Any:
    answer = api.post(f"/api/files/{file_id}/links", json=fields)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def soon(**much: float) -> str:
    return (datetime.now(UTC) + timedelta(**much)).isoformat()


def entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


# the owner's bundles


def test_a_bundle_from_beginning_to_end(api: Api, prefix: str) -> None:
    ends = soon(days=1)
    made = bundle_of(
        api, "A <name>", description="about", passcode=RIGHT, expiredAt=ends, slug=None
    )
    assert set(made) == {
        "id", "slug", "name", "description", "has_passcode", "expired_at", "files_count", "url",
        "created_at", "updated_at",
    }  # fmt: skip
    assert (made["name"], made["has_passcode"], made["files_count"]) == ("A <name>", True, 0)
    assert datetime.fromisoformat(made["expired_at"]) == datetime.fromisoformat(ends)
    assert made["url"] == f"{str(api.base_url).rstrip('/')}/b/{made['slug']}"
    path = f"/api/bundles/{made['id']}"
    file = api.direct(bundle_id=made["id"])
    assert file["bundle_id"] == made["id"]
    assert file["expired_at"] == made["expired_at"]
    assert api.get(path).json() == made | {"files_count": 1}
    listed = api.get(f"{path}/files")
    assert ([each["id"] for each in listed.json()], listed.headers["x-total"]) == (
        [file["id"]],
        "1",
    )

    taken = api.delete(f"{prefix}/{file['id']}/bundle")
    assert (taken.status_code, taken.json()["bundle_id"]) == (200, None)
    put = api.put(f"{prefix}/{file['id']}/bundle", json={"bundleId": made["id"]})
    assert (put.status_code, put.json()["bundle_id"]) == (200, made["id"])

    assert api.delete(path).status_code == 204
    refused(api.get(path), 404, "BUNDLE_NOT_FOUND")
    refused(api.delete(path), 404, "BUNDLE_NOT_FOUND")
    refused(api.get(f"/api/files/{file['id']}/info"), 404, "FILE_NOT_FOUND")


def test_a_bundle_by_its_id_in_capitals(live: Api) -> None:
    """As Swift spells a UUID."""
    made = bundle_of(live)
    path = f"/api/bundles/{made['id'].upper()}"
    assert live.get(path).json() == made
    assert live.get(f"{path}/files").json() == []
    assert live.patch(path, json={"name": "capital"}).json()["name"] == "capital"
    assert live.delete(path).status_code == 204


def test_a_change_changes_what_it_names(api: Api) -> None:
    made = bundle_of(api, description="about", passcode=RIGHT, expired_at=soon(days=1))
    path = f"/api/bundles/{made['id']}"
    slug = made["slug"] + "-2"
    changed = api.patch(path, json={"slug": slug, "name": None}).json()
    still = {"slug", "url", "updated_at"}
    assert {k: changed[k] for k in changed if k not in still} == {
        k: made[k] for k in made if k not in still
    }
    assert changed["url"].endswith(f"/b/{slug}")
    refused(api.get(f"/api/bundles/public/{made['slug']}"), 404, "BUNDLE_NOT_FOUND")
    bare = api.patch(path, json={"unset": ["description", "passcode", "expired_at"]}).json()
    assert (bare["description"], bare["has_passcode"], bare["expired_at"]) == (None, False, None)
    both = {"passcode": "x", "unset": ["passcode"]}
    assert "passcode" in refused(api.patch(path, json=both), 400, "VALIDATION_FAILED")["message"]
    assert api.patch(path, json={}).json()["name"] == made["name"]


@pytest.mark.parametrize(
    "slug", ["", "ab", "a" * 65, "Abc", "-abc", "abc-", "a b c", "a_b", "abc/d", "äbc", "abc\n"]
)
def test_what_is_no_slug(live: Api, slug: str) -> None:
    refused(live.post("/api/bundles", json={"name": "x", "slug": slug}), 400, "VALIDATION_FAILED")


@pytest.mark.parametrize("slug", ["abc", "a-b", "0-0", "a--b", "a" * 64])
def test_what_is_a_slug(live: Api, slug: str) -> None:
    made = bundle_of(live, slug=slug)
    refused(live.post("/api/bundles", json={"name": "x", "slug": slug}), 409, "SLUG_TAKEN")
    assert live.delete(f"/api/bundles/{made['id']}").status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "\0"},
        {"name": "x", "passcode": ""},
        {"name": "x", "expired_at": "2001-01-01T00:00:00Z"},
        {"name": "x", "expired_at": "soon"},
        {"name": "x", "description": ""},
    ],
)
def test_what_is_no_bundle(live: Api, body: Any) -> None:
    refused(live.post("/api/bundles", json=body), 400, "VALIDATION_FAILED")


def test_bundles_newest_first(world: World) -> None:
    with Api(world, None, world.token("carol")) as carol:
        made = [bundle_of(carol, f"{number}")["id"] for number in range(3)]
        answer = carol.get("/api/bundles?offset=1&take=1")
        assert [each["id"] for each in answer.json()] == [made[1]]
        assert answer.headers["x-total"] == "3"


BUNDLE_CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/api/bundles/{id}", None),
    ("GET", "/api/bundles/{id}/files", None),
    ("PATCH", "/api/bundles/{id}", {"name": "x"}),
    ("DELETE", "/api/bundles/{id}", None),
]
FILE_CALLS: list[tuple[str, str, Any]] = [
    ("PUT", "/api/files/{id}/bundle", {"bundle_id": NO_BUNDLE}),
    ("DELETE", "/api/files/{id}/bundle", None),
    ("POST", "/api/files/{id}/links", {}),
    ("GET", "/api/files/{id}/links", None),
    ("DELETE", "/api/files/links/{id}", None),
    ("POST", "/api/files/{id}/restore", None),
]


@pytest.mark.parametrize("call", BUNDLE_CALLS + FILE_CALLS)
def test_what_is_anothers_looks_unknown(live: Api, stranger: Api, call: Any) -> None:
    method, path, body = call
    file = live.direct()["id"]
    bundle = bundle_of(live)["id"]
    mine = bundle if call in BUNDLE_CALLS else file
    if "/links/" in path:
        mine = link_to(live, file)["id"]
    if body and "bundle_id" in body:
        body = {"bundle_id": bundle_of(stranger)["id"]}
    found = stranger.request(method, path.format(id=mine), json=body)
    unknown = NO_BUNDLE if call in BUNDLE_CALLS else UNKNOWN
    assert found.status_code == 404
    missing = stranger.request(method, path.format(id=unknown), json=body)
    assert comparable(found) == comparable(missing)
    assert live.get(f"/api/bundles/{bundle}").status_code == 200


@pytest.mark.parametrize("call", [*BUNDLE_CALLS, *FILE_CALLS, ("POST", "/api/bundles", {})])
def test_nothing_is_done_without_a_token(anonymous: Api, call: Any) -> None:
    method, path, body = call
    answer = anonymous.request(method, path.format(id=UNKNOWN), json=body)
    refused(answer, 401, "AUTH_REQUIRED")


# who may read a file


READERS = ("owner", "stranger", "nobody")
# By the state of the file and the passcode that is sent, what each of the three is answered.
MAY_READ: dict[tuple[str, str], tuple[int, int, int]] = {
    ("private", ""): (200, 404, 401),
    ("private", RIGHT): (200, 404, 401),
    ("in a bundle", ""): (200, 200, 200),
    ("in a bundle", "wrong"): (200, 200, 200),
    ("behind a passcode", ""): (200, 404, 401),
    ("behind a passcode", RIGHT): (200, 200, 200),
    ("behind a passcode", "wrong"): (200, 403, 403),
    ("in an open pool", ""): (200, 200, 200),
    ("expired", RIGHT): (404, 404, 401),
    ("in an expired bundle", RIGHT): (404, 404, 401),
    ("recycled", RIGHT): (404, 404, 401),
    ("recycled in an open pool", RIGHT): (404, 404, 401),
    ("deleted", RIGHT): (404, 404, 401),
}


def prepared(live: Api, state: str) -> Any:
    """A file of Alice's, in a state; one that ends is gone in two hours."""
    fields: dict[str, Any] = {}
    if "bundle" in state or state in ("behind a passcode", "expired", "recycled", "deleted"):
        wanted: dict[str, Any] = {} if state == "in a bundle" else {"passcode": RIGHT}
        if state == "in an expired bundle":
            wanted["expired_at"] = soon(hours=1)
        fields["bundle_id"] = bundle_of(live, **wanted)["id"]
    if state == "expired":
        fields["expired_at"] = soon(hours=1)
    if "pool" in state:
        fields["pool_id"] = OPEN_POOL
    if state == "recycled":
        fields["pool_id"] = BIN_POOL
    file = live.direct(**fields)
    if state == "recycled in an open pool":
        assert live.world.core.catalog.recycle_file(
            file["id"], file["account_id"], datetime.now(UTC)
        )
    elif state in ("recycled", "deleted"):
        assert live.delete(f"/api/files/{file['id']}").status_code == 204
    return file


@pytest.mark.parametrize("how", ["header", "query"])
@pytest.mark.parametrize(("state", "passcode"), MAY_READ)
def test_who_may_read_a_file(
    live: Api, stranger: Api, anonymous: Api, state: str, passcode: str, how: str
) -> None:
    path = f"/api/files/{prepared(live, state)['id']}"
    headers = {"X-Bundle-Passcode": passcode} if passcode and how == "header" else {}
    query = {"passcode": passcode} if passcode and how == "query" else {}
    expected = zip((live, stranger, anonymous), MAY_READ[state, passcode], strict=True)
    with ahead(live.world, timedelta(hours=2 if "expired" in state else 0)):
        for reader, status in expected:
            for where in (path, path.replace("/api/", "/drive/")):
                assert reader.get(where, headers=headers, params=query).status_code == status
            assert reader.head(path, headers=headers, params=query).status_code == status
            part = reader.get(path, headers=headers | {"Range": "bytes=0-0"}, params=query)
            assert part.status_code == (206 if status == 200 else status)
            small = reader.get(path, headers=headers, params=query | {"thumbnail": "true"})
            assert small.status_code == (404 if status == 200 else status)  # it has none


@pytest.mark.parametrize(("state", "passcode"), MAY_READ)
def test_what_stays_the_owners(
    live: Api, stranger: Api, anonymous: Api, state: str, passcode: str
) -> None:
    """The facts, and the object as it is stored."""
    path = f"/api/files/{prepared(live, state)['id']}"
    sent = {"X-Bundle-Passcode": passcode} if passcode else {}
    expected = MAY_READ[state, passcode][0]
    with ahead(live.world, timedelta(hours=2 if "expired" in state else 0)):
        for tail in ("/info", "?raw=true", "/links"):
            assert live.get(path + tail, headers=sent).status_code == expected
            assert stranger.get(path + tail, headers=sent).status_code == 404
            assert anonymous.get(path + tail, headers=sent).status_code == 401


@pytest.mark.parametrize("asker", ["stranger", "anonymous"])
def test_private_and_unknown_look_the_same(
    live: Api, request: pytest.FixtureRequest, asker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the eye, and in what the server does for it."""
    monkeypatch.setattr("upwell.core.homes.FRESH", 1e9)
    api: Api = request.getfixturevalue(asker)
    ids = [prepared(live, state)["id"] for state in ("private", "behind a passcode", "recycled")]
    for query in ("", "?download=true", "?raw=true", "?thumbnail=true", "?preview=true"):
        path = f"/api/files/{UNKNOWN}{query}"
        unknown = comparable(api.get(path))
        done = _asked(api.world, monkeypatch, lambda path=path: api.get(path))  # type: ignore[misc]
        for file_id in ids:
            path = f"/api/files/{file_id}{query}"
            assert comparable(api.get(path)) == unknown
            assert _asked(api.world, monkeypatch, lambda path=path: api.get(path)) == done  # type: ignore[misc]


@pytest.mark.slow
def test_private_and_unknown_take_the_same_time(live: Api, anonymous: Api) -> None:
    ids = [prepared(live, state)["id"] for state in ("private", "behind a passcode")]
    assert same_time(lambda each: anonymous.get(f"/api/files/{each}"), [UNKNOWN, *ids], 1000)


def test_a_file_changes_hands_with_its_bundle(live: Api, anonymous: Api) -> None:
    made, file = bundle_of(live), live.direct()["id"]
    path = f"/api/files/{file}"
    refused(anonymous.get(path), 401, "AUTH_REQUIRED")
    live.put(f"{path}/bundle", json={"bundle_id": made["id"]})
    assert anonymous.get(path).status_code == 200
    live.patch(f"/api/bundles/{made['id']}", json={"passcode": "new"})
    refused(anonymous.get(path), 401, "AUTH_REQUIRED")
    live.delete(f"{path}/bundle")
    refused(anonymous.get(path, params={"passcode": "new"}), 401, "AUTH_REQUIRED")


# the public side of a bundle


def test_a_bundle_for_anyone(api: Api, anonymous: Api, stranger: Api) -> None:
    made = bundle_of(api, "Für alle", description="about")
    contents = {"b.txt": b"one", "a.txt": b"two"}
    ids = [api.direct(data, name, bundle_id=made["id"])["id"] for name, data in contents.items()]
    for reader in (anonymous, stranger, api):
        answer = reader.get(f"/api/bundles/public/{made['slug']}")
        told = answer.json()
        assert set(told) == {
            "slug", "name", "description", "expired_at", "files_count", "files", "zip_url",
        }  # fmt: skip
        assert [each["id"] for each in told["files"]] == ids
        assert (told["files_count"], answer.headers["x-total"]) == (2, "2")
        assert set(told["files"][0]) == {
            "id", "name", "size", "mime_type", "created_at", "has_thumbnail", "is_encrypted",
            "file_meta", "url", "thumbnail_url",
        }  # fmt: skip
        assert answer.headers["cache-control"] == "no-store"
        for each in told["files"]:
            assert reader.get(each["url"]).content == contents[each["name"]]
        assert entries(reader.get(told["zip_url"]).content) == contents
    page = anonymous.get(f"/api/bundles/public/{made['slug']}?offset=1&take=1").json()
    assert [each["id"] for each in page["files"]] == ids[1:]


def test_strangers_are_not_told_where_it_was_made(live: Api, anonymous: Api) -> None:
    made = bundle_of(live)
    file = live.direct(bundle_id=made["id"])
    facts = {"kind": "image", "width": 3, "location": {"latitude": 52.5163001, "longitude": 13.4}}
    core = live.world.core
    key = put(core.homes[DEFAULT_POOL_ID].store, b"RIFF")
    assert core.catalog.describe_blob(file["object"]["id"], facts, key, None)
    told = anonymous.get(f"/api/bundles/public/{made['slug']}")
    assert "52.5163001" not in told.text
    assert told.json()["files"][0]["file_meta"] == {"kind": "image", "width": 3}
    image = anonymous.get(told.json()["files"][0]["thumbnail_url"])
    assert (image.content, image.headers["content-type"]) == (b"RIFF", "image/webp")
    page = anonymous.get(f"/b/{made['slug']}").text
    source = re.search(r'<img src="([^"]+)" alt="" width="320" height="320" loading="lazy"', page)
    assert source
    assert anonymous.get(source[1]).content == b"RIFF"
    assert live.get(f"/api/files/{file['id']}/info").json()["file_meta"] == facts


@pytest.mark.parametrize("tail", ["", "/zip"])
def test_who_may_open_a_bundle(live: Api, stranger: Api, anonymous: Api, tail: str) -> None:
    made = bundle_of(live, passcode=RIGHT)
    path = f"/api/bundles/public/{made['slug']}{tail}"
    assert live.get(path).status_code == 200
    for reader in (stranger, anonymous):
        refused(reader.get(path), 403, "PASSCODE_REQUIRED")
        refused(reader.get(path, params={"passcode": "x"}), 403, "PASSCODE_WRONG")
        assert reader.get(path, params={"passcode": RIGHT}).status_code == 200
        assert reader.get(path, headers={"X-Bundle-Passcode": RIGHT}).status_code == 200
    with ahead(live.world, timedelta(days=1)):
        live.patch(f"/api/bundles/{made['id']}", json={"expired_at": soon(hours=25)})
    with ahead(live.world, timedelta(hours=26)):
        gone = refused(anonymous.get(path), 404, "BUNDLE_NOT_FOUND")
    unknown = refused(
        anonymous.get(f"/api/bundles/public/never-was{tail}"), 404, "BUNDLE_NOT_FOUND"
    )
    assert gone["message"] == unknown["message"]


def test_a_bad_credential_is_told(anonymous: Api, live: Api) -> None:
    path = f"/api/bundles/public/{bundle_of(live)['slug']}"
    answer = anonymous.get(path, headers={"Authorization": "Bearer never-issued"})
    refused(answer, 401, "TOKEN_INVALID")
    refused(anonymous.post(path), 401, "AUTH_REQUIRED")
    refused(live.post(path), 405, "METHOD_NOT_ALLOWED")


def test_guesses_are_limited(live: Api, anonymous: Api) -> None:
    made = bundle_of(live, passcode=RIGHT)
    path = f"/api/bundles/public/{made['slug']}"
    for number in range(BURST):
        wrong = anonymous.get(path, params={"passcode": f"guess {number}"})
        refused(wrong, 403, "PASSCODE_WRONG")
    limited = anonymous.get(path, params={"passcode": RIGHT})
    refused(limited, 429, "TOO_MANY_GUESSES")
    assert 0 < int(limited.headers["retry-after"]) <= 60
    page = anonymous.post(f"/b/{made['slug']}", data={"passcode": RIGHT})
    assert page.status_code == 429
    assert page.headers["retry-after"]
    assert "try again in" in page.text
    assert live.get(path).status_code == 200
    with ahead(live.world, timedelta(minutes=1)):
        assert anonymous.get(path, params={"passcode": RIGHT}).status_code == 200


@pytest.mark.slow
def test_guesses_are_limited_across_two_processes(tmp_path: Path) -> None:
    with servers(tmp_path / "data", 2) as pair:
        urls = [f"http://127.0.0.1:{each.port}" for each in pair]
        headers = {"Authorization": f"Bearer {pair[0].api().token}"}
        body = {"name": "x", "slug": "guessed", "passcode": RIGHT}
        with httpx2.Client(trust_env=False, timeout=30) as client:
            made = client.post(f"{urls[0]}/api/bundles", json=body, headers=headers)
            assert made.status_code == 201
            path = "/api/bundles/public/guessed"
            answers = [
                client.get(urls[number % 2] + path, params={"passcode": f"{number}"}).status_code
                for number in range(BURST + 4)
            ]
            assert answers == [403] * BURST + [429] * 4
            for url in urls:
                right = client.get(url + path, params={"passcode": RIGHT})
                assert right.status_code == 429


# the archive


def test_head_of_the_archive(api: Api, anonymous: Api) -> None:
    made = bundle_of(api, 'a "b"/ö')
    for number in range(3):
        api.direct(unique(100), f"{number}", bundle_id=made["id"])
    for path in (f"/api/bundles/public/{made['slug']}/zip", f"/b/{made['slug']}/zip"):
        got, head = anonymous.get(path), anonymous.head(path)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "etag", "content-type", "content-disposition"):
            assert head.headers[name] == got.headers[name]
        assert int(head.headers["content-length"]) == len(got.content)
        assert got.headers["content-type"] == "application/zip"
        assert "last-modified" not in got.headers
        named = re.search(r"filename\*=UTF-8''(\S+)", got.headers["content-disposition"])
        assert named
        assert unquote(named[1]) == 'a "b"/ö.zip'
        assert got.headers["content-disposition"].startswith("attachment;")
        again = anonymous.get(path, headers={"If-None-Match": got.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_an_archive_is_resumed_where_it_was_cut(live: Api, anonymous: Api) -> None:
    made = bundle_of(live)
    contents = {f"{number}.bin": unique(700_000) for number in range(3)}
    for name, data in contents.items():
        live.direct(data, name, bundle_id=made["id"])
    path = f"/api/bundles/public/{made['slug']}/zip"
    with anonymous.stream("GET", path) as answer:
        etag, total = answer.headers["etag"], int(answer.headers["content-length"])
        pieces = answer.iter_raw(100_000)
        held = b"".join(next(pieces) for _ in range(9))
    while len(held) < total:
        last = min(total, len(held) + 500_000) - 1
        asked = {"Range": f"bytes={len(held)}-{last}", "If-Range": etag}
        part = anonymous.get(path, headers=asked)
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {len(held)}-{last}/{total}"
        held += part.content
    assert entries(held) == contents
    tail = anonymous.get(path, headers={"Range": "bytes=-22"})
    assert tail.content == held[-22:]
    refused(anonymous.get(path, headers={"Range": f"bytes={total}-"}), 416, "RANGE_NOT_SATISFIABLE")


def test_an_archive_that_changed_is_begun_anew(live: Api, anonymous: Api) -> None:
    made = bundle_of(live)
    live.direct(unique(), "a", bundle_id=made["id"])
    path = f"/api/bundles/public/{made['slug']}/zip"
    first = anonymous.get(path)
    live.direct(unique(), "b", bundle_id=made["id"])
    for held in (first.headers["etag"], "Mon, 01 Jan 2001 00:00:00 GMT", made["updated_at"]):
        asked = {"Range": "bytes=10-", "If-Range": held}
        answer = anonymous.get(path, headers=asked)
        assert answer.status_code == 200
        assert set(entries(answer.content)) == {"a", "b"}
    for whole in (path, f"/b/{made['slug']}/zip"):
        asked = {"Range": "bytes=10-", "If-Match": first.headers["etag"]}
        refused(anonymous.get(whole, headers=asked), 412, "PRECONDITION_FAILED")


def test_an_archive_with_hostile_names(live: Api, anonymous: Api) -> None:
    made = bundle_of(live)
    for name in [*HOSTILE, *HOSTILE]:
        live.direct(unique(), bundle_id=made["id"], file_name=name)
    names = list(entries(anonymous.get(f"/b/{made['slug']}/zip").content))
    assert len({name.casefold() for name in names}) == 2 * len(HOSTILE)
    for name in names:
        assert not re.search(r'[\x00-\x1f<>:"|?*\\\u202e]|^/|(^|/)\.\.(/|$)', name)


def test_encrypted_files_are_sealed_in_the_archive(live: Api, anonymous: Api) -> None:
    made = bundle_of(live)
    file = live.direct(b"secret", "a.txt", bundle_id=made["id"], encrypt_password="p")
    found = entries(anonymous.get(f"/b/{made['slug']}/zip").content)
    assert found == {"a.txt.age": live.get(f"/api/files/{file['id']}?raw=true").content}
    assert found["a.txt.age"].startswith(b"age-encryption.org/v1")


def test_an_empty_bundle(live: Api, anonymous: Api) -> None:
    made = bundle_of(live)
    assert entries(anonymous.get(f"/b/{made['slug']}/zip").content) == {}
    assert "Nothing is in here yet" in anonymous.get(f"/b/{made['slug']}").text


def test_a_file_deleted_while_it_is_archived_is_no_bug(live: Api, anonymous: Api) -> None:
    made = bundle_of(live)
    first = live.store(unique(12 << 20), file_name="1", bundle_id=made["id"])
    second = live.direct(unique(), "2", bundle_id=made["id"])

    def download() -> None:
        with anonymous.stream("GET", f"/b/{made['slug']}/zip") as answer:
            pieces = answer.iter_raw()
            next(pieces)
            assert live.delete(f"/api/files/{second['id']}").status_code == 204
            for _ in pieces:
                pass

    with structlog.testing.capture_logs() as log, pytest.raises(httpx2.TransportError):
        download()
    events = [each["event"] for each in log]
    assert "bug" not in events
    assert "what was being downloaded was deleted meanwhile" in events
    assert set(entries(anonymous.get(f"/b/{made['slug']}/zip").content)) == {first["name"]}


# signed links


def test_a_link_from_beginning_to_end(api: Api, anonymous: Api, prefix: str) -> None:
    content = unique(10)
    file = api.direct(content)["id"]
    answer = api.post(f"{prefix}/{file}/links", json={"expiresIn": 3600})
    assert answer.status_code == 201
    link = answer.json()
    assert set(link) == {
        "id", "file_id", "url", "expires_at", "max_downloads", "downloads_left", "created_at",
    }  # fmt: skip
    lives = datetime.fromisoformat(link["expires_at"]) - datetime.fromisoformat(link["created_at"])
    assert lives == timedelta(hours=1)
    assert api.get(f"{prefix}/{file}/links").json() == [link]
    got = anonymous.get(link["url"])
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert got.headers["referrer-policy"] == "no-referrer"
    head = anonymous.head(link["url"])
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")
    part = anonymous.get(link["url"], headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, content[2:5])
    same = anonymous.get(link["url"], headers={"If-None-Match": got.headers["etag"]})
    assert same.status_code == 304
    refused(anonymous.get(link["url"] + "&thumbnail=true"), 404, "PREVIEW_NOT_FOUND")
    kept = anonymous.get(link["url"] + "&download=true").headers["content-disposition"]
    assert kept.startswith("attachment")
    assert api.delete(f"{prefix}/links/{link['id']}").status_code == 204
    refused(api.delete(f"{prefix}/links/{link['id']}"), 404, "LINK_NOT_FOUND")
    assert api.get(f"{prefix}/{file}/links").json() == []
    refused(anonymous.get(link["url"]), 404, "LINK_NOT_FOUND")


@pytest.mark.parametrize(
    "body",
    [
        {"expires_at": "2001-01-01T00:00:00Z"},
        {"expires_in": 0},
        {"expires_in": -1},
        {"expires_in": 1.5},
        {"expires_in": 10**12},
        {"expires_in": 9, "expires_at": "2099-01-01T00:00:00Z"},
        {"max_downloads": 0},
        {"max_downloads": 10**7},
        {"max_downloads": "1"},
    ],
)
def test_what_is_no_link(live: Api, body: Any) -> None:
    file = live.direct()["id"]
    refused(live.post(f"/api/files/{file}/links", json=body), 400, "VALIDATION_FAILED")


def test_whatever_is_wrong_with_a_link_looks_the_same(live: Api, anonymous: Api) -> None:
    file, other = live.direct()["id"], live.direct()["id"]
    link, foreign = link_to(live, file), link_to(live, other)
    signature = link["url"].rpartition("=")[2]
    ended = link_to(live, file, expires_in=60)
    used = link_to(live, file, max_downloads=1)
    assert anonymous.get(used["url"]).status_code == 200
    revoked = link_to(live, file)
    live.delete(f"/api/files/links/{revoked['id']}")
    answers = [
        anonymous.get(address)
        for address in (
            f"/s/{link['id']}",
            f"/s/{link['id']}?signature=",
            f"/s/{link['id']}?signature={signature[:-1]}",
            f"/s/{link['id']}?signature=%FF%00",
            f"/s/{foreign['id']}?signature={signature}",
            f"/s/{UNKNOWN}?signature={signature}",
            used["url"],
            revoked["url"],
        )
    ]
    with ahead(live.world, timedelta(seconds=61)):
        answers.append(anonymous.get(ended["url"]))
    live.delete(f"/api/files/{other}")
    answers.append(anonymous.get(foreign["url"]))
    for answer in answers:
        refused(answer, 404, "LINK_NOT_FOUND")
        assert comparable(answer) == comparable(answers[0])
    assert anonymous.get(link["url"]).status_code == 200


@pytest.mark.parametrize("state", ["recycled", "expired"])
def test_a_link_does_not_outlive_its_file(live: Api, anonymous: Api, state: str) -> None:
    fields: dict[str, Any] = {"pool_id": BIN_POOL}
    if state == "expired":
        fields = {"expired_at": soon(hours=1)}
    file = live.direct(**fields)["id"]
    link = link_to(live, file)
    if state == "recycled":
        live.delete(f"/api/files/{file}")
    with ahead(live.world, timedelta(hours=2 if state == "expired" else 0)):
        for method in ("GET", "HEAD"):
            assert anonymous.request(method, link["url"]).status_code == 404


def test_a_link_does_not_open_the_bundle(live: Api, anonymous: Api) -> None:
    made = bundle_of(live, passcode=RIGHT)
    file = live.direct(b"x", bundle_id=made["id"])["id"]
    assert anonymous.get(link_to(live, file)["url"]).content == b"x"
    refused(anonymous.get(f"/api/files/{file}"), 401, "AUTH_REQUIRED")


def left(live: Api, link: Any) -> int:
    found = live.world.core.catalog.link(link["id"], datetime.now(UTC))
    assert found is not None
    assert found.allowance is not None
    return found.allowance


def test_a_counted_link_is_used_up(api: Api, anonymous: Api) -> None:
    file = api.direct(unique(10))["id"]
    link = link_to(api, file, max_downloads=2)
    assert (link["max_downloads"], link["downloads_left"]) == (2, 2)
    etag = anonymous.head(link["url"]).headers["etag"]
    assert anonymous.get(link["url"], headers={"If-None-Match": etag}).status_code == 304
    refused(
        anonymous.get(link["url"], headers={"Range": "bytes=10-"}), 416, "RANGE_NOT_SATISFIABLE"
    )
    assert left(api, link) == 20  # nothing was handed out
    for first in (0, 5):
        assert anonymous.get(link["url"], headers={"Range": f"bytes={first}-{first + 4}"}).content
    assert api.get(f"/api/files/{file}/links").json()[0]["downloads_left"] == 1
    refused(anonymous.get(link["url"] + "&preview=true"), 404, "PREVIEW_NOT_FOUND")
    assert anonymous.get(link["url"]).status_code == 200
    for method in ("GET", "HEAD"):
        assert anonymous.request(method, link["url"]).status_code == 404


def _begun(api: Api, url: str, receive_buffer: int = 4096) -> Wire:
    """A download of which next to nothing is taken."""
    port = int(api.world.url.rpartition(":")[2])
    wire = Wire(port, receive_buffer=receive_buffer)
    parts = urlsplit(url)
    wire.send(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert wire.sock.recv(100).startswith(b"HTTP/1.1 200")
    return wire


def test_a_download_that_breaks_off_is_not_paid_in_full(live: Api, anonymous: Api) -> None:
    size = 24 << 20
    content = unique(size)
    link = link_to(live, live.store(content)["id"], max_downloads=1)
    wire = _begun(live, link["url"])
    assert left(live, link) == 0
    refused(anonymous.get(link["url"]), 404, "LINK_NOT_FOUND")
    wire.reset()
    eventually(lambda: left(live, link) > 0, 60, "what was not sent is given back")
    again = left(live, link)
    assert again < size
    part = anonymous.get(link["url"], headers={"Range": f"bytes={size - again}-"})
    assert (part.status_code, part.content) == (206, content[size - again :])
    assert left(live, link) == 0


def test_a_download_of_which_nothing_is_taken_is_given_up(
    live: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "STALL", 0.2)
    link = link_to(live, live.store(unique(24 << 20))["id"], max_downloads=1)
    with _begun(live, link["url"]):
        eventually(lambda: left(live, link) > 0, 60, "it is given up")


def test_a_link_to_an_encrypted_file(live: Api, anonymous: Api) -> None:
    file = live.direct(b"sealed", encrypt_password="pässword")["id"]
    link = link_to(live, file, max_downloads=1)
    refused(anonymous.get(link["url"]), 403, "PASSWORD_REQUIRED")
    wrong = {"X-Encrypt-Password": "no"}
    refused(anonymous.get(link["url"], headers=wrong), 403, "PASSWORD_WRONG")
    browser = {"Accept": "text/html,*/*"}
    page = anonymous.get(link["url"], headers=browser)
    assert page.status_code == 403
    asked = re.search(r'<form method="post" action="([^"]+)"', page.text)
    assert asked
    action = asked[1].replace("&amp;", "&")
    refused(anonymous.post(link["url"]), 405, "METHOD_NOT_ALLOWED")
    assert anonymous.post(action, data={"password": "no"}).status_code == 403
    assert anonymous.post(action, data={"password": ""}).status_code == 403
    got = anonymous.post(action, data={"password": "pässword"})
    assert (got.status_code, got.content) == (200, b"sealed")
    assert got.headers["content-disposition"].startswith("attachment")
    assert left(live, link) == 0  # a form's answer counts as well
    assert anonymous.post(action, data={"password": "pässword"}).status_code == 404
    assert "not valid" in anonymous.get(link["url"], headers=browser).text


# the recycle bin


def test_the_recycle_bin(api: Api, prefix: str) -> None:
    file = api.direct(b"x", pool_id=BIN_POOL)
    path = f"{prefix}/{file['id']}"
    refused(api.post(f"{path}/restore"), 404, "FILE_NOT_FOUND")
    assert api.delete(path).status_code == 204
    refused(api.get(path), 404, "FILE_NOT_FOUND")
    binned = api.get(f"{prefix}/recycle").json()
    found = next(each for each in binned if each["id"] == file["id"])
    assert found["is_marked_recycle"] is True
    assert found["deleted_at"]
    restored = api.post(f"{path}/restore")
    assert (restored.status_code, restored.json()["is_marked_recycle"]) == (200, False)
    assert api.get(path).content == b"x"
    for _ in range(2):  # into the bin, and out of it for good
        assert api.delete(path).status_code == 204
    refused(api.post(f"{path}/restore"), 404, "FILE_NOT_FOUND")


def test_what_is_in_the_bin_shows_no_images(live: Api) -> None:
    """They are not handed out from there, so nothing says that they are."""
    file, core = live.direct(pool_id=BIN_POOL), live.world.core
    image = put(core.homes[BIN_POOL].store, b"an image")
    core.catalog.describe_blob(file["storage_id"], {"kind": "image"}, image, image)

    def has_images(found: dict[str, Any]) -> set[bool]:
        each = (found, found["object"])
        return {one[name] for one in each for name in ("has_thumbnail", "has_compression")}

    path = f"/api/files/{file['id']}"
    assert has_images(live.get(f"{path}/info").json()) == {True}
    assert live.delete(path).status_code == 204
    refused(live.get(path, params={"thumbnail": "true"}), 404, "FILE_NOT_FOUND")
    binned = live.get("/api/files/recycle").json()
    assert has_images(next(each for each in binned if each["id"] == file["id"])) == {False}
    assert has_images(live.post(f"{path}/restore").json()) == {True}
    assert live.get(path, params={"thumbnail": "true"}).content == b"an image"


def test_a_deleted_bundles_files_go_into_the_bin(live: Api) -> None:
    made = bundle_of(live)
    kept = live.direct(pool_id=BIN_POOL, bundle_id=made["id"])["id"]
    gone = live.direct(bundle_id=made["id"])["id"]
    assert live.delete(f"/api/bundles/{made['id']}").status_code == 204
    assert live.post(f"/api/files/{kept}/restore").json()["bundle_id"] is None
    refused(live.post(f"/api/files/{gone}/restore"), 404, "FILE_NOT_FOUND")


# pages


def test_the_page_of_a_bundle(live: Api, anonymous: Api) -> None:
    ends = soon(days=1)
    made = bundle_of(live, "Trip & more", description="line 1\nline 2", expired_at=ends)
    file = live.direct(b"x" * 1234, "a.txt", bundle_id=made["id"])
    page = anonymous.get(f"/b/{made['slug']}")
    assert page.status_code == 200
    for told in ("Trip &amp; more", "line 1\nline 2", "a.txt", "1.2\xa0kB", "for 23 hours, until"):
        assert told in page.text
    assert f'<time datetime="{ends[:10]}' in page.text
    assert 'name="viewport" content="width=device-width' in page.text
    assert f'href="/b/{made["slug"]}/files/{file["id"]}?download=true"' in page.text
    live.direct(b"y" * 1000, bundle_id=made["id"])
    page = anonymous.get(f"/b/{made['slug']}")
    assert f'href="/b/{made["slug"]}/zip"' in page.text
    assert "Download all" in page.text
    assert "2 files, 2.2\xa0kB" in page.text
    shown = anonymous.get(f"/b/{made['slug']}/files/{file['id']}")
    assert shown.content == b"x" * 1234
    assert shown.headers["content-type"] == "text/plain; charset=utf-8"
    saved = anonymous.get(f"/b/{made['slug']}/files/{file['id']}?download=true")
    assert saved.headers["content-disposition"].startswith("attachment")
    style = anonymous.get(re.findall(r'"(/style-\w+\.css)"', page.text)[0])
    assert style.headers["content-type"].startswith("text/css")
    assert "immutable" in style.headers["cache-control"]
    wire = int(page.headers["content-length"]) + int(style.headers["content-length"])
    assert wire < 15_000


@pytest.mark.parametrize("path", ["/b/{slug}", "/b/never-was", "/b/{slug}/files/x", "/b/{locked}"])
def test_pages_are_locked_down(live: Api, anonymous: Api, path: str) -> None:
    made = bundle_of(live, "<script>alert(1)</script>")
    locked = bundle_of(live, passcode=RIGHT)
    live.direct(bundle_id=made["id"])
    page = anonymous.get(path.format(slug=made["slug"], locked=locked["slug"]))
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'none'", "img-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert not re.search(r"script-src|unsafe|https?:|\*", policy)
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "same-origin"
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(r"<script|<style|\son\w+=|style=|https?://", page.text)


class _Markup(HTMLParser):
    """The tags on a page, each with the names of its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[tuple[str, ...]] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add((tag, *sorted(name for name, _ in attrs)))


def markup_of(page: str) -> set[tuple[str, ...]]:
    return _Markup(page).found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_text(live: Api, anonymous: Api, name: str) -> None:
    made = bundle_of(live, name, description=name)
    file = live.direct(bundle_id=made["id"], file_name=name)
    page = anonymous.get(f"/b/{made['slug']}").text
    alone = anonymous.get(f"/b/{made['slug']}/view/{file['id']}").text
    plain = bundle_of(live, "plain", description="plain")
    for harmless in ("plain.txt", "plain"):
        other = live.direct(bundle_id=plain["id"], file_name=harmless)
    assert markup_of(page) <= markup_of(anonymous.get(f"/b/{plain['slug']}").text)
    view = f"/b/{plain['slug']}/view/{other['id']}?at=1"
    assert markup_of(alone) <= markup_of(anonymous.get(view).text)
    for shown in (page, alone):
        assert not re.search(r"[\u202a-\u202e\u2066-\u2069\r]", shown)
    for path in (f"/b/{made['slug']}/files/{file['id']}", f"/b/{made['slug']}/zip"):
        answer = anonymous.get(path)
        assert "set-cookie" not in answer.headers
        assert "\n" not in answer.headers["content-disposition"]


def test_the_passcode_is_given_on_the_page(live: Api, anonymous: Api) -> None:
    made, other = bundle_of(live, "Hidden", passcode="ö p"), bundle_of(live, passcode="ö p")
    file = live.direct(b"secret", "hidden.txt", bundle_id=made["id"])
    path = f"/b/{made['slug']}"
    for locked in (path, f"{path}/zip", f"{path}/files/{file['id']}", f"{path}?passcode=ö p"):
        page = anonymous.get(locked)
        assert page.status_code == 403
        assert "behind a passcode" in page.text
        assert f'action="{path}"' in page.text
        assert not re.search(r"hidden\.txt|Hidden", page.text)
    for wrong in ({"passcode": "no"}, {"passcode": ""}, {"other": "x"}):
        page = anonymous.post(path, data=wrong)
        assert page.status_code == 403
        assert "set-cookie" not in page.headers
    assert "This is not the passcode." in anonymous.post(path, data={"passcode": "no"}).text
    right = anonymous.post(path, data={"passcode": "ö p"})
    assert (right.status_code, right.headers["location"]) == (303, path)
    cookie = SimpleCookie(right.headers["set-cookie"])["upwell_passcode"]
    assert (cookie["path"], cookie["samesite"].lower()) == (path, "lax")
    assert cookie["httponly"]
    assert not cookie["secure"]
    assert "hidden.txt" in anonymous.get(path).text
    assert anonymous.get(f"{path}/files/{file['id']}").content == b"secret"
    assert entries(anonymous.get(f"{path}/zip").content) == {"hidden.txt": b"secret"}
    assert anonymous.get(f"/b/{other['slug']}").status_code == 403
    proof = {"Cookie": f"upwell_passcode={cookie.value}"}
    assert anonymous.get(f"/b/{other['slug']}", headers=proof).status_code == 403
    live.patch(f"/api/bundles/{made['id']}", json={"passcode": "another"})
    assert anonymous.get(path).status_code == 403


def test_the_owner_sees_the_page_without_the_passcode(live: Api, anonymous: Api) -> None:
    made = bundle_of(live, passcode=RIGHT)
    anonymous.headers["Cookie"] = f"upwell_session={live.world.secrets['alice']}"
    assert anonymous.get(f"/b/{made['slug']}").status_code == 200
    anonymous.headers["Cookie"] = f"upwell_session={live.world.secrets['bob']}"
    assert anonymous.get(f"/b/{made['slug']}").status_code == 403


def test_an_encrypted_file_on_the_page(live: Api, anonymous: Api) -> None:
    made = bundle_of(live)
    file = live.direct(b"sealed", "a.txt", bundle_id=made["id"], encrypt_password="p")
    path = f"/b/{made['slug']}/files/{file['id']}"
    listed = anonymous.get(f"/b/{made['slug']}").text
    assert "encrypted" in listed
    page = anonymous.get(path)
    assert page.status_code == 403
    assert f'<form method="post" action="{path}"' in page.text
    wrong = anonymous.post(path, data={"password": "q"})
    assert (wrong.status_code, "not the password" in wrong.text) == (403, True)
    got = anonymous.post(path, data={"password": "p"})
    assert (got.status_code, got.content) == (200, b"sealed")
    assert got.headers["content-disposition"].startswith("attachment")


def test_the_page_gives_files_of_its_bundle_only(live: Api, anonymous: Api) -> None:
    made, other = bundle_of(live), bundle_of(live)
    inside = live.direct(b"in", bundle_id=other["id"])["id"]
    outside = live.direct(b"out")["id"]
    for file_id in (inside, outside, UNKNOWN):
        page = anonymous.get(f"/b/{made['slug']}/files/{file_id}")
        assert page.status_code == 404
        assert "no such file in this bundle" in page.text


def test_a_page_at_a_time(live: Api, anonymous: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upwell.http.bundle_pages._ON_A_PAGE", 2)
    made = bundle_of(live)
    for number in range(5):
        live.direct(unique(), f"file{number}", bundle_id=made["id"])
    path, seen = f"/b/{made['slug']}", list[str]()
    while path:
        page = anonymous.get(path).text
        seen += re.findall(r'<bdi class="name">(file\d)</bdi></a>', page)
        following = re.search(r'rel="next" href="([^"]+)">More files', page)
        path = following[1] if following else ""
    assert seen == [f"file{number}" for number in range(5)]


def test_a_file_of_a_bundle_by_itself(live: Api, anonymous: Api) -> None:
    made = bundle_of(live, "Trip")
    names = ["first.txt", "film.mp4", "song.mp3", "picture.png", "page.html", "last.zip"]
    kinds = ["text/plain", "video/mp4", "audio/x-m4a", "image/jpg", "text/html", "application/zip"]
    files = [
        live.direct(unique(), name, bundle_id=made["id"], content_type=kind)["id"]
        for name, kind in zip(names, kinds, strict=True)
    ]
    base = f"/b/{made['slug']}"
    pages = [anonymous.get(f"{base}/view/{each}?at={n}").text for n, each in enumerate(files)]
    for number, page in enumerate(pages):
        assert f"{number + 1} of 6" in page
        assert names[number] in page
        assert f'href="{base}/files/{files[number]}?download=true"' in page
        near = re.findall(rf'rel="(\w+)" href="{base}/view/(\w+)\?at=(\d)"', page)
        beside = [("prev", number - 1), ("next", number + 1)]
        wanted = [(rel, files[at], f"{at}") for rel, at in beside if 0 <= at < 6]
        assert near == wanted
    for number, tag in ((1, "video"), (2, "audio"), (3, "img")):
        assert f'<{tag} src="{base}/files/{files[number]}"' in pages[number]
    for number in (0, 4, 5):
        assert not re.search("<(video|audio|img)", pages[number])
    opened = f'href="{base}/files/{files[0]}">Open' in pages[0]
    assert (opened, ">Open<" in pages[4]) == (True, False)
    astray = anonymous.get(f"{base}/view/{files[1]}?at=5")
    assert (astray.status_code, "rel=" in astray.text.partition("<main")[2]) == (200, False)


def test_the_room_of_what_is_shown_is_known_before_it_is_there(live: Api, anonymous: Api) -> None:
    made = bundle_of(live)
    video = {"width": 1920, "height": 1080, "rotation": 90}
    film: dict[str, Any] = {"kind": "video", "duration": 3723.4, "video": video}
    facts = (film, {"width": 40, "height": 30})
    pages = []
    for kind, known in zip(("video/mp4", "image/png"), facts, strict=True):
        file = live.direct(bundle_id=made["id"], content_type=kind)
        assert live.world.core.catalog.describe_blob(file["object"]["id"], known, None, None)
        pages.append(anonymous.get(f"/b/{made['slug']}/view/{file['id']}").text)
    assert re.search(r'<video [^>]*width="1080" height="1920"', pages[0])
    assert "1:02:03" in pages[0]
    assert re.search(r'<img [^>]*width="40" height="30"', pages[1])


def test_who_may_see_a_file_by_itself(live: Api, anonymous: Api) -> None:
    locked, made = bundle_of(live, passcode=RIGHT), bundle_of(live)
    hidden = live.direct(bundle_id=locked["id"], file_name="hidden.txt")["id"]
    page = anonymous.get(f"/b/{locked['slug']}/view/{hidden}")
    assert (page.status_code, "hidden.txt" in page.text) == (403, False)
    assert f'action="/b/{locked["slug"]}"' in page.text
    assert anonymous.get(f"/b/{made['slug']}/view/{hidden}").status_code == 404
    sealed = live.direct(bundle_id=made["id"], encrypt_password="p")["id"]
    page = anonymous.get(f"/b/{made['slug']}/view/{sealed}")
    assert f'<form method="post" action="/b/{made["slug"]}/files/{sealed}"' in page.text


def test_a_page_is_compressed_for_who_takes_that(live: Api, anonymous: Api) -> None:
    path = f"/b/{bundle_of(live)['slug']}"
    plain = anonymous.get(path, headers={"Accept-Encoding": "identity"})
    small = anonymous.get(path, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert small.headers["content-encoding"] == "gzip"
    assert plain.text == small.text


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"passcode=x", "text/plain", 415),
        (b'{"passcode": "x"}', "application/json", 415),
        (b"passcode=%FF%FE", "application/x-www-form-urlencoded", 400),
        (b"\xff\xfe", "application/x-www-form-urlencoded", 400),
        (b"a=b&" * 50, "application/x-www-form-urlencoded", 400),
        (b"passcode=" + b"x" * 10_000, "application/x-www-form-urlencoded", 413),
    ],
)
def test_what_is_no_form(live: Api, anonymous: Api, body: bytes, kind: str, status: int) -> None:
    made = bundle_of(live, passcode=RIGHT)
    for path in (f"/b/{made['slug']}", f"/b/{made['slug']}/files/x", "/s/x/open"):
        answer = anonymous.post(path, content=body, headers={"Content-Type": kind})
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/html")


# I9


@pytest.mark.slow
def test_i9_what_is_shared_leaves_no_secret_in_the_log(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        url, token = f"http://127.0.0.1:{server.port}", server.api().token
        with httpx2.Client(base_url=url, trust_env=False, timeout=30) as client:
            secrets = _use_secrets(client, {"Authorization": f"Bearer {token}"})
        log = server.log()
        assert not server.bugs()
    stored = b"".join(each.read_bytes() for each in (tmp_path / "data").glob("catalog.*"))
    assert log.count("request") >= 8
    for secret in ("s3cret", "wr0ng", *secrets):
        assert secret not in log
        assert secret.encode() not in stored


def _use_secrets(client: httpx2.Client, headers: dict[str, str]) -> list[str]:
    """Requests with secrets wherever sharing has one; those that the server made."""
    body = {"name": "x", "slug": "shared", "passcode": "s3cret-passcode"}
    made = client.post("/api/bundles", json=body, headers=headers).json()
    form = {"bundle_id": made["id"], "encrypt_password": "s3cret-password"}
    direct = "/api/files/upload/direct"
    stored = client.post(direct, data=form, files={"file": b"x"}, headers=headers)
    file = stored.json()["id"]
    link = client.post(f"/api/files/{file}/links", json={}, headers=headers).json()
    linked, signature = f"/s/{link['id']}", link["url"].partition("?signature=")[2]
    password = {"X-Encrypt-Password": "s3cret-password"}
    assert client.get(f"{linked}?signature={signature}", headers=password).content == b"x"
    assert client.get(f"{linked}?signature={signature}wr0ng").status_code == 404
    public = "/api/bundles/public/shared?passcode="
    assert client.get(f"{public}s3cret-passcode").status_code == 200
    assert client.get(f"{public}wr0ng-passcode").status_code == 403
    page = client.post("/b/shared", data={"passcode": "s3cret-passcode"})
    proof = SimpleCookie(page.headers["set-cookie"])["upwell_passcode"].value
    opened = client.post(
        f"/b/shared/files/{file}",
        data={"password": "s3cret-password"},
        headers={"Cookie": f"upwell_passcode={proof}"},
    )
    assert opened.content == b"x"
    return [signature, proof]


def test_the_public_address(tmp_path: Path) -> None:
    """Addresses are as people reach the server, when it was told how."""
    core = build(Settings(data=tmp_path, public_url="https://up.example/"))
    transport = LoopTransport(asgi(core))
    token = core.accounts.issue(core.accounts.create("alice"), "test")
    headers = {"Authorization": f"Bearer {token}"}
    try:
        with httpx2.Client(transport=transport, base_url="http://inside", headers=headers) as api:
            body = {"name": "x", "slug": "abc", "passcode": RIGHT}
            made = api.post("/api/bundles", json=body).json()
            assert made["url"] == "https://up.example/b/abc"
            form = {"bundle_id": made["id"]}
            api.post("/api/files/upload/direct", data=form, files={"file": b"x"})
            told = api.get("/api/bundles/public/abc").json()
            assert told["zip_url"] == "https://up.example/api/bundles/public/abc/zip"
            file = told["files"][0]
            assert file["url"] == f"https://up.example/api/files/{file['id']}"
            link = api.post(f"/api/files/{file['id']}/links", json={}).json()
            assert link["url"].startswith(f"https://up.example/s/{link['id']}?signature=")
            page = api.post("/b/abc", data={"passcode": RIGHT})
            assert SimpleCookie(page.headers["set-cookie"])["upwell_passcode"]["secure"]
    finally:
        transport.stop()
        core.close()


def test_a_foreign_site_cannot_share_for_a_session(live: Api, anonymous: Api) -> None:
    anonymous.headers["Cookie"] = f"upwell_session={live.world.secrets['alice']}"
    foreign = {"Sec-Fetch-Site": "cross-site"}
    answer = anonymous.post("/api/bundles", json={"name": "x"}, headers=foreign)
    refused(answer, 403, "CROSS_SITE")
