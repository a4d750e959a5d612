"""``upwell verify``: re-read what is stored, beside a server that may run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from upwell.cli.recover import _bar
from upwell.cli.say import say, say_json
from upwell.cli.server import Config, Data, _fail, _settings
from upwell.printable import printable


def verify(
    data: Data = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
    config: Config = None,
) -> None:
    """Re-read every stored byte and compare it with its digest; the server may go on.

    With --repair, a damaged file gets its bytes back from another one of the same content, a
    damaged chunk of an upload in progress is forgotten (its client sends it again), and wrong
    usage figures are counted anew. What cannot be mended is listed.

    Exit codes: 0 all is well, 1 damage remains or nothing could be done.
    """
    settings = _settings(data=data, config=config)
    from upwell import app  # noqa: PLC0415
    from upwell.errors import Unavailable  # noqa: PLC0415

    if not settings.data.is_dir():
        _fail(f"There is no data folder {settings.data}.", code=1)
    try:
        with _bar() as (begin, advance), app.verification(settings, advance) as work:
            begin(work.size())
            found = work.run(repair=repair)
    except Unavailable as error:
        _fail(error.message, code=1)
    if as_json:
        say_json({"well": found.well, **asdict(found)})
    else:
        _tell(found, repair=repair)
    raise typer.Exit(0 if found.well else 1)


def _tell(found: Any, *, repair: bool) -> None:
    say(f"{found.blobs} contents and {found.chunks} chunks of open uploads were read.")
    for damage in found.damaged:
        say(_sentence(damage))
    if found.chunks_damaged:
        done = "They are forgotten: their clients send them again." if repair else ""
        say(f"{found.chunks_damaged} chunks of open uploads are damaged. {done}".rstrip())
    if found.chunks_unreadable:
        say(
            f"{found.chunks_unreadable} chunks of open uploads could not be read and were "
            "left as they are. Check the disk, then run upwell verify again."
        )
    if found.figures_mended:
        say(f"{found.figures_mended} figures of what accounts hold were wrong.")
    if found.well:
        say("All is well.")
    elif repair:
        say("Damage remains: restore those bytes from a backup, or delete the files.")
    else:
        say("What can be mended, this mends: upwell verify --repair")


def _sentence(damage: Any) -> str:
    end = "it has its bytes back" if damage.repaired else "its bytes are damaged"
    whose = f"{damage.name} of {damage.account} in the pool {damage.pool}"
    return printable(f"{damage.file_id}: {whose}: {end} ({damage.problem}).")
