"""Events, in pages and live, and the webhooks that are told of them."""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.api.world import Api, refused, unique
from tests.harness import eventually
from tests.jobs.receiver import Receiver
from upwell.http import event_routes
from upwell.http import live as live_streams
from upwell.http.server import stopping
from upwell.model import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.world import World

STREAM = {"Accept": "text/event-stream"}
HOOK = "https://hooks.example/up"


@pytest.fixture
def webhook(live: Api) -> Iterator[Any]:
    made = live.post("/api/webhooks", json={"url": HOOK}).json()
    yield made
    live.delete(f"/api/webhooks/{made['id']}")


@contextmanager
def stream(client: Api, last: int | None = None, **query: int) -> Iterator[Frames]:
    headers = STREAM | ({} if last is None else {"Last-Event-ID": str(last)})
    with client.stream("GET", "/api/events", headers=headers, params=query) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield Frames(response)


class Frames:
    """The frames of a stream; the first one, which only says where it begins, is taken."""

    def __init__(self, response: httpx2.Response) -> None:
        self._frames = iter(httpx2.EventSource(response))
        first = next(self._frames)
        assert first.data == ""
        self.begins = int(first.id)

    def event(self) -> dict[str, Any]:
        frame = next(self._frames)
        told: dict[str, Any] = json.loads(frame.data)
        if frame.event != "error":
            assert (frame.event, int(frame.id)) == (told["type"], told["seq"])
        return told

    def until(self, seq: int) -> list[dict[str, Any]]:
        """Every event up to and with that one."""
        found = [self.event()]
        while found[-1]["seq"] < seq:
            found.append(self.event())
        return found

    def ended(self) -> bool:
        return next(self._frames, None) is None


def page(client: Api, **query: int) -> list[dict[str, Any]]:
    found = client.get("/api/events", params=query)
    assert found.status_code == 200
    listed: list[dict[str, Any]] = found.json()
    return listed


def every(client: Api, after: int = 0) -> list[dict[str, Any]]:
    """All events, page by page."""
    found: list[dict[str, Any]] = []
    while more := page(client, after=after, take=100):
        found += more
        after = more[-1]["seq"]
    return found


def newest(client: Api) -> int:
    return max((each["seq"] for each in every(client)), default=0)


# pages


def test_a_page_of_events(api: Api) -> None:
    before = newest(api)
    file = api.direct(name="cat.txt", file_name="cat.txt")
    api.delete(f"/api/files/{file['id']}")
    found = page(api, after=before)
    assert [each["type"] for each in found] == ["file.created", "file.deleted"]
    assert all(set(each) == {"seq", "type", "timestamp", "data"} for each in found)
    assert found[0]["data"]["id"] == file["id"]
    assert found[0]["data"]["name"] == "cat.txt"
    assert page(api, after=before, take=1) == found[:1]
    assert page(api, after=found[0]["seq"]) == found[1:]
    assert page(api, after=10**18) == []


@pytest.mark.parametrize("query", ["after=-1", "after=x", f"after={1 << 63}", "take=0", "take=101"])
def test_what_is_no_page(live: Api, query: str) -> None:
    refused(live.get(f"/api/events?{query}"), 400, "VALIDATION_FAILED")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", str(1 << 63)])
def test_what_is_no_event_to_go_on_from(live: Api, last: str) -> None:
    answer = live.get("/api/events", headers=STREAM | {"Last-Event-ID": last})
    refused(answer, 400, "VALIDATION_FAILED")


# streams


def test_a_stream_tells_what_happens_from_now_on(live: Api) -> None:
    live.direct()
    before = newest(live)
    with stream(live) as frames:
        assert frames.begins == before
        file = live.direct()
        told = frames.event()
    assert told == every(live, before)[0]
    assert told["data"]["id"] == file["id"]


def test_a_stream_begins_where_one_was(live: Api) -> None:
    before = newest(live)
    for _ in range(3):
        live.direct()
    known = every(live, before)
    with stream(live, after=before) as frames:
        assert frames.until(known[-1]["seq"]) == known
    with stream(live, last=known[0]["seq"], after=before) as frames:
        assert frames.until(known[-1]["seq"]) == known[1:], "Last-Event-ID counts"
    with stream(live, after=0) as frames:
        assert frames.until(known[-1]["seq"]) == every(live)


def test_a_number_that_was_never_given_begins_now(live: Api) -> None:
    before = newest(live)
    with stream(live, after=10**15) as frames:
        assert frames.begins == before
        live.direct()
        assert frames.event()["type"] == "file.created"


