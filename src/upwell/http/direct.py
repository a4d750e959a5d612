"""The forms of direct and batch uploads: contents and fields, in memory, under one budget."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multipart import MultipartSegment

from upwell.errors import BodyTimeout, BodyTooLarge, NotReady
from upwell.http.bodies import (
    FormReader,
    Patience,
    bad_form,
    form_boundary,
    pieces,
    truncated,
)
from upwell.http.server import BodyChannel, ConnectionGone, Start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

FILE = "file"
ITEMS, CONTENT = "items", "content"
BUDGET = 128 << 20  # bytes of direct uploads in memory at once; more of them wait their turn
_FIELDS_LIMIT = 64 << 10
_ITEMS_LIMIT = 1 << 20


class Budget:
    """Bytes of memory that requests share. They wait in turn: a large one is not starved."""

    def __init__(self, size: int = BUDGET) -> None:
        self._size = self._free = size
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Hold ``size`` bytes, or all there are when it is more than that."""
        share = min(size, self._size)
        async with self._turn:
            while self._free < share:
                self._given_back.clear()
                await self._given_back.wait()
            self._free -= share
        try:
            yield
        finally:
            self._free += share
            self._given_back.set()


@dataclass(slots=True)
class DirectForm:
    """The fields as text, and the file's content, name and type."""

    fields: dict[str, str] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    name: str | None = None
    content_type: str | None = None
    has_file: bool = False

    def values(self) -> dict[str, Any]:
        """The fields, where an empty one is an absent one; what is absent, the file tells."""
        told = {
            "file_name": self.name or "file",
            "file_size": len(self.content),
            "content_type": self.content_type,
        }
        return told | {key: value for key, value in self.fields.items() if value}


@asynccontextmanager
async def received_form(request: Request, limit: int, budget: Budget) -> AsyncIterator[DirectForm]:
    """A direct upload of at most ``limit`` bytes, in memory while the context lasts.

    Raises WrongMediaType, FormInvalid, BodyTooLarge, BodyTimeout, BodyTruncated.
    """
    reader = _DirectReader(form_boundary(request), FILE, limit, _FIELDS_LIMIT)
    async with _received(request, reader, limit + _FIELDS_LIMIT, budget) as form:
        if not form.has_file:
            raise bad_form(f"there is no field {FILE!r} in it")
        yield form


@asynccontextmanager
async def received_batch(request: Request, limit: int, budget: Budget) -> AsyncIterator[DirectForm]:
    """A batch upload whose contents have at most ``limit`` bytes together; like a direct one."""
    reader = _DirectReader(form_boundary(request), CONTENT, limit, _ITEMS_LIMIT)
    async with _received(request, reader, limit + _ITEMS_LIMIT, budget) as form:
        if ITEMS not in form.fields:
            raise bad_form(f"there is no field {ITEMS!r} in it")
        yield form


@asynccontextmanager
async def _received(
    request: Request, reader: _DirectReader, limit: int, budget: Budget
) -> AsyncIterator[DirectForm]:
    declared = int(request.headers.get("content-length", limit))
    if declared > limit:
        raise reader.too_large()
    async with budget.hold(2 * declared):  # as it grows, and once more as it is handed over
        await _feed(request, reader)
        reader.close()
        yield reader.form


async def _feed(request: Request, reader: FormReader) -> None:
    """Read the body: out of the loop where that is offered. Each step in the loop would wait its
    turn behind the threads that store other bodies."""
    tick = Patience(lambda: False).tick
    channel = request.scope.get("extensions", {}).get("upwell.body")
    if not isinstance(channel, BodyChannel) or "content-length" not in request.headers:
        async for piece in pieces(request.receive, tick):
            reader.feed(piece)
        return
    try:
        await channel.receive(_ReaderEnd(reader), tick, _at_once)
    except ConnectionGone:
        raise truncated() from None
    except (BodyTimeout, NotReady):
        channel.abandon()
        raise


class _ReaderEnd:
    """The far end of a ``BodyChannel``: a form's reader, which is always ready."""

    def __init__(self, reader: FormReader) -> None:
        self._reader = reader

    def begin(self) -> Start:
        return Start.NOW

    def take(self, data: memoryview) -> None:
        if data:  # to the parser, nothing is the end
            self._reader.feed(bytes(data))


async def _at_once() -> None:
    """What is always ready is not waited for."""


class _DirectReader(FormReader):
    """Of a form whose field ``file`` is a content of at most ``limit`` bytes."""

    def __init__(self, boundary: bytes, file: str, limit: int, fields_limit: int) -> None:
        super().__init__(boundary)
        self.form = DirectForm()
        self._file = file
        self._limit = limit
        self._fields_limit = fields_limit
        self._segment: Any = None
        self._value = bytearray()
        self._fields_size = 0

    def on(self, event: Any) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event:
            self._take(event)
        elif self._segment.name != self._file:
            self.form.fields[self._segment.name] = self._text()

    def _begin(self, segment: Any) -> None:
        self._segment, self._value = segment, bytearray()
        if segment.name == self._file:
            if self.form.has_file:
                raise bad_form(f"there is more than one field {self._file!r}")
            self.form.has_file = True
            self.form.name = segment.filename or None
            self.form.content_type = segment.content_type

    def _take(self, data: bytes) -> None:
        if self._segment.name == self._file:
            self.form.content += data
            if len(self.form.content) > self._limit:
                raise self.too_large()
            return
        self._value += data
        self._fields_size += len(data)
        if self._fields_size > self._fields_limit:
            raise bad_form("its fields are too large")

    def _text(self) -> str:
        try:
            return self._value.decode()
        except UnicodeDecodeError:
            raise bad_form(f"the field {self._segment.name!r} is not UTF-8") from None

    def too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"This takes at most {self._limit} bytes; create a task and send chunks.",
            meta={"max_size": self._limit},
        )
