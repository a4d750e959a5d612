"""``quota`` and ``mv``: where a person's bytes are, and how many may be there."""

from __future__ import annotations

import threading
from contextlib import contextmanager
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


def move_files(
    given: Given, ids: Sequence[str], wanted: str, *, patience: str, wait: bool, json: bool
) -> None:
    """Move files to a pool, named or by its id."""
    output = Output(json=json)

    def action() -> ExitCode:
        settings, seconds = load_settings(given), parse_duration(patience).total_seconds()
        with _Moving(output) as moving, connect(settings, seconds, moving.wait) as client:
            pool = _find(client.pools.list(), wanted)
            return combined([_move(client, i, pool, moving, wait=wait) for i in ids])

    finish(output, action, interrupted="The server goes on with what it was asked for.")


def _find(pools: Sequence[Pool], wanted: str) -> Pool:
    named = [pool for pool in pools if pool.name == wanted]
    found = named or [pool for pool in pools if pool.id == wanted.lower()]
    if not found:
        known = ", ".join(plain(pool.name) for pool in pools)
        raise SettingsError(f"There is no pool {wanted} for you to use; there are: {known}.")
    return found[0]


def _move(client: Client, file_id: str, pool: Pool, moving: _Moving, *, wait: bool) -> ExitCode:
    try:
        move = client.files.move(file_id, pool.id)
        if wait:
            with moving.shown(file_id, pool):
                move = _finished(client, file_id, move, moving)
    except ClientError as error:
        record = {"id": file_id, "status": "failed", "error": error_record(error)}
        moving.output.failure(record, file_id, error)
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
