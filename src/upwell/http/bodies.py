"""A chunk's way in: from the request's body to a ``ChunkWriter``.

The fast path knows the length and finds the part's head in what has arrived already: data
goes from the socket to the disk in a worker thread (``upwell.body``, see ``http.server``).
Whatever is unusual (chunked transfer, extra fields, another ASGI server) goes through the
ordinary ``receive`` and a strict push parser, to the same writer.
"""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from upwell.errors import (
    BodyTimeout,
    BodyTruncated,
    ChunkBusy,
    ChunkSizeMismatch,
    ChunkSuperseded,
    FormInvalid,
    NotReady,
    WrongMediaType,
)
from upwell.http.channels import BodyChannel, Start
from upwell.http.guard import in_thread
from upwell.http.parts import disposition_of, is_encoded, is_plain, part_disposition
from upwell.http.server import stopping
from upwell.http.sockets import BUFFER_SIZE, ConnectionGone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.types import Receive

    from upwell.core.receiving import ChunkWriter

FIELD = "chunk"
STALL = 30.0  # seconds without a byte after which a request is given up
STUCK = 2.0  # seconds without a byte after which it lets go when a newer one asks
TAKEOVER = 15.0  # seconds after which it lets go to a newer one anyway
MIN_RATE = 1024  # bytes per second, on average over a body, after RATE_GRACE seconds
RATE_GRACE = 60.0
_WAIT = 60.0  # seconds a newer request waits for the older one
_HEAD_LIMIT = 32 << 10  # bytes of a part's head, where some clients encode a long name twice
_FORM_SLACK = 64 << 10  # bytes a form may add to the chunk in it
_PIECE = 128 << 10  # bytes worth a hop to a thread
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{1,200}\Z")


class Patience:
    """Decides when a body that comes slowly, or not at all, has had its time."""

    def __init__(self, contended: Callable[[], bool]) -> None:
        self._contended = contended
        self._began = self._moved = time.monotonic()
        self._received = 0
        self._asked: float | None = None

    def tick(self, received: int) -> None:
        """Called now and then with the bytes so far. Raises ChunkSuperseded, BodyTimeout, and
        NotReady when the server is going down."""
        now = time.monotonic()
        if received > self._received:
            self._received, self._moved = received, now
        idle, age = now - self._moved, now - self._began
        if stopping.is_set() and idle >= STUCK:
            raise NotReady("The server is going down; send the chunk again.", retry_after=5)
        if self._contended():
            self._asked = self._asked or now
            if idle >= STUCK or now - self._asked >= TAKEOVER:
                raise superseded()
        if idle >= STALL:
            raise BodyTimeout(f"No byte came for {STALL:.0f} seconds; send the chunk again.")
        if age >= RATE_GRACE and self._received < MIN_RATE * age:
            raise BodyTimeout("The body came too slowly; send the chunk again, or a smaller one.")


def superseded() -> ChunkSuperseded:
    return ChunkSuperseded(
        "A newer request for this chunk took over; look at the upload before sending it again.",
        retry_after=1,
    )


