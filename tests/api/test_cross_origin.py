"""Pages of other sites: those that the operator names may use the API, with a token alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.api.world import LoopTransport
from upwell.app import asgi, build
from upwell.config import Settings, SettingsError, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = "https://app.example"
CHUNK = "/api/files/upload/chunk/0123456789abcdef0123456789abcdef/0"


@pytest.fixture(scope="module")
def alice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    data = tmp_path_factory.mktemp("data")
    core = build(Settings.model_validate({"data": data, "cors_origins": [APP]}))
    token = core.accounts.issue(core.accounts.create("alice"), "test")
    transport = LoopTransport(asgi(core))
    with httpx2.Client(transport=transport, base_url="http://upwell") as client:
        client.headers["Authorization"] = f"Bearer {token}"
        yield client
    transport.stop()
    core.close()


@pytest.fixture
def asked(alice: httpx2.Client) -> Iterator[httpx2.Client]:
    kept = alice.headers.copy()
    yield alice
    alice.headers = kept


@pytest.mark.parametrize("path", ["/api/files/upload/create", CHUNK, "/api/files/me"])
def test_a_named_origin_may_ask_beforehand(asked: httpx2.Client, path: str) -> None:
    asking = {
        "Origin": APP,
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "authorization,content-type,upload-checksum",
    }
    answer = asked.options(path, headers=asking)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP
    assert "PUT" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/api/files/me", "/api/files/nothing/info"])
def test_a_named_origin_reads_answers_and_refusals(asked: httpx2.Client, path: str) -> None:
    answer = asked.get(path, headers={"Origin": APP})
    assert answer.headers["access-control-allow-origin"] == APP
    assert "X-Total" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers


def test_a_chunk_of_a_named_origin(asked: httpx2.Client) -> None:
    new = {"file_name": "a", "file_size": 3, "content_type": "text/plain"}
    task = asked.post("/api/files/upload/create", json=new).json()["task_id"]
    answer = asked.put(f"/api/files/upload/chunk/{task}/0", content=b"abc", headers={"Origin": APP})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize("origin", ["https://other.example", "http://app.example", "null"])
def test_nobody_else_may(asked: httpx2.Client, origin: str) -> None:
    assert (
        "access-control-allow-origin"
        not in asked.get("/api/files/me", headers={"Origin": origin}).headers
    )
    asking = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    answer = asked.options(CHUNK, headers=asking)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert answer.status_code == answer.json()["status"] >= 400
    assert answer.json()["trace_id"] == answer.headers["x-trace-id"]


def test_a_session_is_no_use_to_a_named_origin(asked: httpx2.Client) -> None:
    secret = asked.headers.pop("Authorization").removeprefix("Bearer ")
    headers = {"Origin": APP, "Sec-Fetch-Site": "cross-site", "Cookie": f"upwell_session={secret}"}
    answer = asked.delete("/api/files/abc", headers=headers)
    assert answer.json()["code"] == "CROSS_SITE"


def test_nothing_of_it_when_no_origin_is_named(tmp_path: Path) -> None:
    core = build(Settings(data=tmp_path / "data"))
    transport = LoopTransport(asgi(core))
    with httpx2.Client(transport=transport, base_url="http://upwell") as client:
        answer = client.get("/health/live", headers={"Origin": APP})
    transport.stop()
    core.close()
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_setting(tmp_path: Path) -> None:
    given = load({"data": tmp_path}, {"UPWELL_CORS_ORIGINS": "https://A.example, http://b:8080"})
    assert given.cors_origins == ("https://a.example", "http://b:8080")
    assert load({"data": tmp_path}, {"UPWELL_CORS_ORIGINS": "*"}).cors_origins == ("*",)
    for wrong in ("app.example", "https://app.example/", "https://u@a", "ftp://a", "https://"):
        with pytest.raises(SettingsError, match=r"cors_origins"):
            load({"data": tmp_path}, {"UPWELL_CORS_ORIGINS": wrong})
