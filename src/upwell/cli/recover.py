"""``upwell recover``: make a copied or damaged data folder sound again."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upwell.cli.say import say, say_json
from upwell.cli.server import Config, Data, _fail, _settings
from upwell.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def recover(
    data: Data = None,
    drop_damaged: Annotated[
        bool, typer.Option("--drop-damaged", help="Delete the files whose bytes are damaged.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
    config: Config = None,
) -> None:
    """Check a data folder against its bytes, and mend what can be mended.

    For a copy of a running server's folder, or after a damaged disk; no server may run on it.
    Reads every byte. Chunks that are damaged are forgotten: their clients send them again.
    Files that are damaged are listed, and deleted only with --drop-damaged.

    Exit codes: 0 all is well now, 1 damaged files remain or nothing could be done.
    """
    settings = _settings(data=data, config=config)
    from upwell import app  # noqa: PLC0415
    from upwell.errors import Unavailable  # noqa: PLC0415

    try:
        with app.recovery(settings) as work, _bar() as (begin, advance):
            found = work.run(drop=drop_damaged, begin=begin, advance=advance)
    except Unavailable as error:
        _fail(error.message, code=1)
    if as_json:
        say_json(_record(found, work.moved_to), default=sorted)
    else:
        _tell(found, work.moved_to)
    raise typer.Exit(0 if found.well else 1)


@contextmanager
def _bar() -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """A progress bar by bytes, on a terminal only."""
    from rich.console import Console  # noqa: PLC0415 - slow to load
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = ("reading", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=None)
        yield (
            lambda total: progress.update(task, total=total),
            lambda count: progress.advance(task, count),
        )


def _record(found: Any, moved_to: Path | None) -> dict[str, Any]:
    return {
        "well": found.well,
        "damaged_catalog": None if moved_to is None else str(moved_to),
        **asdict(found),
    }


def _tell(found: Any, moved_to: Path | None) -> None:
    if moved_to:
        say("The catalog was damaged: its snapshot is in its place, newer files were")
        say(f"taken from the journal. The damaged one lies in {moved_to}.")
    say(f"Files: {found.blobs} contents read, {found.files_restored} files brought back.")
    closed = found.uploads_closed
    say(f"Uploads in progress: {found.uploads}, closed for want of bytes: {closed}.")
    say(f"Chunks: {found.chunks} read, {found.chunks_forgotten} to be sent again.")
    if found.chunks_unreadable:
        say(
            f"{found.chunks_unreadable} chunks could not be read and were left as they are. "
            "Check the disk, then run upwell recover again."
        )
    if found.figures_mended:
        say(f"Figures of what accounts hold: {found.figures_mended} counted again.")
    for title, files in (("Damaged", found.damaged), ("Deleted", found.dropped)):
        for file in files:
            words = (title, file.id, file.name, file.account, file.problem)
            say("\t".join(printable(word) for word in words))
    for pool in sorted(found.pools_unknown):
        say(f"Not checked: there is no pool {pool}; make it again: upwell pool create --id")
    sys.stdout.flush()
    if found.well:
        say("All is well.")
    elif found.damaged:
        say("Damaged files remain: restore their bytes, or delete them: --drop-damaged")
