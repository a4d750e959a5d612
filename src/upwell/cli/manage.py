"""``ls``, ``rm``, ``tasks``, ``cancel``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from upwell.cli.exits import ExitCode, combined, exit_code_of
from upwell.cli.run import connect, finish
from upwell.cli.show import Output, error_record, size
from upwell.client import ClientError, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from upwell.client import Client, CloudFile, Given, Page, UploadTask

T = TypeVar("T")

PAGE = 100


@dataclass(frozen=True, slots=True)
class Span:
    """Which rows of a list to show: ``limit`` of them from ``offset`` on, or every one."""

    offset: int
    limit: int
    every: bool = False


def list_files(given: Given, span: Span, *, json: bool) -> None:
    """Show the caller's files."""
    output = Output(json=json)

    def action() -> ExitCode:
        with connect(load_settings(given)) as client:
            found = listed(output, span, client.files.list, client.files.all)
            if json:
                for file in found:
                    output.result(file.raw, "")
            else:
                output.table(("ID", "NAME", "SIZE", "TYPE", "WHEN"), map(_file_row, found))
        return ExitCode.DONE

    finish(output, action)


def list_tasks(given: Given, status: str | None, *, offset: int, limit: int, json: bool) -> None:
    """Show the caller's uploads."""
    output = Output(json=json)

    def action() -> ExitCode:
        with connect(load_settings(given)) as client:
            page = partial(client.uploads.list, status=status)
            found = listed(output, Span(offset, limit), page)
            if json:
                for task in found:
                    output.result(task.raw, "")
            else:
                output.table(("ID", "NAME", "SIZE", "DONE", "STATUS"), map(_task_row, found))
        return ExitCode.DONE

    finish(output, action)


def delete_files(given: Given, ids: Sequence[str], *, json: bool) -> None:
    """Delete files."""
    _each(given, ids, lambda client: client.files.delete, "deleted", json=json)


def cancel_tasks(given: Given, ids: Sequence[str], *, json: bool) -> None:
    """Cancel uploads."""
    _each(given, ids, lambda client: client.uploads.cancel, "cancelled", json=json)


def _each(
    given: Given,
    ids: Sequence[str],
    verb: Callable[[Client], Callable[[str], None]],
    done: str,
    *,
    json: bool,
) -> None:
    output = Output(json=json)

    def action() -> ExitCode:
        with connect(load_settings(given)) as client:
            return combined([_do(output, verb(client), identifier, done) for identifier in ids])

    finish(output, action)


def _do(output: Output, verb: Callable[[str], None], identifier: str, done: str) -> ExitCode:
    try:
        verb(identifier)
    except ClientError as error:
        record = {"id": identifier, "status": "failed", "error": error_record(error)}
        output.failure(record, identifier, error)
        return exit_code_of(error)
    output.result({"id": identifier, "status": done}, f"{done} {identifier}")
    return ExitCode.DONE


def listed(
    output: Output,
    span: Span,
    read: Callable[..., Page[T]],
    every: Callable[[], Iterator[T]] | None = None,
) -> Iterator[T]:
    """The rows of a list that were asked for, however few the server gives at once.

    ``every`` walks the whole list, for ``--all``. Tells the person when there are more rows.
    """
    if span.every and every is not None:
        yield from every()
        return
    offset, left, after = span.offset, span.limit, None
    while left > 0:
        page = read(offset=offset, take=min(left, PAGE), after=after)
        yield from page.items[:left]
        offset, after = 0, page.cursor
        left -= len(page.items)
        if after is None:
            return
    how = "--all lists every one" if every else "a larger --limit lists more"
    output.note(f"{span.limit:,} of {page.total:,} are listed; {how}.")


def _file_row(file: CloudFile) -> tuple[str, ...]:
    return (file.id, file.name, size(file.size), file.mime_type, _local_time(file.created_at))


def _task_row(task: UploadTask) -> tuple[str, ...]:
    done = f"{task.progress:.0f}%"
    return (task.id, task.file_name, size(task.file_size), done, task.status)


def _local_time(instant: str) -> str:
    try:
        return f"{datetime.fromisoformat(instant).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return instant
