"""Every route of the description, abused by hand: one error shape, and nothing is changed.

That an answer has the one shape and is described, the client sees to (``Api.check``).
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.world import SECOND_POOL, Api, World, refused, unique
from upwell.http.guard import JSON_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

JSON = {"Content-Type": "application/json"}
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")


@pytest.fixture
def things(live: Api, boss: Api) -> Iterator[dict[str, str]]:
    """One of everything that a path may name."""
    file = live.direct()["id"]
    bundle = live.post("/api/bundles", json={"name": "kept", "slug": uuid.uuid4().hex}).json()
    live.put(f"/api/files/{file}/bundle", json={"bundle_id": bundle["id"]})
    webhook = live.post("/api/webhooks", json={"url": "https://hooks.example/"}).json()
    pool = boss.post("/api/pools", json={"name": uuid.uuid4().hex}).json()
    yield {
        "file_id": file,
        "bundle_id": bundle["id"],
        "slug": bundle["slug"],
        "link_id": live.post(f"/api/files/{file}/links", json={}).json()["id"],
        "webhook_id": webhook["id"],
        "pool_id": pool["id"],
        "task_id": live.create(unique(8))["task_id"],
        "chunk_index": "0",
    }
    live.delete(f"/api/webhooks/{webhook['id']}")
    live.delete(f"/api/bundles/{bundle['id']}")
    boss.delete(f"/api/pools/{pool['id']}")


@pytest.fixture
def of(live: Api, boss: Api) -> Callable[[str], Api]:
    """Who may ask a path."""
    return lambda path: boss if path.startswith("/api/pools") else live


@pytest.fixture
def state(live: Api, boss: Api, things: dict[str, str]) -> Callable[[], list[Any]]:
    """All that bad requests must not change."""
    mine = ["/api/files/{file_id}/info", "/api/files/{file_id}/links", "/api/files/{file_id}/moves"]
    mine += ["/api/files/me", "/api/files/upload/resume/{task_id}", "/api/bundles", "/api/webhooks"]
    mine += ["/api/bundles/{bundle_id}", "/api/webhooks/{webhook_id}", "/api/billing/usage"]

    def read() -> list[Any]:
        found = [live.get(path.format(**things)).json() for path in mine]
        return [*found, boss.get("/api/pools").json()]

    return read


def operations(world: World) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in world.description["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def bodies(world: World) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and schema of what takes JSON."""
    schemas = world.description["components"]["schemas"]
    for method, path, operation in operations(world):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content and not path.startswith("/drive"):
            yield method, path, schemas[content["schema"]["$ref"].rpartition("/")[2]]


