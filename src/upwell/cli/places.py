"""``quota`` and ``mv``: where a person's bytes are, and how many may be there."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich.text import Text

from upwell.cli.exits import ExitCode, combined, exit_code_of
from upwell.cli.run import connect, finish
from upwell.cli.show import Output, error_record, plain, size, wait_text
from upwell.client import ClientError, SettingsError, load_settings
from upwell.client.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from upwell.client import Client, Given, Holdings, Move, Pool, Wait

FIRST_LOOK = 0.2  # seconds between looks at a move; each is half as much longer than the last,
LAST_LOOK = 5.0  # up to this
NO_LIMIT = "-"


def show_quota(given: Given, *, json: bool) -> None:
    """Show what the caller holds by pool, and may hold."""
    output = Output(json=json)

    def action() -> ExitCode:
        with connect(load_settings(given)) as client:
            held = client.usage()
        if json:
            output.result(held.raw, "")
            return ExitCode.DONE
        output.table(("POOL", "FILES", "STORED", "RESERVED", "POOL'S QUOTA"), _rows(held))
        output.result({}, _summary(held))
        return ExitCode.DONE

    finish(output, action)


def _rows(held: Holdings) -> Iterator[tuple[str, ...]]:
    for each in held.pools:
        limit = NO_LIMIT if each.quota is None else size(each.quota)
        yield (each.pool.name, str(each.files), size(each.stored), size(each.reserved), limit)


def _summary(held: Holdings) -> str:
    if held.quota is None or held.available is None:
        total = f"{size(held.used)} used, no limit."
    else:
        total = f"{size(held.used)} of {size(held.quota)} used, {size(held.available)} left."
    if not held.open_uploads:
        return total
    return (
        f"{total} Files take {size(held.stored)}; uploads in progress ({held.open_uploads}) have "
        f"reserved {size(held.reserved)}, of which {size(held.unsent)} are not sent yet."
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different: the name of one file, the pool (its name or id) of any number."""

    name: str | None
    pool: str | None
    wait: bool


def change_files(
    given: Given, ids: Sequence[str], wanted: Change, *, patience: str, json: bool
) -> None:
    """Rename a file, move files to another pool, or both."""
    output = Output(json=json)

    def action() -> ExitCode:
        _require_sense(ids, wanted)
        settings, seconds = load_settings(given), parse_duration(patience).total_seconds()
        with _Moving(output) as moving, connect(settings, seconds, moving.wait) as client:
            pool = None if wanted.pool is None else _find(client.pools.list(), wanted.pool)
            return combined([_change(client, each, wanted, pool, moving) for each in ids])

    finish(output, action, interrupted="The server continues what it was asked for.")


def _require_sense(ids: Sequence[str], wanted: Change) -> None:
    if wanted.name is None and wanted.pool is None:
        raise SettingsError("Nothing to change; give --name, --pool or both.")
    if wanted.name is not None and len(ids) > 1:
        raise SettingsError("--name is for one file only.")


def _find(pools: Sequence[Pool], wanted: str) -> Pool:
    named = [pool for pool in pools if pool.name == wanted]
    found = named or [pool for pool in pools if pool.id == wanted.lower()]
    if not found:
        known = ", ".join(plain(pool.name) for pool in pools)
        raise SettingsError(f"There is no pool {wanted} for you to use; there are: {known}.")
    return found[0]


def _change(
    client: Client, file_id: str, wanted: Change, pool: Pool | None, moving: _Moving
) -> ExitCode:
    try:
        if wanted.name is not None:
            file = client.files.rename(file_id, wanted.name)
            record = {"id": file_id, "status": "renamed", "file": file.raw}
            moving.output.result(record, f"renamed {plain(file_id)} to {plain(file.name)}")
        if pool is None:
            return ExitCode.DONE
        move = client.files.move(file_id, pool.id)
        if wanted.wait:
            with moving.shown(file_id, pool):
                move = _finished(client, file_id, move, moving)
    except ClientError as error:
        failed = {"id": file_id, "status": "failed", "error": error_record(error)}
        moving.output.failure(failed, file_id, error)
        return exit_code_of(error)
    return _tell(moving.output, file_id, pool, move)


def _finished(client: Client, file_id: str, move: Move, moving: _Moving) -> Move:
    """The move once it has ended."""
    pause = FIRST_LOOK
    while move.status in ("waiting", "running"):
        moving.waits_because(move.error)
        threading.Event().wait(pause)
        pause = min(pause * 1.5, LAST_LOOK)
        move = next((each for each in client.files.moves(file_id) if each.id == move.id), move)
    return move


def _tell(output: Output, file_id: str, pool: Pool, move: Move) -> ExitCode:
    record = {"id": file_id, "pool": pool.name, "move": move.raw}
    if move.status == "failed":
        if output.json:
            output.result(record | {"status": "failed"}, "")
        output.complain(f"{file_id}: not moved to {pool.name}: {move.error}")
        return ExitCode.REFUSED
    done = "moved" if move.status == "done" else "moving"
    output.result(record | {"status": done}, f"{done} {plain(file_id)} to {plain(pool.name)}")
    return ExitCode.DONE


class _Moving:
    """A calm line on a terminal while files are moved; a note in a log when something waits."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._status = output.console.status("")
        self._live = output.console.is_terminal and not output.quiet
        self._text = self._reason = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    @contextmanager
    def shown(self, file_id: str, pool: Pool) -> Iterator[None]:
        self._text = f"moving {plain(file_id)} to {plain(pool.name)}"
        self._reason = ""
        self._show("")
        if self._live:
            self._status.start()
        try:
            yield
        finally:
            self._status.stop()

    def waits_because(self, reason: str | None) -> None:
        """Told with every look; shown when it changes."""
        if reason is not None and reason != self._reason and not self._live:
            self.output.note(f"{self._text}: waiting: {reason}")
        self._reason = reason or ""
        self._show(f": waiting: {plain(reason)}" if reason else "")

    def wait(self, wait: Wait | None) -> None:
        """Requests fail and are tried again after a pause; ``None`` when they succeed again."""
        text = wait_text(wait, wait.delay) if wait else ""
        if not self._live and text:
            self.output.note(text)
        self._show(f": {text}" if text else "")

    def _show(self, more: str) -> None:
        self._status.update(Text(self._text + more))
