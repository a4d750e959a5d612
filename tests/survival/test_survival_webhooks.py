"""Webhooks through crashes of the real process: at least once, always under the same id."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Api, Server, eventually
from tests.jobs.receiver import Receiver, answer, hang

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

CONFIG = "[server]\nwebhook_private_networks = true\n"
NEVER = {"upwell.jobs.runner.POLL": 3600}  # seconds between looks for a job


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def add(api: Api, receiver: Receiver, *events: str) -> dict[str, Any]:
    made = api.post_json("/api/webhooks", {"url": receiver.url, "events": list(events)})
    assert made.status == 201, made
    webhook: dict[str, Any] = made.json()
    return webhook


def store(api: Api, content: bytes) -> dict[str, Any]:
    return api.finish(api.create(len(content), 5), content, 5)


def deliveries(api: Api, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.call(
        "GET", f"/api/webhooks/{webhook['id']}/deliveries"
    ).json()
    return found


def _status(server: Server, webhook: dict[str, Any]) -> str:
    return str(deliveries(server.api(), webhook)[0]["status"])


def make_due(data: Path) -> None:
    """Let time pass for the jobs of a server that is not running."""
    catalog = sqlite3.connect(data / "catalog.sqlite")
    with catalog:
        (before,) = catalog.execute("SELECT min(created_at) FROM jobs").fetchone()
        catalog.execute("UPDATE jobs SET due_at = ? WHERE finished_at IS NULL", (before,))
    catalog.close()


def test_killed_between_complete_and_delivery(data: Path, receiver: Receiver) -> None:
    with Server(data, config=CONFIG, constants=NEVER) as server:
        webhook = add(server.api(), receiver, "file.created")
        file = store(server.api(), b"0123456789")
        time.sleep(0.5)
    assert receiver.connections == 0
    with Server(data, config=CONFIG) as server:
        eventually(lambda: len(receiver.received) > 0, 40, "the webhook comes")
        (got,) = receiver.received
        assert got.json()["data"]["id"] == file["id"]
        assert got.is_signed_with(webhook["secret"])
        eventually(lambda: _status(server, webhook) == "delivered", 60, "it is done")
        assert deliveries(server.api(), webhook)[0]["event"] == got.json()["seq"]
        assert not server.bugs()


def test_killed_while_it_delivers(data: Path, receiver: Receiver) -> None:
    """The receiver has the message, and the server dies before it has the answer."""
    receiver.behave = hang
    with Server(data, config=CONFIG) as server:
        webhook = add(server.api(), receiver, "file.created")
        store(server.api(), b"0123456789")
        eventually(lambda: len(receiver.received) > 0, 40, "the webhook comes")
        server.kill()
        make_due(data)
        receiver.behave = answer(204)
        server.start()
        eventually(lambda: len(receiver.received) > 1, 40, "it comes again")
        first, second = receiver.received
        assert first.id == second.id
        assert first.body == second.body
        assert second.is_signed_with(webhook["secret"])
        eventually(lambda: _status(server, webhook) == "delivered", 60, "it is done")
        assert deliveries(server.api(), webhook)[0]["attempts"] == 2


def test_killed_between_two_tries(data: Path, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    with Server(data, config=CONFIG) as server:
        webhook = add(server.api(), receiver, "file.created")
        store(server.api(), b"0123456789")
        eventually(lambda: _status(server, webhook) == "retrying", 40, "it fails")
        server.kill()
        make_due(data)
        receiver.behave = answer(204)
        server.start()
        eventually(lambda: len(receiver.received) > 1, 40, "it comes again")
        assert len(set(receiver.ids)) == 1


def test_many_processes_deliver_each_event_once(data: Path, receiver: Receiver) -> None:
    with Server(data, config=CONFIG, workers=3) as server:
        webhook = add(server.api(), receiver)
        for number in range(10):
            store(server.api(), b"%010d" % number)
        eventually(lambda: len(receiver.received) >= 20, 60, "all of them come")
        time.sleep(1)
        assert len(receiver.ids) == len(set(receiver.ids)) == 20
        seqs = sorted(each.json()["seq"] for each in receiver.received)
        told = server.api().call("GET", "/api/events?after=0").json()
        assert seqs == [each["seq"] for each in told]
        assert {each["status"] for each in deliveries(server.api(), webhook)} == {"delivered"}
        assert not server.bugs()


def test_a_stream_does_not_hold_up_the_end_of_the_server(data: Path) -> None:
    with Server(data) as server:
        api = server.api()
        with api.wire() as wire:
            wire.send(api.head("GET", "/api/events", {"Accept": "text/event-stream"}))
            assert wire.head()[0] == 200
            store(api, b"0123456789")
            while b"file.created" not in wire.line():
                pass
            began = time.monotonic()
            assert server.terminate(60) == 0
            assert time.monotonic() - began < 15
            assert wire.closed_within(15)


def test_what_is_kept_of_events_is_forgotten_in_time(data: Path, receiver: Receiver) -> None:
    config = f"{CONFIG}event_retention = 1\nsweep_interval = 1\n"
    with Server(data, config=config) as server:
        api = server.api()
        webhook = add(api, receiver)
        store(api, b"0123456789")
        eventually(lambda: len(receiver.received) == 2, 40, "the webhooks come")
        eventually(lambda: api.call("GET", "/api/events").json() == [], 40, "events are gone")
        eventually(lambda: deliveries(api, webhook) == [], 40, "deliveries are gone")