class Reception:
    """One chunk's way from a request to its writer. Everything but ``made`` blocks.

    ``open_writer`` decides who may before anything else happens.
    """

    def __init__(
        self,
        open_writer: Callable[[], ChunkWriter],
        declared: int | None,
        boundary: bytes | None,
    ) -> None:
        self._open_writer = open_writer
        self._declared = declared
        self._boundary = boundary
        self._writer: ChunkWriter | None = None

    @property
    def writer(self) -> ChunkWriter:
        if self._writer is None:
            self._writer = self._open_writer()
            _refuse_by_length(self._writer, self._declared, self._boundary)
        return self._writer

    def acquire(self) -> bool:
        """Become the chunk's only writer, if it is free. Raises ChunkSuperseded."""
        writer = self.writer
        if writer.acquire():
            return True
        if writer.contended():
            raise superseded()
        return False

    def contended(self) -> bool:
        return self._writer is not None and self._writer.contended()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Waiting:
    """How long a newer request waits for an older one to let go."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _WAIT
        self._pause = 0.01

    async def a_little(self) -> None:
        """Raises ChunkBusy when it was long enough."""
        if time.monotonic() > self._until:
            raise ChunkBusy("Another request is still sending this chunk.", retry_after=5)
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, 0.25)


async def receive_chunk(request: Request, open_writer: Callable[[], ChunkWriter]) -> None:
    """Bring the request's body into a chunk's writer, and acknowledge it.

    Raises what the writer raises, FormInvalid, WrongMediaType, BodyTruncated, BodyTimeout,
    ChunkBusy and ChunkSuperseded.
    """
    boundary = _boundary(request)
    declared = _declared_length(request)
    channel = request.scope.get("extensions", {}).get("upwell.body")
    reception = Reception(open_writer, declared, boundary)
    end = None
    if isinstance(channel, BodyChannel) and declared is not None:
        end = _far_end(channel.buffered, reception, boundary, declared)
    try:
        if end is None or not await _quickly(channel, reception, end):
            await _slowly(request, reception, boundary)
    finally:
        reception.close()


async def _quickly(channel: BodyChannel, reception: Reception, end: _End) -> bool:
    """Everything in one visit to a worker thread, when nobody else is at the chunk.

    False, and nothing read, when the body is not framed in the plain way.
    """
    patience = Patience(reception.contended)
    try:
        return await channel.receive(end, patience.tick, _Waiting().a_little)
    except ConnectionGone:
        raise truncated() from None
    except (BodyTimeout, ChunkSuperseded, NotReady):
        channel.abandon()
        raise


class _End:
    """The far end of a ``BodyChannel``: splits a body into the chunk's data and the form's
    tail, and finishes the chunk when both are whole."""

    def __init__(
        self, reception: Reception, boundary: bytes | None, start: int, declared: int
    ) -> None:
        self._reception = reception
        self._boundary = boundary
        self._start = start
        self._after_head = declared - start
        self._data_left = self._tail_left = 0
        self._tail = b""

    def begin(self) -> Start:
        writer = self._reception.writer
        self._data_left = writer.length
        self._tail_left = self._after_head - writer.length
        if not self._plainly_framed():
            return Start.OTHERWISE
        if not self._reception.acquire():
            return Start.LATER
        return Start.NOW

    def _plainly_framed(self) -> bool:
        if self._boundary is None:
            return self._tail_left == 0
        closing = len(self._boundary) + len("\r\n----")
        return self._tail_left in (closing, closing + 2)

    def room(self) -> int:
        return BUFFER_SIZE

    def take(self, data: memoryview) -> None:
        data, self._start = data[self._start :], max(0, self._start - len(data))
        mine = data[: self._data_left]
        if mine:
            self._reception.writer.write(mine)
            self._data_left -= len(mine)
        self._tail += data[len(mine) :]
        if self._data_left == 0 and len(self._tail) == self._tail_left:
            self._finish()

    def _finish(self) -> None:
        if self._boundary is not None and self._tail.removesuffix(b"\r\n") != (
            b"\r\n--" + self._boundary + b"--"
        ):
            raise bad_form("the form does not end with its closing boundary")
        self._reception.writer.finish()


def _far_end(
    begin: bytearray, reception: Reception, boundary: bytes | None, declared: int
) -> _End | None:
    """The far end of a body that begins as ``begin``; None calls for the slow path."""
    if boundary is None:
        return _End(reception, None, 0, declared)
    head_end = begin.find(b"\r\n\r\n", 0, _HEAD_LIMIT)
    opening = b"--" + boundary + b"\r\n"
    if head_end < 0 or not begin.startswith(opening):
        return None
    if not _is_chunk_head(bytes(begin[len(opening) : head_end])):
        return None
    return _End(reception, boundary, head_end + 4, declared)


def _is_chunk_head(head: bytes) -> bool:
    """Whether a part's head is that of the file field ``chunk``, plainly encoded."""
    said = None
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or name.strip() != name:
            return False
        if name.lower() == b"content-disposition":
            said = disposition_of(value.decode("utf-8", "replace").strip())
        elif name.lower() == b"content-transfer-encoding" and not is_plain(value.decode("latin-1")):
            return False
    return said is not None and said.kind == "form-data" and said.name == FIELD


async def _slowly(request: Request, reception: Reception, boundary: bytes | None) -> None:
    waiting = _Waiting()
    while not await in_thread(reception.acquire):
        await waiting.a_little()
    patience, writer = Patience(reception.contended), reception.writer
    if boundary is None:
        async for piece in pieces(request.receive, patience.tick):
            await in_thread(partial(writer.write, memoryview(piece)))
    else:
        form = ChunkForm(boundary, writer)
        async for piece in pieces(request.receive, patience.tick):
            await in_thread(partial(form.feed, piece))
        form.close()
    await in_thread(writer.finish)


