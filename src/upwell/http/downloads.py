"""Handing out bytes: ranges, conditions, and headers that keep content from acting as us.

RFC 9110 (ranges, conditional requests), RFC 6266 and RFC 8187 (file names).
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog
from starlette.responses import Response

from upwell.core.files import Form
from upwell.core.media_types import declared_charset, usual
from upwell.errors import PreconditionFailed, RangeNotSatisfiable
from upwell.http.download_bounds import SLICE, while_valid
from upwell.http.guard import in_thread
from upwell.http.sockets import ConnectionGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.datastructures import Headers
    from starlette.types import Message, Receive, Scope, Send

    from upwell.core.files import OpenFile
    from upwell.http.download_bounds import Downloads

# What a browser may show inline: nothing of it can run as script on our origin.
SAFE_INLINE = frozenset(
    {
        "application/pdf",
        "audio/aac",
        "audio/flac",
        "audio/mp4",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/webm",
        "image/avif",
        "image/gif",
        "image/jpeg",
        "image/png",
        "image/webp",
        "text/plain",
        "video/mp4",
        "video/ogg",
        "video/webm",
    }
)
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,20})\s*-\s*(\d{0,20})\s*\Z", re.ASCII | re.IGNORECASE)
_SUFFIX = re.compile(r"\.\w{1,10}\Z", re.ASCII)
_PLAIN_NAME = 100  # characters of the name for old clients
STALL = 60.0  # seconds in which a client must take something
_READ = 256 << 10  # bytes: what was read and not received is lost to a link that counts
_SLICE = 64 << 10  # bytes that are to be taken within STALL

_log = structlog.get_logger("upwell.http")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` to ``start + length`` of ``size``."""

    start: int
    length: int
    size: int

    @property
    def partial(self) -> bool:
        return self.length != self.size

    def content_range(self) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"


def parse_range(header: str | None, size: int) -> Span | None:
    """The one range asked for; None when the header is to be ignored (RFC 9110 §14.2).

    Raises RangeNotSatisfiable when it lies outside the content.
    """
    match = _RANGE.match(header.strip()) if header else None
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.group(1), match.group(2)
    if first == "":
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        end = min(int(last), size - 1) if last else size - 1
        if last and int(last) < start:
            return None
        length = end - start + 1
    if length <= 0:
        raise RangeNotSatisfiable(
            f"The file has {size} bytes; ask for a range within it.", meta={"size": size}
        )
    return Span(start, length, size)


def etag_of(opened: OpenFile) -> str:
    """A strong validator: the content never changes (I3)."""
    return f'"{opened.version}"'


def last_modified_of(opened: OpenFile) -> str:
    """As strong a validator as the ETag: the content under an id never changes (I3)."""
    return format_datetime(opened.modified, usegmt=True)


def require_match(headers: Headers, etag: str) -> None:
    """If-Match, by strong comparison (RFC 9110 §13.1.1): browsers fetch the parts of a large
    download at once with it. Raises PreconditionFailed."""
    value = headers.get("if-match")
    if value is not None and not {"*", etag} & {tag.strip() for tag in value.split(",")}:
        raise PreconditionFailed("This is not what it was any more; download all of it again.")


def not_modified(headers: Headers, etag: str) -> bool:
    """If-None-Match, by weak comparison (RFC 9110 §13.1.2)."""
    value = headers.get("if-none-match")
    if value is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in value.split(",")]
    return "*" in tags or etag in tags


def safe_type(kind: str) -> str | None:
    """The type as it may be shown inline, or None. Composed from its parts: a browser takes
    ``text/plain;,text/html`` for HTML."""
    plain = usual(kind)
    if plain not in SAFE_INLINE:
        return None
    charset = declared_charset(kind) if plain.startswith("text/") else None
    return f"{plain}; charset={charset}" if charset else plain


def disposition(name: str, *, inline: bool) -> str:
    """Content-Disposition with a name for old (RFC 6266) and new (RFC 8187) clients.

    The old one is short where it says little anyway: proxies bound the size of a head.
    """
    kind = "inline" if inline else "attachment"
    plain = re.sub(r'([^\x20-\x7e]|["\\/%])+', "_", name)
    if len(plain) > _PLAIN_NAME:
        suffix = _SUFFIX.search(plain)
        end = suffix[0] if suffix else ""
        plain = plain[: _PLAIN_NAME - len(end)] + end
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def content_headers(opened: OpenFile, *, download: bool) -> dict[str, str]:
    """Headers under which a stranger's content is safe to hand out."""
    safe = safe_type(opened.mime_type)
    return {
        "content-type": safe or "application/octet-stream",
        "content-disposition": disposition(opened.name, inline=bool(safe) and not download),
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "accept-ranges": "bytes",
        "etag": etag_of(opened),
        "cache-control": "private, no-cache",
        "last-modified": last_modified_of(opened),
    }


def form_of(*, thumbnail: bool, preview: bool, raw: bool = False) -> Form:
    """What of a file is asked for."""
    asked = ((thumbnail, Form.THUMBNAIL), (preview, Form.PREVIEW), (raw, Form.RAW))
    return next((form for wanted, form in asked if wanted), Form.CONTENT)


