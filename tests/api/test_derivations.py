"""Passwords and passcodes are slow to check. Only requests that need it wait for that."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.world import Api, refused, unique
from tests.harness import eventually
from upwell.core import age, derivations, passcodes
from upwell.core.guesses import BURST
from upwell.http import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    import httpx2

    from tests.api.world import World

SECRET = "open sesame"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derivations of a millisecond."""
    monkeypatch.setattr(passcodes, "_MEMORY", 64)
    monkeypatch.setattr(passcodes, "_PASSES", 1)
    monkeypatch.setattr(age, "LOG_N", 10)


@pytest.fixture
def senders() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def derive_in(
    monkeypatch: pytest.MonkeyPatch, most: int = 64, each: int = 64
) -> derivations.Derivers:
    """Other bounds for this test, and a single thread for everything that derives nothing."""
    one = ThreadPoolExecutor(1, initializer=derivations.keep_free)
    derivers = derivations.Derivers(most, each)
    monkeypatch.setattr(guard, "_verb_threads", one)
    monkeypatch.setattr(guard, "_derivers", derivers)
    return derivers


@contextmanager
def no_derivation_ends() -> Iterator[None]:
    for _ in range(derivations.AT_ONCE):
        assert derivations._turns.acquire(timeout=10)
    try:
        yield
    finally:
        for _ in range(derivations.AT_ONCE):
            derivations._turns.release()


def as_account(world: World, name: str, act: Callable[[Api], httpx2.Response]) -> httpx2.Response:
    with Api(world, None, world.token(name) if name else "") as client:
        return act(client)


def locked_bundle(live: Api) -> Any:
    made = live.post("/api/bundles", json={"name": "b", "passcode": SECRET})
    assert made.status_code == 201
    return made.json()


def everything_that_derives(live: Api) -> dict[str, tuple[str, Callable[[Api], httpx2.Response]]]:
    """A request of every kind that needs a key derivation; each is one that succeeds."""
    bundles = [locked_bundle(live) for _ in range(5)]
    inside = live.direct(bundle_id=bundles[3]["id"])["id"]
    sealed = [live.direct(encrypt_password=SECRET)["id"] for _ in range(3)]
    link = live.post(f"/api/files/{sealed[2]}/links", json={}).json()["url"]
    known = {"X-Encrypt-Password": SECRET}
    fields = {"file_name": "a", "file_size": 32, "encrypt_password": SECRET}
    described = fields | {"hash": hashlib.sha256(unique()).hexdigest()}
    upload, public = "/api/files/upload", "/api/bundles/public"
    return {
        "make a bundle": (
            "alice",
            lambda c: c.post("/api/bundles", json={"name": "b", "passcode": "p"}),
        ),
        "set a passcode": (
            "alice",
            lambda c: c.patch(f"/api/bundles/{bundles[4]['id']}", json={"passcode": "other"}),
        ),
        "open a bundle": (
            "",
            lambda c: c.get(f"{public}/{bundles[0]['slug']}", params={"passcode": SECRET}),
        ),
        "its page": ("", lambda c: c.post(f"/b/{bundles[1]['slug']}", data={"passcode": SECRET})),
        "its ZIP": (
            "",
            lambda c: c.get(f"{public}/{bundles[2]['slug']}/zip", params={"passcode": SECRET}),
        ),
        "a file in it": ("", lambda c: c.get(f"/api/files/{inside}", params={"passcode": SECRET})),
        "read": ("alice", lambda c: c.get(f"/api/files/{sealed[0]}", headers=known)),
        "read by a form": (
            "alice",
            lambda c: c.post(f"/api/files/{sealed[1]}/open", data={"password": SECRET}),
        ),
        "read by a link": ("", lambda c: c.get(link, headers=known)),
        "create": ("alice", lambda c: c.post(f"{upload}/create", json=fields)),
        "create with a hash": ("alice", lambda c: c.post(f"{upload}/create", json=described)),
        "direct": (
            "alice",
            lambda c: c.post(
                f"{upload}/direct", data={"encrypt_password": SECRET}, files={"file": ("a", b"x")}
            ),
        ),
    }


def eventually_waits(
    derivers: derivations.Derivers, asked: dict[str, Future[httpx2.Response]]
) -> dict[str, httpx2.Response]:
    """Wait until all of them wait for a derivation; those that were answered instead."""

    def answered() -> dict[str, httpx2.Response]:
        return {name: each.result() for name, each in asked.items() if each.done()}

    everything = len(asked)
    eventually(lambda: derivers._admitted.total() == everything or bool(answered()), 30, "a wait")
    return answered()


@pytest.mark.slow
def test_while_no_derivation_ends_everything_else_is_answered(
    world: World, live: Api, senders: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread for all other requests: a single one that waited in it would block them."""
    asked = everything_that_derives(live)
    opened = live.direct(encrypt_password=SECRET)["id"]

    def read() -> int:
        return live.get(f"/api/files/{opened}", headers={"X-Encrypt-Password": SECRET}).status_code

    assert read() == 200
    derivers = derive_in(monkeypatch)
    with no_derivation_ends():
        waiting = {
            name: senders.submit(as_account, world, who, act) for name, (who, act) in asked.items()
        }
        assert not eventually_waits(derivers, waiting)
        for path in ("/api/accounts/me", "/api/files/me", "/health/ready", "/api/pools"):
            assert live.get(path).status_code == 200
        live.store(unique())
        assert read() == 200  # its key is known
    for name, answer in waiting.items():
        assert answer.result(30).status_code in (200, 201, 303), (name, answer.result().text)
    assert not derivers._admitted


def test_derivations_are_bounded_for_each_asker_and_in_all(
    world: World, live: Api, senders: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are too many are refused at once, and it costs no guess."""
    bundle = locked_bundle(live)
    derivers = derive_in(monkeypatch, most=5, each=2)

    def make(client: Api) -> httpx2.Response:
        return client.post("/api/bundles", json={"name": "b", "passcode": "p"})

    def guess(client: Api) -> httpx2.Response:
        path = f"/api/bundles/public/{bundle['slug']}"
        return client.get(path, params={"passcode": SECRET})

    with no_derivation_ends():
        waiting = []
        for name, act, count in (("alice", make, 2), ("", guess, 2), ("bob", guess, 1)):
            waiting += [senders.submit(as_account, world, name, act) for _ in range(count)]
            so_far = len(waiting)
            eventually(lambda: derivers._admitted.total() == so_far, 30, "they wait")  # noqa: B023
            if count == 2:
                for _ in range(BURST + 1):
                    answer = as_account(world, name, act)
                    refused(answer, 429, "TOO_MANY_DERIVATIONS")
                    assert int(answer.headers["retry-after"]) > 0
        answer = as_account(world, "bob", make)
        refused(answer, 503, "SERVER_BUSY")
        assert int(answer.headers["retry-after"]) > 0
    assert {each.result(30).status_code for each in waiting} == {200, 201}
    assert as_account(world, "alice", make).status_code == 201
