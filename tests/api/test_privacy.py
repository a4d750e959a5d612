"""Who may: tokens, scopes, sessions, and that a stranger learns nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from datetime import timedelta
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.api.world import Api, described, refused, same_time, unique
from upwell.core.ports import Catalog

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.api.world import World

UNKNOWN = "0" * 32
FILE_CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/api/files/{id}", None),
    ("HEAD", "/api/files/{id}", None),
    ("GET", "/api/files/{id}?download=true", None),
    ("GET", "/api/files/{id}/info", None),
    ("PATCH", "/api/files/{id}/name", {"name": "x"}),
    ("PUT", "/api/files/{id}/description", {"description": "x"}),
    ("PUT", "/api/files/{id}/meta", {"user_meta": {}}),
    ("PUT", "/api/files/{id}/marks", {"sensitive_marks": []}),
    ("DELETE", "/api/files/{id}", None),
]
TASK_CALLS: list[tuple[str, str, Any]] = [
    ("PUT", "/api/files/upload/chunk/{id}/0", None),
    ("POST", "/api/files/upload/complete/{id}", None),
    ("GET", "/api/files/upload/resume/{id}", None),
    ("PUT", "/api/files/upload/resume/{id}", {"file_name": "x"}),
    ("GET", "/api/files/upload/progress/{id}", None),
    ("DELETE", "/api/files/upload/{id}", None),
]
CALLS = FILE_CALLS + TASK_CALLS
OTHER_CALLS: list[tuple[str, str, Any]] = [
    ("GET", "/api/files/me", None),
    ("GET", "/api/files/upload/tasks", None),
    ("POST", "/api/files/upload/create", {}),
    ("POST", "/api/files/upload/direct", None),
    ("POST", "/api/files/upload/batch", None),
    ("POST", "/api/files/batches/delete", {"file_ids": []}),
]
READS = [call for call in CALLS + OTHER_CALLS if call[0] in ("GET", "HEAD")]
WRITES = [call for call in CALLS + OTHER_CALLS if call not in READS]


def ask(api: Api, call: tuple[str, str, Any], identifier: str = UNKNOWN) -> httpx2.Response:
    method, path, body = call
    return api.request(method, path.format(id=identifier), json=body)


def comparable(answer: httpx2.Response) -> Any:
    """All that a caller sees, but for what differs from request to request anyway."""
    headers = [(k, v) for k, v in answer.headers.items() if k not in ("date", "x-trace-id")]
    trace = answer.headers["x-trace-id"]
    return answer.status_code, headers, answer.text.replace(trace, "")


@pytest.fixture
def owned(live: Api) -> tuple[str, str]:
    """A file and a task of Alice's."""
    return live.direct()["id"], live.create(unique(10), chunk_size=10)["task_id"]


@pytest.mark.parametrize("call", CALLS)
def test_a_strangers_id_looks_like_an_unknown_one(
    call: tuple[str, str, Any], owned: tuple[str, str], stranger: Api, live: Api
) -> None:
    foreign = owned[call in TASK_CALLS]
    answer = ask(stranger, call, foreign)
    assert answer.status_code == 404
    assert comparable(answer) == comparable(ask(stranger, call, UNKNOWN))
    assert live.get(f"/api/files/{owned[0]}/info").json()["name"] == "a.txt"
    assert live.get(f"/api/files/upload/resume/{owned[1]}").json()["status"] == "in_progress"


@pytest.mark.parametrize("call", CALLS)
def test_without_a_token_an_id_looks_like_an_unknown_one(
    call: tuple[str, str, Any], owned: tuple[str, str], anonymous: Api
) -> None:
    foreign = owned[call in TASK_CALLS]
    answer = ask(anonymous, call, foreign)
    assert answer.status_code == 401
    assert comparable(answer) == comparable(ask(anonymous, call, UNKNOWN))


