"""What a person or a script gets to see: results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from upwell.cli.say import harmless, json_line
from upwell.client import ApiError, ClientError, ConnectionFailed, Wait, Watcher
from upwell.client import Progress as Sent
from upwell.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.progress import Task, TaskID

OUT_OF_SPACE = 507
TOO_MUCH_OPEN = frozenset({"TOO_MANY_OPEN_UPLOADS", "TOO_MANY_UNSENT_BYTES"})
_GIVE_ONE = "Set UPWELL_TOKEN, or name a file that holds one with --token-file."


def plain(text: object) -> str:
    """One cell or name that cannot act on a terminal: unsafe characters are escaped."""
    return printable(text)


def size(count: int) -> str:
    """Bytes for a person: ``12.3 MB``."""
    return decimal(count)


def duration(seconds: float) -> str:
    """Seconds for a person: ``4.2 s``, ``2:05``, ``1:02:03``."""
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: ``0:07``, ``2:05``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def error_record(error: ClientError) -> dict[str, Any]:
    """An error as ``--json`` shows it."""
    record: dict[str, Any] = {"code": error.code, "message": error.message}
    if isinstance(error, ApiError):
        record |= {"status": error.status, "trace_id": error.trace_id}
    return record


def words(error: ClientError) -> str:
    """The message that a person at a command line sees for an error, and what to do."""
    if isinstance(error, ApiError) and error.code == "AUTH_REQUIRED":
        return f"The server asks for a token. {_GIVE_ONE}"
    if isinstance(error, ApiError) and error.code == "TOKEN_INVALID":
        return f"The server does not accept this token. {_GIVE_ONE}"
    return error.message


def _about(subject: str, message: str) -> str:
    """A message that names its subject once: many begin with it."""
    named = plain(message).startswith((f"{subject}:", f"{subject} ", repr(subject)))
    return message if named or not subject else f"{subject}: {message}"


class Output:
    """Where results and messages go; with ``json``, stdout holds nothing but JSON lines."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False)

    def result(self, record: Mapping[str, Any], line: str) -> None:
        """Something was done: ``record`` for a script, ``line`` for a person."""
        if self.json:
            self._write(json_line(record))
        elif not self.quiet:
            self._write(line)

    def failure(self, record: Mapping[str, Any], subject: str, error: ClientError) -> None:
        """Something failed: told on stderr, and to scripts on stdout too."""
        if self.json:
            self._write(json_line(record))
        self.complain(_about(subject, words(error)), error)

    def complain(self, message: str, error: ClientError | None = None) -> None:
        """Tell on stderr what went wrong."""
        if isinstance(error, ApiError):
            trace = f", trace {error.trace_id}" if error.trace_id else ""
            message = f"{message} [{error.code}{trace}]"
        self.console.print(Text(f"upwell: {plain(message)}"), soft_wrap=True)

    def note(self, message: str) -> None:
        """Tell on stderr what a person may want to know."""
        if not self.quiet:
            self.console.print(Text(plain(message)), soft_wrap=True, style="dim")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table on a terminal; lines of tab-separated values in a pipe."""
        if not sys.stdout.isatty():
            for row in rows:
                self._write("\t".join(map(plain, row)))
            return
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(Text(plain(cell), overflow="fold") for cell in row))
        Console(highlight=False).print(table)

    def _write(self, line: str) -> None:
        """The one way to standard output; whatever the line holds, it cannot act on a terminal."""
        line = harmless(line)
        if sys.stdout.isatty():
            # Above a progress bar on the same terminal.
            self.console.print(Text(line), soft_wrap=True)
        else:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


class Bars:
    """Progress bars on a terminal, and why nothing moves when nothing does.

    Off a terminal there is no bar; a person reading the log learns when the connection was lost.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._waiting: Wait | None = None
        self._until = 0.0
        self._lock = threading.Lock()
        self._bars = Progress(
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TaskProgressColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            _Outlook(self),
            console=output.console,
            disable=output.quiet or not output.console.is_terminal,
            transient=True,
            expand=True,
            # Results go to the real stdout: it may be a pipe that a script reads.
            redirect_stdout=False,
            redirect_stderr=False,
        )

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bars while this lasts."""
        with self._bars:
            yield

    def note(self, text: str) -> None:
        self._output.note(text)

    def wait(self, wait: Wait | None) -> None:
        """Requests fail and are tried again after a pause; ``None`` when they succeed again."""
        with self._lock:
            before, self._waiting = self._waiting, wait
            self._until = monotonic() + (wait.delay if wait else 0.0)
        # Before a bar is shown (a password is asked for first), nothing else would tell.
        shown = self._bars.live.is_started and not self._bars.disable
        if not shown and (before is None) != (wait is None):
            self._output.note(wait_text(wait, wait.delay) if wait else "going on")

    def outlook(self, remaining: float | None) -> str:
        """The time left, or why nothing moves."""
        with self._lock:
            if self._waiting:
                return wait_text(self._waiting, max(0.0, self._until - monotonic()))
        return "" if remaining is None else f"{clock(remaining)} left"


class SendDisplay(Bars):
    """One calm bar for everything that is sent, be it one file or ten thousand."""

    def __init__(self, output: Output, *, name: str, files: int, total: int) -> None:
        super().__init__(output)
        self._name = name
        self._task = self._bars.add_task(self._title(0, files), total=total)

    def step(self, progress: Sent) -> None:
        """So much of it is done."""
        title = self._title(progress.files, progress.files_total)
        self._bars.update(self._task, completed=progress.done, description=title)

    def _title(self, done: int, files: int) -> str:
        return plain(self._name) if files == 1 else f"{done:,} of {files:,} files"


class Display(Bars, Watcher):
    """Shows what is received: one bar for the current file, one for all when there are several."""

    def __init__(self, output: Output, *, files: int, total: int | None) -> None:
        super().__init__(output)
        self._all: TaskID | None = None
        if files > 1:
            self._all = self._bars.add_task(f"{files} files", total=total)
        self._current: TaskID | None = None

    @contextmanager
    def file(self, name: str, size: int | None) -> Iterator[None]:
        """Show one file; ``size`` in bytes when it is known beforehand."""
        self._current = self._bars.add_task(plain(name), total=size)
        try:
            yield
        finally:
            self._settle(size)
            self._current = None

    def begin(self, total: int, done: int) -> None:
        if self._current is None:
            return
        self._move_total(done - self._done())
        self._bars.reset(self._current, total=total, completed=done)

    def advance(self, count: int) -> None:
        if self._current is not None:
            self._bars.advance(self._current, count)
            self._move_total(count)

    def _done(self) -> int:
        return next(int(task.completed) for task in self._bars.tasks if task.id == self._current)

    def _move_total(self, count: int) -> None:
        if self._all is not None:
            self._bars.advance(self._all, count)

    def _settle(self, size: int | None) -> None:
        """A file that was skipped or failed counts as dealt with."""
        if self._current is not None:
            self._move_total((size or self._done()) - self._done())
            self._bars.remove_task(self._current)


class _Outlook(ProgressColumn):
    def __init__(self, display: Bars) -> None:
        super().__init__()
        self._display = display

    def render(self, task: Task) -> Text:
        return Text(self._display.outlook(task.time_remaining), style="cyan")


def wait_text(wait: Wait, left: float) -> str:
    """Why nothing moves, calmly; ``left`` in seconds."""
    if isinstance(wait.error, ConnectionFailed):
        return f"connection lost, retrying in {left:.0f} s"
    if isinstance(wait.error, ApiError) and wait.error.status == OUT_OF_SPACE:
        return "server is out of space, waiting"
    if wait.error.code in TOO_MUCH_OPEN:
        return "too many uploads in progress (see `upwell tasks`), waiting"
    return f"server busy ({plain(wait.error.code)}), retrying in {left:.0f} s"