async def pieces(receive: Receive, tick: Callable[[int], None]) -> AsyncIterator[bytes]:
    """A body in pieces worth a hop, while ``tick`` has patience. Raises BodyTruncated."""
    total, size, held, more = 0, 0, list[bytes](), True
    while more:
        message = await _next_message(receive, tick, total)
        if message["type"] == "http.disconnect":
            raise truncated()
        more = message.get("more_body", False)
        held.append(message.pop("body", b""))  # nothing else may keep it: memory adds up
        size += len(held[-1])
        if size >= _PIECE or (size and not more):
            total, size = total + size, 0
            yield b"".join(held)
            held.clear()


async def _next_message(receive: Receive, tick: Callable[[int], None], total: int) -> Any:
    waiting = asyncio.ensure_future(receive())
    try:
        while True:
            done, _ = await asyncio.wait([waiting], timeout=1.0)
            tick(total)
            if done:
                return waiting.result()
    finally:
        waiting.cancel()


class FormReader:
    """Pushes a multipart/form-data body through the strict parser; ``on`` gets its events: a
    segment, pieces of its content, None at its end. Raises FormInvalid."""

    def __init__(self, boundary: bytes) -> None:
        self._parser = PushMultipartParser(
            boundary, strict=True, max_header_size=_HEAD_LIMIT, max_segment_count=64
        )

    def on(self, event: Any) -> None:
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        try:
            for event in self._parser.parse(data):
                if isinstance(event, MultipartSegment) and is_encoded(event):
                    raise bad_form("a part has a Content-Transfer-Encoding; send its bytes as is")
                self.on(event)
        except MultipartError as error:
            raise bad_form(str(error)) from None

    def close(self) -> None:
        try:
            self._parser.close()
        except MultipartError as error:
            raise bad_form(str(error)) from None


class ChunkForm(FormReader):
    """A multipart/form-data body whose field ``chunk`` goes to a writer."""

    def __init__(self, boundary: bytes, writer: ChunkWriter) -> None:
        super().__init__(boundary)
        self._writer = writer
        self._mine = False
        self._seen = False
        self._other = 0

    def close(self) -> None:
        super().close()
        if not self._seen:
            raise bad_form(f"there is no field {FIELD!r} in it")

    def on(self, event: Any) -> None:
        if isinstance(event, MultipartSegment):
            self._mine = part_disposition(event).name == FIELD
            if self._mine and self._seen:
                raise bad_form(f"there is more than one field {FIELD!r}")
            self._seen = self._seen or self._mine
        elif event and self._mine:
            self._writer.write(memoryview(event))
        elif event:
            self._other += len(event)
            if self._other > _FORM_SLACK:
                raise bad_form("its other fields are too large")


def _boundary(request: Request) -> bytes | None:
    """The form's boundary; None for the raw bytes of a PUT. Raises WrongMediaType."""
    if request.method == "PUT":
        return None
    return form_boundary(request)


def form_boundary(request: Request) -> bytes:
    """The boundary of a multipart/form-data request. Raises WrongMediaType, FormInvalid."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind.lower() != "multipart/form-data":
        raise WrongMediaType("Send a multipart/form-data body.")
    boundary: bytes = options.get("boundary", "").encode("latin-1", "replace")
    if not _BOUNDARY.match(boundary):
        raise bad_form("its Content-Type has no usable boundary")
    return boundary


def _declared_length(request: Request) -> int | None:
    if "transfer-encoding" in request.headers:
        return None
    return int(request.headers.get("content-length", "0"))


def _refuse_by_length(writer: ChunkWriter, declared: int | None, boundary: bytes | None) -> None:
    """Raises ChunkSizeMismatch before the body is read when its length tells already."""
    if declared is None:
        return
    if boundary is None:
        writer.check_length(declared)
        return
    least = 2 * len(boundary) + len('--\r\ncontent-disposition:form-data;name=""\r\n\r\n\r\n----')
    if not writer.length + least <= declared <= writer.length + least + _FORM_SLACK:
        raise ChunkSizeMismatch(
            f"This form cannot hold a chunk of {writer.length} bytes: it has {declared} bytes "
            "in all; cut the file by the task's chunk_size.",
            meta={"expected": writer.length},
        )


def truncated() -> BodyTruncated:
    return BodyTruncated("The connection ended before the whole body came; send it again.")


def bad_form(why: str) -> FormInvalid:
    return FormInvalid(f"The multipart/form-data body is not usable: {why}.")