def test_more_than_a_page_comes_at_once(live: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_routes, "_PAGE", 2)
    monkeypatch.setattr(live_streams, "LOOK", 30.0)
    before = newest(live)
    for _ in range(5):
        live.direct()
    known = every(live, before)
    with stream(live, after=before) as frames:
        assert frames.until(known[-1]["seq"]) == known


@pytest.mark.slow
def test_connections_that_break_neither_lose_nor_double_an_event(live: Api) -> None:
    """What browsers do: come back with the last id, while things go on happening."""
    before, count = newest(live), 30

    def work() -> None:
        with Api(live.world, None, live.world.secrets["alice"]) as client:
            for _ in range(count):
                client.direct(unique(), name="x.txt")
                time.sleep(0.02)

    worker = threading.Thread(target=work)
    seen: list[dict[str, Any]] = []
    with stream(live) as frames:
        last = frames.begins
        worker.start()
    while len(seen) < count:
        with stream(live, last=last) as frames:
            for _ in range(min(3, count - len(seen))):
                seen.append(frames.event())
                last = seen[-1]["seq"]
    worker.join()
    assert seen == every(live, before)
    assert len({each["data"]["id"] for each in seen}) == count


def test_strangers_see_nothing(live: Api, stranger: Api, anonymous: Api) -> None:
    refused(anonymous.get("/api/events"), 401, "AUTH_REQUIRED")
    refused(anonymous.get("/api/events", headers=STREAM), 401, "AUTH_REQUIRED")
    with stream(stranger, after=0) as frames:
        file = live.direct()
        theirs = stranger.direct()
        told = frames.event()
        while told["data"].get("id") != theirs["id"]:
            assert told["data"].get("id") != file["id"]
            told = frames.event()
    ids = [each["data"].get("id") for each in every(stranger)]
    assert file["id"] not in ids
    assert theirs["id"] in ids


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_reading_events_takes_a_scope(world: World, accept: str) -> None:
    with Api(world, None, world.token("alice", scopes=[Scope.WRITE])) as client:
        refused(client.get("/api/events", headers={"Accept": accept}), 403, "SCOPE_MISSING")


def test_a_stream_ends_with_the_server(live: Api) -> None:
    with stream(live) as frames:
        stopping.set()
        try:
            assert frames.ended()
        finally:
            stopping.clear()


def test_nobody_looks_for_events_for_a_client_that_is_gone(
    live: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    real = event_routes._News.look

    def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return real(*args)

    monkeypatch.setattr(event_routes._News, "look", counted)
    monkeypatch.setattr(live_streams, "LOOK", 0.02)
    with stream(live) as frames:
        eventually(lambda: looks > 3, 60, "it is looked for events")
        assert frames.begins == newest(live)
    seen = -1
    while seen != looks:
        seen = looks
        time.sleep(0.3)


def test_a_silent_stream_is_kept_alive(live: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_streams, "KEEP_ALIVE", 0.1)
    monkeypatch.setattr(live_streams, "LOOK", 0.02)
    with live.stream("GET", "/api/events", headers=STREAM) as response:
        lines = response.iter_lines()
        comments = 0
        while comments < 3:
            comments += next(lines).startswith(":")


# webhooks


def test_a_webhook_is_added_and_removed(api: Api) -> None:
    body = {"url": HOOK, "events": ["file.deleted", "file.created", "file.created"]}
    added = api.post("/api/webhooks", json=body)
    assert added.status_code == 201
    made = added.json()
    secret = made.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert set(made) == {"id", "url", "events", "created_at", "disabled_at"}
    assert made["events"] == ["file.created", "file.deleted"]
    assert made["disabled_at"] is None
    path = f"/api/webhooks/{made['id']}"
    assert api.get(path).json() == made
    listed = api.get("/api/webhooks")
    assert listed.json() == [made]
    assert secret not in listed.text
    assert api.delete(path).status_code == 204
    refused(api.delete(path), 404, "WEBHOOK_NOT_FOUND")
    assert api.get("/api/webhooks").json() == []


def test_null_means_all_events(live: Api) -> None:
    made = live.post("/api/webhooks", json={"url": HOOK, "events": None}).json()
    assert made["events"] == []
    live.delete(f"/api/webhooks/{made['id']}")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": None}, "url"),
        ({"url": 7}, "url"),
        ({"url": "ftp://hooks.example"}, "url"),
        ({"url": "https://me:secret@hooks.example"}, "url"),
        ({"url": "https://hooks.example/" + 3000 * "x"}, "url"),
        ({"url": "https://hooks.example/\x00"}, "url"),
        ({"url": "https://hooks.example/\ud800"}, "url"),
        ({"url": HOOK, "events": ["file.eaten"]}, "events.0"),
        ({"url": HOOK, "events": "file.created"}, "events"),
        ({"url": HOOK, "events": 101 * ["file.created"]}, "events"),
    ],
)
def test_what_is_no_webhook(live: Api, body: Any, field: str) -> None:
    text = json.dumps(body)
    answer = live.post("/api/webhooks", content=text, headers={"Content-Type": "application/json"})
    assert field in refused(answer, 400, "VALIDATION_FAILED")["errors"]
    assert live.get("/api/webhooks").json() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/enable"),
        ("POST", "/test"),
        ("GET", "/deliveries"),
    ],
)
def test_a_webhook_of_another_is_unknown(
    stranger: Api, webhook: Any, method: str, path: str
) -> None:
    theirs = stranger.request(method, f"/api/webhooks/{webhook['id']}{path}")
    nobodys = stranger.request(method, f"/api/webhooks/{'0' * 32}{path}")
    first = refused(theirs, 404, "WEBHOOK_NOT_FOUND")
    second = refused(nobodys, 404, "WEBHOOK_NOT_FOUND")
    assert first["message"] == second["message"]


