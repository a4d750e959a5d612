"""``webhook`` and ``events`` as a person sees them: arguments, options, help."""
# ruff: noqa: PLC0415 - imports happen when a command runs: `upwell --help` stays fast

from __future__ import annotations

from typing import Annotated

import typer

from upwell.cli.commands import (  # noqa: TC001 - Typer reads the annotations
    Config,
    Json,
    Limit,
    Offset,
    Server,
    TokenFile,
)
from upwell.cli.exits import HELP

webhook_app = typer.Typer(
    no_args_is_help=True,
    epilog=HELP,
    help="Webhooks: where events of your uploads and files are posted to.",
)
WebhookId = Annotated[
    str, typer.Argument(metavar="WEBHOOK_ID", help="See `upwell webhook list`.", show_default=False)
]


@webhook_app.command("add", epilog=HELP)
def add_webhook(
    url: Annotated[str, typer.Argument(help="http:// or https://.", show_default=False)],
    event: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="Only this type (again for more); else all of them."),
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Have events posted to a URL. Prints the webhook's id, and its secret: this once."""
    from upwell.cli import events
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    events.add_webhook(given, url, event or (), json=json)


@webhook_app.command("list", epilog=HELP)
def list_webhooks(
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List your webhooks, oldest first."""
    from upwell.cli import events
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    events.list_webhooks(given, json=json)


@webhook_app.command("remove", epilog=HELP)
def remove_webhook(
    webhook: WebhookId,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Remove a webhook; nothing more is sent to it."""
    from upwell.cli import events
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    events.remove_webhook(given, webhook, json=json)


@webhook_app.command("enable", epilog=HELP)
def enable_webhook(
    webhook: WebhookId,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Enable a webhook again that was disabled because nothing got through."""
    from upwell.cli import events
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    events.enable_webhook(given, webhook, json=json)


@webhook_app.command("test", epilog=HELP)
def try_webhook(
    webhook: WebhookId,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Have a test message sent, and tell what became of it."""
    from upwell.cli import events
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    events.try_webhook(given, webhook, json=json)


@webhook_app.command("deliveries", epilog=HELP)
def list_deliveries(
    webhook: WebhookId,
    limit: Limit = 50,
    offset: Offset = 0,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List what was sent to a webhook, or will be, newest first."""
    from upwell.cli import events
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    events.list_deliveries(given, webhook, offset=offset, limit=limit, json=json)


def events(
    after: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Begin after event N; 0 shows all that are kept."),
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show what happens to your uploads and files, as it happens, until Ctrl-C."""
    from upwell.cli import events as commands
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    commands.follow(given, after, json=json)