def _asked(world: World, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> list[str]:
    """What the catalog is asked while ``act`` runs, each by one statement (see ``Catalog``)."""
    seen: list[str] = []
    catalog = world.core.catalog

    def noting(name: str) -> Callable[..., Any]:
        verb = getattr(catalog, name)

        def noted(*arguments: Any) -> Any:
            seen.append(name)
            return verb(*arguments)

        return noted

    with monkeypatch.context() as patch:
        for name in (n for n in dir(Catalog) if not n.startswith("_")):
            patch.setattr(catalog, name, noting(name))
        act()
    return [name for name in seen if name not in ("garbage", "lease", "expire_tasks")]


@pytest.mark.parametrize("call", CALLS)
def test_a_strangers_id_costs_the_same_queries(
    call: tuple[str, str, Any],
    owned: tuple[str, str],
    stranger: Api,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    foreign = owned[call in TASK_CALLS]
    known = _asked(world, monkeypatch, lambda: ask(stranger, call, foreign))
    assert len(known) >= 2  # who asks, and what for
    assert known == _asked(world, monkeypatch, lambda: ask(stranger, call, UNKNOWN))


def test_anothers_content_is_not_told_by_the_queries(
    live: Api, stranger: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create of a content that somebody else holds does what one of a new content does."""
    held = unique()
    live.direct(held, hash=hashlib.sha256(held).hexdigest())
    stranger.create(unique())  # reads the pool, which is remembered for some seconds
    known = _asked(world, monkeypatch, lambda: stranger.create(held))
    assert known == _asked(world, monkeypatch, lambda: stranger.create(unique()))


@pytest.mark.slow
def test_a_strangers_id_takes_the_same_time(owned: tuple[str, str], stranger: Api) -> None:
    assert same_time(
        lambda each: stranger.get(f"/api/files/{each}/info"), [UNKNOWN, owned[0]], 1500
    )


@pytest.mark.parametrize("call", READS + WRITES)
def test_nothing_is_done_without_a_token(call: tuple[str, str, Any], anonymous: Api) -> None:
    answer = ask(anonymous, call)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    if call[0] != "HEAD":
        refused(answer, 401, "AUTH_REQUIRED")


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/health/live", "/health/ready"])
def test_what_is_public(anonymous: Api, path: str) -> None:
    assert anonymous.get(path).status_code == 200


def test_every_other_operation_asks_for_credentials(world: World) -> None:
    for path, operations in world.description["paths"].items():
        for operation in operations.values():
            assert bool(operation.get("security")) == (not path.startswith("/health/"))


def test_revoked_and_expired_tokens_are_worth_nothing(world: World) -> None:
    accounts = world.core.accounts
    owner = accounts.find("bob")
    assert owner is not None
    secret = accounts.issue(owner, "to revoke", life=timedelta(hours=1))
    with Api(world, None, secret) as api:
        assert api.get("/api/files/me").status_code == 200
        try:
            world.clock.ahead = timedelta(hours=1, seconds=1)
            expired = api.get("/api/files/me")
        finally:
            world.clock.ahead = timedelta()
        token = next(each for each in accounts.tokens(owner) if each.name == "to revoke")
        assert accounts.revoke(owner, token.id)
        revoked = api.get("/api/files/me")
        refused(api.put("/api/files/upload/chunk/x/0", content=b""), 401, "TOKEN_INVALID")
        api.headers["Authorization"] = "Bearer upw_never_issued"
        unknown = api.get("/api/files/me")
    for answer in (expired, revoked, unknown):
        refused(answer, 401, "TOKEN_INVALID")
        assert comparable(answer) == comparable(unknown)


# sessions


@pytest.fixture
def session(world: World, anonymous: Api) -> Api:
    """A browser that has followed its login link."""
    code = world.core.accounts.invite(world.core.accounts.find("alice"))  # type: ignore[arg-type]
    with Api(world, None, "") as preview:  # only a person spends the code
        for method in ("GET", "GET", "HEAD"):
            page = preview.request(method, "/login", params={"code": code})
            assert "set-cookie" not in page.headers
        for foreign in FOREIGN:
            refused(preview.post("/login", data={"code": code}, headers=foreign), 403, "CROSS_SITE")
    answer = anonymous.post("/login", data={"code": code})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = SimpleCookie(answer.headers["set-cookie"])["upwell_session"]
    assert cookie["httponly"]
    assert cookie["samesite"].lower() == "lax"
    assert cookie["path"] == "/"
    assert 0 < int(cookie["max-age"]) <= 30 * 24 * 3600
    with Api(world, None, "") as other:
        refused(other.post("/login", data={"code": code}), 401, "LOGIN_INVALID")
        page = other.post("/login", data={"code": code}, headers={"Accept": "text/html"})
        assert (page.status_code, code in page.text) == (401, False)
    return anonymous


def test_a_session_reads_and_writes_from_our_own_page(session: Api) -> None:
    assert session.get("/api/accounts/me").json()["name"] == "alice"
    assert session.get("/api/files/me").status_code == 200
    for own in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": session.world.url}, {}):
        answer = session.post("/api/files/batches/delete", json={"file_ids": []}, headers=own)
        assert answer.status_code == 200


def test_odd_cookies_beside_it_do_no_harm(session: Api) -> None:
    secret = session.cookies["upwell_session"]
    session.cookies.clear()
    cookie = f'a={{"b": [1]}}; =x; upwell_session={secret}; c=\xff'
    headers = [(b"Cookie", cookie.encode("latin-1"))]
    assert session.get("/api/files/me", headers=headers).status_code == 200


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": ""},
]


@pytest.mark.parametrize("call", WRITES)
def test_a_session_does_not_write_for_another_site(
    session: Api, call: tuple[str, str, Any]
) -> None:
    method, path, body = call
    other_scheme = {"Origin": session.world.url.replace("http:", "https:")}
    for foreign in (*FOREIGN, other_scheme):
        answer = session.request(method, path.format(id=UNKNOWN), json=body, headers=foreign)
        refused(answer, 403, "CROSS_SITE")


def test_a_token_writes_from_anywhere(live: Api) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://app.example"}
    answer = live.post("/api/files/batches/delete", json={"file_ids": []}, headers=headers)
    assert answer.status_code == 200


# I9


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_i9_the_log_of_a_real_server_holds_no_secret(tmp_path: Path, log_format: str) -> None:
    upwell = [sys.executable, "-c", "from upwell.cli import main; main()"]
    data = ["--data", str(tmp_path / "data")]
    log = (tmp_path / "log").open("w+")
    served = subprocess.Popen(
        [*upwell, "serve", *data, "--port=0", f"--log-format={log_format}"],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        assert served.stdout is not None
        lines = [served.stdout.readline() for _ in range(3)]
        url = lines[0].split()[-1]
        code = lines[1].strip().rpartition("code=")[2]
        made = subprocess.run(
            [*upwell, "token", "create", "--account=owner", *data],
            capture_output=True,
            text=True,
            check=True,
        )
        secrets = [code, made.stdout.strip(), *_use_secrets(url, made.stdout.strip(), code)]
    finally:
        served.terminate()
        served.wait(20)
        if served.stdout:
            served.stdout.close()
    log.seek(0)
    text = log.read()
    log.close()
    assert "/login" in text
    assert text.count("request") >= 8
    for secret in [*secrets, "?", "query-value"]:
        assert secret not in text
    stored = b"".join(each.read_bytes() for each in (tmp_path / "data").glob("catalog.sqlite*"))
    for secret in secrets:
        assert secret.encode() not in stored


def _use_secrets(url: str, token: str, code: str) -> list[str]:
    """Requests with secrets wherever a client can put one; those that were not given."""
    for _ in range(200):
        try:
            httpx2.get(f"{url}/health/live", trust_env=False)
            break
        except httpx2.TransportError:
            time.sleep(0.05)
    with httpx2.Client(base_url=url, trust_env=False) as browser:
        assert browser.get("/login", params={"code": code}).status_code == 200
        assert browser.post("/login", data={"code": code}).status_code == 303
        session = browser.cookies["upwell_session"]
        assert browser.get("/api/files/me").status_code == 200
        assert browser.get("/login", params={"code": "never-a-c0de"}).status_code == 303
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers, trust_env=False) as client:
        create = "/api/files/upload/create"
        asked = described(b"x") | {"encrypt_password": "hunter2-json"}
        assert client.post(create, json=asked).status_code == 200
        assert client.post(create, json=asked | {"file_size": "hunter2-json"}).status_code == 400
        form = {"encrypt_password": "hunter2-form"}
        direct = "/api/files/upload/direct"
        assert client.post(direct, data=form, files={"file": b"x"}).status_code == 200
        assert client.get("/api/files/me?passcode=query-value").status_code == 200
        assert client.get("/api/files/me?token=query-value&offset=x").status_code == 400
        wrong = {"Authorization": "Bearer wr0ng-token"}
        assert client.get("/api/files/me", headers=wrong).status_code == 401
        assert client.post("/login", data={"code": "never-a-c0de"}).status_code == 401
    return [session, "hunter2-json", "hunter2-form", "wr0ng-token", "never-a-c0de"]
