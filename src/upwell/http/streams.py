"""Answers whose bytes are made as they are read: they end when their client does.

uvicorn drops what is sent to a client that has gone, without a word: reading would go on to the
end, and a link that counts would pay for all of it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import Headers

from upwell.core.files import OpenFile
from upwell.http.downloads import FileResponse, Span, etag_of
from upwell.http.guard import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from upwell.core.guesses import Asker
    from upwell.core.verbs import Verbs
    from upwell.core.zips import Archive

STALL = 60.0  # seconds in which a client must take something
_READ = 256 << 10  # bytes: what was read and not received is lost to a link that counts
_SLICE = 64 << 10  # bytes that are to be taken within STALL
_ZIPS_AT_ONCE = 8

_log = structlog.get_logger("upwell.http")
# Of their own: a range of an archive may make much be read before its first byte.
_zip_threads = ThreadPoolExecutor(_ZIPS_AT_ONCE, thread_name_prefix="upwell-zip")


class Streamed(FileResponse):
    """A file's bytes as ``FileResponse`` hands them out; what the kernel cannot send by itself
    is read only while there is somebody to read it for."""

    _receive: Receive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        await super().__call__(scope, receive, send)

    async def _take_bytes(self, method: str) -> None:
        # A form with a password is sent by POST, and gets the bytes too.
        await super()._take_bytes("GET" if method == "POST" else method)

    async def _send_pieces(self, span: Span, send: Send) -> None:
        client = _Client(self._receive, send)
        try:
            await self._send_all(span, client)
        except (_Gone, TimeoutError):
            pass
        except FileNotFoundError:
            _log.warning("what was being downloaded was deleted meanwhile")
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


class ZipResponse(Streamed):
    """An archive as an attachment. Its ETag is its only validator: it has no age."""

    def __init__(self, name: str, archive: Archive, headers: Headers, now: datetime) -> None:
        opened = OpenFile(name, "application/zip", archive.etag.strip('"'), now, archive)
        super().__init__(opened, _strict(headers, etag_of(opened)), download=True)
        del self.headers["last-modified"]
        if self.status_code != 304:
            self.headers["content-type"] = "application/zip"

    async def _read(self, work: Callable[[], bytes]) -> bytes:
        running = asyncio.get_running_loop().run_in_executor(_zip_threads, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])  # nobody may close what a thread is using
            raise


async def zip_response(verbs: Verbs, request: Request, slug: str, asker: Asker) -> ZipResponse:
    """The files of a bundle that the asker can open, as one archive."""

    def make() -> ZipResponse:
        bundle = verbs.bundles.open(slug, asker)
        archive = verbs.bundles.archive(bundle)
        return ZipResponse(f"{bundle.name}.zip", archive, request.headers, bundle.updated_at)

    return await in_thread(make)


def _strict(headers: Headers, etag: str) -> Headers:
    """The request's headers, without its range if that is not of the archive as it is now."""
    if headers.get("if-range") in (None, etag):
        return headers
    return Headers(raw=[(name, value) for name, value in headers.raw if name != b"range"])


class _Gone(Exception):
    """The client does not listen any more."""


class _Client:
    """Who is sent to, as long as they listen."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._send = send
        self._leaving = asyncio.ensure_future(_left(receive))

    def check(self) -> None:
        if self._leaving.done():
            raise _Gone

    async def take(self, data: bytes, *, more: bool) -> None:
        """Raises TimeoutError when nothing is taken for ``STALL`` seconds."""
        for start in range(0, len(data), _SLICE):
            self.check()
            end = start + _SLICE
            message: Message = {
                "type": "http.response.body",
                "body": data[start:end],
                "more_body": more or end < len(data),
            }
            async with asyncio.timeout(STALL):
                await self._send(message)

    def close(self) -> None:
        self._leaving.cancel()


async def _left(receive: Receive) -> None:
    with suppress(Exception):  # a body that does not come whole: it is not waited for
        while (await receive())["type"] != "http.disconnect":
            pass
