"""The forms of direct and batch uploads: contents and fields, in memory."""

from __future__ import annotations

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
from upwell.http.channels import BodyChannel, Start
from upwell.http.guard import caller_of
from upwell.http.memory import STEP, UploadMemory
from upwell.http.parts import file_type, part_disposition
from upwell.http.sockets import ConnectionGone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from upwell.core.uploads import Uploads
    from upwell.http.memory import Body

FILE = "file"
ITEMS, CONTENT = "items", "content"
_FIELDS_LIMIT = 64 << 10
_ITEMS_LIMIT = 1 << 20


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


class Forms:
    """Receives the forms of direct and batch uploads, whose contents have at most ``limit``
    bytes, in memory that they share.

    Both methods raise ScopeMissing before they read any of the body; WrongMediaType,
    FormInvalid, BodyTooLarge, BodyTimeout, BodyTruncated; TooManyUploads, ServerBusy.
    """

    def __init__(self, uploads: Uploads, limit: int) -> None:
        self._uploads = uploads
        self._limit = limit
        self._memory = UploadMemory(limit + _ITEMS_LIMIT)

    @asynccontextmanager
    async def direct(self, request: Request) -> AsyncIterator[DirectForm]:
        """A direct upload, in memory while the context lasts."""
        async with self._received(request, FILE, _FIELDS_LIMIT) as form:
            if not form.has_file:
                raise bad_form(f"there is no field {FILE!r} in it")
            yield form

    @asynccontextmanager
    async def batch(self, request: Request) -> AsyncIterator[DirectForm]:
        """A batch, in memory while the context lasts."""
        async with self._received(request, CONTENT, _ITEMS_LIMIT) as form:
            if ITEMS not in form.fields:
                raise bad_form(f"there is no field {ITEMS!r} in it")
            yield form

    @asynccontextmanager
    async def _received(
        self, request: Request, file: str, fields_limit: int
    ) -> AsyncIterator[DirectForm]:
        principal = caller_of(request)
        self._uploads.require_sender(principal)
        reader = _DirectReader(form_boundary(request), file, self._limit, fields_limit)
        most = self._limit + fields_limit
        declared = int(request.headers.get("content-length", most))
        if declared > most:
            raise reader.too_large()
        async with self._memory.body(principal.account.id, declared) as body:
            await _feed(request, reader, body)
            reader.close()
            yield reader.form


async def _feed(request: Request, reader: FormReader, body: Body) -> None:
    """Read the body: out of the loop where that is offered. Each step in the loop would wait its
    turn behind the threads that store other bodies."""
    tick = Patience(lambda: False).tick
    channel = request.scope.get("extensions", {}).get("upwell.body")
    if not isinstance(channel, BodyChannel) or "content-length" not in request.headers:
        async for piece in pieces(request.receive, tick):
            await body.wait(len(piece))
            body.arrived += len(piece)
            reader.feed(piece)
        return
    end = _ReaderEnd(reader, body, len(channel.buffered))
    try:
        await channel.receive(end, tick, end.until_room)
    except ConnectionGone:
        raise truncated() from None
    except (BodyTimeout, NotReady):
        channel.abandon()
        raise


class _ReaderEnd:
    """The far end of a ``BodyChannel``: a form's reader, for which ``body`` is the memory.
    ``buffered`` bytes were read before."""

    def __init__(self, reader: FormReader, body: Body, buffered: int) -> None:
        self._reader = reader
        self._body = body
        self._buffered = buffered

    def begin(self) -> Start:
        return Start.NOW if self._body.expect(self._buffered) else Start.LATER

    def room(self) -> int:
        return self._body.room()

    def take(self, data: memoryview) -> None:
        self._buffered = 0
        self._body.arrived += len(data)
        if data:  # to the parser, nothing is the end
            self._reader.feed(bytes(data))

    async def until_room(self) -> None:
        """Raises TooManyUploads, ServerBusy."""
        await self._body.wait(max(self._buffered, STEP))


class _DirectReader(FormReader):
    """Of a form whose field ``file`` is a content of at most ``limit`` bytes."""

    def __init__(self, boundary: bytes, file: str, limit: int, fields_limit: int) -> None:
        super().__init__(boundary)
        self.form = DirectForm()
        self._file = file
        self._limit = limit
        self._fields_limit = fields_limit
        self._name = ""
        self._value = bytearray()
        self._fields_size = 0

    def on(self, event: Any) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event:
            self._take(event)
        elif self._name != self._file:
            self.form.fields[self._name] = self._text()

    def _begin(self, segment: Any) -> None:
        said = part_disposition(segment)
        self._name, self._value = said.name or "", bytearray()
        if self._name == self._file:
            if self.form.has_file:
                raise bad_form(f"there is more than one field {self._file!r}")
            self.form.has_file = True
            self.form.name = said.filename
            self.form.content_type = file_type(segment)

    def _take(self, data: bytes) -> None:
        if self._name == self._file:
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
            raise bad_form(f"the field {self._name!r} is not UTF-8") from None

    def too_large(self) -> BodyTooLarge:
        return BodyTooLarge(
            f"This takes at most {self._limit} bytes; create a task and send chunks.",
            meta={"max_size": self._limit},
        )
