"""What happened to an account's uploads and files, and the webhooks that are told of it."""

from __future__ import annotations

import re
import secrets
from base64 import b64encode
from dataclasses import dataclass, replace
from datetime import UTC
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from upwell.core import policy
from upwell.core.keys import new_id
from upwell.errors import NotReady, QuotaExceeded, ValidationFailed, WebhookNotFound
from upwell.model import JobKind, NewJob, Scope, Webhook

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upwell.core.keys import ServerKey
    from upwell.core.ports import Catalog, Clock, Page
    from upwell.model import Event, EventType, Job, Principal

MAX_WEBHOOKS = 20  # of one account
MAX_URL = 2048  # characters
TEST = "test"  # the argument of a delivery that is no event's
TEST_TYPE = "webhook.test"
_PURPOSE = "webhook secrets"
_SECRET = 32  # bytes; Standard Webhooks: 24 to 64
_NONCE = 12  # bytes (RFC 8439)

_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,62}"
_PORT = r"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5]"
_NAME = rf"(?:{_LABEL}\.)*{_LABEL}\.?"
_REST = rf"(?::({_PORT}))?(/[!-\"$-~]*|\?[!-\"$-~]*)?"
# What is checked is what connects: no second parser that might read a URL in another way.
_URL = re.compile(rf"(https?)://({_NAME}|\[[0-9A-Fa-f:.]+\]){_REST}", re.ASCII)
URL_PATTERN = rf"^(https?)://({_NAME}){_REST}$"  # for a description; less IPv6 addresses


@dataclass(frozen=True, slots=True)
class Address:
    """A webhook's URL in parts. ``authority`` is the host with the port, where one is named;
    ``host`` is without the brackets of an IPv6 address."""

    scheme: str
    host: str
    port: int
    authority: str
    target: str


