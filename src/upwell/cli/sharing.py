"""``bundle``, ``share`` and the recycle bin as a person sees them: arguments, options, help."""
# ruff: noqa: PLC0415 - imports happen when a command runs: `upwell --help` stays fast

from __future__ import annotations

from typing import Annotated

import typer

from upwell.cli.commands import (  # noqa: TC001 - Typer reads the annotations
    Config,
    Every,
    FileIds,
    Json,
    Limit,
    Offset,
    Server,
    TokenFile,
)
from upwell.cli.exits import HELP

bundle_app = typer.Typer(
    no_args_is_help=True,
    epilog=HELP,
    help="Bundles: files at one public address, perhaps behind a passcode.",
)
BundleId = Annotated[
    str, typer.Argument(metavar="BUNDLE_ID", help="See `upwell bundle list`.", show_default=False)
]
BundleIds = Annotated[
    list[str],
    typer.Argument(metavar="BUNDLE_ID…", help="See `upwell bundle list`.", show_default=False),
]
FileId = Annotated[
    str, typer.Argument(metavar="FILE_ID", help="See `upwell ls`.", show_default=False)
]
LinkIds = Annotated[
    list[str],
    typer.Argument(metavar="LINK_ID…", help="See `upwell links FILE_ID`.", show_default=False),
]
Slug = Annotated[
    str | None, typer.Option(help="In its address: lower-case letters, digits, hyphens.")
]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="Shown on its page.")]
Passcode = Annotated[
    bool,
    typer.Option("--passcode", help="Ask for a passcode, or read it from standard input."),
]


@bundle_app.command("create", epilog=HELP)
def create_bundle(  # noqa: PLR0913 - a parameter is an option
    name: Annotated[str, typer.Argument(help="Shown on its page.", show_default=False)],
    slug: Slug = None,
    description: Description = None,
    passcode: Passcode = False,
    expires: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Gone with its files after 7d, or at an instant."),
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make a bundle. Prints its id and its address."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    wanted = shares.Wanted(name, slug, description, expires, passcode or None)
    shares.create_bundle(given, wanted, json=json)


@bundle_app.command("list", epilog=HELP)
def list_bundles(
    limit: Limit = 50,
    offset: Offset = 0,
    every: Every = False,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List your bundles, newest first."""
    from upwell.cli import shares
    from upwell.cli.manage import Span
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.list_bundles(given, Span(offset, limit, every), json=json)


@bundle_app.command("show", epilog=HELP)
def show_bundle(
    bundle: BundleId,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show a bundle and the files in it."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.show_bundle(given, bundle, json=json)


@bundle_app.command("set", epilog=HELP)
def change_bundle(  # noqa: PLR0913 - a parameter is an option
    bundle: BundleId,
    name: Annotated[str | None, typer.Option(help="Shown on its page.")] = None,
    slug: Slug = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT|none", help="Shown on its page.")
    ] = None,
    passcode: Annotated[
        bool | None,
        typer.Option("--passcode/--no-passcode", help="Ask for a new one; or take it away."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN|never", help="When it and its files are gone.")
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Change a bundle."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    wanted = shares.Wanted(name, slug, description, expires, passcode)
    shares.change_bundle(given, bundle, wanted, json=json)


@bundle_app.command("add", epilog=HELP)
def add_files(
    bundle: BundleId,
    files: FileIds,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Put files into a bundle. `upwell put --bundle` uploads into one."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.add_files(given, bundle, files, json=json)


@bundle_app.command("remove", epilog=HELP)
def remove_files(
    files: FileIds,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take files out of the bundle they are in. They stay yours."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.remove_files(given, files, json=json)


@bundle_app.command("delete", epilog=HELP)
def delete_bundles(
    bundles: BundleIds,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Delete bundles with their files, which go to the recycle bin where there is one."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.delete_bundles(given, bundles, json=json)


def share(
    file: FileId,
    expires: Annotated[
        str, typer.Option(metavar="WHEN", help="Until when: 7d, 12h, or an instant.")
    ] = "7d",
    downloads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only so many times.")
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make a link to a file, and print it. Whoever has it may read the file."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.share(given, file, expires, downloads, json=json)


def links(
    file: FileId,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List the live links to a file, newest first."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.list_links(given, file, json=json)


def unshare(
    links: LinkIds,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Revoke links: they are worth nothing from now on."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.unshare(given, links, json=json)


def recycle(
    limit: Limit = 50,
    offset: Offset = 0,
    every: Every = False,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List what is in your recycle bin, newest first."""
    from upwell.cli import shares
    from upwell.cli.manage import Span
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.list_recycled(given, Span(offset, limit, every), json=json)


def restore(
    files: FileIds,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take files out of the recycle bin."""
    from upwell.cli import shares
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    shares.restore(given, files, json=json)
