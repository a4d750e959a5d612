"""Printing without rich: for commands that start fast. Beside ``show``, nothing else prints."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from upwell.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


def harmless(line: object) -> str:
    """A line whose text cannot act on a terminal; tabs separate its cells."""
    return printable(line, keep="\t")


def json_line(record: Mapping[str, Any], default: Callable[[Any], Any] | None = None) -> str:
    """A record as one line of ASCII. JSON escapes all controls but DEL (RFC 8259 §7)."""
    return json.dumps(record, default=default).replace("\x7f", "\\u007f")


def say(line: object, *, err: bool = False) -> None:
    """Print a line on standard output, or on standard error."""
    typer.echo(harmless(line), err=err)


def say_json(record: Mapping[str, Any], default: Callable[[Any], Any] | None = None) -> None:
    """Print a record for a script."""
    typer.echo(json_line(record, default))


class Commands(TyperGroup):
    """Commands whose usage errors are harmless too: a shell's ``*`` can hand over any file name."""

    def make_context(self, *args: Any, **kw: Any) -> Any:
        with _harmless_errors():
            return super().make_context(*args, **kw)

    def invoke(self, ctx: Any) -> Any:
        with _harmless_errors():
            return super().invoke(ctx)


@contextmanager
def _harmless_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(getattr(error, "message", None), str):  # a ClickException
            error.message = harmless(error.message)  # type: ignore[attr-defined]
        raise
