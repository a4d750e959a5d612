"""Events and webhooks as JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, Field, WithJsonSchema

from upwell.core.events import MAX_URL, MAX_WEBHOOKS, TEST, URL_PATTERN
from upwell.http.schemas import Instant, RequestBody
from upwell.model import EventType, Job, Webhook

if TYPE_CHECKING:
    from pydantic.config import JsonDict

_URL_SCHEMA: JsonDict = {"type": "string", "maxLength": MAX_URL, "pattern": URL_PATTERN}
_EVENT_EXAMPLE: dict[str, Any] = {
    "seq": 812,
    "type": "file.created",
    "timestamp": "2030-01-31T12:00:00.123456Z",
    "data": {"id": "0d8f3a0f7c114a519a3e0d8f3a0f7c11", "name": "holiday.mp4", "size": 12000000},
}


class EventOut(BaseModel):
    """What happened to an upload or a file."""

    model_config = {"json_schema_extra": {"examples": [_EVENT_EXAMPLE]}}

    seq: int = Field(description="Grows with every event.")
    type: EventType
    timestamp: Instant = Field(description="When it happened.")
    data: dict[str, Any] = Field(description="The upload or the file, as it was then.")


class AddWebhook(RequestBody):
    """Where events are to be posted to."""

    url: Annotated[
        str,
        WithJsonSchema(_URL_SCHEMA),
        Field(
            description="http:// or https://, without user name, password and fragment; the host "
            f"may be an IPv6 address too. An account has at most {MAX_WEBHOOKS} webhooks."
        ),
    ]
    events: Annotated[list[EventType], Field(max_length=100)] | None = Field(
        None, description="Only these; none for all of them."
    )


class WebhookOut(BaseModel):
    id: str
    url: str
    events: list[EventType] = Field(description="None for all of them.")
    created_at: Instant
    disabled_at: Instant | None = Field(description="Since when nothing is sent to it.")

    @classmethod
    def of(cls, webhook: Webhook, **more: Any) -> Self:
        return cls(
            id=webhook.id,
            url=webhook.url,
            events=[EventType(each) for each in webhook.events],
            created_at=webhook.created_at,
            disabled_at=webhook.disabled_at,
            **more,
        )


class NewWebhookOut(WebhookOut):
    """A webhook that was just added."""

    secret: str = Field(description="Verifies what is sent to it; never told again.", repr=False)


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    RETRYING = "retrying"
    DELIVERED = "delivered"
    FAILED = "failed"


class DeliveryOut(BaseModel):
    """One event on its way to one webhook."""

    id: int
    event: int | None = Field(description="The event's `seq`; null for a test.")
    status: DeliveryStatus
    attempts: int = Field(description="How often it was tried.")
    created_at: Instant
    due_at: Instant | None = Field(description="When it is tried next.")
    finished_at: Instant | None = Field(description="When it was delivered, or given up.")
    error: str | None = Field(description="Why the last attempt failed.")

    @classmethod
    def of(cls, job: Job) -> DeliveryOut:
        return cls(
            id=job.id,
            event=None if job.argument == TEST else int(job.argument),
            status=_status_of(job),
            attempts=job.attempts,
            created_at=job.created_at,
            due_at=None if job.finished_at else job.due_at,
            finished_at=job.finished_at,
            error=job.error,
        )


def _status_of(job: Job) -> DeliveryStatus:
    if job.finished_at is not None:
        return DeliveryStatus.DELIVERED if job.error is None else DeliveryStatus.FAILED
    return DeliveryStatus.PENDING if job.error is None else DeliveryStatus.RETRYING
