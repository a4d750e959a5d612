"""Pools, usage, quota and moves over HTTP: shapes, rights, refusals."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.world import (
    SECOND_POOL,
    Api,
    Clock,
    LoopTransport,
    World,
    described,
    refused,
    serving,
    unique,
)
from upwell.app import asgi, build
from upwell.config import Settings
from upwell.model import DEFAULT_POOL_ID, JobKind, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

POOLS = "/api/pools"
USAGE = "/api/billing/usage"
QUOTA = "/api/billing/quota"
NOBODYS = "00000000-0000-4000-8000-00000000ffff"
FIELDS = {
    "id", "name", "is_default", "accept_types", "max_file_size", "allow_encryption",
    "allow_anonymous", "public_usable", "no_metadata", "no_optimization", "enable_recycle",
    "quota", "file_expiry", "created_at", "updated_at",
}  # fmt: skip


@pytest.fixture
def make(boss: Api) -> Iterator[Callable[..., Any]]:
    """Makes pools; after the test they are gone, or hidden when something is in them."""
    made = []

    def pool(**fields: Any) -> Any:
        answer = boss.post(POOLS, json={"name": f"pool {uuid.uuid4()}"} | fields)
        assert answer.status_code == 201, answer.text
        made.append(answer.json()["id"])
        return answer.json()

    yield pool
    for pool_id in made:
        boss.patch(f"{POOLS}/{pool_id}", json={"public_usable": False})
        boss.delete(f"{POOLS}/{pool_id}")


@pytest.fixture
def fresh(world: World) -> Iterator[Api]:
    """An account that holds nothing yet."""
    with Api(world, None, world.token(f"fresh-{uuid.uuid4().hex}")) as client:
        yield client


def set_quota(world: World, client: Api, quota: int | None) -> None:
    secret = client.headers["Authorization"].removeprefix("Bearer ")
    world.core.accounts.set_quota(world.core.accounts.authenticate(secret).account, quota)


def do_moves(world: World) -> None:
    """And no deliveries and previews that other tests asked for."""
    while world.core.runner._run_one(JobKind.MOVE):
        pass


# pools


def test_the_caller_sees_the_pools_to_use(api: Api) -> None:
    pools = {pool["id"]: pool for pool in api.get(POOLS).json()}
    assert set(pools) == {DEFAULT_POOL_ID, SECOND_POOL}
    assert all(set(pool) == FIELDS for pool in pools.values())
    assert [pools[i]["is_default"] for i in (DEFAULT_POOL_ID, SECOND_POOL)] == [True, False]
    second = pools[SECOND_POOL]
    assert (second["accept_types"], second["max_file_size"]) == (["image/*"], 1000)
    assert api.get(f"{POOLS}/{SECOND_POOL}").json() == second
    assert api.get(f"{POOLS}/{SECOND_POOL.upper()}").json() == second


def test_a_pool_comes_back_as_it_was_asked_for(boss: Api, make: Callable[..., Any]) -> None:
    asked = {
        "accept_types": ["image/*", "text/plain"],
        "max_file_size": 1 << 40,
        "allow_encryption": False,
        "allow_anonymous": True,
        "public_usable": True,
        "no_metadata": True,
        "no_optimization": True,
        "enable_recycle": True,
        "quota": 0,
        "file_expiry": 3600,
    }
    made = make(**asked)
    assert {name: made[name] for name in asked} == asked
    assert boss.get(f"{POOLS}/{made['id']}").json() == made
    plain = make(name="  plain  ")
    assert plain["name"] == "plain"
    assert (plain["accept_types"], plain["quota"], plain["file_expiry"]) == ([], None, None)
    assert (plain["allow_encryption"], plain["public_usable"]) == (True, False)


def test_neither_path_nor_account_leaves_the_server(
    world: World, boss: Api, make: Callable[..., Any]
) -> None:
    made = make()
    for answer in (boss.get(POOLS), boss.get(f"{POOLS}/{made['id']}/usage"), boss.get(USAGE)):
        assert str(world.core.settings.data) not in answer.text
        assert "path" not in answer.text
        assert "account" not in answer.text


def test_both_spellings_of_a_key_are_taken(make: Callable[..., Any]) -> None:
    made = make(maxFileSize=5, acceptTypes=["Image/PNG"], quota=None, unknown=1)
    assert (made["max_file_size"], made["accept_types"], made["quota"]) == (5, ["image/png"], None)


def test_a_limit_is_changed_kept_and_taken_away(boss: Api, make: Callable[..., Any]) -> None:
    made = make(quota=5, max_file_size=6, file_expiry=7, accept_types=["a/b"])
    path = f"{POOLS}/{made['id']}"

    def change(**fields: Any) -> Any:
        answer = boss.patch(path, json=fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    kept = change(quota=None, name=None, no_metadata=True)
    assert kept == made | {"no_metadata": True, "updated_at": kept["updated_at"]}
    assert change(quota=8, unset=["max_file_size"])["quota"] == 8
    bare = change(unset=["quota", "file_expiry", "accept_types", "quota"], name="bare")
    limits = ("quota", "max_file_size", "file_expiry", "accept_types")
    assert [bare[name] for name in limits] == [None, None, None, []]
    assert bare["name"] == "bare"
    assert change(quota=1, unset=["quota"])["quota"] == 1
    assert change(unset=None)["quota"] == 1
    refused(boss.patch(path, json={"unset": ["name"]}), 400, "VALIDATION_FAILED")


def test_a_path_tells_what_it_takes(boss: Api) -> None:
    for path, methods in ((POOLS, "GET, POST"), (f"{POOLS}/{SECOND_POOL}", "DELETE, GET, PATCH")):
        answer = boss.put(path)
        refused(answer, 405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == methods


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a\u0000b"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "x", "accept_types": ["image"]}, "accept_types.0"),
        ({"name": "x", "accept_types": ["*/png"]}, "accept_types.0"),
        ({"name": "x", "accept_types": "image/*"}, "accept_types"),
        ({"name": "x", "max_file_size": -1}, "max_file_size"),
        ({"name": "x", "max_file_size": "5"}, "max_file_size"),
        ({"name": "x", "quota": 1 << 61}, "quota"),
        ({"name": "x", "quota": 1.5}, "quota"),
        ({"name": "x", "file_expiry": 0}, "file_expiry"),
        ({"name": "x", "file_expiry": 1 << 40}, "file_expiry"),
        ({"name": "x", "public_usable": "yes"}, "public_usable"),
        ({"name": "x", "path": "relative"}, "path"),
        ({"name": "x", "path": "/etc/x"}, "path"),  # there are no pool_roots
        ({"name": "x", "path": "/\u0000"}, "path"),
    ],
)
def test_what_makes_no_sense_is_refused(boss: Api, fields: dict[str, Any], field: str) -> None:
    before = boss.get(POOLS).json()
    error = refused(boss.post(POOLS, json=fields), 400, "VALIDATION_FAILED")
    assert list(error["errors"]) == [field]
    assert boss.get(POOLS).json() == before


def test_names_are_taken_once(boss: Api, make: Callable[..., Any]) -> None:
    made = make()
    refused(boss.post(POOLS, json={"name": made["name"]}), 409, "POOL_EXISTS")
    refused(boss.patch(f"{POOLS}/{made['id']}", json={"name": "default"}), 409, "POOL_EXISTS")


def test_only_admins_may(world: World, live: Api, boss_token: str) -> None:
    account = world.core.accounts.find("boss")
    assert account is not None
    modest = world.core.accounts.issue(account, "modest")  # an admin's token without the scope
    with Api(world, None, modest) as humble:
        for client in (live, humble):
            refused(client.post(POOLS, json={"name": "x"}), 403, "SCOPE_MISSING")
            path = f"{POOLS}/{SECOND_POOL}"
            refused(client.patch(path, json={"name": "x"}), 403, "SCOPE_MISSING")
            refused(client.delete(path), 403, "SCOPE_MISSING")
            refused(client.get(f"{path}/usage"), 403, "SCOPE_MISSING")


def test_strangers_are_told_nothing(anonymous: Api) -> None:
    for path in (POOLS, f"{POOLS}/{SECOND_POOL}", USAGE, QUOTA, "/api/files/x/moves"):
        refused(anonymous.get(path), 401, "AUTH_REQUIRED")
    refused(anonymous.post(POOLS, content=b"{"), 401, "AUTH_REQUIRED")


def test_a_private_pool_and_an_unknown_one_look_alike(live: Api, make: Callable[..., Any]) -> None:
    hidden = make()
    assert hidden["id"] not in {pool["id"] for pool in live.get(POOLS).json()}
    answers = []
    for pool_id in (hidden["id"], NOBODYS):
        seen = refused(live.get(f"{POOLS}/{pool_id}"), 404, "POOL_NOT_FOUND")
        asked = described(unique()) | {"pool_id": pool_id}
        made = refused(live.post("/api/files/upload/create", json=asked), 404, "POOL_NOT_FOUND")
        answers.append([{k: v for k, v in e.items() if k != "trace_id"} for e in (seen, made)])
    assert answers[0] == answers[1]
    refused(live.get(f"{POOLS}/nothing"), 400, "VALIDATION_FAILED")


def test_a_pool_in_use_stays_until_it_is_empty(
    live: Api, boss: Api, make: Callable[..., Any]
) -> None:
    pool = make(public_usable=True)
    file = live.direct(pool_id=pool["id"])
    path = f"{POOLS}/{pool['id']}"
    error = refused(boss.delete(path), 409, "POOL_IN_USE")
    assert "1 files" in error["message"]
    assert live.delete(f"/api/files/{file['id']}").status_code == 204
    assert boss.delete(path).status_code == 204
    refused(boss.delete(path), 404, "POOL_NOT_FOUND")
    refused(boss.patch(path, json={}), 404, "POOL_NOT_FOUND")
    refused(boss.delete(f"{POOLS}/{DEFAULT_POOL_ID}"), 409, "POOL_IN_USE")


def test_a_change_counts_at_once(boss: Api, live: Api, make: Callable[..., Any]) -> None:
    pool = make(public_usable=True)
    live.direct(pool_id=pool["id"])
    boss.patch(f"{POOLS}/{pool['id']}", json={"accept_types": ["image/*"]})
    asked = described(unique()) | {"pool_id": pool["id"]}
    refused(live.post("/api/files/upload/create", json=asked), 403, "TYPE_NOT_ACCEPTED")


def test_in_the_roots_a_pool_is_made_where_it_is_said(tmp_path: Path) -> None:
    """With pool_roots, which the shared server lacks."""
    core = build(Settings(data=tmp_path / "data", pool_roots=(tmp_path / "roots",)))
    app = asgi(core)
    account = core.accounts.create("boss", admin=True)
    token = core.accounts.issue(account, "test", scopes=frozenset(Scope))
    transport = LoopTransport(app)
    made = World(core, Clock(), app, "http://test", {"paths": {}})
    with Api(made, transport, token) as client:
        path = tmp_path / "roots" / "films"
        assert client.post(POOLS, json={"name": "a", "path": str(path)}).status_code == 201
        assert (path / "blobs").is_dir()
        for wrong in (path, path / "x", tmp_path, tmp_path / "data" / "x"):
            answer = client.post(POOLS, json={"name": "b", "path": str(wrong)})
            refused(answer, 400, "VALIDATION_FAILED")
    transport.stop()
    core.close()


# usage and quota


def test_usage_tells_what_is_stored_and_reserved(fresh: Api) -> None:
    nothing = {"stored_bytes": 0, "reserved_bytes": 0, "total_bytes": 0, "files": 0}
    empty = fresh.get(USAGE).json()
    assert {name: empty[name] for name in nothing} == nothing
    assert [pool["pool"]["name"] for pool in empty["pools"]] == ["default", "pictures"]
    fresh.direct(unique(100))
    fresh.create(unique(50))
    fresh.direct(unique(30), pool_id=SECOND_POOL, content_type="image/png")
    held = fresh.get(USAGE).json()
    assert held == {
        "stored_bytes": 130,
        "reserved_bytes": 50,
        "total_bytes": 180,
        "files": 2,
        "open_uploads": 1,
        "unsent_bytes": 50,
        "pools": [
            {
                "pool": {"id": DEFAULT_POOL_ID, "name": "default"},
                "stored_bytes": 100,
                "reserved_bytes": 50,
                "total_bytes": 150,
                "files": 1,
            },
            {
                "pool": {"id": SECOND_POOL, "name": "pictures"},
                "stored_bytes": 30,
                "reserved_bytes": 0,
                "total_bytes": 30,
                "files": 1,
            },
        ],
    }


def test_quota_tells_what_is_left(world: World, fresh: Api, make: Callable[..., Any]) -> None:
    unlimited = fresh.get(QUOTA).json()
    assert (unlimited["quota"], unlimited["used"], unlimited["available"]) == (None, 0, None)
    pool = make(public_usable=True, quota=1000)
    set_quota(world, fresh, 100)
    fresh.direct(unique(60), pool_id=pool["id"])
    task = fresh.create(unique(40))
    full = fresh.get(QUOTA).json()
    assert (full["quota"], full["used"], full["available"]) == (100, 100, 0)
    assert (full["reserved"], full["max_open_uploads"]) == (40, None)
    figures = ("quota", "used", "reserved")
    shown = {each["pool"]["id"]: tuple(map(each.get, figures)) for each in full["pools"]}
    assert shown[pool["id"]] == (1000, 60, 0)
    assert shown[DEFAULT_POOL_ID] == (None, 40, 40)
    answer = fresh.post("/api/files/upload/create", json=described(unique(1 + 16)))
    error = refused(answer, 403, "QUOTA_EXCEEDED")
    assert error["meta"] == {"scope": "account", "quota": 100, "used": 100, "needed": 17}
    set_quota(world, fresh, 10)
    assert fresh.get(QUOTA).json()["available"] == 0
    fresh.delete(f"/api/files/upload/{task['task_id']}")
    assert fresh.get(QUOTA).json()["used"] == 60


def test_an_admin_sees_what_everybody_holds(
    live: Api, stranger: Api, boss: Api, make: Callable[..., Any]
) -> None:
    pool = make(public_usable=True, quota=100)
    live.direct(unique(20), pool_id=pool["id"])
    stranger.create(unique(30), pool_id=pool["id"])
    assert boss.get(f"{POOLS}/{pool['id']}/usage").json() == {
        "pool": {"id": pool["id"], "name": pool["name"]},
        "stored_bytes": 20,
        "reserved_bytes": 30,
        "total_bytes": 50,
        "files": 1,
        "quota": 100,
        "available": 50,
    }
    refused(boss.get(f"{POOLS}/{NOBODYS}/usage"), 404, "POOL_NOT_FOUND")


@pytest.mark.slow
def test_uploads_in_progress_are_limited(tmp_path: Path) -> None:
    settings = {"account_open_uploads": 2, "account_unsent_bytes": 100}
    with serving(tmp_path, **settings) as world, Api(world, None, world.secrets["alice"]) as api:
        first, second = unique(40), unique(50)
        task = api.create(first)
        too_large = api.post("/api/files/upload/create", json=described(unique(61)))
        error = refused(too_large, 429, "TOO_MANY_UNSENT_BYTES")
        assert error["meta"] == {"limit": 100, "unsent_bytes": 40, "needed": 61}
        api.create(second)
        third = api.post("/api/files/upload/create", json=described(unique(5)))
        refused(third, 429, "TOO_MANY_OPEN_UPLOADS")
        assert int(third.headers["retry-after"]) > 0
        assert api.create(first)["task_id"] == task["task_id"]
        held, allowed = api.get(USAGE).json(), api.get(QUOTA).json()
        assert (held["open_uploads"], held["unsent_bytes"]) == (2, 90)
        assert (allowed["max_open_uploads"], allowed["max_unsent_bytes"]) == (2, 100)
        assert (held["stored_bytes"], held["reserved_bytes"], allowed["reserved"]) == (0, 90, 90)


@pytest.mark.parametrize("way", ["create", "direct"])
def test_the_last_byte_of_a_pool(live: Api, make: Callable[..., Any], way: str) -> None:
    pool = make(public_usable=True, quota=100)["id"]
    live.direct(unique(60), pool_id=pool)

    def ask(size: int) -> Any:
        if way == "create":
            asked = described(unique(size)) | {"pool_id": pool}
            return live.post("/api/files/upload/create", json=asked)
        files = {"file": ("a", unique(size))}
        return live.post("/api/files/upload/direct", data={"pool_id": pool}, files=files)

    error = refused(ask(41), 403, "QUOTA_EXCEEDED")
    assert error["meta"] == {"scope": "pool", "quota": 100, "used": None, "needed": 41}
    assert ask(40).status_code == 200


def test_only_admins_learn_what_others_hold(
    live: Api, stranger: Api, boss: Api, make: Callable[..., Any]
) -> None:
    """An account that meets a pool's quota is told neither how full the pool is, nor by a move,
    nor by what it may look up."""
    pool = make(public_usable=True, quota=98_765)["id"]
    live.direct(unique(61_803), pool_id=pool)
    mine = stranger.direct(unique(40_000))["id"]

    def said(client: Api) -> list[str]:
        fields = {"pool_id": pool}
        asked = described(unique(40_000)) | fields
        items = json.dumps([asked | {"hash": None}])
        path = "/api/files/upload"
        answers = [
            client.post(f"{path}/create", json=asked),
            client.post(f"{path}/direct", data=fields, files={"file": ("a", unique(40_000))}),
            client.post(
                f"{path}/batch", data={"items": items}, files={"content": ("c", unique(40_000))}
            ),
            client.post(f"/api/files/{mine}/move", json=fields),
            client.get(f"/api/pools/{pool}"),
            client.get(f"/api/pools/{pool}/usage"),
            client.get("/api/pools"),
            client.get("/api/billing/usage"),
            client.get(QUOTA),
        ]
        assert [each.status_code for each in answers[:2]] == [403, 403]
        assert "QUOTA_EXCEEDED" in answers[2].text
        return [each.text for each in answers]

    others = ("61803", str(98_765 - 61_803))
    assert not [text for text in said(stranger) if any(each in text for each in others)]
    assert all("61803" in text for text in said(boss)[:3])


# moves


def test_a_file_is_moved(world: World, live: Api, prefix: str, make: Callable[..., Any]) -> None:
    pool, content = make(public_usable=True), unique(40)
    file = live.direct(content)
    path = f"{prefix}/{file['id']}"
    assert live.get(f"{path}/moves").json() == []
    asked = live.post(f"{path}/move", json={"poolId": pool["id"]})
    assert asked.status_code == 202
    move = asked.json()
    assert set(move) == {"id", "pool_id", "status", "error", "created_at", "finished_at"}
    assert (move["pool_id"], move["status"]) == (pool["id"], "waiting")
    assert live.post(f"{path}/move", json={"pool_id": pool["id"]}).json() == move
    assert live.get(f"{path}/moves").json() == [move]
    do_moves(world)
    (done,) = live.get(f"{path}/moves").json()
    assert done == move | {"status": "done", "finished_at": done["finished_at"]}
    after = live.get(f"{path}/info").json()
    assert (after["pool"], after["pool_id"]) == (
        {"id": pool["id"], "name": pool["name"]},
        pool["id"],
    )
    assert live.get(path).content == content
    live.delete(path)


def test_a_move_that_cannot_be_is_refused_at_once(
    live: Api, stranger: Api, make: Callable[..., Any]
) -> None:
    file = live.direct(unique(40))
    path = f"/api/files/{file['id']}/move"

    def ask(pool_id: str, who: Api = live) -> Any:
        return who.post(path, json={"pool_id": pool_id})

    refused(ask(SECOND_POOL), 403, "TYPE_NOT_ACCEPTED")
    refused(ask(make(public_usable=True, max_file_size=39)["id"]), 413, "FILE_TOO_LARGE")
    refused(ask(make(public_usable=True, quota=39)["id"]), 403, "QUOTA_EXCEEDED")
    refused(ask(make()["id"]), 404, "POOL_NOT_FOUND")
    refused(ask(NOBODYS), 404, "POOL_NOT_FOUND")
    refused(ask(DEFAULT_POOL_ID, stranger), 404, "FILE_NOT_FOUND")
    refused(stranger.get(f"{path}s"), 404, "FILE_NOT_FOUND")
    refused(ask("nothing"), 400, "VALIDATION_FAILED")
    refused(live.post(path, json={}), 400, "VALIDATION_FAILED")
    assert live.get(f"{path}s").json() == []


def test_a_move_that_failed_says_why(
    world: World, live: Api, boss: Api, make: Callable[..., Any]
) -> None:
    pool, file = make(public_usable=True), live.direct(unique(40))
    path = f"/api/files/{file['id']}"
    live.post(f"{path}/move", json={"pool_id": pool["id"]})
    boss.patch(f"{POOLS}/{pool['id']}", json={"max_file_size": 1})
    do_moves(world)
    (move,) = live.get(f"{path}/moves").json()
    assert move["status"] == "failed"
    assert "at most 1 bytes" in move["error"]
    assert live.get(f"{path}/info").json()["pool_id"] == DEFAULT_POOL_ID


def test_a_move_in_hand_is_running(world: World, live: Api, make: Callable[..., Any]) -> None:
    pool, file = make(public_usable=True), live.direct(unique(40))
    path = f"/api/files/{file['id']}"
    live.post(f"{path}/move", json={"pool_id": pool["id"]})
    catalog, now = world.core.catalog, world.clock()
    job = catalog.claim_job((JobKind.MOVE,), "somebody", now, now + timedelta(hours=1))
    assert job is not None
    assert live.get(f"{path}/moves").json()[0]["status"] == "running"
    catalog.retry_job(job.id, "somebody", now, "the disk is full")
    (waits,) = live.get(f"{path}/moves").json()
    assert (waits["status"], waits["error"]) == ("waiting", "the disk is full")
    do_moves(world)
    assert live.get(f"{path}/moves").json()[0]["status"] == "done"
    live.delete(path)
