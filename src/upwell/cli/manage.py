"""``ls``, ``rm``, ``tasks``, ``cancel``."""

from __future__ import annotations

from datetime import datetime
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


def list_files(given: Given, *, offset: int, limit: int, json: bool) -> None:
    """Show the caller's files."""
    output = Output(json=json)

    def action() -> ExitCode:
        with connect(load_settings(given)) as client:
            found = list(_paged(client.files.list, offset, limit))
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

            def page(*, offset: int, take: int) -> Page[UploadTask]:
                return client.uploads.list(status=status, offset=offset, take=take)

            found = list(_paged(page, offset, limit))
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


def _paged(read: Callable[..., Page[T]], offset: int, limit: int) -> Iterator[T]:
    """Up to ``limit`` items from ``offset`` on, however few the server gives at once."""
    while limit > 0:
        page = read(offset=offset, take=min(limit, PAGE))
        yield from page.items[:limit]
        offset += len(page.items)
        limit -= len(page.items)
        if not page.items or offset >= page.total:
            return


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
