"""The description, for programs and for people, and the pages that need no internet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.world import Api, error_of
from upwell import errors as e
from upwell.http.errors import STATUS, status_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.world import World


def operations(world: World) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in world.description["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def leaves(branch: type[e.UpwellError]) -> Iterator[type[e.UpwellError]]:
    children = branch.__subclasses__()
    for child in children:
        yield from leaves(child)
    if not children:
        yield branch


def test_every_error_has_one_status_and_one_code() -> None:
    found = list(leaves(e.UpwellError))
    assert all(400 <= status_of(leaf) < 600 for leaf in found)
    assert len({leaf.code for leaf in found}) == len(found)
    assert 422 not in STATUS.values()


def test_every_operation_is_told_to_people(world: World) -> None:
    tags = {tag["name"] for tag in world.description["tags"]}
    names = []
    for path, method, operation in operations(world):
        assert operation["summary"], path
        assert len(operation["tags"]) == 1, path
        assert set(operation["tags"]) <= tags, path
        names.append(operation["operationId"])
        documented = operation["responses"]
        assert "422" not in documented
        if not path.startswith("/health"):
            assert {"401", "403", "500", "503"} <= set(documented), path
            assert "WWW-Authenticate" in documented["401"]["headers"]
        if method in ("post", "put", "patch") and "requestBody" in operation:
            assert "415" in documented or method == "put"
    assert len(names) == len(set(names))


def told(operation: dict[str, Any]) -> dict[str, str]:
    return {status: answer["description"] for status, answer in operation["responses"].items()}


def test_both_prefixes_are_described_alike(world: World) -> None:
    paths = world.description["paths"]
    for path, methods in paths.items():
        if path.startswith("/api/files"):
            alias = paths[path.replace("/api/", "/drive/", 1)]
            for method, operation in methods.items():
                assert alias[method].get("requestBody") == operation.get("requestBody")
                assert told(alias[method]) == told(operation)


def test_the_create_call_has_an_example(api: Api) -> None:
    create = api.description["components"]["schemas"]["CreateUpload"]
    answer = api.post("/api/files/upload/create", json=create["examples"][0])
    assert answer.json()["chunks_count"] == 3


def test_the_documentation_is_served_from_here_alone(anonymous: Api) -> None:
    page = anonymous.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert not re.search(r"https?:|\*|unsafe-eval", policy)
    assert not re.search(r"(https?:)?//", page.text)
    assert not re.search(r"<script>|<script [^>]*>[^<]|<style|\son\w+=|style=", page.text)
    found = re.findall(r"(?:src|href)=([^ >]+)", page.text)
    assert len(found) == 3
    kinds = {"css": "text/css", "js": "text/javascript"}
    for each in found:
        asset = anonymous.get(each)
        assert asset.status_code == 200
        assert asset.headers["content-type"].startswith(kinds[each.rpartition(".")[2]])
        assert asset.content
    start = anonymous.get("/docs/init.js").text
    assert "/openapi.json" in start
    assert "//" not in start


@pytest.mark.parametrize("path", ["/", "/login", "/docs"])
def test_pages_are_locked_down(anonymous: Api, path: str) -> None:
    page = anonymous.get(path, headers={"Accept": "text/html"})
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("'unsafe-inline'" in policy) == (path == "/docs")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"


def test_a_file_name_is_only_text_on_the_home_page(live: Api) -> None:
    live.direct(file_name="<script>alert(1)</script>")
    live.headers["Cookie"] = f"upwell_session={live.world.secrets['alice']}"
    page = live.get("/").text
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_health(anonymous: Api, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert anonymous.get("/health/live").json() == {"status": "ok"}
    assert anonymous.get("/health/ready").json() == {"status": "ok"}

    def broken() -> None:
        raise OSError(5, "/secret/place")

    home = next(iter(world.core.homes.values()))
    monkeypatch.setattr(home.store, "check", broken)
    answer = anonymous.get("/health/ready")
    assert answer.status_code == 503
    assert error_of(answer)["code"] == "NOT_READY"
    assert "secret" not in answer.text
