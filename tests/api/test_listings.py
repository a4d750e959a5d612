"""Lists over HTTP: the cursor in the head of an answer, and the clients that follow it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.world import Api, refused, unique
from upwell.client import AsyncClient, Client
from upwell.client import client as facade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.api.world import World
    from upwell.client import CloudFile

ROWS = 5


@pytest.fixture
def carol(world: World) -> Iterator[Api]:
    """Somebody with nothing but what her test makes."""
    name = f"carol-{unique().hex()[:12]}"
    with Api(world, None, world.token(name)) as client:
        yield client


def fill(api: Api) -> dict[str, tuple[str, dict[str, Any]]]:
    """Five rows in every list; each list's path and query."""
    bundle = api.post("/api/bundles", json={"name": "b"}).json()
    for number in range(ROWS - 1):
        api.post("/api/bundles", json={"name": f"b{number}"})
    files = [api.direct(name=f"walk {n}", bundle_id=bundle["id"]) for n in range(ROWS)]
    for number in range(ROWS):
        api.create(unique(), file_name=f"task {number}")
        link = api.post(f"/api/files/{files[0]['id']}/links", json={"expires_in": 60})
        assert link.status_code == 201
    hook = api.post("/api/webhooks", json={"url": "https://example.org/hook"}).json()
    for _ in range(ROWS):
        api.post(f"/api/webhooks/{hook['id']}/test")
    lists = {
        "bundles": "/api/bundles",
        "files in a bundle": f"/api/bundles/{bundle['id']}/files",
        "links": f"/api/files/{files[0]['id']}/links",
        "tasks": "/drive/files/upload/tasks",
        "deliveries": f"/api/webhooks/{hook['id']}/deliveries",
    }
    found: dict[str, tuple[str, dict[str, Any]]] = {n: (p, {}) for n, p in lists.items()}
    for order in ("newest", "oldest", "name", "-name", "size", "-size"):
        found[f"files by {order}"] = "/api/files/me", {"order": order}
        found[f"search by {order}"] = "/api/files/me", {"order": order, "search": "walk"}
    return found


def test_every_list_continues_behind_its_cursor(carol: Api) -> None:
    for name, (path, query) in fill(carol).items():
        whole = carol.get(path, params=query | {"take": 100})
        assert "x-next-cursor" not in whole.headers, name
        seen: list[Any] = []
        after: dict[str, str] = {}
        while True:
            page = carol.get(path, params=query | {"take": 2} | after)
            seen += page.json()
            assert int(page.headers["x-total"]) == ROWS, name
            if "x-next-cursor" not in page.headers:
                break
            after = {"after": page.headers["x-next-cursor"]}
        assert [each["id"] for each in seen if "id" in each] == [
            each["id"] for each in whole.json() if "id" in each
        ], name
        assert len(seen) == ROWS
        error = refused(carol.get(path, params={"after": "bm8"}), 400, "VALIDATION_FAILED")
        assert "after" in error["errors"]


def test_a_public_bundle_continues_behind_its_cursor(carol: Api, anonymous: Api) -> None:
    bundle = carol.post("/api/bundles", json={"name": "b"}).json()
    made = [carol.direct(bundle_id=bundle["id"])["id"] for _ in range(3)]
    path = f"/api/bundles/public/{bundle['slug']}"
    first = anonymous.get(path, params={"take": 2})
    after = first.headers["x-next-cursor"]
    rest = anonymous.get(path, params={"take": 2, "after": after})
    assert "x-next-cursor" not in rest.headers
    listed = [file["id"] for each in (first, rest) for file in each.json()["files"]]
    assert listed == made


@pytest.mark.parametrize("walk", ["blocking", "asyncio"])
def test_all_meets_every_file_once_while_others_come_and_go(
    world: World, carol: Api, monkeypatch: pytest.MonkeyPatch, walk: str
) -> None:
    monkeypatch.setattr(facade, "PAGE", 2)
    token = carol.headers["authorization"].removeprefix("Bearer ")
    made = [carol.direct()["id"] for _ in range(ROWS)]

    def change(file: CloudFile) -> None:
        carol.direct()
        assert carol.delete(f"/api/files/{file.id}").is_success

    walks: dict[str, Callable[[], list[str]]] = {
        "blocking": lambda: _walk(world.url, token, change),
        "asyncio": lambda: asyncio.run(_walk_async(world.url, token, change)),
    }
    assert walks[walk]() == made[::-1]
    with Client(world.url, token) as client:
        assert len({file.id for file in client.files.all()}) == ROWS
        assert [*client.files.all_recycled(), *client.uploads.all()] == []


def _walk(url: str, token: str, change: Callable[[CloudFile], None]) -> list[str]:
    seen = []
    with Client(url, token) as client:
        for file in client.files.all():
            seen.append(file.id)
            change(file)
    return seen


async def _walk_async(url: str, token: str, change: Callable[[CloudFile], None]) -> list[str]:
    seen = []
    async with AsyncClient(url, token) as client:
        async for file in client.files.all():
            seen.append(file.id)
            await asyncio.to_thread(change, file)
    return seen
