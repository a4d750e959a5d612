"""Errors on the wire: the one shape, and the only table of status codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from upwell import errors as e

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STATUS: dict[type[e.UpwellError], int] = {
    e.BadRequest: 400,
    e.BodyTimeout: 408,
    e.NotAuthenticated: 401,
    e.Refused: 403,
    e.NotFound: 404,
    e.MethodNotAllowed: 405,
    e.Conflict: 409,
    e.TooLarge: 413,
    e.WrongMediaType: 415,
    e.PreconditionFailed: 412,
    e.RangeNotSatisfiable: 416,
    e.TooMany: 429,
    e.InternalError: 500,
    e.NotReady: 503,
    e.StorageFailed: 503,
    e.ServerBusy: 503,
    e.StorageFull: 507,
}


def status_of(error: type[e.UpwellError]) -> int:
    """The status of an error class: its own, or that of the branch it grows on."""
    return next(STATUS[each] for each in error.__mro__ if each in STATUS)


_PLACES = ("body", "query", "path")  # where FastAPI says that a field stands


class ErrorBody(BaseModel):
    """What every answer with a status of 400 or more carries."""

    code: str = Field(description="Stable; for programs.", examples=["CHUNKS_MISSING"])
    message: str = Field(description="What a person can do next.")
    status: int
    detail: Annotated[str | None, Field(description="Always null: `message` says it all.")] = None
    errors: dict[str, list[str]] | None = Field(
        None, description="Only for VALIDATION_FAILED: field → reasons."
    )
    meta: dict[str, Any] | None = Field(None, description="Facts for programs.")
    trace_id: str = Field(description="Names this request in the server's log.")


def error_body(error: e.UpwellError, trace_id: str) -> ErrorBody:
    """An error as it is told."""
    return ErrorBody(
        code=error.code,
        message=error.message,
        status=status_of(type(error)),
        errors=error.errors,
        meta=error.meta,
        trace_id=trace_id,
    )


def validation_failed(found: Iterable[Mapping[str, Any]], what: str) -> e.ValidationFailed:
    """The error for what pydantic ``found`` wrong with ``what``, a request or a part of it."""
    problems: dict[str, list[str]] = {}
    for each in found:
        loc = each["loc"]
        where = [_text(part) for part in (loc[1:] if loc and loc[0] in _PLACES else loc)]
        why = each["msg"].removeprefix("Value error, ")  # which is for who wrote the check
        problems.setdefault(".".join(where) or "body", []).append(why)
    fields = "; ".join(f"{field}: {why[0]}" for field, why in problems.items())
    return e.ValidationFailed(f"The {what} is not valid: {fields}.", errors=problems)


def _text(part: object) -> str:
    """A part of a key's path; what JSON can spell and UTF-8 cannot (U+D800) is replaced."""
    return str(part).encode("utf-8", "replace").decode()


def error_response(
    error: e.UpwellError, trace_id: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error in the one shape."""
    status, body = status_of(type(error)), error_body(error, trace_id)
    extra = dict(headers or {})
    if status == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="upwell"'
    if error.retry_after is not None:
        extra["Retry-After"] = str(error.retry_after)
    return JSONResponse(body.model_dump(), status, headers=extra)


_ANY = (
    e.AuthRequired,
    e.TokenInvalid,
    e.ScopeMissing,
    e.NotReady,
    e.StorageFailed,
    e.InternalError,
)
CHANGES = (e.CrossSite, e.BodyTooLarge, e.StorageFull)
JSON_BODY = (
    *CHANGES,
    e.BodyTimeout,
    e.ValidationFailed,
    e.MalformedRequest,
    e.WrongMediaType,
)
FORM_BODY = (
    e.CrossSite,
    e.StorageFull,
    e.ValidationFailed,
    e.FormInvalid,
    e.BodyTruncated,
    e.BodyTimeout,
    e.WrongMediaType,
)
IN_MEMORY = (e.BodyTooLarge, e.TooManyUploads, e.ServerBusy)
DERIVING = (e.TooManyDerivations, e.ServerBusy)
REFUSALS = (
    e.EncryptionNotAllowed,
    e.TypeNotAccepted,
    e.PoolNotFound,
    e.BundleNotFound,
    e.FileTooLarge,
    e.QuotaExceeded,
    *DERIVING,
)
_HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "The scheme to use."},
    409: {"Retry-After": "Seconds, when waiting helps."},
    429: {"Retry-After": "Seconds."},
    416: {"Content-Range": "The size there is, as `bytes */size`."},
    503: {"Retry-After": "Seconds, when waiting helps."},
}


def responses(*raised: type[e.UpwellError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of the errors that a route behind the guard can answer with."""
    described: dict[int | str, dict[str, Any]] = {}
    every: set[type[e.UpwellError]] = {*_ANY, *raised}
    for status in sorted({status_of(each) for each in every}):
        codes = sorted(each.code for each in every if status_of(each) == status)
        described[status] = {"model": ErrorBody, "description": " · ".join(codes)}
        if status in _HEADERS:
            described[status]["headers"] = described_headers(_HEADERS[status])
    return described


def described_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """The OpenAPI description of an answer's headers."""
    return {
        name: {"description": why, "schema": {"type": "string"}} for name, why in headers.items()
    }
