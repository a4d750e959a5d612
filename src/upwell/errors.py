"""The closed tree of errors a caller can meet; no HTTP in here.

::

    UpwellError
    ├── BadRequest            the request itself is wrong
    │   ├── ValidationFailed · MalformedRequest · FormInvalid
    │   ├── ChunkIndexInvalid · ChunkSizeMismatch · ChecksumMismatch · ChecksumUnsupported
    │   ├── BodyTruncated · BodyTimeout
    │   └── ChunksMissing · HashMismatch
    ├── NotAuthenticated      AuthRequired · TokenInvalid · LoginInvalid
    ├── Refused               ScopeMissing · CrossSite · EncryptionNotAllowed · TypeNotAccepted
    │                         · QuotaExceeded · PasswordRequired · PasswordWrong
    │                         · PasscodeRequired · PasscodeWrong
    ├── NotFound              TaskNotFound · FileNotFound · PoolNotFound · BundleNotFound
    │                         · LinkNotFound · WebhookNotFound · PreviewNotFound · RouteNotFound
    ├── Conflict              TaskClosed · ChunkBusy · ChunkSuperseded · ChunkConflict
    │                         · AccountExists · PoolExists · PoolInUse · SlugTaken
    ├── TooMany               TooManyGuesses · TooManyDerivations · TooManyUploads
    │                         · TooManyStreams · TooManyOpenUploads · TooManyUnsentBytes
    │                         · TooManyDownloads
    ├── TooLarge              FileTooLarge · BodyTooLarge
    ├── WrongMediaType · MethodNotAllowed · RangeNotSatisfiable · PreconditionFailed
    ├── Unavailable           StorageFull · StorageFailed · NotReady · ServerBusy
    └── InternalError         a bug of ours, never a caller's doing

``http.errors`` maps each leaf to its status; a test keeps that table total.
"""

from __future__ import annotations

from typing import Any, ClassVar


