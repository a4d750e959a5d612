"""What ``webhook`` and ``events`` do."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from upwell.cli.exits import ExitCode
from upwell.cli.run import BRIEF, connect, finish
from upwell.cli.show import Output, plain
from upwell.client import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from upwell.client import Client, Delivery, Event, Given, Webhook

PAGE = 100
TEST_SECONDS = 30.0  # for a test message: the server takes up to 15 s for each that it sends
PATIENCE = 900.0  # seconds that a stream is tried to be made again


def add_webhook(given: Given, url: str, events: Sequence[str], *, json: bool) -> None:
    """Add a webhook, and show its secret."""

    def action(client: Client, output: Output) -> ExitCode:
        webhook = client.webhooks.add(url, events)
        output.result(webhook.raw, f"{webhook.id}\t{webhook.secret}")
        output.note("The secret verifies what is sent (Standard Webhooks); keep it, it is gone.")
        return ExitCode.DONE

    _run(given, action, json=json)


def list_webhooks(given: Given, *, json: bool) -> None:
    """Show the caller's webhooks."""

    def action(client: Client, output: Output) -> ExitCode:
        found = client.webhooks.list()
        if json:
            for webhook in found:
                output.result(webhook.raw, "")
        else:
            output.table(("ID", "STATE", "EVENTS", "URL"), map(_webhook_row, found))
        return ExitCode.DONE

    _run(given, action, json=json)


def remove_webhook(given: Given, webhook_id: str, *, json: bool) -> None:
    """Remove a webhook."""

    def action(client: Client, output: Output) -> ExitCode:
        client.webhooks.remove(webhook_id)
        output.result({"id": webhook_id, "status": "removed"}, f"removed {webhook_id}")
        return ExitCode.DONE

    _run(given, action, json=json)


def enable_webhook(given: Given, webhook_id: str, *, json: bool) -> None:
    """Enable a webhook."""

    def action(client: Client, output: Output) -> ExitCode:
        webhook = client.webhooks.enable(webhook_id)
        output.result(webhook.raw, f"enabled {webhook_id}")
        return ExitCode.DONE

    _run(given, action, json=json)


def try_webhook(given: Given, webhook_id: str, *, json: bool) -> None:
    """Send a test message, and wait for what becomes of it."""

    def action(client: Client, output: Output) -> ExitCode:
        delivery = _ended(client, webhook_id, client.webhooks.test(webhook_id))
        why = f": {delivery.error}" if delivery.error else ""
        output.result(delivery.raw, f"{delivery.status}{why}")
        return ExitCode.DONE if delivery.status == "delivered" else ExitCode.REFUSED

    _run(given, action, json=json)


def list_deliveries(given: Given, webhook_id: str, *, offset: int, limit: int, json: bool) -> None:
    """Show what was sent to a webhook."""

    def action(client: Client, output: Output) -> ExitCode:
        every = client.webhooks.all_deliveries(webhook_id)
        found = list(islice(every, offset, offset + limit))
        if json:
            for delivery in found:
                output.result(delivery.raw, "")
        else:
            columns = ("ID", "EVENT", "STATUS", "TRIES", "WHEN", "ERROR")
            output.table(columns, map(_delivery_row, found))
        return ExitCode.DONE

    _run(given, action, json=json)


def follow(given: Given, after: int | None, *, json: bool) -> None:
    """Show events until Ctrl-C, which is the one way that this ends."""

    def action(client: Client, output: Output) -> ExitCode:
        try:
            for event in client.events(after):
                output.result(event.raw, _event_line(event))
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        raise AssertionError  # unreachable: a stream has no end

    _run(given, action, json=json, patience=PATIENCE)


def _run(
    given: Given,
    action: Callable[[Client, Output], ExitCode],
    *,
    json: bool,
    patience: float = BRIEF,
) -> None:
    output = Output(json=json)

    def run() -> ExitCode:
        with connect(load_settings(given), patience) as client:
            return action(client, output)

    finish(output, run)


def _ended(client: Client, webhook_id: str, delivery: Delivery) -> Delivery:
    """A delivery when it has ended, or as it is when that takes too long."""
    until = time.monotonic() + TEST_SECONDS
    while delivery.status in ("pending", "retrying") and time.monotonic() < until:
        time.sleep(0.25)
        latest = client.webhooks.deliveries(webhook_id, take=PAGE)
        delivery = next((each for each in latest if each.id == delivery.id), delivery)
    return delivery


def _webhook_row(webhook: Webhook) -> tuple[str, ...]:
    state = "disabled" if webhook.disabled_at else "enabled"
    return (webhook.id, state, ",".join(webhook.events) or "all", webhook.url)


def _delivery_row(delivery: Delivery) -> tuple[str, ...]:
    event = "test" if delivery.event is None else str(delivery.event)
    tries, when = str(delivery.attempts), delivery.created_at
    return (str(delivery.id), event, delivery.status, tries, when, delivery.error or "")


def _event_line(event: Event) -> str:
    data: dict[str, Any] = event.data
    subject = data.get("id") or data.get("task_id") or ""
    name = data.get("name") or data.get("file_name") or ""
    return "\t".join(map(plain, (event.seq, event.timestamp, event.type, subject, name)))
