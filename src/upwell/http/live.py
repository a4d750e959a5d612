"""Live streams of server-sent events, each no longer than the credential that asked for it."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import StreamingResponse

from upwell.errors import TooManyStreams, UpwellError
from upwell.http.bounds import Places
from upwell.http.guard import in_thread
from upwell.http.server import stopping

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from upwell.model import Principal

LOOK = 0.5  # seconds between looks for something new
KEEP_ALIVE = 15.0  # seconds after which a silent stream sends a comment
RECHECK = 30.0  # seconds after which a silent stream checks its credential
_RETRY = 10  # seconds


class Source(Protocol):
    """What a stream sends."""

    behind: bool  # whether there is more to send at once
    over: bool  # whether nothing more will come

    def look(self, principal: Principal) -> list[str]:
        """The frames that are new since the last look. Blocks, and raises UpwellError."""


class LiveStreams:
    """The streams of one process, at most ``most`` of an account's at a time."""

    def __init__(self, most: int) -> None:
        self._places = Places(most)

    def answer(self, request: Request, source: Source, opening: str = "") -> StreamingResponse:
        """A stream of ``source`` for the caller, beginning with ``opening``."""
        return _Stream(self, request, source, opening)

    def place(self, account_id: str) -> AbstractContextManager[None]:
        """Room for one of an account's streams. Raises TooManyStreams when it is entered."""
        refusal = TooManyStreams(
            f"This account has {self._places.most} live streams open. Close one, or ask for the "
            "figures without `Accept: text/event-stream`.",
            retry_after=_RETRY,
        )
        return self._places.one(account_id, refusal)


class _Stream(StreamingResponse):
    def __init__(
        self, streams: LiveStreams, request: Request, source: Source, opening: str
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(self._frames(), media_type="text/event-stream", headers=headers)
        self._streams = streams
        self._source = source
        self._opening = opening
        self._principal: Principal = request.scope["state"]["principal"]
        self._recheck: Callable[[], Principal] = request.scope["state"]["recheck"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.place(self._principal.account.id):
            await super().__call__(scope, receive, send)

    async def _frames(self) -> AsyncIterator[str]:
        """Until the server stops, the client goes, the source is over or the credential is."""
        now = asyncio.get_running_loop().time
        spoke = self._checked = now()
        if self._opening:
            yield self._opening
        while not stopping.is_set():
            look = partial(self._look, check=now() - self._checked >= RECHECK)
            try:
                frames, checked = await in_thread(look)
            except UpwellError as error:
                yield frame("error", {"code": error.code, "message": error.message})
                return
            self._checked = now() if checked else self._checked
            for each in frames:
                yield each
            if self._source.over:
                return
            if frames:
                spoke = now()
            elif now() - spoke >= KEEP_ALIVE:
                spoke = now()
                yield ": still here\n\n"
            if not self._source.behind:
                await asyncio.sleep(LOOK)

    def _look(self, *, check: bool) -> tuple[list[str], bool]:
        """What is new, and whether the credential was checked.

        The check comes after the look and before anything is sent, so that a credential revoked
        in between gets no more news.
        """
        frames = self._source.look(self._principal)
        if frames or check:
            self._principal = self._recheck()
        return frames, bool(frames) or check


def frame(name: str, data: dict[str, Any]) -> str:
    """An event as it is sent (HTML Living Standard §9.2.5)."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
