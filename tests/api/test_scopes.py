"""Which scopes a token needs for which operation: one table, and every operation is in it."""

from __future__ import annotations

import json
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.world import Api, described, refused, unique
from upwell.model import DEFAULT_POOL_ID, Policy, Pool, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx2

    from tests.api.world import World

READ, WRITE, ADMIN = frozenset({Scope.READ}), frozenset({Scope.WRITE}), frozenset({Scope.ADMIN})
SHARE = READ | WRITE
ANY: frozenset[Scope] = frozenset()  # any token, or none
NO_ID = "0" * 32
NO_GUID = "00000000-0000-4000-8000-00000000ffff"
OPEN_POOL = "5d1f0a52-73c4-4d5e-9f4e-0d8f6a1c2b3e"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

# What each operation takes, all of it, and a body that is valid. Operations that hand out content
# are asked for content that is there; those that change something, for ids that nobody has.
OPERATIONS: dict[str, tuple[frozenset[Scope], dict[str, Any]]] = {
    "create_upload": (WRITE, {"json": described(b"scopes")}),
    "upload_chunk_form": (WRITE, {"files": {"chunk": b"x"}}),
    "upload_chunk_raw": (WRITE, {"content": b"x"}),
    "complete_upload": (WRITE, {}),
    "upload_direct": (WRITE, {"files": {"file": b"x"}}),
    "upload_batch": (
        WRITE,
        {"files": {"items": (None, '[{"file_name": "a", "file_size": 1}]'), "content": b"x"}},
    ),
    "resume_upload": (READ, {}),
    "resume_upload_with": (WRITE, {"json": {"file_name": "x"}}),
    "upload_progress": (READ, {}),
    "list_tasks": (READ, {}),
    "cancel_upload": (WRITE, {}),
    "my_files": (READ, {}),
    "recycled_files": (READ, {}),
    "delete_files": (WRITE, {"json": {"file_ids": [NO_ID]}}),
    "download_file": (READ, {}),
    "head_file": (READ, {}),
    "delete_file": (WRITE, {}),
    "open_file": (READ, {"content": b"password=", "headers": FORM}),
    "file_info": (READ, {}),
    "rename_file": (WRITE, {"json": {"name": "x"}}),
    "describe_file": (WRITE, {"json": {"description": "x"}}),
    "set_file_meta": (WRITE, {"json": {"user_meta": {}}}),
    "set_file_marks": (WRITE, {"json": {"sensitive_marks": []}}),
    "restore_file": (WRITE, {}),
    "move_file": (WRITE, {"json": {"pool_id": DEFAULT_POOL_ID}}),
    "file_moves": (READ, {}),
    "place_file": (SHARE, {"json": {"bundle_id": NO_GUID}}),
    "take_file": (WRITE, {}),
    "create_link": (SHARE, {"json": {}}),
    "list_links": (READ, {}),
    "revoke_link": (WRITE, {}),
    "my_account": (ANY, {}),
    "list_pools": (READ, {}),
    "create_pool": (ADMIN, {"json": {"name": "pictures"}}),  # a name that is taken
    "get_pool": (READ, {}),
    "change_pool": (ADMIN, {"json": {}}),
    "delete_pool": (ADMIN, {}),
    "pool_usage": (ADMIN, {}),
    "my_usage": (READ, {}),
    "my_quota": (READ, {}),
    "list_events": (READ, {}),
    "list_webhooks": (READ, {}),
    "add_webhook": (SHARE, {"json": {"url": "ftp://hook.example/"}}),
    "get_webhook": (READ, {}),
    "remove_webhook": (WRITE, {}),
    "enable_webhook": (WRITE, {}),
    "test_webhook": (WRITE, {}),
    "list_deliveries": (READ, {}),
    "public_bundle": (READ, {}),
    "bundle_zip": (READ, {}),
    "head_bundle_zip": (READ, {}),
    "create_bundle": (WRITE, {"json": {"name": "x"}}),
    "list_bundles": (READ, {}),
    "get_bundle": (READ, {}),
    "change_bundle": (SHARE, {"json": {}}),
    "delete_bundle": (WRITE, {}),
    "bundle_files": (READ, {}),
    "linked_file": (ANY, {}),  # the link is the credential; a token beside it is not looked at
    "head_linked_file": (ANY, {}),
    "live": (ANY, {}),
    "head_live": (ANY, {}),
    "ready": (ANY, {}),
    "head_ready": (ANY, {}),
    "log_out": (ANY, {}),
}
HANDS_OUT = {"download_file", "head_file", "open_file", "linked_file", "head_linked_file"}


