"""A bundle's files as one archive, read when it is sent."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from upwell.core.files import OpenFile
from upwell.errors import ServerBusy
from upwell.http.downloads import FileResponse, etag_of
from upwell.http.guard import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from starlette.requests import Request

    from upwell.core.bundles import Bundles
    from upwell.core.guesses import Asker
    from upwell.core.verbs import Verbs
    from upwell.core.zips import Archive, Plan
    from upwell.model import Bundle

_ZIPS_AT_ONCE = 8
_PLANS_AT_ONCE = 2
_PLANS_MOST = 32  # under way and waiting

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
    """The files of a bundle that the asker can open, as one archive. Raises ServerBusy."""
    bundle, plan = await ask(asker, lambda: _opened(verbs.bundles, slug, asker))
    if plan is None:
        plan = await _planners.plan(verbs.bundles, bundle)
    archive = verbs.bundles.archive(plan)
    return ZipResponse(f"{bundle.name}.zip", archive, request.headers, bundle.updated_at)


def _opened(bundles: Bundles, slug: str, asker: Asker) -> tuple[Bundle, Plan | None]:
    bundle = bundles.open(slug, asker)
    return bundle, bundles.known_plan(bundle)


class Planners:
    """Plans archives that are not planned yet, few at a time: a large one takes seconds of a core,
    and strangers can ask for it. Requests for the same one share a plan; the others wait, up to a
    number of archives, without a thread."""

    def __init__(self, at_once: int = _PLANS_AT_ONCE, most: int = _PLANS_MOST) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="upwell-plan")
        self._most = most
        self._lock = threading.Lock()  # finding a plan under way and beginning one are one step
        self._under_way: dict[tuple[str, int], Future[Plan]] = {}

    async def plan(self, bundles: Bundles, bundle: Bundle) -> Plan:
        """The plan of a bundle's archive. Raises ServerBusy."""
        running = self._begin((bundle.id, bundle.revision), lambda: bundles.plan(bundle))
        return await asyncio.shield(asyncio.wrap_future(running))  # others may wait for it too

    def _begin(self, subject: tuple[str, int], work: Callable[[], Plan]) -> Future[Plan]:
        with self._lock:
            running = self._under_way.get(subject)
            if running is not None:
                return running
            if len(self._under_way) >= self._most:
                raise ServerBusy(
                    "The server is preparing too many archives. Try again in 5 seconds.",
                    retry_after=5,
                )
            running = self._under_way[subject] = self._threads.submit(work)
        # Outside the lock: a plan that is done already calls back at once, in this thread.
        running.add_done_callback(lambda _: self._end(subject))
        return running

    def _end(self, subject: tuple[str, int]) -> None:
        with self._lock:
            del self._under_way[subject]


_planners = Planners()


def _strict(headers: Headers, etag: str) -> Headers:
    """The request's headers, without its range if that is not of the archive as it is now."""
    if headers.get("if-range") in (None, etag):
        return headers
    return Headers(raw=[(name, value) for name, value in headers.raw if name != b"range"])
