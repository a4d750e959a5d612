"""Events of the caller's uploads and files, and the webhooks that are told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from upwell import errors as e
from upwell.core.events import described
from upwell.http import listings
from upwell.http.errors import CHANGES, JSON_BODY, responses
from upwell.http.event_schemas import (
    AddWebhook,
    DeliveryOut,
    EventOut,
    NewWebhookOut,
    WebhookOut,
)
from upwell.http.guard import call
from upwell.http.listings import After, Offset, Take
from upwell.http.live import frame

if TYPE_CHECKING:
    from upwell.core.ports import Page
    from upwell.core.verbs import Verbs
    from upwell.http.live import LiveStreams
    from upwell.model import Job, Principal

WebhookId = Annotated[str, Path(description="The webhook's `id`.")]

_PAGE = 100
_LARGEST = 10**18  # of a `seq`; written the same as an integer and as a float
_RECONNECT = 2000  # milliseconds that a browser waits before it comes back


def make_routes(verbs: Verbs, streams: LiveStreams) -> APIRouter:
    """The routes, without their prefix ``/api``."""
    router = APIRouter(tags=["events"])
    _add_events(router, verbs, streams)
    _add_webhooks(router, verbs)
    _add_changes(router, verbs)
    _add_deliveries(router, verbs)
    return router


def _add_events(router: APIRouter, verbs: Verbs, streams: LiveStreams) -> None:
    described_answers = responses(e.ValidationFailed, e.TooManyStreams)
    described_answers[200] = {
        "description": "A page of events, oldest first; as `text/event-stream` when asked for, "
        "each as it happens.",
        "model": list[EventOut],
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }

    @router.get(
        "/events",
        summary="Events, in pages or live",
        responses=described_answers,
        response_model=list[EventOut],
    )
    async def list_events(
        request: Request,
        after: Annotated[
            int | None,
            Query(
                ge=0,
                le=_LARGEST,
                description="The `seq` of the last event known; without it, a page begins with "
                "the oldest event that is kept, a stream with the next one.",
            ),
        ] = None,
        take: Annotated[int, Query(ge=1, le=_PAGE, description="Events in a page.")] = _PAGE,
        last_event_id: Annotated[
            int | None,
            Header(ge=0, le=_LARGEST, include_in_schema=False),
        ] = None,
        accept: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> Any:
        """A stream that breaks is gone on with by the header `Last-Event-ID`, which counts
        instead of `after`, as browsers do."""
        if "text/event-stream" not in accept:
            found = await call(request, lambda p: verbs.events.since(p, after or 0, take))
            return [described(event) for event in found]
        newest = await call(request, verbs.events.newest)
        known = next((each for each in (last_event_id, after) if each is not None), newest)
        # A number that was never given is of a catalog that was lost: better begin now than never.
        begin = min(known, newest)
        opening = f"id: {begin}\nretry: {_RECONNECT}\n\n"
        return streams.answer(request, _News(verbs, begin), opening)


def _add_webhooks(router: APIRouter, verbs: Verbs) -> None:
    @router.post(
        "/webhooks",
        summary="Add a webhook",
        status_code=201,
        responses=responses(*JSON_BODY, e.QuotaExceeded),
    )
    async def add_webhook(request: Request, body: AddWebhook) -> NewWebhookOut:
        """Each event from now on is posted to it, signed by Standard Webhooks."""
        webhook, secret = await call(
            request, lambda p: verbs.events.add_webhook(p, body.url, body.events or ())
        )
        return NewWebhookOut.of(webhook, secret=secret)

    @router.get("/webhooks", summary="The caller's webhooks", responses=responses())
    async def list_webhooks(request: Request) -> list[WebhookOut]:
        """Oldest first."""
        return [WebhookOut.of(each) for each in await call(request, verbs.events.webhooks)]

    @router.get(
        "/webhooks/{webhook_id}", summary="A webhook", responses=responses(e.WebhookNotFound)
    )
    async def get_webhook(request: Request, webhook_id: WebhookId) -> WebhookOut:
        return WebhookOut.of(await call(request, lambda p: verbs.events.webhook(p, webhook_id)))


def _add_changes(router: APIRouter, verbs: Verbs) -> None:
    changed = responses(*CHANGES, e.WebhookNotFound)

    @router.delete(
        "/webhooks/{webhook_id}", summary="Remove a webhook", status_code=204, responses=changed
    )
    async def remove_webhook(request: Request, webhook_id: WebhookId) -> Response:
        """What was not delivered to it yet is not sent any more."""
        await call(request, lambda p: verbs.events.remove_webhook(p, webhook_id))
        return Response(status_code=204)

    @router.post(
        "/webhooks/{webhook_id}/enable", summary="Enable a webhook again", responses=changed
    )
    async def enable_webhook(request: Request, webhook_id: WebhookId) -> WebhookOut:
        """It is sent events from now on; those in between are in `/api/events`."""
        webhook = await call(request, lambda p: verbs.events.enable_webhook(p, webhook_id))
        return WebhookOut.of(webhook)

    @router.post(
        "/webhooks/{webhook_id}/test",
        summary="Send a test message",
        status_code=202,
        responses=changed,
    )
    async def test_webhook(request: Request, webhook_id: WebhookId) -> DeliveryOut:
        """Tried once, also when the webhook is disabled; see its deliveries."""
        job = await call(request, lambda p: verbs.events.test_webhook(p, webhook_id))
        return DeliveryOut.of(job)


def _add_deliveries(router: APIRouter, verbs: Verbs) -> None:
    listed = responses(e.ValidationFailed, e.WebhookNotFound)
    listed[200] = {"description": "Newest first.", "headers": listings.HEADERS}

    @router.get(
        "/webhooks/{webhook_id}/deliveries",
        summary="What was sent to a webhook, or will be",
        responses=listed,
    )
    async def list_deliveries(
        request: Request,
        response: Response,
        webhook_id: WebhookId,
        offset: Offset = 0,
        take: Take = 20,
        after: After = None,
    ) -> list[DeliveryOut]:
        def deliveries(principal: Principal) -> Page[Job]:
            return verbs.events.deliveries(principal, webhook_id, offset, take, after)

        page = await call(request, deliveries)
        listings.describe(response, page)
        return [DeliveryOut.of(job) for job in page.items]


class _News:
    """The caller's events from ``after`` on, for a live stream."""

    over = False

    def __init__(self, verbs: Verbs, after: int) -> None:
        self._verbs = verbs
        self._after = after
        self.behind = False

    def look(self, principal: Principal) -> list[str]:
        found = self._verbs.events.since(principal, self._after, _PAGE)
        self.behind = len(found) == _PAGE
        self._after = found[-1].seq if found else self._after
        return [f"id: {each.seq}\n{frame(each.type, described(each))}" for each in found]