class UpwellError(Exception):
    """A failure with a stable ``code`` and a message that says what to do next.

    ``errors`` maps a field to the reasons it was refused (validation only);
    ``meta`` carries machine-readable facts, such as the missing chunks.
    """

    code: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        errors: dict[str, list[str]] | None = None,
        meta: dict[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.errors = errors
        self.meta = meta
        self.retry_after = retry_after


class BadRequest(UpwellError):
    """The request is wrong in itself; sending it again unchanged is pointless."""


class ValidationFailed(BadRequest):
    code = "VALIDATION_FAILED"


class MalformedRequest(BadRequest):
    code = "MALFORMED_REQUEST"


class FormInvalid(BadRequest):
    code = "FORM_INVALID"


class ChunkIndexInvalid(BadRequest):
    code = "CHUNK_INDEX_INVALID"


class ChunkSizeMismatch(BadRequest):
    code = "CHUNK_SIZE_MISMATCH"


class ChecksumMismatch(BadRequest):
    code = "CHECKSUM_MISMATCH"


class ChecksumUnsupported(BadRequest):
    code = "CHECKSUM_UNSUPPORTED"


class BodyTruncated(BadRequest):
    code = "BODY_TRUNCATED"


class BodyTimeout(BadRequest):
    code = "BODY_TIMEOUT"


class ChunksMissing(BadRequest):
    code = "CHUNKS_MISSING"


class HashMismatch(BadRequest):
    code = "HASH_MISMATCH"


class NotAuthenticated(UpwellError):
    """No credential, or none that is valid now."""


class AuthRequired(NotAuthenticated):
    code = "AUTH_REQUIRED"


class TokenInvalid(NotAuthenticated):
    code = "TOKEN_INVALID"


class LoginInvalid(NotAuthenticated):
    code = "LOGIN_INVALID"


class Refused(UpwellError):
    """The caller is known, but a policy, quota or scope says no."""


class ScopeMissing(Refused):
    code = "SCOPE_MISSING"


class CrossSite(Refused):
    code = "CROSS_SITE"


class EncryptionNotAllowed(Refused):
    code = "ENCRYPTION_NOT_ALLOWED"


class TypeNotAccepted(Refused):
    code = "TYPE_NOT_ACCEPTED"


class QuotaExceeded(Refused):
    code = "QUOTA_EXCEEDED"

    @classmethod
    def of(cls, scope: str, *, quota: int, used: int | None, needed: int) -> QuotaExceeded:
        """``scope`` is ``pool`` or ``account``; the rest is bytes. ``used`` is None where it would
        tell the caller what others hold."""
        whose = "This pool" if scope == "pool" else "Your account"
        taken = "" if used is None else f", and {used} are taken"
        return cls(
            f"{whose} may hold {quota} bytes{taken}: there is no room for {needed} "
            "more. Delete files or cancel uploads, or ask for a larger quota.",
            meta={"scope": scope, "quota": quota, "used": used, "needed": needed},
        )


class PasswordRequired(Refused):
    code = "PASSWORD_REQUIRED"


class PasswordWrong(Refused):
    code = "PASSWORD_WRONG"


class PasscodeRequired(Refused):
    code = "PASSCODE_REQUIRED"


class PasscodeWrong(Refused):
    code = "PASSCODE_WRONG"


class NotFound(UpwellError):
    """Unknown, expired or somebody else's: the three look the same."""


class TaskNotFound(NotFound):
    code = "TASK_NOT_FOUND"


class FileNotFound(NotFound):
    code = "FILE_NOT_FOUND"


class PoolNotFound(NotFound):
    code = "POOL_NOT_FOUND"


class BundleNotFound(NotFound):
    code = "BUNDLE_NOT_FOUND"


class LinkNotFound(NotFound):
    code = "LINK_NOT_FOUND"


class WebhookNotFound(NotFound):
    code = "WEBHOOK_NOT_FOUND"


class PreviewNotFound(NotFound):
    code = "PREVIEW_NOT_FOUND"


class RouteNotFound(NotFound):
    code = "ROUTE_NOT_FOUND"


class Conflict(UpwellError):
    """The request is fine, but not in the state things are in now."""


class TaskClosed(Conflict):
    code = "TASK_CLOSED"


class ChunkBusy(Conflict):
    code = "CHUNK_BUSY"


class ChunkSuperseded(Conflict):
    code = "CHUNK_SUPERSEDED"


class ChunkConflict(Conflict):
    code = "CHUNK_CONFLICT"


class AccountExists(Conflict):
    code = "ACCOUNT_EXISTS"


class PoolExists(Conflict):
    code = "POOL_EXISTS"


class PoolInUse(Conflict):
    code = "POOL_IN_USE"


class SlugTaken(Conflict):
    code = "SLUG_TAKEN"


class TooMany(UpwellError):
    """Too often, or too much at once; after ``retry_after`` seconds it may be fine."""


class TooManyGuesses(TooMany):
    code = "TOO_MANY_GUESSES"


class TooManyUploads(TooMany):
    code = "TOO_MANY_UPLOADS"


class TooManyDownloads(TooMany):
    code = "TOO_MANY_DOWNLOADS"


class TooManyStreams(TooMany):
    code = "TOO_MANY_STREAMS"


class TooManyOpenUploads(TooMany):
    code = "TOO_MANY_OPEN_UPLOADS"


class TooManyUnsentBytes(TooMany):
    code = "TOO_MANY_UNSENT_BYTES"


class TooManyDerivations(TooMany):
    code = "TOO_MANY_DERIVATIONS"


class TooLarge(UpwellError):
    """More bytes than is allowed here."""


class FileTooLarge(TooLarge):
    code = "FILE_TOO_LARGE"


class BodyTooLarge(TooLarge):
    code = "BODY_TOO_LARGE"


class WrongMediaType(UpwellError):
    code = "UNSUPPORTED_MEDIA_TYPE"


class MethodNotAllowed(UpwellError):
    code = "METHOD_NOT_ALLOWED"


class RangeNotSatisfiable(UpwellError):
    code = "RANGE_NOT_SATISFIABLE"


class PreconditionFailed(UpwellError):
    code = "PRECONDITION_FAILED"


class Unavailable(UpwellError):
    """Nothing wrong with the request; the server cannot serve it now."""


class StorageFull(Unavailable):
    code = "STORAGE_FULL"


class StorageFailed(Unavailable):
    code = "STORAGE_FAILED"


class NotReady(Unavailable):
    code = "NOT_READY"


class ServerBusy(Unavailable):
    code = "SERVER_BUSY"


class InternalError(UpwellError):
    code = "INTERNAL_ERROR"
