"""Following events over connections that break, and webhooks that are added only once."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import httpx2
import pytest

from upwell.client import ApiError, ConnectionFailed, PatienceOver, Retry, UnexpectedAnswer
from upwell.client import webhooks as module
from upwell.client.webhooks import EventCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Answer = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT", 0.0)


class Script:
    """A server that answers one thing after the other."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[httpx2.Request] = []
        self._answers = list(answers)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        return self._answers.pop(0)(request)

    def client(self, retry: Retry | None = None) -> EventCalls:
        transport = httpx2.MockTransport(self)
        return EventCalls("http://up.example", retry=retry or Retry(0), transport=transport)


def frame(seq: int) -> str:
    data = f'{{"seq": {seq}, "type": "file.created", "timestamp": "t", "data": {{}}}}'
    return f"id: {seq}\nevent: file.created\ndata: {data}\n\n"


class Broken(httpx2.SyncByteStream):
    def __init__(self, text: str) -> None:
        self._text = text

    def __iter__(self) -> Iterator[bytes]:
        yield self._text.encode()
        raise httpx2.ReadError("reset")


def streamed(text: str, *, broken: bool = False) -> Answer:
    headers = {"Content-Type": "text/event-stream"}
    if broken:
        return lambda _: httpx2.Response(200, headers=headers, stream=Broken(text))
    return lambda _: httpx2.Response(200, headers=headers, content=text.encode())


def failing(_: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError("refused")


def test_a_stream_that_breaks_is_gone_on_with() -> None:
    script = Script(
        streamed("id: 4\nretry: 2000\n\n: still here\n\n" + frame(5)),
        streamed("id: 5\n\n" + frame(6) + "id: 7\nevent: file", broken=True),
        streamed("id: 6\n\n", broken=True),
        streamed(frame(7) + 'event: error\ndata: {"code": "TOKEN_INVALID"}\n\n'),
        lambda _: httpx2.Response(401, json={"code": "TOKEN_INVALID", "message": "no"}),
    )
    events = script.client().follow()
    assert [event.seq for event in islice(events, 3)] == [5, 6, 7]
    with pytest.raises(ApiError):
        next(events)
    asked = [request.headers.get("Last-Event-ID") for request in script.asked]
    assert asked == [None, "5", "6", "6", "7"]
    assert {request.url.path for request in script.asked} == {"/api/events"}
    assert {request.headers["Accept"] for request in script.asked} == {"text/event-stream"}


def test_it_begins_where_it_is_told_to() -> None:
    script = Script(streamed(frame(10)))
    assert next(script.client().follow(after=9)).seq == 10
    assert script.asked[0].headers["Last-Event-ID"] == "9"


def test_a_server_that_is_away_is_waited_for_with_patience() -> None:
    script = Script(failing, streamed(frame(1)))
    assert next(script.client(Retry(30)).follow()).seq == 1
    with pytest.raises(ConnectionFailed):
        next(Script(failing).client().follow())
    with pytest.raises(PatienceOver):
        next(Script(failing, failing).client(Retry(0.001)).follow())


def test_what_is_no_event_is_told() -> None:
    with pytest.raises(UnexpectedAnswer):
        next(Script(streamed("data: nothing\n\n")).client().follow())


def test_adding_is_not_tried_again() -> None:
    script = Script(failing, failing)
    with pytest.raises(ConnectionFailed):
        script.client(Retry(30)).add_webhook("https://hooks.example")
    assert len(script.asked) == 1


def test_a_removal_whose_answer_was_lost_is_done() -> None:
    def gone(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(404, json={"code": "WEBHOOK_NOT_FOUND", "message": "no"})

    script = Script(failing, gone)
    script.client(Retry(30)).remove_webhook("a")
    assert [request.url.path for request in script.asked] == 2 * ["/api/webhooks/a"]