def address_of(url: str) -> Address | None:
    """The parts of a URL that a webhook may have; None for any other."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if found is None:
        return None
    scheme, host, port, rest = found.groups()
    bare = host.strip("[]")
    if bare != host and not _is_ipv6(bare):
        return None
    return Address(
        scheme=scheme,
        host=bare,
        port=int(port or (443 if scheme == "https" else 80)),
        authority=f"{host}:{port}" if port else host,
        target=f"/{rest or ''}" if not rest or rest[0] == "?" else rest,
    )


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


class Events:
    def __init__(self, catalog: Catalog, clock: Clock, key: ServerKey) -> None:
        self._catalog = catalog
        self._clock = clock
        self._cipher = ChaCha20Poly1305(key.derive(_PURPOSE))

    # what happened

    def since(self, principal: Principal, after: int, take: int) -> list[Event]:
        """The caller's events with a greater ``seq``, oldest first."""
        policy.require(principal, Scope.READ)
        return self._catalog.events(principal.account.id, after, take)

    def newest(self, principal: Principal) -> int:
        """The ``seq`` of the caller's newest event; 0 when there is none."""
        policy.require(principal, Scope.READ)
        return self._catalog.last_event(principal.account.id)

    # webhooks

    def add_webhook(
        self, principal: Principal, url: str, events: Iterable[EventType] = ()
    ) -> tuple[Webhook, str]:
        """Send events of these types, or of all, to ``url`` from now on; the webhook and its
        signing secret, which is never told again. Raises ValidationFailed, QuotaExceeded."""
        policy.require_sharing(principal)
        account = principal.account.id
        if address_of(url) is None:
            raise _wrong_url(
                f"must be an http:// or https:// URL of at most {MAX_URL} ASCII characters, "
                "without spaces, user name, password or fragment"
            )
        webhook_id, secret = new_id(), secrets.token_bytes(_SECRET)
        webhook = Webhook(
            id=webhook_id,
            account_id=account,
            url=url,
            events=tuple(sorted({str(each) for each in events})),
            wrapped_secret=self._wrap(webhook_id, secret),
            created_at=self._clock(),
        )
        if not self._catalog.add_webhook(webhook, MAX_WEBHOOKS):
            raise QuotaExceeded(
                f"An account has at most {MAX_WEBHOOKS} webhooks; remove one first.",
                meta={"scope": "webhooks", "quota": MAX_WEBHOOKS},
            )
        return webhook, _written(secret)

    def webhooks(self, principal: Principal) -> list[Webhook]:
        """The caller's webhooks, oldest first."""
        policy.require(principal, Scope.READ)
        return self._catalog.webhooks(principal.account.id)

    def webhook(self, principal: Principal, webhook_id: str) -> Webhook:
        """Raises WebhookNotFound for what is unknown or not the caller's alike."""
        policy.require(principal, Scope.READ)
        return self._owned(principal, webhook_id)

    def remove_webhook(self, principal: Principal, webhook_id: str) -> None:
        """With its deliveries, those to come too. Raises WebhookNotFound."""
        policy.require(principal, Scope.WRITE)
        if not self._catalog.remove_webhook(webhook_id, principal.account.id):
            raise _not_found()

    def enable_webhook(self, principal: Principal, webhook_id: str) -> Webhook:
        """Send it events again, from now on. Raises WebhookNotFound."""
        policy.require(principal, Scope.WRITE)
        webhook = self._owned(principal, webhook_id)
        self._catalog.disable_webhook(webhook.id, None)
        return replace(webhook, disabled_at=None)

    def test_webhook(self, principal: Principal, webhook_id: str) -> Job:
        """Queue a message that tells of nothing, tried once, also to a disabled webhook; its
        delivery. Raises WebhookNotFound."""
        policy.require(principal, Scope.WRITE)
        webhook = self._owned(principal, webhook_id)
        return self._catalog.add_job(
            NewJob(JobKind.DELIVER, webhook.id, TEST, webhook.account_id), self._clock()
        )

    def deliveries(
        self,
        principal: Principal,
        webhook_id: str,
        offset: int,
        take: int,
        after: str | None = None,
    ) -> Page[Job]:
        """What was or will be sent to a webhook, newest first; the argument of each is the
        event's ``seq``, or ``TEST``. Raises WebhookNotFound."""
        policy.require(principal, Scope.READ)
        webhook = self._owned(principal, webhook_id)
        return self._catalog.jobs(JobKind.DELIVER, webhook.id, offset, take, after)

    # for whoever delivers

    def secret_of(self, webhook: Webhook) -> str:
        """What its messages are signed with. Raises NotReady when the server's key is another
        one than when it was made."""
        nonce, wrapped = webhook.wrapped_secret[:_NONCE], webhook.wrapped_secret[_NONCE:]
        try:
            return _written(self._cipher.decrypt(nonce, wrapped, webhook.id.encode()))
        except InvalidTag:
            raise NotReady(
                "The webhook's secret cannot be read: the server's key is another one. Restore "
                "server.key from a backup, or remove the webhook and add it again."
            ) from None

    def _wrap(self, webhook_id: str, secret: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, webhook_id.encode())

    def _owned(self, principal: Principal, webhook_id: str) -> Webhook:
        webhook = self._catalog.webhook(webhook_id, principal.account.id)
        if webhook is None:
            raise _not_found()
        return webhook


def described(event: Event) -> dict[str, Any]:
    """An event as everybody is told of it: by the API, in a stream, by webhooks."""
    return {
        "seq": event.seq,
        "type": str(event.type),
        "timestamp": event.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "data": event.data,
    }


def _written(secret: bytes) -> str:
    """A signing secret as Standard Webhooks writes it."""
    return f"whsec_{b64encode(secret).decode()}"


def _wrong_url(why: str) -> ValidationFailed:
    return ValidationFailed(f"url {why}.", errors={"url": [why]})


def _not_found() -> WebhookNotFound:
    return WebhookNotFound("There is no such webhook of yours.")
