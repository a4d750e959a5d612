"""A bundle's files as one archive, read when it is sent."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from upwell.core.files import OpenFile
from upwell.http.downloads import FileResponse, etag_of
from upwell.http.guard import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from starlette.requests import Request

    from upwell.core.guesses import Asker
    from upwell.core.verbs import Verbs
    from upwell.core.zips import Archive

_ZIPS_AT_ONCE = 8

# Of their own: a range of an archive may make much be read before its first byte.
_zip_threads = ThreadPoolExecutor(_ZIPS_AT_ONCE, thread_name_prefix="upwell-zip")


class ZipResponse(FileResponse):
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

    return await ask(asker, make)


def _strict(headers: Headers, etag: str) -> Headers:
    """The request's headers, without its range if that is not of the archive as it is now."""
    if headers.get("if-range") in (None, etag):
        return headers
    return Headers(raw=[(name, value) for name, value in headers.raw if name != b"range"])
