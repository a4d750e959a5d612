"""Running a command: its settings, its client, its way out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NoReturn, TypedDict

import typer

from upwell.cli.exits import ExitCode, exit_code_of
from upwell.cli.show import Output, words
from upwell.client import Client, ClientError, Retry
from upwell.client.units import parse_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from upwell.client import Settings, Wait

# Seconds that a command which answers at once keeps trying.
BRIEF = 8.0


def finish(output: Output, action: Callable[[], ExitCode], *, interrupted: str = "") -> NoReturn:
    """Run ``action`` and leave the program with its exit code, whatever happens."""
    try:
        code = action()
    except KeyboardInterrupt:
        output.complain(f"Interrupted. {interrupted}".strip())
        code = ExitCode.INTERRUPTED
    except ClientError as error:
        output.complain(words(error), error)
        code = exit_code_of(error)
    except UnicodeEncodeError:
        # A shell may hand over any bytes, which Python keeps as surrogates; JSON is UTF-8.
        output.complain("An argument is not valid UTF-8, which the server cannot take.")
        code = ExitCode.USAGE
    raise typer.Exit(code)


class Ending(TypedDict):
    """When something ends, as the client's methods take it."""

    expires_at: datetime | None
    expires_in: timedelta | None


def ending(text: str | None) -> Ending:
    """What ``--expires`` asks for; a duration is left to the server's clock."""
    end = parse_end(text) if text else None
    return {
        "expires_at": end if isinstance(end, datetime) else None,
        "expires_in": end if isinstance(end, timedelta) else None,
    }


def connect(
    settings: Settings,
    patience: float = BRIEF,
    on_wait: Callable[[Wait | None], None] | None = None,
) -> Client:
    """A client with the person's settings; ``patience`` in seconds.

    A command that does not show waiting by itself tells of the first failure that it retries.
    """
    return Client.of(settings, Retry(patience, on_wait=on_wait or _Waiting(patience)))


class _Waiting:
    """Tells once that requests fail and are retried, until one succeeds again."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._told = False

    def __call__(self, wait: Wait | None) -> None:
        if wait is not None and not self._told:
            Output().note(f"{wait.error.message} Retrying for up to {self._patience:.0f} s.")
        self._told = wait is not None