def every(world: World) -> Iterator[tuple[str, str, str]]:
    """Method, path and name of each operation; an alias has the name of what it stands for."""
    for path, operations in world.description["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation["operationId"].removesuffix("_drive")


def subsets() -> list[frozenset[Scope]]:
    sizes = range(len(Scope) + 1)
    return [frozenset(c) for c in chain.from_iterable(combinations(Scope, n) for n in sizes)]


@pytest.fixture
def kept(boss: Api) -> dict[str, str]:
    """A file in a bundle with a passcode, both of the account that asks, and a link to the file."""
    bundle = boss.post("/api/bundles", json={"name": "b", "passcode": "secret"}).json()
    file = boss.direct(bundle_id=bundle["id"])["id"]
    link = boss.post(f"/api/files/{file}/links", json={}).json()
    return {
        "file_id": file,
        "slug": bundle["slug"],
        "link": link["url"].partition("/s/")[2],
    }


def test_every_operation_is_in_the_table(world: World) -> None:
    assert {name for _, _, name in every(world)} == set(OPERATIONS)


@pytest.mark.slow
def test_an_operation_takes_its_scopes_and_no_others(world: World, kept: dict[str, str]) -> None:
    """Whatever scopes a token has: it is refused for want of one exactly when the table says so."""
    for scopes in subsets():
        with Api(world, None, world.token("boss", scopes=scopes)) as client:
            for method, path, name in every(world):
                needed, body = OPERATIONS[name]
                answer = client.request(method, filled(path, name, kept), **body)
                lacks = refused_for_scope(answer)
                assert lacks == (not needed <= scopes), (name, scopes, answer.text)


def filled(path: str, name: str, kept: dict[str, str]) -> str:
    values = {
        "file_id": kept["file_id"] if name in HANDS_OUT else NO_ID,
        "slug": kept["slug"],
        "link_id": kept["link"] if name in HANDS_OUT else NO_ID,
        "chunk_index": "0",
        "task_id": NO_ID,
        "webhook_id": NO_ID,
        "bundle_id": NO_GUID,
        "pool_id": NO_GUID,
    }
    return path.format(**values)


def refused_for_scope(answer: httpx2.Response) -> bool:
    if answer.request.method == "HEAD":
        return answer.status_code == 403
    is_json = answer.headers.get("content-type") == "application/json"
    return is_json and answer.status_code == 403 and answer.json()["code"] == "SCOPE_MISSING"


# what a token that cannot read might try instead


@pytest.fixture
def writer(world: World) -> Iterator[Api]:
    with Api(world, None, world.token("alice", scopes=[Scope.WRITE])) as client:
        yield client


@pytest.fixture
def open_pool(world: World) -> str:
    """A pool that anyone may read."""
    now, catalog = world.clock(), world.core.catalog
    policy = Policy(allow_anonymous=True, public_usable=True)
    if catalog.pool(OPEN_POOL) is None:
        catalog.add_pool(Pool(OPEN_POOL, "open", policy, None, None, now, now))
        world.core.homes.renew()
    return OPEN_POOL


def test_a_writer_reads_no_content_by_a_detour(
    live: Api, writer: Api, anonymous: Api, open_pool: str
) -> None:
    """It cannot read what it has not sent: not from its account's bundles, not by publishing."""
    content = unique()
    file = live.direct(content)["id"]
    bundle = writer.post("/api/bundles", json={"name": "mine"}).json()
    locked = live.post("/api/bundles", json={"name": "b", "passcode": "secret"}).json()
    kept = live.direct(bundle_id=locked["id"])["id"]

    asked = [
        writer.put(f"/api/files/{file}/bundle", json={"bundle_id": bundle["id"]}),
        writer.post(f"/api/files/{file}/links", json={}),
        writer.post(f"/api/files/{file}/move", json={"pool_id": open_pool}),
        writer.patch(f"/api/bundles/{locked['id']}", json={"passcode": None}),
        writer.get(f"/api/bundles/public/{locked['slug']}/zip"),
        writer.get(f"/api/bundles/public/{locked['slug']}"),
        writer.get(f"/api/files/{kept}"),
        writer.post("/api/webhooks", json={"url": "https://hook.example/"}),
    ]
    for answer in asked:
        assert refused(answer, 403, "SCOPE_MISSING")["meta"] == {"scope": "files:read"}
    for path in (f"/b/{locked['slug']}/zip", f"/b/{locked['slug']}/files/{kept}"):
        cookie = {"Cookie": f"upwell_session={writer.headers['authorization'][7:]}"}
        assert anonymous.get(path, headers=cookie).status_code == 403

    task = live.create(unique())["task_id"]  # not its own, as far as anybody can tell
    options = {"file_name": "x", "bundle_id": bundle["id"]}
    answer = writer.put(f"/api/files/upload/resume/{task}", json=options)
    refused(answer, 403, "SCOPE_MISSING")

    # Its hash alone makes no file of it where others could read it.
    for place in ({"bundle_id": bundle["id"]}, {"pool_id": open_pool}):
        assert writer.create(content, **place)["file_exists"] is False
        item = {"file_name": "a.txt", "file_size": len(content)} | place
        item["hash"] = described(content)["hash"]
        found = writer.post("/api/files/upload/batch", files={"items": (None, json.dumps([item]))})
        assert found.json()["results"][0]["file"] is None
    assert writer.create(content)["file_exists"] is True  # nobody else can read it there
    assert anonymous.get(f"/api/bundles/public/{bundle['slug']}").json()["files"] == []


def test_a_writer_publishes_what_it_sends(writer: Api, anonymous: Api) -> None:
    bundle = writer.post("/api/bundles", json={"name": "drop"}).json()
    content = unique()
    file = writer.store(content, bundle_id=bundle["id"])
    assert anonymous.get(f"/api/files/{file['id']}").content == content