class FileResponse(Response):
    """A file's bytes, by ``sendfile`` where the server offers it. Closes the reader.

    ``take`` is told how many bytes are going to be read, and gives what to read them from.
    """

    def __init__(
        self,
        opened: OpenFile,
        request_headers: Headers,
        *,
        download: bool = False,
        take: Callable[[int], OpenFile] | None = None,
    ) -> None:
        self._reader, self._take = opened.reader, take
        try:
            self._plan(opened, request_headers, download=download)
        except BaseException:
            opened.reader.close()
            raise
        self.background = None
        self.body = b""

    def _plan(self, opened: OpenFile, headers: Headers, *, download: bool) -> None:
        require_match(headers, etag_of(opened))
        answer = content_headers(opened, download=download)
        size = opened.reader.size
        self._span: Span | None = None
        if not_modified(headers, etag_of(opened)):
            self.status_code = 304
            del answer["content-type"]
        else:
            unchanged = (None, etag_of(opened), last_modified_of(opened))
            wanted = headers.get("range") if headers.get("if-range") in unchanged else None
            span = parse_range(wanted, size)
            self._span = span or Span(0, size, size)
            self.status_code = 206 if span else 200
            if span:
                answer["content-range"] = span.content_range()
            answer["content-length"] = str(self._span.length)
        self.init_headers(answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises TooManyDownloads before the answer begins; ConnectionGone when it is broken off:
        the client takes it too slowly, or its credential counts no more."""
        self._receive = receive
        self._bounds: Downloads = scope["app"].state.downloads
        moves = self._span is not None and scope["method"] != "HEAD"
        length = self._span.length if self._span and moves else 0
        try:
            with self._bounds.place(scope, length):
                await self._take_bytes(scope["method"])
                await self._send_answer(scope, send)
        finally:
            await self._close()

    async def _send_answer(self, scope: Scope, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async with while_valid(scope):
            await self._send_body(scope, send)

    async def _close(self) -> None:
        if self._take is None:
            self._reader.close()
        else:  # what was taken and not sent is given back
            await in_thread(self._reader.close)

    async def _take_bytes(self, method: str) -> None:
        take, span = self._take, self._span
        if take is not None and span is not None and method != "HEAD":
            length = span.length
            self._reader = (await in_thread(lambda: take(length))).reader

    async def _send_body(self, scope: Scope, send: Send) -> None:
        span = self._span
        fd = self._reader.fileno()
        if span is None or scope["method"] == "HEAD" or span.length == 0:
            await send({"type": "http.response.body", "body": b""})
        elif fd is not None and "http.response.zerocopysend" in scope.get("extensions", {}):
            await self._send_slices(fd, span, send)
        else:
            await self._send_pieces(span, send)

    async def _send_slices(self, fd: int, span: Span, send: Send) -> None:
        """By ``sendfile``, in slices that are long enough to cost nothing and short enough to tell
        how fast the client takes them."""
        offset, end = span.start, span.start + span.length
        while offset < end:
            count = min(SLICE, end - offset)
            message: Message = {
                "type": "http.response.zerocopysend",
                "file": fd,
                "offset": offset,
                "count": count,
                "more_body": offset + count < end,
            }
            try:
                async with asyncio.timeout(self._bounds.seconds_for(count)):
                    await send(message)
            except TimeoutError:
                raise ConnectionGone from None
            offset += count

    async def _send_pieces(self, span: Span, send: Send) -> None:
        """Raises ConnectionGone when the client has gone, or takes nothing. uvicorn drops what
        is sent then without a word: reading would go on to the end, and a link that counts would
        pay for all of it."""
        client = _Client(self._receive, send, self._bounds)
        try:
            await self._send_all(span, client)
        except TimeoutError:
            raise ConnectionGone from None
        except FileNotFoundError:
            _log.warning("what was being downloaded was deleted meanwhile")
            raise ConnectionGone from None
        finally:
            client.close()

    async def _send_all(self, span: Span, client: _Client) -> None:
        offset, end = span.start, span.start + span.length
        while offset < end:
            client.check()
            length = min(_READ, end - offset)
            data = await self._read(partial(self._reader.read_at, offset, length))
            if not data:
                message = "the stored bytes end before the file's size"
                raise OSError(message)
            offset += len(data)
            await client.take(data, more=offset < end)

    async def _read(self, work: Callable[[], bytes]) -> bytes:
        return await in_thread(work)


class _Client:
    """Who is sent to, as long as they listen."""

    def __init__(self, receive: Receive, send: Send, bounds: Downloads) -> None:
        self._send = send
        self._bounds = bounds
        self._sent = 0  # bytes of the current slice,
        self._spent = 0.0  # and the seconds that the client took for them
        self._leaving = asyncio.ensure_future(_left(receive))

    def check(self) -> None:
        if self._leaving.done():
            raise ConnectionGone

    async def take(self, data: bytes, *, more: bool) -> None:
        """Raises TimeoutError when nothing is taken for ``STALL`` seconds, or too little in the
        time that there is for a slice. What reading takes is not the client's to answer for."""
        for start in range(0, len(data), _SLICE):
            self.check()
            end = start + _SLICE
            message: Message = {
                "type": "http.response.body",
                "body": data[start:end],
                "more_body": more or end < len(data),
            }
            began = time.monotonic()
            async with asyncio.timeout(min(STALL, self._left())):
                await self._send(message)
            self._spent += time.monotonic() - began
            self._sent += len(message["body"])
            if self._sent >= SLICE:
                self._sent, self._spent = 0, 0.0

    def _left(self) -> float:
        """Seconds that the client has for the rest of the slice."""
        allowed = self._bounds.seconds_for(SLICE)
        return STALL if allowed is None else allowed - self._spent

    def close(self) -> None:
        self._leaving.cancel()


async def _left(receive: Receive) -> None:
    with suppress(Exception):  # a body that does not come whole: it is not waited for
        while (await receive())["type"] != "http.disconnect":
            pass
