"""Events of the caller's uploads and files, and the webhooks that are told of them."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from upwell import errors as e
from upwell.core.events import described
from upwell.http.errors import CHANGES, JSON_BODY, responses
from upwell.http.event_schemas import (
    AddWebhook,
    DeliveryOut,
    EventOut,
    NewWebhookOut,
    WebhookOut,
)
from upwell.http.guard import call, in_thread, secret_of
from upwell.http.server import stopping
from upwell.http.upload_routes import TOTAL, Offset, Take

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from upwell.core.verbs import Verbs
    from upwell.model import Event, Principal

WebhookId = Annotated[str, Path(description="The webhook's `id`.")]

_PAGE = 100
_LARGEST = 10**18  # of a `seq`; written the same as an integer and as a float
_LOOK = 0.5  # seconds between looks for new events
_KEEP_ALIVE = 15.0  # seconds after which a silent stream sends a comment
_RECHECK = 30.0  # seconds between looks whether the credential still counts
_RECONNECT = 2000  # milliseconds that a browser waits before it comes back


def make_routes(verbs: Verbs) -> APIRouter:
    """The routes, without their prefix ``/api``."""
    router = APIRouter(tags=["events"])
    _add_events(router, verbs)
    _add_webhooks(router, verbs)
    _add_changes(router, verbs)
    _add_deliveries(router, verbs)
    return router


def _add_events(router: APIRouter, verbs: Verbs) -> None:
    described_answers = responses(e.ValidationFailed)
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
        events = _stream(verbs, request, min(known, newest))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)


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
    listed[200] = {"description": "Newest first.", "headers": TOTAL}

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
    ) -> list[DeliveryOut]:
        page = await call(request, lambda p: verbs.events.deliveries(p, webhook_id, offset, take))
        response.headers["X-Total"] = str(page.total)
        return [DeliveryOut.of(job) for job in page.items]


async def _stream(verbs: Verbs, request: Request, after: int) -> AsyncIterator[str]:
    """Server-sent events from ``after`` on, until the server stops, the client goes, or its
    credential counts no more."""
    now = asyncio.get_running_loop().time
    spoke = checked = now()
    yield f"id: {after}\nretry: {_RECONNECT}\n\n"
    while not stopping.is_set():
        try:
            if now() - checked >= _RECHECK:
                await _authenticate(verbs, request)
                checked = now()
            found = await call(request, partial(_since, verbs, after))
        except e.UpwellError as error:
            yield _frame("error", {"code": error.code, "message": error.message})
            return
        for event in found:
            after = event.seq
            yield f"id: {after}\n{_frame(event.type, described(event))}"
        if found:
            spoke = now()
        elif now() - spoke >= _KEEP_ALIVE:
            spoke = now()
            yield ": still here\n\n"
        if len(found) < _PAGE:
            await asyncio.sleep(_LOOK)


def _since(verbs: Verbs, after: int, principal: Principal) -> list[Event]:
    return verbs.events.since(principal, after, _PAGE)


async def _authenticate(verbs: Verbs, request: Request) -> None:
    """Look again whose request this is. Raises TokenInvalid."""
    secret = secret_of(request.method, request.headers)
    principal = await in_thread(lambda: verbs.accounts.authenticate(secret))
    request.scope["state"]["principal"] = principal


def _frame(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
