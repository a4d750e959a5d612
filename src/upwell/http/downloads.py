"""Handing out bytes: ranges, conditions, and headers that keep content from acting as us.

RFC 9110 (ranges, conditional requests), RFC 6266 and RFC 8187 (file names).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import Response

from upwell.errors import RangeNotSatisfiable
from upwell.http.guard import in_thread

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import Receive, Scope, Send

    from upwell.core.files import OpenFile
    from upwell.model import CloudFile

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
_CHARSET = re.compile(r";\s*charset=([\w.:-]+)", re.ASCII | re.IGNORECASE)
_READ = 1 << 20


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


def etag_of(file: CloudFile) -> str:
    """A strong validator: the content never changes (I3)."""
    return f'"{file.blob.digests["sha256"]}"'


def last_modified_of(file: CloudFile) -> str:
    """As strong a validator as the ETag: the content under an id never changes (I3)."""
    return format_datetime(file.created_at, usegmt=True)


def not_modified(headers: Headers, etag: str) -> bool:
    """If-None-Match, by weak comparison (RFC 9110 §13.1.2)."""
    value = headers.get("if-none-match")
    if value is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in value.split(",")]
    return "*" in tags or etag in tags


def safe_type(declared: str) -> str | None:
    """The declared type as it may be shown inline, or None. Made anew from its parts: a
    browser takes ``text/plain;,text/html`` for HTML."""
    plain = declared.split(";", maxsplit=1)[0].strip().lower()
    if plain not in SAFE_INLINE:
        return None
    charset = _CHARSET.search(declared) if plain.startswith("text/") else None
    return f"{plain}; charset={charset[1]}" if charset else plain


def disposition(name: str, *, inline: bool) -> str:
    """Content-Disposition with a name for old (RFC 6266) and new (RFC 8187) clients."""
    kind = "inline" if inline else "attachment"
    plain = re.sub(r'[^\x20-\x7e]|["\\/%]', "_", name)[:255]
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def content_headers(file: CloudFile, *, download: bool) -> dict[str, str]:
    """Headers under which a stranger's content is safe to hand out."""
    safe = safe_type(file.mime_type)
    return {
        "content-type": safe or "application/octet-stream",
        "content-disposition": disposition(file.name, inline=bool(safe) and not download),
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "accept-ranges": "bytes",
        "etag": etag_of(file),
        "cache-control": "private, no-cache",
        "last-modified": last_modified_of(file),
    }


class FileResponse(Response):
    """A file's bytes, by ``sendfile`` where the server offers it. Closes the reader."""

    def __init__(self, opened: OpenFile, request_headers: Headers, *, download: bool) -> None:
        try:
            self._plan(opened.file, request_headers, download=download)
        except BaseException:
            opened.reader.close()
            raise
        self._reader = opened.reader
        self.background = None
        self.body = b""

    def _plan(self, file: CloudFile, headers: Headers, *, download: bool) -> None:
        answer = content_headers(file, download=download)
        self._span: Span | None = None
        if not_modified(headers, etag_of(file)):
            self.status_code = 304
            del answer["content-type"]
        else:
            unchanged = (None, etag_of(file), last_modified_of(file))
            wanted = headers.get("range") if headers.get("if-range") in unchanged else None
            span = parse_range(wanted, file.size)
            self._span = span or Span(0, file.size, file.size)
            self.status_code = 206 if span else 200
            if span:
                answer["content-range"] = span.content_range()
            answer["content-length"] = str(self._span.length)
        self.init_headers(answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await self._send_body(scope, send)
        finally:
            self._reader.close()

    async def _send_body(self, scope: Scope, send: Send) -> None:
        span = self._span
        fd = self._reader.fileno()
        if span is None or scope["method"] == "HEAD" or span.length == 0:
            await send({"type": "http.response.body", "body": b""})
        elif fd is not None and "http.response.zerocopysend" in scope.get("extensions", {}):
            await send(
                {
                    "type": "http.response.zerocopysend",
                    "file": fd,
                    "offset": span.start,
                    "count": span.length,
                }
            )
        else:
            await self._send_pieces(span, send)

    async def _send_pieces(self, span: Span, send: Send) -> None:
        offset, end = span.start, span.start + span.length
        while offset < end:
            length = min(_READ, end - offset)
            data = await in_thread(partial(self._reader.read_at, offset, length))
            if not data:
                message = "the stored bytes end before the file's size"
                raise OSError(message)
            offset += len(data)
            await send({"type": "http.response.body", "body": data, "more_body": offset < end})
