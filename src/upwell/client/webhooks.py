"""The calls about an account's events, and about the webhooks that are told of them."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx2

from upwell.client.api import API, Calls, _json, _segment, _told
from upwell.client.errors import ConnectionFailed, Interrupted, UnexpectedAnswer
from upwell.client.model import _get, _object

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from upwell.client.model import Page

RECONNECT = 1.0  # seconds before a stream that ended is asked for again


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to an upload or a file; ``raw`` is all that the server told."""

    seq: int
    type: str
    timestamp: str
    data: dict[str, Any]
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: object) -> Event:
        fields = _object(answer)
        return cls(
            seq=_get(fields, "seq", int),
            type=_get(fields, "type", str),
            timestamp=_get(fields, "timestamp", str),
            data=_object(fields.get("data")),
            raw=fields,
        )


@dataclass(frozen=True, slots=True)
class Webhook:
    """``events`` are types, none for all of them; ``secret`` is told when it is added only."""

    id: str
    url: str
    events: tuple[str, ...]
    disabled_at: str | None
    secret: str | None = field(repr=False)
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: object) -> Webhook:
        fields = _object(answer)
        return cls(
            id=_get(fields, "id", str),
            url=_get(fields, "url", str),
            events=tuple(map(str, _get(fields, "events", list))),
            disabled_at=fields.get("disabled_at"),
            secret=fields.get("secret"),
            raw=fields,
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to a webhook: ``status`` is pending, retrying, delivered or failed."""

    id: int
    event: int | None
    status: str
    attempts: int
    created_at: str
    error: str | None
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: object) -> Delivery:
        fields = _object(answer)
        return cls(
            id=_get(fields, "id", int),
            event=fields.get("event"),
            status=_get(fields, "status", str),
            attempts=_get(fields, "attempts", int),
            created_at=_get(fields, "created_at", str),
            error=fields.get("error"),
            raw=fields,
        )


class EventCalls(Calls):
    """A client that also follows events and looks after webhooks."""

    def add_webhook(self, url: str, events: Sequence[str] = ()) -> Webhook:
        """With its secret. Not tried again by itself: that might add a second one."""
        body = {"url": url, "events": list(events)}
        return Webhook.of(_json(self._send("POST", "/webhooks", root=API, json=body)))

    def webhooks(self) -> list[Webhook]:
        """Oldest first."""
        return [Webhook.of(each) for each in self._list("/webhooks", root=API)]

    def remove_webhook(self, webhook_id: str) -> None:
        self._delete(_path(webhook_id), root=API)

    def enable_webhook(self, webhook_id: str) -> Webhook:
        """Send it events again, from now on."""
        return Webhook.of(self._call("POST", f"{_path(webhook_id)}/enable", root=API))

    def test_webhook(self, webhook_id: str) -> Delivery:
        """Have a test message sent; its delivery, which has not happened yet."""
        return Delivery.of(_json(self._send("POST", f"{_path(webhook_id)}/test", root=API)))

    def deliveries(
        self, webhook_id: str, *, offset: int = 0, take: int = 50, after: str | None = None
    ) -> Page[Delivery]:
        """What was or will be sent to a webhook, newest first; 100 at most."""
        path = f"{_path(webhook_id)}/deliveries"
        return self._page(path, Delivery.of, API, offset=offset, take=take, after=after)

    def follow(self, after: int | None = None) -> Iterator[Event]:
        """Events as they happen, without an end: those after number ``after``, or from now on.

        A connection that breaks is made again, and goes on where it was.
        """
        last = after
        while True:
            response = self.retry.call(partial(self._open, last), self.stop)
            # Only while it is read: whoever cannot be reached at all is told to the caller.
            with self._ended(response), suppress(ConnectionFailed):
                for frame in self._frames(response):
                    last = int(frame.id) if frame.id.isdecimal() else last
                    if frame.data and frame.event != "error":
                        yield _event(frame.data)
            if self.stop.wait(RECONNECT):
                raise Interrupted("Stopped.")

    def _open(self, last: int | None) -> httpx2.Response:
        headers = {"Accept": "text/event-stream"}
        headers |= {} if last is None else {"Last-Event-ID": str(last)}
        response = self._begin("GET", self._url("/events", API), headers)
        try:
            self._check(response)
        except BaseException:
            response.close()
            raise
        return response

    def _frames(self, response: httpx2.Response) -> Iterator[httpx2.ServerSentEvent]:
        with _told(self.server):
            yield from httpx2.EventSource(response)


def _event(data: str) -> Event:
    try:
        return Event.of(json.loads(data))
    except ValueError as error:
        raise UnexpectedAnswer("The server's event is not JSON.") from error


def _path(webhook_id: str) -> str:
    return f"/webhooks/{_segment(webhook_id)}"
