"""Events and webhooks: who sees them, what is queued, and that secrets stay secret."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.world import KEY, Recorder, content
from upwell.core.events import (
    MAX_URL,
    MAX_WEBHOOKS,
    TEST,
    Events,
    address_of,
    described,
)
from upwell.core.keys import SIZE, ServerKey
from upwell.errors import (
    NotReady,
    QuotaExceeded,
    ScopeMissing,
    ValidationFailed,
    WebhookNotFound,
)
from upwell.model import EventType, JobKind, Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.world import World
    from upwell.model import Principal

URL = "https://hooks.example/up?token=sesame"


@pytest.fixture
def events(small: World) -> Events:
    return Events(small.catalog, small.clock, KEY)


def only(who: Principal, *scopes: Scope) -> Principal:
    return replace(who, scopes=frozenset(scopes))


# what happened


def test_events_come_oldest_first_and_from_where_one_was(small: World, events: Events) -> None:
    for seed in range(3):
        small.upload(small.me, content(8, seed), file_name=f"{seed}.bin")
    every = events.since(small.me, 0, 100)
    assert [each.type for each in every] == 3 * [EventType.UPLOAD_CREATED, EventType.FILE_CREATED]
    assert [each.seq for each in every] == sorted({each.seq for each in every})
    assert events.newest(small.me) == every[-1].seq
    assert events.since(small.me, 0, 2) == every[:2]
    assert events.since(small.me, every[1].seq, 100) == every[2:]
    assert events.since(small.me, 1 << 70, 100) == []


def test_nobody_sees_the_events_of_another_account(small: World, events: Events) -> None:
    small.upload(small.me, content(8))
    assert events.since(small.stranger, 0, 100) == []
    assert events.newest(small.stranger) == 0


def test_an_event_is_told_in_one_shape(small: World, events: Events) -> None:
    file = small.upload(small.me, content(8))
    told = described(events.since(small.me, 0, 100)[-1])
    assert set(told) == {"seq", "type", "timestamp", "data"}
    assert told["type"] == "file.created"
    assert told["timestamp"].endswith("Z")
    assert told["data"]["id"] == file.id


# URLs


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "target"),
    [
        ("http://a", "a", 80, "a", "/"),
        ("https://a.example/", "a.example", 443, "a.example", "/"),
        ("https://A.example:8443/x?y=1&z=%20", "A.example", 8443, "A.example:8443", "/x?y=1&z=%20"),
        ("http://a.example?x", "a.example", 80, "a.example", "/?x"),
        ("http://a.example/x;y=1?z", "a.example", 80, "a.example", "/x;y=1?z"),
        ("http://a.example/@b:c", "a.example", 80, "a.example", "/@b:c"),
        ("http://127.0.0.1:9", "127.0.0.1", 9, "127.0.0.1:9", "/"),
        ("http://[::1]:65535/", "::1", 65535, "[::1]:65535", "/"),
        ("http://under_score.example./", "under_score.example.", 80, "under_score.example.", "/"),
    ],
)
def test_the_parts_of_a_url(url: str, host: str, port: int, authority: str, target: str) -> None:
    found = address_of(url)
    assert found is not None
    assert (found.host, found.port, found.authority, found.target) == (
        host,
        port,
        authority,
        target,
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example",
        "//a.example",
        "ftp://a.example",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http:a.example",
        "http://",
        "http:///x",
        "http://.",
        "http://a..example",
        "http://-a.example",
        f"http://{64 * 'a'}.example",
        "http://me@a.example",
        "http://me:secret@a.example",
        "http://a.example:0",
        "http://a.example:65536",
        "http://a.example:x",
        "http://a.example:",
        "http://a.example/#part",
        "http://a.example/a b",
        "http://a.example/\r\nX: y",
        "http://a.example\n",
        "http://a.example\\@b.example",
        "http://ä.example",
        "http://a.example/ä",
        "http://[::1",
        "http://[7]",
        "http://[127.0.0.1]/",
        "http://[:::1]/",
        "http://[fe80::1%25eth0]/",
        "http://a.example/" + MAX_URL * "x",
    ],
)
def test_what_is_no_url_of_a_webhook(small: World, events: Events, url: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        events.add_webhook(small.me, url)
    assert caught.value.errors
    assert set(caught.value.errors) == {"url"}
    assert events.webhooks(small.me) == []


# secrets


def test_a_secret_is_told_once_and_kept_wrapped_i9(small: World, events: Events) -> None:
    webhook, secret = events.add_webhook(small.me, URL)
    assert secret.startswith("whsec_")
    raw = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    assert 24 <= len(raw) <= 64
    assert events.secret_of(webhook) == secret
    assert events.secret_of(events.webhook(small.me, webhook.id)) == secret
    assert secret not in repr(webhook)
    for form in (raw, secret.encode(), secret.removeprefix("whsec_").encode(), raw.hex().encode()):
        assert form not in small.database()
    _, other = events.add_webhook(small.me, URL)
    assert other != secret


def test_a_wrapped_secret_is_worth_nothing_elsewhere_i9(small: World, events: Events) -> None:
    mine, _ = events.add_webhook(small.me, URL)
    theirs, _ = events.add_webhook(small.stranger, URL)
    with pytest.raises(NotReady):
        events.secret_of(replace(theirs, wrapped_secret=mine.wrapped_secret))
    another = Events(small.catalog, small.clock, ServerKey(SIZE * b"x"))
    with pytest.raises(NotReady):
        another.secret_of(mine)
    flipped = bytes([mine.wrapped_secret[-1] ^ 1])
    for damaged in (mine.wrapped_secret[:20], mine.wrapped_secret[:-1] + flipped):
        with pytest.raises(NotReady):
            events.secret_of(replace(mine, wrapped_secret=damaged))


# who may


def verbs(events: Events, webhook_id: str) -> dict[str, Callable[[Principal], Any]]:
    return {
        "webhook": lambda who: events.webhook(who, webhook_id),
        "deliveries": lambda who: events.deliveries(who, webhook_id, 0, 10),
        "remove": lambda who: events.remove_webhook(who, webhook_id),
        "enable": lambda who: events.enable_webhook(who, webhook_id),
        "test": lambda who: events.test_webhook(who, webhook_id),
    }


@pytest.mark.parametrize("verb", ["webhook", "deliveries", "remove", "enable", "test"])
def test_a_stranger_learns_nothing(small: World, events: Events, verb: str) -> None:
    webhook, _ = events.add_webhook(small.me, URL)
    messages = set()
    for webhook_id in (webhook.id, "unknown"):
        with pytest.raises(WebhookNotFound) as caught:
            verbs(events, webhook_id)[verb](small.stranger)
        messages.add(caught.value.message)
    assert len(messages) == 1
    assert events.webhooks(small.me) == [webhook]
    assert events.webhooks(small.stranger) == []
    assert events.deliveries(small.me, webhook.id, 0, 10).total == 0


@pytest.mark.parametrize("verb", ["webhook", "deliveries", "remove", "enable", "test"])
def test_scopes_are_asked_for_first_i5(small: World, events: Events, verb: str) -> None:
    webhook, _ = events.add_webhook(small.me, URL)
    catalog = Recorder(small.catalog)
    watched = Events(catalog, small.clock, KEY)
    other = Scope.WRITE if verb in ("webhook", "deliveries") else Scope.READ
    with pytest.raises(ScopeMissing):
        verbs(watched, webhook.id)[verb](only(small.me, other))
    with pytest.raises(ScopeMissing):
        watched.add_webhook(only(small.me, Scope.READ), URL)
    for read in (watched.webhooks, watched.newest, lambda who: watched.since(who, 0, 10)):
        with pytest.raises(ScopeMissing):
            read(only(small.me, Scope.WRITE))
    assert catalog.calls == []


def test_an_account_has_so_many_webhooks(small: World, events: Events) -> None:
    made = [events.add_webhook(small.me, URL)[0] for _ in range(MAX_WEBHOOKS)]
    with pytest.raises(QuotaExceeded):
        events.add_webhook(small.me, URL)
    events.add_webhook(small.stranger, URL)
    events.remove_webhook(small.me, made[0].id)
    events.add_webhook(small.me, URL)


# what is queued


def test_an_event_is_queued_for_those_who_want_it(small: World, events: Events) -> None:
    every, _ = events.add_webhook(small.me, URL)
    some, _ = events.add_webhook(small.me, URL, [EventType.FILE_CREATED, EventType.FILE_CREATED])
    off, _ = events.add_webhook(small.me, URL)
    theirs, _ = events.add_webhook(small.stranger, URL)
    small.catalog.disable_webhook(off.id, small.clock())
    assert some.events == ("file.created",)
    small.upload(small.me, content(8))
    created, done = (str(each.seq) for each in events.since(small.me, 0, 10))

    def queued(who: Principal, webhook_id: str) -> list[str]:
        return [job.argument for job in events.deliveries(who, webhook_id, 0, 10).items]

    assert queued(small.me, every.id) == [done, created]
    assert queued(small.me, some.id) == [done]
    assert queued(small.me, off.id) == []
    assert queued(small.stranger, theirs.id) == []


def test_enabled_again_it_is_told_of_what_happens_from_then_on(
    small: World, events: Events
) -> None:
    webhook, _ = events.add_webhook(small.me, URL)
    small.catalog.disable_webhook(webhook.id, small.clock())
    assert events.webhook(small.me, webhook.id).disabled_at == small.clock()
    small.upload(small.me, content(8))
    assert events.enable_webhook(small.me, webhook.id).disabled_at is None
    assert events.webhook(small.me, webhook.id) == webhook
    assert events.deliveries(small.me, webhook.id, 0, 10).total == 0
    small.upload(small.me, content(8, 1))
    assert events.deliveries(small.me, webhook.id, 0, 10).total == 2


def test_a_removed_webhook_takes_its_deliveries_along(small: World, events: Events) -> None:
    webhook, _ = events.add_webhook(small.me, URL)
    small.upload(small.me, content(8))
    assert small.catalog.jobs(JobKind.DELIVER, webhook.id, 0, 10).total == 2
    events.remove_webhook(small.me, webhook.id)
    assert small.catalog.jobs(JobKind.DELIVER, webhook.id, 0, 10).total == 0
    with pytest.raises(WebhookNotFound):
        events.remove_webhook(small.me, webhook.id)


def test_a_test_is_a_delivery_of_its_own(small: World, events: Events) -> None:
    webhook, _ = events.add_webhook(small.me, URL, [EventType.FILE_DELETED])
    job = events.test_webhook(small.me, webhook.id)
    assert job.argument == TEST
    assert events.deliveries(small.me, webhook.id, 0, 10).items == [job]
    assert events.since(small.me, 0, 10) == []
