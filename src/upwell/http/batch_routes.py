"""Many small files in one request.

What a request costs besides its bytes (the framework, a credential, a transaction, a sync of
folder and journal) is most of what a small file costs; a batch pays it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from upwell import errors as e
from upwell.core.direct import Stored
from upwell.http.bodies import bad_form
from upwell.http.direct import CONTENT, ITEMS, DirectForm
from upwell.http.errors import FORM_BODY, IN_MEMORY, error_body, responses, validation_failed
from upwell.http.guard import call, trace_id_of
from upwell.http.schemas import (
    BATCH_ITEMS,
    BATCH_LIST,
    BATCH_MAX,
    BatchItem,
    BatchItemSize,
    BatchOut,
    BatchResult,
    CloudFileOut,
)
from upwell.model import NewUpload, Principal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upwell.core.verbs import Verbs
    from upwell.http.direct import Forms

T = TypeVar("T")

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
        """Each file is stored or refused for itself, as by direct, also when its item is not
        valid; with `content`, each item needs a valid `file_size`. Without `content`, nothing is
        stored: the answer tells what the account holds already, and what is to be sent."""
        async with forms.batch(request) as form:
            work = partial(_store, verbs, form, trace_id_of(request.scope))
            body = await call(request, work)
        return Response(body, media_type="application/json")


def _store(verbs: Verbs, form: DirectForm, trace_id: str, principal: Principal) -> str:
    """All of it in one visit to a worker thread, reading the items and writing the answer too."""
    items = _items(form)
    outcomes: Iterator[Stored | e.UpwellError | None]
    if form.has_file:
        cut = zip(items, _cut(items, form.content), strict=True)
        given = [(item.new, data) for item, data in cut if isinstance(item.new, NewUpload)]
        outcomes = iter(verbs.uploads.store_many(principal, given))
    else:
        asked = [item.new for item in items if isinstance(item.new, NewUpload)]
        outcomes = iter(verbs.uploads.find_many(principal, asked))
    results = [
        _result(verbs, next(outcomes) if isinstance(item.new, NewUpload) else item.new, trace_id)
        for item in items
    ]
    return BatchOut(results=results).model_dump_json()


@dataclass(frozen=True, slots=True)
class _Item:
    """One file of a batch, or why it cannot be one. ``size`` bytes of the content are its own,
    which tells where those of the next begin."""

    new: NewUpload | e.ValidationFailed
    size: int


def _items(form: DirectForm) -> list[_Item]:
    """Raises RequestValidationError when they are no list, or a size is missing that the bytes
    of the others are found by."""
    text = form.fields[ITEMS]
    try:
        valid = BATCH_ITEMS.validate_json(text)
    except ValidationError:
        listed = _required((), lambda: BATCH_LIST.validate_json(text))
        return [_item(at, each, sized=form.has_file) for at, each in enumerate(listed)]
    return [_Item(each.command(), each.file_size) for each in valid]


def _item(at: int, given: Any, *, sized: bool) -> _Item:
    size = _required((at,), lambda: BatchItemSize.model_validate(given).file_size) if sized else 0
    try:
        return _Item(BatchItem.model_validate(given).command(), size)
    except ValidationError as error:
        return _Item(validation_failed(error.errors(), "item"), size)


def _required(where: tuple[int, ...], read: Callable[[], T]) -> T:
    """What ``read`` answers; it reads what is found at ``where`` in the items."""
    try:
        return read()
    except ValidationError as error:
        problems = [each | {"loc": (ITEMS, *where, *each["loc"])} for each in error.errors()]
        raise RequestValidationError(problems) from None


def _cut(items: list[_Item], content: bytearray) -> Iterator[bytes]:
    told = sum(item.size for item in items)
    if told != len(content):
        raise bad_form(f"its {CONTENT} has {len(content)} bytes, the items have {told} together")
    view, start = memoryview(content), 0
    for item in items:
        yield bytes(view[start : start + item.size])
        start += item.size


def _result(verbs: Verbs, outcome: Stored | e.UpwellError | None, trace_id: str) -> BatchResult:
    if isinstance(outcome, Stored):
        out = CloudFileOut.of(outcome.file, verbs.pools.named(outcome.file.pool_id))
        return BatchResult(file_exists=outcome.existed, file=out, error=None)
    error = error_body(outcome, trace_id) if outcome else None
    return BatchResult(file_exists=False, file=None, error=error)