def test_deliveries_are_listed_newest_first(live: Api, webhook: Any) -> None:
    for _ in range(3):
        live.direct()
    path = f"/api/webhooks/{webhook['id']}/deliveries"
    listed = live.get(path)
    assert listed.headers["x-total"] == "3"
    found = listed.json()
    assert [each["event"] for each in found] == [each["seq"] for each in every(live)[:-4:-1]]
    assert {each["status"] for each in found} == {"pending"}
    assert live.get(path, params={"offset": 1, "take": 1}).json() == found[1:2]
    refused(live.get(path, params={"take": 0}), 400, "VALIDATION_FAILED")


def test_deliveries_tell_what_became_of_them(live: Api, world: World) -> None:
    """From the request to the receiver; and by default, this machine is not to be reached."""
    world.core.runner.run_due()  # what other tests left to be done would be told too
    with Receiver() as receiver:
        made = live.post("/api/webhooks", json={"url": receiver.url}).json()
        path = f"/api/webhooks/{made['id']}"
        tested = live.post(f"{path}/test")
        assert tested.status_code == 202
        assert (tested.json()["status"], tested.json()["event"]) == ("pending", None)
        live.direct()
        world.core.runner.run_due()
        second, first = live.get(f"{path}/deliveries").json()
        assert receiver.connections == 0
        assert (first["id"], first["status"]) == (tested.json()["id"], "failed")
        assert first["due_at"] is None
        assert first["finished_at"] is not None
        assert (second["status"], second["attempts"]) == ("retrying", 1)
        assert second["due_at"] is not None
        assert second["finished_at"] is None
        for each in (first, second):
            assert "webhook_private_networks" in each["error"]
        live.delete(path)


def test_a_disabled_webhook_is_enabled_again(live: Api, world: World, webhook: Any) -> None:
    path = f"/api/webhooks/{webhook['id']}"
    world.core.catalog.disable_webhook(webhook["id"], world.clock())
    assert live.get(path).json()["disabled_at"] is not None
    enabled = live.post(f"{path}/enable")
    assert enabled.status_code == 200
    assert enabled.json()["disabled_at"] is None
    assert live.get(path).json() == enabled.json()


def test_an_account_has_so_many_webhooks(world: World) -> None:
    with Api(world, None, world.token("collector")) as client:
        for _ in range(20):
            assert client.post("/api/webhooks", json={"url": HOOK}).status_code == 201
        answer = client.post("/api/webhooks", json={"url": HOOK})
        assert refused(answer, 403, "QUOTA_EXCEEDED")["meta"] == {"scope": "webhooks", "quota": 20}


@pytest.mark.parametrize(
    ("path", "methods"), [("/api/webhooks", "GET, POST"), ("/api/webhooks/x", "DELETE, GET")]
)
def test_the_methods_of_a_path_are_told(live: Api, path: str, methods: str) -> None:
    answer = live.put(path)
    assert answer.headers["allow"] == methods
    refused(answer, 405, "METHOD_NOT_ALLOWED")


def test_the_secret_is_described_as_told_once(world: World) -> None:
    schemas = world.description["components"]["schemas"]
    assert "secret" in schemas["NewWebhookOut"]["properties"]
    assert "secret" not in schemas["WebhookOut"]["properties"]
    assert "pattern" in schemas["AddWebhook"]["properties"]["url"]
