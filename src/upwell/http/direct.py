"""The form of a direct upload: one file and its fields, in memory, under one budget."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from upwell.errors import BodyTooLarge, FormInvalid
from upwell.http.bodies import Patience, form_boundary, pieces
from upwell.model import GENERIC_TYPE, Digest, NewUpload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from upwell.http.schemas import DirectUpload

FILE = "file"
BUDGET = 64 << 20  # bytes of direct uploads in memory at once; more of them wait their turn
_UNIT = 1 << 20
_FIELDS_LIMIT = 64 << 10

_budget = asyncio.Semaphore(BUDGET // _UNIT)
_turn = asyncio.Lock()


@dataclass(slots=True)
class DirectForm:
    """The fields as text, and the file's content, name and type."""

    fields: dict[str, str] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    name: str | None = None
    content_type: str | None = None
    has_file: bool = False

    @property
    def data(self) -> bytes:
        return bytes(self.content)

    def command(self, fields: DirectUpload) -> NewUpload:
        """The upload the form asks for; what it leaves out, the file part tells."""
        declared = fields.content_type if "content_type" in fields.model_fields_set else None
        size = fields.file_size
        return NewUpload(
            file_name=fields.file_name or self.name or "file",
            file_size=len(self.content) if size is None else size,
            content_type=declared or self.content_type or GENERIC_TYPE,
            digest=Digest.parse(fields.hash) if fields.hash else None,
            pool_id=str(fields.pool_id) if fields.pool_id else None,
            bundle_id=str(fields.bundle_id) if fields.bundle_id else None,
            encrypted=fields.encrypt_password is not None,
            expired_at=fields.expired_at,
        )


@asynccontextmanager
async def received_form(request: Request, limit: int) -> AsyncIterator[DirectForm]:
    """A direct upload of at most ``limit`` bytes, in memory while the context lasts.

    Raises WrongMediaType, FormInvalid, BodyTooLarge, BodyTimeout, BodyTruncated.
    """
    boundary = form_boundary(request)
    declared = int(request.headers.get("content-length", limit))
    if declared > limit + _FIELDS_LIMIT:
        raise _too_large(limit)
    units = min(-(-declared // _UNIT), BUDGET // _UNIT)
    await _reserve(units)
    try:
        yield await _read(request, boundary, limit)
    finally:
        for _ in range(units):
            _budget.release()


async def _reserve(units: int) -> None:
    """Wait for memory, in turn: taking unit by unit, two at once could block each other."""
    async with _turn:
        for _ in range(units):
            await _budget.acquire()


async def _read(request: Request, boundary: bytes, limit: int) -> DirectForm:
    reader = _FormReader(boundary, limit)
    async for piece in pieces(request.receive, Patience(lambda: False).tick):
        reader.feed(piece)
    return reader.close()


class _FormReader:
    def __init__(self, boundary: bytes, limit: int) -> None:
        self._parser = PushMultipartParser(boundary, strict=True, max_segment_count=64)
        self._form = DirectForm()
        self._limit = limit
        self._segment: Any = None
        self._value = bytearray()
        self._fields_size = 0

    def feed(self, data: bytes) -> None:
        try:
            for event in self._parser.parse(data):
                self._on(event)
        except MultipartError as error:
            raise _bad_form(str(error)) from None

    def close(self) -> DirectForm:
        try:
            self._parser.close()
        except MultipartError as error:
            raise _bad_form(str(error)) from None
        if not self._form.has_file:
            raise _bad_form(f"there is no field {FILE!r} in it")
        return self._form

    def _on(self, event: Any) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event:
            self._take(event)
        elif self._segment.name != FILE:
            self._form.fields[self._segment.name] = self._text()

    def _begin(self, segment: Any) -> None:
        self._segment, self._value = segment, bytearray()
        if segment.name == FILE:
            if self._form.has_file:
                raise _bad_form(f"there is more than one field {FILE!r}")
            self._form.has_file = True
            self._form.name = segment.filename or None
            self._form.content_type = segment.content_type

    def _take(self, data: bytes) -> None:
        if self._segment.name == FILE:
            self._form.content += data
            if len(self._form.content) > self._limit:
                raise _too_large(self._limit)
            return
        self._value += data
        self._fields_size += len(data)
        if self._fields_size > _FIELDS_LIMIT:
            raise _bad_form("its fields are too large")

    def _text(self) -> str:
        try:
            return self._value.decode()
        except UnicodeDecodeError:
            raise _bad_form(f"the field {self._segment.name!r} is not UTF-8") from None


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"A direct upload may have at most {limit} bytes; create a task and send chunks.",
        meta={"max_size": limit},
    )


def _bad_form(why: str) -> FormInvalid:
    return FormInvalid(f"The multipart/form-data body is not usable: {why}.")
