"""What can go wrong for a client.

::

    ClientError                 every failure below; has a stable ``code``
    ├── ApiError                the server answered with an error
    ├── ConnectionFailed        no answer: refused, reset, timed out
    │   ├── CertificateRejected its TLS certificate is not trusted
    │   └── PatienceOver        it kept failing for longer than the caller wanted to wait
    ├── UnexpectedAnswer        an answer that is not Upwell's: another server, a login page
    ├── ContentMismatch         the bytes here and there differ
    ├── Interrupted             the caller asked to stop
    ├── IdentifierInvalid       no server gives such an id of a file or a task
    ├── SettingsError           a setting is missing, unknown or malformed
    └── LocalFileError          a file on this machine cannot be read or written
        ├── FileChanged         it was modified while it was being sent
        └── TargetExists        the download's target is already there
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
# Refusals of one attempt, not of the upload: another request took over the chunk, or the
# connection was too slow or cut before the body was complete.
RETRYABLE_CODES = frozenset({"CHUNK_BUSY", "CHUNK_SUPERSEDED", "BODY_TIMEOUT", "BODY_TRUNCATED"})


class ClientError(Exception):
    """A failure with a stable ``code`` and a message for a person."""

    code = "CLIENT_ERROR"
    retryable = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Refusal:
    """The fields of an error answer, with what its headers added.

    ``retry_after`` is in seconds; ``errors`` maps a field to what is wrong with it.
    """

    code: str
    message: str
    status: int
    meta: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, Any] = field(default_factory=dict)
    trace_id: str | None = None
    retry_after: float | None = None

    @classmethod
    def of(
        cls, fields: Mapping[str, Any], status: int = 0, retry_after: float | None = None
    ) -> Refusal:
        """Read an error's JSON; what it lacks, the answer's ``status`` tells."""
        status = status or int(fields.get("status") or 0)
        meta, errors = fields.get("meta"), fields.get("errors")
        return cls(
            code=str(fields.get("code") or f"HTTP_{status}"),
            message=str(fields.get("message") or f"The server answered {status}."),
            status=status,
            meta=meta if isinstance(meta, dict) else {},
            errors=errors if isinstance(errors, dict) else {},
            trace_id=fields.get("trace_id"),
            retry_after=retry_after,
        )


class ApiError(ClientError):
    """The server answered with an error; ``refusal`` holds all of it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.code = refusal.code
        self.status = refusal.status
        self.meta = refusal.meta
        self.trace_id = refusal.trace_id
        self.retry_after = refusal.retry_after
        self.retryable = refusal.status in RETRYABLE_STATUSES or refusal.code in RETRYABLE_CODES


class ConnectionFailed(ClientError):
    """No answer arrived: whether the request took effect is unknown."""

    code = "CONNECTION_FAILED"
    retryable = True


class PatienceOver(ConnectionFailed):
    """Requests kept failing until the caller's patience ended; ``cause`` is the last failure."""

    code = "PATIENCE_OVER"
    retryable = False

    def __init__(self, message: str, cause: ClientError) -> None:
        super().__init__(message)
        self.cause = cause


class CertificateRejected(ConnectionFailed):
    """The server's TLS certificate is not trusted: waiting does not help."""

    code = "CERTIFICATE_REJECTED"
    retryable = False


class UnexpectedAnswer(ClientError):
    """The answer is not one that an Upwell server gives."""

    code = "UNEXPECTED_ANSWER"


class ContentMismatch(ClientError):
    """The content here and on the server differ."""

    code = "CONTENT_MISMATCH"


class Interrupted(ClientError):
    """The caller asked to stop."""

    code = "INTERRUPTED"


class IdentifierInvalid(ClientError):
    """No server gives such an id of a file or a task."""

    code = "IDENTIFIER_INVALID"


class SettingsError(ClientError):
    """A setting is missing, unknown or malformed."""

    code = "SETTINGS_INVALID"


class LocalFileError(ClientError):
    """A file on this machine cannot be read or written."""

    code = "LOCAL_FILE"

    @classmethod
    def of(cls, path: Path, error: OSError) -> LocalFileError:
        """Tell what the operating system said about ``path``."""
        return cls(f"{path}: {error.strerror or error}")


class FileChanged(LocalFileError):
    """The file was modified while it was being sent."""

    code = "FILE_CHANGED"


class TargetExists(LocalFileError):
    """The download's target is already there."""

    code = "TARGET_EXISTS"
