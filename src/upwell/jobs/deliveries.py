"""Delivers events to webhooks, signed by Standard Webhooks: at least once, in no order."""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpcore2
import structlog
from standardwebhooks import Webhook as Signer

from upwell.core.events import TEST, TEST_TYPE, address_of, described
from upwell.errors import NotReady
from upwell.jobs import outbound
from upwell.jobs.runner import JobFailed
from upwell.model import Event, JobKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from upwell.core.events import Events
    from upwell.core.ports import Catalog, Clock
    from upwell.jobs.runner import Lease
    from upwell.model import Job, Webhook

THREADS = 4
DELAYS = (
    timedelta(seconds=5),
    *(timedelta(minutes=m) for m in (1, 5, 30)),
    *(timedelta(hours=h) for h in (2, 5, 10, 14)),
)
GIVE_UP = timedelta(days=5)  # without any delivery that got through
_LOOK_BACK = 500  # deliveries
_GONE = 410
_log = structlog.get_logger("upwell.jobs")


class Deliveries:
    """The work of jobs whose subject is a webhook and whose argument an event's ``seq``."""

    def __init__(
        self, catalog: Catalog, events: Events, clock: Clock, *, private_networks: bool
    ) -> None:
        self._catalog = catalog
        self._events = events
        self._clock = clock
        self._private = private_networks
        self._turns = _Turns()

    def do(self, lease: Lease) -> None:
        """Deliver once. A message has the same id every time, so that its receiver can tell."""
        job = lease.job
        webhook = self._catalog.webhook(job.subject)
        if webhook is None:
            raise JobFailed("the webhook was removed", for_good=True)
        if job.argument == TEST:
            self._test(job, webhook)
            return
        if webhook.disabled_at is not None:
            raise JobFailed("the webhook is disabled", for_good=True)
        event = self._catalog.event(int(job.argument))
        if event is None:
            raise JobFailed("the event is no longer kept", for_good=True)
        try:
            with self._turns.of(webhook.id):
                self._post(webhook, _message_id(event, webhook), described(event))
        except JobFailed:
            self._perhaps_disable(job, webhook)
            raise

    def _test(self, job: Job, webhook: Webhook) -> None:
        when = job.created_at.isoformat().replace("+00:00", "Z")
        data = {"webhook_id": webhook.id}
        message = {"seq": None, "type": TEST_TYPE, "timestamp": when, "data": data}
        try:
            self._post(webhook, f"test_{job.id}_{webhook.id}", message)
        except JobFailed as error:
            raise JobFailed(str(error), for_good=True) from None

    def _post(self, webhook: Webhook, message_id: str, message: dict[str, Any]) -> None:
        address = address_of(webhook.url)
        if address is None:
            raise JobFailed("its URL is none that is delivered to", for_good=True)
        try:
            secret = self._events.secret_of(webhook)
        except NotReady as error:
            raise JobFailed(error.message, for_good=True) from None
        body = json.dumps(message, separators=(",", ":"))
        headers = _signed(secret, message_id, self._clock(), body)
        try:
            status = outbound.post(address, headers, body.encode(), private=self._private)
        except httpcore2.ConnectTimeout:
            raise _Silent("cannot connect: no answer") from None
        except httpcore2.TimeoutException:
            raise _Silent(f"no answer within {outbound.SECONDS:.0f} s") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
            raise JobFailed(_reason(error)) from None
        self._judge(status, webhook)

    def _judge(self, status: int, webhook: Webhook) -> None:
        if status == _GONE:
            self._disable(webhook, "it answered 410")
            raise JobFailed("it answered 410: the webhook is disabled", for_good=True)
        if 300 <= status < 400:
            raise JobFailed(f"it answered {status}; redirects are not followed")
        if not 200 <= status < 300:
            raise JobFailed(f"it answered {status}")

    def _perhaps_disable(self, job: Job, webhook: Webhook) -> None:
        """Disable a webhook when a delivery has failed for good, and nothing has got through
        for days (or of the many that were newest)."""
        if job.attempts <= len(DELAYS):
            return
        latest = self._catalog.jobs(JobKind.DELIVER, webhook.id, 0, _LOOK_BACK).items
        since = self._clock() - GIVE_UP
        long = len(latest) == _LOOK_BACK or any(each.created_at < since for each in latest)
        if long and not any(each.finished_at and each.error is None for each in latest):
            self._disable(webhook, "nothing gets through")

    def _disable(self, webhook: Webhook, why: str) -> None:
        self._catalog.disable_webhook(webhook.id, self._clock())
        _log.warning("webhook disabled", webhook=webhook.id, why=why)


class _Silent(JobFailed):
    """No answer came in time."""


class _Turns:
    """A webhook that let us wait in vain is tried by one thread at a time until it answers:
    it shall not keep all of them from the others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent: set[str] = set()
        self._trying: Counter[str] = Counter()

    @contextmanager
    def of(self, webhook_id: str) -> Iterator[None]:
        with self._lock:
            if webhook_id in self._silent and self._trying[webhook_id]:
                raise JobFailed("it did not answer, and is being tried with another event")
            self._trying[webhook_id] += 1
        silent = False
        try:
            yield
        except _Silent:
            silent = True
            raise
        finally:
            with self._lock:
                (self._silent.add if silent else self._silent.discard)(webhook_id)
                self._trying[webhook_id] -= 1
                if not self._trying[webhook_id]:
                    del self._trying[webhook_id]


def _message_id(event: Event, webhook: Webhook) -> str:
    """Of one event for one webhook, every time; another one after a catalog was restored from
    an older copy, which may give a ``seq`` again."""
    return f"evt_{event.seq}_{int(event.at.timestamp()):x}_{webhook.id}"


def _signed(secret: str, message_id: str, now: datetime, body: str) -> dict[str, str]:
    """The headers of a message (Standard Webhooks), of which each try is signed anew."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "Upwell-Webhooks",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(secret).sign(message_id, now, body),
    }


def _reason(error: Exception) -> str:
    """What failed, without anything that the peer has said."""
    if isinstance(error, httpcore2.ConnectError):
        return f"cannot connect: {error}"
    return "the connection broke, or the answer was not HTTP"
