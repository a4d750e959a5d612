"""Files whose pool has lost its row or its folder: the rest works, and nothing is forgotten."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.api.world import Api, World, described, refused, serving
from upwell.core.pools import NewPool, Registry
from upwell.model import Policy, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOST = str(uuid4())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path / "data") as made:
        made.secrets["boss"] = made.token("boss", scopes=frozenset(Scope))
        yield made


@pytest.fixture
def boss(world: World) -> Iterator[Api]:
    with Api(world, None, world.secrets["boss"]) as client:
        yield client


def lose(world: World) -> None:
    with closing(sqlite3.connect(world.core.settings.data / "catalog.sqlite")) as db, db:
        db.execute("DELETE FROM pools WHERE id = ?", [LOST])
    world.core.homes.renew()


def figures(api: Api) -> list[list[int]]:
    """What is held, by pools that anything is in."""
    held = api.get("/api/billing/usage").json()["pools"]
    quota = api.get("/api/billing/quota").json()["pools"]
    names = ("stored_bytes", "reserved_bytes", "files")
    found = [[each[n] for n in names] for each in held]
    assert [each["used"] for each in quota] == [sum(each[:2]) for each in found]
    return [each for each in found if any(each)]


@pytest.mark.slow
def test_what_needs_its_bytes_is_refused_and_all_else_works(world: World, boss: Api) -> None:
    core = world.core
    policy = Policy(enable_recycle=True)
    Registry(core.catalog, core.homes, world.clock).create(NewPool("old", policy, pool_id=LOST))
    file, other = boss.direct(pool_id=LOST), boss.direct(pool_id=LOST)
    task = boss.create(b"0123456789", pool_id=LOST, chunk_size=5)["task_id"]
    bundle = boss.post("/api/bundles", json={"name": "b", "slug": "lost"}).json()
    boss.put(f"/api/files/{file['id']}/bundle", json={"bundle_id": bundle["id"]})
    link = boss.post(f"/api/files/{file['id']}/links", json={}).json()
    held = figures(boss)
    lose(world)
    path = f"/api/files/{file['id']}"
    for query in ("", "?raw=true"):
        refused(boss.get(path + query), 503, "NOT_READY")
    with Api(world, None, "") as anyone:
        refused(anyone.get(link["url"]), 503, "NOT_READY")
        assert anyone.get("/api/bundles/public/lost").status_code == 200
    with Api(world, None, world.secrets["bob"]) as bob:
        other_path = f"/api/files/{other['id']}"
        refused(bob.get(other_path), 404, "FILE_NOT_FOUND")

    shown = [each for each in boss.get("/api/files/me").json() if each["pool_id"] == LOST]
    assert {each["id"] for each in shown} == {file["id"], other["id"]}
    assert boss.get(f"{path}/info").json()["pool"] == {"id": LOST, "name": LOST}
    assert boss.patch(f"{path}/name", json={"name": "new"}).json()["name"] == "new"
    assert figures(boss) == held
    assert boss.get(f"/api/files/upload/resume/{task}").status_code == 200
    refused(boss.chunk(task, 0, b"01234"), 503, "NOT_READY")
    assert boss.delete(f"/api/files/upload/{task}").status_code == 204
    assert boss.delete(f"/api/files/{other['id']}").status_code == 204
    refused(boss.get(f"/api/files/{other['id']}/info"), 404, "FILE_NOT_FOUND")
    assert boss.delete(f"/api/bundles/{bundle['id']}").status_code == 204
    refused(boss.get(f"{path}/info"), 404, "FILE_NOT_FOUND")
    core.sweeper.sweep()
    assert figures(boss) == []
    assert boss.get("/api/files/me").json() == []


@pytest.mark.slow
def test_an_upload_survives_a_start_without_the_disk_of_its_pool(tmp_path: Path) -> None:
    """The default pool may be a disk of its own, as any other: see pools/default."""
    data = tmp_path / "data"
    folder, away = data / "pools" / "default", tmp_path / "away"
    content, asked = b"0123456789", {"chunk_size": 5}
    with serving(data) as world, Api(world, None, world.secrets["alice"]) as alice:
        task, secret = alice.create(content, **asked)["task_id"], world.secrets["alice"]
        assert alice.chunk(task, 0, content[:5]).status_code == 200
    folder.rename(away)
    with serving(data) as world, Api(world, None, secret) as alice:
        again = alice.post("/api/files/upload/create", json=described(content) | asked)
        refused(again, 503, "NOT_READY")
        refused(alice.chunk(task, 1, content[5:]), 503, "NOT_READY")
        world.core.sweeper.sweep()
        assert not folder.exists()
    away.rename(folder)
    with serving(data) as world, Api(world, None, secret) as alice:
        assert alice.create(content, **asked)["task_id"] == task
        assert alice.chunk(task, 1, content[5:]).status_code == 200
        assert alice.post(f"/api/files/upload/complete/{task}").json()["size"] == 10
