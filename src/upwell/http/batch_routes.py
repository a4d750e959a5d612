"""Many small files in one request.

What a request costs besides its bytes (the framework, a credential, a transaction, a sync of
folder and journal) is most of what a small file costs; a batch pays it once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from upwell import errors as e
from upwell.core.direct import Stored
from upwell.http.bodies import bad_form
from upwell.http.direct import CONTENT, ITEMS, DirectForm
from upwell.http.errors import FORM_BODY, IN_MEMORY, error_body, responses
from upwell.http.guard import call, trace_id_of
from upwell.http.schemas import (
    BATCH_ITEMS,
    BATCH_MAX,
    BatchItem,
    BatchOut,
    BatchResult,
    CloudFileOut,
)
from upwell.model import NewUpload, Principal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upwell.core.verbs import Verbs
    from upwell.http.direct import Forms

_FORM = {
    "type": "object",
    "required": [ITEMS],
    "properties": {
        ITEMS: {
            "type": "array",
            "minItems": 1,
            "maxItems": BATCH_MAX,
            "items": BatchItem.model_json_schema(),
        },
        CONTENT: {
            "type": "string",
            "format": "binary",
            "description": "The files' bytes, one after the other, in the order of `items`.",
        },
    },
}


def add_batch(router: APIRouter, verbs: Verbs, forms: Forms) -> None:
    media = {"schema": _FORM, "encoding": {ITEMS: {"contentType": "application/json"}}}

    @router.post(
        "/upload/batch",
        summary="Store many small files in one request",
        response_model=BatchOut,
        responses=responses(*FORM_BODY, *IN_MEMORY, e.MalformedRequest),
        openapi_extra={
            "requestBody": {"required": True, "content": {"multipart/form-data": media}}
        },
    )
    async def upload_batch(request: Request) -> Response:
        """Each file is stored or refused for itself, as by direct. Without `content`, nothing
        is stored: the answer tells what the account holds already, and what is to be sent."""
        async with forms.batch(request) as form:
            work = partial(_store, verbs, form, trace_id_of(request.scope))
            body = await call(request, work)
        return Response(body, media_type="application/json")


def _store(verbs: Verbs, form: DirectForm, trace_id: str, principal: Principal) -> str:
    """All of it in one visit to a worker thread, reading the items and writing the answer too."""
    asked = [item.command() for item in _items(form)]
    outcomes: list[Stored | e.UpwellError | None] = []
    if form.has_file:
        given = list(zip(asked, _cut(asked, form.content), strict=True))
        outcomes += verbs.uploads.store_many(principal, given)
    else:
        outcomes += verbs.uploads.find_many(principal, asked)
    results = [_result(verbs, outcome, trace_id) for outcome in outcomes]
    return BatchOut(results=results).model_dump_json()


def _items(form: DirectForm) -> list[BatchItem]:
    try:
        return BATCH_ITEMS.validate_json(form.fields[ITEMS])
    except ValidationError as error:
        problems = [each | {"loc": (ITEMS, *each["loc"])} for each in error.errors()]
        raise RequestValidationError(problems) from None


def _cut(asked: list[NewUpload], content: bytearray) -> Iterator[bytes]:
    told = sum(new.file_size for new in asked)
    if told != len(content):
        raise bad_form(f"its {CONTENT} has {len(content)} bytes, the items have {told} together")
    view, start = memoryview(content), 0
    for new in asked:
        yield bytes(view[start : start + new.file_size])
        start += new.file_size


def _result(verbs: Verbs, outcome: Stored | e.UpwellError | None, trace_id: str) -> BatchResult:
    if isinstance(outcome, Stored):
        out = CloudFileOut.of(outcome.file, verbs.pools.named(outcome.file.pool_id))
        return BatchResult(file_exists=outcome.existed, file=out, error=None)
    error = error_body(outcome, trace_id) if outcome else None
    return BatchResult(file_exists=False, file=None, error=error)