@pytest.mark.slow
def test_other_methods(world: World, things: dict[str, str], of: Callable[[str], Api]) -> None:
    for path, described in world.description["paths"].items():
        for method in METHODS:
            if method.lower() in described:
                continue
            answer = of(path).request(method, path.format(**things))
            # `me` and the like are also taken for a file's id, or a task's.
            assert answer.status_code == (404 if answer.headers.get("allow") is None else 405)
            if answer.status_code == 405:
                assert answer.headers["allow"] == ", ".join(sorted(map(str.upper, described)))
            elif method != "HEAD":
                assert answer.json()["code"] in ("FILE_NOT_FOUND", "TASK_NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"null", 400),
        (b"[]", 400),
        (b'"\\ud800"', 400),
        (b"\xff", 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b'{"a": "' + b"x" * JSON_LIMIT + b'"}', 413),
    ],
)
def test_bodies_that_are_no_object(
    world: World,
    things: dict[str, str],
    of: Callable[[str], Api],
    state: Callable[[], list[Any]],
    body: bytes,
    status: int,
) -> None:
    before = state()
    for method, path, _ in bodies(world):
        answer = of(path).request(method, path.format(**things), content=body, headers=JSON)
        assert answer.status_code == status, (path, answer.text)
        plain = of(path).request(method, path.format(**things), content=body[:100])
        refused(plain, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert state() == before


GOOD: dict[str, Any] = {
    "bundle_id": SECOND_POOL, "description": "a", "file_ids": [], "file_name": "a",
    "file_size": 1, "name": "a",
    "pool_id": SECOND_POOL, "sensitive_marks": [], "url": "https://hooks.example/", "user_meta": {},
}  # fmt: skip
# No field takes any of these.
BAD: tuple[Any, ...] = (
    "\x00", "a\x00b", "\ud800", "a\udfff", ["\ud800"], ["\x00"], {"a": "\ud800"}, {"\ud800": 1},
    "", "a" * 20_000, -1, 1.5, 1e400, float("nan"), 10**19, 2**64, -(10**400), [[]], [None],
    "10000-01-01T00:00:00Z", "2030-02-30T00:00:00Z", "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59", "1893456000", "٢٠٣٠-01-01T00:00:00Z",
)  # fmt: skip
SECRETS = {"passcode", "encrypt_password"}  # of anything that is text
TEXTS = {"name", "description", "file_name", "content_type", "slug"} | SECRETS


def fits(field: str, value: Any) -> bool:
    """Whether a field takes one of ``BAD`` after all, or may, which is not asked here."""
    if field not in TEXTS or not isinstance(value, str) or len(value) > 10_000:
        return False
    if "\x00" in value:
        return field in SECRETS
    return value.isprintable() and (value != "" or field in {"content_type", "description"})


@pytest.mark.slow
def test_values_that_no_field_takes(
    world: World,
    things: dict[str, str],
    of: Callable[[str], Api],
    state: Callable[[], list[Any]],
) -> None:
    before = state()
    for method, path, schema in bodies(world):
        for field in schema["properties"]:
            good = {name: GOOD[name] for name in schema.get("required", ()) if name != field}
            for value in (each for each in BAD if not fits(field, each)):
                answer = of(path).request(
                    method,
                    path.format(**things),
                    content=json.dumps(good | {field: value}),
                    headers=JSON,
                )
                assert answer.status_code == 400, (path, field, value)
    assert state() == before


NO_IDS = (
    "%00", "a%00b", "%ff", "%ed%a0%80", "%F0%9F%98%80", "..%2f..%2fetc%2fpasswd", "a" * 5000,
    "%0d%0aX-Injected:1", "%7B{}%7D", "urn:uuid:{}", "%20{}", "{}%0a", "{}%00", "{}%2f", "-1",
    "1.5", "%D9%A3", "9" * 30, ";", "*", "null",
)  # fmt: skip


@pytest.mark.slow
def test_ids_that_are_none(
    world: World,
    things: dict[str, str],
    of: Callable[[str], Api],
    state: Callable[[], list[Any]],
) -> None:
    before = state()
    for method, path, _ in operations(world):
        for name in (each for each in things if f"{{{each}}}" in path):
            if name == "pool_id":
                continue  # any spelling of a UUID is one
            for spelling in NO_IDS:
                bad = things | {name: spelling.format(things[name])}
                answer = of(path).request(method, path.format(**bad), json=GOOD)
                takes_form = "/upload/chunk/" in path or path.endswith("/open")
                wrong_form = takes_form and method == "POST"
                assert answer.status_code in {404, 405, 415 if wrong_form else 404} | (
                    {400} if name == "chunk_index" else set()
                ), (method, path, spelling)
                assert "x-injected" not in answer.headers
    assert state() == before


@pytest.mark.slow
def test_queries(world: World, things: dict[str, str], of: Callable[[str], Api]) -> None:
    texts = ["%00", "%ff", "%ed%a0%80", "%D9%A3", "9" * 20, "9" * 5000, "-1", "1.5", "0x1", ""]
    texts += ["a" * 60_000, "%0d%0aX-Injected:1"]
    for method, path, operation in operations(world):
        for parameter in operation.get("parameters", []):
            if parameter["in"] != "query":
                continue
            free = parameter["name"] in ("signature", "passcode", "search")
            for text in texts:
                if parameter["name"] == "search" and len(text) > 255:
                    continue
                for query in (f"{parameter['name']}={text}", f"x=1&x=2&{parameter['name']}={text}"):
                    answer = of(path).request(method, f"{path.format(**things)}?{query}")
                    assert (answer.status_code == 400) != free, (method, path, query[:50])
        many = "&".join(f"x{number}=1" for number in range(5000))
        if method == "GET":
            answer = of(path).get(f"{path.format(**things)}?{many}")
            assert answer.status_code == 200 or "{link_id}" in path


def test_a_token_counts_before_a_session(
    world: World, things: dict[str, str], anonymous: Api
) -> None:
    """Whichever is wrong: the header is what a program meant."""
    alice, bob = world.secrets["alice"], world.secrets["bob"]
    cookie = {"Cookie": f"upwell_session={bob}"}
    path = f"/api/files/{things['file_id']}/info"
    both = cookie | {"Authorization": f"Bearer {alice}"}
    assert anonymous.get(path, headers=both).status_code == 200
    wrong = cookie | {"Authorization": "Bearer x"}
    for method, path, _ in operations(world):
        if path.startswith(("/api/", "/drive/")):
            form = {"chunk": b"x"} if "/chunk/" in path else None
            answer = anonymous.request(method, path.format(**things), headers=wrong, files=form)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"].startswith("Bearer")


NASTY = 'a"\r\nX-Injected: 1\r\n\r\n;\\/%00é😀\u202e.txt'


def test_names_cannot_write_headers(live: Api, things: dict[str, str]) -> None:
    live.patch(f"/api/files/{things['file_id']}/name", json={"name": NASTY})
    live.patch(f"/api/bundles/{things['bundle_id']}", json={"name": NASTY})
    link = live.get(f"/api/files/{things['file_id']}/links").json()[0]["url"]
    for path in (
        f"/api/files/{things['file_id']}",
        f"/api/bundles/public/{things['slug']}/zip",
        f"/b/{things['slug']}/zip",
        f"/b/{things['slug']}/files/{things['file_id']}?download=true",
        link,
    ):
        answer = live.get(path)
        assert answer.status_code == 200
        assert "x-injected" not in answer.headers
        told = answer.headers["content-disposition"]
        assert told.isprintable()
        assert told.isascii()
        assert told.count('"') == 2
