"""Behind a proxy: the client's address and scheme are those that a trusted proxy tells, and
nobody else's word counts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import structlog

from tests.api.world import LoopTransport
from upwell.app import asgi, build
from upwell.config import Settings, SettingsError, load
from upwell.core.guesses import BURST
from upwell.http.forwarded import behind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from starlette.types import Message, Receive, Scope, Send

PROXIES = ["10.0.0.0/24", "192.0.2.7", "fd00::1"]
CLIENT = "203.0.113.5"


def told(peer: str, headers: list[tuple[str, str]], proxies: list[str]) -> tuple[str, str]:
    """The address and scheme that an application sees."""
    seen: dict[str, Any] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.update(scope)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None: ...

    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "scheme": "http", "client": (peer, 4711), "headers": raw}
    networks = Settings.model_validate({"trusted_proxies": proxies}).trusted_proxies

    async def ask() -> None:
        await behind(app, networks)(scope, receive, send)

    asyncio.run(ask())
    return seen["client"][0], seen["scheme"]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("10.0.0.9", CLIENT, CLIENT),
        ("192.0.2.7", CLIENT, CLIENT),
        ("fd00::1", "2001:db8::5", "2001:db8::5"),
        ("fd00:0:0::1", CLIENT, CLIENT),
        ("::ffff:10.0.0.9", CLIENT, CLIENT),  # what a socket on `::` calls an IPv4 peer
        ("10.0.0.9", f"1.1.1.1, {CLIENT}", CLIENT),  # what the client made up stands left
        ("10.0.0.9", f"10.0.0.1, 192.0.2.7, {CLIENT}", CLIENT),
        ("10.0.0.9", f"1.1.1.1, {CLIENT}, 10.0.0.8, ::ffff:192.0.2.7", CLIENT),
        ("10.0.0.9", f"{CLIENT}:55555", CLIENT),
        ("10.0.0.9", "[2001:db8::5]:55555", "2001:db8::5"),
        ("10.0.0.9", "10.0.0.8", "10.0.0.8"),
        ("10.0.0.9", "", "10.0.0.9"),
        ("10.0.1.9", CLIENT, "10.0.1.9"),
        ("192.0.2.8", CLIENT, "192.0.2.8"),
        ("127.0.0.1", CLIENT, "127.0.0.1"),
        ("10.0.0.9.example", CLIENT, "10.0.0.9.example"),
    ],
)
def test_the_address_is_the_rightmost_that_is_no_trusted_proxy(
    peer: str, forwarded_for: str, client: str
) -> None:
    assert told(peer, [("X-Forwarded-For", forwarded_for)], PROXIES)[0] == client


def test_several_fields_are_one_list() -> None:
    fields = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", CLIENT)]
    assert told("10.0.0.9", fields, PROXIES)[0] == CLIENT


@pytest.mark.parametrize(
    ("peer", "proto", "scheme"),
    [
        ("10.0.0.9", "https", "https"),
        ("10.0.0.9", "http", "http"),
        ("10.0.0.9", "javascript", "http"),
        ("10.0.1.9", "https", "http"),
    ],
)
def test_the_scheme_is_a_trusted_proxys_word(peer: str, proto: str, scheme: str) -> None:
    assert told(peer, [("X-Forwarded-Proto", proto)], PROXIES)[1] == scheme


@pytest.mark.parametrize(
    ("forwarded_for", "proto", "scheme"),
    [
        ([f"{CLIENT}, 10.0.0.8"], ["https, http"], "https"),  # TLS ends at the outer proxy
        ([f"{CLIENT}, 10.0.0.8"], ["https", "http"], "https"),
        ([f"{CLIENT}, 10.0.0.8:443, [fd00::1]:1"], ["https,http , HTTP"], "https"),
        ([f"{CLIENT}, 10.0.0.8"], ["http, https"], "http"),
        ([f"{CLIENT}, 10.0.0.8"], ["https"], "https"),  # the inner one hands on what it was told
        ([CLIENT], ["https, http"], "http"),  # what the client made up stands left
        ([f"1.1.1.1, {CLIENT}, 10.0.0.8"], ["https, http, http"], "http"),
        ([], ["https, http"], "http"),
        ([], [], "http"),
        (["10.0.0.7, 10.0.0.8"], ["https, http"], "https"),  # the client is a proxy itself
        ([f"{CLIENT}, 10.0.0.8"], ["javascript, http"], "http"),
        ([""], [""], "http"),
    ],
)
def test_behind_two_proxies_it_is_the_word_of_the_one_that_saw_the_client(
    forwarded_for: list[str], proto: list[str], scheme: str
) -> None:
    fields = [("X-Forwarded-For", value) for value in forwarded_for]
    fields += [("X-Forwarded-Proto", value) for value in proto]
    assert told("10.0.0.9", fields, PROXIES)[1] == scheme
    assert told("10.0.1.9", fields, PROXIES)[1] == "http"


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.0.0.9", ""])
def test_nobody_is_trusted_by_default(peer: str) -> None:
    spoofed = [("X-Forwarded-For", CLIENT), ("X-Forwarded-Proto", "https")]
    assert told(peer, spoofed, []) == (peer, "http")


def test_networks_are_read_strictly(tmp_path: Path) -> None:
    flags = {"data": tmp_path}
    given = load(flags, {"UPWELL_TRUSTED_PROXIES": "127.0.0.1, fd00::/8"})
    assert [str(each) for each in given.trusted_proxies] == ["127.0.0.1/32", "fd00::/8"]
    assert Settings.model_validate_json(given.model_dump_json()) == given
    for wrong in ("*", "localhost", "10.0.0.1/8"):
        with pytest.raises(SettingsError, match=r"trusted_proxies"):
            load(flags, {"UPWELL_TRUSTED_PROXIES": wrong})


class Proxied:
    """A server that trusts 10.0.0.1, asked by whom we like."""

    def __init__(self, data: Path) -> None:
        settings = Settings.model_validate({"data": data, "trusted_proxies": ["10.0.0.1"]})
        self.core = build(settings)
        self.app = asgi(self.core)
        self.open: list[LoopTransport] = []
        owner = self.core.accounts.create("owner", admin=True)
        self.token = {"Authorization": f"Bearer {self.core.accounts.issue(owner, 'test')}"}

    def asked_by(self, peer: str, **headers: str) -> AbstractContextManager[httpx2.Client]:
        transport = LoopTransport(self.app, peer)
        self.open.append(transport)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.Client(
            transport=transport, base_url="http://files.example", headers=named, trust_env=False
        )

    def close(self) -> None:
        for each in self.open:
            each.stop()
        self.core.close()


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    made = Proxied(tmp_path_factory.mktemp("proxied"))
    yield made
    made.close()


def bundle_path(proxied: Proxied) -> str:
    with proxied.asked_by("127.0.0.1", **proxied.token) as owner:
        made = owner.post("/api/bundles", json={"name": "Summer", "passcode": "the right one"})
    return f"/api/bundles/public/{made.json()['slug']}?passcode=wrong"


def guess(proxied: Proxied, path: str, peer: str, forwarded_for: str) -> int:
    with proxied.asked_by(peer, X_Forwarded_For=forwarded_for) as client:
        return int(client.get(path).status_code)


@pytest.mark.slow
def test_each_client_of_a_trusted_proxy_has_guesses_of_its_own(proxied: Proxied) -> None:
    path = bundle_path(proxied)
    for number in range(BURST):
        assert guess(proxied, path, "10.0.0.1", f"198.51.100.{number}, {CLIENT}") == 403
    assert guess(proxied, path, "10.0.0.1", f"198.51.100.99, {CLIENT}") == 429
    assert guess(proxied, path, "10.0.0.1", "203.0.113.6") == 403


@pytest.mark.slow
def test_a_header_that_anyone_can_send_gives_nobody_more_guesses(proxied: Proxied) -> None:
    path = bundle_path(proxied)
    for number in range(BURST):
        assert guess(proxied, path, CLIENT, f"198.51.100.{number}") == 403
    assert guess(proxied, path, CLIENT, "198.51.100.99") == 429


def test_cookies_and_addresses_follow_the_scheme_that_a_trusted_proxy_tells(
    proxied: Proxied,
) -> None:
    for peer, secure in (("10.0.0.1", True), (CLIENT, False)):
        code = proxied.core.accounts.invite(proxied.core.accounts.all()[0])
        with proxied.asked_by(peer, X_Forwarded_Proto="https", **proxied.token) as client:
            own = {"Origin": f"{'https' if secure else 'http'}://files.example"}
            other = {"Origin": f"{'http' if secure else 'https'}://files.example"}
            assert client.post("/login", data={"code": code}, headers=other).status_code == 403
            cookie = client.post("/login", data={"code": code}, headers=own).headers["set-cookie"]
            url = client.post("/api/bundles", json={"name": "Autumn"}).json()["url"]
        assert ("secure" in cookie.lower()) is secure
        assert url.startswith("https://files.example/b/" if secure else "http://files.example/b/")


def test_the_host_that_a_client_claims_to_be_forwarded_for_is_nobodys_word(
    proxied: Proxied,
) -> None:
    with proxied.asked_by("10.0.0.1", X_Forwarded_Host="evil.example", **proxied.token) as client:
        url = client.post("/api/bundles", json={"name": "Winter"}).json()["url"]
    assert url.startswith("http://files.example/b/")


@pytest.mark.parametrize("path", ["/api/files/me", "/api/files/upload/chunk/0123456789/0"])
def test_the_log_tells_the_client(proxied: Proxied, path: str) -> None:
    """Chunks too, which are served in front of the framework."""
    with structlog.testing.capture_logs() as lines:
        for peer in ("10.0.0.1", "10.0.0.2"):
            with proxied.asked_by(peer, X_Forwarded_For=CLIENT) as client:
                client.put(path, content=b"x")
    clients = [line["client"] for line in lines if line["event"] == "request"]
    assert clients == [CLIENT, "10.0.0.2"]
