"""The exit codes of the command line: the one place that assigns them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upwell.client import ClientError

HELP = (
    "Exit codes: 0 all done · 1 some of several failed · 2 usage error · 3 the server cannot be "
    "reached · 4 not authorised · 5 refused by the server · 6 problem with a local file · "
    "130 interrupted"
)
UNAUTHORIZED = 401
NOT_NOW = frozenset({408, 425, 429})
SERVER_SIDE = 500


class ExitCode(IntEnum):
    """What a script can tell from the way the program ended."""

    DONE = 0
    SOME_FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_AUTHORISED = 4
    REFUSED = 5
    LOCAL_FILE = 6
    INTERRUPTED = 130


def exit_code_of(error: ClientError) -> ExitCode:
    """The exit code that tells of this failure."""
    from upwell.client import errors  # noqa: PLC0415 - keeps `upwell --help` fast

    if isinstance(error, errors.ApiError):
        return _of_status(error.status)
    kinds = {
        errors.ConnectionFailed: ExitCode.UNREACHABLE,
        errors.UnexpectedAnswer: ExitCode.UNREACHABLE,
        errors.SettingsError: ExitCode.USAGE,
        errors.IdentifierInvalid: ExitCode.USAGE,
        errors.LocalFileError: ExitCode.LOCAL_FILE,
        errors.Interrupted: ExitCode.INTERRUPTED,
    }
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), ExitCode.REFUSED)


def combined(codes: Sequence[ExitCode]) -> ExitCode:
    """The exit code of several items: theirs when they agree, else that some failed."""
    if ExitCode.INTERRUPTED in codes:
        return ExitCode.INTERRUPTED
    different = set(codes)
    if len(different) <= 1:
        return different.pop() if different else ExitCode.DONE
    return ExitCode.SOME_FAILED


def _of_status(status: int) -> ExitCode:
    if status == UNAUTHORIZED:
        return ExitCode.NOT_AUTHORISED
    if status >= SERVER_SIDE or status in NOT_NOW:
        return ExitCode.UNREACHABLE
    return ExitCode.REFUSED
