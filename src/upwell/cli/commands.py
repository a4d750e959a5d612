"""The client's commands as a person sees them: arguments, options, help.

What they do is in the modules that they import when they run: `upwell --help` stays fast.
"""
# ruff: noqa: PLC0415 - imports happen when a command runs, see above

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CONNECTION = "Connection"
OUTPUT = "Output"

Server = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The server's address. (env: UPWELL_SERVER; default: http://127.0.0.1:8420)",
        rich_help_panel=CONNECTION,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Read the token from this file; the token itself can be in UPWELL_TOKEN.",
        rich_help_panel=CONNECTION,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The settings file. (env: UPWELL_CONFIG; default: ~/.config/upwell/upwell.toml)",
        rich_help_panel=CONNECTION,
    ),
]
Patience = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        help="How long to keep trying while nothing gets through; 0 never retries.",
        rich_help_panel=CONNECTION,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One JSON object per line on stdout.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Only print what went wrong.", rich_help_panel=OUTPUT),
]
Limit = Annotated[int, typer.Option(min=1, help="Show at most so many.")]
Offset = Annotated[int, typer.Option(min=0, help="Skip so many.")]
Every = Annotated[bool, typer.Option("--all", help="List every one, whatever the limit.")]


Files = Annotated[
    list[Path], typer.Argument(metavar="FILE…", help="What to upload.", show_default=False)
]
FileIds = Annotated[
    list[str], typer.Argument(metavar="FILE_ID…", help="Which files.", show_default=False)
]
TaskIds = Annotated[
    list[str], typer.Argument(metavar="TASK_ID…", help="Which uploads.", show_default=False)
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Upload the files in folders too.")
]
Name = Annotated[str | None, typer.Option(help="The file's name on the server (one file only).")]
Pool = Annotated[str | None, typer.Option(metavar="ID", help="The pool to store it in.")]
Bundle = Annotated[str | None, typer.Option(metavar="ID", help="A bundle to put it in.")]
Expires = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="Gone after 7d, 12h… or at 2030-01-31T12:00:00Z."),
]
ContentType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="The media type (default: by the name).")
]
Encrypt = Annotated[
    bool,
    typer.Option(
        "--encrypt",
        help="Store it encrypted. Asks for the password, or reads it from standard input. "
        "(env: UPWELL_ENCRYPT_PASSWORD)",
    ),
]
CheckFirst = Annotated[
    bool,
    typer.Option(
        "--check-first",
        help="Read the file twice, so that what the account already has is not sent.",
    ),
]
ChunkSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="5MiB, 8M…; the server has the last word. (env: UPWELL_CHUNK_SIZE)",
        rich_help_panel=CONNECTION,
    ),
]
Connections = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="At most so many requests at once. (env: UPWELL_CONNECTIONS; default: 8)",
        rich_help_panel=CONNECTION,
    ),
]
Target = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="PATH", help="A file, a folder, or - for standard output."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there.")]
Everything = Annotated[
    bool, typer.Option("--all", help="Also those that are completed, cancelled or expired.")
]


def put(  # noqa: PLR0913 - a parameter is an option
    files: Files,
    recursive: Recursive = False,
    name: Name = None,
    pool: Pool = None,
    bundle: Bundle = None,
    expires: Expires = None,
    content_type: ContentType = None,
    encrypt: Encrypt = False,
    check_first: CheckFirst = False,
    chunk_size: ChunkSize = None,
    connections: Connections = None,
    patience: Patience = "15m",
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Upload files. Interrupted? Run the same command again: it continues."""
    from upwell.cli import transfer
    from upwell.client import Given

    given = Given(
        server=server,
        token_file=token_file,
        config=config,
        connections=connections,
        chunk_size=chunk_size,
    )
    wanted = transfer.PutRequest(
        paths=files,
        recursive=recursive,
        name=name,
        pool=pool,
        bundle=bundle,
        expires=expires,
        content_type=content_type,
        encrypt=encrypt,
        check_first=check_first,
    )
    transfer.put(wanted, transfer.Manner(given, patience, quiet=quiet, json=json))


def get(  # noqa: PLR0913 - a parameter is an option
    files: FileIds,
    output: Target = ".",
    force: Force = False,
    patience: Patience = "15m",
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Download files and verify them. Interrupted? The same command continues.

    The password of encrypted ones is UPWELL_ENCRYPT_PASSWORD, or asked for.
    """
    from upwell.cli import transfer
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    manner = transfer.Manner(given, patience, quiet=quiet, json=json)
    transfer.get(files, output, force=force, manner=manner)


def ls(
    limit: Limit = 50,
    offset: Offset = 0,
    every: Every = False,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List your files, newest first."""
    from upwell.cli import manage
    from upwell.cli.manage import Span
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    manage.list_files(given, Span(offset, limit, every), json=json)


def rm(
    files: FileIds,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Delete files."""
    from upwell.cli import manage
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    manage.delete_files(given, files, json=json)


def quota(
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show what you store, by pool, and how much you may."""
    from upwell.cli import places
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    places.show_quota(given, json=json)


def mv(  # noqa: PLR0913 - a parameter is an option
    files: FileIds,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The new name (one file only).")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(metavar="POOL", help="The new pool: its name or id.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until they have moved.")
    ] = True,
    patience: Patience = "15m",
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Rename a file, or move files to another pool. They keep their ids and stay readable."""
    from upwell.cli import places
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    wanted = places.Change(name, pool, wait=wait)
    places.change_files(given, files, wanted, patience=patience, json=json)


def tasks(
    everything: Everything = False,
    limit: Limit = 50,
    offset: Offset = 0,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List your unfinished uploads, newest first."""
    from upwell.cli import manage
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    status = None if everything else "in_progress"
    manage.list_tasks(given, status, offset=offset, limit=limit, json=json)


def cancel(
    tasks: TaskIds,
    server: Server = None,
    token_file: TokenFile = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Cancel unfinished uploads and free their space."""
    from upwell.cli import manage
    from upwell.client import Given

    given = Given(server=server, token_file=token_file, config=config)
    manage.cancel_tasks(given, tasks, json=json)
