"""The description, for programs and for people, and the pages that need no internet."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from pydantic.alias_generators import to_camel

from tests.api.world import SECOND_POOL, Api, error_of
from upwell import errors as e
from upwell.http.errors import STATUS, status_of
from upwell.http.schemas import RequestBody

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
    tags = {tag["name"] for tag in world.description["tags"] if tag["description"]}
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
        untold = [p["name"] for p in operation.get("parameters", []) if "description" not in p]
        assert not untold, path
    assert len(names) == len(set(names))


OF_JSON = {
    "VALIDATION_FAILED", "MALFORMED_REQUEST", "UNSUPPORTED_MEDIA_TYPE", "BODY_TOO_LARGE",
    "BODY_TIMEOUT",
}  # fmt: skip
NOWHERE = {"ROUTE_NOT_FOUND", "METHOD_NOT_ALLOWED", "LOGIN_INVALID", "ACCOUNT_EXISTS"}


def test_every_operation_tells_its_errors(world: World) -> None:
    seen = set()
    for path, method, operation in operations(world):
        codes = {code for why in told(operation).values() for code in why.split(" · ")}
        seen |= codes
        if path.startswith("/health"):
            continue
        wanted = {"AUTH_REQUIRED", "TOKEN_INVALID", "SCOPE_MISSING", "INTERNAL_ERROR"}
        if method not in ("get", "head"):
            wanted |= {"CROSS_SITE", "STORAGE_FULL"}
        if "application/json" in operation.get("requestBody", {}).get("content", ()):
            wanted |= OF_JSON
        for parameter in operation.get("parameters", []):
            schema = parameter["schema"]
            if parameter["in"] == "path":
                of = {"slug": "bundle", "chunk_index": "task"}.get(parameter["name"])
                wanted.add(f"{of or parameter['name'].removesuffix('_id')}_NOT_FOUND".upper())
            kinds = [schema, *schema.get("anyOf", ())]
            if not any(kind.get("type") == "string" and "format" not in kind for kind in kinds):
                wanted.add("VALIDATION_FAILED")
        assert wanted <= codes, (method, path, wanted - codes)
    assert {leaf.code for leaf in leaves(e.UpwellError)} - seen == NOWHERE


SELF_EVIDENT = {
    "id", "name", "description", "status", "type", "created_at", "updated_at", "url", "file_name",
    "mime_type", "content_type", "account_id", "file_id", "pool_id", "pool",
}  # fmt: skip


def test_every_field_is_told(world: World) -> None:
    for name, schema in world.description["components"]["schemas"].items():
        for field, kind in schema.get("properties", {}).items():
            branches = [kind, *kind.get("anyOf", ())]
            plain = field in SELF_EVIDENT or any("$ref" in each for each in branches)
            assert plain or any("description" in each for each in branches), f"{name}.{field}"


def test_every_limit_is_told_exactly(world: World) -> None:
    """What a reader takes from the text is the limit, also beyond 2**53."""

    def limits(part: Any) -> Iterator[float]:
        if isinstance(part, dict):
            numbers = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
            yield from (part[key] for key in numbers if isinstance(part.get(key), (int, float)))
        if isinstance(part, (dict, list)):
            for each in part.values() if isinstance(part, dict) else part:
                yield from limits(each)

    for limit in limits(world.description):
        assert Decimal(repr(limit)) == Decimal(limit)


VALUES: dict[str, Any] = {
    "accept_types": ["image/*"], "allow_anonymous": True, "allow_encryption": False,
    "bundle_id": SECOND_POOL, "chunk_size": 7, "content_type": "text/plain", "description": "d",
    "enable_recycle": True, "encrypt_password": "p", "events": ["file.created"],
    "expired_at": "2090-01-31T12:00:00Z", "expires_at": "2090-01-31T12:00:00Z", "expires_in": 60,
    "file_expiry": 60, "file_ids": ["x"], "file_name": "n", "file_size": 7, "hash": 32 * "0",
    "max_downloads": 2, "max_file_size": 7, "name": "n", "no_metadata": True,
    "no_optimization": True, "passcode": "p", "path": "/pool", "pool_id": SECOND_POOL,
    "public_usable": True, "quota": 7, "sensitive_marks": ["m"], "slug": "slug", "unset": ["quota"],
    "url": "https://up.example/", "user_meta": {"snake_case": None},
}  # fmt: skip


def bodies(world: World) -> dict[str, type[RequestBody]]:
    """The models of all JSON bodies that the description knows, by name."""
    models = {}
    for _, _, operation in operations(world):
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
            models[name] = next(each for each in descendants(RequestBody) if each.__name__ == name)
    return models


def descendants(model: type[Any]) -> Iterator[type[Any]]:
    for child in model.__subclasses__():
        yield child
        yield from descendants(child)


def test_every_body_takes_both_spellings_and_null_for_absent(world: World) -> None:
    for name, model in bodies(world).items():
        values = VALUES | ({"unset": ["passcode"]} if name == "ChangeBundle" else {})
        needed = {n: values[n] for n, field in model.model_fields.items() if field.is_required()}
        least = model.model_validate(needed)
        for field in model.model_fields:
            given = model.model_validate(needed | {field: values[field]})
            others = {to_camel(key): value for key, value in needed.items() if key != field}
            assert model.model_validate(others | {to_camel(field): values[field]}) == given
            if field not in needed:
                assert given != least, (name, field)
                for key in (field, to_camel(field)):
                    assert model.model_validate(needed | {key: None}) == least
                told = world.description["components"]["schemas"][name]["properties"][field]
                assert {"type": "null"} in told["anyOf"], (name, field)


def told(operation: dict[str, Any]) -> dict[str, str]:
    return {status: answer["description"] for status, answer in operation["responses"].items()}


def test_strangers_are_told_where_they_may_ask(world: World) -> None:
    found = {
        (method, path)
        for path, method, operation in operations(world)
        if {} in operation.get("security", [{}])
    }
    paths = ["/api/bundles/public/{slug}/zip", "/s/{link_id}", "/health/live", "/health/ready"]
    paths += ["/api/files/{file_id}", "/drive/files/{file_id}"]
    assert found == {(method, path) for path in paths for method in ("get", "head")} | {
        ("get", "/api/bundles/public/{slug}")
    }


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


@pytest.mark.parametrize("path", ["/login", "/docs"])
def test_pages_are_locked_down(anonymous: Api, path: str) -> None:
    page = anonymous.get(path, headers={"Accept": "text/html"})
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("'unsafe-inline'" in policy) == (path == "/docs")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"


def test_health(anonymous: Api, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert anonymous.get("/health/live").json() == {"status": "ok"}
    assert anonymous.get("/health/ready").json() == {"status": "ok"}
    for path in ("/health/live", "/health/ready"):  # `wget --spider` asks with HEAD
        assert anonymous.head(path).status_code == 200

    def broken() -> None:
        raise OSError(5, "/secret/place")

    home = next(iter(world.core.homes.values()))
    monkeypatch.setattr(home.store, "check", broken)
    answer = anonymous.get("/health/ready")
    assert answer.status_code == 503
    assert error_of(answer)["code"] == "NOT_READY"
    assert "secret" not in answer.text


def test_bounds_of_numbers_are_told(world: World) -> None:
    """A validator in front of a bound would hide it from the description."""
    text = json.dumps(world.description)
    assert not re.search(r'"(ge|le|gt|lt)":', text)
    expiry = world.description["components"]["schemas"]["ChangePool"]["properties"]["file_expiry"]
    assert expiry["anyOf"][0]["minimum"] == 1
