"""The command line: ``upwell``."""

from __future__ import annotations

from typing import Annotated

import typer

from upwell.cli import commands, pool, recover, server, sharing, verify, webhook
from upwell.cli.exits import HELP
from upwell.cli.say import Commands, say

app = typer.Typer(
    name="upwell",
    cls=Commands,
    help="Upload files of any size over any network: resumed, verified, durable.",
    epilog=f"{HELP}. Settings: flags, then UPWELL_… variables, then the settings file.",
    no_args_is_help=True,
    # A traceback must never show a token among the local variables.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - keeps `upwell --help` fast

        say(f"upwell {version('upwell')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


app.command(epilog=HELP, rich_help_panel="Files")(commands.put)
app.command(epilog=HELP, rich_help_panel="Files")(commands.get)
app.command(epilog=HELP, rich_help_panel="Files")(commands.ls)
app.command(epilog=HELP, rich_help_panel="Files")(commands.rm)
app.command(epilog=HELP, rich_help_panel="Files")(commands.mv)
app.command(epilog=HELP, rich_help_panel="Files")(commands.quota)
app.command(epilog=HELP, rich_help_panel="Files")(commands.tasks)
app.command(epilog=HELP, rich_help_panel="Files")(commands.cancel)
app.command(epilog=HELP, rich_help_panel="Files")(sharing.recycle)
app.command(epilog=HELP, rich_help_panel="Files")(sharing.restore)
app.command(epilog=HELP, rich_help_panel="Sharing")(sharing.share)
app.command(epilog=HELP, rich_help_panel="Sharing")(sharing.links)
app.command(epilog=HELP, rich_help_panel="Sharing")(sharing.unshare)
app.add_typer(sharing.bundle_app, name="bundle", rich_help_panel="Sharing")
app.command(epilog=HELP, rich_help_panel="Files")(webhook.events)
app.add_typer(webhook.webhook_app, name="webhook", rich_help_panel="Files")
app.command(rich_help_panel="Server")(server.serve)
app.command(rich_help_panel="Server")(server.login)
app.command(rich_help_panel="Server")(verify.verify)
app.command(rich_help_panel="Server")(recover.recover)
app.add_typer(server.account_app, name="account", rich_help_panel="Server")
app.add_typer(pool.pool_app, name="pool", rich_help_panel="Server")
app.add_typer(server.token_app, name="token", rich_help_panel="Server")


def main() -> None:
    """Run the command line; the exit codes are those of :class:`upwell.cli.exits.ExitCode`."""
    app()
